"""Work, gates and hooks as values: they do as they say, and say what they do."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
import trio

from tickrunner_trio import Config, MemoryLocker, Tick
from tickrunner_trio.testing import ScriptedGate, ScriptedHook, ScriptedWork

TICK: Any = Tick.__new__(Tick)  # nobody looks at it


async def test_work_takes_its_time_and_returns(autojump_clock: trio.testing.MockClock) -> None:
    await ScriptedWork(seconds=5)(TICK)
    assert trio.current_time() == 5


async def test_work_takes_its_time_and_raises(autojump_clock: trio.testing.MockClock) -> None:
    error = OSError("disk full")
    with pytest.raises(OSError, match="disk full") as failure:
        await ScriptedWork(seconds=5, error=error)(TICK)
    assert failure.value is error
    assert trio.current_time() == 5


async def test_work_that_takes_no_time_can_be_cancelled() -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await ScriptedWork(error=OSError("not reached"))(TICK)
    assert scope.cancelled_caught


async def test_an_error_that_is_raised_again_and_again_does_not_grow() -> None:
    work, depths = ScriptedWork(error=OSError()), []
    for _ in range(3):
        with pytest.raises(OSError) as failure:  # noqa: PT011 - whichever
            await work(TICK)
        depths.append(len(traceback.extract_tb(failure.value.__traceback__)))
    assert len(set(depths)) == 1


@pytest.mark.parametrize("answer", [True, False])
def test_a_gate_answers(answer: bool) -> None:
    assert ScriptedGate(answer=answer)() is answer


def test_a_gate_or_a_hook_may_raise() -> None:
    with pytest.raises(OSError, match="disk full"):
        ScriptedGate(error=OSError("disk full"))()
    with pytest.raises(OSError, match="disk full"):
        ScriptedHook(error=OSError("disk full"))(ValueError())


def test_a_hook_takes_no_notice() -> None:
    ScriptedHook()(ValueError())


@pytest.mark.parametrize("value", [ScriptedWork(seconds=2.5), ScriptedGate(answer=False), ScriptedHook()])
def test_they_print_as_what_makes_their_equal(value: object) -> None:
    assert eval(repr(value)) == value


def test_they_have_the_colours_that_a_config_asks_for() -> None:
    work, gate, hook = ScriptedWork(), ScriptedGate(), ScriptedHook()
    common: dict[str, Any] = {"name": "sweep", "interval": 1, "locker": MemoryLocker()}
    config = Config(**common, work=work, startup=work, should_run=gate, on_error=hook)
    assert (config.work, config.startup, config.should_run, config.on_error) == (work, work, gate, hook)
