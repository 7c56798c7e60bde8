"""How long one locked tick takes where nothing else is going on: `Service.tick`, one after the other.

Pinned to one core, client and server share it, and no processor has to be woken; pinned to two, each hand-over between
processes or threads may wake another core, which costs more than the work. So both are asked for.
"""

from __future__ import annotations

import contextlib
from time import perf_counter
from typing import TYPE_CHECKING

import trio

from tickrunner_trio import Config, MemoryLocker, Outcome, PostgresLocker, Service, Tick

from ..peers.psycopg_loop import latencies
from ..question import OURS, Comparison, Figure, Measurement, Plot, Question, ratio
from .locked import TimedLocker

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from tickrunner_trio import AdvisoryLocker

LOOP, POOL = "psycopg loop", "pool and to_thread"
CROSSING, UNPAID = "libpq in a thread, by hand", f"{OURS}, MemoryLocker"


def question(*, quick: bool) -> Question:
    """Ask it."""
    arguments = {"seconds": 0.3 if quick else 0.5}
    functions = {
        OURS: f"{__name__}:measure",
        LOOP: "benchmarks.peers.psycopg_loop:latency",
        POOL: "benchmarks.peers.pool:latency",
        CROSSING: "benchmarks.peers.libpq_thread:latency",
        UNPAID: f"{__name__}:measure_without_postgres",
    }
    cores = {1: "one core", 2: "two cores"}
    return Question(
        key="latency",
        title="Latency of one locked tick on an idle machine",
        figures=tuple(Figure(name, 0) for name in ("p50", "p99", "p50+unlock", "p99+unlock")),
        measurements=tuple(
            Measurement(way=f"{way}, {name}", function=function, arguments=arguments, server=way != UNPAID, cores=count)
            for count, name in cores.items()
            for way, function in functions.items()
            if count == 1 or way != UNPAID  # it is alone in one thread, whatever it may use
        ),
        comparisons=(
            *(
                Comparison(
                    name=f"{figure} over the loop, {name}",
                    of=ratio(figure, f"{LOOP}, {name}", of=f"{OURS}, {name}", to_figure=f"{figure}+unlock"),
                    at_most=3.0,
                    guarded=figure == "p50",  # the p99 of a quick run is noise
                )
                for name in cores.values()
                for figure in ("p50", "p99")
            ),
            *(
                Comparison(
                    name=f"{figure} over the pool, {name}",
                    of=ratio(figure, f"{POOL}, {name}", of=f"{OURS}, {name}", to_figure=f"{figure}+unlock"),
                    at_most=1.0,
                    guarded=figure == "p50",
                )
                for name in cores.values()
                for figure in ("p50", "p99")
            ),
            *(
                Comparison(
                    name=f"p50 over {CROSSING}, {name}",
                    of=ratio("p50", f"{CROSSING}, {name}", of=f"{OURS}, {name}"),
                    guarded=False,
                )
                for name in cores.values()
            ),
            *(
                Comparison(
                    name=f"p50 with the unlock over the {of}, {name}",
                    of=ratio("p50+unlock", f"{way}, {name}", of=f"{OURS}, {name}"),
                )
                for name in cores.values()
                for of, way in (("loop", LOOP), ("pool", POOL))
            ),
        ),
        rounds=1 if quick else 5,
        notes=(
            "Microseconds. `p50` and `p99`: of ours, from the call to the report, through gate, lock, work and "
            "judgement; of the loop, the lock alone; of the pool, until the work is done. `+unlock`: the same to the "
            "end of the unlock. The targets hold ours to the report against the loop's and the pool's *pair* of lock "
            "and unlock, since nobody waits for our unlock; the last lines, which have no target, count it as well. "
            "*Libpq in a thread, by hand*, is the least that a lock takes which a Trio task has from a thread, and "
            "*MemoryLocker* what a forced tick takes without a server: together, what ours is made of at the least. "
            "Client and server are pinned to the same cores. Ticks follow one another at once: after a sleep, caches "
            "and clock rates make each way slower."
        ),
        plot=Plot("latency", "Latency of one locked tick, microseconds (less is better)", ("p50", "p50+unlock")),
    )


def measure(dsn: str, seconds: float) -> dict[str, float]:
    """Measure this library's."""
    return latencies_under(PostgresLocker(dsn), seconds)


def measure_without_postgres(seconds: float) -> dict[str, float]:
    """Measure it on locks that cost next to nothing."""
    return latencies_under(contextlib.nullcontext(MemoryLocker()), seconds)


def latencies_under(opening: AbstractAsyncContextManager[AdvisoryLocker], seconds: float) -> dict[str, float]:
    """Measure forced ticks, one after the other."""

    async def work(tick: Tick) -> None:
        pass

    async def main() -> None:
        async with opening as opened:
            locker = TimedLocker(opened)
            service = Service(Config(name="bench", interval=60.0, locker=locker, work=work))
            for _ in range(200):
                await service.tick()
            locker.clear()
            end = perf_counter() + seconds
            while (began := perf_counter()) < end:
                report = await service.tick()
                pairs.append(perf_counter() - began)
                assert report.outcome is Outcome.SUCCESS
                reports.append(locker.reported_at[-1] - began)

    reports: list[float] = []
    pairs: list[float] = []
    trio.run(main)
    return latencies(reports, pairs)
