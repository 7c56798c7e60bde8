"""What a callable is underneath: async or not, what it takes, and whose code.

A partial is what it calls, an object its ``__call__``.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any


def unwrapped(function: object) -> object:
    """Return what a partial calls, however often it is one; anything else as it is."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def is_async_callable(function: object) -> bool:
    """Whether calling it gives a coroutine: an async function or method, a partial of one, an async ``__call__``."""
    function = unwrapped(function)
    return inspect.iscoroutinefunction(function) or (
        callable(function)
        and not isinstance(function, type)
        and inspect.iscoroutinefunction(unwrapped(_call_of(function)))
    )


def yields(function: object) -> bool:
    """Whether calling it gives a generator, async or not."""
    function = unwrapped(function)
    candidates = (function, _call_of(function))
    return any(inspect.isasyncgenfunction(each) or inspect.isgeneratorfunction(each) for each in candidates)


def check_takes(field: str, function: object, *arguments: str) -> None:
    """Refuse a callable that takes other arguments than these; one that does not say what it takes is let through.

    So is a wrapper that shows the signature of what it wraps (`wrapt`'s do): it may add arguments to its own.
    """
    assert callable(function)
    try:
        if hasattr(function, "__signature__") or isinstance(_call_of(function), functools.partial):  # nor is that bound
            return
        # Of the outermost function, since a decorator may add arguments to those that it is called with.
        signature = inspect.signature(function, follow_wrapped=False)
    except Exception:  # some builtins have none, and its annotations may be evaluated only now
        return
    try:
        signature.bind(*arguments)
    except TypeError:
        call = f"{field}({', '.join(arguments)})"
        raise TypeError(
            f"{field} must take the arguments of {call}, got {function!r}: have it take these, and need no others"
        ) from None


def place_of(function: object) -> tuple[str, str]:
    """Return where the code of a callable is: its module and its qualified name, "" for what it does not tell."""
    code: Any = unwrapped(function)
    if not hasattr(code, "__qualname__"):
        code = unwrapped(_call_of(code))
    return str(getattr(code, "__module__", "")), str(getattr(code, "__qualname__", ""))


def _call_of(function: object) -> object:
    return type(function).__call__
