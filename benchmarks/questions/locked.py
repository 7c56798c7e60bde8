"""How many locked ticks there are in a second where 1,000 services are due at once, on a real PostgreSQL.

Ours are real services under a `Supervisor`, in two situations:

* *One slot*: all 1,000 come due at one moment, again and again, and between two slots everybody sleeps. The path goes
  from that common slot through gate, lock, work and judgement to the last of the 1,000 reports. Jitter would
  spread the slots, so the draw is replaced by one that leads every service to the same first slot; all the rest is the
  code that runs everywhere. When the reports are there the locks are still held, whereas a pair of the loop has been
  unlocked: so the same is taken to the last unlock too. The figures beside say where the time goes.
* *Always due*: the interval is shorter than any tick, so a service is due again when its lock is free. Nothing hides
  here: each tick's lock and unlock fall into the time, as with the peers.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import statistics
from time import perf_counter
from typing import TYPE_CHECKING
from unittest import mock

import trio

from tickrunner_trio import Config, MemoryLocker, PostgresLocker, Service, Supervisor, Tick

from ..loops import BUSY_INTERVAL, Counter, rate_of
from ..question import OURS, Comparison, Figure, Measurement, Plot, Question, ratio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from tickrunner_trio import AdvisoryLocker, Lease

SERVICES = 1_000
INTERVAL = 1.0

LOOP = "psycopg loop, one connection"
POOL = "pool of 20 and to_thread"
FOUR = "APScheduler 4 on PostgreSQL"
PROCRASTINATE = "Procrastinate"
PGQUEUER = "PgQueuer, batches of 100"
ALWAYS = f"{OURS}, always due"
UNLOCKED = f"{OURS}, to the last unlock"
UNPAID = f"{OURS}, MemoryLocker"

#: Where the time of a slot goes, one after the other, in milliseconds.
PARTS = ("waking", "asking", "answer", "working")


def question(*, quick: bool) -> Question:
    """Ask it."""
    seconds = {"seconds": 0.5 if quick else 1.0}
    return Question(
        key="locked",
        title="Locked ticks per second, 1,000 services due at once, real PostgreSQL",
        figures=(Figure("per_second", 0), *(Figure(part) for part in PARTS)),
        measurements=(
            Measurement(
                way=OURS,
                function=f"{__name__}:measure_slots",
                arguments={"slots": 2 if quick else 3},
                several=True,
                server=True,
            ),
            Measurement(
                way=UNPAID,
                function=f"{__name__}:measure_slots_without_postgres",
                arguments={"slots": 2 if quick else 3},
            ),
            Measurement(way=LOOP, function="benchmarks.peers.psycopg_loop:rate", arguments=seconds, server=True),
            Measurement(way=ALWAYS, function=f"{__name__}:measure_always_due", arguments=seconds, server=True),
            Measurement(way=POOL, function="benchmarks.peers.pool:rate", arguments=seconds, server=True),
            Measurement(
                way=PGQUEUER,
                function="benchmarks.peers.pgqueuer_jobs:rate",
                arguments={"jobs": 3_000 if quick else 6_000},
                server=True,
            ),
            Measurement(
                way=PROCRASTINATE,
                function="benchmarks.peers.procrastinate_jobs:rate",
                arguments={"jobs": 300},
                server=True,
            ),
            Measurement(
                way=FOUR,
                function="benchmarks.peers.apscheduler4:rate",
                arguments={"jobs": 100 if quick else 200},
                peer="apscheduler4",
                server=True,
            ),
        ),
        comparisons=(
            Comparison(name="over the psycopg loop", of=ratio("per_second", LOOP), at_least=2.0),
            Comparison(name="over the pool", of=ratio("per_second", POOL), at_least=10.0, places=1),
            Comparison(name="over APScheduler 4", of=ratio("per_second", FOUR), at_least=10.0, places=1),
            Comparison(name="over Procrastinate", of=ratio("per_second", PROCRASTINATE), at_least=10.0, places=1),
            Comparison(name="over PgQueuer", of=ratio("per_second", PGQUEUER), at_least=2.0),
            Comparison(
                name="to the last unlock, over the psycopg loop",
                of=ratio("per_second", LOOP, of=UNLOCKED),
                more_is_better=True,
            ),
            Comparison(
                name="always due, over the psycopg loop", of=ratio("per_second", LOOP, of=ALWAYS), more_is_better=True
            ),
            Comparison(
                name="MemoryLocker, over the psycopg loop",
                of=ratio("per_second", LOOP, of=UNPAID),
                more_is_better=True,
            ),
        ),
        rounds=1 if quick else 5,
        notes=(
            "Over a unix socket, on a server with `fsync=off`: that costs a lock nothing, as it writes nothing, and "
            "helps the peers that write rows (APScheduler 4, Procrastinate, PgQueuer), which would be slower on a "
            "durable server. Their jobs were written before the clock started. "
            "`tickrunner_trio`: from a slot that all 1,000 services share to the last report; the locks are let go "
            "after it. *To the last unlock* and *always due* (each service is due again as soon as it is unlocked) "
            "include the unlocks, as the peers do: they are the lower bound of what one may promise. *MemoryLocker* "
            "is the slot without a server: what the ticks themselves take, so the upper bound of any locker. "
            "Milliseconds of one slot: *waking*, from the slot to the first question for a lock; *asking*, to the last "
            "of the 1,000 questions; *answer*, to the first work: all that PostgreSQL and the session's thread add; "
            "*working*, to the last report."
        ),
        plot=Plot("locked", "Locked ticks or jobs per second (more is better)", ("per_second",), is_logarithmic=True),
    )


class TimedLocker:
    """A locker that takes down when each lock is asked for, had, and let go, and when what runs under it is done."""

    def __init__(self, locker: AdvisoryLocker) -> None:
        self._locker = locker
        self.asked_at: list[float] = []
        self.had_at: list[float] = []
        self.reported_at: list[float] = []
        self.unlocked_at: list[float] = []

    async def with_advisory_lock(self, lock_id: int, fn: Callable[[Lease], Awaitable[None]]) -> bool:
        """See `AdvisoryLocker.with_advisory_lock`."""

        async def timed(lease: Lease) -> None:
            self.had_at.append(perf_counter())
            await fn(lease)  # with cadence "replica", and for a forced tick, its last act is the report
            self.reported_at.append(perf_counter())

        self.asked_at.append(perf_counter())
        had = await self._locker.with_advisory_lock(lock_id, timed)
        self.unlocked_at.append(perf_counter())
        return had

    def clear(self) -> None:
        """Forget all."""
        for times in (self.asked_at, self.had_at, self.reported_at, self.unlocked_at):
            times.clear()


def services(locker: AdvisoryLocker, interval: float, counter: Counter) -> list[Service]:
    """Make 1,000 services whose lock is let go with the report."""

    async def work(tick: Tick) -> None:
        counter.count += 1

    return [
        Service(Config(name=f"s{number}", interval=interval, locker=locker, work=work, cadence="replica"))
        for number in range(SERVICES)
    ]


def measure_slots(dsn: str, slots: int) -> dict[str, dict[str, float]]:
    """Measure so many slots on PostgreSQL, after one that warms up."""
    to_report, to_unlock, parts = slots_of(PostgresLocker(dsn), slots)
    return {OURS: {"per_second": to_report, **parts}, UNLOCKED: {"per_second": to_unlock}}


def measure_slots_without_postgres(slots: int) -> dict[str, float]:
    """Measure so many slots on locks that cost next to nothing, after one that warms up."""
    return {"per_second": slots_of(contextlib.nullcontext(MemoryLocker()), slots)[0]}


def slots_of(opening: AbstractAsyncContextManager[AdvisoryLocker], slots: int) -> tuple[float, float, dict[str, float]]:
    """Return how many ticks there are in a second to the last report, and to the last unlock; and the parts."""
    counter = Counter()
    first_slot = 0.0

    async def main() -> list[list[float]]:
        nonlocal first_slot
        async with opening as opened:
            locker = TimedLocker(opened)
            supervisor = Supervisor(services(locker, INTERVAL, counter))
            seconds = list[list[float]]()
            clock_offset = perf_counter() - trio.current_time()
            first_slot = trio.current_time() + INTERVAL / 2
            async with trio.open_nursery() as nursery:
                nursery.start_soon(supervisor.run)
                for number in range(slots + 1):
                    slot = first_slot + number * INTERVAL
                    await trio.sleep_until(slot + 0.9 * INTERVAL)
                    if len(locker.unlocked_at) != SERVICES:
                        raise AssertionError(f"{len(locker.unlocked_at)} ticks of {SERVICES} in one slot")
                    if number:
                        asked, had, done = locker.asked_at, locker.had_at, max(locker.reported_at)
                        began = slot + clock_offset
                        ends = [min(asked), max(asked), min(had), done]
                        parts = [end - start for start, end in itertools.pairwise([began, *ends])]
                        seconds.append([done - began, max(locker.unlocked_at) - began, *parts])
                    locker.clear()
                supervisor.drain()
        return seconds

    def draw() -> float:
        """Draw the jitter that leads to the common slot: the draw is multiplied by half an interval."""
        return (first_slot - trio.current_time()) / (INTERVAL / 2)

    with mock.patch.object(random, "random", draw):
        to_report, to_unlock, *parts = (statistics.median(each) for each in zip(*trio.run(main), strict=True))
    in_ms = {name: part * 1e3 for name, part in zip(PARTS, parts, strict=True)}
    return SERVICES / to_report, SERVICES / to_unlock, in_ms


def measure_always_due(dsn: str, seconds: float) -> dict[str, float]:
    """Measure services that are due again as soon as their lock is free."""
    counter = Counter()

    async def main() -> dict[str, float]:
        async with PostgresLocker(dsn) as locker, trio.open_nursery() as nursery:
            supervisor = Supervisor(services(locker, BUSY_INTERVAL, counter))
            nursery.start_soon(supervisor.run)
            figures = await rate_of(counter, trio.sleep, seconds)
            supervisor.drain()
        return figures

    return trio.run(main)
