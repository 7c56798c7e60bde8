"""A forced tick on its way from the caller's task to the task of `Service.run`, and its answer on the way back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from ._attempt import Attempt


class Request:
    """An attempt that somebody else's task executes; it is answered exactly once, by its report."""

    __slots__ = ("answered", "attempt", "scope")

    def __init__(self, attempt: Attempt, scope: trio.CancelScope) -> None:
        self.attempt = attempt
        self.scope = scope  #: Around the execution; the caller cancels it when it is cancelled itself.
        self.answered = trio.Event()

    def answer_dropped(self) -> None:
        """Let the caller go on; if the attempt was never judged, with the report that it was dropped."""
        try:
            if self.attempt.outcome is None:
                self.attempt.report_dropped()
        finally:
            self.answered.set()
