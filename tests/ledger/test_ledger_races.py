"""Operators and ticks at one row, at once: replicas on a real server, each a locker of its own, and many operators."""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import trio
from ledger_view import do

from tickrunner_trio import Config, PostgresLedger, PostgresLocker, Service, Supervisor, Tick

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

#: Seconds that a trigger may take to be run, as is promised; and what a busy machine adds.
PROMISED, GRACE = 5.0, 5.0


class Cluster:
    """Three replicas of one service, and what they did."""

    def __init__(self, dsn: str, interval: float) -> None:
        self.dsn = dsn
        self.interval = interval
        self.ledger = PostgresLedger(dsn)
        self.at_work = 0
        self.epochs: list[int] = []

    async def work(self, tick: Tick) -> None:
        assert tick.epoch is not None
        assert self.at_work == 0, "two at once"
        self.at_work += 1
        self.epochs.append(tick.epoch)
        await trio.sleep(0.005)
        self.at_work -= 1

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[list[Supervisor]]:
        await self.ledger.init()
        async with contextlib.AsyncExitStack() as stack, trio.open_nursery() as nursery:
            supervisors: list[Supervisor] = []
            for _ in range(3):
                locker = await stack.enter_async_context(PostgresLocker(self.dsn, lease=2, ledger=True))
                config = Config(name="sweep", interval=self.interval, locker=locker, work=self.work)
                supervisors.append(Supervisor([Service(config)]))
                await nursery.start(supervisors[-1].run)
            yield supervisors
            for supervisor in supervisors:
                supervisor.drain()

    def now(self) -> datetime:
        [[now]] = do(self.dsn, "SELECT clock_timestamp()")
        assert isinstance(now, datetime)
        return now

    async def begun_since(self, at: datetime) -> list[datetime]:
        return sorted(run.started_at for run in await self.ledger.history("sweep") if run.started_at >= at)


@pytest.fixture
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.random", lambda: 0.0)


@pytest.mark.usefixtures("no_jitter")
async def test_once_a_pause_has_returned_no_run_begins_until_it_is_taken_back(dsn: str) -> None:
    cluster = Cluster(dsn, interval=0.02)
    quiet: list[tuple[datetime, datetime]] = []
    async with cluster.running() as supervisors:
        for number in range(8):
            await trio.sleep(0.05)
            # Whichever replica is asked, and however many ask at once.
            async with trio.open_nursery() as operators:
                for supervisor in supervisors:
                    operators.start_soon(_paused, supervisor, f"operator {number}")
            since = cluster.now()
            await trio.sleep(0.05)
            quiet.append((since, cluster.now()))
            await supervisors[number % 3].resume("sweep")
    begun = await cluster.begun_since(quiet[0][0] - timedelta(days=1))
    assert len(begun) >= 5, "they hardly ran"
    assert [at for at in begun for since, until in quiet if since <= at <= until] == []
    assert cluster.epochs == sorted(set(cluster.epochs))


async def _paused(supervisor: Supervisor, by: str) -> None:
    await supervisor.pause("sweep", reason="a race", by=by)


@pytest.mark.usefixtures("no_jitter")
async def test_triggers_from_all_sides_are_run_soon_one_at_a_time_and_never_for_nothing(dsn: str) -> None:
    cluster = Cluster(dsn, interval=3600)
    async with cluster.running() as supervisors:
        await _until_idle(cluster, runs=1)
        before = 1
        for _ in range(3):
            asked: list[datetime] = []
            async with trio.open_nursery() as operators:
                for number in range(6):
                    operators.start_soon(_triggered, supervisors[number % 3], asked)
            await _until_idle(cluster, runs=before + 1)
            begun = await cluster.begun_since(max(asked))
            assert begun, "no run began after the last trigger"
            assert begun[0] - max(asked) <= timedelta(seconds=PROMISED)
            assert len(cluster.epochs) - before <= len(asked)
            before = len(cluster.epochs)
        await trio.sleep(0.85)  # more than two looks at the row
        assert len(cluster.epochs) == before, "a run that nobody asked for"
    assert cluster.epochs == sorted(set(cluster.epochs))


async def _triggered(supervisor: Supervisor, asked: list[datetime]) -> None:
    row = await supervisor.trigger("sweep", by="somebody")
    assert row.triggered_at is not None
    asked.append(row.triggered_at)


@pytest.mark.usefixtures("no_jitter")
async def test_a_trigger_waits_out_a_pause_whichever_came_first(dsn: str) -> None:
    cluster = Cluster(dsn, interval=3600)
    async with cluster.running() as supervisors:
        await _until_idle(cluster, runs=1)
        for number in range(2):
            await supervisors[0].pause("sweep", reason="a race", by="ada")
            since = cluster.now()
            await supervisors[1].trigger("sweep")
            await trio.sleep(0.85)  # more than two looks at the row
            assert await cluster.begun_since(since) == []
            [row] = await supervisors[2].cluster_health()
            assert (row.paused, row.triggered) == (True, True)
            await supervisors[2].resume("sweep")
            await _until_idle(cluster, runs=number + 2)
    assert len(cluster.epochs) == 3


async def _until_idle(cluster: Cluster, *, runs: int) -> None:
    """Wait until so many have run, and nothing is asked for any more."""

    async def is_so() -> bool:
        rows: tuple[Any, ...] = await cluster.ledger.cluster_health()
        return len(cluster.epochs) >= runs and bool(rows) and rows[0].triggered_at is None and not cluster.at_work

    with trio.fail_after(PROMISED + GRACE):
        while not await is_so():  # noqa: ASYNC110 - what is waited for is on the server
            await trio.sleep(0.05)
