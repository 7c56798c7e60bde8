"""The way into Trio's loop: what comes back over it, also when there is nobody at the other end any more."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import trio

from tickrunner_trio.admin._crossing import NotRunningError, _current_token, begun_in_trio, result_of

if TYPE_CHECKING:
    from concurrent.futures import Future


def here() -> Any:
    """What has the token of this Trio run, as a supervisor that is run has."""
    return SimpleNamespace(trio_token=trio.lowlevel.current_trio_token())


def test_out_of_trio_there_is_no_token() -> None:
    assert _current_token() is None


async def test_what_the_function_raises_comes_back_and_does_not_end_the_other_loop() -> None:
    async def interrupted() -> None:
        await trio.lowlevel.checkpoint()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await result_of(begun_in_trio(here(), interrupted))


def test_the_end_of_the_other_loop_is_told() -> None:
    begun: list[Future[None]] = []

    async def trio_main() -> None:
        at_work = trio.Event()

        async def endless() -> None:
            at_work.set()
            await trio.sleep_forever()

        begun.append(begun_in_trio(here(), endless))
        await at_work.wait()

    trio.run(trio_main)
    with pytest.raises(NotRunningError):
        anyio.run(result_of, begun[0], backend="asyncio")


@pytest.mark.parametrize("moment", ["before it runs", "while it ends", "after it has ended"])
def test_a_loop_that_takes_nothing_is_told(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    supervisors: list[Any] = [SimpleNamespace(trio_token=None)]

    async def trio_main() -> None:
        supervisors.append(here())
        if moment == "while it ends":
            monkeypatch.setattr(trio.lowlevel, "spawn_system_task", refuse)
            with pytest.raises(NotRunningError):
                await result_of(begun_in_trio(supervisors[1], trio.sleep, 0))

    def refuse(*args: object) -> None:
        raise RuntimeError("Nursery is closed to new arrivals")

    trio.run(trio_main)
    supervisor = supervisors[0 if moment == "before it runs" else 1]
    with pytest.raises(NotRunningError):
        anyio.run(result_of, begun_in_trio(supervisor, trio.sleep, 0), backend="asyncio")


def test_a_caller_whose_loop_has_ended_is_not_told() -> None:
    """Nothing is raised into the loop that answers, nor logged there."""
    begun: list[Future[str]] = []

    async def answer() -> str:
        await finish.wait()
        return "answer"

    async def leave() -> None:
        with anyio.move_on_after(0.01):
            await result_of(begun[0])

    async def trio_main() -> None:
        begun.append(begun_in_trio(here(), answer))
        await trio.to_thread.run_sync(lambda: anyio.run(leave, backend="asyncio"))
        finish.set()
        assert await result_of(begun[0]) == "answer"

    finish = trio.Event()
    trio.run(trio_main)
