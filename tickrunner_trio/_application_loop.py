"""A task on the loop of an application of asyncio's, awaited from Trio, which is its guest or in another thread."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import outcome
import trio

from ._asyncio_tasks import ended

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from ._asyncio_tasks import Captured


async def on_application(loop: asyncio.AbstractEventLoop, work: Captured) -> BaseException | None:
    """Run it on a loop that Trio does not run, in this thread, whose guest Trio is then, or another; wait for it."""
    return await ended(_Errand(loop, work).run)


class _Errand:
    """The task's way to the loop and back: begun and cancelled there, awaited here."""

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Captured) -> None:
        self._loop = loop
        self._work = work
        self._task: asyncio.Task[BaseException | None] | None = None
        self._token = trio.lowlevel.current_trio_token()
        self._waiting = trio.lowlevel.current_task()
        self._is_awaited = True
        self._raise_cancelled: Callable[[], NoReturn] | None = None

    async def run(self) -> BaseException | None:
        try:
            self._loop.call_soon_threadsafe(self._begin)
        except RuntimeError as error:
            raise RuntimeError(
                f"the loop of asyncio_work is closed, {self._loop!r}: drain the services before its application ends"
            ) from error
        try:
            result: BaseException | None = await trio.lowlevel.wait_task_rescheduled(self._abort)
        except asyncio.CancelledError:
            if self._raise_cancelled is not None:
                self._raise_cancelled()
            raise
        return result

    # In the thread of the loop.

    def _begin(self) -> None:
        coroutine = self._work()
        try:
            self._task = self._loop.create_task(coroutine)
        except BaseException as error:  # noqa: ASYNC103 - of a task factory; raised again on Trio's side
            coroutine.close()
            self._wake_up(outcome.Error(error))
        else:
            self._task.add_done_callback(lambda task: self._wake_up(outcome.capture(task.result)))

    def _wake_up(self, result: outcome.Outcome[BaseException | None]) -> None:
        self._token.run_sync_soon(self._go_on, result)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    # In the thread of Trio.

    def _go_on(self, result: outcome.Outcome[BaseException | None]) -> None:
        if self._is_awaited:
            trio.lowlevel.reschedule(self._waiting, result)

    def _abort(self, raise_cancelled: Callable[[], NoReturn]) -> trio.lowlevel.Abort:
        self._raise_cancelled = raise_cancelled
        try:
            self._loop.call_soon_threadsafe(self._cancel)
        except RuntimeError:  # the loop is closed: nothing of the work runs any more, but its end may be on the way
            self._is_awaited = False
            return trio.lowlevel.Abort.SUCCEEDED
        return trio.lowlevel.Abort.FAILED
