"""Who calls from outside of Trio is told so, and how to get there; and nothing has happened then."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from scripted import service, virtually

from tickrunner_trio import Outcome, PostgresLocker, Service, Supervisor, Tick

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def nothing(tick: Tick) -> None:
    """Work that is done at once."""


def run_in_asyncio(awaited: Any) -> None:
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:  # trio-asyncio's policy would run Trio
        runner.run(awaited)


async def entered(locker: PostgresLocker) -> None:
    async with locker:
        raise AssertionError("it was entered")


@pytest.mark.parametrize(
    ("what", "awaited"),
    [
        ("Service.run", lambda: service(nothing).run()),
        ("Service.tick", lambda: service(nothing).tick()),
        ("Service.tick", lambda: Supervisor([service(nothing)]).tick("sweep")),
        ("Supervisor.run", lambda: Supervisor([service(nothing)]).run()),
        ("'async with PostgresLocker(...)'", lambda: entered(PostgresLocker("host=db"))),
    ],
)
def test_under_asyncio_the_error_names_trio_and_says_how_to_begin(what: str, awaited: Callable[[], Any]) -> None:
    with pytest.raises(RuntimeError, match=rf"^{re.escape(what)} must be awaited in Trio, .*trio\.run\(main\)"):
        run_in_asyncio(awaited())


def test_what_was_refused_under_asyncio_runs_in_trio_afterwards() -> None:
    subject = Supervisor([service(nothing)])
    with pytest.raises(RuntimeError, match="must be awaited in Trio"):
        run_in_asyncio(subject.run())
    assert subject.state == "idle"
    assert virtually(subject.tick, "sweep").outcome is Outcome.SUCCESS


async def elsewhere(call: Callable[[], object]) -> str:
    """Call it in another thread, as an application without Trio would, and return what it is told."""
    with pytest.raises(RuntimeError) as caught:
        await trio.to_thread.run_sync(call)
    return str(caught.value)


async def while_it_runs(subject: Service | Supervisor, check: Callable[[], Awaitable[None]]) -> None:
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(subject.run)
            await trio.testing.wait_all_tasks_blocked()
            await check()


async def test_a_drain_from_another_thread_is_refused_and_a_later_one_in_trio_drains() -> None:
    supervisor = Supervisor([service(nothing, interval=3600)])

    async def check() -> None:
        assert await elsewhere(supervisor.drain) == (
            "drain() of the supervisor must be called in the Trio run that runs it, and this is another thread or run: "
            "call supervisor.trio_token.run_sync_soon(supervisor.drain)"
        )
        assert supervisor.state == "running"
        assert supervisor.trio_token is not None
        await trio.to_thread.run_sync(supervisor.trio_token.run_sync_soon, supervisor.drain)

    await while_it_runs(supervisor, check)  # which returns when it is drained
    assert supervisor.state == "drained"


async def test_a_service_is_drained_and_ticked_in_its_own_run_only() -> None:
    subject = service(nothing, interval=3600)

    async def check() -> None:
        said = await elsewhere(subject.drain)
        assert said.startswith("drain() of the service 'sweep' must be called in the Trio run that runs it")
        assert said.endswith(": call trio_token.run_sync_soon(service.drain)")
        said = await elsewhere(lambda: trio.run(subject.tick))
        assert said.startswith("tick() of the service 'sweep' must be called in the Trio run that runs it")
        token = trio.lowlevel.current_trio_token()
        report = await trio.to_thread.run_sync(lambda: trio.from_thread.run(subject.tick, trio_token=token))
        assert report.outcome is Outcome.SUCCESS
        subject.drain()

    await while_it_runs(subject, check)


async def test_a_drain_that_one_service_refuses_can_be_asked_for_again_where_it_runs() -> None:
    alone = service(nothing, interval=3600)
    supervisor = Supervisor([alone])

    async def check() -> None:
        assert "drain() of the service 'sweep' must be called in the Trio run" in await elsewhere(supervisor.drain)
        assert supervisor.state == "idle"
        supervisor.drain()

    await while_it_runs(alone, check)  # which returns when it is drained
    assert supervisor.state == "drained"


def test_what_does_not_run_is_drained_anywhere() -> None:
    subject, supervised = service(nothing), service(nothing)
    supervisor = Supervisor([supervised])
    subject.drain()
    supervisor.drain()
    assert supervisor.state == "drained"
    assert virtually(subject.tick).outcome is virtually(supervised.tick).outcome is Outcome.CANCELLED
