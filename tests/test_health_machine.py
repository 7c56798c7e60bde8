"""`HealthStateMachine` as users have it: by subclass, with hooks and rules of their own. Its teeth: the gallery."""

from __future__ import annotations

import inspect
import textwrap
import unittest
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import invariant, rule, run_state_machine_as_test

from tickrunner_trio import WorkerHealth
from tickrunner_trio.testing import HealthStateMachine, Judged

if TYPE_CHECKING:
    from datetime import datetime

    from tickrunner_trio import Outcome

FAST = settings(max_examples=30, database=None, phases=[Phase.generate], report_multiple_bugs=False)


def example_of_the_docstring() -> str:
    docstring = inspect.getdoc(HealthStateMachine)
    assert docstring is not None
    start, end = docstring.index("from hypothesis"), docstring.index("Rules and invariants of your own")
    return textwrap.dedent("    " + docstring[start:end])


def run_by_unittest(program: str) -> unittest.TestResult:
    namespace: dict[str, Any] = {}
    exec(program, namespace)
    namespace["TestReporter"].settings = FAST
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(namespace["TestReporter"]).run(result)
    return result


def test_the_example_of_the_docstring_runs() -> None:
    result = run_by_unittest(example_of_the_docstring())
    assert result.testsRun == 1
    assert result.wasSuccessful(), result.failures or result.errors


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ("consecutive_failures >= 3", "consecutive_failures >= 2", "in somebody_looks_at_it_from_the_third_failure_on"),
        ("error=error)\n\n    def wants", "error=None)\n\n    def wants", "last_error tells the last error"),
        ("self.health.after(outcome", "self.health.after('success' and outcome.__class__.BUSY", "last_outcome"),
    ],
)
def test_the_example_of_the_docstring_can_fail(right: str, wrong: str, complaint: str) -> None:
    example = example_of_the_docstring()
    assert right in example
    result = run_by_unittest(example.replace(right, wrong))
    ((_, said),) = result.failures
    assert complaint in said


class Own(HealthStateMachine):
    """Rules and invariants of a user's own."""

    def start(self, name: str) -> WorkerHealth:
        assert name
        return super().start(name)

    @rule()
    def restart_from_what_was_stored(self) -> None:
        self.subject = self.stored(self.subject)

    def stored(self, health: WorkerHealth) -> WorkerHealth:
        return replace(health)

    @invariant()
    def a_rule_of_my_own_sees_the_health_and_the_history(self) -> None:
        assert isinstance(self.health, WorkerHealth)
        assert self.health.last_tick == (self.history[-1].at if self.history else None)
        assert all(isinstance(judged, Judged) for judged in self.history)


TestRulesOfOnesOwn = Own.TestCase
TestRulesOfOnesOwn.settings = settings(max_examples=20)


def test_what_a_rule_of_ones_own_does_is_held_to_the_promises() -> None:
    class ForgetsTheFailures(Own):
        def stored(self, health: WorkerHealth) -> WorkerHealth:
            return replace(health, consecutive_failures=0)

    with pytest.raises(AssertionError, match=r"consecutive_failures is 0, and should be"):
        run_state_machine_as_test(ForgetsTheFailures, settings=FAST)


def test_the_text_of_an_error_is_what_the_reporter_says_it_is() -> None:
    class Terse(WorkerHealth):
        def after(self, outcome: Outcome, *, at: datetime, error: BaseException | None = None) -> Any:
            after = super().after(outcome, at=at, error=error)
            return replace(after, last_error=after.last_error.partition(":")[0])

    class Strict(HealthStateMachine):
        def start(self, name: str) -> Any:
            return Terse(name)

    class Lenient(Strict):
        def describe(self, error: BaseException | None) -> str:
            return "" if error is None else type(error).__name__

    with pytest.raises(AssertionError, match=r"^last_error tells the last error: "):
        run_state_machine_as_test(Strict, settings=FAST)
    run_state_machine_as_test(Lenient, settings=FAST)
