"""The Trio face of the PostgreSQL locker: what it offers, and how it is opened and left.

What a call waits for is in `_calls`, the session and its thread are `_session_thread`, what both sides share is
`_lock_book`, and who watches the thread is `_watchdog`. Nothing here blocks, and it must not know of SQL.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import TYPE_CHECKING

import trio

from .._audit import log_safely
from .._errors import LockerConfigurationError
from .._lock_ids import checked_lock_id
from .._telemetry._meters import LockerMeter, SessionTally
from .._trio_run import check_in_trio
from ..abc import LedgerState
from ._calls import Calls
from ._holders import read_holders
from ._lease import PostgresLease
from ._ledger import PostgresLedger
from ._ledger_lease import LedgerLease, check_asked
from ._ledger_schema import DEFAULT_SCHEMA, checked_schema
from ._ledger_watch import LedgerWatch
from ._losses import CLOSED, Loss
from ._opening import SessionOpener
from ._short import checked_conninfo
from ._timing import lease_timing
from ._watchdog import watch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractContextManager
    from types import TracebackType
    from typing import Self

    from opentelemetry.metrics import MeterProvider

    from .. import abc
    from ..abc import Lease, LedgerAnswer
    from ._holders import LockHolder
    from ._lock_book import LockBook
    from ._session_thread import SessionThread
    from ._statistics import LockerStatistics
    from ._timing import LeaseTiming

_log = logging.getLogger("tickrunner_trio.lockers.postgres")

_STOPPING_THREAD_SECONDS = 5.0


class PostgresLocker:
    """An `AdvisoryLocker` on PostgreSQL: one session, on one thread of its own, holds all locks of the process.

    ::

        async with PostgresLocker("postgresql://app@db.example/app") as locker:
            had = await locker.with_advisory_lock(lock_id_for("rebalance"), rebalance)

    The lock is a lease. The server ends a session that it has not heard from for ``lease`` seconds, and so frees its
    locks; the locker beats often enough to keep it, and cancels the work just before two thirds of the lease have
    passed since it sent the last statement that was answered. `timing` has the figures.

    So, within one primary, a holder whose process runs and whose work stops within a third of the lease has stopped
    before a rival starts. When the server itself drops the session (terminated, crashed), the work is cancelled at
    once, and the overlap is at most the notice (milliseconds) plus the time the work takes to stop. A frozen process,
    two primaries, or work that resists cancellation are not covered: there only a fencing token protects, which this
    locker gives with a ledger only (else ``epoch`` is None). Work that outlives its lease is logged as CRITICAL and
    counted.

    With a ledger it keeps one row per service in the database of the locks, and is a `tickrunner_trio.abc.LedgerLocker`
    too: the service runs once per interval across deploys and crashes, each run has an epoch, which is on the server's
    disk before the work begins, and operators can pause and trigger it. Locks by `with_advisory_lock` have no row.

    A statement without a reply in time, a failed one, or an unlock that the server knows nothing of ends the session as
    well: its work is cancelled, and its socket closed once that work has stopped, or once the server has ended the
    session by itself. Then a new one is opened, at first after 0.1 seconds, then ever less often, up to once in 10
    seconds. Nothing is carried over to it.

    One session holds at most 1,000 locks, and at most a quarter of ``max_locks_per_transaction`` x ``max_connections``
    of the server, whose lock table is for everybody.

    Needs PostgreSQL 14 or newer, and psycopg with libpq, which are loaded when it is entered.

    Args:
        conninfo: a connection string of libpq, a URI or ``key=value`` pairs; all of its parameters are respected. Where
            neither it nor the environment says otherwise, ``connect_timeout`` is 5 seconds, ``target_session_attrs`` is
            ``read-write``, so that no standby is asked, and ``application_name`` is ``tickrunner_trio <pid> <host>``.
            Of a service file (``service=``) these two come second to that, and a host name in it is resolved by libpq,
            which may hold up the whole process while DNS does not answer: write the host into ``conninfo``. A standby
            and a read-only session are refused whatever ``target_session_attrs`` says. A pooler in between must be in
            session mode.
        lease: seconds from 2 to 3,600. A shorter one frees the locks of a vanished process sooner; a longer one lets
            the work outlast longer hiccups of the server or the network.
        ledger: True: keep the ledger in the schema ``tickrunner``; a str: in the schema of that name; False: none. Its
            tables are made when the locker is entered, if they are not there and the role may make them. See
            `PostgresLedger`. It needs a libpq of version 14 or newer.
        meter_provider: of OpenTelemetry, for what it counts of its sessions; None: the global one, also if that is set
            later.

    Raises:
        TypeError: ``conninfo`` is not a str, ``lease`` no number, or ``meter_provider`` is none.
        ValueError: ``conninfo`` holds a NUL, or ``lease`` is out of its bounds.

    Entering it waits for the first attempt to connect, at most ``lease`` seconds. A server that is away is no error
    then: locks raise `DatabaseUnavailableError` until it is back.

    Leaving it first cancels the work that still runs under a lock, which ends with `LockLostError`, and waits until it
    has stopped, at most ``lease`` seconds, after which the server has ended the session; then it ends the session, and
    with it every lock, and waits up to 5 seconds for the thread. What holds the thread longer is outside of it, above
    all a DNS server that does not answer: it then ends with that answer, is a daemon, and does nothing more. Both waits
    are shielded.

    It belongs to the Trio run that entered it, and is entered once. A child that the process forks without an exec
    shares the session's socket, so that the locks live until that child ends too. The waits above are on Trio's clock:
    a `trio.testing.MockClock` with autojump jumps over them.

    Error handling: logger ``tickrunner_trio.lockers.postgres``. INFO: a session was opened. WARNING: one was lost, or
    the first attempt of an outage failed. CRITICAL: work goes on longer than it may after the loss of its lock. DEBUG:
    further attempts to connect, and notices of the server. No record, error or repr holds a password.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        lease: float = 15.0,
        ledger: bool | str = False,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self._conninfo = checked_conninfo(conninfo)
        self._timing = lease_timing(lease)
        self._ledger: PostgresLedger | None = None
        if ledger is not False:
            self._ledger = PostgresLedger(conninfo, DEFAULT_SCHEMA if ledger is True else checked_schema(ledger))
        self._ledger_watch = LedgerWatch(self._timing)
        self._tally = SessionTally(Loss)
        self._meter = LockerMeter(self._tally, meter_provider)
        self._thread: SessionThread | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._attempted = trio.Event()
        self._ended = trio.Event()
        self._calls = Calls()
        self._watchdog = trio.CancelScope()

    @property
    def timing(self) -> LeaseTiming:
        """What follows from ``lease``: how often it beats, when it cancels, how long work has to stop; in seconds."""
        return self._timing

    @property
    def ledger(self) -> PostgresLedger | None:
        """The ledger that it keeps, to be looked at and operated; None without one."""
        return self._ledger

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        """Start the thread and wait for its first attempt to connect, at most ``lease`` seconds.

        Raises:
            LockerConfigurationError: the first attempt failed for a reason that waiting will not mend: psycopg or libpq
                is missing, the server is older than PostgreSQL 14 or does not take a setting, there is a pooler that
                shares sessions, a parameter of ``conninfo`` is wrong, the server does not know the user, the password
                or the database, or there is no ledger and the role may not make it. If it turns out later, locks raise
                it.
            RuntimeError: entered for the second time, or in asyncio.
        """
        check_in_trio("'async with PostgresLocker(...)'")
        if self._thread is not None:
            raise RuntimeError("this PostgresLocker has been entered before: make a new one for each 'async with'")
        from ._session_thread import SessionThread  # noqa: PLC0415  # who only imports the library does not pay for it: 10 ms

        schema = None if self._ledger is None else self._ledger.schema
        opener = SessionOpener(self._conninfo, self._timing, schema=schema, watch=self._ledger_watch)
        self._token = trio.lowlevel.current_trio_token()
        self._thread = thread = SessionThread(
            opener.open,
            self._timing,
            tally=self._tally,
            in_trio=self._token.run_sync_soon,
            attempted=self._attempted.set,
            ended=self._ended.set,
        )
        thread.start()  # a Ctrl-C comes before or after: this method is protected
        try:
            with trio.move_on_after(self._timing.lease):
                await self._attempted.wait()
            refusal = thread.book.refusal()
            if isinstance(refusal, LockerConfigurationError):
                raise refusal
            watched = (thread, self._calls, self._timing, self._watchdog)
            trio.lowlevel.spawn_system_task(watch, *watched, name="tickrunner_trio.lockers.postgres")
        except BaseException:
            await self._close(thread)  # noqa: ASYNC102 - it shields and bounds itself
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
            LockerConfigurationError: there is no session, and waiting will not bring one; or this process holds as many
                locks as it may.
            RuntimeError: the locker is not open, or belongs to another Trio run.
            trio.ClosedResourceError: the locker has been left.
            BaseException: whatever ``fn`` raised, as it is.

        Cancellation handling: cancelled while the server is asked, it returns at once, and a lock that is granted after
        that is released by the thread. The hand-over is the moment in which Trio reschedules the caller with the
        answer: a cancellation comes before it, and ``fn`` does not run, or after it, and meets ``fn`` at its first
        checkpoint. The release is handed to the thread as soon as ``fn`` has stopped, and awaited whatever is
        cancelled, until the server has confirmed it or the session is closed, which takes two leases at most. The last
        safety net: the thread does what it took, or else the server ends the session, and frees all of its locks.
        """
        checked_lock_id(lock_id)
        await trio.lowlevel.checkpoint_if_cancelled()
        return await self._calls.run(PostgresLease(self._opened_book(), lock_id), fn)

    async def with_due_lock(
        self,
        lock_id: int,
        fn: Callable[[abc.LedgerLease], Awaitable[None]],
        *,
        service: str,
        interval: float,
        forced: bool,
    ) -> LedgerAnswer:
        """Try the lock once; if it was had, and the service is due, run ``fn`` under it. See `abc.LedgerLocker`.

        It raises as `with_advisory_lock` does, and is cancelled as that is. The lock is kept until the result is
        written. Where somebody else has the row locked, in a transaction that was left open, that may take as long as
        that; once the caller is cancelled, one lease at most, and then the run goes unrecorded, so that it is repeated.

        Raises:
            TypeError: as there; or ``service`` is no str, or ``interval`` no number.
            ValueError: as there; or ``interval`` is not above 0, or not finite. One below a millisecond counts as one.
            RuntimeError: as there; or this locker keeps no ledger.
        """
        checked_lock_id(lock_id)
        check_asked(service, interval)
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._ledger is None:
            raise RuntimeError("this PostgresLocker keeps no ledger: make it with ledger=True")
        lease = LedgerLease(self._opened_book(), lock_id, service=service, interval=interval, forced=forced)
        had = await self._calls.run(lease, fn)
        answer = lease.answer_of_ledger(had=had)
        if answer.state is LedgerState.PAUSED:
            self._ledger_watch.found_paused(service)
        return answer

    @property
    def has_ledger(self) -> bool:
        """Whether it keeps a ledger. See `abc.LedgerLocker`."""
        return self._ledger is not None

    def watching(self, service: str, wake: Callable[[], object]) -> AbstractContextManager[None]:
        """For the time of the block, have it told of what is done to a service. See `abc.LedgerLocker`."""
        return nullcontext() if self._ledger is None else self._ledger_watch.watching(service, wake)

    def statistics(self) -> LockerStatistics:
        """Return what the locker is doing and has done, as a snapshot.

        Raises:
            RuntimeError: the locker has not been entered.
        """
        return self._entered_thread().book.statistics()

    async def holders(self) -> tuple[LockHolder, ...]:
        """Ask the server who holds which advisory lock of the database now, over all clients; by id.

        Of bigint ids, exclusively held, which is what this library takes. On a connection of its own, in a worker
        thread, whether or not the locker is open.

        Raises:
            DatabaseUnavailableError: the server cannot tell now.
            LockerConfigurationError: it will not, unless somebody changes something.

        Cancellation handling: returns at once; the worker thread ends with its answer, at most some ten seconds later.
        """
        return await trio.to_thread.run_sync(read_holders, self._conninfo, abandon_on_cancel=True)

    def __repr__(self) -> str:
        if self._thread is None:
            return "<PostgresLocker: not entered>"
        book = self._thread.book
        refusal = book.refusal()
        return f"<PostgresLocker: {'ready' if refusal is None else refusal}; {book.statistics().held} held>"

    def _entered_thread(self) -> SessionThread:
        if self._thread is None:
            raise RuntimeError(
                "this PostgresLocker is not open: use it inside 'async with PostgresLocker(...) as locker'"
            )
        return self._thread

    def _opened_book(self) -> LockBook:
        book = self._entered_thread().book
        if self._calls.are_closed:
            raise trio.ClosedResourceError(CLOSED)
        if self._token is not trio.lowlevel.current_trio_token():
            raise RuntimeError("this PostgresLocker belongs to another Trio run: make one for each trio.run")
        return book

    async def _close(self, thread: SessionThread) -> None:
        thread.book.end_no_more_holds()
        self._calls.close()
        thread.stop()
        try:
            with trio.move_on_after(self._timing.lease, shield=True):
                await self._calls.wait_until_all_have_returned()
        finally:
            with trio.move_on_after(_STOPPING_THREAD_SECONDS, shield=True):
                await self._ended.wait()
            if self._ended.is_set():
                self._watchdog.cancel()  # until then somebody may wait for a thread that is stuck
                thread.join(1.0)  # it has nothing left to do but to return
            else:
                log_safely(
                    _log,
                    logging.WARNING,
                    "the thread did not end in time: it will end when what holds it, DNS for example, lets go",
                )
