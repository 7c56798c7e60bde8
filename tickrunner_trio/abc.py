"""What others implement: the seams of the library, as protocols.

A locker is anything with one async method; a lease is what it hands to the code that runs under the lock. A locker may
keep a ledger beside, in which each service has a row. Nothing here knows of schedules or PostgreSQL.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, auto
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractContextManager
    from datetime import datetime

    from ._cluster_health import ClusterHealth, PastRun
    from ._outcome import TickReport


@runtime_checkable
class Lease(Protocol):
    """A lock that is held now, as the code under it sees it."""

    @property
    def lock_id(self) -> int:
        """The id of the lock: a signed 64-bit integer."""
        ...

    @property
    def epoch(self) -> int | None:
        """The fencing token: higher at each grant of this lock id; None where the locker gives none."""
        ...

    @property
    def lost(self) -> bool:
        """Whether the lock is gone.

        True from the moment at which the work under it is to stop, also if the Trio loop was blocked at that moment
        and the cancellation is still on its way. It never turns false again.

        It does not block. `tickrunner_trio.Service.statistics` and the metrics read it in any thread, where a lease
        that raises counts as held.
        """
        ...


@runtime_checkable
class TimedLease(Protocol):
    """What a lease may offer beside: to end by itself, so that a hold ends in time whatever the Trio loop does.

    A `tickrunner_trio.Service` makes use of it where it is there, and ends the hold on Trio's clock where it is not.
    """

    def let_go_after(self, seconds: float) -> bool:
        """Have the lock let go of in so many seconds, unless ``fn`` has returned before; ``inf`` takes that back.

        To be called while no work runs under the lock. Called again, it replaces what was said before. ``fn`` may go
        on after that time: a service sleeps on until its next tick is due. Nothing is cancelled for it, and it is no
        loss.

        Returns:
            True: the lock is held, and will be until then. False: it has been let go of, or is lost, and no work may
            run under it any more: ``lost`` is true.
        """
        ...


@runtime_checkable
class WatchedLease(Protocol):
    """What a lease may offer beside: to say when it was lost, and that the work under it would not stop.

    A `tickrunner_trio.Service` shows both to whoever watches it: the first in the trace of the tick, the second as a
    metric, which has to come while the work still runs.
    """

    def lost_for(self) -> float:
        """Return for how many seconds the lock has been lost; 0 while it is not."""
        ...

    def tell_if_overstayed(self, tell: Callable[[], object]) -> None:
        """Have ``tell`` called, once, when the lock is lost and the work has not stopped by the time it had to.

        From any thread. ``tell`` does not block, and raises nothing.
        """
        ...


@runtime_checkable
class AdvisoryLocker(Protocol):
    """A store of locks that all replicas share. One method, so that anybody's store can satisfy it."""

    async def with_advisory_lock(self, lock_id: int, fn: Callable[[Lease], Awaitable[None]]) -> bool:
        """Try the lock once, without waiting for it; if it was had, run ``fn`` under it in the caller's task.

        Args:
            lock_id: a signed 64-bit integer. Two callers exclude each other if they name the same id.
            fn: an async function of the `Lease`; it runs at most once, and the lock is let go only after it has
                really stopped, whatever it returned or raised.

        Returns:
            True: the lock was had and ``fn`` ran to its end. False: somebody else holds the lock, a caller in this
            process included, and ``fn`` did not run.

        Raises:
            LockLostError: the lock was lost, ``fn`` was cancelled for it and has stopped.
            DatabaseUnavailableError: nobody can tell, now, whether somebody holds the lock; ``fn`` did not run.
            LockerConfigurationError: as `DatabaseUnavailableError`, and waiting will not mend it.
            BaseException: whatever ``fn`` raised, as it is, in no group.

        Cancellation handling: cancelled while it tries the lock, it leaves no lock behind; cancelled while ``fn``
        runs, it lets the lock go after ``fn`` has stopped.
        """
        ...


@runtime_checkable
class PromptLocker(Protocol):
    """What a locker may offer beside: to promise that nobody waits for it.

    A `tickrunner_trio.Service` then keeps no cancel scope around the question, by which a drain would end the wait.
    """

    @property
    def answers_at_once(self) -> bool:
        """Whether ``with_advisory_lock`` lets no other task run before it runs ``fn``, or knows that it will not.

        It never changes. It counts where the class of the locker has it, not where ``__getattr__`` finds it.
        """
        ...


class LedgerState(StrEnum):
    """What came of asking a locker with a ledger."""

    RAN = auto()  #: The lock was had, the service was due, and ``fn`` ran.
    BUSY = auto()  #: Somebody else holds the lock, or the service's row.
    NOT_DUE = auto()  #: Nobody holds the lock, and the service is not due.
    PAUSED = auto()  #: Somebody has paused the service.


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerAnswer:
    """What a locker with a ledger says of a service."""

    state: LedgerState
    due_in: float | None = None
    """Seconds from now until the service is due, by the ledger's clock; 0 or less: it is; None: not known."""
    last_success: datetime | None = None
    """When it last succeeded, on any replica, before this answer. Aware, UTC; None: never, or not known."""
    paused_by: str = ""
    """Who has paused it, if somebody has."""
    pause_reason: str = ""
    """Why."""


@runtime_checkable
class LedgerLease(Lease, Protocol):
    """The lease of a locker with a ledger. Its ``epoch`` is higher at each run of the service, on whatever replica."""

    def report(self, report: TickReport) -> None:
        """Take what came of the run, to be written down before the lock is let go.

        Without a report the run counts as cancelled: the service is as due as before. Synchronous; it does not raise.
        """
        ...


@runtime_checkable
class LedgerLocker(Protocol):
    """What a locker may offer beside: a ledger that all replicas share, in which each service has a row.

    With it a service runs once per interval whoever starts, stops or crashes; somebody can pause or trigger it; and
    each run has a fencing token. A `tickrunner_trio.Service` makes use of it where it is there and ``has_ledger``.
    """

    @property
    def has_ledger(self) -> bool:
        """Whether there is one: a locker may offer it as an option. It never changes."""
        ...

    async def with_due_lock(
        self,
        lock_id: int,
        fn: Callable[[LedgerLease], Awaitable[None]],
        *,
        service: str,
        interval: float,
        forced: bool,
    ) -> LedgerAnswer:
        """Try the lock once; if it was had, and the service is due and not paused, run ``fn`` under it.

        As `AdvisoryLocker.with_advisory_lock` in all that is not said here.

        Args:
            lock_id: of the service, the same in all replicas.
            fn: as there. The report that it gives to its lease is kept when this returns.
            service: the name of the row.
            interval: seconds from run to run. A success moves the time at which the service is due by a multiple of
                it, to the first that is after now; a failure to a random point of the first quarter of it.
            forced: run also if it is not due. A paused service does not run all the same.
        """
        ...

    def watching(self, service: str, wake: Callable[[], object]) -> AbstractContextManager[None]:
        """For the time of the block have ``wake`` called when somebody has triggered or resumed the service.

        In Trio's thread, within five seconds, and again until the service has run. ``wake`` is synchronous and does not
        block. It may be entered before the locker is open.
        """
        ...


@runtime_checkable
class Ledger(Protocol):
    """What a ledger offers to those who operate services; it is one for all replicas.

    All of it raises `tickrunner_trio.DatabaseUnavailableError` where nobody can tell now,
    `tickrunner_trio.LockerConfigurationError` where waiting will not mend it, and ValueError for a service that the
    ledger does not know.
    """

    async def cluster_health(self) -> tuple[ClusterHealth, ...]:
        """Return the health of all services that the ledger knows, over all replicas."""
        ...

    async def history(self, name: str) -> tuple[PastRun, ...]:
        """Return the last runs of a service, the newest first."""
        ...

    async def pause(self, name: str, *, reason: str, by: str) -> ClusterHealth:
        """Let no replica begin a run of the service until it is resumed."""
        ...

    async def resume(self, name: str) -> ClusterHealth:
        """Let the service run again."""
        ...

    async def trigger(self, name: str, *, by: str = "") -> ClusterHealth:
        """Have the next free replica run the service, due or not."""
        ...

    async def add(self, name: str, *, lock_id: int, interval: float) -> None:
        """Make the service known before its first tick; one that is known stays as it is."""
        ...


@runtime_checkable
class HasLedger(Protocol):
    """What a locker may offer beside: the ledger that it keeps, for a `tickrunner_trio.Supervisor` to operate."""

    @property
    def ledger(self) -> Ledger | None:
        """The ledger; None if this locker keeps none."""
        ...


@runtime_checkable
class QuotaMetricsRefresher(Protocol):
    """Whoever can bring quota metrics up to date after a pass that changed something."""

    async def update_quota_metrics(self) -> None:
        """Measure again and publish. What it raises is logged as a warning and fails no pass."""
        ...
