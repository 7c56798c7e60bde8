"""A machine that ticks a service in any order that Hypothesis can think of, and looks at its health after each tick."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from .._health import WorkerHealth, describe_error
from . import _health_promises as promises
from .strategies import judged, names

if TYPE_CHECKING:
    from datetime import datetime

    from .._outcome import Outcome
    from ._health_promises import HealthView
    from ._history import Judged


class HealthStateMachine(RuleBasedStateMachine):
    """Hold a health reporter to the promises of `tickrunner_trio.WorkerHealth`: the library's, or your own.

    It ticks one service, with any outcome after any other, at times of any zone, by a clock that is set back and forth;
    with an error or without, also where nobody looks at it. After each tick the health has to be what the whole history
    says:

    * A service that has not ticked is STARTING and knows nothing. No service shares its health with another.
    * An error adds one to ``consecutive_failures``; a success resets it, and ``last_error``; a skip changes neither.
    * Each outcome is shown as its state; CANCELLED leaves the state; no outcome leads to STALLED. FAILING lasts while
      ``consecutive_failures`` > 0 and the last tick was no skip.
    * A success sets ``last_success``, which never moves back, an error ``last_failure``, each outcome ``last_tick`` and
      ``last_outcome``.
    * Any outcome with any error is taken, also an error without arguments, one whose ``str`` raises, and a
      `KeyboardInterrupt`.
    * Times are kept in UTC; a naive one is refused with a `ValueError` and changes nothing.
    * A snapshot is frozen, and never changes once somebody has it.

    A broken promise is an `AssertionError` that says which. To hold a reporter of your own to them, override `start`,
    `after` and `view`, as far as it differs from `WorkerHealth`, and `describe` where its ``last_error`` is in other
    words::

        from hypothesis.stateful import invariant
        from tickrunner_trio import WorkerHealth
        from tickrunner_trio.testing import HealthStateMachine


        class Reporter:
            # Yours: what it keeps, and how, is its own affair.
            def __init__(self, name):
                self.health = WorkerHealth(name)

            def report(self, outcome, at, error):
                self.health = self.health.after(outcome, at=at, error=error)

            def wants_attention(self):
                return self.health.consecutive_failures >= 3


        class ReporterMachine(HealthStateMachine):
            def start(self, name):
                return Reporter(name)

            def after(self, reporter, outcome, *, at, error):
                reporter.report(outcome, at, error)
                return reporter

            def view(self, reporter):
                return reporter.health

            @invariant()
            def somebody_looks_at_it_from_the_third_failure_on(self):
                failures = [judged for judged in self.history if judged.outcome.result == "error"]
                assert not self.subject.wants_attention() or len(failures) >= 3


        TestReporter = ReporterMachine.TestCase  # for pytest and unittest

    Rules and invariants of your own, as the last one there, find this:

    Attributes:
        subject: what `start` and then `after` have returned.
        health: what `view` has made of it.
        history: what was told, the last tick last.
    """

    subject: Any
    health: HealthView
    history: list[Judged]
    _taken: list[tuple[HealthView, dict[str, object]]]  # each snapshot, and what it said when it was taken

    def start(self, name: str, /) -> Any:
        """Return what keeps the health of a service that has not ticked. Called twice, for services of two names."""
        return WorkerHealth(name)

    def after(self, subject: Any, outcome: Outcome, /, *, at: datetime, error: BaseException | None) -> Any:
        """Tell it what came of a tick; return what keeps the health from now on: the same, or another."""
        return subject.after(outcome, at=at, error=error)

    def view(self, subject: Any, /) -> HealthView:
        """Return a snapshot with the fields of `WorkerHealth`."""
        snapshot: HealthView = subject  # a `WorkerHealth` is its own
        return snapshot

    def describe(self, error: BaseException | None, /) -> str:
        """Return the text that ``last_error`` is to have after an error; "" if it came without an exception."""
        return "" if error is None else describe_error(error)

    @initialize(name=names())
    def begin(self, name: str) -> None:
        """A service that has not ticked, and another beside it that never will."""
        self._name, self.history = name, []
        self.subject = self.start(name)
        self._bystander = self.start("other" if name != "other" else "another")
        self._others = promises.values(self.view(self._bystander))
        self._taken = []
        self._look()

    @rule(judged=judged())
    def tick(self, judged: Judged) -> None:
        """One more tick; before it, the same at a time of nobody knows which zone."""
        self._offer_a_naive_time(judged.outcome, judged.at.replace(tzinfo=None))
        try:
            self.subject = self.after(self.subject, judged.outcome, at=judged.at, error=judged.error)
        except BaseException as raised:
            if not isinstance(raised, Exception) and raised is not judged.error:  # a Ctrl-C of the user's
                raise
            shown = type(raised).__name__ if raised is judged.error else repr(raised)
            sentence = f"Any outcome with any error is taken: {judged!r} raised {shown}"
            raise AssertionError(sentence) from raised  # noqa: ASYNC104 - a reporter is called outside of Trio
        self.history.append(judged)
        self._look()

    # No rule of its own: Hypothesis leaves rules out of whole runs, and those without `tick` would find nothing.
    def _offer_a_naive_time(self, outcome: Outcome, at: datetime) -> None:
        try:
            self.after(self.subject, outcome, at=at, error=None)
        except ValueError:
            pass
        except Exception as error:
            raise AssertionError(f"A naive time is refused with a ValueError: {at!r} raised {error!r}") from error
        else:
            raise AssertionError(f"A naive time is refused with a ValueError: {at!r} was taken")
        after, before = promises.values(self.view(self.subject)), self._taken[-1][1]
        if after != before:
            raise AssertionError(f"A naive time that is refused changes nothing: {before} has become {after}")

    def _look(self) -> None:
        self.health = self.view(self.subject)
        self._taken.append((self.health, promises.values(self.health)))

    @invariant()
    def keep_all_promises(self) -> None:
        """All but the one about naive times, also after rules of a subclass."""
        self._look()
        promises.check_frozen(self.health)
        for health, values in self._taken:
            promises.check_unchanged(health, values)
        promises.check_bystander(self.view(self._bystander), self._others)
        if not self.history:
            promises.check_fresh(self.health, self._name)
            return
        failures = promises.failures_since_success(self.history)
        last_error = self.describe(failures[-1].error) if failures else ""
        promises.check_last_tick(self.health, self._name, self.history[-1])
        promises.check_failures(self.health, self.history, last_error)
        promises.check_state(self.health, self.history)
        promises.check_times(self.health, self.history)
