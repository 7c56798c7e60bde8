"""What came of a tick: the one vocabulary that health, traces, metrics and logs share. Values only.

::

    wait for the slot -> gate -> try the lock -> run the work -> judge -> report -> [hold] -> unlock
                          |          |               |
                        GATED   BUSY / UNAVAILABLE  SUCCESS / FAILED / TIMED_OUT / LOCK_LOST / CANCELLED / UNAVAILABLE
                                / LOCKER_ERROR
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, auto
from typing import TYPE_CHECKING, Literal, cast

from ._errors import DatabaseUnavailableError

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from typing import Any


class Outcome(StrEnum):
    """How one tick ended. Exactly one of these for each tick."""

    SUCCESS = auto()  #: The work ran and returned.
    FAILED = auto()  #: The work raised, or the gate did.
    TIMED_OUT = auto()  #: The work was cancelled because it took longer than ``tick_timeout``.
    LOCK_LOST = auto()  #: The lock went away under the work, which was cancelled for it.
    LOCKER_ERROR = auto()  #: The locker raised something that waiting does not mend.
    GATED = auto()  #: ``should_run`` said no, or somebody has paused the service in the ledger.
    BUSY = auto()  #: Somebody else holds the lock; or the ledger says that the service is not due.
    UNAVAILABLE = auto()  #: The database cannot be asked now: the lock's, or the work's own.
    CANCELLED = auto()  #: Cancelled from outside, or dropped by a drain before the work began.

    @property
    def result(self) -> Literal["success", "error", "skipped"]:
        """The fold into the three results that the dashboards of the Go package know."""
        return _RESULTS[self]

    def __repr__(self) -> str:
        return f"Outcome.{self.name}"  # what evaluates, also inside of other values


_RESULTS: dict[Outcome, Literal["success", "error", "skipped"]] = {
    Outcome.SUCCESS: "success",
    Outcome.FAILED: "error",
    Outcome.TIMED_OUT: "error",
    Outcome.LOCK_LOST: "error",
    Outcome.LOCKER_ERROR: "error",
    Outcome.GATED: "skipped",
    Outcome.BUSY: "skipped",
    Outcome.UNAVAILABLE: "skipped",
    Outcome.CANCELLED: "skipped",
}


class _FilledInLate:
    """A frozen dataclass whose fields are filled in when the first of them is read, if it was made without them."""

    __slots__ = ("_fields",)

    if TYPE_CHECKING:
        _fields: Callable[[], Mapping[str, object]]
    else:  # a type checker that saw this would let through every name that is misspelt

        def __getattr__(self, name: str) -> Any:
            # Python asks here for what is not there: a slot that was not filled in yet, or nothing that it ever has.
            if name == "_fields" or name not in self.__dataclass_fields__:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
            for field, value in self._fields().items():
                object.__setattr__(self, field, value)
            # Whoever keeps the tick does not keep what filled it in; another thread that fills it in has no more to do.
            object.__setattr__(self, "_fields", dict)
            return object.__getattribute__(self, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick(_FilledInLate):
    """One run of the work, as the work itself sees it."""

    service: str  #: The name of the service.
    lock_id: int  #: The lock under which the work runs.
    request_id: str  #: 32 hex digits, the same in logs and traces of this tick.
    number: int  #: Counts the ticks of this `Service` object from 1, those that did not run included.
    scheduled_at: datetime  #: The slot; for a forced tick, when it was asked for. Aware, UTC.
    started_at: datetime  #: When the lock was had. Aware, UTC.
    epoch: int | None  #: The fencing token of the lease, or None where the locker gives none.
    forced: bool  #: Whether `Service.tick` asked for it.
    log: logging.Logger | logging.LoggerAdapter[logging.Logger]  #: The logger of the service.


def late_tick(fields: Callable[[], Mapping[str, object]]) -> Tick:
    """Return a tick with the fields that this will return, the same whenever it is called: in any thread, if at all.

    Much work reads nothing of its tick, and to fill it in takes 5 us, a tenth of all that a tick takes.
    """
    tick = Tick.__new__(Tick)
    object.__setattr__(tick, "_fields", fields)
    return tick


@dataclass(frozen=True, slots=True, kw_only=True)
class TickReport:
    """What came of one tick, as health, metrics and the caller of `Service.tick` see it."""

    service: str  #: The name of the service.
    number: int  #: As `Tick.number`.
    request_id: str  #: As `Tick.request_id`.
    outcome: Outcome
    #: What was raised; `trio.TooSlowError` for TIMED_OUT, `LockLostError` for LOCK_LOST, and `ServicePausedError` for
    #: GATED where somebody has paused the service.
    error: BaseException | None
    scheduled_at: datetime  #: As `Tick.scheduled_at`.
    started_at: datetime  #: When the lock was had; for a tick whose work did not run, when it began. Aware, UTC.
    duration: float  #: Seconds from ``started_at`` to the judgement, on Trio's clock.
    lateness: float  #: Seconds from ``scheduled_at`` to ``started_at``, on Trio's clock; never negative.
    epoch: int | None  #: As `Tick.epoch`; None for a tick whose work did not run.
    forced: bool  #: As `Tick.forced`.


def judge(*, lost: bool, cancelled: bool, timed_out: bool, error: BaseException | None) -> Outcome:
    """Say what came of work that ran, in the one order in which the causes are looked at.

    Args:
        lost: whether the lease was lost.
        cancelled: whether a scope around the tick was cancelled, that of ``tick_timeout`` not counted; one whose
            deadline has passed counts, also when the work blocked the loop so that nobody noticed.
        timed_out: whether the scope of ``tick_timeout`` was cancelled.
        error: what the work raised past that scope.
    """
    if lost:
        return Outcome.LOCK_LOST
    if cancelled and error is not None:
        return Outcome.CANCELLED
    if timed_out:
        return Outcome.TIMED_OUT
    if error is None:
        return Outcome.SUCCESS
    return Outcome.UNAVAILABLE if _says_unavailable(error) else Outcome.FAILED


def _says_unavailable(error: BaseException) -> bool:
    """Whether it is a `DatabaseUnavailableError`, or a group of nothing else, as a nursery of the work's raises it."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return group.split(DatabaseUnavailableError)[1] is None
    return isinstance(error, DatabaseUnavailableError)
