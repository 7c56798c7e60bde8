"""Hypothesis strategies for what a service is made of and what comes of it.

All of them shrink to what a person would write: the name "sweep", an interval of one second, the lock id 0, the first
of January 2000, an `OSError` of two words. What Hypothesis prints of them evaluates, given the names that it mentions.
"""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Literal

import trio
from hypothesis import strategies as st

from .._audit import component_logger
from .._config import MAX_NAME_LENGTH, MAX_SECONDS, Config
from .._errors import DatabaseUnavailableError
from .._health import WorkerHealth
from .._lock_ids import MAX_LOCK_ID, MIN_LOCK_ID
from .._outcome import Outcome
from ..lockers import MemoryLocker
from ._fault_plans import fault_plans
from ._history import Judged, TextlessError
from ._scripted_callables import ScriptedGate, ScriptedHook, ScriptedWork

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

__all__ = [
    "configs",
    "errors",
    "fault_plans",
    "healths",
    "histories",
    "judged",
    "lock_ids",
    "names",
    "outcomes",
    "times",
]


def names() -> SearchStrategy[str]:
    """Generate names of services: snake_case, of 1 to 63 characters."""
    return _NAMES


def lock_ids() -> SearchStrategy[int]:
    """Generate lock ids: signed 64-bit integers, the ends and the neighbours of 0 more often than others."""
    return _LOCK_IDS


def outcomes(result: Literal["success", "error", "skipped"] | None = None) -> SearchStrategy[Outcome]:
    """Generate outcomes.

    Args:
        result: only those that fold into this result; None: all.

    Raises:
        ValueError: there is no such result.
    """
    chosen = [outcome for outcome in Outcome if result is None or outcome.result == result]
    if not chosen:
        raise ValueError(f"result must be 'success', 'error', 'skipped' or None, got {result!r}: use one of these")
    return st.sampled_from(chosen)


def errors() -> SearchStrategy[Exception]:
    """Generate what work raises: exceptions of several kinds and texts, some without any, and groups. Each is new."""
    return _ERRORS


def times() -> SearchStrategy[datetime]:
    """Generate aware datetimes of the years 2000 to 2099, in UTC and at any other offset, to the microsecond."""
    return _TIMES


def judged() -> SearchStrategy[Judged]:
    """Generate single ticks, as a reporter may be told of them: any outcome at any of `times`.

    Each outcome comes with one of `errors` and without, also where nobody looks at it; and with what a reporter may
    stumble over: a `KeyboardInterrupt`, and a `TextlessError`, whose ``str`` raises.
    """
    return _JUDGED


def histories(
    *, min_size: int = 0, max_size: int | None = None, monotonic: bool = False
) -> SearchStrategy[tuple[Judged, ...]]:
    """Generate histories of one service: any outcome after any other, in UTC from the year 2000 on.

    The clock may be set back, and two ticks may bear one time. An outcome whose result is ``error`` has one of
    `errors` or none, UNAVAILABLE a `DatabaseUnavailableError` or none, any other none.

    Args:
        min_size: at least so many ticks.
        max_size: at most so many; None: as many as Hypothesis likes, seldom more than 50.
        monotonic: the clock is never set back.
    """
    pauses = _PAUSES if monotonic else _PAUSES | _SET_BACK
    return _histories(st.lists(st.tuples(_OUTCOMES_WITH_ERRORS, pauses), min_size=min_size, max_size=max_size))


def healths(name: str | SearchStrategy[str] | None = None) -> SearchStrategy[WorkerHealth]:
    """Generate every health that a history leads to, and no other: never STALLED, which no history leads to.

    Args:
        name: the name of the service, or what draws it; None: any of `names`.
    """
    return _healths(_NAMES if name is None else st.just(name) if isinstance(name, str) else name)


def configs(**fixed: Any) -> SearchStrategy[Config]:
    """Generate valid configs, each with a `MemoryLocker` of its own, and with fields left out that have defaults.

    Intervals and timeouts are any that `Config` takes, down to fractions of a nanosecond: fix them for services that
    are to run. Work, gate and hook are `ScriptedWork`, `ScriptedGate` and `ScriptedHook`; some of each raise.

    Args:
        fixed: fields of `Config`, each a value or a strategy that draws it: ``configs(interval=60, name=names())``.

    Raises:
        TypeError: `Config` has no such field, or a value is of the wrong kind.
        ValueError: a value is out of its bounds. What a strategy draws is looked at when it is drawn.
    """
    fields = [field.name for field in dataclasses.fields(Config)]
    for name in fixed:
        if name not in fields:
            raise TypeError(f"configs() takes fields of Config only, got {name!r}: use one of {', '.join(fields)}")
    given = {name: value for name, value in fixed.items() if not _is_strategy(value)}
    Config(**{**_SIMPLEST, **given})  # refuses what is no good
    always = {name: value if _is_strategy(value) else st.just(value) for name, value in fixed.items()}
    sometimes = {name: strategy for name, strategy in _OPTIONAL.items() if name not in fixed}
    return _configs({**_REQUIRED, **always}, sometimes)


# -- How they are drawn ------------------------------------------------------------------------------------------------


@st.composite
def _any_names(draw: DrawFn) -> str:
    return "".join([draw(_LETTER), *draw(_LETTERS)])


# One number for a whole time. Hypothesis deletes up to five choices of an example at once, so that a step of a state
# machine that takes more of them stays in the example although it is good for nothing.
@st.composite
def _times(draw: DrawFn) -> datetime:
    kind, seconds = divmod(draw(_KINDS_AND_SECONDS), _CENTURY)
    at = _START + timedelta(seconds=seconds)
    if kind == 1:
        return at + timedelta(microseconds=1 + seconds % 999_999)
    if kind == 2:
        return at.astimezone(timezone(timedelta(minutes=(seconds + 60 + _DAY) % (2 * _DAY) - _DAY)))
    return at


@st.composite
def _judged(draw: DrawFn) -> Judged:
    return Judged(draw(_OUTCOMES), draw(_TIMES), draw(_ANY_ERROR))


@st.composite
def _histories(
    draw: DrawFn, steps: SearchStrategy[list[tuple[tuple[Outcome, Exception | None], timedelta]]]
) -> tuple[Judged, ...]:
    at, history = _START, list[Judged]()
    for (outcome, error), pause in draw(steps):
        history.append(Judged(outcome, at, error))
        at += pause
    return tuple(history)


@st.composite
def _healths(draw: DrawFn, names: SearchStrategy[str]) -> WorkerHealth:
    health = WorkerHealth(draw(names))
    for judged in draw(_HISTORIES):
        health = health.after(judged.outcome, at=judged.at, error=judged.error)
    return health


@st.composite
def _configs(draw: DrawFn, always: dict[str, SearchStrategy[Any]], sometimes: dict[str, SearchStrategy[Any]]) -> Config:
    values = {name: draw(strategy) for name, strategy in always.items()}
    for name, strategy in sometimes.items():
        value = draw(st.none() | strategy)
        if value is not None:
            values[name] = value
    # Hypothesis prints what `builds` has built as the call that built it.
    return draw(st.builds(Config, **{name: st.just(value) for name, value in values.items()}))


def _is_strategy(value: object) -> bool:
    return isinstance(value, st.SearchStrategy)


def _made(kind: type[Exception]) -> Exception:
    return kind()


def _seconds_and_one(count: int) -> timedelta:
    """What integers shrink to is 0, and a history reads best with a second from tick to tick."""
    return timedelta(seconds=count + 1)


# -- What they are made of: made once, because that takes longer than a draw -------------------------------------------
# In `a | b` and among samples the simplest comes first.

_START = datetime(2000, 1, 1, tzinfo=UTC)
_CENTURY = 36_525 * 86_400  # seconds
_DAY = 24 * 60 - 1  # minutes: the largest offset from UTC

_LETTER = st.sampled_from("abcdefghijklmnopqrstuvwxyz")
_LETTERS = st.lists(st.sampled_from("abcdefghijklmnopqrstuvwxyz_0123456789"), max_size=MAX_NAME_LENGTH - 1)
_NAMES = st.sampled_from(("sweep", "rebalance", "expire_rows", "a", "x" * MAX_NAME_LENGTH)) | _any_names()

_LOCK_IDS = st.integers(MIN_LOCK_ID, MAX_LOCK_ID) | st.sampled_from((0, -1, 1, MIN_LOCK_ID, MAX_LOCK_ID))

_TEXTS = st.sampled_from(("disk full", "no route to host", "", "two\nlines")) | st.text()
# By the fewest choices comes what others shrink to: one without arguments takes fewer than one with a text does.
_SIMPLEST_ERROR = st.builds(OSError, st.just("disk full"))
_SINGLE_ERRORS = st.one_of(
    _SIMPLEST_ERROR, *(st.builds(kind, _TEXTS) for kind in (OSError, ValueError, KeyError, TimeoutError))
)
_ERRORS_WITHOUT_ARGUMENTS = st.sampled_from((ValueError, trio.TooSlowError)).map(_made)
_GROUPS = st.builds(ExceptionGroup, _TEXTS, st.lists(_SINGLE_ERRORS, min_size=1, max_size=3))
_ERRORS = _SINGLE_ERRORS | _ERRORS_WITHOUT_ARGUMENTS | _GROUPS

_NO_ERROR: SearchStrategy[Exception | None] = st.none()
_ERRORS_OF: dict[Outcome, SearchStrategy[Exception | None]] = {
    **{outcome: _NO_ERROR | _ERRORS for outcome in Outcome if outcome.result == "error"},
    Outcome.UNAVAILABLE: _NO_ERROR | st.builds(DatabaseUnavailableError, st.just("the database is away")),
}
_OUTCOMES_WITH_ERRORS = st.one_of(
    [st.tuples(st.just(outcome), _ERRORS_OF.get(outcome, _NO_ERROR)) for outcome in Outcome]
)

_KINDS_AND_SECONDS = st.integers(0, 3 * _CENTURY - 1)
_TIMES = _times()
_OUTCOMES = outcomes()
_ANY_ERROR = st.one_of(_NO_ERROR, _ERRORS, st.builds(TextlessError), st.builds(KeyboardInterrupt))
_JUDGED = _judged()

_PAUSES = st.integers(-1, 3600).map(_seconds_and_one) | st.timedeltas(timedelta(), timedelta(days=31))
_SET_BACK = st.integers(-3600, -1).map(_seconds_and_one) | st.timedeltas(timedelta(days=-1), timedelta())
_HISTORIES = histories()

_SPANS: SearchStrategy[float] = st.one_of(
    st.sampled_from((1, 60, 3600, 0.5, MAX_SECONDS)),
    st.integers(1, MAX_SECONDS),
    st.floats(0, MAX_SECONDS, exclude_min=True),
)
_WORKS = st.one_of(
    st.builds(ScriptedWork),
    st.builds(ScriptedWork, error=_ERRORS),
    st.builds(ScriptedWork, seconds=_SPANS),
    st.builds(ScriptedWork, seconds=_SPANS, error=_ERRORS),
)
_SIMPLEST: dict[str, Any] = {"name": "sweep", "interval": 1, "locker": MemoryLocker(), "work": ScriptedWork()}
_REQUIRED: dict[str, SearchStrategy[Any]] = {
    "name": _NAMES,
    "interval": _SPANS,
    "locker": st.builds(MemoryLocker),
    "work": _WORKS,
}
_OPTIONAL: dict[str, SearchStrategy[Any]] = {
    "lock_id": _LOCK_IDS,
    "log": st.builds(component_logger, st.just("sweep")),  # of few names: loggers stay for as long as the process
    "should_run": st.builds(ScriptedGate, answer=st.booleans()) | st.builds(ScriptedGate, error=_ERRORS),
    "startup": _WORKS,
    "on_error": st.builds(ScriptedHook) | st.builds(ScriptedHook, error=_ERRORS),
    "tick_timeout": _SPANS,
    "cadence": st.sampled_from(("replica", "cluster")),
}
