"""How a service sleeps: parked, until the one timer of its Trio run wakes whoever is due.

::

    Alarm.sleep_until(t):  park the task, put t into --> the queue of the run <--- sleeps until the earliest: the timer
    the timer, at t; or `wake`; or a cancellation  ---> the task goes on                 (a system task, one per run)

A deadline of Trio's own costs a cancel scope per sleep, and at its end an exception that is raised and caught: with
10,000 services at one tick per second that took 26 % of a processor, this takes 11 % (``nox -s bench -- --only
lateness``).

Invariants:

1. A sleeper goes on at its time or later, or earlier by `wake` or a cancellation, and each time for one reason only.
2. Of each alarm one entry of the queue counts, that at ``queued_at``, which is never later than its deadline. What else
   is there is left from a sleep that ended early, and is swept out before it is half of the queue.
3. The timer's own deadline is never later than the earliest entry.
"""

from __future__ import annotations

import math

import trio

from ._due_queue import DueQueue

#: So many the timer wakes at a time, before it lets others run: at most twice as many are awake then and have not run.
#: Each of them is an object more for the garbage collector to count. Where 700 were late together, it began to look at
#: the 200,000 young objects of 10,000 services for 50 ms, so that more were late together.
_HANDFUL = 128

#: A queue of fewer entries is not worth sweeping.
_FEW = 64


class Alarm:
    """One sleeper at a time. Made for one Trio run."""

    __slots__ = ("_task", "_timer", "deadline", "queued_at")

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None
        self._timer: _Timer | None = None
        self.deadline = math.inf  #: Of the present or the last sleep, on Trio's clock.
        self.queued_at = math.inf  #: The time of the entry that counts.

    @property
    def is_asleep(self) -> bool:
        """Whether somebody sleeps."""
        return self._task is not None

    @trio.lowlevel.enable_ki_protection  # a Ctrl-C between the last two lines would leave a task that does not sleep
    async def sleep_until(self, deadline: float) -> None:
        """Sleep until that time on Trio's clock, or until `wake`. Always a checkpoint."""
        timer = self._timer = self._timer or _timer_of_this_run()
        self.deadline = deadline
        if deadline < self.queued_at:
            timer.queue(self, deadline)
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    @trio.lowlevel.enable_ki_protection  # and here, a task that nobody would wake
    def wake(self) -> None:
        """Let the sleeper go on; nobody sleeps: nothing happens. In Trio's thread."""
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    def _abort(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


class _Timer:
    """The queue and the task that sleeps until its first entry."""

    def __init__(self) -> None:
        self._queue: DueQueue[Alarm] = DueQueue()
        self._sweep_at = _FEW
        self._sleep = trio.CancelScope()
        self._sleeps_until = math.inf

    def queue(self, alarm: Alarm, at: float) -> None:
        """Wake the alarm's sleeper at that time."""
        if self._queue.size >= self._sweep_at:
            self._queue.keep(_counts)
            self._sweep_at = max(_FEW, 2 * self._queue.size)
        alarm.queued_at = at
        self._queue.put(at, alarm)
        if at < self._sleeps_until:  # to set a deadline takes ten times as long as this
            self._sleeps_until = self._sleep.deadline = at

    async def run(self) -> None:
        """Be the timer, until the Trio run ends."""
        while True:
            with self._sleep:
                await trio.sleep_forever()
            self._sleeps_until = -math.inf
            while self._wake_some(trio.current_time()):
                await trio.lowlevel.cancel_shielded_checkpoint()
            self._sleeps_until = self._queue.first_at()
            self._sleep = trio.CancelScope(deadline=self._sleeps_until)

    def _wake_some(self, now: float) -> bool:
        """Wake a handful of those that are due; return whether there may be more."""
        due = self._queue.take_due(now, _HANDFUL)
        for at, _, alarm in due:
            if at != alarm.queued_at:
                continue
            alarm.queued_at = math.inf
            if alarm.deadline <= now:
                alarm.wake()
            elif alarm.is_asleep:  # for the second time since the entry was made
                self.queue(alarm, alarm.deadline)
        return len(due) == _HANDFUL


def _counts(at: float, alarm: Alarm) -> bool:
    """Whether the entry is needed; if it was the one that counts, its alarm has none any more."""
    if at != alarm.queued_at:
        return False
    if not alarm.is_asleep:
        alarm.queued_at = math.inf
    return alarm.is_asleep


_timers: trio.lowlevel.RunVar[_Timer] = trio.lowlevel.RunVar("tickrunner_trio.timer")


def _timer_of_this_run() -> _Timer:
    try:
        return _timers.get()
    except LookupError:
        timer = _Timer()
        _timers.set(timer)
        trio.lowlevel.spawn_system_task(timer.run, name="tickrunner_trio.timer")
        return timer
