"""What the strategies draw is valid, leaves nothing out, shrinks to what a person would write, and prints so."""

from __future__ import annotations

import ast
import datetime as dt
import re
from datetime import UTC, timedelta
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import Phase, find, given, settings
from trio.testing import MockClock

import tickrunner_trio
from tickrunner_trio import Config, DatabaseUnavailableError, HealthState, Outcome, Service, WorkerHealth
from tickrunner_trio.testing import Judged, ScriptedGate, ScriptedHook, ScriptedWork, strategies

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis.strategies import SearchStrategy

START = dt.datetime(2000, 1, 1, tzinfo=UTC)
ERRORS = [Outcome.FAILED, Outcome.TIMED_OUT, Outcome.LOCK_LOST, Outcome.LOCKER_ERROR]
STATES = [state for state in HealthState if state is not HealthState.STALLED]


def simplest(strategy: SearchStrategy[Any], condition: Callable[[Any], Any] = lambda value: True) -> Any:
    """What the strategy shrinks to, under a condition."""
    # Not the phase that explains a failure, which takes more time than the others together. Always the same examples:
    # of what is seldom drawn, a seed may draw none.
    how = settings(max_examples=10_000, derandomize=True, database=None, phases=[Phase.generate, Phase.shrink])
    return find(strategy, lambda value: bool(condition(value)), settings=how)


def drawn_from(strategy: SearchStrategy[Any], examples: int = 300) -> list[Any]:
    drawn = []

    @settings(max_examples=examples, derandomize=True, database=None, phases=[Phase.generate])
    @given(strategy)
    def draw(value: Any) -> None:
        drawn.append(value)

    draw()
    return drawn


# -- Names, ids, outcomes, errors, times -------------------------------------------------------------------------------


@given(strategies.names())
def test_names_are_those_of_services(name: str) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name)


def test_names_leave_nothing_out() -> None:
    assert len(simplest(strategies.names(), lambda name: len(name) == 63)) == 63
    assert len(simplest(strategies.names(), lambda name: len(name) == 1)) == 1
    assert simplest(strategies.names(), lambda name: name[-1].isdigit()) == "a0"
    assert simplest(strategies.names(), lambda name: name.endswith("_")) == "a_"


@given(strategies.lock_ids())
def test_lock_ids_are_signed_64_bit_integers(lock_id: int) -> None:
    assert type(lock_id) is int
    assert -(2**63) <= lock_id < 2**63


@pytest.mark.parametrize("lock_id", [-(2**63), -1, 0, 1, 2**63 - 1])
def test_the_edges_of_lock_ids_are_drawn(lock_id: int) -> None:
    assert simplest(strategies.lock_ids(), lambda drawn: drawn == lock_id) == lock_id


@pytest.mark.parametrize("result", [None, "success", "error", "skipped"])
def test_outcomes_are_all_those_of_a_result(result: Any) -> None:
    drawn = set(drawn_from(strategies.outcomes(result)))
    assert drawn == {outcome for outcome in Outcome if result is None or outcome.result == result}


def test_a_result_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^result must be 'success', .*, got 'failed': use one of these$"):
        strategies.outcomes("failed")  # type: ignore[arg-type]


@given(strategies.errors())
def test_errors_are_exceptions_that_nobody_has_raised(error: Exception) -> None:
    assert isinstance(error, Exception)
    assert error.__traceback__ is None


def test_errors_are_of_several_kinds_and_texts() -> None:
    for kind in (OSError, ValueError, KeyError, TimeoutError, ExceptionGroup):
        assert isinstance(simplest(strategies.errors(), lambda error, kind=kind: type(error) is kind), kind)
    assert repr(simplest(strategies.errors(), lambda error: not error.args)) == "ValueError()"
    assert repr(simplest(strategies.errors(), lambda error: error.args == ("",))) == "OSError('')"
    assert repr(simplest(strategies.errors(), lambda error: "\n" in str(error))) == r"OSError('two\nlines')"


@given(strategies.times())
def test_times_are_aware_and_of_a_century(at: dt.datetime) -> None:
    assert at.utcoffset() is not None
    assert START <= at < dt.datetime(2100, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "condition",
    [
        lambda at: at.tzinfo is UTC and at > START,
        lambda at: at.microsecond,
        lambda at: at.utcoffset() < timedelta(hours=-12),
        lambda at: at.utcoffset() > timedelta(hours=14),
        lambda at: at.utcoffset().seconds % 3600,
        lambda at: at.year > 2090,
    ],
)
def test_times_are_of_any_zone_to_the_microsecond(condition: Callable[[Any], Any]) -> None:
    assert condition(simplest(strategies.times(), condition))


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize("with_error", [False, True])
def test_each_outcome_is_told_with_an_error_and_without(outcome: Outcome, with_error: bool) -> None:
    told = simplest(strategies.judged(), lambda it: it.outcome is outcome and (it.error is not None) is with_error)
    assert repr(told) == repr(Judged(outcome, START, OSError("disk full") if with_error else None))


# -- Histories ---------------------------------------------------------------------------------------------------------


@given(strategies.histories())
def test_a_history_tells_what_services_tell(history: tuple[Judged, ...]) -> None:
    assert all(judged.at.tzinfo is UTC for judged in history)
    for judged in history:
        if judged.outcome is Outcome.UNAVAILABLE:
            assert isinstance(judged.error, DatabaseUnavailableError | None)
        else:
            assert judged.error is None or judged.outcome in ERRORS


@given(strategies.histories(min_size=2, max_size=4))
def test_a_history_has_as_many_ticks_as_are_asked_for(history: tuple[Judged, ...]) -> None:
    assert 2 <= len(history) <= 4


@given(strategies.histories(monotonic=True))
def test_a_monotonic_history_never_goes_back(history: tuple[Judged, ...]) -> None:
    assert list(history) == sorted(history, key=lambda judged: judged.at)


def goes_back(history: tuple[Judged, ...]) -> bool:
    return any(later.at < earlier.at for earlier, later in pairwise(history))


def stands_still(history: tuple[Judged, ...]) -> bool:
    return any(later.at == earlier.at for earlier, later in pairwise(history))


def test_the_clock_of_other_histories_may_be_set_back_or_stand() -> None:
    back = simplest(strategies.histories(), goes_back)
    assert back == (Judged(Outcome.SUCCESS, START), Judged(Outcome.SUCCESS, START - timedelta(seconds=1)))
    for monotonic in (False, True):
        still = simplest(strategies.histories(monotonic=monotonic), stands_still)
        assert still == (Judged(Outcome.SUCCESS, START), Judged(Outcome.SUCCESS, START))


def test_each_outcome_comes_after_each() -> None:
    histories = drawn_from(strategies.histories(min_size=2), examples=1000)
    pairs = {(one.outcome, other.outcome) for history in histories for one, other in pairwise(history)}
    assert pairs == set(product(Outcome, repeat=2))


# -- Healths -----------------------------------------------------------------------------------------------------------


class Told(Exception):  # noqa: N818 - stands for any
    pass


def history_that_leads_to(health: WorkerHealth) -> list[tuple[Outcome, dt.datetime, BaseException | None]]:
    """The shortest that should lead there, made from nothing but the fields; if it does not, nothing leads there."""
    history: list[Any] = []
    failed_before = health.last_failure is not None and health.consecutive_failures == 0
    if failed_before:
        history.append((Outcome.FAILED, health.last_failure, None))
    if health.last_success is not None:
        history.append((Outcome.SUCCESS, health.last_success, None))
    kind, _, text = health.last_error.partition(": ")
    error = type(kind, (Told,), {})(text) if kind else None
    at_error = health.last_outcome if health.last_outcome in ERRORS else Outcome.FAILED
    history += [(at_error, health.last_failure, error)] * health.consecutive_failures
    told = {HealthState.STANDBY: Outcome.BUSY, HealthState.DISABLED: Outcome.GATED}
    told |= {HealthState.UNAVAILABLE: Outcome.UNAVAILABLE}
    if health.state in told:
        history.append((told[health.state], health.last_tick, None))
    set_back = health.last_outcome is Outcome.SUCCESS and health.last_tick != health.last_success  # the clock was
    last = {Outcome.CANCELLED} if health.last_outcome is Outcome.CANCELLED else {Outcome.SUCCESS} if set_back else set()
    return history + [(outcome, health.last_tick, None) for outcome in last]


@given(strategies.healths())
def test_a_health_is_reachable(health: WorkerHealth) -> None:
    reached = WorkerHealth(health.name)
    for outcome, at, error in history_that_leads_to(health):
        reached = reached.after(outcome, at=at, error=error)
    assert reached == health


@pytest.mark.parametrize(
    "health",
    [
        WorkerHealth("sweep", state=HealthState.OK),
        WorkerHealth("sweep", state=HealthState.FAILING, last_tick=START, last_outcome=Outcome.FAILED),
        WorkerHealth("sweep", last_error="OSError"),
        WorkerHealth("sweep", HealthState.STALLED),
    ],
)
def test_the_check_of_reachability_can_fail(health: WorkerHealth) -> None:
    with pytest.raises(AssertionError):
        test_a_health_is_reachable.hypothesis.inner_test(health)  # type: ignore[attr-defined]


@pytest.mark.parametrize("state", STATES)
def test_each_state_but_stalled_is_drawn(state: HealthState) -> None:
    health = simplest(strategies.healths(), lambda health: health.state is state)
    assert len(history_that_leads_to(health)) == (0 if state is HealthState.STARTING else 1)


@pytest.mark.parametrize("outcome", Outcome)
def test_each_last_outcome_is_drawn(outcome: Outcome) -> None:
    health = simplest(strategies.healths(), lambda health: health.last_outcome is outcome)
    assert health == WorkerHealth("sweep").after(outcome, at=START)


@given(strategies.healths(name="purge"), strategies.healths(strategies.names()))
def test_a_health_may_be_of_one_name(one: WorkerHealth, any_name: WorkerHealth) -> None:
    assert one.name == "purge"
    assert re.fullmatch(r"[a-z]\w*", any_name.name)


# -- Configs -----------------------------------------------------------------------------------------------------------


@given(strategies.configs())
def test_a_config_makes_a_service(config: Config) -> None:
    assert Service(config).config is config


@given(strategies.configs())
def test_a_service_of_a_config_ticks_and_does_what_the_config_says(config: Config) -> None:
    async def tick() -> Outcome:
        return (await Service(config).tick()).outcome

    outcome = trio.run(tick, clock=MockClock(autojump_threshold=0))
    gate, work = config.should_run, config.work
    assert isinstance(gate, ScriptedGate | None)
    assert isinstance(work, ScriptedWork)
    if gate is not None and gate.error is None and not gate.answer:
        assert outcome is Outcome.GATED
    elif gate is not None and gate.error is not None:
        assert outcome is Outcome.FAILED
    elif config.tick_timeout is not None and work.seconds > config.tick_timeout:
        assert outcome is Outcome.TIMED_OUT
    else:
        as_it_does = Outcome.SUCCESS if work.error is None else Outcome.FAILED
        assert outcome is as_it_does or work.seconds == config.tick_timeout


def test_each_config_has_a_locker_of_its_own() -> None:
    lockers = [config.locker for config in drawn_from(strategies.configs())]
    assert len({id(locker) for locker in lockers}) == len(lockers)


@pytest.mark.parametrize(
    ("field", "condition"),
    [
        ("lock_id", lambda value: value is not None),
        ("log", lambda value: value is not None),
        ("should_run", lambda value: value == ScriptedGate(answer=False)),
        ("should_run", lambda value: value == ScriptedGate(answer=True)),
        ("should_run", lambda value: isinstance(value, ScriptedGate) and value.error),
        ("startup", lambda value: value == ScriptedWork()),
        ("startup", lambda value: isinstance(value, ScriptedWork) and value.error and value.seconds),
        ("on_error", lambda value: value == ScriptedHook()),
        ("on_error", lambda value: isinstance(value, ScriptedHook) and value.error),
        ("tick_timeout", lambda value: value is not None),
        ("cadence", lambda value: value == "replica"),
        ("interval", lambda value: isinstance(value, float) and value < 1e-9),
        ("interval", lambda value: value == 366 * 86400),
        ("work", lambda value: value.error),
        ("work", lambda value: value.seconds),
    ],
)
def test_a_config_gives_what_a_test_needs_and_leaves_out_the_rest(field: str, condition: Callable[[Any], Any]) -> None:
    config = simplest(strategies.configs(), lambda config: condition(getattr(config, field)))
    simple = {"name": "sweep", "interval": 1, "locker": config.locker, "work": ScriptedWork()}
    assert config == Config(**{**simple, field: getattr(config, field)})  # type: ignore[arg-type]


def test_a_field_is_fixed_by_a_value_or_by_a_strategy() -> None:
    @given(strategies.configs(name="purge", lock_id=None, cadence=strategies.st.just("replica")))
    def draw(config: Config) -> None:
        assert (config.name, config.lock_id, config.cadence) == ("purge", None, "replica")

    draw()


@pytest.mark.parametrize(
    ("fixed", "kind", "message"),
    [
        ({"intervall": 60}, TypeError, r"takes fields of Config only, got 'intervall': use one of name, interval, l"),
        ({"interval": -1}, ValueError, r"^interval must be a finite number"),
        ({"work": print}, TypeError, r"^work must be an async function"),
        ({"locker": None}, TypeError, r"^locker must be an object"),
    ],
)
def test_a_fixed_field_that_is_no_good_is_refused_at_once(
    fixed: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        strategies.configs(**fixed)


# -- What is printed ---------------------------------------------------------------------------------------------------


def printed(strategy: SearchStrategy[Any], condition: Callable[[Any], Any]) -> tuple[str, Any, Any]:
    """What Hypothesis prints of the simplest value, what that evaluates to, and the value."""
    seen = []

    @settings(max_examples=1000, database=None, phases=[Phase.generate, Phase.shrink])
    @given(strategy)
    def example(value: Any) -> None:
        seen.append(value)
        assert not condition(value)

    with pytest.raises(AssertionError) as failure:
        example()
    (note,) = [note for note in failure.value.__notes__ if "example(" in note]
    call = note[note.index("example(") :]
    names = {**vars(tickrunner_trio), **vars(tickrunner_trio.testing), "datetime": dt}
    return call, eval(call, names, {"example": lambda value: value}), seen[-1]


@pytest.mark.parametrize(
    ("strategy", "condition"),
    [
        (strategies.names(), lambda name: len(name) > 20),
        (strategies.lock_ids(), lambda lock_id: lock_id < -5),
        (strategies.outcomes(), lambda outcome: outcome.result == "skipped"),
        (strategies.errors(), lambda error: isinstance(error, ExceptionGroup)),
        (strategies.times(), lambda at: at.utcoffset()),
        (strategies.judged(), lambda judged: judged.error),
        (strategies.histories(), lambda history: any(judged.error for judged in history)),
        (strategies.healths(), lambda health: health.consecutive_failures > 1),
    ],
)
def test_what_is_printed_evaluates(strategy: SearchStrategy[Any], condition: Callable[[Any], Any]) -> None:
    text, value, original = printed(strategy, condition)
    assert condition(value)
    assert repr(value) == repr(original), text


def test_a_config_prints_as_the_call_that_makes_it() -> None:
    text, config, _ = printed(
        strategies.configs(), lambda config: config.log and config.startup and config.startup.error
    )
    assert ast.unparse(ast.parse(text)) == (
        "example(value=Config(name='sweep', interval=1, locker=MemoryLocker(), work=ScriptedWork(),"
        " log=component_logger('sweep'), startup=ScriptedWork(error=OSError('disk full'))))"
    )
    assert config.startup.error.args == ("disk full",)
