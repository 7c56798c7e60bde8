"""The book of locks: what this process holds, asks for and lets go of, and who is told what.

It stands between the Trio loop and the session's thread: both write into it under one mutex, which is held for no I/O.
It must not know what is said to the server, nor how anybody waits. Each lock that somebody wants is a `PostgresLease`,
and goes one way::

                                      the server            the work stopped, a hold ended,
           want()        next_batch()  said true            or the caller was cancelled
    (new) ---------> WANTED ------> ASKED -----------> HELD --------------------------------> LEAVING
      |                |              |                 |                                        |
      | refused, or    | cancelled    | said false      | the session was lost,                  | the server let it go,
      | in use here    |              |                 | or the lease is over                   | or its session is
      v                v              v                 v              the work stopped          v closed
     FREE            FREE           FREE               LOST --------------------------------->  FREE

All locks of a session share one `Deadline`, at which they are lost. It is judged by whoever looks first, the thread,
the Trio loop or the work itself, so no blocked loop and no blocked thread can hide it.

Invariants, beside those of the deadline, of the `HoldEnds`, of the `UnwrittenResults` and of the `Waker` in it:

1. An id is in the book from before the server is asked for it until the server has let it go or its session is closed,
   and until the work under it has stopped. It is refused meanwhile, since the locks of one session are re-entrant.
2. A lock is granted only by an answer that came before the deadline; what was lost stays lost.
3. After `lose_session` nothing that was asked of that session is asked of the next one.
4. Everybody who waits is answered exactly once: by the server's answer, by the refusal, or by the end of the session.
5. A hold ends at its time by `next_batch`, in the thread; a lock whose work runs has no such time.
6. The session never holds more locks than it may, but for those that somebody's lock on their rows kept back, once,
   when others were asked for in their place. What is wanted beyond that is asked for as soon as there is room, and
   refused when all room is taken by locks that are held.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, TypeAlias

from .._errors import DatabaseUnavailableError, LockerConfigurationError
from .._telemetry._meters import SessionTally
from ._batch import Batch
from ._deadline import Deadline
from ._hold_ends import HoldEnds
from ._lease import LeaseState
from ._losses import Loss
from ._statistics import LockerStatistics
from ._unwritten import UnwrittenResults
from ._waker import Waker

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from ._batch import Answer
    from ._lease import PostgresLease
    from ._ledger_lease import LedgerLease
    from ._timing import LeaseTiming
    from ._waker import Rouse

    Refusal: TypeAlias = tuple[type[Exception], str]

MOST_LOCKS = 1_000
"""How many locks one session holds at most: each statement looks at all of them, 48 us for so many, measured."""

_FULL = (
    f"this process holds %d locks already, and a PostgresLocker holds no more: at most {MOST_LOCKS}, and at most a "
    "quarter of max_locks_per_transaction x max_connections, because the server's lock table is for everybody: run "
    "fewer services per process, or raise max_locks_per_transaction"
)

EXPIRED = "PostgreSQL has answered nothing for too long: the lease on its locks is over"


class LockBook:
    """See the module, and the headings below for who may call what.

    Args:
        timing: of the lease.
        clock: seconds, going on during suspend.
        rouse: see `Waker`; called outside of the mutex.
        tally: of the sessions; None: one that nobody else reads.
    """

    def __init__(
        self, timing: LeaseTiming, clock: Callable[[], float], rouse: Rouse, tally: SessionTally | None = None
    ) -> None:
        self._timing = timing
        self._clock = clock
        self._tally = SessionTally(Loss) if tally is None else tally
        # Guards everything below, and the leases' own. A signal handler, or an object that the garbage collector takes
        # away, may ask `statistics` or `lost` in the middle of it, in the same thread: these only read, so they may.
        self._mutex = threading.RLock()
        self._refusal: Refusal | None = (DatabaseUnavailableError, "the first connection is still being made")
        self._most = 0
        self.deadline = Deadline(timing)  #: Of all that is held. Its figures may be read without the mutex.
        self._in_use: dict[int, PostgresLease] = {}
        self._wanted: list[PostgresLease] = []
        self._leaving: list[PostgresLease] = []
        self._unwritten = UnwrittenResults(timing.lease)  # of locks that leave again
        self._holds = HoldEnds()  # of the locks without work
        self._holds_end = True  # by themselves
        self._lost_work: dict[PostgresLease, float] = {}  # what has not stopped yet, and when it should have
        self._waker = Waker(rouse)
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
            wakes = self._waker.is_needed()
        if wakes:
            self._waker.wake()
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
            wakes = self._waker.is_needed()
        if wakes:
            self._waker.wake()

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
            wakes = self._waker.is_needed()
        if wakes:
            self._waker.wake()
        return follows

    def hurry(self, lease: LedgerLease) -> None:
        """See `UnwrittenResults.hurry`."""
        with self._mutex:
            self._unwritten.hurry(lease, self._clock())

    def let_go_after(self, lease: PostgresLease, seconds: float) -> bool:
        """See `PostgresLease.let_go_after`."""
        with self._mutex:
            now = self._clock()
            if lease.state is not LeaseState.HELD or now >= self.deadline.at or not self._holds_end:
                return False
            ends_at = now + seconds
            self._holds.set(lease, ends_at)
            # For each beat the thread wakes by itself, and looks.
            wakes = seconds <= self._timing.beat and self._waker.is_needed_by(ends_at)
        if wakes:
            self._waker.wake(at_once=True)  # the loop may be blocked before it has run whatever is ready
        return True

    def end_no_more_holds(self) -> None:
        """From now on no hold ends by itself: all that is held is about to be lost, and whoever holds is told so."""
        with self._mutex:
            self._holds_end = False

    # For whoever looks.

    def loss_of(self, lease: PostgresLease) -> str | None:
        """Why the lock is lost, or None."""
        if lease.state is LeaseState.HELD and self._clock() < self.deadline.at:
            return None  # so it was a moment ago, without the mutex: each tick asks twice
        with self._mutex:
            if lease.state is LeaseState.HELD and self.deadline.has_passed(self._clock()):
                return EXPIRED
            return lease.marked_lost

    def lost_for(self, lease: PostgresLease) -> float:
        """Return for how many seconds the lock has been lost; 0 while it is not."""
        with self._mutex:
            now = self._clock()
            has_passed = lease.state is LeaseState.HELD and self.deadline.has_passed(now)
            return max(0.0, now - (self.deadline.passed_at if has_passed else lease.lost_at))

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
            self.deadline.put_off(answered_at)
            self._refusal = None

    def next_batch(self) -> Batch:
        """Return what is to be asked now; with nothing in it, the thread may sleep until `due_at`."""
        with self._mutex:
            now = self._clock()
            for lease in self._holds.take_due(now) if self._holds_end else ():
                lease.own_end = True
                self._leave(lease)
            # Nothing is asked now, so what is in use is held, about to leave, or wanted.
            room = self._most - (len(self._in_use) - len(self._leaving) - len(self._wanted))
            # Those with results are kept once more, perhaps, so they make no room.
            releases, self._leaving = self._leaving + self._unwritten.take_due(now), []
            acquires: list[PostgresLease] = []
            refused: list[Answer] = []
            most = min(room, MOST_LOCKS - len(releases))
            wanted, self._wanted = self._wanted, []
            for lease in wanted:
                if lease.abandoned:
                    self._free(lease)
                elif len(acquires) < most:
                    lease.state = LeaseState.ASKED
                    acquires.append(lease)
                elif room > 0:  # the next statement knows how many of these were had
                    self._wanted.append(lease)
                else:
                    self._free(lease)
                    refused.append((lease, LockerConfigurationError(_FULL % self._most)))
            self._waker.looked(len(releases) + len(acquires))
            return Batch(releases, acquires, refused)

    def due_at(self) -> float:
        """Return when the next hold ends, or a result is to be tried again, or earlier; the thread will look then."""
        with self._mutex:
            next_end = self._holds.next_at() if self._holds_end else math.inf
            self._waker.looks_at = min(next_end, self._unwritten.next_at)
            return self._waker.looks_at

    def answered(
        self, batch: Batch, granted: list[bool], sent_at: float, unwritten: Collection[PostgresLease] = ()
    ) -> list[Answer] | None:
        """Take the server's answer to a batch and to its acquires; return who is told what. None: it came too late.

        Of the releases, those are not done whose results could not be written.
        """
        with self._mutex:
            now = self._clock()
            if self.deadline.has_passed(now):
                return None
            self.deadline.put_off(sent_at)
            self._round_trip = now - sent_at
            if size := len(batch):
                self._batches += 1
                self._largest = max(self._largest, size)
            answers: list[Answer] = []
            if unwritten:
                self._unwritten.keep(unwritten, now)
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
            lost_at = self.deadline.passed_at if self.deadline.has_passed(now) else now
            self.deadline.end()
            stop_by = self.deadline.server_ends_at()
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
            self._unwritten.clear()
            return [(lease, True) for lease in closed]

    def lost_work_runs(self) -> bool:
        """Whether work under a lock that was lost has not stopped yet; the thread may sleep until it is roused."""
        with self._mutex:
            if self._lost_work:
                self._waker.sleeps()
            return bool(self._lost_work)

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

    def _leave(self, lease: PostgresLease) -> None:
        if lease.state is LeaseState.HELD and self.deadline.has_passed(self._clock()):
            lease.marked_lost, lease.lost_at = EXPIRED, self.deadline.passed_at  # what somebody was told stays true
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
