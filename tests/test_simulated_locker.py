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


def test_a_lease_is_lost_from_the_cancel_point_on_though_its_holder_is_frozen() -> None:
    async def main() -> None:
        world = World()
        locker = world.locker()
        leases: list[Any] = []

        async def work(lease: Any) -> None:
            leases.append(lease)
            await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(locker.with_advisory_lock, 7, work)
            await trio.testing.wait_all_tasks_blocked()
            world.sessions[locker].freeze(trio.current_time())  # the lock was granted just now
            await trio.sleep(TIMING.cancel_after - 0.01)
            assert not leases[0].lost
            await trio.sleep(0.01)
            assert leases[0].lost
            assert not leases[0].scope.cancel_called
            nursery.cancel_scope.cancel()
        assert leases[0].lost

    virtually(main)
