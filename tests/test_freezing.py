"""Frozen means frozen: no task under the ice takes a step, and at the thaw each sees what came for it meanwhile."""

from __future__ import annotations

import inspect
import signal
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from scripted import virtually

from tickrunner_trio.testing._freezing import Freezer, Ice, _held_back

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

belongs: ContextVar[Ice | None] = ContextVar("belongs", default=None)


def under_ice(main: Callable[[Ice, trio.Nursery], Awaitable[Any]]) -> Any:
    """Run ``main`` with an ice, and a nursery whose tasks are under it; ``main`` itself is not."""

    async def outer() -> Any:
        ice = Ice()
        freezer = Freezer(lambda task: task.context.get(belongs))
        trio.lowlevel.add_instrument(freezer)
        try:
            async with trio.open_nursery() as nursery:
                token = belongs.set(ice)
                try:
                    return await main(ice, nursery)
                finally:
                    belongs.reset(token)
        finally:
            trio.lowlevel.remove_instrument(freezer)

    return virtually(outer)


async def until(at: float) -> None:
    await trio.sleep_until(at)


def test_what_is_due_while_it_is_frozen_happens_at_the_thaw_and_at_once() -> None:
    seen: list[tuple[str, float]] = []

    async def sleeper(name: str, seconds: float) -> None:
        await trio.sleep(seconds)
        seen.append((name, trio.current_time()))

    async def main(ice: Ice, nursery: trio.Nursery) -> None:
        for name, seconds in (("before", 5), ("meanwhile", 15), ("after", 40)):
            nursery.start_soon(sleeper, name, seconds)
        await until(10)
        ice.freeze()
        await until(30)
        assert seen == [("before", 5)]
        ice.thaw()

    under_ice(main)
    assert seen == [("before", 5), ("meanwhile", 30), ("after", 40)]


def test_tasks_that_the_work_spawns_anywhere_below_freeze_too() -> None:
    steps: list[float] = []

    async def ticking() -> None:
        while True:
            await trio.sleep(1)
            steps.append(trio.current_time())

    async def child(*, task_status: trio.TaskStatus[str]) -> None:
        await trio.sleep(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ticking)
            await trio.sleep(1)
            task_status.started("up")

    async def work() -> None:
        async with trio.open_nursery() as nursery:
            assert await nursery.start(child) == "up"
            nursery.start_soon(ticking)

    async def main(ice: Ice, nursery: trio.Nursery) -> None:
        nursery.start_soon(work)
        await until(4.5)
        seen = len(steps)
        assert seen > 0
        ice.freeze()
        await until(20)
        assert len(steps) == seen
        ice.thaw()
        await until(25)
        assert min(steps[seen:]) == 20
        nursery.cancel_scope.cancel()

    under_ice(main)


def test_a_task_that_is_born_under_ice_does_not_begin() -> None:
    began: list[float] = []

    async def work() -> None:
        began.append(trio.current_time())

    async def main(ice: Ice, nursery: trio.Nursery) -> None:
        ice.freeze()
        nursery.start_soon(work)
        await until(7)
        ice.thaw()

    under_ice(main)
    assert began == [7]


def test_nothing_runs_while_one_of_two_layers_is_left() -> None:
    woke: list[float] = []

    async def work() -> None:
        await trio.sleep(1)
        woke.append(trio.current_time())

    async def main(ice: Ice, nursery: trio.Nursery) -> None:
        nursery.start_soon(work)
        await trio.testing.wait_all_tasks_blocked()
        ice.freeze()
        ice.freeze()
        await until(5)
        ice.thaw()
        await until(9)
        assert woke == []
        ice.thaw()

    under_ice(main)
    assert woke == [9]


def test_a_task_that_is_frozen_again_before_its_turn_waits_again() -> None:
    woke: list[float] = []

    async def work() -> None:
        await trio.sleep(1)
        woke.append(trio.current_time())

    async def main(ice: Ice, nursery: trio.Nursery) -> None:
        nursery.start_soon(work)
        await trio.testing.wait_all_tasks_blocked()
        ice.freeze()
        await until(5)
        ice.thaw()
        ice.freeze()
        ice.freeze()
        await until(9)
        assert woke == []
        ice.melt()

    under_ice(main)
    assert woke == [9]


def test_a_cancellation_is_delivered_at_the_thaw_and_its_cleanup_runs_then() -> None:
    cleaned: list[float] = []

    async def work(scope: trio.CancelScope) -> None:
        with scope:
            try:
                await trio.sleep_forever()
            finally:
                cleaned.append(trio.current_time())
        assert scope.cancelled_caught

    async def main(ice: Ice, nursery: trio.Nursery) -> None:
        scope = trio.CancelScope()
        nursery.start_soon(work, scope)
        await until(1)
        ice.freeze()
        scope.cancel()
        await until(6)
        assert cleaned == []
        ice.thaw()

    under_ice(main)
    assert cleaned == [6]


def test_a_wait_for_the_thaw_cannot_be_cancelled() -> None:
    ended: list[float] = []

    async def work() -> None:
        try:
            await trio.sleep(1)
        finally:
            ended.append(trio.current_time())

    async def main(ice: Ice, nursery: trio.Nursery) -> None:
        nursery.start_soon(work)
        await trio.testing.wait_all_tasks_blocked()
        ice.freeze()
        await until(2)  # it is due now, and waits for the thaw
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await until(6)
            assert ended == []
            ice.thaw()

    under_ice(main)
    assert ended == [6]


def test_a_value_on_its_way_arrives_once() -> None:
    got: list[int] = []

    async def receive(channel: trio.MemoryReceiveChannel[int]) -> None:
        async for value in channel:
            got.append(value)  # noqa: PERF401 - one by one is the point

    async def main(ice: Ice, nursery: trio.Nursery) -> None:
        send, receiving = trio.open_memory_channel[int](10)
        nursery.start_soon(receive, receiving)
        await trio.testing.wait_all_tasks_blocked()
        ice.freeze()
        with send:
            for value in range(3):
                await send.send(value)
        await until(4)
        assert got == []
        ice.thaw()

    under_ice(main)
    assert got == [0, 1, 2]


def test_errors_and_results_pass_as_they_are() -> None:
    async def fails() -> None:
        await trio.sleep(1)
        raise KeyError("this")

    async def work() -> None:
        with pytest.raises(KeyError, match="this"):
            await fails()
        raise ValueError("that")

    async def main(ice: Ice, nursery: trio.Nursery) -> None:
        nursery.start_soon(work)
        await until(0.5)
        ice.freeze()
        await until(3)
        ice.thaw()

    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="that")):
        under_ice(main)


def test_context_variables_are_the_tasks_own() -> None:
    colour: ContextVar[str] = ContextVar("colour", default="none")
    seen: list[str] = []

    async def work(mine: str) -> None:
        colour.set(mine)
        await trio.sleep(2)
        seen.append(colour.get())

    async def main(ice: Ice, nursery: trio.Nursery) -> None:
        nursery.start_soon(work, "red")
        nursery.start_soon(work, "blue")
        await until(1)
        ice.freeze()
        await until(3)
        ice.thaw()
        await until(4)
        assert colour.get() == "none"

    under_ice(main)
    assert sorted(seen) == ["blue", "red"]


def test_what_trio_does_not_know_is_refused_as_ever() -> None:
    class Foreign:
        def __await__(self) -> Any:
            yield "from another framework"

    async def work() -> None:
        with pytest.raises(TypeError, match="unrecognized yield message"):
            await Foreign()

    async def main(_ice: Ice, nursery: trio.Nursery) -> None:
        nursery.start_soon(work)

    under_ice(main)


def test_the_task_is_still_a_coroutine_to_those_who_look() -> None:
    async def work(lot: trio.lowlevel.ParkingLot) -> None:
        trio.lowlevel.add_parking_lot_breaker(trio.lowlevel.current_task(), lot)
        await trio.sleep(1)

    async def main(_ice: Ice, nursery: trio.Nursery) -> None:
        lot = trio.lowlevel.ParkingLot()
        nursery.start_soon(work, lot)
        await trio.testing.wait_all_tasks_blocked()
        (task,) = nursery.child_tasks
        assert inspect.getcoroutinestate(task.coro) == inspect.CORO_SUSPENDED
        assert list(task.iter_await_frames())
        with pytest.raises(trio.BrokenResourceError):
            await lot.park()

    under_ice(main)


def test_protection_from_keyboard_interrupts_is_as_without_it() -> None:
    seen: list[bool] = []

    @trio.lowlevel.enable_ki_protection
    async def protected() -> None:
        await trio.sleep(1)
        seen.append(trio.lowlevel.currently_ki_protected())

    async def work() -> None:
        await protected()
        seen.append(trio.lowlevel.currently_ki_protected())
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    async def main(_ice: Ice, nursery: trio.Nursery) -> None:
        nursery.start_soon(work)

    under_ice(main)
    assert seen == [True, False]


def test_a_task_that_is_thrown_away_is_closed_as_ever() -> None:
    closed: list[bool] = []

    class Pause:
        def __await__(self) -> Any:
            yield

    async def work() -> None:
        try:
            await Pause()
        finally:
            closed.append(True)

    inner: Any = work()
    coroutine = _held_back(inner, Ice())
    coroutine.send(None)
    coroutine.close()
    assert closed == [True]


def test_tasks_of_nobody_are_left_alone() -> None:
    woke: list[float] = []

    async def other() -> None:
        await trio.sleep(1)
        woke.append(trio.current_time())

    async def main(ice: Ice, _nursery: trio.Nursery) -> None:
        ice.freeze()
        belongs.set(None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
        ice.thaw()

    under_ice(main)
    assert woke == [1]


@given(
    freezes=st.lists(st.tuples(st.integers(0, 20), st.integers(1, 10)), max_size=4),
    naps=st.lists(st.integers(1, 6), min_size=1, max_size=6),
)
def test_it_steps_only_while_it_is_not_frozen_and_never_later_than_the_thaw(
    freezes: list[tuple[int, int]], naps: list[int]
) -> None:
    steps: list[float] = []
    spans = [(float(at), float(at + seconds)) for at, seconds in freezes]

    async def work() -> None:
        for nap in naps:
            await trio.sleep(nap + 1 / 16)
            steps.append(trio.current_time())

    async def main(ice: Ice, nursery: trio.Nursery) -> None:
        nursery.start_soon(work)
        for at, do in sorted(
            [(at, ice.freeze) for at, _ in spans] + [(until, ice.thaw) for _, until in spans], key=lambda pair: pair[0]
        ):
            await until(at)
            do()

    under_ice(main)
    expected, now = [], 0.0
    for nap in naps:
        now += nap + 1 / 16  # never at a moment in which a freeze begins
        while holding := [end for begin, end in spans if begin <= now < end]:
            now = max(holding)
        expected.append(now)
    assert steps == expected
