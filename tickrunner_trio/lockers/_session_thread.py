"""The thread that owns the session of a `PostgresLocker`: it opens it, keeps it up, asks over it, and opens the next.

::

      start                    first beat answered              lost: ended by the server; no reply in time; a failed
        |     .--------------------------------------> READY    statement; an unlock that said false; the lease is over
        v     |                                          |
     CONNECTING --- waiting can mend it ---> DOWN <-- PARTING   the work under its locks is cancelled, and the socket
        ^  ^  '---- waiting cannot ----.      |                 kept open until it has stopped, unless the server ended
        |  |                           v      |                 the session itself
        |  '---- after the backoff -- BROKEN  |
        '------- after the backoff -----------'                 (any state) --- stop(), or a bug ---> PARTING, CLOSED

In READY acquires are asked of the server. In every other state they are refused at once with the reason: DOWN, PARTING,
and CONNECTING for the first time, with `DatabaseUnavailableError`; BROKEN with `LockerConfigurationError`; CLOSED with
`trio.ClosedResourceError`, or RuntimeError after a bug. CONNECTING again keeps the refusal of the last failure.

PARTING is what makes a silent fault harmless: to close the socket is to let rivals in, so it waits for the work to
stop, at most until the server has ended the session for want of a beat.

Who touches what: session, selector and backoff belong to the thread; what it shares with Trio is the `LockBook`, in
which callers write what they want. Answers are given in Trio's thread, all of a batch by one wake-up. It must not know
how a session is opened, nor what it says to the server.

Invariants, beside those of the book:

1. While READY, something is asked at least once per beat, and the end of the session is noticed at once, idle or not.
2. The locks of a session are lost, and their work is told to stop, before its socket is closed; and the socket is
   closed after that work has stopped, or after the server has let the locks go.
3. A lock that is to be let go of is let go of by the server, or its session is closed.
4. Nobody waits for ever: also when the thread dies of a bug, all who wait are answered.
5. The thread ends only on `stop` or a bug. Nothing that a server does or a connection string says ends it.
6. What the session has to ask by itself is asked in time, along with whatever else is asked.
"""

from __future__ import annotations

import logging
import random
import selectors
import threading
from typing import TYPE_CHECKING

import trio

from .._audit import log_safely
from .._errors import DatabaseUnavailableError, LockerConfigurationError
from ._backoff import Backoff
from ._clock import boot_seconds
from ._lock_book import EXPIRED, LockBook
from ._losses import CLOSED, Loss
from ._sleeper import Sleeper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .._telemetry._meters import SessionTally
    from ._batch import Answer
    from ._connection import Wait
    from ._lease import PostgresLease
    from ._lock_book import Refusal
    from ._session import Session
    from ._timing import LeaseTiming

_log = logging.getLogger("tickrunner_trio.lockers.postgres")

# Timers of the kernel stand still during suspend, the clock does not: so late, at most, is it noticed.
_LONGEST_SLEEP_SECONDS = 1.0


class SessionThread:
    """See the module. All but `book` is for the one who enters and leaves the locker, in Trio's thread.

    Args:
        open_session: see `SessionOpener.open`.
        timing: of the lease.
        tally: of the sessions.
        in_trio: `trio.lowlevel.TrioToken.run_sync_soon`.
        attempted: called in Trio when the first attempt to connect has succeeded or failed, and perhaps again.
        ended: called in Trio as the last thing that the thread does.
    """

    def __init__(
        self,
        open_session: Callable[[Wait], Session],
        timing: LeaseTiming,
        *,
        tally: SessionTally,
        in_trio: Callable[..., None],
        attempted: Callable[[], None],
        ended: Callable[[], None],
    ) -> None:
        self.book = LockBook(timing, boot_seconds, self._rouse, tally)  #: What callers write into.
        self.seen_at = boot_seconds()  #: When the thread last gave a sign of life.
        self._open_session = open_session
        self._timing = timing
        self._in_trio = in_trio
        self._attempted = attempted
        self._ended = ended
        self._thread = threading.Thread(target=self._run, name="tickrunner_trio.lockers.postgres", daemon=True)
        self._stopping = False
        self._session: Session | None = None
        self._opened_at = 0.0
        self._backoff = Backoff(random.uniform)
        self._last_failure: type[Exception] | None = None  # of the present outage
        self._sleeper = Sleeper()

    def start(self) -> None:
        """Start the thread, once."""
        try:
            self._thread.start()
        except BaseException:
            self._sleeper.close()
            raise

    def join(self, seconds: float) -> bool:
        """Wait for the thread's end, blocking; return whether it came in time."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def stop(self) -> None:
        """Let the thread lose what is held, part with the session, and end. Idempotent."""
        self._stopping = True
        self._sleeper.wake()

    # Everything below runs in the thread, but for `_rouse`.

    def _run(self) -> None:
        reason = "its PostgresLocker was left"
        refusal: Refusal = (trio.ClosedResourceError, CLOSED)
        loss = Loss.ENDED
        try:
            while True:
                self._live_through_one_session()
                self._wait(None, 0, boot_seconds() + self._backoff.next_seconds())
        except _Stopping:
            pass
        except BaseException as error:  # noqa: ASYNC103 - no cancellation reaches this thread
            reason = f"the thread of its PostgresLocker died of a bug, {type(error).__name__}; see the log"
            refusal = (RuntimeError, reason)
            loss = Loss.BUG
            log_safely(_log, logging.CRITICAL, "the thread died of a bug: please report it", exc_info=error)
        finally:
            try:
                self._part(reason, refusal, loss)
                self._let_work_stop()  # also where there was no session: nobody looks at it afterwards
            finally:
                self._sleeper.close()
                self._tell(self._attempted)
                self._tell(self._ended)

    def _live_through_one_session(self) -> None:
        try:
            self._converse(self._open())
        except (DatabaseUnavailableError, LockerConfigurationError) as error:
            # One warning per outage, and one more when it turns into another kind of outage; what repeats is for debug.
            if self._session is None:
                level = logging.DEBUG if self._last_failure is type(error) else logging.WARNING
                log_safely(_log, level, "cannot connect, and will try on: %s", error)
            self._last_failure = type(error)
            loss = Loss.ENDED if self._session is None else self._session.loss
            self._part(str(error), (type(error), f"there is no session with PostgreSQL: {error}"), loss)
            self._tell(self._attempted)

    def _open(self) -> Session:
        session = self._open_session(self._wait)
        try:
            sent_at = self._opened_at = boot_seconds()
            session.exchange((), (), deadline=sent_at + self._timing.reply)
        except BaseException:  # pragma: no cover - the session ends in the moment after it was opened
            session.close()
            raise
        self._session = session
        self._last_failure = None
        log_safely(_log, logging.INFO, "session opened: %s", session.description)
        self.book.session_opened(sent_at, session.lock_table)
        self._tell(self._attempted)
        return session

    def _converse(self, session: Session) -> None:
        sent_at = self._opened_at
        while True:
            batch = self.book.next_batch()
            if batch.refused:
                self._tell(_answer_all, batch.refused)
            now = boot_seconds()
            if not batch and now < (asks_at := min(sent_at + self._timing.beat, session.asks_at())):
                until = min(asks_at, self.book.due_at())
                if self._sleep(session.fd, selectors.EVENT_READ, max(0.0, until - now)):
                    session.read_unasked()
                continue
            sent_at = now
            done = session.carry_out(batch, deadline=self.book.deadline.reply_by(sent_at))
            for wake in done.wakes:
                self._tell(wake)
            answers = self.book.answered(batch, done.granted, sent_at, done.unwritten)
            if answers is None:
                session.give_up(EXPIRED)
            if answers:
                self._tell(_answer_all, answers)

    def _part(self, reason: str, refusal: Refusal, loss: Loss) -> None:
        """Refuse what comes, lose what there is, have the work stopped, close the session, answer all who wait."""
        session, self._session = self._session, None
        server_has_it = session is not None and session.is_open
        lost, answers = self.book.lose_session(
            reason, refusal, left=self._stopping, server_has_it=server_has_it, loss=loss
        )
        self._tell(_cancel_all, lost)
        self._tell(_answer_all, answers)
        try:
            if session is not None:
                if session.is_open:
                    self._let_work_stop()
                self._sleeper.forget()
                session.close()
                self._backoff.session_lived(boot_seconds() - self._opened_at)
        finally:
            self._tell(_answer_all, self.book.session_closed())
        if session is not None:  # last, since nobody knows how long a handler takes
            level = logging.INFO if self._stopping else logging.WARNING
            log_safely(_log, level, "session ended, locks lost with it: %d; %s", len(lost), reason)

    def _let_work_stop(self) -> None:
        """Wait for the work under lost locks, at most until the server has ended the session by itself."""
        until = self.book.deadline.server_ends_at()
        while self.book.lost_work_runs() and (seconds := until - boot_seconds()) > 0:
            self._select(None, 0, seconds)

    def _tell(self, call: Callable[..., object], *arguments: object) -> None:
        """Have it called in Trio's thread, after what was told before."""
        try:
            self._in_trio(call, *arguments)
        except trio.RunFinishedError:  # whoever entered the locker never left it: there is nobody to serve
            self._stopping = True

    def _wait(self, fd: int | None, events: int, deadline: float) -> bool:
        """Wait for the socket until the deadline; return whether it is ready. See `_connection.Wait`."""
        while (seconds := deadline - boot_seconds()) > 0:
            if self._sleep(fd, events, seconds):
                return True
        return False

    def _sleep(self, fd: int | None, events: int, seconds: float) -> bool:
        """Sleep until the socket is ready, which is what it returns, or the time is over, or somebody rouses.

        Raises:
            _Stopping: `stop` was called.
        """
        ready = self._select(fd, events, seconds)
        if self._stopping:
            raise _Stopping
        return ready

    def _select(self, fd: int | None, events: int, seconds: float) -> bool:
        self.seen_at = boot_seconds()
        is_ready = self._sleeper.sleep(fd, events, min(seconds, _LONGEST_SLEEP_SECONDS))
        for lease in self.book.outlived():
            lease.overstays()
            log_safely(
                _log,
                logging.CRITICAL,
                "the work under the lock %d has outlived its lease: another replica may run it too",
                lease.lock_id,
            )
        return is_ready

    def _rouse(self, *, at_once: bool) -> None:
        """Wake the thread, or have Trio do so when it has run whatever is ready: then all goes in one statement."""
        if at_once:
            self._sleeper.wake()
            return
        try:
            self._in_trio(self._sleeper.wake, idempotent=True)
        except trio.RunFinishedError:  # pragma: no cover - the run ends in this moment
            self._sleeper.wake()


class _Stopping(Exception):  # noqa: N818  # no error
    """`SessionThread.stop` was called."""


def _cancel_all(leases: Iterable[PostgresLease]) -> None:
    for lease in leases:
        lease.scope.cancel()


def _answer_all(answers: Iterable[Answer]) -> None:
    for lease, answer in answers:
        lease.answer(answer)
