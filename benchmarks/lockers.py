"""Lockers: lock+unlock pairs per second and the latency of a pair, three ways. Exit status 1 beyond a bound.

All three on one throw-away server, one after the other, in five rounds, so that what the machine does meanwhile meets
all of them alike:

* *locker*: `PostgresLocker`, one session for all tasks.
* *pool*: what people write by hand: a session per lock, out of a pool of 20, each statement through `trio.to_thread`.
  Its checkout is a list and a limiter, which is cheaper than any real pool.
* *loop*: psycopg alone, one connection, one thread, no Trio. What the server and the driver cost, and nothing else.

No two tasks want the same lock, and the work under it is nothing, so every figure is the price of the locking itself.
The default is the unix socket, because it adds least: the loop is at its fastest there, and the bound on it the hardest
to keep. A bound is a ratio between figures of the same round wherever it can be, since a ratio survives a slow machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import platform
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import psycopg
import trio

from tickrunner_trio import PostgresLocker
from tickrunner_trio._local_postgres import local_postgres

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tickrunner_trio import Lease

TASKS = (1, 10, 100, 1_000)
ROUNDS = 5
POOL = 20
TRY_LOCK = "SELECT pg_try_advisory_lock(%s)"
UNLOCK = "SELECT pg_advisory_unlock(%s)"

# Of these two, one is enough: the first says it of a fast machine, the second of any.
PAIRS_BOUND = 100_000
POOL_RATIO_BOUND = 30.0
LOOP_RATIO_BOUND = 3.0
CONNECTIONS_BOUND = 2


@dataclasses.dataclass(frozen=True)
class Sample:
    """What one way did in one round. Latencies in seconds."""

    pairs_per_second: float
    p50: float
    p99: float


def sampled(latencies: Sequence[float], seconds: float) -> Sample:
    """Sum up the pairs that ended within a window of that length."""
    cuts = statistics.quantiles(latencies, n=100, method="inclusive")
    return Sample(len(latencies) / seconds, cuts[49], cuts[98])


def measure_locker(dsn: str, tasks: int, seconds: float) -> Sample:
    """Measure this library's."""

    async def main() -> Sample:
        async with PostgresLocker(dsn) as locker:

            async def pair(lock_id: int) -> None:
                if not await locker.with_advisory_lock(lock_id, nothing):
                    raise AssertionError(f"the lock {lock_id} was not free")

            return await measure_tasks(pair, tasks, seconds)

    return trio.run(main)


def measure_pool(dsn: str, tasks: int, seconds: float) -> Sample:
    """Measure a session per lock, from a pool, with every statement in a thread."""
    free = [psycopg.connect(dsn, autocommit=True) for _ in range(POOL)]

    async def main() -> Sample:
        checkout = trio.CapacityLimiter(POOL)

        async def pair(lock_id: int) -> None:
            async with checkout:
                connection = free.pop()
                await trio.to_thread.run_sync(ask, connection, TRY_LOCK, lock_id)
                await trio.to_thread.run_sync(ask, connection, UNLOCK, lock_id)
                free.append(connection)

        return await measure_tasks(pair, tasks, seconds)

    try:
        return trio.run(main)
    finally:
        for connection in free:
            connection.close()


def measure_loop(dsn: str, tasks: int, seconds: float) -> Sample:
    """Measure the driver alone; ``tasks`` is 1."""
    latencies: list[float] = []
    with psycopg.connect(dsn, autocommit=True) as connection:
        begin = perf_counter() + seconds / 4
        end = begin + seconds
        while (started := perf_counter()) < end:
            ask(connection, TRY_LOCK, tasks)
            ask(connection, UNLOCK, tasks)
            if begin <= (finished := perf_counter()) < end:
                latencies.append(finished - started)
    return sampled(latencies, seconds)


def ask(connection: psycopg.Connection, statement: str, lock_id: int) -> None:
    """Ask one thing of the server, which must say yes."""
    if connection.execute(statement, (lock_id,)).fetchone() != (True,):
        raise AssertionError(f"the server said no to {statement} of {lock_id}")


async def nothing(lease: Lease) -> None:
    """Work that costs nothing."""


async def measure_tasks(pair: Callable[[int], Awaitable[None]], tasks: int, seconds: float) -> Sample:
    """Let every task make pairs on an id of its own, over and over; what ends within the window counts.

    The window opens after a quarter of ``seconds``, but not before each task has had its first pair: until then the
    queues are shorter than they are going to be, and latencies too low.
    """
    latencies: list[float] = []
    begin = end = math.inf
    cold = tasks
    warm = trio.Event()

    async def make_pairs(lock_id: int) -> None:
        nonlocal cold
        await pair(lock_id)
        cold -= 1
        if not cold:
            warm.set()
        while (started := perf_counter()) < end:
            await pair(lock_id)
            if begin <= (finished := perf_counter()) < end:
                latencies.append(finished - started)

    async with trio.open_nursery() as nursery:
        for lock_id in range(tasks):
            nursery.start_soon(make_pairs, lock_id)
        await trio.sleep(seconds / 4)
        await warm.wait()
        begin = perf_counter()
        end = begin + seconds
    return sampled(latencies, seconds)


def connections_of_locker(dsn: str, locks: int) -> int:
    """Return how many connections the server counts while a locker holds that many locks."""

    async def main() -> int:
        holding = 0
        all_held = trio.Event()

        async def hold(lease: Lease) -> None:
            nonlocal holding
            holding += 1
            if holding == locks:
                all_held.set()
            await trio.sleep_forever()

        async with PostgresLocker(dsn) as locker, trio.open_nursery() as nursery:
            for lock_id in range(locks):
                nursery.start_soon(locker.with_advisory_lock, lock_id, hold)
            await all_held.wait()
            count = await trio.to_thread.run_sync(connections_with_locks, dsn, locks)
            nursery.cancel_scope.cancel()
        return count

    return trio.run(main)


def connections_with_locks(dsn: str, locks: int) -> int:
    """Count the connections besides this one, after a look whether the locks are there."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted),"
            " (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid())"
        ).fetchone()
    assert row is not None  # an aggregate has a row
    held, connections = row
    if held != locks:
        raise AssertionError(f"the server knows of {held} locks and not of {locks}")
    return int(connections)


MEASURES = {"locker": measure_locker, "pool": measure_pool, "loop": measure_loop}
CELLS = [(way, tasks) for tasks in TASKS for way in MEASURES if way != "loop" or tasks == 1]


def spread(values: Sequence[float], places: int = 0) -> str:
    """Write a median, and between which values it lies."""
    low, median, high = (f"{value:,.{places}f}" for value in (min(values), statistics.median(values), max(values)))
    return f"{median} ({low}-{high})"


def surroundings(server: str) -> str:
    """Name what the figures depend on, besides the code."""
    libpq = psycopg.pq.version()
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"],  # whichever git the reader has
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return (
        f"Python {platform.python_version()}, trio {version('trio')}, psycopg {version('psycopg')}"
        f" ({psycopg.pq.__impl__}), libpq {libpq // 10_000}.{libpq % 10_000}, PostgreSQL {server};"
        f" {os.cpu_count()} x {processor()}; commit {described.stdout.strip() or 'unknown'}"
    )


def processor() -> str:
    """Name the processor; on Linux `platform` knows only its family."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def judge(samples: dict[tuple[str, int], list[Sample]], connections: int) -> bool:
    """Print the figures that have a bound, and return whether all keep it."""
    most = TASKS[-1]
    pairs = [sample.pairs_per_second for sample in samples["locker", most]]
    pool = [sample.pairs_per_second for sample in samples["pool", most]]
    to_pool = [ours / theirs for ours, theirs in zip(pairs, pool, strict=True)]
    to_loop = [ours.p50 / its.p50 for ours, its in zip(samples["locker", 1], samples["loop", 1], strict=True)]
    print(f"locker at {most:,} tasks: {spread(pairs)} pairs/s (bound {PAIRS_BOUND:,}), or ", end="")
    print(f"{spread(to_pool, 1)} times the pool (bound {POOL_RATIO_BOUND:g})")
    print(f"locker at 1 task: p50 is {spread(to_loop, 2)} times that of the loop (bound {LOOP_RATIO_BOUND:g})")
    print(f"connections while the locker holds {most:,} locks: {connections} (bound {CONNECTIONS_BOUND})")
    fast = statistics.median(pairs) >= PAIRS_BOUND or statistics.median(to_pool) >= POOL_RATIO_BOUND
    return fast and statistics.median(to_loop) <= LOOP_RATIO_BOUND and connections <= CONNECTIONS_BOUND


def main() -> int:
    """Print the figures and return the exit status."""
    parser = argparse.ArgumentParser(description="Measure lock+unlock pairs, and fail when a figure is out of bounds.")
    parser.add_argument("--seconds", type=float, default=1.0, help="of measuring, per line and round (default: 1)")
    parser.add_argument("--tcp", action="store_true", help="over 127.0.0.1, not over the unix socket")
    options = parser.parse_args()
    samples: dict[tuple[str, int], list[Sample]] = {cell: [] for cell in CELLS}
    with local_postgres() as server:
        dsn = server.dsn if options.tcp else server.socket_dsn
        print(f"{surroundings(server.binaries.version)}; over {'TCP' if options.tcp else 'a unix socket'}")
        for _ in range(ROUNDS):
            for way, tasks in CELLS:
                samples[way, tasks].append(MEASURES[way](dsn, tasks, options.seconds))
        connections = connections_of_locker(dsn, TASKS[-1])
    print(f"medians of {ROUNDS} rounds (least-greatest):")
    print(f"{'':6}{'tasks':>6}  {'pairs/s':28}{'p50, ms':28}p99, ms")
    for (way, tasks), rounds in samples.items():
        pairs = spread([sample.pairs_per_second for sample in rounds])
        p50, p99 = (spread([1000 * getattr(sample, name) for sample in rounds], 2) for name in ("p50", "p99"))
        print(f"{way:6}{tasks:>6,}  {pairs:28}{p50:28}{p99}")
    return 0 if judge(samples, connections) else 1


if __name__ == "__main__":
    sys.exit(main())
