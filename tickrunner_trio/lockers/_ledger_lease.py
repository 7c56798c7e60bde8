"""A lock with a row in the ledger: what is asked for it, what the row said, and what came of the run under it."""

from __future__ import annotations

import datetime as dt
import math
from typing import TYPE_CHECKING, NamedTuple

from .._config import MAX_SECONDS
from .._dueness import is_due
from .._health import describe_error
from .._outcome import Outcome
from ..abc import LedgerAnswer, LedgerState
from ._lease import PostgresLease
from ._ledger_schema import escaped

if TYPE_CHECKING:
    from .._outcome import TickReport
    from ._lock_book import LockBook


#: The server's times have microseconds, and the arithmetic on them needs room.
_SHORTEST = 0.001


class Row(NamedTuple):
    """What the ledger's row said at a grant. Times are seconds."""

    epoch: int | None  #: That was drawn; None: none was, and the lock has been put back.
    due_in: float | None
    last_success: float | None  #: Unix time.
    is_paused: bool = False
    paused_by: str = ""
    pause_reason: str = ""


class Result(NamedTuple):
    """What came of a run."""

    outcome: str
    duration: float
    error: str


#: Of a run that was never reported: whoever wanted the lock was cancelled before it began.
CANCELLED = Result(Outcome.CANCELLED.value, 0.0, "")


class LedgerLease(PostgresLease):
    """See `abc.LedgerLease` and `PostgresLease`. Thread and callers hand it over as they do the latter."""

    __slots__ = ("due_in", "forced", "interval", "result", "row", "service", "write_until")

    def __init__(self, book: LockBook, lock_id: int, *, service: str, interval: float, forced: bool) -> None:
        super().__init__(book, lock_id)
        self.service = escaped(service)
        self.interval = max(float(interval), _SHORTEST)
        self.forced = forced
        self.row: Row | None = None  #: What the ledger said when the lock was granted; None: it was not.
        self.result = CANCELLED
        self.write_until = math.inf  #: Until when the lock is kept for a result that cannot be written.
        self.due_in: float | None = None  #: Seconds to when it is due, as of the result.

    @property
    def epoch(self) -> int | None:
        """The fencing token, drawn by this lease."""
        return None if self.row is None else self.row.epoch

    def report(self, report: TickReport) -> None:
        """Take what came of the run. See `abc.LedgerLease`."""
        error = "" if report.error is None else escaped(describe_error(report.error))
        self.result = Result(report.outcome.value, report.duration, error)

    def hurry(self) -> None:
        """Wait for one lease at most with a result that cannot be written: whoever waits for it is cancelled."""
        self.book.hurry(self)

    def answer_of_ledger(self, *, had: bool) -> LedgerAnswer:
        """Say what came of asking for the lock, when it is free again."""
        row = self.row
        if row is None:
            return BUSY
        last_success = None if row.last_success is None else dt.datetime.fromtimestamp(row.last_success, dt.UTC)
        if had:
            return LedgerAnswer(state=LedgerState.RAN, due_in=self.due_in, last_success=last_success)
        if row.is_paused:
            return LedgerAnswer(
                state=LedgerState.PAUSED,
                due_in=row.due_in,
                last_success=last_success,
                paused_by=row.paused_by,
                pause_reason=row.pause_reason,
            )
        # Due, and not drawn all the same: somebody has the row locked.
        is_busy = self.forced or is_due(row.due_in, now=0.0, interval=self.interval)
        state = LedgerState.BUSY if is_busy else LedgerState.NOT_DUE
        return LedgerAnswer(state=state, due_in=row.due_in, last_success=last_success)


def check_asked(service: object, interval: object) -> None:
    """Refuse what cannot be a row of the ledger, before anything of it goes to the server.

    Raises:
        TypeError: ``service`` is no str, or ``interval`` no number.
        ValueError: ``interval`` is not above 0, or more than 366 days.
    """
    if not isinstance(service, str):
        raise TypeError(f"service must be a str, got {service!r}: pass the name of the service")
    if isinstance(interval, bool) or not isinstance(interval, int | float):
        raise TypeError(f"interval must be a number of seconds, got {interval!r}: write one, as in 60.0")
    if not 0 < interval <= MAX_SECONDS:
        raise ValueError(
            f"interval must be above 0 and at most {MAX_SECONDS} seconds (366 days), got {interval!r}: choose one there"
        )


#: Somebody else has the lock, which says nothing of the row.
BUSY = LedgerAnswer(state=LedgerState.BUSY)
