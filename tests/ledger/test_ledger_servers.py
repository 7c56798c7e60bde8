"""The ledger when servers crash, fail over, or wait for a standby that is gone: epochs and results on the disk."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import trio
from ledger_view import do
from postgres_view import until
from standby_postgres import Standby, hot_standby
from test_ledger_locker import ask, never, report, run

from tickrunner_trio import LockLostError, PostgresLedger, PostgresLocker
from tickrunner_trio._local_postgres import local_postgres
from tickrunner_trio.abc import LedgerLease, LedgerState

if TYPE_CHECKING:
    from tickrunner_trio._local_postgres import LocalPostgres


async def test_no_epoch_is_given_out_twice_over_six_crashes_of_the_server() -> None:
    with local_postgres(settings={"fsync": "on"}) as server:
        epochs: list[int] = []
        for _ in range(6):
            async with PostgresLocker(server.dsn, ledger=True, lease=2.0) as locker:
                epochs.append(await run(locker, forced=True))

                async def work(lease: LedgerLease) -> None:
                    assert lease.epoch is not None
                    epochs.append(lease.epoch)
                    # In the moment in which it has been given out, and before anything else is said to the server.
                    await trio.to_thread.run_sync(server.stop, "kill")
                    await trio.sleep_forever()

                with pytest.raises(LockLostError):
                    await ask(locker, work, forced=True)
            await trio.to_thread.run_sync(server.start)
        async with PostgresLocker(server.dsn, ledger=True, lease=2.0) as locker:
            epochs.append(await run(locker, forced=True))
        assert len(epochs) == 13
        assert all(before < after for before, after in pairwise(epochs))


async def test_a_standby_that_is_promoted_without_the_last_runs_gives_higher_epochs() -> None:
    """Twice: the second one is a standby of the first."""
    epochs: list[int] = []

    async def runs(server: LocalPostgres, count: int) -> None:
        async with PostgresLocker(server.dsn, ledger=True) as locker:
            epochs.extend([await run(locker, forced=True) for _ in range(count)])

    async def fails_over(primary: LocalPostgres, standby: Standby) -> None:
        await runs(primary, 3)
        await trio.to_thread.run_sync(standby.wait_until_caught_up)
        await trio.to_thread.run_sync(standby.stop, "immediate")  # cut off
        await runs(primary, 3)
        await trio.to_thread.run_sync(primary.stop, "kill")
        await trio.to_thread.run_sync(standby.start)
        await trio.to_thread.run_sync(standby.promote)
        await runs(standby, 3)

    with local_postgres(settings={"full_page_writes": "on"}) as primary, hot_standby(primary) as first:
        await fails_over(primary, first)
        with hot_standby(first) as second:
            await fails_over(first, second)
    assert len(epochs) == 18
    assert all(before < after for before, after in pairwise(epochs))


async def test_a_synchronous_standby_that_is_gone_is_waited_for_by_nobody() -> None:
    with local_postgres() as server:
        do(server.dsn, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        do(server.dsn, "SELECT pg_reload_conf()")
        await until(lambda: do(server.dsn, "SHOW synchronous_standby_names") == [("nobody",)])
        async with PostgresLocker(server.dsn, ledger=True, lease=2.0) as locker:
            began_at = trio.current_time()
            for _ in range(20):
                await run(locker, forced=True)
            ledger = PostgresLedger(server.dsn)
            await ledger.pause("sweep", reason="", by="")
            assert (await ask(locker, never)).state is LedgerState.PAUSED
            assert trio.current_time() - began_at < 10
            assert locker.statistics().sessions_lost == 0


async def test_six_lockers_at_thirty_services_run_none_too_early(dsn: str) -> None:
    interval, seconds = 0.4, 5.0
    starts: dict[str, list[tuple[float, int]]] = {f"s{index}": [] for index in range(30)}

    async def replica(locker: PostgresLocker, index: int) -> None:
        async def work(lease: LedgerLease) -> None:
            assert lease.epoch is not None
            starts[f"s{index}"].append((trio.current_time(), lease.epoch))
            lease.report(report())

        while True:
            await ask(locker, work, service=f"s{index}", lock_id=index, interval=interval)

    async def session() -> None:
        async with PostgresLocker(dsn, ledger=True) as locker, trio.open_nursery() as nursery:
            for index in range(30):
                nursery.start_soon(replica, locker, index)

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(session)
    for service, began in starts.items():
        epochs = [epoch for _, epoch in began]
        assert epochs == sorted(set(epochs)), service
        assert 2 <= len(began) <= seconds / interval + 2, service
