"""The thread that owns the session of a `PostgresLocker`: it opens it, speaks over it, watches it, and opens the next.

::

      start                    connected                      lost: closed by the server, a statement
        |     .--------------------------------------> READY  that failed or got no reply in time,
        v     |                                          |    an unlock that said false
     CONNECTING --- waiting can mend it ---> DOWN <------'
        ^  ^  '---- waiting cannot ----.      |
        |  |                           v      |
        |  '---- after the backoff -- BROKEN  |                (any state) --- stop(), or a bug ---> CLOSED
        '------- after the backoff -----------'

In READY acquires are asked of the server. In every other state they are refused at once with the reason: DOWN, and
CONNECTING for the first time, with `DatabaseUnavailableError`; BROKEN with `LockerConfigurationError`; CLOSED with
`trio.ClosedResourceError`, or RuntimeError after a bug. CONNECTING again keeps the refusal of the last failure.

Who touches what: the session, the selector and the backoff belong to the thread. `SessionThread.acquire`, `release` and
`stop` are called in Trio's thread and never wait for the server. Between the two stand the queues, the held set and the
refusal, all under one mutex that is held for no I/O. Replies run in Trio's thread.

Invariants:

1. An id is in the held set from before the server is asked for it until the server has let it go or its session is
   closed, and until the work under it has stopped. It is refused meanwhile, since session locks are re-entrant.
2. A session never serves what an earlier one was asked for: its loss answers all that is queued, and loses every lease.
3. Leases are lost before their session is closed, since closing it lets rivals in.
4. Every acquire and every release that was taken gets its reply, also when the thread dies of a bug.
5. A release that was taken is done by the server, or its session is closed.
6. While READY, the end of the session is noticed at once, idle or not: the thread waits on its socket.
7. The thread ends only on `stop` or a bug. Nothing that a server does or a connection string says ends it.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import random
import selectors
import socket
import threading
import time
from typing import TYPE_CHECKING, TypeAlias

import outcome
import trio

from .._audit import log_safely
from .._errors import DatabaseUnavailableError, LockerConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ._session import Session

    Answer: TypeAlias = outcome.Outcome[bool]
    Refusal: TypeAlias = tuple[type[Exception], str]

_log = logging.getLogger("tickrunner_trio.lockers.postgres")

CLOSED = "this PostgresLocker is closed: make a new one"

_BACKOFF_SECONDS = 0.1  # before the first attempt; doubled for each further one
_LONGEST_BACKOFF_SECONDS = 10.0


class PostgresLease:
    """A lock that is asked for, held or lost. Read from any thread."""

    __slots__ = ("_loss", "lock_id", "scope")

    def __init__(self, lock_id: int) -> None:
        self.lock_id = lock_id
        self.scope = trio.CancelScope()  #: Around the work; cancelled in Trio's thread after the loss.
        self._loss: str | None = None

    @property
    def epoch(self) -> int | None:
        """Advisory locks have no fencing token of their own."""
        return None

    @property
    def lost(self) -> bool:
        """Whether the lock is gone; set in the session's thread, so also while the Trio loop is blocked."""
        return self._loss is not None

    @property
    def loss(self) -> str:
        """Why it was lost."""
        return self._loss or ""

    def lose(self, reason: str) -> None:
        """Mark it lost. The first reason stays."""
        self._loss = self._loss or reason


class SessionThread:
    """See the module. ``acquire``, ``release``, ``refusal`` and ``stop`` are for Trio's thread.

    Args:
        conninfo: the user's connection string.
        in_trio: `trio.lowlevel.TrioToken.run_sync_soon`.
        attempted: called in Trio when the first attempt to connect has succeeded or failed, and perhaps again.
        ended: called in Trio as the last thing that the thread does.
    """

    def __init__(
        self, conninfo: str, in_trio: Callable[..., None], attempted: Callable[[], None], ended: Callable[[], None]
    ) -> None:
        self._conninfo = conninfo
        self._in_trio = in_trio
        self._attempted = attempted
        self._ended = ended
        self._thread = threading.Thread(target=self._run, name="tickrunner_trio.lockers.postgres", daemon=True)

        self._mutex = threading.Lock()  # guards the next five
        self._refusal: Refusal | None = (DatabaseUnavailableError, "the first connection is still being made")
        self._held: dict[int, PostgresLease] = {}
        self._acquires: list[tuple[PostgresLease, Callable[[Answer], None]]] = []
        self._releases: list[tuple[PostgresLease, Callable[[], None]]] = []
        self._stopping = False

        self._session: Session | None = None
        self._opened_at = 0.0
        self._failures = 0  # attempts and short-lived sessions in a row
        self._selector = selectors.DefaultSelector()
        self._woken, self._waker = socket.socketpair()
        for end in (self._woken, self._waker):
            end.setblocking(False)  # noqa: FBT003  # positional-only
        self._selector.register(self._woken, selectors.EVENT_READ)

    def start(self) -> None:
        """Start the thread, once."""
        self._thread.start()

    def join(self, seconds: float) -> bool:
        """Wait for the thread's end, blocking; return whether it came in time."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def acquire(self, lease: PostgresLease, reply: Callable[[Answer], None]) -> bool:
        """Ask the server for a lock. False: this process has it, nobody is asked, and ``reply`` is not called.

        ``reply`` gets the server's answer, or the error to raise. After True the lease must be released.

        Raises:
            Exception: the refusal, unless the session is ready.
        """
        with self._mutex:
            if self._refusal is not None:
                raise _error(self._refusal)
            if lease.lock_id in self._held:
                return False
            self._held[lease.lock_id] = lease
            self._acquires.append((lease, reply))
        self._wake()
        return True

    def release(self, lease: PostgresLease, reply: Callable[[], None]) -> bool:
        """Hand a granted lease back, after its work has stopped. False: it was lost, and there will be no ``reply``."""
        with self._mutex:
            if lease.lost:
                del self._held[lease.lock_id]
                return False
            self._releases.append((lease, reply))
        self._wake()
        return True

    def refusal(self) -> Exception | None:
        """Return what an acquire would raise now; None while the session is ready."""
        with self._mutex:
            return None if self._refusal is None else _error(self._refusal)

    def held(self) -> int:
        """Return the number of ids that are held or asked for."""
        with self._mutex:
            return len(self._held)

    def stop(self) -> None:
        """Let the thread end: at once, unless DNS holds it. Idempotent."""
        with self._mutex:
            self._stopping = True
        self._wake()

    # Everything below runs in the thread, but for `_wake`.

    def _run(self) -> None:
        reason = "its PostgresLocker was left"
        refusal: Refusal = (trio.ClosedResourceError, CLOSED)
        try:
            while True:
                self._live_through_one_session()
                self._wait_until(time.monotonic() + self._backoff())
        except _Stopping:
            pass
        except BaseException as error:  # noqa: ASYNC103 - no cancellation reaches this thread
            reason = f"the thread of its PostgresLocker died of a bug, {type(error).__name__}; see the log"
            refusal = (RuntimeError, reason)
            log_safely(_log, logging.CRITICAL, "the thread died of a bug: please report it", exc_info=error)
        finally:
            self._drop(reason, refusal)
            self._selector.close()
            self._waker.close()
            self._woken.close()
            self._tell(self._attempted, self._ended)

    def _live_through_one_session(self) -> None:
        try:
            self._converse(self._open())
        except (DatabaseUnavailableError, LockerConfigurationError) as error:
            refusal: Refusal = (type(error), f"there is no session with PostgreSQL: {error}")
            # One warning per outage, and one more when it turns into another kind of outage; what repeats is for debug.
            if self._session is None:
                is_news = self._failures == 0 or (self._refusal or refusal)[0] is not type(error)
                level = logging.WARNING if is_news else logging.DEBUG
                log_safely(_log, level, "cannot connect, and will try on: %s", error)
            self._drop(str(error), refusal)
            self._tell(self._attempted)

    def _open(self) -> Session:
        try:
            from ._session import Session  # noqa: PLC0415  # loads psycopg, which takes long, or is not there
        except ImportError as error:
            raise LockerConfigurationError(
                f"psycopg or its libpq is missing ({error}): pip install 'psycopg[binary]', or install libpq"
            ) from None
        self._session = session = Session(self._conninfo, self._wait)
        self._opened_at = time.monotonic()
        log_safely(_log, logging.INFO, "session opened: %s", session.description)
        with self._mutex:
            self._refusal = None
        self._tell(self._attempted)
        return session

    def _converse(self, session: Session) -> None:
        while True:
            with self._mutex:
                releases, acquires = self._releases[:], self._acquires[:]
            # What is asked stays queued until it is answered, so that `_drop` finds it there.
            if releases:
                session.unlock([lease.lock_id for lease, _ in releases])
                with self._mutex:
                    self._answered_releases(len(releases))
                self._tell(*(reply for _, reply in releases))
            if acquires:
                answers = session.try_lock([lease.lock_id for lease, _ in acquires])
                with self._mutex:
                    del self._acquires[: len(acquires)]
                    for (lease, _), granted in zip(acquires, answers, strict=True):
                        if not granted:
                            del self._held[lease.lock_id]
                pairs = zip(acquires, answers, strict=True)
                self._tell(*(functools.partial(reply, outcome.Value(granted)) for (_, reply), granted in pairs))
            if not (releases or acquires) and self._select(session.fd, selectors.EVENT_READ, None):
                session.read_unasked()

    def _drop(self, reason: str, refusal: Refusal) -> None:
        """Refuse what comes, lose what there is, close the session, answer all who wait: in this order."""
        with self._mutex:
            self._refusal = refusal
            acquires, releases, self._acquires = self._acquires, self._releases[:], []
            self._answered_releases(len(releases))
            for lease, _ in acquires:
                del self._held[lease.lock_id]
            lost = [lease for lease in self._held.values() if not lease.lost]
            for lease in lost:
                lease.lose(reason)
        self._tell(*(lease.scope.cancel for lease in lost))
        session, self._session = self._session, None
        try:
            if session is not None:
                session.close()
                if time.monotonic() - self._opened_at > _LONGEST_BACKOFF_SECONDS:
                    self._failures = 0
        finally:
            refused = (functools.partial(reply, outcome.Error(_error(refusal))) for _, reply in acquires)
            self._tell(*refused, *(reply for _, reply in releases))
        if session is not None:  # last, since nobody knows how long a handler takes
            level = logging.INFO if self._stopping else logging.WARNING
            log_safely(_log, level, "session ended, locks lost with it: %d; %s", len(lost), reason)

    def _answered_releases(self, count: int) -> None:
        for lease, _ in self._releases[:count]:
            del self._held[lease.lock_id]
        del self._releases[:count]

    def _backoff(self) -> float:
        longest = min(_BACKOFF_SECONDS * 2.0**self._failures, _LONGEST_BACKOFF_SECONDS)
        self._failures = min(self._failures + 1, 32)
        return longest * random.uniform(0.5, 1.0)  # so that replicas do not come back in step

    def _tell(self, *replies: Callable[[], object]) -> None:
        """Have them called in Trio's thread: one wake-up for all."""
        if replies:
            try:
                self._in_trio(_call_all, replies)
            except trio.RunFinishedError:  # whoever entered the locker never left it: there is nobody to serve
                self._stopping = True

    def _wait_until(self, deadline: float) -> None:
        while (seconds := deadline - time.monotonic()) > 0:
            self._select(None, 0, seconds)

    def _wait(self, fd: int, events: int, deadline: float) -> bool:
        """See `_session.Wait`. Commands that come meanwhile stay queued."""
        while (seconds := deadline - time.monotonic()) > 0:
            if self._select(fd, events, seconds):
                return True
        return False

    def _select(self, fd: int | None, events: int, seconds: float | None) -> bool:
        """Wait for the socket, a command or the end of the time; return whether it was the socket.

        Raises:
            _Stopping: `stop` was called.
        """
        if fd is not None:
            self._selector.register(fd, events)
        try:
            # Callers loop until their own deadline; what is beyond a day is beyond what epoll takes.
            ready = {key.fd for key, _ in self._selector.select(None if seconds is None else min(seconds, 86_400.0))}
        finally:
            if fd is not None:  # libpq may close it and open another one under the same number
                self._selector.unregister(fd)
        if self._woken.fileno() in ready:
            with contextlib.suppress(BlockingIOError):
                self._woken.recv(65536)
        if self._stopping:
            raise _Stopping
        return fd in ready

    def _wake(self) -> None:
        # A full socket wakes as well, and a closed one means that the thread has answered everything and ended.
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")


class _Stopping(Exception):  # noqa: N818  # no error
    """`SessionThread.stop` was called."""


def _error(refusal: Refusal) -> Exception:
    kind, reason = refusal
    return kind(reason)


def _call_all(replies: Iterable[Callable[[], object]]) -> None:
    for reply in replies:
        reply()
