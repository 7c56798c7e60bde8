"""Every locker of ours against every promise of `AdvisoryLocker`, by the check that users run on theirs."""

from __future__ import annotations

from typing import Any

import trio
from postgres_view import terminate

from tickrunner_trio import PostgresLocker
from tickrunner_trio.testing import check_advisory_locker


async def test_the_postgres_locker(dsn: str) -> None:
    async def lose(locker: Any, lock_id: int) -> None:
        await trio.to_thread.run_sync(terminate, dsn)

    report = await check_advisory_locker(lambda: PostgresLocker(dsn), shared=True, lose=lose)
    assert report.skipped == ()
