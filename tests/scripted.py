"""A locker whose every step a test decides, and the few lines in which tests of services set up and run one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import trio
from trio.testing import MockClock

from tickrunner_trio import Config, LockLostError, Service

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tickrunner_trio import Lease


class ScriptedLease:
    """Lost when its scope is cancelled, so that the two never differ."""

    def __init__(self, lock_id: int, scope: trio.CancelScope) -> None:
        self.lock_id = lock_id
        self.epoch: int | None = 7
        self._scope = scope

    @property
    def lost(self) -> bool:
        return self._scope.cancel_called


@dataclass(eq=False)
class ScriptedLocker:
    """Grants every lock, unless told otherwise, and writes down what happens, with Trio's time."""

    busy: bool = False  #: Somebody else holds the lock.
    refuses: BaseException | None = None  #: Raised instead of an answer.
    answers_after: float = 0.0  #: Seconds that trying the lock takes.
    loses_after: float = math.inf  #: Seconds from the grant to the loss of the lock.
    fails_to_unlock: BaseException | None = None  #: Raised after ``fn`` has stopped.
    events: list[tuple[str, float]] = field(default_factory=list)
    held: bool = False
    lease_type: ClassVar[type[ScriptedLease]] = ScriptedLease

    def note(self, event: str) -> None:
        self.events.append((event, trio.current_time()))

    @property
    def names(self) -> list[str]:
        return [event for event, _ in self.events]

    async def with_advisory_lock(self, lock_id: int, fn: Callable[[Lease], Awaitable[None]]) -> bool:
        await trio.sleep(self.answers_after)
        if self.refuses is not None:
            raise self.refuses
        if self.busy or self.held:
            return False
        self.held = True
        self.note("locked")
        try:
            with trio.CancelScope(deadline=trio.current_time() + self.loses_after) as scope:
                lease = self.lease_type(lock_id, scope)
                await fn(lease)
            if lease.lost:
                raise LockLostError("scripted loss")
        finally:
            self.held = False
            self.note("unlocked")
        if self.fails_to_unlock is not None:
            raise self.fails_to_unlock
        return True


def service(work: Any, locker: Any = None, *, telemetry: Any = None, **fields: Any) -> Service:
    """A service named "sweep", every 10 seconds, unless told otherwise; ``telemetry`` is for `Service` itself."""
    fields = {"name": "sweep", "interval": 10, "locker": ScriptedLocker() if locker is None else locker, **fields}
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
