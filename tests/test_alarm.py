"""A service sleeps until its time, until it is woken, or until it is cancelled; one timer serves all of a Trio run."""

from __future__ import annotations

import contextlib
import math
import random
import signal
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from scripted import virtually
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from tickrunner_trio._alarm import Alarm, _timers

if TYPE_CHECKING:
    from collections.abc import Callable

    from tickrunner_trio._due_queue import DueQueue


async def sleeper(alarm: Alarm, *deadlines: float, woken: Callable[[float], Any]) -> None:
    for deadline in deadlines:
        await alarm.sleep_until(deadline)
        woken(trio.current_time())


@pytest.mark.parametrize("deadline", [-1.0, 0.0, 3.0])
def test_it_is_always_a_checkpoint_and_returns_at_its_time(deadline: float) -> None:
    async def main() -> None:
        with assert_checkpoints():
            await Alarm().sleep_until(deadline)
        assert trio.current_time() == max(0.0, deadline)
        with trio.CancelScope() as scope:
            scope.cancel()
            await Alarm().sleep_until(deadline)
        assert scope.cancelled_caught

    virtually(main)


@given(st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=5), min_size=1, max_size=8))
def test_many_sleepers_each_wake_at_their_own_times(times: list[list[int]]) -> None:
    woken: list[list[float]] = [[] for _ in times]

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for deadlines, seen in zip(times, woken, strict=True):
                nursery.start_soon(
                    lambda deadlines, seen: sleeper(Alarm(), *deadlines, woken=seen.append), deadlines, seen
                )

    virtually(main)
    assert woken == [[float(max(each[: index + 1])) for index in range(len(each))] for each in times]


def test_a_sleeper_that_was_woken_twice_before_its_first_time_is_left_alone_at_that_time() -> None:
    alarm, woken = Alarm(), list[float]()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: sleeper(alarm, 10, 20, woken=woken.append))
            for _ in range(2):
                await trio.sleep(1)
                alarm.wake()
            await trio.sleep(10)  # to 12
            assert alarm.queued_at == math.inf

    virtually(main)
    assert woken == [1, 2]


def test_a_sleeper_that_was_woken_early_sleeps_until_its_new_time_and_not_until_the_old_one() -> None:
    alarm = Alarm()
    woken: list[float] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: sleeper(alarm, 5, 20, 12, 13, woken=woken.append))
            await trio.sleep(3)
            alarm.wake()
            await trio.sleep(7)
            assert alarm.is_asleep
            alarm.wake()

    virtually(main)
    assert woken == [3, 10, 12, 13]


def test_wake_lets_one_sleeper_go_on_once_and_without_a_sleeper_does_nothing() -> None:
    alarm = Alarm()
    woken: list[float] = []

    async def main() -> None:
        alarm.wake()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: sleeper(alarm, 5, 9, woken=woken.append))
            await wait_all_tasks_blocked()
            alarm.wake()
            alarm.wake()

    virtually(main)
    assert woken == [0, 9]


@pytest.mark.skipif(sys.platform == "win32", reason="raises a signal in its own process")
def test_a_ctrl_c_that_comes_while_somebody_wakes_a_sleeper_leaves_nobody_asleep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alarm = Alarm()
    woken: list[float] = []
    reschedule = trio.lowlevel.reschedule

    def reschedule_late(task: trio.lowlevel.Task) -> None:
        monkeypatch.setattr(trio.lowlevel, "reschedule", reschedule)
        interrupted.append(True)
        signal.raise_signal(signal.SIGINT)
        reschedule(task)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: sleeper(alarm, 5, woken=woken.append))
            await wait_all_tasks_blocked()
            monkeypatch.setattr(trio.lowlevel, "reschedule", reschedule_late)
            with contextlib.suppress(KeyboardInterrupt):
                alarm.wake()
                await trio.lowlevel.checkpoint()
            await trio.sleep(1)
            nursery.cancel_scope.cancel()

    interrupted: list[bool] = []
    virtually(main)
    assert interrupted
    assert woken == [0]


def test_a_cancelled_sleeper_is_gone_and_waking_it_does_nothing() -> None:
    alarm = Alarm()

    async def main() -> None:
        with trio.move_on_after(2):
            await alarm.sleep_until(5)
        assert not alarm.is_asleep
        alarm.wake()
        await trio.sleep(10)
        await alarm.sleep_until(15)
        assert trio.current_time() == 15

    virtually(main)


def test_alarms_that_sleep_no_more_do_not_pile_up_before_their_time() -> None:
    async def main() -> None:
        for _ in range(1000):
            with trio.move_on_after(1):
                await Alarm().sleep_until(1e9)
        keeper = Alarm()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keeper.sleep_until, 2e9)
            for _ in range(1000):
                with trio.move_on_after(1):
                    await Alarm().sleep_until(1e9)
            assert _timers.get()._queue.size < 200
            await trio.sleep_until(2e9)
            await wait_all_tasks_blocked()
            assert not keeper.is_asleep, "what was swept out still slept"

    virtually(main)


def test_of_many_that_are_due_together_few_at_a_time_are_woken_and_run_before_the_next() -> None:
    """Each of those that are woken is an object more until it runs, and 700 of them begin a garbage collection."""
    alarms = [Alarm() for _ in range(1000)]
    ran: list[tuple[int, int]] = []

    def woken(_now: float) -> None:
        ran.append((len(ran), sum(alarm.is_asleep for alarm in alarms)))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for alarm in alarms:
                nursery.start_soon(lambda alarm: sleeper(alarm, 5, woken=woken), alarm)

    virtually(main)
    assert [before for before, _ in ran] == list(range(1000))
    assert all(before + asleep >= 1000 - 2 * 128 for before, asleep in ran)


def test_each_trio_run_has_a_timer_of_its_own() -> None:
    async def main() -> float:
        await Alarm().sleep_until(7)
        return trio.current_time()

    assert [virtually(main), virtually(main)] == [7, 7]


def entries_of(queue: DueQueue[Alarm]) -> list[tuple[float, Alarm]]:
    return [(at, alarm) for part in (queue._heap, *queue._parts.values()) for at, _, alarm in part]


@dataclass
class Crowd:
    """Sleepers that go on for ever, and see how they wake."""

    chance: random.Random
    alarms: list[Alarm] = field(default_factory=lambda: [Alarm() for _ in range(20)])
    scopes: dict[Alarm, trio.CancelScope] = field(default_factory=dict)
    touched: set[Alarm] = field(default_factory=set)  #: Woken or cancelled.

    async def sleep_on(self, alarm: Alarm) -> None:
        while True:
            deadline = trio.current_time() + self.chance.choice([0, 1, 3, 10, 100])
            self.scopes[alarm] = trio.CancelScope()
            with self.scopes[alarm]:
                await alarm.sleep_until(deadline)
            now = trio.current_time()
            assert now == deadline or (now < deadline and alarm in self.touched), f"woke at {now}, not at {deadline}"
            self.touched.discard(alarm)

    def disturb(self, alarm: Alarm) -> None:
        if alarm.is_asleep:
            self.touched.add(alarm)
            self.chance.choice([alarm.wake, self.scopes[alarm].cancel])()

    def check(self) -> None:
        """Invariants 2 and 3 of the module."""
        timer = _timers.get()
        entries = entries_of(timer._queue)
        assert timer._sleeps_until <= min(at for at, _ in entries)
        asleep = [alarm for alarm in self.alarms if alarm.is_asleep]
        assert asleep
        for alarm in asleep:
            assert (alarm.queued_at, alarm) in entries
            assert alarm.queued_at <= alarm.deadline


@pytest.mark.parametrize("seed", range(3))
def test_nobody_wakes_early_nobody_is_forgotten_whatever_wakes_and_cancels(seed: int) -> None:
    crowd = Crowd(random.Random(seed))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for alarm in crowd.alarms:
                nursery.start_soon(crowd.sleep_on, alarm)
            await wait_all_tasks_blocked()
            for _ in range(400):
                await trio.sleep(crowd.chance.choice([0, 0.5, 2]))
                crowd.disturb(crowd.chance.choice(crowd.alarms))
                crowd.check()
            nursery.cancel_scope.cancel()

    virtually(main)
