"""What others implement: the seams of the library, as protocols.

A locker is anything with one async method; a lease is what it hands to the code that runs under the lock. Nothing here
knows of services, schedules or PostgreSQL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


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
class QuotaMetricsRefresher(Protocol):
    """Whoever can bring quota metrics up to date after a pass that changed something."""

    async def update_quota_metrics(self) -> None:
        """Measure again and publish. What it raises is logged as a warning and fails no pass."""
        ...
