"""Questions to the database: asked seldom, and only while somebody looks.

::

    refresh() -> [asked within max_age, or being asked: wait for that at most] -> ask each of them
                                                                                    | answer     | failure, or slow
                                                                                    v            v
                                                                                  known       unknown, for a while

Nothing of this is on the way of a tick: what is asked has a connection of its own for it. It is asked in a Trio task of
its own, one at a time, which readers wait for: a database that hangs costs a reader `PATIENCE` seconds at most, and one
task, however many come and leave. Readers may be in any loop, or in several.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from typing import TYPE_CHECKING, Generic, TypeVar

import anyio
import anyio.lowlevel
import trio

from ._crossing import NotRunningError, begun_in_trio, result_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from concurrent.futures import Future

    from .. import Supervisor

#: Seconds that an answer is good for.
MAX_AGE = 1.0

#: Seconds that a reader waits for it.
PATIENCE = 2.0

#: Seconds before one that could not tell is asked again: an outage is no time for more connections.
AFTER_FAILURE = 5.0

_T = TypeVar("_T")

_log = logging.getLogger("tickrunner_trio.admin")


class Asked(Generic[_T]):
    """One question, and what was said when it was asked last."""

    def __init__(self, question: Callable[[], Awaitable[_T]]) -> None:
        self.answer: _T | None = None  #: None: nobody could tell, or nobody was asked.
        self._question = question
        self._good_until = -math.inf  # on the monotonic clock, which all loops share; so is the next one
        self._asked_at = -math.inf
        self._asking: Future[None] | None = None  # done when it has answered; None: it was never asked

    def forget_if_late(self, asking: Future[None]) -> None:
        """Take an answer for unknown that has not come, or cannot come."""
        if self._asking is asking and (not asking.done() or asking.exception() is not None):
            self.answer = None

    def begun(self, supervisor: Supervisor, max_age: float) -> tuple[Future[None], float] | None:
        """Ask again unless it is being asked; return what to wait for, and until when. None: the answer is good."""
        if self._asking is None or self._asking.done():
            if time.monotonic() < self._good_until - (MAX_AGE - max_age):
                return None
            self._asked_at = time.monotonic()
            self._asking = begun_in_trio(supervisor, self._ask)
        return self._asking, self._asked_at + PATIENCE

    async def _ask(self) -> None:
        found: _T | None = None
        try:
            with trio.move_on_after(PATIENCE):
                found = await self._question()
        except Exception as error:
            _log.debug("the database cannot tell now", exc_info=error)
        self.answer = found
        self._good_until = time.monotonic() + (AFTER_FAILURE if found is None else MAX_AGE)


async def refresh(supervisor: Supervisor, asked: Iterable[Asked[_T]], *, max_age: float = MAX_AGE) -> None:
    """Ask again, unless that is less than ``max_age`` seconds ago or nobody could tell just now.

    Cancellation handling: the questions go on to be answered, for whoever asks next.
    """
    waiting: list[tuple[Asked[_T], Future[None]]] = []
    patience_ends_at = -math.inf
    for each in asked:
        begun = each.begun(supervisor, max_age)
        if begun is not None:
            waiting.append((each, begun[0]))
            patience_ends_at = max(patience_ends_at, begun[1])
    with anyio.move_on_after(max(0.0, patience_ends_at - time.monotonic())):
        await anyio.lowlevel.checkpoint()
        for _, asking in waiting:
            with contextlib.suppress(NotRunningError):
                await result_of(asking)
    for each, asking in waiting:
        each.forget_if_late(asking)
