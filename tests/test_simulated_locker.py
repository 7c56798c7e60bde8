"""The locker of a simulated process keeps every promise of `AdvisoryLocker`, between processes too."""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio
from scripted import virtually

from tickrunner_trio.lockers._timing import lease_timing
from tickrunner_trio.testing import check_advisory_locker
from tickrunner_trio.testing._lock_server import LockServer
from tickrunner_trio.testing._lock_session import LockSession
from tickrunner_trio.testing._simulated_locker import SimulatedLocker

TIMING = lease_timing(15.0)


class World:
    """One server, and processes with a session each."""

    def __init__(self) -> None:
        self.server = LockServer(TIMING.lease, lambda hold: None)
        self.sessions: dict[SimulatedLocker, LockSession] = {}

    def locker(self) -> SimulatedLocker:
        number = len(self.sessions)
        session = LockSession(
            self.server, f"r{number}", TIMING, chance=random.Random(number), changed=lambda: locker.wake()
        )
        locker = SimulatedLocker(self.server, session, trio.current_time)
        self.sessions[locker] = session
        session.started(trio.current_time(), cut=0, frozen=0)
        return locker

    async def drop(self, locker: Any, lock_id: int) -> None:
        self.sessions[locker].drop(trio.current_time())

    async def cut(self, locker: Any, lock_id: int) -> None:
        """Cut it off until it has given up, as a director would see to."""
        session = self.sessions[locker]
        session.cut(trio.current_time())
        await trio.sleep_until(session.next_at())
        session.advance(trio.current_time())
        session.mend(trio.current_time())


@pytest.mark.parametrize("fault", ["drop", "cut"])
def test_it_keeps_every_promise(fault: str) -> None:
    async def main() -> None:
        world = World()
        report = await check_advisory_locker(
            world.locker, shared=True, lose=getattr(world, fault), held_for=10 * TIMING.lease
        )
        assert report.skipped == ()

    virtually(main)
