"""Freeze all tasks of a simulated process, as SIGSTOP does, while the rest of the Trio run and its clock go on.

Trio cannot pause a task. So each task that belongs to a process is driven by hand: at its birth, an instrument puts a
coroutine around the task's own, which passes every resumption on, but first waits as long as the process is frozen::

    Trio --send()--> _driven() --(frozen? wait for the thaw)--> the task's own coroutine

A task belongs to the process that it finds in a context variable, which each task inherits from the one that spawned
it; so the tasks that the work spawns in nurseries of its own freeze as well. What Trio does for a task, it does while
the task is frozen too: deadlines pass, cancellations are set on their way, values arrive. The task sees them all at the
thaw.

Not frozen: system tasks, which belong to nobody, and threads.

Invariants:

1. A frozen task takes no step: no code of it runs between `Ice.freeze` and the last `Ice.thaw`.
2. What woke a task while it was frozen, a value or an error, is what it sees at the thaw; nothing is lost or doubled.
3. A wait for the thaw cannot be cancelled: a cancelled process is frozen all the same.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any, cast

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import CoroutineType


class Ice:
    """Whether a process is frozen, and which of its tasks wait for the thaw."""

    __slots__ = ("_layers", "_waiting")

    def __init__(self) -> None:
        self._layers = 0
        self._waiting: list[trio.lowlevel.Task] = []

    @property
    def is_frozen(self) -> bool:
        """Whether no task of the process takes a step."""
        return self._layers > 0

    def freeze(self) -> None:
        """Let no task take a step from now on. Each call needs a `thaw` of its own."""
        self._layers += 1

    def thaw(self) -> None:
        """Take back one `freeze`; with the last one, the tasks that are due go on."""
        self._layers -= 1
        if self._layers == 0:
            waiting, self._waiting = self._waiting, []
            for task in waiting:
                trio.lowlevel.reschedule(task)

    def melt(self) -> None:
        """Take back all of them."""
        self._layers = min(self._layers, 1)
        if self._layers:
            self.thaw()

    async def wait_thawed(self) -> None:
        """Wait while the process is frozen; a checkpoint only then."""
        # Frozen again before the task had its turn: it waits again.
        while self._layers > 0:
            self._waiting.append(trio.lowlevel.current_task())
            await trio.lowlevel.wait_task_rescheduled(_refuse_to_abort)


class Freezer(trio.abc.Instrument):
    """The instrument: puts each task that belongs to somebody under that one's ice.

    Args:
        ice_of: returns the ice of a newly spawned task, or None.
    """

    def __init__(self, ice_of: Callable[[trio.lowlevel.Task], Ice | None]) -> None:
        self._ice_of = ice_of

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        # Trio schedules the task after this, by looking at `task.coro`: so it was in Trio 0.27, and is in 0.35.
        ice = self._ice_of(task)
        if ice is not None:
            task.coro = cast("CoroutineType[Any, Any, Any]", _held_back(task.coro, ice))


async def _held_back(inner: CoroutineType[Any, Any, Any], ice: Ice) -> object:
    # Trio and `inspect` want a coroutine, with a frame; only a generator can drive another coroutine by hand.
    return await _driven(inner, ice)


@types.coroutine
def _driven(inner: CoroutineType[Any, Any, Any], ice: Ice) -> Generator[Any, Any, object]:
    resume: Callable[[Any], Any] = inner.send
    value: Any = None
    try:
        while True:
            if ice.is_frozen:
                yield from ice.wait_thawed().__await__()
            try:
                message = resume(value)
            except StopIteration as stop:
                return stop.value
            try:
                value = yield message
                resume = inner.send
            except GeneratorExit:
                raise
            # Trio throws only what it has to say of a message that it does not know; all else is a value to it.
            except BaseException as error:  # noqa: ASYNC103 - handed on to the task, which raises it or not
                value, resume = error, inner.throw
    finally:
        inner.close()


def _refuse_to_abort(_raise_cancel: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED
