"""What a `PostgresLocker` must do whatever the server and the way to it; tests of these call it with theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from postgres_view import locks, never, nothing, terminate

from tickrunner_trio import DatabaseUnavailableError, LockLostError

if TYPE_CHECKING:
    from tickrunner_trio import Lease, PostgresLocker


async def works_again(locker: PostgresLocker) -> None:
    """Wait until it gives locks, while it may say that there is no session."""
    with trio.fail_after(30):
        while True:
            try:
                assert await locker.with_advisory_lock(5, nothing) is True
            except DatabaseUnavailableError:
                await trio.sleep(0.02)
            else:
                return


async def exclude_each_other(one: PostgresLocker, other: PostgresLocker, *, server: str) -> None:
    """While one of two lockers has a lock, the other does not get it, and afterwards does; the server agrees."""
    seen: list[list[int]] = []

    async def work(lease: Lease) -> None:
        assert await other.with_advisory_lock(7, never) is False
        assert await other.with_advisory_lock(8, nothing) is True
        seen.append(locks(server))

    assert await one.with_advisory_lock(7, work) is True
    assert seen == [[7]]
    assert locks(server) == []
    assert await other.with_advisory_lock(7, nothing) is True


async def loses_its_lock_when_terminated(locker: PostgresLocker, *, server: str) -> None:
    """The work is cancelled long before its lease would end, and a new session serves by itself."""
    ended: list[float] = []

    async def work(lease: Lease) -> None:
        terminated_at = trio.current_time()
        terminate(server)
        try:
            await trio.sleep(60)
        finally:
            assert lease.lost
            ended.append(trio.current_time() - terminated_at)

    with pytest.raises(LockLostError, match="the lock 5 was lost while the work ran: "):
        await locker.with_advisory_lock(5, work)
    assert ended[0] < locker.timing.beat
    await works_again(locker)
