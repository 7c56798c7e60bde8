"""Whose code a callable is. Whether it is async is held by the tests of `Config`, which asks."""

from __future__ import annotations

import functools
import operator
from typing import Any

import pytest

from tickrunner_trio._callables import place_of


class Work:
    def method(self) -> None: ...

    def __call__(self) -> None: ...


def work() -> None: ...


class PartialCall:
    __call__ = functools.partial(work)


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
