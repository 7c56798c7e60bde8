"""The Trio face of a simulated session: an `AdvisoryLocker` that keeps the promises of a `PostgresLocker`.

What it does not offer is `TimedLease` and `WatchedLease`, with which a `PostgresLocker` outlasts a blocked loop:
virtual time does not pass while a loop is blocked. So holds end on Trio's clock, as with anybody's locker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import trio

from .._errors import DatabaseUnavailableError, LockLostError
from .._lock_ids import checked_lock_id
from ._lock_session import SessionState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..abc import Lease
    from ._lock_server import Backend, LockServer
    from ._lock_session import LockSession


class SimulatedLease:
    """One lock of one caller: wanted, held or lost. It is a `Lease`, and a `_lock_session.Holder`."""

    __slots__ = ("_clock", "_is_lost", "_session", "epoch", "is_held", "lock_id", "scope")

    def __init__(self, session: LockSession, lock_id: int, clock: Callable[[], float]) -> None:
        self._session = session
        self._clock = clock
        self._is_lost = False
        self.lock_id = lock_id
        self.epoch: int | None = None
        self.scope = trio.CancelScope()  #: Around the work.
        self.is_held = False

    @property
    def lost(self) -> bool:
        """Whether the lock is gone: from the cancel point on, also while the replica is frozen."""
        if self.is_held and not self._is_lost:
            now = self._clock()
            self._session.advance(now)
            if self._session.is_expired(now):
                self._is_lost = True
        return self._is_lost

    def lose(self) -> None:
        if self.is_held:
            self._is_lost = True
            self.scope.cancel()


_L = TypeVar("_L", bound=SimulatedLease)


class SimulatedLocker:
    """The locker of one simulated process. See the module, and `_lock_session` for what becomes of its locks.

    Args:
        server: the one that all replicas share.
        session: of the process.
        clock: seconds since the simulation began.
    """

    def __init__(self, server: LockServer, session: LockSession, clock: Callable[[], float]) -> None:
        self._server = server
        self._session = session
        self._clock = clock
        self._waiting = trio.lowlevel.ParkingLot()

    def wake(self) -> None:
        """Let those look again who wait for an answer."""
        self._waiting.unpark_all()

    async def with_advisory_lock(self, lock_id: int, fn: Callable[[Lease], Awaitable[None]]) -> bool:
        """Try the lock once; if it was had, run ``fn`` under it. See `AdvisoryLocker.with_advisory_lock`."""
        checked_lock_id(lock_id)
        await trio.lowlevel.checkpoint()
        return await self._run(SimulatedLease(self._session, lock_id, self._clock), fn, _always, _nothing)

    async def _run(
        self,
        lease: _L,
        fn: Callable[[_L], Awaitable[None]],
        granted: Callable[[], bool],
        leaving: Callable[[], object],
    ) -> bool:
        """Do so with a lease that has been made.

        Args:
            lease: new.
            fn: to be run under it.
            granted: called in the step that grants the lock; False: it is put back in the same step.
            leaving: called in the step that lets it go, if it is not lost.
        """
        session, lock_id = self._session, lease.lock_id
        session.advance(self._clock())
        backend = session.backend
        if session.state is not SessionState.READY or backend is None or session.is_over:
            raise DatabaseUnavailableError(f"there is no session with PostgreSQL: {session.reason}")
        if not session.reserve(lease):
            return False
        try:
            await self._answer(backend)
            grant = self._server.try_lock(backend, lock_id, self._clock())
            if grant is None:
                return False
            lease.epoch = grant.epoch
            if not granted():
                self._server.unlock(backend, lock_id, self._clock())
                return False
            lease.is_held = True
            try:
                await _run_under(lease, session, fn)
            finally:
                is_lost = lease.lost
                lease.is_held = False
                if is_lost:
                    session.released(self._clock())
                else:
                    with trio.CancelScope(shield=True):  # bounded by the deadlines of the session
                        await self._release(lease, backend, leaving)
        finally:
            session.stopped(lease)
        return True

    async def _answer(self, backend: Backend) -> None:
        """Send a statement and wait for its answer; a checkpoint only where there is none yet.

        Raises:
            DatabaseUnavailableError: the session was lost instead.
        """
        session = self._session
        session.ask(self._clock())
        while not session.is_in_touch and session.backend is backend and session.state is SessionState.READY:
            await self._waiting.park()
        if session.backend is not backend or session.state is not SessionState.READY:
            raise DatabaseUnavailableError(f"the session with PostgreSQL was lost: {session.reason}")

    async def _release(self, lease: SimulatedLease, backend: Backend, leaving: Callable[[], object]) -> None:
        """Let go of a lock that is not lost, or wait until its session is closed, which frees it."""
        session = self._session
        session.ask(self._clock())
        while session.backend is backend and not (session.state is SessionState.READY and session.is_in_touch):
            await self._waiting.park()
        if session.backend is backend:
            leaving()
            self._server.unlock(backend, lease.lock_id, self._clock())


def _always() -> bool:
    return True


def _nothing() -> None:
    pass


async def _run_under(lease: _L, session: LockSession, fn: Callable[[_L], Awaitable[None]]) -> None:
    try:
        # A nursery would wrap what fn raises in a group.
        with lease.scope:
            await fn(lease)
    except Exception as error:
        if lease.lost:
            raise _loss_of(lease, session) from error
        raise
    if lease.lost:
        raise _loss_of(lease, session)


def _loss_of(lease: SimulatedLease, session: LockSession) -> LockLostError:
    return LockLostError(f"the lock {lease.lock_id} was lost while the work ran: {session.reason}")
