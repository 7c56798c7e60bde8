"""A locker for one process: what an application without replicas runs on, and the model that tests hold others to."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from .._lock_ids import checked_lock_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..abc import Lease


@dataclass(frozen=True, slots=True, eq=False)
class _MemoryLease:
    lock_id: int
    epoch: int

    @property
    def lost(self) -> bool:
        """Memory does not go away under a process that lives."""
        return False


class MemoryLocker:
    """An `AdvisoryLocker` within one process: services that share the object exclude each other, also across threads.

    It keeps no lock past the process and none from other processes. Its epochs count up over all of its locks.
    """

    def __init__(self) -> None:
        self._held: dict[int, object] = {}
        self._epochs = itertools.count(1)

    async def with_advisory_lock(self, lock_id: int, fn: Callable[[Lease], Awaitable[None]]) -> bool:
        """Try the lock once; if it was had, run ``fn`` under it. See `AdvisoryLocker.with_advisory_lock`.

        Raises:
            TypeError: ``lock_id`` is not an int.
            ValueError: ``lock_id`` does not fit into a signed 64-bit integer.
            BaseException: whatever ``fn`` raised, as it is.

        Cancellation handling: one checkpoint before the lock is tried, none between the grant and ``fn``; the lock is
        let go synchronously when ``fn`` has stopped.
        """
        checked_lock_id(lock_id)
        await trio.lowlevel.checkpoint()
        holder = object()
        # One atomic step, also for a second Trio run in another thread; the epoch is drawn once the lock is had.
        if self._held.setdefault(lock_id, holder) is not holder:
            return False
        try:
            await fn(_MemoryLease(lock_id, next(self._epochs)))
        finally:
            del self._held[lock_id]
        return True

    def __repr__(self) -> str:
        return f"<MemoryLocker: {len(self._held)} held>"
