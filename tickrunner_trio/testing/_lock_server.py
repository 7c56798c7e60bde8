"""The server's side of a simulated lock world: one PostgreSQL primary, its sessions, and who holds which lock. Pure.

A backend is the server's end of one session. It frees its locks when it ends, and it ends::

    closed by the client, dropped, or the server went away    at once
    unheard of for the lease (idle_session_timeout)           at heard_at + lease, whoever looks whenever

Invariants:

1. A lock has at most one holder, and a backend that has ended holds none.
2. Epochs, if there are any, count up over all locks.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(eq=False, slots=True)
class Backend:
    """The server's end of a session."""

    replica: str  #: Whose session it is.
    silent_since: float = math.inf  #: When the server last heard of a client that is cut off or frozen; inf: it is not.
    locks: dict[int, float] = field(default_factory=dict[int, float])  #: Since when each lock is held.
    has_ended: bool = False


@dataclass(frozen=True, slots=True)
class Grant:
    """A lock was granted."""

    epoch: int | None


@dataclass(frozen=True, slots=True)
class Hold:
    """A lock as the server saw it: who had it, from when to when."""

    replica: str
    lock_id: int
    granted_at: float
    freed_at: float
    kept: bool  #: The client let go of it; else its session ended.


class LockServer:
    """See the module.

    Args:
        lease: after so many seconds without a word from its client a backend ends.
        freed: told of each lock that was held, when it is free again.
        epochs: whether grants have epochs.
    """

    def __init__(self, lease: float, freed: Callable[[Hold], object], *, epochs: bool = True) -> None:
        self._lease = lease
        self._freed = freed
        self._holders: dict[int, Backend] = {}
        self._silent: list[Backend] = []
        self.granted: set[int] = set()  #: Each lock that anybody ever had.
        self._away = 0
        self._epochs = itertools.count(1) if epochs else itertools.repeat(None)

    @property
    def is_there(self) -> bool:
        """Whether it takes connections."""
        return self._away == 0

    def connect(self, replica: str) -> Backend:
        """Open a session."""
        return Backend(replica)

    def held(self, now: float) -> list[Hold]:
        """Return what is held, as if it were freed now."""
        return [
            Hold(backend.replica, lock_id, granted_at, now, kept=True)
            for backend in {id(each): each for each in self._holders.values()}.values()
            for lock_id, granted_at in backend.locks.items()
        ]

    def try_lock(self, backend: Backend, lock_id: int, now: float) -> Grant | None:
        """Grant the lock, or return None: another session has it."""
        self.end_the_silent(now)
        if lock_id in self._holders:
            return None
        self._holders[lock_id] = backend
        backend.locks[lock_id] = now
        self.granted.add(lock_id)
        return Grant(next(self._epochs))

    def unlock(self, backend: Backend, lock_id: int, now: float) -> None:
        """Free a lock that the backend holds."""
        self._free(backend, lock_id, now, kept=True)

    def end(self, backend: Backend, now: float) -> None:
        """End a session and free its locks. Idempotent."""
        if not backend.has_ended:
            backend.has_ended = True
            for lock_id in list(backend.locks):
                self._free(backend, lock_id, now, kept=False)
            self.hears(backend)

    def hears(self, backend: Backend) -> None:
        """The client is in touch again."""
        backend.silent_since = math.inf
        if backend in self._silent:
            self._silent.remove(backend)

    def hears_nothing(self, backend: Backend, since: float) -> None:
        """The client cannot be heard any more; its last word came at ``since``."""
        if not backend.has_ended:
            backend.silent_since = since
            if backend not in self._silent:
                self._silent.append(backend)

    def end_the_silent(self, now: float) -> None:
        """End the sessions whose lease is over by now; each ended when it was."""
        for backend in list(self._silent):
            if backend.silent_since + self._lease <= now:
                self.end(backend, backend.silent_since + self._lease)

    def finish(self, now: float) -> None:
        """Tell of what is still held, as if it were let go of now, and of nothing that comes afterwards."""
        for hold in self.held(now):
            self._freed(hold)
        self._freed = _nobody_hears

    def go_away(self, now: float) -> None:
        """End all sessions, and take no connections from now on. Each needs a `come_back`.

        Their clients hear of it by `LockSession.drop`.
        """
        self._away += 1
        for backend in set(self._holders.values()):
            self.end(backend, now)

    def come_back(self) -> None:
        self._away -= 1

    def _free(self, backend: Backend, lock_id: int, now: float, *, kept: bool) -> None:
        del self._holders[lock_id]
        self._freed(Hold(backend.replica, lock_id, backend.locks.pop(lock_id), now, kept=kept))


def _nobody_hears(_hold: Hold) -> None:
    pass
