"""What `Config` accepts, and how it refuses the rest: the field, the value, the remedy."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import re
from dataclasses import FrozenInstanceError, dataclass, replace
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickrunner_trio import Config, MemoryLocker, component_logger
from tickrunner_trio.testing import strategies

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

LOCKER = MemoryLocker()
DAYS_366 = 31_622_400


async def asynchronous(*args: Any) -> None: ...


def plain(*args: Any) -> bool:
    return True


async def without_tick() -> None: ...


async def of_two(tick: Any, second: Any) -> None: ...


async def of_keywords(*, tick: Any) -> None: ...


def injecting(function: Any) -> Any:
    @functools.wraps(function)
    async def injected(tick: Any) -> None:
        await function(tick, "a client")

    return injected


async def async_generator(*args: Any) -> AsyncIterator[None]:
    yield


def generator(*args: Any) -> Iterator[bool]:
    yield True


class AsyncCall:
    async def __call__(self, *args: Any) -> None: ...

    async def method(self, *args: Any) -> None: ...

    @staticmethod
    async def static(*args: Any) -> None: ...

    @classmethod
    async def of_class(cls, *args: Any) -> None: ...


class PlainCall:
    def __call__(self, *args: Any) -> bool:
        return True

    def method(self, *args: Any) -> bool:
        return True


class GeneratorCall:
    def __call__(self, *args: Any) -> Iterator[bool]:
        yield True

    def method(self, *args: Any) -> Iterator[bool]:
        yield True


class PlainLocker:
    def with_advisory_lock(self, lock_id: int, fn: Any) -> None: ...


def config(**fields: Any) -> Config:
    return Config(**{"name": "sweep", "interval": 60, "locker": LOCKER, "work": asynchronous, **fields})


ASYNC_FUNCTIONS = [
    asynchronous,
    functools.partial(asynchronous, 1),
    functools.partial(functools.partial(asynchronous, 1), 2),
    AsyncCall(),
    functools.partial(AsyncCall(), 1),
    AsyncCall().method,
    functools.partial(AsyncCall().method, 1),
    AsyncCall.static,
    AsyncCall.of_class,
]
PLAIN_FUNCTIONS = [
    plain,
    lambda *args: True,
    functools.partial(plain, 1),
    PlainCall(),
    PlainCall().method,
    print,
    bool,
]
WRONG_NUMBERS: list[tuple[str, Any]] = [
    *(("work", value) for value in (without_tick, of_two, of_keywords, functools.partial(of_two, 1, 2))),
    *(("startup", value) for value in (without_tick, functools.partial(without_tick))),
    *(("should_run", value) for value in ([].append, lambda tick: True)),
    *(("on_error", value) for value in ([].clear, lambda: None, lambda error, tick: None)),
]
GENERATORS = [generator, functools.partial(generator, 1), GeneratorCall(), GeneratorCall().method, async_generator]


async def test_the_callables_of_these_tests_have_the_colours_that_they_stand_for() -> None:
    for function in ASYNC_FUNCTIONS:
        assert await function(None) is None
    for function in PLAIN_FUNCTIONS:
        assert function(None) in (True, False, None)
    for function in GENERATORS[:-1]:
        assert list(function(None)) == [True]
    assert [each async for each in async_generator(None)] == [None]


NO_SECONDS: list[tuple[Any, type[Exception]]] = [
    (0, ValueError),
    (-1, ValueError),
    (-0.0, ValueError),
    (math.nan, ValueError),
    (math.inf, ValueError),
    (-math.inf, ValueError),
    (DAYS_366 + 1, ValueError),
    (math.nextafter(DAYS_366, math.inf), ValueError),
    (10**400, ValueError),
    (True, TypeError),
    ("60", TypeError),
    (Decimal(60), TypeError),
    (timedelta(minutes=1), TypeError),
    (1j, TypeError),
]
REFUSED: list[tuple[str, Any, type[Exception]]] = [
    *(
        ("name", value, ValueError)
        for value in ("", "Sweep", "9lives", "_sweep", "a-b", "a b", "a.b", "é", "a\n", "a\0")
    ),
    ("name", "x" * 64, ValueError),
    *(("name", value, TypeError) for value in (None, b"sweep", 5, ["sweep"])),
    *(("interval", value, kind) for value, kind in NO_SECONDS),
    ("interval", None, TypeError),
    *(("locker", value, TypeError) for value in (None, "postgresql://", MemoryLocker, PlainLocker(), object())),
    *(("work", value, TypeError) for value in (*PLAIN_FUNCTIONS, *GENERATORS, AsyncCall, None, "work")),
    *(("lock_id", value, ValueError) for value in (2**63, -(2**63) - 1, 10**30)),
    *(("lock_id", value, TypeError) for value in (True, False, 1.0, "1")),
    *(("log", value, TypeError) for value in ("sweep", logging, print, logging.INFO, False)),
    *(("should_run", value, TypeError) for value in (*ASYNC_FUNCTIONS, *GENERATORS, True, "yes")),
    *(("startup", value, TypeError) for value in (*PLAIN_FUNCTIONS, *GENERATORS, AsyncCall, False, "startup")),
    *(("on_error", value, TypeError) for value in (*ASYNC_FUNCTIONS, *GENERATORS, False, ValueError())),
    *(("tick_timeout", value, kind) for value, kind in NO_SECONDS),
    *(("cadence", value, ValueError) for value in ("", "CLUSTER", "each")),
    *(("cadence", value, TypeError) for value in (None, True, ["cluster"])),
]


@pytest.mark.parametrize(("field", "value", "kind"), REFUSED)
def test_a_bad_value_is_refused_with_the_field_the_value_and_the_remedy(
    field: str, value: Any, kind: type[Exception]
) -> None:
    with pytest.raises(kind) as caught:
        config(**{field: value})
    assert type(caught.value) is kind
    message = str(caught.value)
    assert re.fullmatch(rf"{field} must .+, got .*{re.escape(repr(value))}: \S.+", message, re.DOTALL), message


def test_there_is_a_bad_value_for_each_field() -> None:
    assert {field for field, _, _ in REFUSED} == {field.name for field in dataclasses.fields(Config)}


def test_work_that_was_called_already_is_refused() -> None:
    called = asynchronous(None)
    try:
        with pytest.raises(TypeError, match=r"^work must be an async function.*got <coroutine.*write 'async def work"):
            config(work=called)
    finally:
        called.close()


SNAKE_CASE = "begin with a lower-case letter, then lower-case letters, digits and underscores only"
SECONDS = "a finite number of seconds above 0 and at most 31622400 (366 days)"
LOCKER_METHOD = "an object with an async method with_advisory_lock(lock_id, fn)"
LOCKERS = "use a PostgresLocker, or a MemoryLocker where one process is all there is"
ASYNC_FUNCTION = "an async function of one argument, the Tick"
OR_A_THREAD = "or give a plain function to tickrunner_trio.bridges.thread_work"


@pytest.mark.parametrize(
    ("field", "value", "must_be", "remedy"),
    [
        ("name", 5, "a str", "write one, such as 'sweep'"),
        ("name", "Sweep", "snake_case ([a-z][a-z0-9_]*)", SNAKE_CASE),
        ("interval", timedelta(1), "a number of seconds", "use its total_seconds()"),
        ("interval", "60", "a number of seconds (an int or a float)", "write one, as in 60"),
        ("tick_timeout", math.inf, SECONDS, "choose one within these bounds"),
        ("locker", None, LOCKER_METHOD, LOCKERS),
        ("work", "sweep", ASYNC_FUNCTION, f"write 'async def work(tick): ...', {OR_A_THREAD}"),
        ("startup", plain, ASYNC_FUNCTION, f"write 'async def startup(tick): ...', {OR_A_THREAD}"),
        ("should_run", True, "a plain function", "write one with 'def'"),
        ("lock_id", "1", "an int", "use lock_id_for(name) to derive one from a name"),
        ("log", "x", "a Logger or a LoggerAdapter", "use component_logger('sweep')"),
        ("cadence", None, "a str", "use 'cluster' or 'replica'"),
        ("cadence", "each", "'cluster' or 'replica'", "use one of the two"),
    ],
)
def test_a_refusal_says_just_this(field: str, value: Any, must_be: str, remedy: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        config(**{field: value})
    assert str(caught.value) == f"{field} must be {must_be}, got {value!r}: {remedy}"


def test_a_name_that_is_too_long_is_told_by_how_much() -> None:
    name = "x" * 70
    with pytest.raises(ValueError, match=rf"^name must have at most 63 characters, got '{name}': shorten it by 7$"):
        config(name=name)


@pytest.mark.parametrize("field", ["should_run", "on_error"])
def test_a_function_of_the_wrong_colour_is_told_so(field: str) -> None:
    said = re.escape(f"{field} must be a plain function, got the async or generator {asynchronous!r}: use 'def'")
    with pytest.raises(TypeError, match=f"^{said}$"):
        config(**{field: asynchronous})


@pytest.mark.parametrize(("field", "value"), WRONG_NUMBERS)
def test_a_function_of_other_arguments_is_told_which_it_is_called_with(field: str, value: Any) -> None:
    call = {"should_run": "should_run()", "on_error": "on_error(error)"}.get(field, f"{field}(tick)")
    must = f"{field} must take the arguments of {call}, got {value!r}: have it take these, and need no others"
    with pytest.raises(TypeError, match=f"^{re.escape(must)}$"):
        config(**{field: value})


async def test_a_decorator_may_add_arguments_to_those_that_it_is_called_with() -> None:
    subject = config(work=injecting(of_two))
    assert await subject.work(None) is None  # type: ignore[func-returns-value,arg-type]


def test_a_function_that_does_not_say_what_it_takes_is_let_through() -> None:
    class Unknown:
        @property
        def __signature__(self) -> Any:
            raise NameError("Tick")  # as annotations do that are evaluated late

        async def __call__(self, tick: Any) -> None: ...

    for function in (Unknown(), functools.partial(Unknown())):
        assert config(work=function).work is function


@pytest.mark.parametrize("name", ["a", "a1", "a_", "move_objects_2", "x" * 63])
def test_a_name_is_snake_case_of_at_most_63_characters(name: str) -> None:
    assert config(name=name).name == name


@pytest.mark.parametrize("field", ["interval", "tick_timeout"])
@pytest.mark.parametrize("seconds", [1, 0.5, 5e-324, DAYS_366, float(DAYS_366)])
def test_seconds_are_above_0_and_at_most_366_days(field: str, seconds: float) -> None:
    assert getattr(config(**{field: seconds}), field) == seconds


@pytest.mark.parametrize("lock_id", [None, 0, 1, -1, 2**63 - 1, -(2**63)])
def test_a_lock_id_is_any_signed_64_bit_integer_or_none(lock_id: int | None) -> None:
    assert config(lock_id=lock_id).lock_id == lock_id


@pytest.mark.parametrize("field", ["work", "startup"])
@pytest.mark.parametrize("function", ASYNC_FUNCTIONS)
def test_work_and_startup_are_anything_that_is_awaited_when_called(field: str, function: Any) -> None:
    assert getattr(config(**{field: function}), field) == function


@pytest.mark.parametrize("field", ["should_run", "on_error"])
@pytest.mark.parametrize("function", PLAIN_FUNCTIONS)
def test_gate_and_hook_are_any_plain_callable(field: str, function: Any) -> None:
    assert getattr(config(**{field: function}), field) is function


@pytest.mark.parametrize("log", [None, logging.getLogger("x"), component_logger("x")])
def test_a_logger_is_a_logger_or_an_adapter(log: Any) -> None:
    assert config(log=log).log is log


@pytest.mark.parametrize("cadence", ["cluster", "replica"])
def test_there_are_two_cadences(cadence: str) -> None:
    assert config(cadence=cadence).cadence == cadence


def test_a_locker_is_any_object_with_the_one_async_method() -> None:
    class Own:
        async def with_advisory_lock(self, lock_id: int, fn: Any) -> None: ...

    @dataclass
    class Wrapped:
        with_advisory_lock: Any

    assert isinstance(config(locker=Own()).locker, Own)
    assert isinstance(config(locker=Wrapped(functools.partial(Own().with_advisory_lock))).locker, Wrapped)


def test_the_optional_fields_have_the_defaults_of_the_design() -> None:
    subject = config()
    assert (subject.lock_id, subject.log, subject.should_run, subject.startup) == (None, None, None, None)
    assert (subject.on_error, subject.tick_timeout, subject.cadence) == (None, None, "cluster")


def test_a_config_is_keyword_only() -> None:
    with pytest.raises(TypeError, match="positional"):
        Config("sweep", 60, LOCKER, asynchronous)  # type: ignore[call-arg,misc]


def test_a_config_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        config().interval = 5  # type: ignore[misc]


@given(
    strategies.configs(), strategies.configs(), st.sampled_from([field.name for field in dataclasses.fields(Config)])
)
def test_replace_changes_one_field_and_keeps_the_others(before: Config, other: Config, field: str) -> None:
    after = replace(before, **{field: getattr(other, field)})
    assert getattr(after, field) == getattr(other, field)
    assert replace(after, **{field: getattr(before, field)}) == before


def test_replace_validates_anew() -> None:
    with pytest.raises(ValueError, match="interval must be a finite number"):
        replace(config(), interval=-1)
