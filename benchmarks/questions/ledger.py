"""What the ledger costs: one locker with it and one without, on a server that flushes to its disk.

Without a ledger a run is a lock and its unlock. With one it is a *whole run*: the lock, an epoch that is on the disk
before the work begins, work that does nothing, the result in two tables and on the disk, and the unlock. Neither has
anything above the locker: no services, no schedule.

::

    without:   lock ............ unlock                       2 round trips, 0 flushes
    with:      lock + epoch .... result + unlock              2 round trips, 2 flushes
    BUSY:      lock, refused                                  1 round trip,  0 flushes, with and without

The rings of the history are full before the clock starts, as they are 100 runs after a service was begun: from then on
each run updates three rows, and makes none.
"""

from __future__ import annotations

import datetime as dt
import os
import socket
import statistics
import tempfile
import time
from contextlib import asynccontextmanager
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

import psycopg
import trio

from tickrunner_trio import Outcome, PostgresLocker, TickReport
from tickrunner_trio.abc import LedgerState

from ..databases import own_database
from ..question import OURS, Comparison, Difference, Figure, Measurement, Question, Value, ratio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from tickrunner_trio import Lease
    from tickrunner_trio.abc import LedgerLease

    #: What a task does again and again; it takes the task's number.
    Act = Callable[[int], Awaitable[None]]
    #: By table: how many updates were HOT, and how many there were.
    Updates = dict[str, tuple[int, int]]

MANY, FEW = 1_000, 100
KEPT_RUNS = 100
#: Of those whose updates are counted: with 10,000 runs each ring goes round twice, and what an update leaves behind in
#: its page is met by the next.
COUNTED = 50
#: What is not counted. A row is made without a holder and without times, and grows by half in its first run. So the
#: first start of many services fills pages by more than the half that is meant, and some of the rows move, once.
FIRST_RUNS = 3
INTERVAL = 3_600.0
#: Seconds, before the first figure.
WARM_UP = 0.1

WITHOUT, WITH = f"{OURS}, no ledger", f"{OURS}, ledger"
UPDATES = f"{OURS}, ledger, updates counted"
DISK = "write and flush of 8 KiB"

#: As PostgreSQL has them by default. The throw-away server trades them away.
DURABLE = {"fsync": "on", "full_page_writes": "on", "shared_buffers": "128MB"}

_AT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
SUCCESS = TickReport(
    service="s0",
    number=1,
    request_id="0" * 32,
    outcome=Outcome.SUCCESS,
    error=None,
    scheduled_at=_AT,
    started_at=_AT,
    duration=0.001,
    lateness=0.0,
    epoch=None,
    forced=False,
)


def question(*, quick: bool) -> Question:
    """Ask it."""
    seconds = {"seconds": 0.15 if quick else 0.25}
    return Question(
        key="ledger",
        title="What the ledger costs, on a server with fsync on",
        figures=(
            Figure("runs/s, 1,000", 0),
            Figure("runs/s, 100", 0),
            Figure("BUSY/s", 0),
            Figure("not due/s", 0),
            Figure("trips", 3),
            Figure("p50", 0),
            Figure("HOT service", 4),
            Figure("HOT run", 4),
        ),
        measurements=(
            Measurement(way=WITHOUT, function=f"{__name__}:measure_without", arguments=seconds, server=True),
            Measurement(way=WITH, function=f"{__name__}:measure_with", arguments=seconds, server=True),
            Measurement(
                way=UPDATES,
                function=f"{__name__}:measure_updates",
                arguments={"services": 5 if quick else COUNTED, "each": 200},
                server=True,
            ),
            Measurement(way=DISK, function=f"{__name__}:measure_disk", arguments={"flushes": 100}, server=True),
        ),
        comparisons=(
            Comparison(
                name="runs per second over no ledger, 1,000", of=ratio("runs/s, 1,000", WITHOUT, of=WITH), at_least=0.33
            ),
            Comparison(
                name="runs per second over no ledger, 100",
                of=ratio("runs/s, 100", WITHOUT, of=WITH),
                more_is_better=True,
            ),
            Comparison(
                name="further round trips of a BUSY tick",
                of=Difference(Value(WITH, "trips"), Value(WITHOUT, "trips")),
                at_most=0,
                places=3,
                guarded=False,
            ),
            Comparison(
                name="BUSY ticks per second over no ledger", of=ratio("BUSY/s", WITHOUT, of=WITH), more_is_better=True
            ),
            Comparison(
                name="ticks per second that are not due over BUSY ones, no ledger",
                of=ratio("not due/s", WITHOUT, of=WITH, to_figure="BUSY/s"),
                more_is_better=True,
            ),
            Comparison(name="p50 over no ledger", of=ratio("p50", WITHOUT, of=WITH)),
            Comparison(name="p50 over two flushes", of=ratio("p50", DISK, of=WITH)),
            Comparison(
                name="HOT updates, service, 1,000 services",
                of=Value(WITH, "HOT service"),
                more_is_better=True,
                places=4,
            ),
            Comparison(
                name="HOT updates, run, 1,000 services", of=Value(WITH, "HOT run"), more_is_better=True, places=4
            ),
            Comparison(name="HOT updates, service", of=Value(UPDATES, "HOT service"), at_least=1.0, places=4),
            Comparison(name="HOT updates, run", of=Value(UPDATES, "HOT run"), at_least=1.0, places=4),
        ),
        rounds=1 if quick else 5,
        notes=(
            "Lockers alone, no services above them. `runs/s`: of 1,000 tasks and of 100, each of which runs again at "
            "once. Without a ledger a run is a lock and its unlock; with one it is the lock, an epoch, the result in "
            "two tables, and the unlock. `fsync` is on, and so are full page writes, as PostgreSQL has it by default: "
            "the server answers only when the disk says that it has the epoch, and again the result. That is two "
            "flushes for a batch, however many runs share it; the last row says what two of them take here by "
            "themselves. A disk that only says so makes the ledger look cheap; a slow one is waited for twice by a run "
            "that is alone. A lock without a ledger writes nothing, so `fsync` costs it nothing. `p50`: microseconds "
            "of one run, alone. `BUSY/s`: ticks of 1,000 tasks whose lock another session has. `not due/s`: likewise, "
            "where the row says so, which only a ledger knows: it has granted the lock, and puts it back. `trips`: "
            "batches of the locker per tick that is BUSY or not due, alone. A batch is one statement, or one pipeline "
            "that is not waited for in between, so this counts round trips and not statements, of which a tick with a "
            "ledger has three. `HOT`: the share of updates in place, with no other transaction open: of 10,000 runs of "
            f"{COUNTED} services, which turn each ring twice, and of all runs of the row with the rates. The 100 past "
            "runs of each service are there before the clock starts. Not counted are the first "
            f"{FIRST_RUNS} runs of each: its row is made narrow and grows in the first one, so of many that are made "
            "together some move to another page, and a few only later, when a batch first updates all of a page: "
            "that is what `HOT service` lacks."
        ),
        server_settings=DURABLE,
    )


# -- What is measured --------------------------------------------------------------------------------------------------


def measure_without(dsn: str, seconds: float) -> dict[str, float]:
    """Measure the locker without a ledger."""

    async def main() -> dict[str, float]:
        async with PostgresLocker(dsn) as locker:

            async def run(number: int) -> None:
                _must_be(await locker.with_advisory_lock(number, _nothing), expected=True)

            async def busy(number: int) -> None:
                _must_be(await locker.with_advisory_lock(number, _nothing), expected=False)

            await _rate(run, MANY, WARM_UP)
            figures = {
                "runs/s, 1,000": await _rate(run, MANY, 4 * seconds),
                "runs/s, 100": await _rate(run, FEW, seconds),
                "p50": await _microseconds(run, seconds),
            }
            async with _rival(dsn):
                return figures | {"BUSY/s": await _rate(busy, MANY, seconds), "trips": await _trips(locker, busy)}

    return trio.run(main)


def measure_with(dsn: str, seconds: float) -> dict[str, float]:
    """Measure the locker with a ledger whose rings are full."""

    async def main(own: str) -> dict[str, float]:
        async with PostgresLocker(own, ledger=True) as locker:
            run = partial(_ask, locker, LedgerState.RAN)
            busy = partial(_ask, locker, LedgerState.BUSY)
            not_due = partial(_ask, locker, LedgerState.NOT_DUE)
            await _rate(run, MANY, WARM_UP)
            figures = {
                "runs/s, 1,000": await _rate(run, MANY, 4 * seconds),
                "runs/s, 100": await _rate(run, FEW, seconds),
                "p50": await _microseconds(run, seconds),
                "not due/s": await _rate(not_due, MANY, seconds),
            }
            trips = await _trips(locker, not_due)
            async with _rival(own):
                figures["BUSY/s"] = await _rate(busy, MANY, seconds)
                figures["trips"] = max(trips, await _trips(locker, busy))
        return figures

    with own_database(dsn, "ledger") as own:
        trio.run(_run_each, own, MANY, FIRST_RUNS)
        _fill_rings(own, MANY)
        before = _updates(own)
        return trio.run(main, own) | _hot_shares(before, _updates(own))


def measure_updates(dsn: str, services: int, each: int) -> dict[str, float]:
    """Let services have so many runs each, from full rings on; count the updates."""
    with own_database(dsn, "ledger") as own:
        trio.run(_run_each, own, services, FIRST_RUNS)
        _fill_rings(own, services)
        before = _updates(own)
        trio.run(_run_each, own, services, each)
        after = _updates(own)
    made = {name: after[name][1] - before[name][1] for name in after}
    expected = {"service": 2 * services * each, "run": services * each}
    if made != expected:
        raise AssertionError(f"the server counted the updates {made} where there had to be {expected}")
    return _hot_shares(before, after)


def measure_disk(dsn: str, flushes: int) -> dict[str, float]:
    """Measure what two flushes take where the server has its files: as many as a whole run waits for."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        [directory] = connection.execute("SHOW data_directory").fetchone() or ("",)
    taken = []
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, 8192)
        os.fsync(file.fileno())
        for _ in range(flushes):
            began = perf_counter()
            for _ in range(2):
                os.pwrite(file.fileno(), os.urandom(8192), 0)
                os.fdatasync(file.fileno())
            taken.append(perf_counter() - began)
    return {"p50": statistics.median(taken) * 1e6}


# -- How it is measured ------------------------------------------------------------------------------------------------


async def _ask(locker: PostgresLocker, expected: LedgerState, number: int) -> None:
    """Ask for a service's run, which is due if it is expected to run."""
    is_forced = expected is LedgerState.RAN
    answer = await locker.with_due_lock(
        number, _report_success, service=f"s{number}", interval=INTERVAL, forced=is_forced
    )
    _must_be(answer.state, expected=expected)


async def _run_each(dsn: str, services: int, runs: int) -> None:
    """Have so many services run so often each, in a session of its own."""
    async with PostgresLocker(dsn, ledger=True) as locker:

        async def runs_of(number: int) -> None:
            for _ in range(runs):
                await _ask(locker, LedgerState.RAN, number)

        async with trio.open_nursery() as nursery:
            for number in range(services):
                nursery.start_soon(runs_of, number)


async def _nothing(lease: Lease) -> None:
    pass


async def _report_success(lease: LedgerLease) -> None:
    lease.report(SUCCESS)


async def _rate(act: Act, tasks: int, seconds: float) -> float:
    """Return how often in a second so many tasks do something: until the last of them has done what it had begun."""
    count = 0

    async def again_and_again(number: int) -> None:
        nonlocal count
        while perf_counter() < end:
            await act(number)
            count += 1

    began = perf_counter()
    end = began + seconds
    async with trio.open_nursery() as nursery:
        for number in range(tasks):
            nursery.start_soon(again_and_again, number)
    return count / (perf_counter() - began)


async def _microseconds(act: Act, seconds: float) -> float:
    """Return the median of what one takes where nothing else is asked."""
    taken = []
    end = perf_counter() + seconds
    while (began := perf_counter()) < end:
        await act(0)
        taken.append(perf_counter() - began)
    return statistics.median(taken) * 1e6


async def _trips(locker: PostgresLocker, act: Act) -> float:
    """Return how many batches, and so round trips, one takes: alone, so that it shares none."""
    before = locker.statistics().batches
    for number in range(FEW):
        await act(number)
    return (locker.statistics().batches - before) / FEW


@asynccontextmanager
async def _rival(dsn: str) -> AsyncGenerator[None]:
    """Have another session hold all of the locks."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SELECT count(pg_advisory_lock(id)) FROM generate_series(0, %s) AS id", [MANY - 1])
        yield


def _fill_rings(dsn: str, services: int) -> None:
    """Give each service as many past runs as are kept: in the order in which they would have come."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO tickrunner.run (service, slot, epoch, started_at, ended_at, outcome, replica)"
            " SELECT 's' || number, slot, 0, now(), now(), 'success', %s"
            " FROM generate_series(0, %s) AS slot, generate_series(0, %s) AS number ON CONFLICT DO NOTHING",
            [f"{socket.gethostname()}:{os.getpid()}", KEPT_RUNS - 1, services - 1],
        )


def _updates(dsn: str) -> Updates:
    """Return by table how many updates were HOT, and how many there were, when all sessions have told."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET stats_fetch_consistency = 'none'")
        others = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        while connection.execute(others).fetchone() is not None:  # a session tells at its end, and after a second
            time.sleep(0.01)
        rows = connection.execute("SELECT relname, n_tup_hot_upd, n_tup_upd FROM pg_stat_user_tables").fetchall()
    return {name: (hot, total) for name, hot, total in rows}


def _hot_shares(before: Updates, after: Updates) -> dict[str, float]:
    return {f"HOT {name}": (hot - before[name][0]) / (total - before[name][1]) for name, (hot, total) in after.items()}


def _must_be(found: object, *, expected: object) -> None:
    if found != expected:
        raise AssertionError(f"the locker said {found!r} where {expected!r} had to come")
