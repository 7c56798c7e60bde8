"""Whose code a callable is. Whether it is async is held by the tests of `Config`, which asks."""

from __future__ import annotations

import functools
import inspect
import operator
from typing import Any

import pytest

from tickrunner_trio._callables import check_takes, place_of


class Work:
    def method(self) -> None: ...

    def __call__(self) -> None: ...


def work() -> None: ...


class PartialCall:
    __call__ = staticmethod(functools.partial(work))


class NamelessCall:
    __call__ = Work()


@pytest.mark.parametrize(
    ("function", "place"),
    [
        (work, (__name__, "work")),
        (functools.partial(functools.partial(work)), (__name__, "work")),
        (Work().method, (__name__, "Work.method")),
        (Work(), (__name__, "Work.__call__")),
        (functools.partial(Work()), (__name__, "Work.__call__")),
        (operator.itemgetter(0), ("", "itemgetter.__call__")),
        (PartialCall(), (__name__, "work")),
        (NamelessCall(), (__name__, "")),
    ],
)
def test_the_place_of_a_callable_is_that_of_the_code_that_runs(function: Any, place: tuple[str, str]) -> None:
    assert place_of(function) == place


class Injecting:
    """Shows what it wraps, and gives it a session of its own."""

    __signature__ = inspect.signature(lambda tick, session: None)

    def __call__(self, tick: object) -> None: ...


class CallingWithTick:
    __call__ = staticmethod(functools.partial(lambda tick: None))


@pytest.mark.parametrize("function", [Injecting(), CallingWithTick(), lambda tick: None])
def test_what_can_be_called_with_a_tick_is_let_through_whatever_signature_it_shows(function: Any) -> None:
    function("tick")
    check_takes("work", function, "tick")


@pytest.mark.parametrize("function", [lambda: None, lambda tick, session: None, Work()])
def test_what_cannot_be_called_with_a_tick_is_refused_by_the_name_of_its_field(function: Any) -> None:
    with pytest.raises(TypeError, match=r"^work must take the arguments of work\(tick\)"):
        check_takes("work", function, "tick")
