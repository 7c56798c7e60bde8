"""A coroutine function of asyncio's as work: on a loop of its own, on one that is there, or on the application's.

::

    which loop?                                    who runs it?                      until when?
    ---------------------------------------------  --------------------------------  --------------------------
    loop=... was given                             the application, in any thread    the application's end
    one of trio-asyncio's is open around the tick  trio-asyncio, within the Trio run  it is closed
    else a new one                                 trio-asyncio, within the Trio run  the tick's end

A loop per tick takes 0.6 ms where a call on an open one takes 0.1 ms, and gives what no loop per run could: what the
work leaves behind (tasks, async generators) is cancelled and has stopped before the lock is let go, and no tick
inherits what another broke. Whoever keeps clients from tick to tick has one of the two other loops.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
import warnings
from functools import partial
from typing import TYPE_CHECKING

from ._application_loop import on_application
from ._asyncio_tasks import captured
from ._callables import check_takes, is_async_callable
from ._foreign import Foreign, refuse_work
from ._trio_asyncio_loop import on_trio_asyncio, protect_from_interrupts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import ModuleType

    from ._asyncio_tasks import Captured
    from ._outcome import Tick

#: The first Python without the child watchers and policies of asyncio on which trio-asyncio is built.
TOO_NEW = (3, 14)

_ALTERNATIVES = (
    "give asyncio_work the loop of an application that runs one (loop=...), "
    "or call asyncio.run in a plain function and give that to thread_work"
)


def asyncio_work(
    fn: Callable[[Tick], Awaitable[object]], *, loop: asyncio.AbstractEventLoop | None = None
) -> Callable[[Tick], Awaitable[None]]:
    """Let a coroutine function that is written for asyncio be the work of a service.

    Without ``loop``, it runs under trio-asyncio (the extra ``asyncio``, on Python below 3.14), within the Trio run and
    its thread: on the loop of ``trio_asyncio.open_loop()`` if one is open around the service, else on a new one for
    each tick. That leaves nothing behind: tasks that the work has started are cancelled, and awaited, before the lock
    is let go; their clean-up may await whatever it needs, and what it raises is logged. Clients that live longer than a
    tick, such as connection pools, need a loop that is open around ``service.run()``. Calling `asyncio_work` imports
    trio-asyncio, which patches asyncio for the whole process.

    A library that was imported before trio-asyncio, such as psycopg, keeps to asyncio's own functions. It works on a
    loop of the tick's own, and on an open one in the coroutine itself; but in tasks that this starts there, as
    ``asyncio.gather`` does, it fails with ``RuntimeError: no running event loop``. Import trio-asyncio first of all.

    With ``loop``, it runs there, beside an application of asyncio's and on its clients; Trio is that application's
    guest or runs in another thread. It needs no trio-asyncio, and works on any Python. The loop has to run until the
    service has ended: work on a loop that has stopped never does.

    Context variables (`tickrunner_trio.request_id`, the current span) are there in the coroutine and its tasks. What it
    raises comes back as it is; what it returns is dropped. A ``CancelledError`` that is not the service's doing, as of
    a loop that shuts down, becomes a `RuntimeError`. What a callback raises is logged by asyncio, as ever; but on a
    loop of ``trio_asyncio.open_loop()`` it ends that loop and all within, services too, unless the loop has been given
    an exception handler (``loop.set_exception_handler``): whether its errors are fatal is for its owner to say.

    Args:
        fn: ``async def fn(tick)``; a partial, a method or a callable object too.
        loop: that of a running application, in this thread or another; None: one of trio-asyncio's.

    Returns:
        An async function for ``Config(work=...)``.

    Raises:
        TypeError: ``fn`` is no async function of one argument, or is work already, or ``loop`` no loop.
        RuntimeError: without ``loop``: this is Python 3.14 or newer, where trio-asyncio does not work.
        ModuleNotFoundError: without ``loop``: trio-asyncio is not installed.

    Cancellation handling: a timeout, a lost lock, a cancelled service are one ``CancelledError`` in the coroutine; if
    it catches that and goes on, none follows, as ever in asyncio. The lock is let go when the coroutine has stopped; on
    a loop of the tick's own, when all its tasks have. **On a loop that others keep, what the coroutine does not wait
    for goes on without the lock**: tasks that it leaves behind, what ``asyncio.shield`` guards, and, with ``loop``, the
    thread of an ``asyncio.to_thread`` that is cancelled. Nothing bounds the wait: a clean-up that may hang needs an
    ``asyncio.timeout`` of its own, else it keeps the lock and the service until the process ends. Ctrl-C is a
    cancellation too, as the first one is under ``asyncio.run``: it does not interrupt a coroutine that blocks its loop.

    Example::

        async def refill(tick: Tick) -> None:
            async with aiohttp.ClientSession() as session, session.get(PRICES) as response:
                await store(await response.json())

        Config(name="refill", interval=60, locker=locker, work=asyncio_work(refill))
    """
    refuse_work(fn)
    if not is_async_callable(fn):
        raise TypeError(
            f"fn must be an async function of one argument, the Tick, got {fn!r}: "
            "write 'async def work(tick): ...', or give a plain function to thread_work"
        )
    check_takes("fn", fn, "tick")
    if loop is None:
        return _AsyncioWork(fn, partial(on_trio_asyncio, _import_trio_asyncio()))
    if not isinstance(loop, asyncio.AbstractEventLoop):
        raise TypeError(
            f"loop must be a loop of asyncio, got {loop!r}: use asyncio.get_running_loop(), or leave it out"
        )
    return _AsyncioWork(fn, partial(on_application, loop))


def _import_trio_asyncio() -> ModuleType:
    if sys.version_info >= TOO_NEW:
        version = ".".join(map(str, sys.version_info[:2]))
        raise RuntimeError(f"asyncio_work without a loop needs a Python below 3.14, got {version}: {_ALTERNATIVES}")
    try:
        with warnings.catch_warnings():
            # Since 3.12 asyncio deprecates what trio-asyncio builds on, which ends a program that runs with -W error.
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            trio_asyncio = importlib.import_module("trio_asyncio")
    except ModuleNotFoundError as error:
        if error.name != "trio_asyncio":
            raise
        raise ModuleNotFoundError(
            "asyncio_work without a loop needs trio-asyncio, which is not installed: "
            f"python -m pip install 'tickrunner-trio[asyncio]'; or {_ALTERNATIVES}",
            name=error.name,
        ) from error
    protect_from_interrupts(trio_asyncio)
    return trio_asyncio


class _AsyncioWork(Foreign["Callable[[Tick], Awaitable[object]]"]):
    """Work that is a task of asyncio's."""

    def __init__(
        self,
        function: Callable[[Tick], Awaitable[object]],
        wait_for: Callable[[Captured], Awaitable[BaseException | None]],
    ) -> None:
        super().__init__("asyncio_work", function)
        self._wait_for = wait_for

    async def __call__(self, tick: Tick) -> None:
        error = await self._wait_for(partial(captured, self._function, tick))
        if error is not None:
            raise error
