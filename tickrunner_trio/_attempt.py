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
from typing import TYPE_CHECKING, cast

import trio

from ._audit import current_request_id, log_safely, new_request_id
from ._errors import DatabaseUnavailableError, LockLostError, ServicePausedError
from ._outcome import Outcome, TickReport, judge, late_tick
from ._reporting import call_plain
from ._utc import utc_at, utc_offset
from ._watching import lost_for, watch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.abc import Clock

    from ._config import Config, Logger
    from ._ledgered import LedgerTurn
    from ._outcome import Tick
    from ._telemetry._meters import ServiceMeter
    from ._telemetry._spans import ServiceTracer, TickSpan
    from .abc import Lease


class Shared:
    """What all attempts of a service have in common. No tuple with names: to read of one takes twice as long."""

    __slots__ = ("config", "lock_id", "log", "meter", "tracer", "under_way")

    def __init__(self, config: Config, lock_id: int, log: Logger, meter: ServiceMeter, tracer: ServiceTracer) -> None:
        self.config = config
        self.lock_id = lock_id  #: The lock under which the work runs.
        self.log = log
        self.meter = meter
        self.tracer = tracer
        self.under_way = list[Attempt]()  #: Those that run now: one, or two.


class Attempt:
    """One tick; made when it is known, run once, or dropped.

    Args:
        shared: with the other attempts of the service.
        work: ``config.work`` or ``config.startup``.
        number: counts the attempts of the service from 1.
        scheduled_at: the slot, in seconds of Trio's clock.
        forced: whether `Service.tick` asked for it.
        clock: of the Trio run in which it runs.
        approach: a scope around `run` or `run_under`; cancelled if the attempt is dropped. None: it waits for nothing
            before its work begins, so that there is nothing to cancel.
        publish: told what came of the attempt, once; it must not raise.
        turn: at the locker's ledger; None: it has none.
    """

    __slots__ = (
        "_approach",
        "_asked_at",
        "_dropped",
        "_has_own_lock",
        "_number",
        "_publish",
        "_report",
        "_shared",
        "_span",
        "_then",
        "_work",
        "asked_for",
        "clock",
        "epoch",
        "error",
        "forced",
        "judged_at",
        "outcome",
        "request_id",
        "scheduled_at",
        "started_at",
        "turn",
        "utc_offset",
        "work_began",
    )

    # Set when they are known first, and not before: a tick sets enough.
    _asked_at: float  #: When the gate was open, and the locker was asked.
    _has_own_lock: bool  #: Or it asks for one; False: it runs under one that is held already.
    _then: Callable[[Attempt, Lease], Awaitable[None]] | None  #: What is done under the lock after the report.
    judged_at: float  #: Seconds of Trio's clock.

    def __init__(
        self,
        shared: Shared,
        *,
        work: Callable[[Tick], Awaitable[None]],
        number: int,
        scheduled_at: float,
        forced: bool,
        clock: Clock,
        approach: trio.CancelScope | None,
        publish: Callable[[Attempt, Outcome], None],
        turn: LedgerTurn | None = None,
    ) -> None:
        self._shared = shared
        self._work = work
        self.clock = clock  # to ask Trio for the time is two calls more, at each of the times of a tick
        self._number = number
        self._approach = approach
        self._publish = publish
        self._span: TickSpan | None = None
        self._dropped = False
        self.asked_for: float | None = None  #: Seconds from then to the work's start, or to the refusal.
        self.utc_offset = utc_offset(clock)
        self.request_id = new_request_id()
        self.scheduled_at = scheduled_at
        self.started_at = scheduled_at  #: Seconds of Trio's clock; set when the attempt begins, and when its work does.
        self.forced = forced
        self.turn = turn
        self.work_began = False  #: From then on the attempt cannot be dropped.
        self.epoch: int | None = None  #: Of the lease under which the work began.
        self.outcome: Outcome | None = None  #: None until it is judged, as is what follows.
        self.error: BaseException | None = None
        self._report: TickReport | None = None

    async def run(self, then: Callable[[Attempt, Lease], Awaitable[None]] | None = None) -> None:
        """Take the tick from the gate to its report, then await ``then``, if any, under the lock if the work ran.

        Cancellation handling: reported as CANCELLED, unless the work had been judged before; passes through after the
        lock has been let go. That of ``approach`` does, too.
        """
        shared = self._shared
        self._has_own_lock, self._then = True, then
        before = current_request_id.get()
        shared.under_way.append(self)
        try:
            current_request_id.set(self.request_id)
            if not self._gate_is_open():
                return
            had: object = None
            error: BaseException | None = None
            try:
                if self.turn is None:
                    had = await shared.config.locker.with_advisory_lock(shared.lock_id, self._work_under)
                else:
                    had = await self.turn.with_lock(shared.lock_id, self._work_under, self._report_if_judged)
            except BaseException as raised:  # noqa: ASYNC103 - raised again below, after the report
                error = raised
            if self.outcome is None and (had is False or isinstance(error, Exception)):
                self.asked_for = self.clock.current_time() - self._asked_at
            if error is not None:
                self._locker_raised(error)
                _raise_what_ends_more(error)
            elif self.outcome is None:
                self._work_did_not_run(had)
        finally:
            error = None  # whose traceback has this frame in it: only the garbage collector would end that circle
            current_request_id.set(before)
            shared.under_way.remove(self)

    async def run_under(self, lease: Lease) -> None:
        """Take the tick from the gate to its report under a lock that is held already."""
        self._has_own_lock, self._then = False, None
        before = current_request_id.get()
        self._shared.under_way.append(self)
        try:
            current_request_id.set(self.request_id)
            if self._gate_is_open():
                await self._work_under(lease)
        finally:
            current_request_id.set(before)
            self._shared.under_way.remove(self)

    @property
    def work_began_at(self) -> float | None:
        """When the work began that has not been judged yet, on Trio's clock; None while there is none."""
        return self.started_at if self.work_began and self.outcome is None else None

    def drop(self) -> None:
        """Cancel the attempt if its work has not begun; synchronous, and idempotent."""
        if not self.work_began and self.outcome is None:
            self._dropped = True
            if self._approach is not None:
                self._approach.cancel()

    def forget(self) -> None:
        """Keep neither the error nor the report: by its traceback the error leads back here, a circle as in `run`."""
        self.error = self._report = None

    def report_dropped(self) -> None:
        """Report CANCELLED for an attempt that will not be run."""
        self.started_at = max(self.scheduled_at, self.clock.current_time())
        self._judged(Outcome.CANCELLED)

    def _gate_is_open(self) -> bool:
        self.started_at = self._asked_at = self.clock.current_time()
        should_run = self._shared.config.should_run
        if should_run is None:
            return True
        meter = self._shared.meter
        try:
            is_open = bool(call_plain("should_run", should_run))
        except BaseException as error:
            meter.gate_said(is_open=True)
            self._judged(Outcome.FAILED, error)
            if isinstance(error, Exception):
                return False  # noqa: ASYNC104 - a plain function raises no cancellation
            raise
        meter.gate_said(is_open=is_open)
        self._asked_at = self.clock.current_time()
        if not is_open:
            self._judged(Outcome.GATED)
        elif self._dropped:  # by the gate itself
            self._judged(Outcome.CANCELLED)
        return is_open and not self._dropped

    async def _work_under(self, lease: Lease) -> None:
        """Run the work, judge and report it, then hold on; raise of its errors only what ends more than the tick.

        All in one function, since it is what the locker runs: each further layer would take half a microsecond.
        """
        if self.work_began or self.outcome is not None:
            raise RuntimeError(
                "the locker called fn a second time, or too late: with_advisory_lock runs it at most once"
            )
        shared, epoch = self._shared, lease.epoch
        self.started_at = started_at = self.clock.current_time()
        if self._has_own_lock:
            self.asked_for = started_at - self._asked_at
            shared.meter.lock_was_had(lease)
        try:
            # Either may have come in the moment of the grant, and a cancellation reaches no work before it checkpoints.
            if lease.lost:
                self._judged(Outcome.LOCK_LOST, self._error_for(Outcome.LOCK_LOST, None))
            elif self._dropped:
                self._judged(Outcome.CANCELLED)
            else:
                self.work_began = True
                self.epoch = epoch
                watch(lease, shared.meter.count_overstay)
                timeout = shared.config.tick_timeout
                # Nothing else would cancel the scope, and an idle one takes 5 us, an eighth of a tick.
                scope = None if timeout is None else trio.CancelScope(deadline=started_at + timeout)
                error: BaseException | None = None
                try:
                    # In here, because Ctrl-C may come in a span processor as well: as one in the work.
                    self._span = shared.tracer.begin(
                        self._work, self.request_id, self._number, lateness=self.lateness, epoch=epoch
                    )
                    # Nothing here keeps the tick: it would last as long as the hold.
                    if scope is None:
                        await self._work(late_tick(self._fields_of_tick))
                    else:
                        with scope:
                            await self._work(late_tick(self._fields_of_tick))
                except BaseException as raised:  # noqa: ASYNC103 - raised again below, after the report
                    error = raised
                self._judge(lease, scope, error)
                error = None  # as in `run`
            if self._then is not None:
                current_request_id.set(None)
                try:
                    await self._then(self, lease)
                finally:
                    current_request_id.set(self.request_id)
        finally:
            if self._has_own_lock:
                shared.meter.lock_was_let_go(lease)

    def _fields_of_tick(self) -> dict[str, object]:
        shared = self._shared
        return {
            "service": shared.config.name,
            "lock_id": shared.lock_id,
            "request_id": self.request_id,
            "number": self._number,
            "scheduled_at": utc_at(self.scheduled_at, self.utc_offset),
            "started_at": utc_at(self.started_at, self.utc_offset),
            "epoch": self.epoch,
            "forced": self.forced,
            "log": shared.log,
        }

    def _judge(self, lease: Lease, scope: trio.CancelScope | None, error: BaseException | None) -> None:
        """Judge and report work that has stopped; raise of its error what ends more than the tick."""
        try:
            is_lost = lease.lost
        except Exception:  # a lease may be anybody's, and must not swallow a Ctrl-C with what it raises
            if error is not None:
                _raise_what_ends_more(error)
            raise
        timed_out = scope is not None and scope.cancel_called
        cancelled = error is not None and _is_cancelled()
        outcome = judge(lost=is_lost, cancelled=cancelled, timed_out=timed_out, error=error)
        if is_lost:
            lost_seconds = lost_for(lease)
            self._judged(outcome, self._error_for(outcome, error, lost_seconds), lost_for=lost_seconds)
        elif scope is not None and outcome is Outcome.TIMED_OUT:
            self._judged(outcome, self._error_for(outcome, error, self.clock.current_time() - scope.deadline))
        else:
            self._judged(outcome, error)
        if error is not None:
            _raise_what_ends_more(error)

    def _error_for(self, outcome: Outcome, error: BaseException | None, stopped_after: float = 0.0) -> BaseException:
        """Return what the report of LOCK_LOST or TIMED_OUT names as the error; what the work raised becomes its cause.

        A note says how long the work took to stop, in seconds, where that is known. It is no part of the message, which
        is to be the same each time for those who count messages.
        """
        named: BaseException
        config = self._shared.config
        if outcome is Outcome.LOCK_LOST:
            named = LockLostError(f"the lock {self._shared.lock_id} of {config.name} was lost while its work ran")
        else:
            named = trio.TooSlowError(
                f"the work of {config.name} took longer than tick_timeout={config.tick_timeout} seconds"
            )
        if stopped_after > 0:
            named.add_note(f"the work stopped {stopped_after:.3f} s later")
        if isinstance(error, Exception):
            named.__cause__ = error
        return named

    def _locker_raised(self, error: BaseException) -> None:
        """Report what came out of the locker, unless the work had been judged before."""
        if self.outcome is not None:
            # A locker says a second time that the lock was lost: it has to.
            is_told = self.outcome is Outcome.LOCK_LOST and isinstance(error, LockLostError)
            if isinstance(error, Exception) and not is_told:
                log_safely(
                    self._shared.log,
                    logging.WARNING,
                    "the lock was lost or not let go properly after the tick had been judged; the tick stands",
                    exc_info=error,
                )
        elif isinstance(error, LockLostError):
            self._judged(Outcome.LOCK_LOST, error)
        elif isinstance(error, DatabaseUnavailableError):
            self._judged(Outcome.UNAVAILABLE, error)
        elif isinstance(error, ServicePausedError):
            self._judged(Outcome.GATED, error)
        elif self._dropped and isinstance(error, trio.Cancelled):
            self._judged(Outcome.CANCELLED)
        elif self._dropped or _is_cancelled():
            self._judged(Outcome.CANCELLED, error)
        else:
            self._judged(Outcome.LOCKER_ERROR, error)

    def _work_did_not_run(self, had: object) -> None:
        if had is False:
            self._judged(Outcome.BUSY)
        elif self._dropped:
            self._judged(Outcome.CANCELLED)
        else:
            self._judged(
                Outcome.LOCKER_ERROR,
                RuntimeError(f"with_advisory_lock returned {had!r} before fn had run: it must return False then"),
            )

    @property
    def lateness(self) -> float:
        """Seconds from the slot to the start; never negative."""
        lateness = self.started_at - self.scheduled_at
        return lateness if lateness > 0 else 0.0  # max() takes four times as long

    def _judged(self, outcome: Outcome, error: BaseException | None = None, *, lost_for: float = 0.0) -> None:
        """Take down what came of the attempt, and tell all who want to know."""
        shared, span = self._shared, self._span
        self.outcome, self.error = outcome, error
        self.judged_at = self.clock.current_time()
        try:
            try:
                if not self.work_began:
                    span = shared.tracer.begin_late(outcome, self.report, self._work)
                if span is not None:
                    span.judged(outcome, error, lost_for=lost_for)  # no report: it takes 5 us, and nobody may ask
            finally:  # whatever a span processor raises that is no `Exception`
                self._publish(self, outcome)
        finally:
            if span is not None:
                span.end()

    def report(self) -> TickReport:
        """Return the report, which is made when it is asked for first: of most ticks nobody asks. It is judged."""
        assert self.outcome is not None
        if self._report is None:
            self._report = TickReport(
                service=self._shared.config.name,
                number=self._number,
                request_id=self.request_id,
                outcome=self.outcome,
                error=self.error,
                scheduled_at=utc_at(self.scheduled_at, self.utc_offset),
                started_at=utc_at(self.started_at, self.utc_offset),
                duration=self.judged_at - self.started_at,
                lateness=self.lateness,
                epoch=self.epoch,
                forced=self.forced,
            )
        return self._report

    def _report_if_judged(self) -> TickReport | None:
        return None if self.outcome is None else self.report()


def _is_cancelled() -> bool:
    """Whether a scope around this code is cancelled, or its deadline has passed and Trio is about to notice."""
    return trio.current_effective_deadline() <= trio.current_time()


def _raise_what_ends_more(error: BaseException) -> None:
    """Raise of an error what ends more than the tick: KeyboardInterrupt, SystemExit, cancellation from outside.

    Each `Exception` is taken out of a group that mixes the kinds: it has been reported, and must not end the service
    once the cancelled scope has caught its own part. So is a `trio.Cancelled` of a scope that is gone, which somebody
    captured and raised again: no scope would ever catch it, and it would end all the tasks around.
    """
    ordinary = (Exception,) if _is_cancelled() else (Exception, trio.Cancelled)
    ending: BaseException | None = error
    if isinstance(error, BaseExceptionGroup):
        ending = cast("BaseExceptionGroup[BaseException]", error).split(ordinary)[1]
    if ending is not None and not isinstance(ending, ordinary):
        raise ending
