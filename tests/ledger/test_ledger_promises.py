"""A locker with a ledger keeps every promise of a locker: for locks without a row, and for those with one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
from postgres_view import terminate

from tickrunner_trio import PostgresLocker
from tickrunner_trio.abc import LedgerState
from tickrunner_trio.testing import check_advisory_locker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tickrunner_trio import Lease


class ByItsLedger(PostgresLocker):
    """A locker all of whose locks have rows, which are always due."""

    async def with_advisory_lock(self, lock_id: int, fn: Callable[[Lease], Awaitable[None]]) -> bool:
        answer = await self.with_due_lock(lock_id, fn, service=f"of_lock_{lock_id}", interval=60, forced=True)
        return answer.state is LedgerState.RAN


@pytest.mark.parametrize("kind", [PostgresLocker, ByItsLedger])
async def test_it_keeps_every_promise_of_a_locker_with_and_without_rows(dsn: str, kind: type[PostgresLocker]) -> None:
    async def lose_its_session(locker: Any, lock_id: int) -> None:
        await trio.to_thread.run_sync(terminate, dsn)

    report = await check_advisory_locker(
        lambda: kind(dsn, ledger=True), shared=True, lose=lose_its_session, held_for=0.1
    )
    assert report.skipped == ()
