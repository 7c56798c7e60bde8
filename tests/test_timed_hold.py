"""What a `Service` says to a lease that can end by itself: exactly when, and never while work runs under it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import trio
from scripted import service, virtually

from tickrunner_trio import Outcome
from tickrunner_trio.abc import TimedLease

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from tickrunner_trio import Lease, Tick, TickReport


class TimedLeaseOfATest:
    """Ends by itself, as that of a `PostgresLocker` does in its thread: a little before or after Trio's own timers."""

    epoch = None

    def __init__(self, locker: LockerOfTimedLeases, lock_id: int) -> None:
        self.lock_id = lock_id
        self._locker = locker
        self._ends_at = math.inf

    @property
    def lost(self) -> bool:
        return trio.current_time() >= self._ends_at

    def let_go_after(self, seconds: float) -> bool:
        assert not self._locker.works, "there is work under the lock"
        self._locker.asked_for.append((trio.current_time(), seconds))
        if self.lost or self._locker.refuses_holds:
            return False
        self._ends_at = trio.current_time() + seconds + self._locker.ends_late_by
        return True


@dataclass(eq=False)
class LockerOfTimedLeases:
    ends_late_by: float = 0.0
    refuses_holds: bool = False
    asked_for: list[tuple[float, float]] = field(default_factory=list)  #: Trio's time, and the seconds.
    works: int = 0
    events: list[tuple[str, float]] = field(default_factory=list)

    async def with_advisory_lock(self, lock_id: int, fn: Callable[[Lease], Awaitable[None]]) -> bool:
        self.events.append(("locked", trio.current_time()))
        try:
            lease = TimedLeaseOfATest(self, lock_id)
            assert isinstance(lease, TimedLease)
            await fn(lease)
        finally:
            self.events.append(("unlocked", trio.current_time()))
        return True


@pytest.fixture(autouse=True)
def _no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first slot is at 0, and a failure is held on to for an eighth of the interval."""
    monkeypatch.setattr("tickrunner_trio._service.jitter", lambda interval, random: 0.0)
    monkeypatch.setattr("random.random", lambda: 0.5)


def working(locker: LockerOfTimedLeases, *seconds: float, error: Exception | None = None) -> Any:
    """Work that takes so long, one after the other; the last for ever after."""
    takes = list(seconds)

    async def work(tick: Tick) -> None:
        locker.works += 1
        try:
            await trio.sleep(takes.pop(0) if len(takes) > 1 else takes[0])
            if error is not None:
                raise error
        finally:
            locker.works -= 1

    return work


def test_after_a_success_the_lease_is_to_end_nine_tenths_of_the_interval_from_the_start() -> None:
    locker = LockerOfTimedLeases()

    async def main() -> None:
        with trio.move_on_after(15):
            await service(working(locker, 2.0), locker).run()

    virtually(main)
    assert locker.asked_for == [(2.0, 7.0), (12.0, 7.0)]
    # Nobody is woken when the hold ends by itself, at 9: `fn` goes on to the next slot.
    assert locker.events == [("locked", 0.0), ("unlocked", 10.0), ("locked", 10.0), ("unlocked", 15.0)]


def test_after_a_failure_it_is_to_end_at_the_random_point() -> None:
    locker = LockerOfTimedLeases()

    async def main() -> None:
        with trio.move_on_after(9):
            await service(working(locker, 1.0, error=ValueError()), locker).run()

    virtually(main)
    assert locker.asked_for == [(1.0, 0.25)]
    assert locker.events == [("locked", 0.0), ("unlocked", 9.0)]


@pytest.mark.parametrize(("cadence", "seconds"), [("replica", 1.0), ("cluster", 9.5)])
def test_without_a_hold_nothing_is_said(cadence: Any, seconds: float) -> None:
    locker = LockerOfTimedLeases()

    async def main() -> None:
        with trio.move_on_after(9.75):
            await service(working(locker, seconds), locker, cadence=cadence).run()

    virtually(main)
    assert locker.asked_for == []
    assert locker.events == [("locked", 0.0), ("unlocked", seconds)]


@pytest.mark.parametrize("ends_late_by", [0.0, 0.5, -0.5])
def test_the_next_slot_comes_in_time_whenever_the_lease_really_ends(ends_late_by: float) -> None:
    locker = LockerOfTimedLeases(ends_late_by=ends_late_by)

    async def main() -> None:
        with trio.move_on_after(10.5):
            await service(working(locker, 0.0), locker).run()

    virtually(main)
    assert locker.asked_for == [(0.0, 9.0), (10.0, 9.0)]
    assert locker.events[:3] == [("locked", 0.0), ("unlocked", 10.0), ("locked", 10.0)]


def test_a_slot_within_the_hold_is_missed_and_the_service_wakes_with_the_one_after_it() -> None:
    locker = LockerOfTimedLeases()

    async def main() -> None:
        sweep = service(working(locker, 0.0), locker, should_run=lambda: next(gates))
        with trio.move_on_after(31):
            await sweep.run()
        missed.append(sweep.statistics().missed_slots)

    def blocked() -> Iterator[bool]:
        """The loop is blocked in the second tick's gate, for 4 seconds, so that its hold ends after the third slot."""
        yield True
        trio.lowlevel.current_clock().jump(4)  # type: ignore[attr-defined]
        while True:
            yield True

    gates, missed = blocked(), list[int]()
    virtually(main)
    assert locker.asked_for == [(0.0, 9.0), (14.0, 9.0), (30.0, 9.0)]
    assert [at for event, at in locker.events if event == "unlocked"] == [10.0, 30.0, 31.0]
    assert missed == [1]


@pytest.mark.parametrize("ends_late_by", [0.0, 0.5, -0.5])
def test_a_slot_that_was_overrun_before_the_hold_is_caught_up_at_its_end_and_not_at_the_slot_after_it(
    ends_late_by: float,
) -> None:
    """The startup pass fails at 1, after the first slot: it is tried again as soon as the hold is over."""
    locker = LockerOfTimedLeases(ends_late_by=ends_late_by)

    async def main() -> None:
        with trio.move_on_after(9):
            startup = working(locker, 1.0, error=ValueError())
            await service(working(locker, 0.0), locker, startup=startup).run()

    virtually(main)
    assert locker.asked_for[0] == (1.0, 0.25)
    assert [at for event, at in locker.events if event == "locked"][:2] == [0.0, 1.25]


def test_the_lock_counts_as_held_until_the_lease_has_ended_though_nobody_is_woken_for_it() -> None:
    held: list[bool] = []

    async def main() -> None:
        sweep = service(working(locker, 0.0), locker)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sweep.run)
            for seconds in (8.5, 1.0, 1.0):
                await trio.sleep(seconds)
                held.append(sweep.statistics().holds_lock)
            nursery.cancel_scope.cancel()

    locker = LockerOfTimedLeases()
    virtually(main)
    assert held == [True, False, True]


def test_a_drain_after_the_hold_wakes_whoever_sleeps_to_the_next_slot() -> None:
    async def main() -> None:
        sweep = service(working(locker, 0.0), locker)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sweep.run)
            await trio.sleep(9.5)
            sweep.drain()

    locker = LockerOfTimedLeases()
    virtually(main)
    assert locker.events == [("locked", 0.0), ("unlocked", 9.5)]


def test_a_forced_tick_takes_the_end_back_while_its_work_runs_and_then_sets_the_same_end_again() -> None:
    locker = LockerOfTimedLeases()
    reports: list[TickReport] = []

    async def main() -> None:
        sweep = service(working(locker, 0.0, 2.0), locker)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sweep.run)
            await trio.sleep(3)
            reports.append(await sweep.tick())
            await trio.sleep(4.5)
            nursery.cancel_scope.cancel()

    virtually(main)
    assert locker.asked_for == [(0.0, 9.0), (3.0, math.inf), (5.0, 4.0)]
    assert locker.events == [("locked", 0.0), ("unlocked", 9.5)]
    assert [report.outcome for report in reports] == [Outcome.SUCCESS]


def test_under_a_forced_tick_that_outlasts_the_hold_the_lease_does_not_end() -> None:
    locker = LockerOfTimedLeases()
    lost: list[bool] = []

    async def main() -> None:
        sweep = service(working(locker, 0.0, 8.0, 0.0), locker, cadence="cluster")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sweep.run)
            await trio.sleep(3)
            report = await sweep.tick()
            lost.append(report.outcome is not Outcome.SUCCESS)
            nursery.cancel_scope.cancel()

    virtually(main)
    assert locker.asked_for == [(0.0, 9.0), (3.0, math.inf)]
    assert locker.events[:2] == [("locked", 0.0), ("unlocked", 11.0)]
    assert lost == [False]


def test_a_forced_tick_that_comes_when_the_lease_has_just_ended_gets_a_lock_of_its_own() -> None:
    """The thread ends it by its own clock, a little before Trio's timer."""
    locker = LockerOfTimedLeases(ends_late_by=-0.5)
    reports: list[TickReport] = []

    async def main() -> None:
        sweep = service(working(locker, 0.0), locker)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sweep.run)
            await trio.sleep(8.75)
            reports.append(await sweep.tick())
            nursery.cancel_scope.cancel()

    virtually(main)
    assert locker.events == [("locked", 0.0), ("unlocked", 8.75), ("locked", 8.75), ("unlocked", 8.75)]
    assert locker.asked_for == [(0.0, 9.0), (8.75, math.inf)]
    assert [report.outcome for report in reports] == [Outcome.SUCCESS]


def test_a_lease_that_is_lost_when_the_hold_would_begin_is_not_held_on_to_and_the_next_slot_comes() -> None:
    locker = LockerOfTimedLeases(refuses_holds=True)

    async def main() -> None:
        with trio.move_on_after(15):
            await service(working(locker, 1.0), locker).run()

    virtually(main)
    assert locker.asked_for == [(1.0, 8.0), (11.0, 8.0)]
    assert locker.events == [("locked", 0.0), ("unlocked", 1.0), ("locked", 10.0), ("unlocked", 11.0)]


def test_a_drain_ends_a_hold_before_the_lease_would() -> None:
    locker = LockerOfTimedLeases()

    async def main() -> None:
        sweep = service(working(locker, 0.0), locker)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sweep.run)
            await trio.sleep(3)
            sweep.drain()

    virtually(main)
    assert locker.events == [("locked", 0.0), ("unlocked", 3.0)]
