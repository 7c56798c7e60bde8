"""What the bridges share: the name of a function that is no Trio code, and a wait for it with a watch beside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import outcome
import trio

from ._callables import place_of, unwrapped

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_Result = TypeVar("_Result")
_Function = TypeVar("_Function")


class Foreign(Generic[_Function]):
    """A callable that stands for a function of the user's and bears its name, so that telemetry says whose code ran."""

    def __init__(self, bridge: str, function: _Function) -> None:
        self._bridge = bridge
        self._function = function
        self.__module__, self.__qualname__ = place_of(function)
        self.__name__ = self.__qualname__.rpartition(".")[2]

    def __repr__(self) -> str:
        return f"<{self._bridge} of {self.__module__}.{self.__qualname__}>"


def refuse_work(function: object) -> None:
    """Raise for what a bridge has made: through another it would await the wrong library, in the middle of a run."""
    if isinstance(unwrapped(function), Foreign):
        raise TypeError(f"fn must be a function, got {function!r}, which is work already: give it to Config as it is")


@trio.lowlevel.enable_ki_protection
async def beside(
    watch: Callable[[], Awaitable[object]], end: Callable[[], object], call: Callable[[], Awaitable[_Result]]
) -> outcome.Outcome[_Result]:
    """Capture what the call gives, and keep the watch meanwhile; at ``end()`` the watch returns without a wait.

    Neither a cancellation, nor an error, nor Ctrl-C comes out in the nursery's group.
    """
    async with trio.open_nursery() as nursery:
        # A task does not inherit it. A Ctrl-C in the midst of Trio's own waits would leave the watch where it waited.
        nursery.start_soon(trio.lowlevel.enable_ki_protection(watch))
        result = await outcome.acapture(call)
        end()
        while nursery.child_tasks:  # for a step; upon the nursery's own wait for them a Ctrl-C would be raised
            await trio.lowlevel.cancel_shielded_checkpoint()
    return result
