"""How late ticks are and what share of a processor they take, with 100, 1,000 and 10,000 services once a second.

At 100 services all ways run side by side: together they take a few per cent of a core, so hardly a tick meets one of
another, and a look can last long enough to see what is rare. Beyond that they take turns.
"""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING
from unittest import mock

import trio
import trio.testing

from tickrunner_trio import Config, MemoryLocker, PostgresLocker, Service, Supervisor, Tick

from ..lateness import INTERVAL, Watch
from ..question import OURS, Comparison, Figure, Measurement, Plot, Question, Quotient, Value, ratio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tickrunner_trio import AdvisoryLocker

    from ..question import Round

POSTGRES = f"{OURS} on PostgreSQL"
BARE, PARKED, ASYNCIO = "bare Trio tasks", "parked tasks, one timer", "bare asyncio tasks"
PERIODIC, THREE, FOUR = "trio_util.periodic", "APScheduler 3", "APScheduler 4, in memory"
HOUR = f"{OURS}, an hour of virtual time"

FUNCTIONS = {
    OURS: f"{__name__}:measure",
    BARE: "benchmarks.peers.bare_trio:lateness",
    POSTGRES: f"{__name__}:measure",
    PARKED: "benchmarks.peers.parked_trio:lateness",
    ASYNCIO: "benchmarks.peers.asyncio_tasks:lateness",
    PERIODIC: "benchmarks.peers.trio_periodic:lateness",
    THREE: "benchmarks.peers.apscheduler3:lateness",
    FOUR: "benchmarks.peers.apscheduler4:lateness",
}
FOLDERS = {THREE: "apscheduler3", FOUR: "apscheduler4"}
FIGURES = (Figure("share", 1), Figure("p50", 2), Figure("p99", 2), Figure("p99.9", 2), Figure("missed", 0))


def measured(way: str, services: int, lead: float, seconds: int, beside: str | None = None) -> Measurement:
    """Return the measurement of a way with so many services."""
    return Measurement(
        way=f"{way}, {services:,}",
        function=FUNCTIONS[way],
        arguments={"services": services, "lead": lead, "seconds": seconds},
        server=way is POSTGRES,
        peer=FOLDERS.get(way),
        beside=beside,
        bound=90.0,
    )


def missed_of_ours(each: Round) -> float:
    """Return how many slots ours missed, wherever it was asked."""
    return sum(figures["missed"] for way, figures in each.items() if way.startswith(OURS) and "missed" in figures)


def question(*, quick: bool) -> Question:
    """Ask it."""
    few, many = (2, 1) if quick else (4, 1)
    # In a quick run these share the machine as well, which is less exact, and saves a quarter of a minute.
    at_1_000 = (2.5, 1, "1,000") if quick else (0.5, 1, None)

    def many_of_ours(figure: str, to: str) -> Quotient:
        return ratio(figure, f"{to}, 10,000", of=f"{OURS}, 10,000")

    return Question(
        key="lateness",
        title="Processor share and lateness, services once a second",
        figures=(*FIGURES, Figure("drift", 6)),
        measurements=(
            *(measured(way, 100, 3.5, few, "100") for way in FUNCTIONS if way is not PARKED),
            *(measured(way, 1_000, *at_1_000) for way in (OURS, BARE, POSTGRES, THREE, FOUR)),
            *(measured(way, 10_000, 2.0, many) for way in FUNCTIONS if way not in {POSTGRES, PERIODIC, FOUR}),
            Measurement(way=HOUR, function=f"{__name__}:measure_drift"),
        ),
        comparisons=(
            Comparison(name="share over bare Trio tasks, 10,000", of=many_of_ours("share", BARE), at_most=1.0),
            Comparison(name="p99 over bare Trio tasks, 10,000", of=many_of_ours("p99", BARE), at_most=1.2),
            Comparison(name="missed slots", of=missed_of_ours, at_most=0, places=0),
            Comparison(
                name="seconds of drift in an hour of virtual time", of=Value(HOUR, "drift"), at_most=1e-6, places=6
            ),
            Comparison(name="share over APScheduler 3, 10,000", of=many_of_ours("share", THREE)),
            Comparison(name="share over bare asyncio tasks, 10,000", of=many_of_ours("share", ASYNCIO)),
            Comparison(name="share over parked tasks, 10,000", of=many_of_ours("share", PARKED)),
            Comparison(name="p50 over bare Trio tasks, 10,000", of=many_of_ours("p50", BARE), guarded=False),
            Comparison(
                name="p99 over bare Trio tasks, 100", of=ratio("p99", f"{BARE}, 100", of=f"{OURS}, 100"), guarded=False
            ),
            Comparison(
                name="share on PostgreSQL over memory, 1,000",
                of=ratio("share", f"{OURS}, 1,000", of=f"{POSTGRES}, 1,000"),
            ),
        ),
        rounds=1 if quick else 5,
        notes=(
            "`share`: per cent of a core, of the process (what the server takes is not in it). `p50`, `p99`, `p99.9`: "
            "milliseconds from the slot to the work. `missed`: slots that no run was for. The slots are spread over "
            "half a second, as our jitter spreads them, and alike for all ways. Ours has the default cadence, so each "
            "lock is held for nine tenths of the interval; a tick that is later than a tenth costs the next slot. "
            "Once all have begun, what is there is frozen (`gc.freeze`), alike for all: a full collection of 10,000 "
            "tasks takes 0.2 s, and who does not freeze them has that lateness now and then. "
            "trio_util's lateness grows with time, since it drifts. APScheduler 4 is not asked for 10,000: "
            "what it takes for 1,000 says that it could not, and so it was when tried (99 runs of 100 were missing)."
        ),
        plot=Plot(
            "lateness",
            "10,000 services once a second, per cent of a core (less is better)",
            ("share",),
            ways=tuple(f"{way}, 10,000" for way in FUNCTIONS),
        ),
    )


def measure(services: int, lead: float, seconds: int, dsn: str | None = None) -> dict[str, float]:
    """Measure ours; on PostgreSQL if there is a ``dsn``."""

    async def main() -> dict[str, float]:
        async with contextlib.AsyncExitStack() as stack:
            locker: AdvisoryLocker
            locker = MemoryLocker() if dsn is None else await stack.enter_async_context(PostgresLocker(dsn))
            watches: list[Watch] = []

            def work_of(number: int) -> Callable[[Tick], Awaitable[None]]:
                async def work(tick: Tick) -> None:
                    watch = watches[0]
                    watch.ran(watch.slots[number])

                return work

            supervisor = Supervisor(
                [
                    Service(Config(name=f"s{number}", interval=INTERVAL, locker=locker, work=work_of(number)))
                    for number in range(services)
                ]
            )
            watch = Watch(services, lead, trio.current_time)
            watches.append(watch)
            drawn = 0

            def draw() -> float:
                """Draw the jitter that leads to the slot of the service; it is multiplied by half an interval."""
                nonlocal drawn
                drawn += 1
                number = int(trio.lowlevel.current_task().name.removeprefix("service s"))
                return (watch.slots[number] - trio.current_time()) / (INTERVAL / 2)

            async with trio.open_nursery() as nursery:
                with mock.patch.object(random, "random", draw):
                    nursery.start_soon(supervisor.run)
                    await trio.sleep_until(watch.origin)
                if drawn < services:
                    raise AssertionError(f"{lead} s were not enough for all services to begin")
                figures = await watch.look(trio.sleep, seconds)
                supervisor.drain()
        return figures

    return trio.run(main)


def measure_drift() -> dict[str, float]:
    """Return how far from its slot the last run of an hour is, on a virtual clock, with work that takes a while."""
    began: list[float] = []

    async def work(tick: Tick) -> None:
        began.append(trio.current_time())
        if len(began) > 3_600:
            service.drain()
        await trio.sleep(0.3)

    service = Service(Config(name="hour", interval=INTERVAL, locker=MemoryLocker(), work=work))
    trio.run(service.run, clock=trio.testing.MockClock(autojump_threshold=0))
    return {"drift": abs(began[-1] - began[0] - 3_600 * INTERVAL)}
