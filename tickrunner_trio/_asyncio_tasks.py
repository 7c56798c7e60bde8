"""What becomes a task of asyncio's, whichever loop it runs on, and what of its end comes back to Trio.

A cancellation of Trio's becomes one `asyncio.CancelledError` in the task, and the task's end by that becomes Trio's
cancellation again. No other crosses over: one that Trio did not cause would pass through everything that runs the
service and catches each `Exception`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

#: What becomes the task: it returns what was raised in it, and raises nothing but its cancellation.
Captured: TypeAlias = "Callable[[], Coroutine[Any, Any, BaseException | None]]"


async def captured(function: Callable[..., Awaitable[object]], *args: object) -> BaseException | None:
    """Await it; return what it raised, unless that is a cancellation of asyncio's."""
    try:
        await function(*args)
    except asyncio.CancelledError:
        raise
    except BaseExceptionGroup as group:  # noqa: ASYNC103 - raised again on Trio's side
        return _without_cancellations(group)  # noqa: ASYNC104 - as above
    except BaseException as error:  # noqa: ASYNC103 - raised again on Trio's side
        return error  # noqa: ASYNC104 - as above
    return None


def _without_cancellations(group: BaseExceptionGroup[BaseException]) -> BaseException:
    cancellations, rest = group.split(asyncio.CancelledError)
    if cancellations is None:
        return group
    if rest is not None and not isinstance(rest, Exception):
        return rest  # what ends the program
    error = RuntimeError("the work raised a group with a cancellation of asyncio's in it, which ends nothing else")
    error.__cause__ = group
    return error


async def ended(call: Callable[..., Awaitable[BaseException | None]], *args: Any) -> BaseException | None:
    """Await a task of asyncio's from Trio; a cancellation that comes from asyncio is an error like any other."""
    try:
        return await call(*args)
    except asyncio.CancelledError as error:
        raise RuntimeError(  # noqa: ASYNC104 - this is no cancellation of Trio's
            "asyncio cancelled the work; neither a timeout, nor a lost lock, nor its service did"
        ) from error
