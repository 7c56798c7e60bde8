"""A locker whose answer to each attempt a test decides, and which writes down what was asked of it.

Each attempt goes one way through this picture; `LockAttempt.ended` says where it came out::

    asked --- answers_after ---> answered --- granted ---> fn runs ---+---> returned
                    |               |                                 +---> raised
                    |               +---> busy, refused               +---> cancelled
                    +---> abandoned (the caller was cancelled)        +---> lost

Invariants: of two attempts on one lock id at most one is granted at a time, whatever the plan says; a lock is let go
when ``fn`` has stopped, and not before; there is one checkpoint before the answer, and none between it and ``fn``.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast, overload

import trio

from .._errors import DatabaseUnavailableError, LockLostError
from .._lock_ids import checked_lock_id
from ._steps import Fails, Grant, Step, Unavailable, checked_step

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from ..abc import Lease


@dataclass(frozen=True, slots=True)
class LockAttempt:
    """One call of `ScriptedLocker.with_advisory_lock`, as far as it has come. Times are seconds of Trio's clock."""

    lock_id: int  #: The lock that was asked for.
    number: int  #: Counts the attempts on this lock id, from 1.
    step: Step  #: What the plan said.
    asked_at: float  #: When it was asked for.
    answered_at: float | None = None  #: When the answer came; None: not yet, or the caller was cancelled before.
    granted: bool = False  #: Whether ``fn`` was begun.
    ended_at: float | None = None  #: When the lock was let go, or the attempt ended without it; None: not yet.
    #: How it ended; None: not yet. "refused": an error was the answer. "abandoned": cancelled before the answer.
    ended: Literal["busy", "refused", "abandoned", "returned", "raised", "cancelled", "lost"] | None = None


class _ScriptedLease:
    """Lost by the clock, and so at once, also while the scope's own cancellation is still on its way."""

    __slots__ = ("_clock", "_let_go_at", "epoch", "lock_id", "lost_at", "scope")

    def __init__(self, lock_id: int, epoch: int | None, lost_after: float) -> None:
        self._clock = trio.lowlevel.current_clock()
        self._let_go_at = math.inf
        self.lock_id = lock_id
        self.epoch = epoch
        self.lost_at = self._clock.current_time() + lost_after
        self.scope = trio.CancelScope(deadline=self.lost_at)

    @property
    def lost(self) -> bool:
        """Whether the lock is gone. From any thread; what has been let go of is not lost any more."""
        return self.lost_at <= min(self._clock.current_time(), self._let_go_at)

    def lose(self) -> None:
        self.lost_at = self._clock.current_time()
        self.scope.cancel()

    def let_go(self) -> float:
        self._let_go_at = self._clock.current_time()
        return self._let_go_at


class ScriptedLocker:
    """An `AdvisoryLocker` in memory that excludes as a real one does, and whose answers come from a plan.

    Args:
        plan: a step for each attempt, in the order in which they ask: `Grant`, `Busy`, `Unavailable` or `Fails`; or a
            mapping that gives such a plan to some lock ids, each for the attempts on that id. An iterator, which may be
            endless, such as ``itertools.cycle([Busy(), Grant()])``, is drawn from as attempts come.
        otherwise: the step for each attempt that the plan has none for.
        first_epoch: the fencing token of the first grant; those that follow count up, over all locks. None: leases have
            no epoch, as those of a `PostgresLocker`.

    It serves one Trio run at a time; services that share the object exclude each other. A loss cancels ``fn``;
    `Lease.lost` is true from that very moment of Trio's clock, also if the loop is blocked or virtual time has jumped
    over it; `LockLostError` is raised when ``fn`` has stopped, with the `Exception` that ``fn`` raised as its cause.

    Raises:
        TypeError: there is something other than a step in the plan, a key is no int, or an epoch is none. Of what an
            iterator gives, the attempt that draws it says so.
        ValueError: a key does not fit into a signed 64-bit integer.

    Example, of a service that must bear an outage and then a lost lock::

        locker = ScriptedLocker([Unavailable("restarting"), Grant(lost_after=5)])
    """

    # Two, because of {1: [Busy()], 2: [Grant()]} type checkers infer the type from either, and not from their union.
    @overload
    def __init__(
        self, plan: Mapping[int, Iterable[Step]], *, otherwise: Step = ..., first_epoch: int | None = ...
    ) -> None: ...
    @overload
    def __init__(self, plan: Iterable[Step] = ..., *, otherwise: Step = ..., first_epoch: int | None = ...) -> None: ...
    def __init__(
        self,
        plan: Iterable[Step] | Mapping[int, Iterable[Step]] = (),
        *,
        otherwise: Step = Grant(),  # noqa: B008  # frozen
        first_epoch: int | None = 1,
    ) -> None:
        if isinstance(first_epoch, bool) or not isinstance(first_epoch, int | None):
            raise TypeError(f"first_epoch must be an int or None, got {first_epoch!r}: write 1, for example")
        self._plans: dict[int, Iterator[Step]] | None = None
        self._plan: Iterator[Step] = iter(())
        if isinstance(plan, Mapping):
            plans = cast("Mapping[int, Iterable[Step]]", plan)
            self._plans = {
                checked_lock_id(lock_id, "a key of plan"): _checked_plan(steps, f"plan[{lock_id}]")
                for lock_id, steps in plans.items()
            }
        else:
            self._plan = _checked_plan(plan, "plan")
        self._otherwise = checked_step(otherwise, "otherwise")
        self._epochs = itertools.repeat(None) if first_epoch is None else itertools.count(first_epoch)
        self._attempts: list[LockAttempt] = []
        self._numbers = Counter[int]()
        self._held: dict[int, _ScriptedLease] = {}
        self._events: list[tuple[str, float]] = []

    @property
    def otherwise(self) -> Step:
        """The step for each attempt that the plan has none for. It can be set at any time, for the attempts to come."""
        return self._otherwise

    @otherwise.setter
    def otherwise(self, step: Step) -> None:
        self._otherwise = checked_step(step, "otherwise")

    @property
    def held(self) -> frozenset[int]:
        """The ids of the locks that are held now."""
        return frozenset(self._held)

    @property
    def attempts(self) -> list[LockAttempt]:
        """All attempts so far, in the order in which they asked, each as far as it has come."""
        return self._attempts.copy()

    @property
    def events(self) -> list[tuple[str, float]]:
        """What happened and when, in its order: "locked" and "unlocked", and what the test put between by `note`."""
        return self._events.copy()

    def note(self, event: str) -> None:
        """Write an event of the test's own among `events`, with Trio's time; the locker's own come this way too."""
        self._events.append((event, trio.current_time()))

    def lose(self, lock_id: int) -> None:
        """Lose a lock now, whatever the plan says: the work under it is cancelled.

        Raises:
            ValueError: nobody holds the lock.
        """
        if lock_id not in self._held:
            raise ValueError(f"lock_id must be of a lock that is held, got {lock_id!r}: held are {sorted(self._held)}")
        self._held[lock_id].lose()

    async def with_advisory_lock(self, lock_id: int, fn: Callable[[Lease], Awaitable[None]]) -> bool:
        """Do what the plan says; if that is a grant, run ``fn``. See `AdvisoryLocker.with_advisory_lock`.

        Raises:
            TypeError: ``lock_id`` is not an int.
            ValueError: ``lock_id`` does not fit into a signed 64-bit integer.
            LockLostError: the lock was lost before ``fn`` had stopped.
            DatabaseUnavailableError: the step is `Unavailable`.
            BaseException: whatever ``fn`` raised, as it is; what the step says.

        Cancellation handling: one checkpoint before the answer; the lock is let go synchronously when ``fn`` has
        stopped.
        """
        checked_lock_id(lock_id)
        place = self._ask(lock_id)
        step = self._attempts[place].step
        try:
            await trio.sleep(step.answers_after)
        except trio.Cancelled:
            self._update(place, ended_at=trio.current_time(), ended="abandoned")
            raise
        now = trio.current_time()
        match step:
            case Unavailable():
                self._update(place, answered_at=now, ended_at=now, ended="refused")
                raise DatabaseUnavailableError(step.reason)
            case Fails():
                self._update(place, answered_at=now, ended_at=now, ended="refused")
                raise step.error
            case Grant() if lock_id not in self._held:
                await self._run_under(_ScriptedLease(lock_id, next(self._epochs), step.lost_after), fn, place)
                if step.fails_to_unlock is not None:
                    raise step.fails_to_unlock
                return True
            case _:  # Busy, or a Grant of what somebody holds
                self._update(place, answered_at=now, ended_at=now, ended="busy")
                return False

    def __repr__(self) -> str:
        return f"<ScriptedLocker: {len(self._attempts)} attempts, {len(self._held)} held>"

    def _ask(self, lock_id: int) -> int:
        plan = self._plan if self._plans is None else self._plans.get(lock_id, iter(()))
        step = next(plan, self._otherwise)
        self._numbers[lock_id] += 1
        self._attempts.append(LockAttempt(lock_id, self._numbers[lock_id], step, trio.current_time()))
        return len(self._attempts) - 1

    def _update(self, place: int, **changes: object) -> None:
        self._attempts[place] = dataclasses.replace(self._attempts[place], **changes)  # type: ignore[arg-type]

    async def _run_under(self, lease: _ScriptedLease, fn: Callable[[Lease], Awaitable[None]], place: int) -> None:
        self._held[lease.lock_id] = lease
        ended = "returned"
        try:
            self._update(place, answered_at=trio.current_time(), granted=True)
            self.note("locked")
            try:
                with lease.scope:
                    await fn(lease)
            except Exception as error:
                if lease.lost:
                    raise _lost(lease) from error
                raise
            if lease.lost:
                raise _lost(lease)
        except BaseException as error:
            ended = "lost" if lease.lost else "cancelled" if _is_cancellation(error) else "raised"
            raise
        finally:
            del self._held[lease.lock_id]
            self._update(place, ended_at=lease.let_go(), ended=ended)
            self.note("unlocked")


def _checked_plan(plan: Iterable[Step], field: str) -> Iterator[Step]:
    if isinstance(plan, Step):
        raise TypeError(f"{field} must be an iterable of steps, got {plan!r}: write [{plan!r}], or otherwise={plan!r}")
    steps = (checked_step(step, f"{field}[{place}]") for place, step in enumerate(plan))
    return iter(tuple(steps)) if isinstance(plan, Collection) else steps  # what has no length may have no end


def _lost(lease: _ScriptedLease) -> LockLostError:
    return LockLostError(f"the lock {lease.lock_id} was lost while the work ran: the script says so")


def _is_cancellation(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        errors = cast("BaseExceptionGroup[BaseException]", error)
        return errors.split(trio.Cancelled)[1] is None
    return isinstance(error, trio.Cancelled)
