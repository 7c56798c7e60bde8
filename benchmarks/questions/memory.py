"""How much memory a service takes, with 10,000 of them: resident, after each has ticked once, in its hold."""

from __future__ import annotations

import trio

from tickrunner_trio import Config, MemoryLocker, Service, Supervisor, Tick

from ..clocks import JumpingClock
from ..loops import LONG_INTERVAL, Counter
from ..question import OURS, Comparison, Figure, Measurement, Question, Value, ratio
from ..resident import resident_bytes

BARE, THREE = "bare Trio tasks", "APScheduler 3"


def question(*, quick: bool) -> Question:
    """Ask it."""
    arguments = {"services": 10_000}
    return Question(
        key="memory",
        title="Memory per service at 10,000",
        figures=(Figure("KiB", 2),),
        measurements=(
            Measurement(way=OURS, function=f"{__name__}:measure", arguments=arguments),
            Measurement(way=BARE, function="benchmarks.peers.bare_trio:memory", arguments=arguments),
            Measurement(
                way=THREE, function="benchmarks.peers.apscheduler3:memory", arguments=arguments, peer="apscheduler3"
            ),
        ),
        comparisons=(
            Comparison(name="KiB per service", of=Value(OURS, "KiB"), at_most=8.0),
            Comparison(name="over bare Trio tasks", of=ratio("KiB", BARE)),
            Comparison(name="over APScheduler 3", of=ratio("KiB", THREE)),
        ),
        rounds=1 if quick else 5,
        notes=(
            "Resident memory that the process gained from before its 10,000 services were made until each had ticked "
            "once, divided by 10,000, after a full collection. Ours is looked at while all services hold on to their "
            "locks, which is when a service takes most and what it does for nine tenths of its time. "
            "A job of APScheduler has no task of its own while it waits."
        ),
    )


def measure(services: int) -> dict[str, float]:
    """Measure ours."""
    counter = Counter()

    async def work(tick: Tick) -> None:
        counter.count += 1

    async def main() -> dict[str, float]:
        before = resident_bytes()
        locker = MemoryLocker()
        supervisor = Supervisor(
            [
                Service(Config(name=f"s{number}", interval=LONG_INTERVAL, locker=locker, work=work))
                for number in range(services)
            ]
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.run)
            await trio.sleep(0.55 * LONG_INTERVAL)
            assert counter.count == services
            after = resident_bytes()
            supervisor.drain()
        return {"KiB": (after - before) / services / 1024}

    return trio.run(main, clock=JumpingClock())
