"""The Trio face of the PostgreSQL locker: who waits for what, for how long, and what happens on a cancellation.

The session and its thread are `_session_thread`; nothing here blocks, and nothing here knows of SQL.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import outcome
import trio

from .._audit import log_safely
from .._errors import DatabaseUnavailableError, LockerConfigurationError, LockLostError
from .._lock_ids import checked_lock_id
from ._session_thread import CLOSED as _CLOSED
from ._session_thread import PostgresLease, SessionThread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType
    from typing import Self

    from ..abc import Lease
    from ._session_thread import Answer

_log = logging.getLogger("tickrunner_trio.lockers.postgres")

_FIRST_ATTEMPT_SECONDS = 15.0
# The thread gives the server 5 seconds for each of at most two statements that are asked before a release, and for it.
_RELEASE_SECONDS = 20.0
_STOPPING_WORK_SECONDS = 5.0
_STOPPING_THREAD_SECONDS = 5.0


class PostgresLocker:
    """An `AdvisoryLocker` on PostgreSQL: one session, on one thread of its own, holds all locks of the process.

    ::

        async with PostgresLocker("postgresql://app@db.example/app") as locker:
            had = await locker.with_advisory_lock(lock_id_for("rebalance"), rebalance)

    When the session ends, because the server went away, was restarted or ended it, all of its locks are gone: the work
    under them is cancelled at once, and a new session is opened, at first after 0.1 seconds, then ever less often, up
    to once in 10 seconds. A failed statement, one without a reply for 5 seconds, or an unlock that the server knows
    nothing of ends the session as well. Nothing is carried over to the next one.

    Needs PostgreSQL 14 or newer, and psycopg with libpq, which are loaded when it is entered.

    Args:
        conninfo: a connection string of libpq, a URI or ``key=value`` pairs; all of its parameters are respected. Where
            neither it nor the environment says otherwise, ``connect_timeout`` is 5 seconds, ``target_session_attrs`` is
            ``read-write``, so that no standby is asked, and ``application_name`` is ``tickrunner_trio <pid> <host>``.
            Of a service file (``service=``) these two come second to that, and a host name in it is resolved by libpq,
            which may hold up the whole process while DNS does not answer: write the host into ``conninfo``. To allow
            standbys by ``target_session_attrs`` is to give up exclusion across a failover.

    Raises:
        TypeError: ``conninfo`` is not a str.
        ValueError: ``conninfo`` holds a NUL.

    Entering it waits for the first attempt to connect, at most 15 seconds. A server that is away is no error then:
    locks raise `DatabaseUnavailableError` until it is back.

    Leaving it first cancels the work that still runs under a lock, which ends with `LockLostError`, and waits up to 5
    seconds until it has stopped; then it ends the session, and with it every lock, and waits up to 5 seconds for the
    thread. What holds the thread longer is outside of it, above all a DNS server that does not answer: it then ends
    with that answer, is a daemon, and does nothing more. Both waits are shielded.

    It belongs to the Trio run that entered it, and is entered once. A child that the process forks without an exec
    shares the session's socket, so that the locks live until that child ends too. The waits above are on Trio's clock:
    a `trio.testing.MockClock` with autojump jumps over them.

    Error handling: logger ``tickrunner_trio.lockers.postgres``. INFO: a session was opened. WARNING: one was lost, or
    the first attempt of an outage failed. DEBUG: the further attempts, and notices of the server. No record, error or
    repr holds a password.
    """

    def __init__(self, conninfo: str) -> None:
        if not isinstance(conninfo, str):
            raise TypeError(
                f"conninfo must be a str, got a {type(conninfo).__name__}: write it as 'postgresql://user@host/database'"
            )
        if "\0" in conninfo:
            raise ValueError("conninfo must not contain a NUL character, at which libpq would end it: remove it")
        self._conninfo = conninfo
        self._thread: SessionThread | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._attempted = trio.Event()
        self._ended = trio.Event()
        self._closed = False
        self._callers: set[PostgresLease] = set()
        self._leaving = trio.lowlevel.ParkingLot()

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        """Start the thread and wait for its first attempt to connect, at most 15 seconds.

        Raises:
            LockerConfigurationError: the first attempt failed for a reason that waiting will not mend: psycopg or libpq
                is missing, the server is older than PostgreSQL 14, a parameter of ``conninfo`` is wrong, or the server
                does not know the user, the password or the database. If it turns out later, locks raise it.
            RuntimeError: entered for the second time.
        """
        if self._thread is not None:
            raise RuntimeError("this PostgresLocker has been entered before: make a new one for each 'async with'")
        self._token = trio.lowlevel.current_trio_token()
        self._thread = SessionThread(
            self._conninfo, self._token.run_sync_soon, attempted=self._attempted.set, ended=self._ended.set
        )
        self._thread.start()  # a Ctrl-C comes before or after: this method is protected
        try:
            with trio.move_on_after(_FIRST_ATTEMPT_SECONDS):
                await self._attempted.wait()
            refusal = self._thread.refusal()
            if isinstance(refusal, LockerConfigurationError):
                raise refusal
        except BaseException:
            await self._close(self._thread)  # noqa: ASYNC102 - it shields and bounds itself
            raise
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Cancel what still runs under a lock, then end the session and the thread. See the class."""
        assert self._thread is not None  # it has been entered
        await self._close(self._thread)  # noqa: ASYNC102 - it shields and bounds itself

    async def with_advisory_lock(self, lock_id: int, fn: Callable[[Lease], Awaitable[None]]) -> bool:
        """Try the lock once; if it was had, run ``fn`` under it. See `AdvisoryLocker.with_advisory_lock`.

        Raises:
            TypeError: ``lock_id`` is not an int.
            ValueError: ``lock_id`` does not fit into a signed 64-bit integer.
            LockLostError: the session was lost before ``fn`` had stopped. Its cause is the `Exception` that ``fn``
                raised; what else it raised, such as KeyboardInterrupt or an outer cancellation, passes through instead.
            DatabaseUnavailableError: there is no session now, or it was lost before ``fn`` began. At once: nobody waits
                for a new session.
            LockerConfigurationError: there is no session, and waiting will not bring one.
            RuntimeError: the locker is not open, or belongs to another Trio run.
            trio.ClosedResourceError: the locker has been left.
            BaseException: whatever ``fn`` raised, as it is.

        Cancellation handling: cancelled while the server is asked, it returns at once, and a lock that is granted after
        that is released by the thread. The hand-over is the moment in which Trio reschedules the caller with the
        answer: a cancellation comes before it, and ``fn`` does not run, or after it, and meets ``fn`` at its first
        checkpoint. The release is handed to the thread as soon as ``fn`` has stopped; its confirmation is awaited
        shielded, for at most 20 seconds, which only a thread that gets no time to run could use up. The last safety
        net: the thread does what it took, or else the session is closed, and the server frees all of its locks.
        """
        checked_lock_id(lock_id)
        await trio.lowlevel.checkpoint()
        thread = self._opened_thread()
        lease = PostgresLease(lock_id)
        if not await _acquired(thread, lease):
            return False
        try:
            self._callers.add(lease)
            try:
                if self._closed or lease.lost:  # between the grant and now
                    raise trio.ClosedResourceError(_CLOSED) if self._closed else DatabaseUnavailableError(lease.loss)
                await _run_under(lease, fn)
            finally:
                await _released(thread, lease)  # noqa: ASYNC102 - it shields and bounds itself
        finally:
            self._callers.discard(lease)
            self._leaving.unpark_all()
        return True

    def __repr__(self) -> str:
        if self._thread is None:
            return "<PostgresLocker: not entered>"
        refusal = self._thread.refusal()
        return f"<PostgresLocker: {'ready' if refusal is None else refusal}; {self._thread.held()} held>"

    def _opened_thread(self) -> SessionThread:
        if self._thread is None:
            raise RuntimeError(
                "this PostgresLocker is not open: use it inside 'async with PostgresLocker(...) as locker'"
            )
        if self._closed:
            raise trio.ClosedResourceError(_CLOSED)
        if self._token is not trio.lowlevel.current_trio_token():
            raise RuntimeError("this PostgresLocker belongs to another Trio run: make one for each trio.run")
        return self._thread

    async def _close(self, thread: SessionThread) -> None:
        self._closed = True
        for lease in self._callers:
            lease.lose("its PostgresLocker was left")
            lease.scope.cancel()
        try:
            with trio.move_on_after(_STOPPING_WORK_SECONDS, shield=True):  # noqa: ASYNC912 - without work none is needed
                while self._callers:
                    await self._leaving.park()
        finally:
            thread.stop()  # also after a Ctrl-C, which no shield keeps out
        with trio.move_on_after(_STOPPING_THREAD_SECONDS, shield=True):
            await self._ended.wait()
            thread.join(1.0)  # it has nothing left to do but to return
            return
        log_safely(
            _log,
            logging.WARNING,
            "the thread did not end in time: it will end when what holds it, DNS for example, lets go",
        )


@trio.lowlevel.enable_ki_protection  # a Ctrl-C between asking and waiting would leave the answer to nobody
async def _acquired(thread: SessionThread, lease: PostgresLease) -> bool:
    """Return whether the lock was had; cancelled, leave it to the thread to undo what it may still do."""
    task = trio.lowlevel.current_task()
    abandoned = False

    def reply(answer: Answer) -> None:
        if not abandoned:
            trio.lowlevel.reschedule(task, answer)
        elif isinstance(answer, outcome.Value) and answer.value:
            thread.release(lease, lambda: None)

    def abandon(_raise_cancel: object) -> trio.lowlevel.Abort:
        nonlocal abandoned
        abandoned = True
        return trio.lowlevel.Abort.SUCCEEDED

    if not thread.acquire(lease, reply):
        return False
    had: bool = await trio.lowlevel.wait_task_rescheduled(abandon)
    return had


async def _run_under(lease: PostgresLease, fn: Callable[[Lease], Awaitable[None]]) -> None:
    try:
        # A nursery would wrap what fn raises in a group.
        with lease.scope:
            await fn(lease)
    except Exception as error:
        if lease.lost:
            raise _lost(lease) from error
        raise
    if lease.lost:
        raise _lost(lease)


def _lost(lease: PostgresLease) -> LockLostError:
    return LockLostError(f"the lock {lease.lock_id} was lost while the work ran: {lease.loss}")


@trio.lowlevel.enable_ki_protection
async def _released(thread: SessionThread, lease: PostgresLease) -> None:
    """Hand the lock back at once, and wait until it is free, or as good as free because its session is closed."""
    confirmed = trio.Event()
    if not thread.release(lease, confirmed.set):
        return
    with trio.move_on_after(_RELEASE_SECONDS, shield=True):
        await confirmed.wait()
        return
    log_safely(_log, logging.WARNING, "nobody confirmed the release of the lock %d in time", lease.lock_id)
