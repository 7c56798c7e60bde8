"""A plain function as work, in a worker thread: nobody can stop a thread, so what is promised is to wait for it.

::

    the Trio task of the tick         the worker thread
    -------------------------         -----------------
    hands the tick over ------------> function(tick)
    is cancelled ...................> check_cancelled() raises, at the next call of the function's own
      |  after a second: WARNING
    has the thread's end <----------- returns, or raises
    says how long that took
    is judged, lets the lock go

The task never leaves before the thread. A vigil beside it notes when the cancellation came: the call into the thread,
which does not end by one, cannot tell.
"""

from __future__ import annotations

import logging
import math
from functools import partial
from typing import TYPE_CHECKING

import outcome
import trio

from ._audit import log_safely
from ._callables import check_takes, is_async_callable, yields
from ._foreign import Foreign, beside, refuse_work
from ._telemetry._events import thread_stopped

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ._outcome import Tick

#: What the note on an error begins with.
_STOPPED = "the thread of the work stopped"

#: Seconds from the cancellation after which a thread that has not stopped is worth a warning.
PATIENCE = 1.0


def thread_work(
    fn: Callable[[Tick], object], *, limiter: trio.CapacityLimiter | None = None
) -> Callable[[Tick], Awaitable[None]]:
    """Let a plain function be the work of a service, in a worker thread.

    The Trio loop goes on meanwhile. `tickrunner_trio.request_id` and the current span are there in the thread; what the
    function raises comes back as it is; what it returns is dropped.

    **Cancellation is cooperative.** A timeout, a lost lock, a cancelled service reach the function only where it asks:
    ``trio.from_thread.check_cancelled()`` raises `trio.Cancelled` then, and so do ``trio.from_thread.run`` and
    ``run_sync``. Let it through; clean-up belongs into ``finally``. **The lock is not let go before the thread has
    stopped**, however long that takes: a function that never asks keeps its lock, and a shutdown, until it is done.
    What may block for long needs a bound of its own, such as the timeout of a socket or the ``statement_timeout`` of a
    database. A function that does not stop within a third of the lease may overlap with a rival's when its lock is
    lost.

    How long it took is told, in seconds: `tickrunner_trio.TickReport.duration` ends when the thread has stopped; a note
    on the report's error (``__notes__``) says how much of that came after the cancellation; and so do a log record of
    the tick's logger (INFO, with the attribute ``stopped_after``) and the event ``tickrunner.thread.stopped`` on the
    tick's span. A thread that has not stopped after one second is a WARNING at once.

    Args:
        fn: ``def fn(tick)``; a partial, a method or a callable object too.
        limiter: bounds how many threads run at once, if several services are to share that bound. None: one of its own
            for one thread, which is what one service needs, and takes none of the 40 of Trio's default.

    Returns:
        An async function for ``Config(work=...)``. One Trio run at a time may use it.

    Raises:
        TypeError: ``fn`` is no plain function of one argument, or is work already, or ``limiter`` no
            `trio.CapacityLimiter`.

    Cancellation handling: as above. Cancelled while it waits for the limiter, it starts no thread.

    Example::

        def compact(tick: Tick) -> None:
            for path in sorted(Path("segments").iterdir()):
                trio.from_thread.check_cancelled()
                rewrite(path)

        Config(name="compact", interval=300, locker=locker, work=thread_work(compact))
    """
    refuse_work(fn)
    if is_async_callable(fn):
        raise TypeError(
            f"fn must be a plain function, got the async {fn!r}: "
            "give it to Config as it is, or to asyncio_work if it is written for asyncio"
        )
    if yields(fn) or not callable(fn):
        raise TypeError(
            f"fn must be a plain function of one argument, the Tick, got {fn!r}: write 'def work(tick): ...'"
        )
    check_takes("fn", fn, "tick")
    if limiter is not None and not isinstance(limiter, trio.CapacityLimiter):
        raise TypeError(f"limiter must be a trio.CapacityLimiter, got {limiter!r}: make one, or leave it out")
    return _ThreadWork(fn, limiter or trio.CapacityLimiter(1))


class _ThreadWork(Foreign["Callable[[Tick], object]"]):
    def __init__(self, function: Callable[[Tick], object], limiter: trio.CapacityLimiter) -> None:
        super().__init__("thread_work", function)
        self._limiter = limiter

    async def __call__(self, tick: Tick) -> None:
        vigil = _Vigil(tick)
        result = await beside(vigil.keep, vigil.end, partial(self._in_thread, tick, vigil))
        vigil.tell_after(result)
        result.unwrap()

    async def _in_thread(self, tick: Tick, vigil: _Vigil) -> object:
        def run() -> object:
            vigil.thread_has_begun = True
            return self._function(tick)

        name = f"{tick.service}: {self.__name__}"
        return await trio.to_thread.run_sync(run, abandon_on_cancel=False, limiter=self._limiter, thread_name=name)


class _Vigil:
    """Notes when the cancellation comes, and warns if the thread then goes on."""

    def __init__(self, tick: Tick) -> None:
        self.thread_has_begun = False
        self._tick = tick
        self._thread_has_stopped = trio.Event()
        self._cancelled_at = math.inf

    async def keep(self) -> None:
        try:
            await self._thread_has_stopped.wait()
        except trio.Cancelled:  # noqa: ASYNC103 - what the thread does decides what is raised
            self._cancelled_at = trio.current_time()
            with trio.move_on_after(PATIENCE, shield=True):
                await self._thread_has_stopped.wait()
            if not self._thread_has_stopped.is_set():
                self._warn()

    def end(self) -> None:
        """Let `keep` return: the thread has stopped, or never began."""
        self._thread_has_stopped.set()

    def tell_after(self, result: outcome.Outcome[object]) -> None:
        """Say how long the thread took to stop, if it was cancelled."""
        seconds = trio.current_time() - self._cancelled_at
        if seconds < 0 or not self.thread_has_begun:
            return
        said = f"{_STOPPED} %.3f s after its cancellation"
        log_safely(self._tick.log, logging.INFO, said, seconds, extra={"stopped_after": seconds})
        thread_stopped(seconds)
        if isinstance(result, outcome.Error):
            _note_once(result.error, said % seconds)

    def _warn(self) -> None:
        log_safely(
            self._tick.log,
            logging.WARNING,
            "the thread of the work has not stopped %g s after its cancellation, and keeps the lock until it does: "
            "let the function call trio.from_thread.check_cancelled() more often",
            PATIENCE,
        )


def _note_once(error: BaseException, note: str) -> None:
    """Add the note in the place of an earlier tick's: a function may raise the same object again and again."""
    notes = getattr(error, "__notes__", [])
    notes[:] = [each for each in notes if not str(each).startswith(_STOPPED)]
    error.add_note(note)
