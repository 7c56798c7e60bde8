"""The forced ticks of a service, on their way from the callers' tasks to the task of `Service.run`, and the answers.

::

    have_served():  WAITING ----- take() -----> SERVED -----> answered: the caller goes on with the report
                       |                          |              ^
                       | the caller is cancelled: | its scope is cancelled, and its caller waits on
                       v                          '--------------|
                    (gone)         drop() -----------------------'

Invariants:

1. Each caller gets one answer, or its own cancellation; it waits for none that nobody will give.
2. At each moment a request that is neither answered nor gone is where `drop` or `answer` finds it, also when a Ctrl-C
   comes between two lines, or a signal handler that drains.

It must not know how a tick is executed, nor when the service gets around to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._attempt import Attempt


class Request:
    """An attempt that somebody else's task executes; it is answered exactly once, by its report."""

    __slots__ = ("answered", "attempt", "scope")

    def __init__(self, attempt: Attempt, scope: trio.CancelScope) -> None:
        self.attempt = attempt
        self.scope = scope  #: Around the execution; the caller cancels it when it is cancelled itself.
        self.answered = trio.Event()

    def answer(self) -> None:
        """Let the caller go on; if the attempt was never judged, with the report that it was dropped."""
        try:
            if self.attempt.outcome is None:
                self.attempt.report_dropped()
        finally:
            self.answered.set()


class ForcedTicks:
    """The requests of one service, first come, first served."""

    __slots__ = ("_served", "waiting")

    def __init__(self) -> None:
        self.waiting: list[Request] = []  #: Few at a time. To be looked at: each tick asks whether there are any.
        self._served: Request | None = None

    async def have_served(self, request: Request, wake: Callable[[], object]) -> None:
        """Hand a request to the task of `Service.run`, which ``wake`` wakes, and wait for its answer.

        Cancellation handling: the tick is cancelled with its caller, which waits until the work has stopped.
        """
        self.waiting.append(request)
        wake()
        try:
            await request.answered.wait()
        finally:
            if request in self.waiting:
                self.waiting.remove(request)
            elif not request.answered.is_set():
                request.scope.cancel()
                # As long as the tick's own work takes to stop: the same as when the caller had run it itself.
                with trio.CancelScope(shield=True):
                    await request.answered.wait()

    def take(self) -> Request:
        """Return the first that waits, to be executed now; then `answer` is called, whatever came of it."""
        request = self._served = self.waiting[0]
        self.waiting = self.waiting[1:]
        return request

    def answer(self) -> None:
        """Answer the one that was taken, if there is one."""
        if self._served is not None:
            self._served.answer()
            self._served = None

    def drop(self) -> None:
        """Answer all that wait: they are not executed any more."""
        for request in self.waiting:
            request.answer()
        self.waiting = []
