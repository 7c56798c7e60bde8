"""Health folds with one realistic bug each: `HealthStateMachine` finds every one, and says which promise it breaks.

Each is the library's own fold but for its bug, so that nothing else can give it away.
"""

from __future__ import annotations

import ast
import traceback
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tickrunner_trio import HealthState, Outcome, WorkerHealth
from tickrunner_trio._health import describe_error
from tickrunner_trio.testing import HealthStateMachine, _health_machine, _health_promises

if TYPE_CHECKING:
    from collections.abc import Callable

#: So few that a bug of this kind shows in the usual hundred, whatever the seed.
EXAMPLES = 25

BUGS: list[tuple[type[HealthStateMachine], str]] = []


def bug(promise: str) -> Callable[[type[Any]], type[Any]]:
    """Hang a fold, or a machine that holds a reporter, into the gallery, below the promise that it breaks."""

    def hang(subject: type[Any]) -> type[Any]:
        BUGS.append((subject if issubclass(subject, HealthStateMachine) else machine_for(subject), promise))
        return subject

    return hang


def machine_for(fold: type[WorkerHealth]) -> type[HealthStateMachine]:
    return type(fold.__name__, (HealthStateMachine,), {"start": lambda self, name: fold(name)})


class Fold(WorkerHealth):
    """The library's, as those with a bug see it."""

    def right(self, outcome: Outcome, at: datetime, error: BaseException | None) -> Any:
        return WorkerHealth.after(self, outcome, at=at, error=error)


# -- Failures and the last error ---------------------------------------------------------------------------------------


@bug("A success resets consecutive_failures and last_error: consecutive_failures is")
class ASuccessDoesNotResetTheFailures(Fold):
    def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
        after = self.right(outcome, at, error)
        return replace(after, consecutive_failures=max(after.consecutive_failures, self.consecutive_failures))


@bug("A success resets consecutive_failures and last_error: consecutive_failures is")
class ASuccessTakesOneFailureAway(Fold):
    def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
        after = self.right(outcome, at, error)
        if outcome is Outcome.SUCCESS:
            return replace(after, consecutive_failures=max(0, self.consecutive_failures - 1))
        return after


@bug("A success resets consecutive_failures and last_error: last_error is")
class TheErrorIsKeptAfterASuccess(Fold):
    def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
        after = self.right(outcome, at, error)
        return replace(after, last_error=after.last_error or self.last_error) if outcome.result != "error" else after


@bug("A skip (Outcome.GATED) changes neither consecutive_failures nor last_error: consecutive_failures is")
class GatedIsAFailure(Fold):
    def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
        after = self.right(outcome, at, error)
        more = 1 if outcome is Outcome.GATED else 0
        return replace(after, consecutive_failures=after.consecutive_failures + more)


@bug("A skip (Outcome.UNAVAILABLE) changes neither consecutive_failures nor last_error: consecutive_failures is")
class UnavailableIsAFailure(Fold):
    def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
        if outcome is Outcome.UNAVAILABLE:
            failed = self.right(Outcome.FAILED, at, error)
            return replace(failed, state=HealthState.UNAVAILABLE, last_outcome=outcome)
        return self.right(outcome, at, error)


@bug("A skip (Outcome.BUSY) changes neither consecutive_failures nor last_error: consecutive_failures is")
class BusyIsASuccessOfSomebodyElse(Fold):
    def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
        after = self.right(outcome, at, error)
        return replace(after, consecutive_failures=0, last_error="") if outcome is Outcome.BUSY else after


@bug("A skip (Outcome.CANCELLED) changes neither consecutive_failures nor last_error: last_error is")
class ASkipResetsTheLastError(Fold):
    def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
        after = self.right(outcome, at, error)
        return replace(after, last_error="") if outcome is Outcome.CANCELLED else after


@bug("A skip (Outcome.UNAVAILABLE) changes neither consecutive_failures nor last_error: last_error is")
class TheOutageIsTheLastError(Fold):
    def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
        after = self.right(outcome, at, error)
        told = outcome is Outcome.UNAVAILABLE and error is not None
        return replace(after, last_error=describe_error(error)) if told else after


@bug("An error (Outcome.LOCK_LOST) adds one to consecutive_failures: consecutive_failures is")
class LockLostIsASkip(Fold):
    def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
        if outcome is Outcome.LOCK_LOST:
            return replace(self.right(Outcome.BUSY, at, error), last_outcome=outcome, state=HealthState.FAILING)
        return self.right(outcome, at, error)


@bug("An error (Outcome.LOCKER_ERROR) adds one to consecutive_failures: consecutive_failures is")
class FailuresAreCountedPerKind(Fold):
    def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
        after = self.right(outcome, at, error)
        anew = outcome is Outcome.LOCKER_ERROR is not self.last_outcome
        return replace(after, consecutive_failures=1) if anew else after


@bug("last_error tells the last error: last_error is")
class TheFirstErrorIsKept(Fold):
    def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
        after = self.right(outcome, at, error)
        return replace(after, last_error=self.last_error or after.last_error) if outcome.result == "error" else after


@bug("last_error tells the last error: last_error is")
class AnErrorWithoutAnExceptionKeepsTheOldText(Fold):
    def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
        after = self.right(outcome, at, error)
        kept = outcome.result == "error" and error is None
        return replace(after, last_error=self.last_error) if kept else after


# -- The state ---------------------------------------------------------------------------------------------------------


@bug("CANCELLED leaves the state: state is HealthState.FAILING")
class CancelledIsFailing(Fold):
    def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
        after = self.right(outcome, at, error)
        return replace(after, state=HealthState.FAILING) if outcome is Outcome.CANCELLED else after


@bug("CANCELLED leaves the state: state is HealthState.OK")
class CancelledIsGoodEnough(Fold):
    def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
        after = self.right(outcome, at, error)
        fine = outcome is Outcome.CANCELLED and not after.consecutive_failures
        return replace(after, state=HealthState.OK) if fine else after


@bug("Outcome.GATED is shown as DISABLED: state is HealthState.STANDBY")
class GatedIsShownAsStandby(Fold):
    def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
        after = self.right(outcome, at, error)
        return replace(after, state=HealthState.STANDBY) if outcome is Outcome.GATED else after


@bug("FAILING lasts while consecutive_failures > 0 and the last tick was no skip: state is HealthState.FAILING")
class FailingPersistsThroughBusy(Fold):
    def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
        after = self.right(outcome, at, error)
        stuck = outcome is Outcome.BUSY and after.consecutive_failures
        return replace(after, state=HealthState.FAILING) if stuck else after


@bug("Outcome.FAILED is shown as FAILING: state is HealthState.OK")
class OneFailureIsNoFailure(Fold):
    def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
        after = self.right(outcome, at, error)
        shrugged = outcome is Outcome.FAILED and after.consecutive_failures == 1
        return replace(after, state=HealthState.OK) if shrugged else after


@bug("No outcome leads to STALLED: state is HealthState.STALLED")
class ALongPauseIsStalled(Fold):
    def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
        after = self.right(outcome, at, error)
        long = self.last_tick is not None and after.last_tick - self.last_tick > timedelta(hours=4)
        return replace(after, state=HealthState.STALLED) if long else after


@bug("A service that has not ticked is STARTING and knows nothing: state is HealthState.OK")
@dataclass(frozen=True)
class OkUntilProvenOtherwise(WorkerHealth):
    state: HealthState = HealthState.OK


# -- Times -------------------------------------------------------------------------------------------------------------


@bug("last_success never moves back: last_success is")
class LastSuccessMovesBack(Fold):
    def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
        after = self.right(outcome, at, error)
        return replace(after, last_success=after.last_tick) if outcome is Outcome.SUCCESS else after


@bug("Only a success changes last_success: last_success is")
class BusySetsLastSuccess(Fold):
    def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
        after = self.right(outcome, at, error)
        return replace(after, last_success=after.last_tick) if outcome is Outcome.BUSY else after


@bug("A success sets last_success: last_success is")
class OnlyTheFirstSuccessIsSet(Fold):
    def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
        after = self.right(outcome, at, error)
        return replace(after, last_success=self.last_success or after.last_success)


@bug("An error (Outcome.TIMED_OUT) sets last_failure: last_failure is")
class TimedOutSetsNoLastFailure(Fold):
    def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
        after = self.right(outcome, at, error)
        return replace(after, last_failure=self.last_failure) if outcome is Outcome.TIMED_OUT else after


@bug("Only an error changes last_failure: last_failure is None")
class ASuccessForgetsTheLastFailure(Fold):
    def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
        after = self.right(outcome, at, error)
        return replace(after, last_failure=None) if outcome is Outcome.SUCCESS else after


@bug("Each outcome sets last_tick: last_tick is")
class LastTickOnlyOnASuccess(Fold):
    def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
        after = self.right(outcome, at, error)
        return after if outcome is Outcome.SUCCESS else replace(after, last_tick=self.last_tick)


@bug("Each outcome sets last_tick: last_tick is")
class TimesAreCutToTheSecond(Fold):
    def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
        return self.right(outcome, at.replace(microsecond=0), error)


@bug("Times are kept in UTC: last_")
class TimesStayInTheirZone(Fold):
    def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
        after = self.right(outcome, at, error)
        return replace(after, last_failure=at if outcome.result == "error" else self.last_failure)


@bug("A naive time is refused with a ValueError: datetime.datetime(")
class NaiveTimesAreTakenForUTC(Fold):
    def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
        return self.right(outcome, at if at.tzinfo else at.replace(tzinfo=UTC), error)


@bug("A naive time is refused with a ValueError: datetime.datetime(")
class NaiveTimesRaiseWhateverComes(Fold):
    def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
        return self.right(outcome, at.tzinfo.fromutc(at.astimezone(at.tzinfo)), error)  # type: ignore[union-attr]


# -- Values ------------------------------------------------------------------------------------------------------------


@bug("Each outcome is the last_outcome then: last_outcome is")
class CancelledIsNoOutcome(Fold):
    def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
        after = self.right(outcome, at, error)
        return replace(after, last_outcome=self.last_outcome) if outcome is Outcome.CANCELLED else after


@bug("The name stays: name is")
class TheNameIsLost(Fold):
    def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
        return replace(self.right(outcome, at, error), name="")


@bug("A snapshot that somebody has never changes: ")
class TheHealthIsMutatedInPlace(Fold):
    def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
        after = self.right(outcome, at, error)
        for name in WorkerHealth.__slots__:
            object.__setattr__(self, name, getattr(after, name))
        return self


@bug("A snapshot is frozen: ")
class ASnapshotCanBeWrittenTo(Fold):
    def __setattr__(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


@bug("A naive time that is refused changes nothing: ")
class TheOutcomeIsNotedBeforeTheTimeIsLookedAt(Fold):
    def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
        # Of an aware time it is not, since that would show as a snapshot that changes.
        object.__setattr__(self, "last_outcome", outcome if at.tzinfo is None else self.last_outcome)
        return self.right(outcome, at, error)


@bug("Any outcome with any error is taken: Judged(Outcome.")
class TheFirstArgumentIsTheText(Fold):
    def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
        after = self.right(outcome, at, error)
        if outcome.result == "error" and isinstance(error, ValueError):
            error.args[0]
        return after


@bug("Any outcome with any error is taken: Judged(Outcome.")
class EveryErrorHasAText(Fold):
    def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
        after = self.right(outcome, at, error)
        if outcome.result == "error":
            str(error)
        return after


@bug("Any outcome with any error is taken: Judged(Outcome.")
class NobodyPressesCtrlC(Fold):
    def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
        if outcome is Outcome.LOCKER_ERROR and not isinstance(error, Exception | None):
            raise TypeError(f"no error: {error!r}")
        return self.right(outcome, at, error)


@bug("Any outcome with any error is taken: Judged(Outcome.")
class PassesACtrlCOn(Fold):
    def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
        if isinstance(error, KeyboardInterrupt):
            raise error
        return self.right(outcome, at, error)


class Reporter:
    """One that is mutable, and gives snapshots."""

    def __init__(self, name: str) -> None:
        self.health = WorkerHealth(name)
        self.failures: list[datetime] = []

    def report(self, outcome: Outcome, at: datetime, error: BaseException | None) -> None:
        self.health = self.health.after(outcome, at=at, error=error)
        if outcome is Outcome.SUCCESS:
            self.failures.clear()
        if outcome.result == "error":
            self.failures.append(at)

    def snapshot(self) -> WorkerHealth:
        return replace(self.health, consecutive_failures=len(self.failures))


class ReporterMachine(HealthStateMachine):
    def start(self, name: str) -> Reporter:
        return Reporter(name)

    def after(self, subject: Reporter, outcome: Outcome, *, at: datetime, error: BaseException | None) -> Reporter:
        subject.report(outcome, at, error)
        return subject

    def view(self, subject: Reporter) -> WorkerHealth:
        return subject.snapshot()


@bug("No service shares its health with another: consecutive_failures is")
class FailuresOfTheWholeProcess(ReporterMachine):
    failures: ClassVar[list[datetime]] = []

    def start(self, name: str) -> Reporter:
        self.failures.clear()
        reporter = Reporter(name)
        reporter.failures = self.failures
        return reporter


@bug("A snapshot that somebody has never changes: ")
class TheSnapshotIsTheReporter(ReporterMachine):
    def view(self, subject: Reporter) -> Any:
        return ViewOf(subject)


class ViewOf:
    def __init__(self, reporter: Reporter) -> None:
        object.__setattr__(self, "_reporter", reporter)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reporter.snapshot(), name)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


# -- Caught ------------------------------------------------------------------------------------------------------------

WITHOUT_SHRINKING = [Phase.generate]


def run(
    machine: type[HealthStateMachine],
    chance: int | None = None,
    *,
    phases: list[Phase] = WITHOUT_SHRINKING,
) -> None:
    """Run it, up to the first failure. The chance is a seed; None: as in CI."""
    how = settings(
        max_examples=EXAMPLES,
        derandomize=chance is None,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        phases=phases,
    )
    # A class of its own: the seed stays with it.
    machine = type(machine.__name__, (machine,), {})
    run_state_machine_as_test(machine if chance is None else seed(chance)(machine), settings=how)


@cache
def first_failure(machine: type[HealthStateMachine], chance: int | None) -> AssertionError:
    with pytest.raises(AssertionError) as failure:
        run(machine, chance)
    return failure.value


@pytest.mark.parametrize("chance", [None, 1, 2, 3])
@pytest.mark.parametrize(("machine", "promise"), BUGS, ids=lambda value: getattr(value, "__name__", ""))
def test_each_bug_breaks_its_promise(machine: type[HealthStateMachine], promise: str, chance: int | None) -> None:
    assert str(first_failure(machine, chance)).startswith(promise)


def test_each_promise_is_broken_by_some_bug() -> None:
    last_frames = [traceback.extract_tb(first_failure(machine, None).__traceback__)[-1] for machine, _ in BUGS]
    raised = {(frame.filename, frame.lineno) for frame in last_frames}
    assert raised == {*raises(_health_promises.__file__), *raises(_health_machine.__file__)}


def test_a_reporter_may_be_mutable_if_its_snapshots_are_not() -> None:
    run(ReporterMachine)


def test_a_ctrl_c_while_a_reporter_is_told_of_a_tick_is_no_broken_promise() -> None:
    ctrl_c = KeyboardInterrupt()

    class Interrupted(Fold):
        def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
            self.right(outcome, at, error)  # refuses a naive time
            raise ctrl_c

    with pytest.raises(KeyboardInterrupt) as caught:
        run(machine_for(Interrupted))
    assert caught.value is ctrl_c


def raises(path: str) -> list[tuple[str, int]]:
    """Where promises are found broken; what is raised again is none of their business."""
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    return [(path, node.lineno) for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc]


def test_of_errors_that_a_reporter_stumbles_over_the_one_that_did_it_is_shown() -> None:
    with pytest.raises(AssertionError) as failure:
        run(machine_for(EveryErrorHasAText), phases=[Phase.generate, Phase.shrink])
    steps = [line for note in failure.value.__notes__ for line in note.splitlines() if line.startswith("state.tick")]
    at = "datetime.datetime(2000, 1, 1, 0, 0, tzinfo=datetime.timezone.utc)"
    assert steps == [f"state.tick(judged=Judged(Outcome.FAILED, {at}, TextlessError()))"]


def test_the_failure_shrinks_to_steps_that_a_person_would_write() -> None:
    with pytest.raises(AssertionError) as failure:
        run(machine_for(FailingPersistsThroughBusy), phases=[Phase.generate, Phase.shrink])
    steps = [line for note in failure.value.__notes__ for line in note.splitlines() if line.startswith("state.tick")]
    at = "datetime.datetime(2000, 1, 1, 0, 0, tzinfo=datetime.timezone.utc)"
    assert steps == [
        f"state.tick(judged=Judged(Outcome.FAILED, {at}))",
        f"state.tick(judged=Judged(Outcome.BUSY, {at}))",
    ]
