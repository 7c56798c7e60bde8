"""Bare Trio tasks that are parked, and one timer that wakes those that are due: Trio keeps one deadline, not 10,000.

The timer is Trio's own, which counts whole milliseconds because epoll does, or the kernel's timerfd, which counts
nanoseconds and makes a file descriptor readable.
"""

from __future__ import annotations

import ctypes
import heapq
import itertools
import os
from typing import TYPE_CHECKING

import trio
import trio.testing

from ..lateness import INTERVAL, Watch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    WaitUntil = Callable[[float], Awaitable[None]]

_CLOCK_MONOTONIC = 1
_TFD_NONBLOCK = 0o4000


class _Seconds(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Alarm(ctypes.Structure):
    _fields_ = (("interval", _Seconds), ("value", _Seconds))


class KernelTimer:
    """A timerfd that Trio waits for. By ctypes, because Python has it from 3.13 on only."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")

    async def wait_until(self, deadline: float) -> None:
        """Sleep until that time of Trio's clock."""
        seconds = max(1e-9, deadline - trio.current_time())
        whole = int(seconds)
        alarm = _Alarm(_Seconds(0, 0), _Seconds(whole, int((seconds - whole) * 1e9) or 1))
        if self._libc.timerfd_settime(self._descriptor, 0, ctypes.byref(alarm), None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")
        await trio.lowlevel.wait_readable(self._descriptor)
        os.read(self._descriptor, 8)

    def close(self) -> None:
        """Close its file descriptor."""
        os.close(self._descriptor)


class Parking:
    """Tasks by when they are due."""

    def __init__(self, wait_until: WaitUntil) -> None:
        self._wait_until = wait_until
        self._parked: list[tuple[float, int, trio.lowlevel.Task]] = []
        self._order = itertools.count()

    async def sleep_until(self, deadline: float) -> None:
        """Park the calling task. There is no cancelling one alone."""
        heapq.heappush(self._parked, (deadline, next(self._order), trio.lowlevel.current_task()))
        await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.SUCCEEDED)

    async def wake(self) -> None:
        """Wake all tasks when they are due; each is parked again in the meantime, for later than all that sleep."""
        parked = self._parked
        while True:
            await self._wait_until(parked[0][0])
            now = trio.current_time()
            while parked and parked[0][0] <= now:
                trio.lowlevel.reschedule(heapq.heappop(parked)[2])
            while not parked:  # all were due at once, and have yet to park again
                await trio.lowlevel.checkpoint()


def lateness(services: int, lead: float, seconds: int, *, timerfd: bool = False) -> dict[str, float]:
    """Measure services that are due once a second."""

    async def main() -> dict[str, float]:
        watch = Watch(services, lead, trio.current_time)
        kernel_timer = KernelTimer() if timerfd else None
        parking = Parking(kernel_timer.wait_until if kernel_timer else trio.sleep_until)

        async def loop(slot: float) -> None:
            due = slot
            while True:
                await parking.sleep_until(due)
                watch.ran(slot)
                due += INTERVAL

        async with trio.open_nursery() as nursery:
            for slot in watch.slots:
                nursery.start_soon(loop, slot)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(parking.wake)
            figures = await watch.look(trio.sleep, seconds)
            nursery.cancel_scope.cancel()
        if kernel_timer:
            kernel_timer.close()
        return figures

    return trio.run(main)
