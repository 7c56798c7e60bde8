"""A task on a loop of trio-asyncio's, within the Trio run: on one that is open, or on a new one of the tick's own.

The `SystemExit` of a task does not reach a loop of the tick's own, which would stop where it stands. A loop that stops
all the same, and its tasks with it, ends the wait for them.
"""

from __future__ import annotations

import asyncio
from _asyncio import _get_running_loop, _set_running_loop  # those of asyncio's own loops, which nobody replaces
from collections.abc import Coroutine
from functools import cache, partial
from typing import TYPE_CHECKING, Any, cast

import outcome
import trio

from ._asyncio_tasks import ended
from ._foreign import beside

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import ModuleType

    from ._asyncio_tasks import Captured


@cache
def protect_from_interrupts(trio_asyncio: ModuleType) -> None:
    """Let Ctrl-C go to Trio's main task, whichever step of a loop of trio-asyncio's it comes upon.

    Raised within the loop's own code, it would stop the loop for good, and whoever waits for a task of that loop would
    wait for ever, under the lock. Trio keeps the mark with the code of a function, so that it holds for each loop of
    trio-asyncio's in the process; a loop that somebody has opened around the services needs it as much as ours.
    """
    loop = trio_asyncio.BaseTrioEventLoop
    for name in ("_main_loop", "_io_task"):
        setattr(loop, name, trio.lowlevel.enable_ki_protection(getattr(loop, name)))


async def on_trio_asyncio(trio_asyncio: ModuleType, work: Captured) -> BaseException | None:
    """Run it on the loop of trio-asyncio's that is open, else on a new one, and wait for it."""
    loop = trio_asyncio.current_loop.get()
    if loop is not None and loop.is_running():
        return await ended(_end_of, loop, loop.create_task(_Steps(work(), loop)))
    return await _on_a_new_loop(trio_asyncio, work)


@trio.lowlevel.enable_ki_protection
async def _on_a_new_loop(trio_asyncio: ModuleType, work: Captured) -> BaseException | None:
    exits: list[BaseException] = []
    try:
        async with trio_asyncio.open_loop() as loop:

            def exits_with(error: BaseException) -> None:
                exits.append(error)
                task.cancel()

            loop.set_task_factory(partial(_task_without_exit, exits_with))
            loop.set_exception_handler(_only_log)
            task = loop.create_task(work())
            # Captured, so that neither a cancellation nor an error comes out in the group of the loop's nursery.
            result = await outcome.acapture(ended, _end_of, loop, task)
            if loop.is_running():
                # Here, while the loop waits for sockets and threads, as at the end of `open_loop` it does not any more.
                with trio.CancelScope(shield=True):
                    end = await outcome.acapture(_end_of, loop, loop.create_task(_end_the_rest(loop)))
                    if _is_interrupt(end):
                        result = end
    except BaseExceptionGroup as group:
        if (exit_of_a_callback := _first_exit(group)) is None:
            raise
        raise exit_of_a_callback from None
    return exits[0] if exits else result.unwrap()


async def _end_of(loop: Any, task: asyncio.Task[BaseException | None]) -> BaseException | None:
    """Await a task of a loop of trio-asyncio's, as ``run_aio_future`` does, but no longer than the loop runs.

    A loop that was told to stop, or in which a callback has exited, leaves its tasks where they are, and never says so.
    """
    is_over = trio.Event()
    watch = trio.CancelScope(shield=True)

    async def watch_the_loop() -> None:
        with watch:
            await loop.wait_stopped()
            is_over.set()

    async def wait() -> None:
        interrupt = await outcome.acapture(is_over.wait)
        while not is_over.is_set():  # again after a Ctrl-C, which no shield keeps off
            task.cancel()
            try:
                with trio.CancelScope(shield=True):
                    await is_over.wait()
            except KeyboardInterrupt as error:
                interrupt = outcome.Error(error)
        interrupt.unwrap()

    task.add_done_callback(lambda _: is_over.set())
    interrupt = await beside(watch_the_loop, watch.cancel, wait)
    if not task.done():
        _abandon_the_tasks_of(loop)
        interrupt.unwrap()
        raise RuntimeError("the loop was stopped while the work ran")
    if task.cancelled() or _is_interrupt(interrupt):
        interrupt.unwrap()
    return task.result()


def _is_interrupt(captured: outcome.Outcome[object]) -> bool:
    """Whether it is a Ctrl-C: it is told once, and ends the program also where all else has come to a good end."""
    return isinstance(captured, outcome.Error) and isinstance(captured.error, KeyboardInterrupt)


def _abandon_the_tasks_of(loop: asyncio.AbstractEventLoop) -> None:
    """Let nobody wait for the tasks of a loop that has stopped: ``open_loop`` would at its end, for ever."""
    for task in asyncio.all_tasks(loop):
        asyncio._unregister_task(task)  # noqa: SLF001 - documented, for who extends asyncio


def _first_exit(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    first: BaseException | None = group.subgroup((KeyboardInterrupt, SystemExit))
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first


async def _end_the_rest(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel all other tasks of the loop and wait for them, and for those that they start at that, as long as it takes.

    An error of theirs is logged, as at the end of ``asyncio.run``: nobody awaited them.
    """
    while tasks := asyncio.all_tasks(loop) - {asyncio.current_task(loop)}:
        for task in tasks:
            task.cancel()
        for task, end in zip(tasks, await asyncio.gather(*tasks, return_exceptions=True), strict=True):
            if isinstance(end, BaseException) and not task.cancelled():
                message = "a task that the work has left behind raised"
                loop.call_exception_handler({"message": message, "exception": end, "task": task})


def _only_log(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Do with an error of a callback what a loop of asyncio's does; trio-asyncio's ends the loop."""
    asyncio.BaseEventLoop.default_exception_handler(cast("asyncio.BaseEventLoop", loop), context)


def _task_without_exit(
    exits_with: Callable[[BaseException], None],
    loop: asyncio.AbstractEventLoop,
    coroutine: Coroutine[Any, Any, Any],
    **more: Any,
) -> asyncio.Task[Any]:
    if not asyncio.iscoroutine(coroutine):
        raise TypeError(f"a coroutine was expected, got {coroutine!r}")  # as a task says, which takes the steps of it
    return asyncio.Task(_StepsWithoutExit(coroutine, loop, exits_with), loop=loop, **more)


class _Steps(Coroutine[Any, Any, Any]):
    """A coroutine whose every step finds its loop of trio-asyncio's where asyncio's own loops say that they run.

    trio-asyncio puts functions of its own in the place of ``asyncio.get_running_loop`` and its kin. Code that was
    imported before it, such as psycopg's, holds on to the old ones, which look there.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop) -> None:
        self._coroutine = coroutine
        self._loop = loop

    def send(self, value: Any) -> Any:
        return self._step(self._coroutine.send, value)

    def throw(self, *error: Any) -> Any:
        return self._step(self._coroutine.throw, *error)

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield from self._coroutine.__await__())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coroutine, name)  # what asyncio shows of a task in its logs

    def _step(self, step: Callable[..., Any], *args: Any) -> Any:
        running_before = _get_running_loop()
        _set_running_loop(self._loop)
        try:
            return step(*args)
        finally:
            _set_running_loop(running_before)


class _StepsWithoutExit(_Steps):
    """Those of a task that is cancelled where it would exit: a `SystemExit` stops a loop of trio-asyncio's for good.

    Whoever then waits for another task of that loop, as its end does, waits for ever.
    """

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, Any],
        loop: asyncio.AbstractEventLoop,
        exits_with: Callable[[BaseException], None],
    ) -> None:
        super().__init__(coroutine, loop)
        self._exits_with = exits_with

    def _step(self, step: Callable[..., Any], *args: Any) -> Any:
        try:
            return super()._step(step, *args)
        except (KeyboardInterrupt, SystemExit) as error:
            self._exits_with(error)
            raise asyncio.CancelledError from error
