"""What a service tells of its counts and its next slot, and a supervisor of its run: exact, in virtual time."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import trio
from scripted import service, virtually

from tickrunner_trio import MemoryLocker, Outcome, Supervisor
from tickrunner_trio._utc import utc_at, utc_offset
from tickrunner_trio.testing import Busy, ScriptedLocker

if TYPE_CHECKING:
    from tickrunner_trio import Tick


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slot 0 is at the entry of `run`."""
    monkeypatch.setattr(random, "random", lambda: 0.0)


def utc(trio_time: float) -> datetime:
    return utc_at(trio_time, utc_offset(trio.lowlevel.current_clock()))


async def take_three_seconds(tick: Tick) -> None:
    await trio.sleep(3)


async def fail_at_once(tick: Tick) -> None:
    raise OSError("the disk is full")


def counted(**ticks: int) -> dict[Outcome, int]:
    return {outcome: ticks.get(outcome.value, 0) for outcome in Outcome}


def test_a_service_that_does_not_run_has_counted_nothing_and_is_next_at_no_time() -> None:
    statistics = service(take_three_seconds).statistics()
    assert statistics.next_slot is None
    assert statistics.working_since is None
    assert statistics.last_duration is None
    assert statistics.missed_slots == 0
    assert not statistics.holds_lock
    assert statistics.ticks == counted()


def test_it_says_since_when_it_works_then_how_long_that_took_and_when_it_is_next() -> None:
    async def main() -> None:
        sweep = service(take_three_seconds)
        async with trio.open_nursery() as nursery:
            await nursery.start(sweep.run)
            await trio.sleep(1)
            at_work = sweep.statistics()
            assert at_work.working_since == utc(0)
            assert at_work.next_slot == utc(10)
            assert at_work.next_slot.tzinfo is UTC
            assert at_work.holds_lock
            assert (at_work.last_duration, at_work.ticks) == (None, counted())
            await trio.sleep(4)
            held = sweep.statistics()
            assert (held.working_since, held.last_duration, held.holds_lock) == (None, 3.0, True)
            assert held.ticks == counted(success=1)
            await trio.sleep(4.5)  # 9.5: the hold of 0.9 intervals is over
            assert not sweep.statistics().holds_lock
            sweep.drain()
            assert sweep.statistics().next_slot is None
        assert sweep.statistics().ticks == counted(success=1)

    virtually(main)


def test_a_slot_that_is_overrun_stays_the_next_one_and_those_before_it_are_missed() -> None:
    async def take_long(tick: Tick) -> None:
        await trio.sleep(35 if tick.number == 1 else 0)

    async def main() -> None:
        sweep = service(take_long, cadence="replica")
        async with trio.open_nursery() as nursery:
            await nursery.start(sweep.run)
            await trio.sleep(30)
            assert sweep.statistics().next_slot == utc(10)
            await trio.sleep(6)
            statistics = sweep.statistics()
            assert (statistics.missed_slots, statistics.next_slot) == (2, utc(40))
            nursery.cancel_scope.cancel()

    virtually(main)


def test_a_skipped_tick_leaves_the_last_duration() -> None:
    async def main() -> None:
        locker = ScriptedLocker()
        sweep = service(take_three_seconds, locker)
        await sweep.tick()
        locker.otherwise = Busy()
        await sweep.tick()
        assert sweep.statistics().last_duration == 3.0
        assert sweep.statistics().ticks == counted(success=1, busy=1)

    virtually(main)


def test_a_failed_tick_has_a_duration_too() -> None:
    async def main() -> None:
        sweep = service(fail_at_once)
        await sweep.tick()
        assert sweep.statistics().last_duration == 0.0
        assert sweep.statistics().ticks == counted(failed=1)

    virtually(main)


def test_the_counts_cannot_be_changed_and_do_not_change_by_themselves() -> None:
    async def main() -> None:
        sweep = service(take_three_seconds)
        before: Any = sweep.statistics().ticks
        await sweep.tick()
        assert before == counted()
        with pytest.raises(TypeError):
            before[Outcome.SUCCESS] = 1

    virtually(main)


def test_the_next_slot_is_gone_with_a_run_that_was_cancelled() -> None:
    async def main() -> None:
        sweep = service(take_three_seconds)
        with trio.move_on_after(20):
            await sweep.run()
        assert sweep.statistics().next_slot is None

    virtually(main)


def test_after_a_startup_pass_that_did_the_work_the_first_slot_is_one_interval_later() -> None:
    async def main() -> None:
        sweep = service(fail_at_once, startup=take_three_seconds)
        async with trio.open_nursery() as nursery:
            await nursery.start(sweep.run)
            await trio.sleep(4)
            assert sweep.statistics().next_slot == utc(10), "within the hold of the startup pass"
            await trio.sleep(5.5)
            assert sweep.statistics().next_slot == utc(10)
            nursery.cancel_scope.cancel()

    virtually(main)


# -- Supervisor --------------------------------------------------------------------------------------------------------


def test_a_supervisor_says_whether_it_runs_drains_or_is_done() -> None:
    async def main() -> None:
        supervisor = Supervisor([service(take_three_seconds, MemoryLocker())])
        assert (supervisor.state, supervisor.trio_token) == ("idle", None)
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            assert (supervisor.state, supervisor.trio_token) == ("running", trio.lowlevel.current_trio_token())
            await trio.sleep(1)
            supervisor.drain()
            assert supervisor.state == "draining"
            await trio.sleep(1)
            assert supervisor.state == "draining", "the work goes on"
        assert (supervisor.state, supervisor.trio_token) == ("drained", None)

    virtually(main)


def test_a_supervisor_that_was_cancelled_is_idle_and_may_run_again() -> None:
    async def main() -> None:
        supervisor = Supervisor([service(take_three_seconds, MemoryLocker())])
        with trio.move_on_after(timedelta(seconds=5).total_seconds()):
            await supervisor.run()
        assert (supervisor.state, supervisor.trio_token) == ("idle", None)

    virtually(main)


def test_work_that_is_judged_while_another_thread_looks_breaks_no_snapshot() -> None:
    class JudgedWhileSomebodyLooks:
        says = (1.0, None)

        @property
        def work_began_at(self) -> float | None:
            said, *self.says = self.says
            return said

    sweep = service(take_three_seconds)
    sweep._shared.under_way.append(JudgedWhileSomebodyLooks())  # type: ignore[arg-type]
    assert sweep.statistics().working_since == utc_at(1.0, 0.0)
