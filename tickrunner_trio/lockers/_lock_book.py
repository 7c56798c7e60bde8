"""The book of locks: what this process holds, asks for and lets go of, and until when it may rely on it.

It stands between the Trio loop and the session's thread: both write into it under one mutex, which is held for no I/O.
Each lock that somebody wants is a `PostgresLease`, and goes one way::

                                      the server            the work stopped, a hold ended,
           want()        next_batch()  said true            or the caller was cancelled
    (new) ---------> WANTED ------> ASKED -----------> HELD --------------------------------> LEAVING
      |                |              |                 |                                        |
      | refused, or    | cancelled    | said false      | the session was lost,                  | the server let it go,
      | in use here    |              |                 | or the lease is over                   | or its session is
      v                v              v                 v              the work stopped          v closed
     FREE            FREE           FREE               LOST --------------------------------->  FREE

All locks of a session share one deadline, at which they are lost: so long after the sending of the last statement that
was answered. It is judged by whoever looks first, the thread, the Trio loop or the work itself, so no blocked loop and
no blocked thread can hide it.

Invariants:

1. An id is in the book from before the server is asked for it until the server has let it go or its session is closed,
   and until the work under it has stopped. It is refused meanwhile, since the locks of one session are re-entrant.
2. Once anybody saw that the deadline has passed, it never moves again: what was lost stays lost.
3. A lock is granted only by an answer that came before the deadline.
4. After `lose_session` nothing that was asked of that session is asked of the next one.
5. Everybody who waits is answered exactly once: by the server's answer, by the refusal, or by the end of the session.
6. A hold ends at its time by `next_batch`, in the thread; a lock whose work runs has no such time.
7. A lock whose result could not be written is asked to be let go of again, after a while, until it is.
8. The session never holds more locks than it may, but for those that somebody's lock on their rows kept back, once,
   when others were asked for in their place. What is wanted beyond that is asked for as soon as there is room, and
   refused when all room is taken by locks that are held.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import threading
from typing import TYPE_CHECKING, Protocol, TypeAlias

from .._errors import DatabaseUnavailableError, LockerConfigurationError
from .._telemetry._meters import SessionTally
from ._hold_ends import HoldEnds
from ._lease import LeaseState
from ._losses import Loss
from ._statistics import LockerStatistics

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from ._lease import PostgresLease
    from ._ledger_lease import LedgerLease
    from ._timing import LeaseTiming

    class Rouse(Protocol):
        def __call__(self, *, at_once: bool) -> None: ...

    Refusal: TypeAlias = tuple[type[Exception], str]
    Answer: TypeAlias = tuple[PostgresLease, bool | Exception]

MOST_LOCKS = 1_000
"""How many locks one session holds at most: each statement looks at all of them, 48 us for so many, measured."""

_FULL = (
    f"this process holds %d locks already, and a PostgresLocker holds no more: at most {MOST_LOCKS}, and at most a "
    "quarter of max_locks_per_transaction x max_connections, because the server's lock table is for everybody: run "
    "fewer services per process, or raise max_locks_per_transaction"
)

# For 100 tasks, waiting for each other before the thread is woken gave half as many pairs again; a task that is alone
# would wait for nothing.
_COMPANY = 8

#: Seconds until a result that could not be written is tried again: somebody has its row locked.
_UNWRITTEN_SECONDS = 0.2

EXPIRED = "PostgreSQL has answered nothing for too long: the lease on its locks is over"


class _Thread(enum.Enum):
    ASLEEP = enum.auto()
    WOKEN_SOON = enum.auto()  # it sleeps, and Trio wakes it when it has run whatever is ready
    AWAKE = enum.auto()  # or as good as: it will look into the book before it sleeps


@dataclasses.dataclass(slots=True)
class Batch:
    """What goes to the server in one statement, `MOST_LOCKS` at most, and who is not asked for."""

    releases: list[PostgresLease]
    acquires: list[PostgresLease]
    refused: list[Answer] = dataclasses.field(default_factory=list["Answer"])

    def __len__(self) -> int:
        return len(self.releases) + len(self.acquires)

    def lock_ids(self) -> Iterator[int]:
        """The ids, releases first."""
        for leases in (self.releases, self.acquires):
            for lease in leases:
                yield lease.lock_id


class LockBook:
    """See the module, and the headings below for who may call what.

    Args:
        timing: of the lease.
        clock: seconds, going on during suspend.
        rouse: called, outside of the mutex, when the thread sleeps and there is something for it to do. ``at_once``:
            it must not wait until Trio has run whatever is ready.
        tally: of the sessions; None: one that nobody else reads.
    """

    def __init__(
        self, timing: LeaseTiming, clock: Callable[[], float], rouse: Rouse, tally: SessionTally | None = None
    ) -> None:
        self._timing = timing
        self._clock = clock
        self._rouse = rouse
        self._tally = SessionTally(Loss) if tally is None else tally
        # Guards everything below, and the leases' own. A signal handler, or an object that the garbage collector takes
        # away, may ask `statistics` or `lost` in the middle of it, in the same thread: these only read, so they may.
        self._mutex = threading.RLock()
        self._refusal: Refusal | None = (DatabaseUnavailableError, "the first connection is still being made")
        self._most = 0
        self._answered_at = -math.inf  # when the last answered statement was sent
        self._expires_at = -math.inf
        self._expired_at = -math.inf  # when it last did so by itself
        self._in_use: dict[int, PostgresLease] = {}
        self._wanted: list[PostgresLease] = []
        self._leaving: list[PostgresLease] = []
        self._unwritten: list[PostgresLease] = []  # they leave again
        self._write_at = math.inf  # then
        self._holds = HoldEnds()  # of the locks without work
        self._looks_at = math.inf  # when the thread, which sleeps, looks at the holds by itself, at the latest
        self._holds_end = True  # by themselves
        self._lost_work: dict[PostgresLease, float] = {}  # what has not stopped yet, and when it should have
        self._thread_is = _Thread.ASLEEP
        self._is_alone = True  # few asked at once lately, so there is nobody to wait for
        self._batches = self._largest = self._outlived = 0
        self._round_trip: float | None = None

    # For callers, in Trio's thread.

    def want(self, lease: PostgresLease) -> bool:
        """Have the server asked for a lock. False: this process has it, and there will be no answer.

        Raises:
            Exception: the refusal, unless a session is ready.
        """
        with self._mutex:
            if self._refusal is not None:
                raise error_of(self._refusal)
            if lease.lock_id in self._in_use:
                return False
            self._in_use[lease.lock_id] = lease
            lease.state = LeaseState.WANTED
            self._wanted.append(lease)
            rouses = self._is_to_be_roused()
        if rouses:
            self._rouse(at_once=self._is_alone)
        return True

    def abandon(self, lease: PostgresLease) -> None:
        """The caller was cancelled before the answer reached it: whatever the server says, no lock is left."""
        lease.hurry()  # nobody waits for what becomes of its row
        with self._mutex:
            lease.abandoned = True
            if lease.state is LeaseState.HELD:
                self._leave(lease)
            elif lease.state is LeaseState.LOST:
                self._free(lease)
            rouses = self._is_to_be_roused()
        if rouses:
            self._rouse(at_once=self._is_alone)

    def give_back(self, lease: PostgresLease) -> bool:
        """The work has stopped: let go of its lock. True: an answer follows when it is free. False: it is."""
        with self._mutex:
            if lease.state is LeaseState.FREE:  # its hold has ended by itself, and the server let it go since then
                return False
            if lease.state is LeaseState.HELD:
                self._leave(lease)
            elif lease.state is LeaseState.LOST:
                self._free(lease)
            follows = lease.state is LeaseState.LEAVING
            rouses = self._is_to_be_roused()
        if rouses:
            self._rouse(at_once=self._is_alone)
        return follows

    def hurry(self, lease: LedgerLease) -> None:
        """Try for one lease at most to write its result."""
        with self._mutex:
            lease.write_until = min(lease.write_until, self._clock() + self._timing.lease)

    def let_go_after(self, lease: PostgresLease, seconds: float) -> bool:
        """See `PostgresLease.let_go_after`."""
        with self._mutex:
            now = self._clock()
            if lease.state is not LeaseState.HELD or now >= self._expires_at or not self._holds_end:
                return False
            ends_at = now + seconds
            self._holds.set(lease, ends_at)
            # For each beat the thread wakes by itself, and looks; and for the end of a hold that it knows of.
            if seconds > self._timing.beat or self._thread_is is _Thread.AWAKE or ends_at >= self._looks_at:
                return True
            self._thread_is = _Thread.AWAKE
        self._rouse(at_once=True)  # the loop may be blocked before it has run whatever is ready
        return True

    def end_no_more_holds(self) -> None:
        """From now on no hold ends by itself: all that is held is about to be lost, and whoever holds is told so."""
        with self._mutex:
            self._holds_end = False

    # For whoever looks.

    def is_gone(self, lease: PostgresLease) -> bool:
        """Whether work may no longer run under the lock."""
        return self.loss_of(lease) is not None or lease.own_end

    def loss_of(self, lease: PostgresLease) -> str | None:
        """Why the lock is lost, or None."""
        if lease.state is LeaseState.HELD and self._clock() < self._expires_at:
            return None  # so it was a moment ago, without the mutex: each tick asks twice
        with self._mutex:
            if lease.state is LeaseState.HELD and self._has_expired():
                return EXPIRED
            return lease.marked_lost

    def lost_for(self, lease: PostgresLease) -> float:
        """Return for how many seconds the lock has been lost; 0 while it is not."""
        with self._mutex:
            lost_at = lease.lost_at
            if lease.state is LeaseState.HELD and self._has_expired():
                lost_at = self._expired_at
            return max(0.0, self._clock() - lost_at)

    def seconds_left(self) -> float:
        """Return how long the locks may be relied upon if nothing more is answered; 0 once they may not."""
        with self._mutex:
            return max(0.0, self._expires_at - self._clock())

    def refusal(self) -> Exception | None:
        """Return what `want` would raise now; None while a session is ready."""
        with self._mutex:
            return None if self._refusal is None else error_of(self._refusal)

    def statistics(self) -> LockerStatistics:
        """Return a snapshot."""
        with self._mutex:
            states = [lease.state for lease in self._in_use.values()]
            return LockerStatistics(
                held=states.count(LeaseState.HELD),
                waiting=states.count(LeaseState.WANTED) + states.count(LeaseState.ASKED),
                sessions_opened=self._tally.opened,
                sessions_lost=sum(self._tally.lost.values()),
                batches=self._batches,
                largest_batch=self._largest,
                last_round_trip=self._round_trip,
                outlived=self._outlived,
            )

    # For the session's thread.

    def session_opened(self, answered_at: float, lock_table: int) -> None:
        """A session is ready: its first statement that was sent at ``answered_at`` has been answered."""
        with self._mutex:
            self._tally.opened += 1
            self._most = max(1, min(MOST_LOCKS, lock_table // 4))
            self._answered_at = answered_at
            self._expires_at = answered_at + self._timing.cancel_after
            self._refusal = None

    def next_batch(self) -> Batch:
        """Return what is to be asked now; with nothing in it, the thread may sleep until `next_hold_end`."""
        with self._mutex:
            now = self._clock()
            for lease in self._holds.take_due(now) if self._holds_end else ():
                lease.own_end = True
                self._leave(lease)
            kept = 0
            if now >= self._write_at:
                kept = len(self._unwritten)  # once more, perhaps: they make no room
                self._leaving += self._unwritten
                self._unwritten, self._write_at = [], math.inf
            batch = Batch(self._leaving, [])
            self._leaving = []
            # Nothing is asked now, so what is in use is held, about to leave, or wanted.
            room = self._most - (len(self._in_use) - len(batch.releases) + kept - len(self._wanted))
            most = min(room, MOST_LOCKS - len(batch.releases))
            wanted, self._wanted = self._wanted, []
            for lease in wanted:
                if lease.abandoned:
                    self._free(lease)
                elif len(batch.acquires) < most:
                    lease.state = LeaseState.ASKED
                    batch.acquires.append(lease)
                elif room > 0:  # the next statement knows how many of these were had
                    self._wanted.append(lease)
                else:
                    self._free(lease)
                    batch.refused.append((lease, LockerConfigurationError(_FULL % self._most)))
            self._thread_is = _Thread.AWAKE if batch else _Thread.ASLEEP
            if batch:
                self._is_alone = len(batch) < _COMPANY
            return batch

    def next_hold_end(self) -> float:
        """Return when the next hold ends, or a result is to be tried again, or earlier; the thread will look then."""
        with self._mutex:
            self._looks_at = min(self._holds.next_at() if self._holds_end else math.inf, self._write_at)
            return self._looks_at

    def reply_deadline(self, sent_at: float) -> float:
        """Return until when a statement that is sent now must be answered; also when it was sent late."""
        return min(sent_at + self._timing.reply, self._expires_at)  # if that passes meanwhile, `answered` says so

    def answered(
        self, batch: Batch, granted: list[bool], sent_at: float, unwritten: Collection[PostgresLease] = ()
    ) -> list[Answer] | None:
        """Take the server's answer to a batch and to its acquires; return who is told what. None: it came too late.

        Of the releases, those are not done whose results could not be written.
        """
        with self._mutex:
            if self._has_expired(now := self._clock()):
                return None
            self._round_trip = now - sent_at
            self._answered_at = sent_at
            self._expires_at = sent_at + self._timing.cancel_after
            if batch:
                self._batches += 1
                self._largest = max(self._largest, len(batch))
            answers: list[Answer] = []
            if unwritten:
                self._unwritten += unwritten
                self._write_at = min(self._write_at, now + _UNWRITTEN_SECONDS)
            for lease in batch.releases:
                if lease not in unwritten:
                    self._free(lease)
                    answers.append((lease, True))
            for lease, had in zip(batch.acquires, granted, strict=True):
                if not had:
                    self._free(lease)
                elif lease.abandoned:
                    self._leave(lease)
                else:
                    lease.state = LeaseState.HELD
                answers.append((lease, had))
            return answers

    def lose_session(
        self, reason: str, refusal: Refusal, *, left: bool, server_has_it: bool, loss: Loss = Loss.ENDED
    ) -> tuple[list[PostgresLease], list[Answer]]:
        """Refuse what comes and lose what is held; return the locks lost, and who is told what of those that waited.

        Releases are answered by `session_closed`.

        Args:
            reason: why the session is lost.
            refusal: what `want` raises from now on.
            left: the end of the session was our own wish.
            server_has_it: nobody has seen the server end it, so that it keeps the locks until their lease is over.
            loss: the kind of reason, to be counted unless it was our own wish.
        """
        with self._mutex:
            if self._refusal is None and not left:
                self._tally.lost[loss] += 1
            self._refusal = refusal
            now = self._clock()
            lost_at = self._expired_at if self._has_expired() else now
            self._expires_at = -math.inf
            self._thread_is = _Thread.ASLEEP
            stop_by = self._answered_at + self._timing.lease
            if not server_has_it:  # it lets rivals in by now, so the work has what it was promised and no more
                stop_by = min(stop_by, now + self._timing.cleanup)
            lost: list[PostgresLease] = []
            answers: list[Answer] = []
            for lease in self._in_use.values():
                if lease.state is LeaseState.HELD:
                    lease.state, lease.marked_lost, lease.lost_at = LeaseState.LOST, reason, lost_at
                    if lease not in self._holds:  # under which no work runs, so nothing has to stop
                        self._lost_work[lease] = stop_by
                    lost.append(lease)
                elif lease.state in (LeaseState.WANTED, LeaseState.ASKED):
                    answers.append((lease, error_of(refusal)))
            self._holds.clear()
            self._wanted.clear()
            return lost, answers

    def session_closed(self) -> list[Answer]:
        """The session of `lose_session` is closed, so the server lets all go: return who is told that."""
        with self._mutex:
            closed = [lease for lease in self._in_use.values() if lease.state is not LeaseState.LOST]
            for lease in closed:
                self._free(lease)
            self._leaving = []
            self._unwritten, self._write_at = [], math.inf
            return [(lease, True) for lease in closed]

    def lost_work_runs(self) -> bool:
        """Whether work under a lock that was lost has not stopped yet; the thread may sleep until it is roused."""
        with self._mutex:
            self._thread_is = _Thread.ASLEEP if self._lost_work else _Thread.AWAKE
            return bool(self._lost_work)

    def server_keeps_until(self) -> float:
        """Return when the server will have ended the session by itself, if it lives and hears nothing more."""
        with self._mutex:
            return self._answered_at + self._timing.lease

    def outlived(self) -> list[PostgresLease]:
        """Return, once each, the lost locks whose work has used up its time to stop."""
        if not self._lost_work:  # it grows by this thread alone, which asks twice per statement
            return []
        with self._mutex:
            now = self._clock()
            late = [lease for lease, stop_by in self._lost_work.items() if stop_by <= now]
            self._lost_work |= dict.fromkeys(late, math.inf)
            self._outlived += len(late)
            return late

    # Under the mutex.

    def _is_to_be_roused(self) -> bool:
        """Whether the thread sleeps and nobody has roused it yet; who asks does it."""
        if self._thread_is is not _Thread.ASLEEP:
            return False
        self._thread_is = _Thread.AWAKE if self._is_alone else _Thread.WOKEN_SOON
        return True

    def _has_expired(self, now: float | None = None) -> bool:
        if (self._clock() if now is None else now) < self._expires_at:
            return False
        self._expired_at = max(self._expired_at, self._expires_at)
        self._expires_at = -math.inf  # seen is seen: no answer that is still on its way takes it back
        return True

    def _leave(self, lease: PostgresLease) -> None:
        if lease.state is LeaseState.HELD and self._has_expired():
            lease.marked_lost, lease.lost_at = EXPIRED, self._expired_at  # what somebody was told stays true
        lease.state = LeaseState.LEAVING
        self._holds.drop(lease)
        self._leaving.append(lease)

    def _free(self, lease: PostgresLease) -> None:
        lease.state = LeaseState.FREE
        self._lost_work.pop(lease, None)
        del self._in_use[lease.lock_id]


def error_of(refusal: Refusal) -> Exception:
    """Make the error that a refused caller gets; each gets its own."""
    kind, reason = refusal
    return kind(reason)
