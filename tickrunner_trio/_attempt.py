"""One tick on its way from the gate to its report: what a `Service` does at each slot and for each forced tick.

::

    gate ---> try the lock ---> run the work in its scope ---> judge ---> report ---> [hold] ---> unlock
      |             |                                                       ^
      +-------------+---------------- the work did not run -----------------+

Invariants:

1. An attempt gets exactly one report, also when it is cancelled, when the locker raises, or when the work raises what
   ends the program.
2. The work runs at most once and is judged before the lock is let go; what the locker raises after that is logged and
   changes nothing.
3. No `Exception` leaves an attempt, not even in a group, and no cancellation but one of a scope around it. What does
   leave it has passed through the locker before, so the lock is free.
4. An attempt can be dropped until its work begins; from then on a drain leaves it alone.
"""

from __future__ import annotations

import logging
import math
from functools import partial
from typing import TYPE_CHECKING, cast

import trio

from ._audit import log_safely, new_request_id, request_id_set_to
from ._errors import DatabaseUnavailableError, LockLostError, ServicePausedError
from ._outcome import Outcome, Tick, TickReport, judge
from ._reporting import call_plain
from ._utc import utc_at, utc_offset
from ._watching import lost_for, watched

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from ._config import Config, Logger
    from ._ledgered import LedgerTurn
    from ._telemetry._meters import ServiceMeter
    from ._telemetry._spans import ServiceTracer, TickSpan
    from .abc import Lease


class Attempt:
    """One tick; made when it is known, run once, or dropped.

    Args:
        config: of the service.
        lock_id: the lock under which the work runs.
        log: the logger of the service.
        work: ``config.work`` or ``config.startup``.
        number: counts the attempts of the service from 1.
        scheduled_at: the slot, in seconds of Trio's clock.
        forced: whether `Service.tick` asked for it.
        meter: of the service.
        tracer: of the service.
        publish: told the report and when it was judged; it must not raise.
        turn: at the locker's ledger; None: it has none.
    """

    __slots__ = (
        "_approach",
        "_asked_at",
        "_asked_for",
        "_begun",
        "_config",
        "_lock_id",
        "_log",
        "_meter",
        "_number",
        "_publish",
        "_span",
        "_tracer",
        "_work",
        "forced",
        "report",
        "request_id",
        "scheduled_at",
        "started_at",
        "turn",
        "utc_offset",
    )

    def __init__(
        self,
        config: Config,
        *,
        lock_id: int,
        log: Logger,
        work: Callable[[Tick], Awaitable[None]],
        number: int,
        scheduled_at: float,
        forced: bool,
        meter: ServiceMeter,
        tracer: ServiceTracer,
        publish: Callable[[TickReport, datetime], None],
        turn: LedgerTurn | None = None,
    ) -> None:
        self._config = config
        self._lock_id = lock_id
        self._log = log
        self._work = work
        self._number = number
        self._meter = meter
        self._publish = publish
        self._tracer = tracer
        self._span: TickSpan | None = None
        self.utc_offset = utc_offset()
        self._approach = trio.CancelScope()
        self._begun = False
        self._asked_at: float | None = None  #: When the locker was; None under a lock that is held already.
        self._asked_for: float | None = None  #: Seconds from then to the work's start, or to the refusal.
        self.request_id = new_request_id()
        self.scheduled_at = scheduled_at
        self.started_at = scheduled_at  #: Seconds of Trio's clock; set when the attempt begins, and when its work does.
        self.forced = forced
        self.turn = turn
        self.report: TickReport | None = None  #: None until it is judged.

    async def run(self, then: Callable[[Lease], Awaitable[None]]) -> None:
        """Take the tick from the gate to its report, then await ``then`` under the lock if the work ran.

        Cancellation handling: reported as CANCELLED, unless the work had been judged before; passes through after the
        lock has been let go.
        """
        with request_id_set_to(self.request_id):
            if not self._gate_is_open():
                return

            async def under_lock(lease: Lease) -> None:
                self._meter.lock_is_held(+1)
                try:
                    await self._work_under(lease)
                    with request_id_set_to(None):
                        await then(lease)
                finally:
                    self._meter.lock_is_held(-1)

            self._asked_at = asked_at = trio.current_time()
            had, error = await _caught(self._approach, self._with_lock(), self._lock_id, under_lock)
            if self.report is None and (had is False or isinstance(error, Exception)):
                self._asked_for = trio.current_time() - asked_at
            if error is not None:
                self._locker_raised(error)
            elif self.report is None:
                self._work_did_not_run(had)
            _raise_what_ends_more(error)

    async def run_under(self, lease: Lease) -> None:
        """Take the tick from the gate to its report under a lock that is held already."""
        with request_id_set_to(self.request_id):
            if self._gate_is_open():
                await self._work_under(lease)

    @property
    def work_began_at(self) -> float | None:
        """When the work began that has not been judged yet, on Trio's clock; None while there is none."""
        return self.started_at if self._begun and self.report is None else None

    def drop(self) -> None:
        """Cancel the attempt if its work has not begun; synchronous, and idempotent."""
        if not self._begun:
            self._approach.cancel()

    def report_dropped(self) -> None:
        """Report CANCELLED for an attempt that will not be run."""
        self.started_at = max(self.scheduled_at, trio.current_time())
        self._report(Outcome.CANCELLED)

    def _with_lock(self) -> Callable[..., Awaitable[bool]]:
        if self.turn is None:
            return self._config.locker.with_advisory_lock
        return partial(self.turn.with_lock, lambda: self.report)

    def _gate_is_open(self) -> bool:
        self.started_at = trio.current_time()
        if self._config.should_run is None:
            return True
        try:
            is_open = bool(call_plain("should_run", self._config.should_run))
        except BaseException as error:
            self._meter.gate_said(is_open=True)
            self._report(Outcome.FAILED, error)
            if isinstance(error, Exception):
                return False  # noqa: ASYNC104 - a plain function raises no cancellation
            raise
        self._meter.gate_said(is_open=is_open)
        if not is_open:
            self._report(Outcome.GATED)
        return is_open

    async def _work_under(self, lease: Lease) -> None:
        """Run the work in its scope, judge and report it; raise of its errors only what ends more than the tick."""
        if self._begun or self.report is not None:
            raise RuntimeError(
                "the locker called fn a second time, or too late: with_advisory_lock runs it at most once"
            )
        config, epoch = self._config, lease.epoch
        self.started_at = trio.current_time()
        if self._asked_at is not None:
            self._asked_for = self.started_at - self._asked_at
        # Either may have come in the moment of the grant, and a cancellation reaches no work before it checkpoints.
        if lease.lost:
            self._report(Outcome.LOCK_LOST, self._error_for(Outcome.LOCK_LOST, None), epoch)
            return
        if self._approach.cancel_called:
            self._report(Outcome.CANCELLED)
            return
        self._begun = True
        tick = Tick(
            service=config.name,
            lock_id=self._lock_id,
            request_id=self.request_id,
            number=self._number,
            scheduled_at=utc_at(self.scheduled_at, self.utc_offset),
            started_at=utc_at(self.started_at, self.utc_offset),
            epoch=epoch,
            forced=self.forced,
            log=self._log,
        )
        watched_lease = watched(lease, self._meter.count_overstay)
        timeout = math.inf if config.tick_timeout is None else config.tick_timeout
        scope = trio.CancelScope(deadline=self.started_at + timeout)
        error: BaseException | None
        try:
            self._span = self._tracer.begin(
                self._work, self.request_id, self._number, lateness=self._lateness(), epoch=epoch
            )
        except BaseException as raised:  # noqa: ASYNC103 - Ctrl-C in a span processor: as one in the work, raised below
            error = raised
        else:
            _, error = await _caught(scope, self._work, tick)
        outcome = judge(lost=lease.lost, cancelled=_is_cancelled(), timed_out=scope.cancel_called, error=error)
        seconds = lost_for(watched_lease) if watched_lease is not None and outcome is Outcome.LOCK_LOST else 0.0
        stopped_after = trio.current_time() - scope.deadline if outcome is Outcome.TIMED_OUT else seconds
        self._report(outcome, self._error_for(outcome, error, stopped_after), epoch, lost_for=seconds)
        _raise_what_ends_more(error)

    def _error_for(
        self, outcome: Outcome, error: BaseException | None, stopped_after: float = 0.0
    ) -> BaseException | None:
        """Return what the report names as the error; what the work raised becomes its cause.

        A note says how long the work took to stop, in seconds, where that is known. It is no part of the message, which
        is to be the same each time for those who count messages.
        """
        named: BaseException
        match outcome:
            case Outcome.LOCK_LOST:
                named = LockLostError(f"the lock {self._lock_id} of {self._config.name} was lost while its work ran")
            case Outcome.TIMED_OUT:
                named = trio.TooSlowError(
                    f"the work of {self._config.name} took longer than tick_timeout={self._config.tick_timeout} seconds"
                )
            case _:
                return error
        if stopped_after > 0:
            named.add_note(f"the work stopped {stopped_after:.3f} s later")
        if isinstance(error, Exception):
            named.__cause__ = error
        return named

    def _locker_raised(self, error: BaseException) -> None:
        """Report what came out of the locker, unless the work had been judged before."""
        if self.report is not None:
            # A locker says a second time that the lock was lost: it has to.
            is_told = self.report.outcome is Outcome.LOCK_LOST and isinstance(error, LockLostError)
            if isinstance(error, Exception) and not is_told:
                log_safely(
                    self._log,
                    logging.WARNING,
                    "the lock was lost or not let go properly after the tick had been judged; the tick stands",
                    exc_info=error,
                )
        elif isinstance(error, LockLostError):
            self._report(Outcome.LOCK_LOST, error)
        elif isinstance(error, DatabaseUnavailableError):
            self._report(Outcome.UNAVAILABLE, error)
        elif isinstance(error, ServicePausedError):
            self._report(Outcome.GATED, error)
        elif self._approach.cancel_called or _is_cancelled():
            self._report(Outcome.CANCELLED, error)
        else:
            self._report(Outcome.LOCKER_ERROR, error)

    def _work_did_not_run(self, had: object) -> None:
        if had is False:
            self._report(Outcome.BUSY)
        elif self._approach.cancel_called:
            self._report(Outcome.CANCELLED)
        else:
            self._report(
                Outcome.LOCKER_ERROR,
                RuntimeError(f"with_advisory_lock returned {had!r} before fn had run: it must return False then"),
            )

    def _lateness(self) -> float:
        return max(0.0, self.started_at - self.scheduled_at)

    def _report(
        self,
        outcome: Outcome,
        error: BaseException | None = None,
        epoch: int | None = None,
        *,
        lost_for: float = 0.0,
    ) -> None:
        judged_at = trio.current_time()
        self.report = TickReport(
            service=self._config.name,
            number=self._number,
            request_id=self.request_id,
            outcome=outcome,
            error=error,
            scheduled_at=utc_at(self.scheduled_at, self.utc_offset),
            started_at=utc_at(self.started_at, self.utc_offset),
            duration=judged_at - self.started_at,
            lateness=self._lateness(),
            epoch=epoch,
            forced=self.forced,
        )
        span = self._span
        try:
            try:
                span = span or self._tracer.begin_late(self.report, self._work)
                if span is not None:
                    span.judged(self.report, lost_for=lost_for)
            finally:  # whatever a span processor raises that is no `Exception`
                self._publish(self.report, utc_at(judged_at, self.utc_offset))
                self._meter.record(self.report, asked_for=self._asked_for)
        finally:
            if span is not None:
                span.end()


async def _caught(
    scope: trio.CancelScope, function: Callable[..., Awaitable[object]], *args: object
) -> tuple[object, BaseException | None]:
    """Await it within the scope; return what it returned, and what it raised past the scope."""
    try:
        with scope:
            return await function(*args), None
    except BaseException as error:  # noqa: ASYNC103 - `_raise_what_ends_more` raises it again, after the report
        return None, error  # noqa: ASYNC104 - as above
    return None, None


def _is_cancelled() -> bool:
    """Whether a scope around this code is cancelled, or its deadline has passed and Trio is about to notice."""
    return trio.current_effective_deadline() <= trio.current_time()


def _raise_what_ends_more(error: BaseException | None) -> None:
    """Raise of an error what ends more than the tick: KeyboardInterrupt, SystemExit, cancellation from outside.

    Each `Exception` is taken out of a group that mixes the kinds: it has been reported, and must not end the service
    once the cancelled scope has caught its own part. So is a `trio.Cancelled` of a scope that is gone, which somebody
    captured and raised again: no scope would ever catch it, and it would end all the tasks around.
    """
    ordinary = (Exception,) if _is_cancelled() else (Exception, trio.Cancelled)
    if isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).split(ordinary)[1]
    if error is not None and not isinstance(error, ordinary):
        raise error
