"""A locker for one process: what an application without replicas runs on, and the model that tests hold others to.

A hold (`abc.TimedLease`) ends by the clock alone: nobody is woken for it. From its end on the lock counts as free,
which whoever wants it next finds out::

              take()                 let_go_after()
    (free) ----------> HELD, working <------------> HELD until a time ---- the time has come ---> (free), the lease lost
                            |                             |
                            +------ the work stopped -----+---> (free)
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING

import trio

from .._lock_ids import checked_lock_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..abc import Lease


class _MemoryLease:
    __slots__ = ("_clock", "_held", "_held_until", "_mutex", "epoch", "lock_id")

    def __init__(self, lock_id: int, held: dict[int, _MemoryLease], mutex: threading.Lock) -> None:
        self.lock_id = lock_id
        self.epoch = 0  # until the lock is had
        self._held = held
        self._mutex = mutex
        self._clock = trio.lowlevel.current_clock()  # that of its own Trio run: whoever looks may belong to another
        self._held_until = math.inf  # once it has passed it never moves

    @property
    def lost(self) -> bool:
        """Whether its hold has ended. Memory does not go away under a process that lives."""
        return self._held_until != math.inf and self._held_until <= self._clock.current_time()

    def let_go_after(self, seconds: float) -> bool:
        """Let the lock go in so many seconds. See `abc.TimedLease`."""
        with self._mutex:  # or a rival could find the hold over, and have the lock, while its holder takes the end back
            now = self._clock.current_time()
            if self._held_until <= now or self._held.get(self.lock_id) is not self:
                return False
            self._held_until = now + seconds
            return True


class MemoryLocker:
    """An `AdvisoryLocker` within one process: services that share the object exclude each other, also across threads.

    It keeps no lock past the process and none from other processes. Its epochs count up over all of its locks.
    """

    def __init__(self) -> None:
        self._held: dict[int, _MemoryLease] = {}
        self._mutex = threading.Lock()  # two Trio runs in two threads may share the locker
        self._epoch = 0

    @property
    def answers_at_once(self) -> bool:
        """True: it asks nobody. See `abc.PromptLocker`. False for a subclass with a question of its own."""
        return type(self).with_advisory_lock is MemoryLocker.with_advisory_lock

    async def with_advisory_lock(self, lock_id: int, fn: Callable[[Lease], Awaitable[None]]) -> bool:
        """Try the lock once; if it was had, run ``fn`` under it. See `AdvisoryLocker.with_advisory_lock`.

        Raises:
            TypeError: ``lock_id`` is not an int.
            ValueError: ``lock_id`` does not fit into a signed 64-bit integer.
            BaseException: whatever ``fn`` raised, as it is.

        Cancellation handling: a cancellation that is pending is raised before the lock is tried; from then on it meets
        ``fn``, whose checkpoints are the only ones. Where the lock was not had, it lets others run before it returns.
        The lock is let go synchronously when ``fn`` has stopped.
        """
        checked_lock_id(lock_id)
        await trio.lowlevel.checkpoint_if_cancelled()
        lease = _MemoryLease(lock_id, self._held, self._mutex)
        if not self._take(lease):
            await trio.lowlevel.cancel_shielded_checkpoint()
            return False
        try:
            await fn(lease)
        finally:
            self._let_go(lease)
        return True

    @trio.lowlevel.enable_ki_protection  # a Ctrl-C in these two would keep the lock from everybody, for ever
    def _take(self, lease: _MemoryLease) -> bool:
        with self._mutex:
            holder = self._held.get(lease.lock_id)
            if holder is not None and not holder.lost:
                return False
            self._held[lease.lock_id] = lease
            self._epoch = lease.epoch = self._epoch + 1
            return True

    @trio.lowlevel.enable_ki_protection
    def _let_go(self, lease: _MemoryLease) -> None:
        with self._mutex:
            if self._held.get(lease.lock_id) is lease:  # somebody may have it who came after the hold
                del self._held[lease.lock_id]

    def __repr__(self) -> str:
        return f"<MemoryLocker: {sum(not lease.lost for lease in tuple(self._held.values()))} held>"
