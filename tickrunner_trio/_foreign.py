"""What the bridges share: how a function that is no Trio code goes by its own name in traces, logs and errors."""

from __future__ import annotations

from functools import partial
from typing import Generic, TypeVar

_Function = TypeVar("_Function")


class Foreign(Generic[_Function]):
    """A callable that stands for a function of the user's and bears its name.

    Telemetry asks a callable for ``__module__`` and ``__qualname__`` to say whose code ran. A partial is named by what
    it calls, an object by its ``__call__``.
    """

    def __init__(self, bridge: str, function: _Function) -> None:
        self._bridge = bridge
        self._function = function
        named: object = function
        while isinstance(named, partial):
            named = named.func
        if not hasattr(named, "__qualname__"):
            named = type(named).__call__
        self.__module__ = str(getattr(named, "__module__", ""))
        self.__qualname__ = str(getattr(named, "__qualname__", ""))
        self.__name__ = self.__qualname__.rpartition(".")[2]

    def __repr__(self) -> str:
        return f"<{self._bridge} of {self.__module__}.{self.__qualname__}>"
