"""The calls of a PostgreSQL locker that are under way: what each waits for, and what a cancellation does to it.

::

    want() --> waits to be answered --> runs fn in its scope --> give_back() --> waits until it is free --> returns, or
      |            |          |                                      |             (never cancelled)        raises
      | refused,   | busy     | cancelled, or the session is lost    '--- it is free already ----------------^
      | or in use  |          v
      v            v          abandon(): the thread undoes what it may still do
    returns, or raises

All of it in Trio's thread. Who answers is the session's thread, by `PostgresLease.answer`, all of a batch at once.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

import trio

from .._audit import log_safely
from .._errors import DatabaseUnavailableError, LockLostError
from ._lease import PostgresLease
from ._losses import CLOSED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_log = logging.getLogger("tickrunner_trio.lockers.postgres")

_L = TypeVar("_L", bound=PostgresLease)


class Calls:
    """The calls of one locker, from the first to the last thing that each does."""

    def __init__(self) -> None:
        self.are_closed = False  #: No more work begins.
        self._leases = set[PostgresLease]()
        self._returned = trio.lowlevel.ParkingLot()

    async def run(self, lease: _L, fn: Callable[[_L], Awaitable[None]]) -> bool:
        """Run ``fn`` under the lock if it was had; return whether it was. See `PostgresLocker.with_advisory_lock`."""
        try:
            self._leases.add(lease)
            if not await _acquired(lease):
                return False
            try:
                if self.are_closed or lease.loss:  # between the grant and now
                    raise trio.ClosedResourceError(CLOSED) if self.are_closed else DatabaseUnavailableError(lease.loss)
                try:
                    # By it a loss cancels the work; 5 of the 21 us of a lock and its unlock. A nursery would wrap what
                    # fn raises in a group.
                    with lease.scope:
                        await fn(lease)
                except Exception as error:
                    if lease.loss:
                        raise _lost(lease) from error
                    raise
            finally:
                await _released(lease)  # noqa: ASYNC102 - it shields itself, and the thread's deadlines bound it
            if lease.marked_lost:  # before it was handed back
                raise _lost(lease)
        finally:
            self._leases.discard(lease)
            if self.are_closed:
                self._returned.unpark_all()
        return True

    def cancel_what_is_lost(self) -> None:
        """Cancel the work under locks that are lost."""
        for lease in self._leases:
            if lease.loss is not None:
                lease.scope.cancel()

    def give_up_waiting(self, reason: str) -> None:
        """Let all who wait go on, since the thread does not answer."""
        for lease in self._leases:
            lease.answer(DatabaseUnavailableError(reason))

    def close(self) -> None:
        """Let no more work begin, and end what sleeps on after its hold."""
        self.are_closed = True
        for lease in self._leases:
            if lease.own_end:  # what runs under it sleeps, perhaps for long, and nothing is left to be lost
                lease.scope.cancel()

    async def wait_until_all_have_returned(self) -> None:
        """Wait until no call is under way. They are closed, so there will be none after that either."""
        while self._leases:  # noqa: ASYNC913 - without a call there is nothing to wait for
            await self._returned.park()


@trio.lowlevel.enable_ki_protection  # a Ctrl-C between asking and waiting would leave the answer to nobody
async def _acquired(lease: PostgresLease) -> bool:
    """Return whether the lock was had; cancelled, leave it to the thread to undo what it may still do."""
    try:
        is_asked = lease.book.want(lease)
    except Exception:
        await trio.lowlevel.cancel_shielded_checkpoint()  # whoever tries in a loop must not block all others
        raise
    if not is_asked:
        await trio.lowlevel.cancel_shielded_checkpoint()
        return False
    lease.waiting_task = trio.lowlevel.current_task()
    try:
        had: bool = await trio.lowlevel.wait_task_rescheduled(lease.wait_cancelled)
    except Exception:
        lease.book.abandon(lease)  # also when it was not the thread that answered
        raise
    return had


@trio.lowlevel.enable_ki_protection
async def _released(lease: PostgresLease) -> None:
    """Hand the lock back at once, and wait until it is free, or as good as free because its session is closed."""
    if not lease.book.give_back(lease):
        return
    lease.waiting_task = trio.lowlevel.current_task()
    try:
        # No cancellation ends this: the thread answers by a deadline of its own, and if it is stuck, the watchdog does.
        await trio.lowlevel.wait_task_rescheduled(lease.release_cancelled)
    except DatabaseUnavailableError:
        log_safely(_log, logging.WARNING, "nobody confirmed the release of the lock %d in time", lease.lock_id)


def _lost(lease: PostgresLease) -> LockLostError:
    return LockLostError(f"the lock {lease.lock_id} was lost while the work ran: {lease.loss}")
