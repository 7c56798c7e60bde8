"""Whether anything grows over 1,000,000 ticks: resident memory, Python's blocks, threads, file descriptors.

Two processes, side by side: one service with a `MemoryLocker` on a clock that jumps from slot to slot, for 1,000,000
ticks; and 100 with a `PostgresLocker` that are due all the time, for 300,000, since threads and descriptors are what a
locker could lose.
tracemalloc is off: it would take longer than the ticks. Blocks of Python's allocator are as sharp: one object that is
kept of each tick is a million of them.
"""

from __future__ import annotations

import trio

from tickrunner_trio import Config, MemoryLocker, PostgresLocker, Service, Supervisor, Tick

from ..clocks import JumpingClock
from ..loops import BUSY_INTERVAL, SERVICES, Counter
from ..question import OURS, Comparison, Figure, Measurement, Question, Value
from ..resident import taken

POSTGRES = f"{OURS} on PostgreSQL"
#: Ticks before the start: caches, interned strings, free lists.
WARM_UP = 20_000


def question(*, quick: bool) -> Question:
    """Ask it."""
    ticks = {"ticks": 30_000 if quick else 1_000_000}
    on_postgres = {"ticks": 30_000 if quick else 300_000}
    return Question(
        key="flatness",
        title="What grows over 1,000,000 ticks" if not quick else "What grows over 30,000 ticks",
        figures=tuple(Figure(name, 0) for name in ("KiB", "blocks", "threads", "descriptors")),
        measurements=(
            Measurement(way=OURS, function=f"{__name__}:measure", arguments=ticks, beside="both", bound=400.0),
            Measurement(
                way=POSTGRES,
                function=f"{__name__}:measure_on_postgres",
                arguments=on_postgres,
                server=True,
                beside="both",
                bound=400.0,
            ),
        ),
        comparisons=tuple(
            Comparison(name=f"{figure} more{where}", of=Value(way, figure), at_most=at_most, places=0, guarded=False)
            for way, where in ((OURS, ""), (POSTGRES, ", on PostgreSQL"))
            for figure, at_most in (("KiB", 1024.0), ("blocks", 10_000.0), ("threads", 0.0), ("descriptors", 0.0))
        ),
        rounds=1,
        notes=(
            "One round: the figures are differences between the end and the start of one long run, after "
            "20,000 ticks of warm-up; on PostgreSQL it is 300,000 ticks, for the sake of your time. `KiB`: resident, "
            "which moves in steps of the allocator's arenas. `blocks`: blocks of Python's allocator, of which one "
            "kept object a tick would be as many as there are ticks."
        ),
    )


def grown(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Return by how much."""
    figures = {name: after[name] - before[name] for name in before}
    return {"KiB": figures.pop("resident") / 1024} | figures


def measure(ticks: int) -> dict[str, float]:
    """Measure one service on a clock that jumps."""
    looks = []

    async def work(tick: Tick) -> None:
        if tick.number in (WARM_UP, WARM_UP + ticks):
            looks.append(taken())
            if tick.number != WARM_UP:
                service.drain()

    service = Service(Config(name="flat", interval=1.0, locker=MemoryLocker(), work=work, tick_timeout=0.5))
    trio.run(service.run, clock=JumpingClock())
    return grown(*looks)


def measure_on_postgres(dsn: str, ticks: int) -> dict[str, float]:
    """Measure services that are due all the time."""
    counter = Counter()
    supervisors: list[Supervisor] = []
    looks = []

    async def work(tick: Tick) -> None:
        counter.count += 1
        if counter.count in (WARM_UP, WARM_UP + ticks):
            looks.append(taken())
            if len(looks) == 2:
                supervisors[0].drain()

    async def main() -> None:
        async with PostgresLocker(dsn) as locker:
            supervisor = Supervisor(
                [
                    Service(Config(name=f"s{number}", interval=BUSY_INTERVAL, locker=locker, work=work))
                    for number in range(SERVICES)
                ]
            )
            supervisors.append(supervisor)
            await supervisor.run()

    trio.run(main)
    return grown(*looks)
