"""The few lines in which tests of services set one up on a `ScriptedLocker` and run it in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio
from trio.testing import MockClock

from tickrunner_trio import Config, Service
from tickrunner_trio.testing import Grant, ScriptedLocker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tickrunner_trio.testing import Step


def always(step: Step) -> ScriptedLocker:
    """A locker that does the same at each attempt. Its first epoch is one that nothing else counts to by chance."""
    return ScriptedLocker(otherwise=step, first_epoch=7)


def names(locker: ScriptedLocker) -> list[str]:
    """What happened, without the times."""
    return [event for event, _ in locker.events]


def service(work: Any, locker: Any = None, *, telemetry: Any = None, **fields: Any) -> Service:
    """A service named "sweep", every 10 seconds, unless told otherwise; ``telemetry`` is for `Service` itself."""
    fields = {"name": "sweep", "interval": 10, "locker": always(Grant()) if locker is None else locker, **fields}
    return Service(Config(work=work, **fields), **(telemetry or {}))


def virtually(main: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """Run ``main`` on a clock that starts at 0 and jumps."""
    return trio.run(main, *args, clock=MockClock(autojump_threshold=0))


async def run_for(seconds: float, *services: Service) -> None:
    """Run the services for that long, then cancel them."""
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for each in services:
                await nursery.start(each.run)
