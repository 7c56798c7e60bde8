"""The client's side of a simulated lock world: what the session thread of a `PostgresLocker` does, as a state machine.

Pure: the time comes in as an argument, and nothing waits. A round trip takes no time, unless the way is cut::

              attempt answered                    no answer in time, or the lease is over
    CLOSED ------------------------> READY ----------------------------------------------> PARTING
      ^  ^                             |                                                      |
      |  |   the server ended it,      |               the work under the lost locks has      |
      |  +-- and we are in touch ------+               stopped, or the server has ended it    |
      +---------------------------------------------------------------------------------------+

A session is out of touch while its replica is *cut* off from the server (nothing arrives, silently) or *frozen* (it
does nothing). With c the sending of the last statement that was answered, and `LeaseTiming` of the real thing:

- out of touch, the server ends it at c + lease, and c was where between two beats the fault fell: chance decides;
- cut, the next statement (at c + beat at the latest) waits for its answer for ``reply``, at most until c +
  ``cancel_after``; if the way is back before, it costs nothing, else the locks are lost, the work is cancelled;
- frozen, it does nothing until the thaw; back before c + ``cancel_after``, it costs nothing, else the locks are lost.

Invariants:

1. `is_expired` is true from c + ``cancel_after`` on, also while nothing of the replica runs, and never turns false.
2. An id is in use from before the server is asked until its lock is free and the work under it has stopped: the locks
   of one session are re-entrant.
3. After READY is left, the locks of that session are lost, and nobody is granted one of it.
4. The client gives up before the server frees its locks, by ``cleanup`` at least, unless it was frozen or dropped.
"""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING, Protocol

from ..lockers._backoff import LONGEST_SECONDS, Backoff

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from ..lockers import LeaseTiming
    from ._lock_server import Backend, LockServer

# As the session thread of a PostgresLocker: an attempt to connect fails after so long.
_CONNECT_SECONDS = 5.0

#: From the return of the server or the way, the longest until a session is ready.
LONGEST_RETURN = LONGEST_SECONDS


class SessionState(enum.Enum):
    CLOSED = enum.auto()
    READY = enum.auto()
    PARTING = enum.auto()


class Holder(Protocol):
    """Whoever wants or has a lock of the session."""

    lock_id: int
    is_held: bool  #: The server granted it and it was not given back: it is lost with the session.

    def lose(self) -> None:
        """The lock is lost: the work under it is to stop."""
        ...


class LockSession:
    """See the module.

    Args:
        server: the one that all replicas share.
        replica: the name of this one.
        timing: what follows from the lease.
        chance: decides what the fault's moment and the backoff would.
        changed: called when something has changed that somebody may be waiting for, `next_at` included.
    """

    def __init__(
        self,
        server: LockServer,
        replica: str,
        timing: LeaseTiming,
        *,
        chance: random.Random,
        changed: Callable[[], object],
    ) -> None:
        self._server = server
        self._replica = replica
        self._timing = timing
        self._chance = chance
        self._changed = changed
        self.state = SessionState.CLOSED
        self.backend: Backend | None = None
        self.reason = "the first connection is still being made"
        self._cut = 0
        self._frozen = 0
        self._is_over = False
        self._in_use: dict[int, Holder] = {}
        self._lingering: list[Backend] = []  # closed by us while the way was cut: the server does not know yet
        self._answered_at = 0.0  # c, or a time before it
        self._is_silent = False  # c is known exactly
        self._asked_at = math.inf  # when the statement was sent that nobody has answered
        self._opened_at = 0.0
        self._resumed_at = 0.0  # of what was due before, while it was frozen, nothing has happened
        self._attempt_at = 0.0
        self._tries_until = -math.inf
        self._backoff = Backoff(chance.uniform)

    # What is the case.

    @property
    def is_in_touch(self) -> bool:
        """Whether a statement would be answered at once."""
        return not self._cut and not self._frozen

    @property
    def is_over(self) -> bool:
        """Whether its process has ended."""
        return self._is_over

    def is_expired(self, now: float) -> bool:
        """Whether the lease is over by this side's own clock: the cancel point has passed."""
        return self._is_silent and now >= self._answered_at + self._timing.cancel_after

    def next_at(self) -> float:
        """Return when `advance` has something to do by itself that somebody may be waiting for."""
        if self._frozen or self._is_over:
            return math.inf
        if self.state is SessionState.READY:
            return self._gives_up_at()
        if self.state is SessionState.PARTING:
            return max(self._answered_at + self._timing.lease, self._resumed_at)
        return math.inf  # closed: whoever asks for a lock brings it up to date

    # What time and the world do to it. Each brings it up to date first.

    def started(self, now: float, *, cut: int, frozen: int) -> None:
        """The process begins, in a world where its machine may be cut off or frozen."""
        self._cut, self._frozen = cut, frozen
        self._attempt_at = now
        self.advance(now)

    def advance(self, now: float) -> None:
        """Do what was due by now."""
        self._server.end_the_silent(now)
        beat_at = self._answered_at + self._timing.beat
        is_cut_off = self._cut and not self._frozen and self.state is SessionState.READY
        if is_cut_off and self._asked_at == math.inf and beat_at <= now:
            self._asked_at = beat_at
        while not self._frozen and not self._is_over:
            if self.state is SessionState.CLOSED and self._attempt_at <= now:
                self._attempt(self._attempt_at)
            elif self.state is not SessionState.CLOSED and self.next_at() <= now:
                if self.state is SessionState.READY:
                    self._give_up(self.next_at())
                else:
                    self._close(self.next_at())
            else:
                return

    def freeze(self, now: float) -> None:
        """From now on it does nothing. Each needs a `thaw`."""
        self.advance(now)
        self._fall_silent(now)
        self._frozen += 1

    def thaw(self, now: float) -> None:
        self.advance(now)
        self._frozen -= 1
        self._resume(now)

    def cut(self, now: float) -> None:
        """From now on nothing gets through. Each needs a `mend`."""
        self.advance(now)
        self._fall_silent(now)
        self._cut += 1

    def mend(self, now: float) -> None:
        self.advance(now)
        self._cut -= 1
        if self._cut == 0:
            # What the kernel kept sending arrives, whatever became of the process.
            for backend in self._lingering:
                self._server.end(backend, now)
            self._lingering.clear()
            if self.backend is not None and self._asked_at <= now:
                self._server.hears_nothing(self.backend, now)  # but for the statement that waited; more, it will see
        self._resume(now)

    def drop(self, now: float) -> None:
        """The server ends the session, and says so."""
        self.advance(now)
        if self.backend is not None:
            self._server.end(self.backend, now)
            self._hear_of_the_end(now)

    def end(self, now: float) -> None:
        """The process ends, and the kernel closes its connection."""
        self.advance(now)
        self._is_over = True
        self._part_with_backend(now)
        self._lose("the process has ended")
        self._changed()

    # What the replica's tasks do.

    def reserve(self, holder: Holder) -> bool:
        """Put the id in use; False: it is, in this process."""
        return self._in_use.setdefault(holder.lock_id, holder) is holder

    def ask(self, now: float) -> None:
        """A statement is sent; whether it is answered is what `is_in_touch` tells, now or later."""
        if self.is_in_touch:
            self._answered_at = now
        elif now < self._asked_at:
            self._asked_at = now
            self._changed()

    def released(self, now: float) -> None:
        """Some work under a lost lock has stopped: when all has, there is nothing to keep the session for."""
        if not self._frozen and not self._is_over:
            self._close_if_idle(now)

    def stopped(self, holder: Holder) -> None:
        """The lock is free or lost, and no work runs under it: the id is in use no more."""
        del self._in_use[holder.lock_id]

    # How it goes on.

    def _fall_silent(self, now: float) -> None:
        if self.state is SessionState.READY and self.is_in_touch and self.backend is not None:
            # The last beat was sent at any moment of the last beat's length, but not before the last known statement.
            self._answered_at = max(self._answered_at, now - self._chance.random() * self._timing.beat)
            self._is_silent = True
            self._server.hears_nothing(self.backend, self._answered_at)

    def _gives_up_at(self) -> float:
        if not self._is_silent:
            return math.inf
        asked_at = self._answered_at + self._timing.beat if self._asked_at == math.inf else self._asked_at
        return min(asked_at + self._timing.reply, self._answered_at + self._timing.cancel_after)

    def _resume(self, now: float) -> None:
        """The replica was thawed or its way mended: see how things stand."""
        if self._frozen or self._is_over:
            return
        self._resumed_at = now
        if self.state is SessionState.READY:
            self._resume_ready(now)
        elif self.state is SessionState.PARTING:
            self._close_if_idle(now)
        else:
            # An attempt that was under way succeeds as soon as the way is back; one that was due is made now.
            self._attempt_at = now if now < self._tries_until else max(self._attempt_at, now)
        self.advance(now)

    def _resume_ready(self, now: float) -> None:
        assert self._is_silent  # it was out of touch until now, or still is
        # A statement that was to be sent while it was frozen was not.
        if self.is_expired(now) or self._asked_at + self._timing.reply <= now:
            self._give_up(now)
        elif self.is_in_touch:
            self._hear(now)
        elif self._answered_at + self._timing.beat <= now:
            self._asked_at = min(self._asked_at, now)

    def _hear(self, now: float) -> None:
        """In touch again, in time."""
        assert self.backend is not None
        if self.backend.has_ended:
            self._hear_of_the_end(now)
            return
        if self._asked_at < math.inf:
            self._answered_at = self._asked_at
        if self._answered_at + self._timing.beat <= now:
            self._answered_at = now
        self._is_silent = False
        self._asked_at = math.inf
        self._server.hears(self.backend)
        self._changed()

    def _hear_of_the_end(self, now: float) -> None:
        """The server ended it: if we are in touch, we know it at once."""
        if self.state is not SessionState.CLOSED and self.is_in_touch and not self._is_over:
            self._part_with_backend(now)
            self._lose("the server ended the session")
            self._closed(now)

    def _give_up(self, now: float) -> None:
        self.state = SessionState.PARTING
        self._lose("PostgreSQL has answered nothing for too long")
        self._close_if_idle(now)
        self._changed()

    def _close_if_idle(self, now: float) -> None:
        if not any(holder.is_held for holder in self._in_use.values()):
            self._close(now)

    def _close(self, now: float) -> None:
        self._part_with_backend(now)
        self._closed(now)

    def _closed(self, now: float) -> None:
        self.state = SessionState.CLOSED
        self._is_silent = False
        self._asked_at = math.inf
        self._backoff.session_lived(now - self._opened_at)
        self._attempt_at = now + self._backoff.next_seconds()
        self._changed()

    def _part_with_backend(self, now: float) -> None:
        """Close our end; the server knows when the way is there."""
        backend, self.backend = self.backend, None
        if backend is None or backend.has_ended:
            return
        if self._cut:
            self._lingering.append(backend)
        else:
            self._server.end(backend, now)

    def _lose(self, reason: str) -> None:
        self.reason = reason
        for holder in list(self._in_use.values()):
            holder.lose()

    def _attempt(self, now: float) -> None:
        if not self._cut and self._server.is_there:
            self.backend = self._server.connect(self._replica)
            self.state = SessionState.READY
            self._answered_at = self._opened_at = now
            self._asked_at = math.inf
            self._tries_until = -math.inf
            return
        self._tries_until = now + _CONNECT_SECONDS if self._cut else now
        self._attempt_at = self._tries_until + self._backoff.next_seconds()
        self.reason = "the server cannot be reached"
