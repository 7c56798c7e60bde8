"""One service on one replica: the loop that takes slots and forced ticks, one at a time, in one task.

::

                       slot                              success or failure, cadence "cluster"
    run() -> [startup] -> WAITING ------> TICKING ------------------------------> HOLDING ------> WAITING
                            |               ^  |                                    |    the hold's end
                            | tick()        |  | else                               | tick()
                            +---> FORCED ---+  +--> WAITING                         +---> FORCED, under the same lock

    drain(): WAITING and HOLDING end; TICKING and FORCED are dropped if their work has not begun, else they end
    by themselves; then run() returns.

Where the lease ends a hold by itself, nobody is woken for its end: HOLDING then lasts until the next tick is due, and
only the lock is let go of in between. To wake each service once per interval instead of twice is worth a tenth of a
processor with 10,000 of them.

Invariants:

1. All ticks that begin while `run` is active run in its task, so never two at once.
2. A hold ends at its deadline, at a drain, or with the lock; a forced tick under it moves none of these. Where the
   locker can, it ends the hold itself, so also while the Trio loop is blocked; never under the work of a forced tick.
3. Each forced tick gets an answer: its report, or the error of its own cancelled caller.
4. After a drain no work begins.
"""

from __future__ import annotations

import logging
import math
from types import MappingProxyType
from typing import TYPE_CHECKING

import trio

from ._alarm import Alarm
from ._attempt import Attempt, Shared
from ._audit import component_logger, log_safely
from ._config import Config
from ._errors import ServicePausedError
from ._forced import ForcedTicks, Request
from ._health import RunningHealth, WorkerHealth
from ._ledgered import NOTHING, LedgerTurn, ledger_of, watching
from ._lock_ids import lock_id_for
from ._outcome import Outcome
from ._reporting import tell_of
from ._schedule import Schedule, hold_until, jitter, part_of, stalled_after
from ._surroundings import random_of, simulated
from ._telemetry._meters import ServiceMeter
from ._telemetry._spans import ServiceTracer
from ._trio_run import check_in_run_of, check_in_trio
from ._utc import utc_at, utc_offset
from ._watching import timed_lease
from .abc import PromptLocker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider
    from trio.abc import Clock

    from ._outcome import Tick, TickReport
    from ._statistics import ServiceStatistics
    from .abc import Lease


class Service:
    """A periodic background service: runs ``config.work`` at each slot of a fixed-rate schedule, under its lock.

    Args:
        config: what the service is; validated when it was made.
        tracer_provider: of OpenTelemetry, for the spans; None: the global one, also if that is set later.
        meter_provider: of OpenTelemetry, for the metrics; None: as above.
        trace_skipped: whether ticks that were skipped have spans too; None: what the environment variable
            ``TICKRUNNER_TRACE_SKIPPED`` says, 1 or 0 (the default).

    Raises:
        TypeError: ``config`` is not a `Config`, a provider is none, or ``trace_skipped`` is not a bool.
        ValueError: ``TICKRUNNER_TRACE_SKIPPED`` says neither yes nor no.

    One `Service` belongs to one Trio run. `health` and `statistics` may be called from any thread, everything else from
    Trio's.
    """

    # Of 10,000 services each byte is 10 KB, and each cache line that a tick touches is a miss.
    __slots__ = (
        "__dict__",  # empty: for tests that patch a service
        "__weakref__",
        "_alarm",
        "_approach",
        "_config",
        "_drained",
        "_forced",
        "_has_slept",
        "_health",
        "_last_duration",
        "_ledger",
        "_lock_id",
        "_log",
        "_meter",
        "_number",
        "_own_slot",
        "_pause_told",
        "_run_task",
        "_schedule",
        "_shared",
        "_startup_pass",
        "_trio_token",
        "_utc_offset",
    )

    def __init__(
        self,
        config: Config,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        trace_skipped: bool | None = None,
    ) -> None:
        if not isinstance(config, Config):
            raise TypeError(f"config must be a Config, got {config!r}: use Service(Config(name=..., ...))")
        self._config = config
        self._lock_id = lock_id_for(config.name) if config.lock_id is None else config.lock_id
        self._log = component_logger(config.name) if config.log is None else config.log
        self._ledger = ledger_of(config)
        self._health = RunningHealth(WorkerHealth(config.name), stalled_after(config.interval, config.tick_timeout))
        self._meter = ServiceMeter(
            config.name, self._health, config.interval, has_gate=config.should_run is not None, provider=meter_provider
        )
        tracer = ServiceTracer(config.name, self._lock_id, provider=tracer_provider, trace_skipped=trace_skipped)
        self._shared = Shared(config, self._lock_id, self._log, self._meter, tracer)
        # The slots of the run that is under way, and what makes UTC of their times.
        self._schedule: Schedule | None = None
        self._utc_offset = 0.0
        self._startup_pass: Attempt | None = None
        self._own_slot: float | None = None  # with the cadence "replica", while the next one is for whoever woke it
        self._last_duration: float | None = None
        self._pause_told = ""  # that the log has told of since the work ran last
        self._number = 0
        self._drained = False
        self._run_task: trio.lowlevel.Task | None = None
        self._trio_token: trio.lowlevel.TrioToken | None = None  # of the Trio run in which `run` was called last
        self._forced = ForcedTicks()
        self._alarm = Alarm()  # under which the task of `run` sleeps
        self._has_slept = False  # since the last tick, in its hold: to let others run once more would take 5 us
        # Around `run`; cancelled when a tick is dropped, which is its last one. None: no tick waits for its lock.
        self._approach = self._new_approach()

    @property
    def config(self) -> Config:
        """The configuration, as it was given."""
        return self._config

    @property
    def name(self) -> str:
        """The name of the service."""
        return self._config.name

    @property
    def interval(self) -> float:
        """Seconds from slot to slot."""
        return self._config.interval

    @property
    def lock_id(self) -> int:
        """The advisory lock under which the work runs: a signed 64-bit integer."""
        return self._lock_id

    def __repr__(self) -> str:
        return f"<Service {self.name!r} every {self.interval} s, lock {self.lock_id}>"

    def health(self) -> WorkerHealth:
        """Return the health of the service on this replica. From any thread; it does not block.

        The state is STALLED when `run` is under way and no outcome of any kind came for 4 x ``interval`` +
        ``tick_timeout`` seconds, from the entry of `run` at first.
        """
        return self._health.now()

    def statistics(self) -> ServiceStatistics:
        """Return what the service is doing and has done on this replica, as a snapshot. From any thread; no blocking.

        It costs the ticks nothing: it reads what they leave behind for health and metrics anyway.
        """
        from ._statistics import ServiceStatistics  # noqa: PLC0415 - few ask, and a dataclass takes 1 ms to import

        schedule, offset = self._schedule, self._utc_offset
        ticks, missed_slots, holds_lock = self._meter.counted()
        # Of each once: the work may be judged while another thread looks.
        began_at = [at for each in tuple(self._shared.under_way) if (at := each.work_began_at) is not None]
        return ServiceStatistics(
            next_slot=None if schedule is None or self._drained else utc_at(schedule.next_at, offset),
            working_since=utc_at(began_at[0], offset) if began_at else None,
            holds_lock=holds_lock,
            last_duration=self._last_duration,
            ticks=MappingProxyType(ticks),
            missed_slots=missed_slots,
        )

    def drain(self) -> None:
        """Let `run` return as soon as the work in flight has finished; for good.

        No new tick starts, a tick whose work has not begun is dropped (CANCELLED), and a hold ends. Synchronous and
        idempotent; to be called in Trio's thread.

        Raises:
            RuntimeError: `run` is active in another thread, or another Trio run. Nothing is drained then.
        """
        self._check_in_its_run("drain()", from_elsewhere="trio_token.run_sync_soon(service.drain)")
        self._drained = True
        surroundings = simulated.get()
        if surroundings is not None:
            surroundings.drained(self.name)
        for attempt in self._shared.under_way:
            attempt.drop()
        self._forced.drop()
        self._alarm.wake()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the service until it is drained or cancelled.

        ``task_status.started()`` comes before the startup pass and before the first lock. No `Exception` of the work,
        the hooks or the locker ends it; each is an `Outcome`.

        Raises:
            trio.BusyResourceError: another task runs this service already.
            RuntimeError: awaited in asyncio.

        Cancellation handling: the work is cancelled, its lock is let go when it has stopped, then the cancellation
        passes through. How long that takes is up to the work, and to the bound of the locker's release.

        Error handling: each error goes to ``config.on_error``, or to the service's logger at ERROR. KeyboardInterrupt,
        SystemExit and their kin pass through as they are, in no group, after the lock was let go.
        """
        self._begin_run()
        crashed = False
        try:
            with watching(self._ledger, self._config, self._is_wanted), self._approach or NOTHING:
                task_status.started()
                await trio.lowlevel.checkpoint()
                clock = trio.lowlevel.current_clock()
                entered_at = clock.current_time()
                schedule = self._schedule = Schedule(entered_at + self._first_wait(), self.interval)
                startup = await self._run_startup(clock, entered_at)
                schedule = self._schedule  # a success has begun another one
                while True:
                    now = clock.current_time()
                    if not (self._forced.waiting or self._drained or schedule.next_at <= now):
                        await self._alarm.sleep_until(schedule.next_at)
                        now = clock.current_time()
                    elif self._has_slept:
                        await trio.lowlevel.checkpoint_if_cancelled()  # the sleep may have been in a locker's shield
                    else:
                        await trio.lowlevel.checkpoint()
                        now = clock.current_time()
                    self._has_slept = False
                    if self._forced.waiting:
                        await self._serve()
                        now = clock.current_time()
                    if self._drained:
                        return
                    if schedule.next_at <= now:
                        attempt = self._attempt(startup or self._config.work, self._take_slot(schedule, now), clock)
                        await attempt.run(self._hold)
                        attempt.forget()
                        if attempt.turn is not None:
                            self._heed(attempt, attempt.turn)
                        if startup is not None and self._startup_is_done(attempt):
                            startup = None
        except Exception:
            crashed = True
            raise
        finally:
            self._run_task = self._schedule = None  # not a call later, upon which a Ctrl-C may come
            self._end_run(crashed=crashed)

    async def tick(self) -> TickReport:
        """Run one tick now, whatever the schedule says, and return its report.

        It goes through the gate and the lock like any other tick and shifts no schedule; where the locker keeps a
        ledger, its success counts as the interval's run, and a paused service is GATED. While `run` is active, the
        task of `run` executes it, after the tick in flight, and under the service's own hold if it has one; calls
        queue. Without `run`, it runs in the caller's task, and lets the lock go at once; to be sure of a `run` that
        the caller itself has begun, begin it by ``await nursery.start(service.run)``. On a drained service, and when
        the service is drained before the work has begun, the report says CANCELLED.

        Raises:
            RuntimeError: called by the work of this very service, in the task that would have to execute it. From
                another task that the work waits for, it hangs until ``tick_timeout`` or a drain. Or: awaited in
                asyncio, or in another Trio run than that of `run`.

        Cancellation handling: the tick is cancelled with its caller, which waits until the work has stopped.
        """
        check_in_trio("Service.tick")
        self._check_in_its_run("tick()", from_elsewhere="trio.from_thread.run(service.tick, trio_token=trio_token)")
        await trio.lowlevel.checkpoint()  # a `run` that was started beside the caller's task has begun by then
        if self._run_task is trio.lowlevel.current_task():
            raise RuntimeError(
                f"the work of {self.name} awaits a tick of its own service, which would wait for that work for ever: "
                "loop within the work instead"
            )
        approach = trio.CancelScope()
        clock = trio.lowlevel.current_clock()
        attempt = self._attempt(self._config.work, clock.current_time(), clock, approach, forced=True)
        if self._drained:
            attempt.report_dropped()
        elif self._run_task is None:
            with approach:
                await attempt.run()
        else:
            await self._forced.have_served(Request(attempt, approach), self._alarm.wake)
        try:
            return attempt.report()
        finally:
            attempt.forget()

    def _check_in_its_run(self, what: str, *, from_elsewhere: str) -> None:
        if self._run_task is not None:
            check_in_run_of(self._trio_token, f"{what} of the service {self.name!r}", from_elsewhere=from_elsewhere)

    # What the loop does.

    def _begin_run(self) -> None:
        check_in_trio("Service.run")
        if self._run_task is not None:
            raise trio.BusyResourceError(f"another task runs the service {self.name!r} already: run it once")
        self._alarm = Alarm()
        self._has_slept = False
        self._own_slot = None
        self._approach = self._new_approach()
        clock = trio.lowlevel.current_clock()
        self._health.expect_outcomes(clock)
        self._utc_offset = utc_offset(clock)
        self._meter.run_is_under_way(clock.current_time() + self._utc_offset)
        self._trio_token = trio.lowlevel.current_trio_token()
        self._run_task = trio.lowlevel.current_task()  # last: nobody takes it back if the locker, or a Ctrl-C, raises

    def _new_approach(self) -> trio.CancelScope | None:
        locker = self._config.locker
        # Asked of its class first: what a wrapper passes on from the locker within says nothing of its own waits.
        may_promise = self._ledger is None and hasattr(type(locker), "answers_at_once")
        if may_promise and isinstance(locker, PromptLocker) and locker.answers_at_once:
            return None  # a scope that is entered takes 0.7 KiB
        return trio.CancelScope()

    def _end_run(self, *, crashed: bool) -> None:
        # A service that ended in order is not late; one that crashed is, until somebody runs it again.
        if not crashed:
            self._health.expect_outcomes(None)
            self._meter.run_is_under_way(None)
        self._forced.answer()  # a Ctrl-C may have come before
        self._forced.drop()

    async def _run_startup(self, clock: Clock, entered_at: float) -> Callable[[Tick], Awaitable[None]] | None:
        """Make the startup pass, if there is one; return it if it has to be tried again, in place of the next slots."""
        startup = self._config.startup
        if startup is None or self._drained:
            return None
        attempt = self._startup_pass = self._attempt(startup, entered_at, clock)
        await attempt.run(self._hold)
        self._startup_pass = None
        attempt.forget()
        if attempt.turn is not None:
            self._heed(attempt, attempt.turn)
        return None if self._startup_is_done(attempt) else startup

    def _take_slot(self, schedule: Schedule, now: float) -> float:
        missed = schedule.missed
        taken_at = schedule.take(now)
        if schedule.missed > missed:
            self._meter.slots_missed(schedule.missed - missed)
            log_safely(
                self._log,
                logging.WARNING,
                "slots missed: when they came, a tick was under way or the loop was blocked",
                extra={"missed": schedule.missed - missed},
            )
        return taken_at

    def _first_wait(self) -> float:
        if self._ledger is None or self._config.cadence == "replica":
            return jitter(self.interval, self._random)
        return self._random() * part_of(self.interval)  # if it is not due, the answer says when it is

    def _is_wanted(self) -> None:
        """Somebody has triggered or resumed it: the next slot is now.

        Not during a tick, which may be what was asked for; if it was not, we are told again.
        """
        if self._schedule is not None and not self._shared.under_way:
            if self._config.cadence == "replica" and self._own_slot is None:
                self._own_slot = self._schedule.next_at
            self._schedule.move_to(trio.current_time())
            self._alarm.wake()

    def _heed(self, attempt: Attempt, turn: LedgerTurn) -> None:
        """Take what the ledger said: when this replica asks again, and since when there has been no success."""
        if turn.answer is not None and turn.answer.last_success is not None:
            self._health.begin_with(turn.answer.last_success)
        assert self._schedule is not None  # it is `run` that heeds
        slot_at = turn.next_slot(_outcome_of(attempt), trio.current_time(), self._random)
        if slot_at is None:
            slot_at, self._own_slot = self._own_slot, None
        if slot_at is not None:
            self._schedule.move_to(slot_at)

    async def _hold(self, attempt: Attempt, lease: Lease) -> None:
        """Hold on to the lock after a tick of the schedule, for as long as is right; serve forced ticks meanwhile.

        Where the lease ends by itself, it returns when the next tick is due, which may be much later.
        """
        if attempt.turn is not None:
            return  # the ledger knows when it is due, whoever asks
        attempt.forget()  # a hold may last for nine tenths of the interval, and the sleep in it for longer
        schedule, outcome, config, clock = self._schedule, attempt.outcome, self._config, attempt.clock
        assert outcome is not None  # it has been judged
        assert schedule is not None  # `run` is under way
        if attempt is self._startup_pass and outcome is Outcome.SUCCESS and config.cadence == "cluster":
            # It is that interval's run; known already now, so that the hold shows the slot that follows it.
            schedule = self._schedule = Schedule(attempt.started_at + config.interval, config.interval)
        held_from = now = clock.current_time()
        held_until = hold_until(
            outcome,
            cadence=config.cadence,
            started_at=attempt.started_at,
            interval=config.interval,
            random=self._random,
        )
        if held_until <= now or self._drained:
            return
        timed = timed_lease(lease)
        while now < held_until and not self._drained:
            if self._forced.waiting:
                if timed is not None and not timed.let_go_after(math.inf):
                    break  # the hold has just ended: the tick will get a lock of its own
                await self._serve(lease)
            elif timed is None:
                await self._alarm.sleep_until(held_until)
            elif timed.let_go_after(held_until - now):
                await self._alarm.sleep_until(schedule.due_after_hold(held_from, held_until))
                self._has_slept = True
            else:
                break
            now = clock.current_time()
        missed = schedule.missed
        schedule.skip_held(held_from, min(held_until, now))
        if schedule.missed > missed:
            self._meter.slots_missed(schedule.missed - missed)

    async def _serve(self, lease: Lease | None = None) -> None:
        """Execute the next forced tick in the task of `run`, under the lock that is held already, if there is one."""
        self._has_slept = False
        request = self._forced.take()
        try:
            with request.scope:
                await (request.attempt.run() if lease is None else request.attempt.run_under(lease))
                if request.attempt.turn is not None:
                    self._heed(request.attempt, request.attempt.turn)
        finally:
            self._forced.answer()

    def _attempt(
        self,
        work: Callable[[Tick], Awaitable[None]],
        scheduled_at: float,
        clock: Clock,
        approach: trio.CancelScope | None = None,
        *,
        forced: bool = False,
    ) -> Attempt:
        self._number += 1
        # A slot of its own is due whatever the others did; what it was woken for, another one may have run by now.
        is_own = self._config.cadence == "replica" and self._own_slot is None
        attempt = Attempt(
            self._shared,
            work=work,
            number=self._number,
            scheduled_at=scheduled_at,
            forced=forced,
            clock=clock,
            approach=self._approach if approach is None else approach,
            publish=self._publish,
            turn=None if self._ledger is None else LedgerTurn(self._ledger, self._config, forced=forced or is_own),
        )
        self._utc_offset = attempt.utc_offset
        return attempt

    def _random(self) -> float:
        return random_of(self._config.name)()

    def _startup_is_done(self, attempt: Attempt) -> bool:
        outcome = _outcome_of(attempt)
        return outcome is Outcome.SUCCESS or (outcome is Outcome.BUSY and self._config.cadence == "cluster")

    # What hears of a tick.

    def _publish(self, attempt: Attempt, outcome: Outcome) -> None:
        """Tell health of an attempt, then metrics, then the hook or the log. It raises no `Exception`."""
        judged_at, error = attempt.judged_at, attempt.error
        is_repeated = self._health.tell(outcome, judged_at=judged_at, utc_offset=attempt.utc_offset, error=error)
        self._meter.judged(
            outcome,
            asked_for=attempt.asked_for,
            duration=judged_at - attempt.started_at,
            lateness=None if attempt.forced else attempt.lateness,
        )
        if isinstance(error, ServicePausedError) and outcome is Outcome.GATED:
            # A tick in between may find the lock busy: replicas that ask at one moment do, also while it is paused.
            is_repeated, self._pause_told = self._pause_told == str(error), str(error)
        if outcome.result != "skipped":
            self._last_duration = judged_at - attempt.started_at
            self._pause_told = ""
        tell_of(
            outcome,
            error,
            attempt.report,
            log=self._log,
            on_error=self._config.on_error,
            is_repeated=is_repeated,
            work_began=attempt.work_began,
        )
        surroundings = simulated.get()
        if surroundings is not None:
            surroundings.overhear(attempt.report())


def _outcome_of(attempt: Attempt) -> Outcome:
    assert attempt.outcome is not None, "every attempt that was run or dropped has been judged"
    return attempt.outcome
