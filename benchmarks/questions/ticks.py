"""What a tick costs where the loop is always busy: 100 services whose interval is below what any loop can do."""

from __future__ import annotations

import trio

from tickrunner_trio import Config, MemoryLocker, Service, Supervisor, Tick

from ..loops import BUSY_INTERVAL, SERVICES, Counter, cost_of_each
from ..question import OURS, Comparison, Figure, Measurement, Plot, Question, ratio

BARE, PERIODIC, THREE, FOUR = "bare Trio loop", "trio_util.periodic", "APScheduler 3", "APScheduler 4, in memory"
REPLICA = f"{OURS}, cadence replica"


def question(*, quick: bool) -> Question:
    """Ask it."""
    arguments = {"seconds": 0.4 if quick else 0.8}
    return Question(
        key="ticks",
        title="Processor time per tick of a no-op service at saturation",
        figures=(Figure("us", 1), Figure("busy", 2)),
        measurements=(
            Measurement(way=OURS, function=f"{__name__}:measure", arguments=arguments | {"cadence": "cluster"}),
            Measurement(way=BARE, function="benchmarks.peers.bare_trio:ticks", arguments=arguments),
            Measurement(way=REPLICA, function=f"{__name__}:measure", arguments=arguments | {"cadence": "replica"}),
            Measurement(way=PERIODIC, function="benchmarks.peers.trio_periodic:ticks", arguments=arguments),
            Measurement(
                way=THREE, function="benchmarks.peers.apscheduler3:ticks", arguments=arguments, peer="apscheduler3"
            ),
            Measurement(
                way=FOUR, function="benchmarks.peers.apscheduler4:ticks", arguments=arguments, peer="apscheduler4"
            ),
        ),
        comparisons=(
            Comparison(name="over the bare loop", of=ratio("us", BARE), at_most=2.0),
            Comparison(name="over APScheduler 4", of=ratio("us", FOUR), at_most=0.2),
            Comparison(name="over APScheduler 3", of=ratio("us", THREE)),
            Comparison(name="over trio_util.periodic", of=ratio("us", PERIODIC)),
            Comparison(name="cadence replica over the bare loop", of=ratio("us", BARE, of=REPLICA)),
        ),
        rounds=1 if quick else 5,
        notes=(
            "`us`: microseconds of processor time per tick, all threads of the process. `busy`: processor time over "
            "wall-clock time; 1 says that the loop had always something to do. 100 services, interval 0.01 ms, shorter "
            "than a tick, so that nobody sleeps, memory "
            "locker, no SDK, loggers at CRITICAL. None of the peers locks, judges or reports. At saturation the ticks "
            "run in a cache that they have warmed themselves: a tick that comes alone costs each of them more."
        ),
        plot=Plot("ticks", "Processor time per tick at saturation, microseconds (less is better)", ("us",)),
    )


def measure(seconds: float, cadence: str) -> dict[str, float]:
    """Measure this library's."""
    counter = Counter()
    locker = MemoryLocker()

    async def work(tick: Tick) -> None:
        counter.count += 1

    async def main() -> dict[str, float]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.run)
            figures = await cost_of_each(counter, trio.sleep, seconds)
            supervisor.drain()
        return figures

    supervisor = Supervisor(
        [
            Service(
                Config(name=f"s{number}", interval=BUSY_INTERVAL, locker=locker, work=work, cadence=cadence)  # type: ignore[arg-type]  # JSON knows no Literal
            )
            for number in range(SERVICES)
        ]
    )
    return trio.run(main)
