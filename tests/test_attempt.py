"""One tick: every outcome, judged in the design's order, reported once, with its lock released."""

from __future__ import annotations

import logging
from datetime import UTC, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import outcome
import pytest
import trio
from scripted import always, names, service, virtually

from tickrunner_trio import (
    DatabaseUnavailableError,
    HealthState,
    LockerConfigurationError,
    LockLostError,
    MemoryLocker,
    Outcome,
    Tick,
    TickReport,
    request_id,
)
from tickrunner_trio.testing import Busy, Fails, Grant, ScriptedLocker, Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tickrunner_trio import Lease


async def nothing(tick: Tick) -> None:
    """Work that is done at once."""


def tick_of(work: Any, locker: Any = None, **fields: Any) -> TickReport:
    """Force one tick in a Trio run of its own and return its report, after a look at what must hold for each."""
    locker = locker or always(Grant())
    subject = service(work, locker, **fields)

    async def main() -> TickReport:
        return await subject.tick()

    report: TickReport = virtually(main)
    assert not getattr(locker, "held", False)
    assert subject.health().last_outcome is report.outcome
    return report


# Every outcome.


def test_work_that_returns_is_a_success() -> None:
    report = tick_of(nothing)
    assert (report.outcome, report.error, report.epoch, report.forced) == (Outcome.SUCCESS, None, 7, True)
    assert (report.service, report.number, report.duration, report.lateness) == ("sweep", 1, 0.0, 0.0)
    assert len(report.request_id) == 32
    int(report.request_id, 16)


def test_work_that_raises_is_failed_and_the_report_has_its_very_error() -> None:
    error = OSError("disk full")

    async def work(tick: Tick) -> None:
        raise error

    report = tick_of(work)
    assert report.outcome is Outcome.FAILED
    assert report.error is error


def test_work_that_raises_a_group_is_failed() -> None:
    async def work(tick: Tick) -> None:
        raise ExceptionGroup("two", [OSError("a"), ValueError("b")])

    report = tick_of(work)
    assert report.outcome is Outcome.FAILED
    assert isinstance(report.error, ExceptionGroup)


@pytest.mark.parametrize("swallow", [True, False])
def test_work_beyond_its_timeout_is_timed_out_whatever_it_then_does(swallow: bool) -> None:
    async def work(tick: Tick) -> None:
        try:
            await trio.sleep(60)
        except trio.Cancelled:
            if not swallow:
                raise ValueError("in clean-up") from None

    report = tick_of(work, tick_timeout=3)
    assert report.outcome is Outcome.TIMED_OUT
    assert isinstance(report.error, trio.TooSlowError)
    assert "tick_timeout=3" in str(report.error)
    assert isinstance(report.error.__cause__, type(None) if swallow else ValueError)
    assert report.duration == 3.0


def test_work_whose_lock_is_lost_is_lock_lost_and_cancelled() -> None:
    stopped: list[float] = []

    async def work(tick: Tick) -> None:
        try:
            await trio.sleep(60)
        finally:
            stopped.append(trio.current_time())

    report = tick_of(work, always(Grant(lost_after=2)))
    assert report.outcome is Outcome.LOCK_LOST
    assert isinstance(report.error, LockLostError)
    assert stopped == [2.0]


@pytest.mark.parametrize("late", [0, 5])
def test_the_error_of_a_timeout_says_how_long_the_work_took_to_stop(late: int) -> None:
    async def work(tick: Tick) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(3 + late)

    report = tick_of(work, tick_timeout=3)
    assert report.duration == 3 + late
    assert getattr(report.error, "__notes__", []) == ["the work stopped 5.000 s later"] * bool(late)
    assert str(report.error) == "the work of sweep took longer than tick_timeout=3 seconds"


def test_the_error_of_a_loss_says_how_long_the_work_took_to_stop_if_the_lease_knows() -> None:
    class KnowingLease:
        def __init__(self, lease: Lease) -> None:
            self.lock_id, self.epoch = lease.lock_id, lease.epoch
            self._lease = lease

        @property
        def lost(self) -> bool:
            return self._lease.lost

        def lost_for(self) -> float:
            return 5.0

        def tell_if_overstayed(self, tell: object) -> None:
            """Nobody does."""

    class KnowingLocker:
        async def with_advisory_lock(self, lock_id: int, fn: Callable[[Lease], Awaitable[None]]) -> bool:
            return await always(Grant(lost_after=1)).with_advisory_lock(lock_id, lambda lease: fn(KnowingLease(lease)))

    report = tick_of(nothing_but_shielded_sleep, KnowingLocker())
    assert report.outcome is Outcome.LOCK_LOST
    assert getattr(report.error, "__notes__", []) == ["the work stopped 5.000 s later"]
    report = tick_of(nothing_but_shielded_sleep, always(Grant(lost_after=1)))
    assert report.outcome is Outcome.LOCK_LOST
    assert not hasattr(report.error, "__notes__")


async def nothing_but_shielded_sleep(tick: Tick) -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep(6)


def test_a_lost_lock_comes_before_the_timeout_and_before_the_error() -> None:
    async def work(tick: Tick) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(5)
        raise ValueError("late")

    report = tick_of(work, always(Grant(lost_after=1)), tick_timeout=2)
    assert report.outcome is Outcome.LOCK_LOST
    assert isinstance(report.error, LockLostError)
    assert isinstance(report.error.__cause__, ValueError)


def test_a_lock_lost_error_of_the_works_own_is_just_failed() -> None:
    async def work(tick: Tick) -> None:
        raise LockLostError("of another lock")

    assert tick_of(work).outcome is Outcome.FAILED


def test_a_database_outage_out_of_the_work_is_unavailable_and_no_failure() -> None:
    async def work(tick: Tick) -> None:
        raise DatabaseUnavailableError("the catalogue is away")

    report = tick_of(work)
    assert report.outcome is Outcome.UNAVAILABLE
    assert report.outcome.result == "skipped"


@pytest.mark.parametrize(
    ("step", "outcome"),
    [
        (Busy(), Outcome.BUSY),
        (Fails(DatabaseUnavailableError("away")), Outcome.UNAVAILABLE),
        (Fails(LockerConfigurationError("a pooler")), Outcome.LOCKER_ERROR),
        (Fails(OSError("bug")), Outcome.LOCKER_ERROR),
        (Fails(LockLostError("before the work")), Outcome.LOCK_LOST),
    ],
)
def test_a_locker_that_does_not_grant_decides_the_outcome_and_no_work_runs(
    step: Busy | Fails, outcome: Outcome
) -> None:
    report = tick_of(raises_assertion, ScriptedLocker([step]))
    assert report.outcome is outcome
    assert report.error is (step.error if isinstance(step, Fails) else None)
    assert report.epoch is None


@pytest.mark.parametrize("answer", [True, None])
def test_a_locker_that_says_it_ran_the_work_and_did_not_is_a_locker_error(answer: object) -> None:
    class Liar:
        async def with_advisory_lock(self, lock_id: int, fn: Any) -> Any:
            await trio.lowlevel.checkpoint()
            return answer

    report = tick_of(nothing, Liar())
    assert report.outcome is Outcome.LOCKER_ERROR
    assert f"returned {answer}" in str(report.error)


def test_a_locker_that_runs_the_work_twice_is_stopped_and_the_first_judgement_stands() -> None:
    runs: list[int] = []

    class Twice:
        async def with_advisory_lock(self, lock_id: int, fn: Any) -> bool:
            lease = SimpleNamespace(lock_id=lock_id, epoch=None, lost=False)
            await fn(lease)
            return await fn(lease) is None

    async def work(tick: Tick) -> None:
        runs.append(tick.number)

    assert tick_of(work, Twice()).outcome is Outcome.SUCCESS
    assert runs == [1]


def test_a_closed_gate_is_gated_and_the_lock_is_not_tried() -> None:
    locker = always(Fails(AssertionError("tried")))
    report = tick_of(nothing, locker, should_run=lambda: False)
    assert (report.outcome, report.error) == (Outcome.GATED, None)


def test_an_open_gate_lets_the_work_run() -> None:
    assert tick_of(nothing, should_run=lambda: True).outcome is Outcome.SUCCESS


def test_a_gate_that_raises_is_failed_and_the_lock_is_not_tried() -> None:
    error = RuntimeError("no configuration")

    def gate() -> bool:
        raise error

    report = tick_of(nothing, always(Fails(AssertionError("tried"))), should_run=gate)
    assert report.outcome is Outcome.FAILED
    assert report.error is error


class Later:
    """An awaitable that is no coroutine."""

    def __await__(self) -> Any:
        raise AssertionError("awaited")


async def _gate() -> bool:
    raise AssertionError("awaited")


@pytest.mark.parametrize("gate", [lambda: _gate(), lambda: Later()])
def test_a_gate_that_gives_an_awaitable_in_disguise_is_failed_and_named(gate: Any) -> None:
    report = tick_of(nothing, should_run=gate)
    assert report.outcome is Outcome.FAILED
    assert "should_run" in str(report.error)


# What the work is told.


def test_the_tick_tells_the_work_what_the_report_tells_the_others() -> None:
    seen: list[tuple[Tick, str | None]] = []

    async def work(tick: Tick) -> None:
        seen.append((tick, request_id()))

    report = tick_of(work, always(Grant(answers_after=2)), lock_id=-5)
    [(tick, in_context)] = seen
    for name in ("service", "number", "request_id", "scheduled_at", "started_at", "epoch", "forced"):
        assert getattr(tick, name) == getattr(report, name)
    assert tick.lock_id == -5
    assert in_context == tick.request_id
    assert tick.started_at - tick.scheduled_at == timedelta(seconds=2)
    assert report.lateness == 2.0
    assert tick.started_at.tzinfo is UTC


def test_the_start_is_when_the_lock_was_had_and_the_duration_is_that_of_the_work() -> None:
    async def work(tick: Tick) -> None:
        await trio.sleep(4)

    report = tick_of(work, always(Grant(answers_after=2)))
    assert (report.lateness, report.duration) == (2.0, 4.0)


# The order of things.


@pytest.mark.parametrize("fails", [False, True])
def test_a_tick_is_judged_and_reported_before_its_lock_is_let_go(fails: bool) -> None:
    locker = ScriptedLocker()
    observed: list[tuple[Outcome | None, bool]] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            observed.append((subject.health().last_outcome, subject.lock_id in locker.held))

    log = logging.Logger("order", logging.INFO)
    log.addHandler(Handler())

    async def work(tick: Tick) -> None:
        if fails:
            raise OSError

    subject = service(work, locker, log=log)

    async def main() -> None:
        await subject.tick()

    virtually(main)
    assert observed == [(Outcome.FAILED if fails else Outcome.SUCCESS, True)]
    assert names(locker) == ["locked", "unlocked"]


def test_the_lock_is_let_go_only_after_the_work_has_really_stopped() -> None:
    locker = ScriptedLocker()

    async def work(tick: Tick) -> None:
        try:
            await trio.sleep(60)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(5)
            locker.note("stopped")

    report = tick_of(work, locker, tick_timeout=1)
    assert report.outcome is Outcome.TIMED_OUT
    assert locker.events == [("locked", 0.0), ("stopped", 6.0), ("unlocked", 6.0)]


def test_a_lost_lock_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[BaseException] = []

    async def work(tick: Tick) -> None:
        await trio.sleep(5)

    report = tick_of(work, always(Grant(lost_after=1)), on_error=heard.append)
    assert heard == [report.error]
    assert report.error is not None
    assert report.error.__cause__ is None, "the work raised nothing but its cancellation"
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("error", [LockLostError("in the end"), OSError("unlock failed")])
def test_what_the_locker_raises_after_the_judgement_is_logged_and_changes_nothing(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    report = tick_of(nothing, always(Grant(fails_to_unlock=error)))
    assert report.outcome is Outcome.SUCCESS
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "the tick stands" in record.message
    assert record.exc_info is not None
    assert record.exc_info[1] is error


# What passes through.


class Goodbye(BaseException):
    """Ends a program, as KeyboardInterrupt does."""


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, Goodbye])
def test_what_ends_the_program_passes_through_unwrapped_after_the_report_and_the_unlock(
    kind: type[BaseException],
) -> None:
    locker, error = ScriptedLocker(), kind("now")

    async def work(tick: Tick) -> None:
        raise error

    subject = service(work, locker)
    with pytest.raises(kind) as caught:
        virtually(subject.tick)
    assert caught.value is error
    assert names(locker) == ["locked", "unlocked"]
    assert subject.health().last_outcome is Outcome.FAILED


@pytest.mark.parametrize("kind", [KeyboardInterrupt, Goodbye])
def test_what_ends_the_program_passes_through_a_gate_and_a_locker_too(kind: type[BaseException]) -> None:
    def gate() -> bool:
        raise kind

    for subject, expected in (
        (service(nothing, should_run=gate), Outcome.FAILED),
        (service(nothing, always(Fails(kind()))), Outcome.LOCKER_ERROR),
    ):
        with pytest.raises(kind):
            virtually(subject.tick)
        assert subject.health().last_outcome is expected


def test_of_a_group_only_what_ends_the_program_passes_through() -> None:
    reported: list[BaseException] = []

    async def work(tick: Tick) -> None:
        raise BaseExceptionGroup("mixed", [Goodbye(), ValueError("ordinary")])

    subject = service(work, on_error=reported.append)
    with pytest.raises(BaseExceptionGroup) as caught:
        virtually(subject.tick)
    assert [type(error) for error in caught.value.exceptions] == [Goodbye]
    [group] = reported
    assert isinstance(group, BaseExceptionGroup)
    assert len(group.exceptions) == 2


def test_an_error_beside_a_cancellation_does_not_survive_the_cancelled_scope() -> None:
    async def work(tick: Tick) -> None:
        async def fail_late() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("in clean-up")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_late)
            nursery.start_soon(trio.sleep_forever)

    subject = service(work)

    async def main() -> None:
        with trio.move_on_after(1) as scope:
            await subject.tick()
        assert scope.cancelled_caught

    virtually(main)
    assert subject.health().last_outcome is Outcome.CANCELLED


@pytest.mark.parametrize("how", ["raised", "in a group"])
def test_a_cancellation_of_a_scope_that_is_gone_is_a_failure_and_ends_nothing(how: str) -> None:
    """No scope would ever catch it: on its way out it would end all the tasks around."""

    async def work(tick: Tick) -> None:
        with trio.move_on_after(1):
            captured = await outcome.acapture(trio.sleep, 5)
        if how == "raised":
            captured.unwrap()
        raise BaseExceptionGroup("mixed", [captured.error, OSError("x")])

    report = tick_of(work)
    assert report.outcome is Outcome.FAILED


def test_an_error_of_the_lockers_beside_a_cancellation_does_not_survive_the_cancelled_scope() -> None:
    class Beating:
        async def with_advisory_lock(self, lock_id: int, fn: Any) -> bool:
            async def beat() -> None:
                try:
                    await trio.sleep_forever()
                finally:
                    raise OSError("the last beat failed")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(beat)
                await trio.sleep_forever()
            raise AssertionError("it sleeps for ever")

    subject = service(nothing, Beating())

    async def main() -> None:
        with trio.move_on_after(1) as scope:
            await subject.tick()
        assert scope.cancelled_caught

    virtually(main)
    assert subject.health().last_outcome is Outcome.CANCELLED


# Leases that are lost before the work begins.


def test_no_work_begins_under_a_lease_that_is_lost() -> None:
    report = tick_of(raises_assertion, ScriptedLocker([Grant(lost_after=0)]))
    assert (report.outcome, report.epoch) == (Outcome.LOCK_LOST, None)
    assert isinstance(report.error, LockLostError)


async def raises_assertion(tick: Tick) -> None:
    raise AssertionError("the work ran")


def test_a_drain_in_the_moment_of_the_grant_drops_the_tick() -> None:
    class DrainsFirst(ScriptedLocker):
        def note(self, event: str) -> None:
            super().note(event)
            subject.drain()

    locker = DrainsFirst()
    subject = service(raises_assertion, locker)
    assert virtually(subject.tick).outcome is Outcome.CANCELLED
    assert names(locker) == ["locked", "unlocked"]


def test_a_dropped_tick_is_no_failure_even_if_the_locker_raises_on_its_way_out() -> None:
    class Clumsy:
        async def with_advisory_lock(self, lock_id: int, fn: Any) -> bool:
            try:
                await trio.sleep_forever()
            finally:
                raise OSError("in clean-up")

    subject = service(nothing, Clumsy())

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(subject.tick)
            await trio.sleep(1)
            subject.drain()

    virtually(main)
    assert subject.health().last_outcome is Outcome.CANCELLED


@pytest.mark.parametrize("answer", [True, None])
def test_a_dropped_tick_is_no_error_of_a_locker_that_swallows_the_cancellation(answer: object) -> None:
    class Swallows:
        async def with_advisory_lock(self, lock_id: int, fn: Any) -> Any:
            try:
                await trio.sleep_forever()
            except trio.Cancelled:  # which it ought to let pass
                return answer

    subject = service(nothing, Swallows())

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(subject.tick)
            await trio.sleep(1)
            subject.drain()

    virtually(main)
    assert subject.health().last_outcome is Outcome.CANCELLED


def test_a_locker_that_runs_the_work_too_late_is_refused_and_the_first_report_stands() -> None:
    late: list[str] = []

    class TooLate:
        async def with_advisory_lock(self, lock_id: int, fn: Any) -> bool:
            async def afterwards() -> None:
                await trio.sleep(1)
                with pytest.raises(RuntimeError, match="too late"):
                    await fn(SimpleNamespace(lock_id=lock_id, epoch=None, lost=False))
                late.append("refused")

            nursery.start_soon(afterwards)
            return True

    subject = service(raises_assertion, TooLate())
    nursery: trio.Nursery

    async def main() -> TickReport:
        nonlocal nursery
        async with trio.open_nursery() as nursery:
            return await subject.tick()

    assert virtually(main).outcome is Outcome.LOCKER_ERROR
    assert late == ["refused"]
    assert subject.health().consecutive_failures == 1


# Cancellation at every checkpoint.


@pytest.mark.parametrize(
    ("cancelled_at", "outcome", "events"),
    [
        (1, Outcome.CANCELLED, []),
        (3, Outcome.CANCELLED, ["locked", "unlocked"]),
    ],
)
def test_a_cancelled_tick_is_reported_cancelled_and_leaves_no_lock(
    cancelled_at: float, outcome: Outcome, events: list[str]
) -> None:
    locker = always(Grant(answers_after=2))

    async def work(tick: Tick) -> None:
        await trio.sleep(5)

    subject = service(work, locker)

    async def main() -> None:
        with trio.move_on_after(cancelled_at) as scope:
            await subject.tick()
        assert scope.cancelled_caught
        assert trio.current_time() == cancelled_at

    virtually(main)
    assert subject.health().last_outcome is outcome
    assert subject.health().state is HealthState.STARTING
    assert names(locker) == events


def test_a_cancelled_tick_whose_work_raises_is_cancelled_and_one_that_returns_is_a_success() -> None:
    async def raises(tick: Tick) -> None:
        try:
            await trio.sleep(5)
        finally:
            raise ValueError("in clean-up")

    async def returns(tick: Tick) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(5)

    for work, expected in ((raises, Outcome.CANCELLED), (returns, Outcome.SUCCESS)):
        subject = service(work)

        async def main(subject: Any = subject) -> None:
            with trio.move_on_after(1):
                await subject.tick()

        virtually(main)
        assert subject.health().last_outcome is expected


@pytest.mark.parametrize("checkpoint", range(1, 12))
@pytest.mark.parametrize("running", [False, True])
def test_cancelled_at_any_checkpoint_a_tick_leaves_no_lock_and_one_report(checkpoint: int, running: bool) -> None:
    """Count the checkpoints of Trio's scheduler rather than seconds, so that none between two awaits is left out."""
    locker = MemoryLocker()
    began: list[int] = []
    ended: list[int] = []

    async def work(tick: Tick) -> None:
        began.append(tick.number)
        try:
            for _ in range(3):
                await trio.lowlevel.checkpoint()
        finally:
            ended.append(tick.number)

    subject = service(work, locker, cadence="replica")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            if running:
                await nursery.start(subject.run)
            with trio.CancelScope() as scope:
                nursery.start_soon(cancel_after, scope)
                await subject.tick()
            assert began == ended
            # The lock is free: the next tick gets it.
            assert (await subject.tick()).outcome is Outcome.SUCCESS
            nursery.cancel_scope.cancel()

    async def cancel_after(scope: trio.CancelScope) -> None:
        for _ in range(checkpoint):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    virtually(main)


# Observers never break the work.


def test_on_error_takes_the_place_of_the_error_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    heard: list[BaseException] = []
    error = OSError("disk full")

    async def work(tick: Tick) -> None:
        raise error

    tick_of(work, on_error=heard.append)
    assert heard == [error]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(
    ("fields", "plan", "kind"),
    [
        ({"tick_timeout": 1}, [], trio.TooSlowError),
        ({}, [Grant(lost_after=1)], LockLostError),
        ({}, [Fails(OSError("bug"))], OSError),
        ({"should_run": lambda: 1 // 0}, [], ZeroDivisionError),
    ],
)
def test_on_error_hears_every_outcome_that_is_an_error(
    fields: dict[str, Any], plan: Any, kind: type[BaseException]
) -> None:
    heard: list[BaseException] = []

    async def work(tick: Tick) -> None:
        await trio.sleep(5)

    assert tick_of(work, ScriptedLocker(plan), on_error=heard.append, **fields).outcome.result == "error"
    assert [type(error) for error in heard] == [kind]


@pytest.mark.parametrize(
    ("fields", "plan"),
    [
        ({"should_run": lambda: False}, []),
        ({}, [Busy()]),
        ({}, [Unavailable("away")]),
        ({}, []),
    ],
)
def test_on_error_does_not_hear_of_skips_and_successes(fields: dict[str, Any], plan: Any) -> None:
    heard: list[BaseException] = []
    tick_of(nothing, ScriptedLocker(plan), on_error=heard.append, **fields)
    assert heard == []


async def _async_hook(error: BaseException) -> None:
    """The wrong colour."""


@pytest.mark.parametrize("hook", [lambda error: 1 // 0, lambda error: _async_hook(error)])
def test_a_hook_that_raises_is_logged_and_breaks_nothing(hook: Any, caplog: pytest.LogCaptureFixture) -> None:
    locker = ScriptedLocker()

    async def work(tick: Tick) -> None:
        raise OSError

    assert tick_of(work, locker, on_error=hook).outcome is Outcome.FAILED
    assert names(locker) == ["locked", "unlocked"]
    assert [record.message for record in caplog.records] == ["on_error raised"]


def test_a_logger_that_raises_is_reported_and_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    class Broken(logging.LoggerAdapter[logging.Logger]):
        def process(self, msg: Any, kwargs: Any) -> Any:
            raise OSError("log collector away")

    locker = ScriptedLocker()
    assert tick_of(nothing, locker, log=Broken(logging.getLogger("broken"), {})).outcome is Outcome.SUCCESS
    assert names(locker) == ["locked", "unlocked"]
    assert "raised" in caplog.records[0].message


# Logs.


def test_a_failure_is_logged_once_with_its_traceback_and_its_request_id(caplog: pytest.LogCaptureFixture) -> None:
    error = OSError("disk full")

    async def work(tick: Tick) -> None:
        raise error

    report = tick_of(work)
    [record] = caplog.records
    assert (record.levelname, record.message) == ("ERROR", "pass failed")
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    fields = vars(record)
    assert fields["request_id"] == report.request_id
    assert fields["component"] == fields["service"] == "sweep"
    assert fields["outcome"] == "failed"


@pytest.mark.parametrize("plan", [[Busy()], []])
def test_a_skip_is_for_debugging_only(plan: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    tick_of(nothing, ScriptedLocker(plan), should_run=lambda: bool(plan))
    assert [(record.levelname, record.message) for record in caplog.records] == [("DEBUG", "tick skipped")]


def test_an_outage_is_warned_of_once_while_it_lasts(caplog: pytest.LogCaptureFixture) -> None:
    away = Unavailable("away")
    subject = service(nothing, ScriptedLocker([away, away, away, Grant(), Unavailable("away again")]))

    async def main() -> None:
        for _ in range(5):
            await subject.tick()

    virtually(main)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "away" in str(caplog.records[0].exc_info)


@pytest.mark.parametrize("error", [DatabaseUnavailableError("away"), LockerConfigurationError("no ledger")])
def test_what_a_locker_says_of_its_situation_is_told_without_the_way_through_the_library(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    class Refusing:
        async def with_advisory_lock(self, lock_id: int, fn: Callable[[Lease], Awaitable[None]]) -> bool:
            raise error

    assert tick_of(nothing, Refusing()).error is error
    assert error.__traceback__ is not None  # for hooks
    [record] = caplog.records
    assert record.exc_info == (type(error), error, None)


def test_what_the_work_says_of_its_own_database_is_told_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async def work(tick: Tick) -> None:
        raise DatabaseUnavailableError("the other one is away")

    tick_of(work)
    [record] = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[2] is not None


# A lease that does not say.


class LockerOfMuteLeases:
    """Its lease says that it is held until the work begins, and then nothing any more."""

    def __init__(self) -> None:
        self.is_mute = False
        self.held = False

    async def with_advisory_lock(self, lock_id: int, fn: Callable[[Lease], Awaitable[None]]) -> bool:
        locker = self

        class MuteLease:
            epoch = 5

            @property
            def lost(self) -> bool:
                if locker.is_mute:
                    raise OSError("nobody knows")
                return False

        lease: Any = MuteLease()
        lease.lock_id = lock_id
        self.held = True
        try:
            return await fn(lease) is None
        finally:
            self.held = False


def test_a_lease_that_does_not_say_whether_it_is_lost_is_an_error_of_the_locker_and_counts_as_held_meanwhile() -> None:
    locker = LockerOfMuteLeases()
    held: list[bool] = []

    async def work(tick: Tick) -> None:
        locker.is_mute = True
        held.append(subject.statistics().holds_lock)

    subject = service(work, locker)
    report: TickReport = virtually(subject.tick)
    assert (report.outcome, str(report.error)) == (Outcome.LOCKER_ERROR, "nobody knows")
    assert held == [True]
    assert not subject.statistics().holds_lock


def test_a_tick_read_late_and_its_report_have_the_epoch_under_which_the_work_began_whatever_came_of_it() -> None:
    kept: list[Tick] = []

    async def work(tick: Tick) -> None:
        kept.append(tick)
        locker.is_mute = True

    locker = LockerOfMuteLeases()
    report: TickReport = virtually(service(work, locker).tick)
    assert (report.outcome, report.epoch, kept[0].epoch) == (Outcome.LOCKER_ERROR, 5, 5)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_passes_a_lease_that_does_not_say_whether_it_is_lost(kind: type[BaseException]) -> None:
    locker = LockerOfMuteLeases()

    async def work(tick: Tick) -> None:
        locker.is_mute = True
        raise kind

    subject = service(work, locker)
    with pytest.raises(kind):
        virtually(subject.tick)
    assert not locker.held
    assert subject.health().last_outcome is Outcome.LOCKER_ERROR
