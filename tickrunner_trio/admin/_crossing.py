"""The way into Trio's loop, from wherever the ASGI server runs the application.

Mostly that is the very loop in which the supervisor runs, and then there is nothing to cross. An application beside an
asyncio one has its supervisor in another thread::

    the caller's loop                              Trio's loop
    begun_in_trio() ---- run_sync_soon ----------> a system task runs the function
    result_of() waits <- the loop's own threadsafe call -- its future is done

No thread waits on either side, so nothing here is used up by callers that leave, or by many who wait.
"""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

import anyio
import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .. import Supervisor

_T = TypeVar("_T")


class NotRunningError(Exception):
    """The supervisor does not run, so nothing can be asked of its loop."""


async def in_trio(
    supervisor: Supervisor,
    function: Callable[..., Awaitable[_T]],
    *args: object,
    then: Callable[[], object] = lambda: None,
) -> _T:
    """Call an async function in the Trio run of the supervisor and return its answer.

    Args:
        supervisor: whose run it is.
        function: what is called.
        args: what it is called with.
        then: called once the function has ended or will not begin, whether its caller is still there or not.

    Raises:
        NotRunningError: the supervisor does not run, or stopped meanwhile.

    Cancellation handling: cancels the function within the same loop; across threads it goes on, and its answer is
    dropped.
    """
    token = supervisor.trio_token
    if token is not None and _current_token() is token:
        try:
            return await function(*args)
        finally:
            then()
    begun = begun_in_trio(supervisor, function, *args)
    begun.add_done_callback(lambda _: then())
    return await result_of(begun)


def begun_in_trio(supervisor: Supervisor, function: Callable[..., Awaitable[_T]], *args: object) -> Future[_T]:
    """Begin an async function as a task of its own in the Trio run of the supervisor; from any thread.

    Nobody's leaving cancels it, only the end of that Trio run does. The future says `NotRunningError` where it does not
    run, or was cancelled.
    """
    token = supervisor.trio_token
    future: Future[_T] = Future()

    def begin() -> None:
        try:
            trio.lowlevel.spawn_system_task(_fulfil, future, function, args)
        except RuntimeError:  # the run is about to end
            future.set_exception(NotRunningError())

    try:
        if token is None:
            raise NotRunningError
        token.run_sync_soon(begin)
    except (NotRunningError, trio.RunFinishedError):
        future.set_exception(NotRunningError())
    return future


async def result_of(future: Future[_T]) -> _T:
    """Wait for a future in this loop, whichever it is, and return its result."""
    done = anyio.Event()
    token = _current_token()
    call_here = asyncio.get_running_loop().call_soon_threadsafe if token is None else token.run_sync_soon

    def tell(_future: object) -> None:
        with contextlib.suppress(RuntimeError):  # this loop has ended, so nobody waits
            call_here(done.set)

    future.add_done_callback(tell)
    await done.wait()
    return future.result()


async def _fulfil(future: Future[_T], function: Callable[..., Awaitable[_T]], args: tuple[object, ...]) -> None:
    try:
        result = await function(*args)
    except trio.Cancelled:
        future.set_exception(NotRunningError())
        raise
    except BaseException as error:  # noqa: ASYNC103 - raised where it is waited for; here it would end the program
        future.set_exception(error)  # noqa: ASYNC104 - as above
    else:
        future.set_result(result)


def _current_token() -> trio.lowlevel.TrioToken | None:
    try:
        return trio.lowlevel.current_trio_token()
    except RuntimeError:  # in no Trio run; `in_trio_run` came later than the oldest Trio that we take
        return None
