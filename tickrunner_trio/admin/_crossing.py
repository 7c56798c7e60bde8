"""The way into Trio's loop, from wherever the ASGI server runs the application.

Mostly that is the very loop in which the supervisor runs, and then there is nothing to cross. An application beside an
asyncio one has its supervisor in another thread: then a worker thread waits for Trio's answer.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

import anyio.to_thread
import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .. import Supervisor

_T = TypeVar("_T")


class NotRunningError(Exception):
    """The supervisor does not run, so nothing can be asked of its loop."""


async def in_trio(supervisor: Supervisor, function: Callable[..., Awaitable[_T]], *args: object) -> _T:
    """Call an async function in the Trio run of the supervisor and return its answer.

    Raises:
        NotRunningError: the supervisor does not run, or stopped meanwhile.

    Cancellation handling: cancels the function within the same loop; across threads it goes on, and its answer is
    dropped.
    """
    token = supervisor.trio_token
    if token is None:
        raise NotRunningError
    if _current_token() is token:
        return await function(*args)
    try:
        return await anyio.to_thread.run_sync(
            partial(trio.from_thread.run, function, *args, trio_token=token), abandon_on_cancel=True
        )
    except (trio.RunFinishedError, trio.Cancelled) as error:  # noqa: ASYNC103 - of the other loop, which is ending
        raise NotRunningError from error  # noqa: ASYNC104 - as above


def _current_token() -> trio.lowlevel.TrioToken | None:
    try:
        return trio.lowlevel.current_trio_token()
    except RuntimeError:  # in no Trio run; `in_trio_run` came later than the oldest Trio that we take
        return None
