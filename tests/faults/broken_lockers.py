"""Lockers, each broken in one way on purpose, that the campaign must convict; and the honest one.

Each lives in a process of its own, so it may change the library's modules as it likes.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from tickrunner_trio import PostgresLocker
from tickrunner_trio.lockers import _session_thread
from tickrunner_trio.lockers._lease import LeaseState
from tickrunner_trio.lockers._lock_book import LockBook
from tickrunner_trio.lockers._losses import Loss

if TYPE_CHECKING:
    from tickrunner_trio.lockers._batch import Answer
    from tickrunner_trio.lockers._lease import PostgresLease
    from tickrunner_trio.lockers._lock_book import Refusal


class CancelsTooLate(PostgresLocker):
    """It cancels the work, and notices a late reply, only after the server has let a rival in."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        lease = self._timing.lease
        self._timing = dataclasses.replace(self._timing, reply=1.5 * lease, cancel_after=1.5 * lease)


class LetsGoTooEarly(PostgresLocker):
    """It closes a session in doubt, which frees the locks, before the work under them has stopped."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        _session_thread.SessionThread._let_work_stop = lambda thread: None  # type: ignore[method-assign]


class CarriesLocksOver(PostgresLocker):
    """It goes on as if the locks of a session that has ended were held by the next one."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        _session_thread.LockBook = _CarryingBook  # type: ignore[misc]


class _CarryingBook(LockBook):
    def lose_session(
        self, reason: str, refusal: Refusal, *, left: bool, server_has_it: bool, loss: Loss = Loss.ENDED
    ) -> tuple[list[PostgresLease], list[Answer]]:
        lost, answers = super().lose_session(reason, refusal, left=left, server_has_it=server_has_it, loss=loss)
        if left:
            return lost, answers
        for lease in lost:
            self._in_use.pop(lease.lock_id)
            self._lost_work.pop(lease)
            lease.state, lease.marked_lost = LeaseState.HELD, None
        return [], answers

    def loss_of(self, lease: PostgresLease) -> str | None:
        return lease.marked_lost

    def give_back(self, lease: PostgresLease) -> bool:
        if self._in_use.get(lease.lock_id) is lease:
            return super().give_back(lease)
        lease.state = LeaseState.FREE  # it was carried over, so no server knows of it
        return False


class WithLedger(PostgresLocker):
    """Not broken: it keeps a ledger."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, ledger=True, **options)


LOCKERS: dict[str, type[PostgresLocker]] = {
    "honest": PostgresLocker,
    "honest, with a ledger": WithLedger,
    "cancels too late": CancelsTooLate,
    "lets go too early": LetsGoTooEarly,
    "carries locks over": CarriesLocksOver,
}

#: By which fault each is given away.
GIVEN_AWAY_BY = {
    "cancels too late": "partition both ways",
    "lets go too early": "partition to the client",
    "carries locks over": "pg_terminate_backend",
}
