"""A simulated cluster: what each fault does to the user's services, and what is written down of it."""

from __future__ import annotations

import logging
import random
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import trio
from scripted import virtually
from trio.testing import MockClock

from tickrunner_trio import Config, DatabaseUnavailableError, LockLostError, MemoryLocker, Outcome, Service, Tick
from tickrunner_trio.testing import (
    ClockOffset,
    Cluster,
    DatabaseAway,
    Drain,
    DropSession,
    Freeze,
    Kill,
    Partition,
    Run,
    Start,
    Timeline,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tickrunner_trio import AdvisoryLocker, Lease

silent = logging.getLogger("tests.test_cluster")
silent.disabled = True


def sweeping(work: Any, **fields: Any) -> Callable[[AdvisoryLocker], list[Service]]:
    """One service, every 60 seconds, whose first tick comes within 30."""

    def services(locker: AdvisoryLocker) -> list[Service]:
        return [
            Service(Config(**{"name": "sweep", "interval": 60, "locker": locker, "work": work, "log": silent} | fields))
        ]

    return services


def play(work: Any, *faults: Any, seconds: float = 300, replicas: int = 1, **fields: Any) -> Timeline:
    return Cluster(sweeping(work, **fields), replicas=replicas, faults=faults).run(seconds)


def ended_as(run: Run) -> tuple[float, Outcome | None]:
    return run.stopped_at, run.outcome


async def at_once(tick: Tick) -> None:
    """Work that takes no time."""


async def for_ever(tick: Tick) -> None:
    await trio.sleep_forever()


# -- Without faults ----------------------------------------------------------------------------------------------------


def test_hours_pass_and_one_of_three_replicas_runs_in_each_interval() -> None:
    async def work(tick: Tick) -> None:
        await trio.sleep(5)

    timeline = play(work, seconds=36_000, replicas=3)
    assert len(timeline.runs) == 600
    assert {run.stopped_at - run.started_at for run in timeline.runs} == {5}
    assert {run.outcome for run in timeline.runs} == {Outcome.SUCCESS}
    assert {run.epoch for run in timeline.runs} == {None}
    assert {skip.outcome for skip in timeline.skips} == {Outcome.BUSY}
    assert {(round(hold.freed_at - hold.granted_at, 6), hold.kept) for hold in timeline.holds[:-1]} == {(54, True)}
    assert (timeline.holds[-1].freed_at, timeline.holds[-1].kept) == (36_000, True)
    timeline.assert_never_overlapping()
    timeline.assert_once_per_interval()
    timeline.assert_recovers_within(60)


def test_each_replica_gets_services_and_a_locker_of_its_own() -> None:
    lockers: list[AdvisoryLocker] = []

    def services(locker: AdvisoryLocker) -> list[Service]:
        lockers.append(locker)
        return sweeping(at_once)(locker)

    Cluster(services, replicas=3).run(10)
    assert len(set(map(id, lockers))) == 3


def test_a_startup_pass_is_a_run_too() -> None:
    timeline = play(at_once, startup=at_once, seconds=100)
    assert [(run.number, run.started_at) for run in timeline.runs] == [(1, 0), (2, 60)]


def test_the_users_own_objects_serve() -> None:
    seen: list[str] = []

    class Own(Service):
        def health(self) -> Any:
            seen.append(self.name)
            return super().health()

    own: list[Own] = []

    async def work(tick: Tick) -> None:
        own[0].health()

    def services(locker: AdvisoryLocker) -> list[Own]:
        own.append(Own(Config(name="sweep", interval=60, locker=locker, work=work)))
        return own

    Cluster(services, replicas=1).run(40)
    assert seen == ["sweep"]


def test_what_still_runs_at_the_end_is_unfinished_and_its_cleanup_is_not_on_the_timeline() -> None:
    cleaned: list[float] = []

    async def work(tick: Tick) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(10)
            cleaned.append(trio.current_time())

    timeline = play(work, seconds=100)
    assert [(run.stopped_at, run.outcome) for run in timeline.runs] == [(100, None)]
    assert cleaned == [110]
    assert timeline.skips == ()


def test_other_seeds_give_other_timelines_and_nobody_elses_chance_is_touched() -> None:
    state = random.getstate()
    starts = {Cluster(sweeping(at_once), replicas=1, seed=seed).run(60).runs[0].started_at for seed in range(10)}
    assert len(starts) == 10
    assert random.getstate() == state


def test_the_seed_orders_what_happens_at_the_same_moment() -> None:
    # Cut off first, the replica does not hear that its session is dropped.
    faults = [Partition("r1", at=100, seconds=9), DatabaseAway(at=100, seconds=1)]

    def heard_at_once(seed: int) -> bool:
        return Cluster(sweeping(for_ever), replicas=1, faults=faults, seed=seed).run(200).runs[0].stopped_at == 100

    heard = [heard_at_once(seed) for seed in range(20)]
    assert 0 < sum(heard) < 20
    assert [heard_at_once(seed) for seed in range(20)] == heard


def test_faults_of_one_replica_at_the_same_moment_keep_their_order() -> None:
    for leave in (Kill, Drain):
        for seed in range(20):
            faults = [leave("r1", at=100), Start("r1", at=100)]
            timeline = Cluster(sweeping(at_once), replicas=1, faults=faults, seed=seed).run(300)
            assert timeline.runs[-1].started_at > 240


def test_virtual_clocks_begin_in_the_year_2000() -> None:
    seen: list[datetime] = []

    async def work(tick: Tick) -> None:
        seen.append(tick.started_at - timedelta(seconds=trio.current_time()))

    play(work)
    assert set(seen) == {datetime(2000, 1, 1, tzinfo=UTC)}


# -- Faults ------------------------------------------------------------------------------------------------------------


def test_a_killed_replica_does_nothing_more_and_cleans_up_only_when_all_is_over() -> None:
    cleaned: list[float] = []

    async def work(tick: Tick) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep(70)
            finally:
                cleaned.append(trio.current_time())
                raise OSError("what a dead process raises, nobody hears")

    timeline = play(work, Kill("r1", at=40), seconds=200)
    assert [(run.stopped_at, run.outcome) for run in timeline.runs] == [(40, None)]
    assert cleaned == [200]
    assert [hold.freed_at for hold in timeline.holds] == [40]


def test_another_takes_over_from_a_killed_one_at_its_next_slot() -> None:
    async def work(tick: Tick) -> None:
        await trio.sleep(50)

    timeline = play(work, Kill("r1", at=40), Kill("r2", at=140), replicas=3, seconds=400)
    assert {run.replica for run in timeline.runs} >= {"r3"}
    timeline.assert_recovers_within(115)
    timeline.assert_never_overlapping()


def test_a_service_that_dies_fails_the_verdicts() -> None:
    def dying(death: Callable[[], Awaitable[object]]) -> Timeline:
        async def work(tick: Tick) -> None:
            if trio.current_time() >= 600:
                await death()

        timeline = play(work, replicas=3, seconds=3600)
        with pytest.raises(
            AssertionError, match=r"sweep could be run from 0:09:.* after its success on .*; it suc.*never"
        ):
            timeline.assert_recovers_within(120)
        timeline.assert_never_overlapping()
        return timeline

    async def fail() -> None:
        raise OSError("for ever")

    dying(fail).assert_once_per_interval()
    with pytest.raises(AssertionError, match="sweep did not run for"):
        dying(trio.sleep_forever).assert_once_per_interval()


def test_a_service_that_drains_itself_is_expected_no_more() -> None:
    def services(locker: AdvisoryLocker) -> list[Service]:
        async def work(tick: Tick) -> None:
            if tick.number == 3:
                own[0].drain()

        own = sweeping(work)(locker)
        return own

    for seed in range(5):
        timeline = Cluster(services, replicas=3, seed=seed).run(1200)
        assert len(timeline.stays) == 3
        assert max(stay.until_at for stay in timeline.stays) <= timeline.runs[-1].stopped_at
        timeline.assert_once_per_interval()
        timeline.assert_recovers_within(120)


def test_a_service_that_others_force_is_not_blamed_for_the_hold_of_that() -> None:
    def services(locker: AdvisoryLocker) -> list[Service]:
        [swept] = sweeping(at_once)(locker)

        async def force(tick: Tick) -> None:
            await swept.tick()

        return [swept, *sweeping(force, name="forcing", interval=200)(locker)]

    for seed in range(5):
        timeline = Cluster(services, replicas=2, seed=seed).run(1800)
        assert any(run.forced for run in timeline.runs)
        timeline.assert_once_per_interval()


def test_work_that_waits_for_a_thread_is_refused() -> None:
    come_back = threading.Event()

    async def work(tick: Tick) -> None:
        await trio.to_thread.run_sync(come_back.wait, abandon_on_cancel=True)

    try:
        with pytest.raises(RuntimeError, match=r"service sweep waits for a thread .* awaits trio\.sleep"):
            play(work, replicas=2, seconds=3600)
    finally:
        come_back.set()


def test_a_frozen_replica_takes_no_step_and_finds_its_lock_lost_at_the_thaw() -> None:
    steps: list[float] = []
    ended: list[float] = []

    async def ticking() -> None:
        while True:
            await trio.sleep(1)
            steps.append(trio.current_time())

    async def work(tick: Tick) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ticking)
            try:
                await trio.sleep(500)
            finally:
                ended.append(trio.current_time())

    timeline = play(work, Freeze("r1", at=100, seconds=50), replicas=1, seconds=160)
    assert not [step for step in steps if 100 < step < 150]
    assert max(step for step in steps if step < 160) > 90
    assert ended[0] == 150
    assert ended_as(timeline.runs[0]) == (150, Outcome.LOCK_LOST)
    assert 112 <= timeline.holds[0].freed_at <= 115  # the server heard from it at some time of the three seconds before


def test_a_short_freeze_costs_nothing_but_the_time() -> None:
    async def work(tick: Tick) -> None:
        await trio.sleep(30)

    timeline = play(work, Freeze("r1", at=32, seconds=6), seconds=120)
    assert timeline.runs[0].outcome is Outcome.SUCCESS
    assert all(hold.kept for hold in timeline.holds)


def test_a_replica_that_is_cut_off_loses_its_lock_in_time_and_cannot_ask_meanwhile() -> None:
    timeline = play(for_ever, Partition("r1", at=100, seconds=100), seconds=300)
    run, *later = timeline.runs
    # The last beat was sent up to 3 seconds before, and the one after it is not answered for 5.
    assert 105 <= run.stopped_at <= 108
    assert run.outcome is Outcome.LOCK_LOST
    assert timeline.holds[0].freed_at - run.stopped_at == pytest.approx(15 - 3 - 5)
    assert {skip.outcome for skip in timeline.skips if skip.at < 200} == {Outcome.UNAVAILABLE}
    assert later[0].started_at > 200


def test_a_lock_that_was_given_up_is_free_as_soon_as_the_server_can_be_told() -> None:
    timeline = play(for_ever, Partition("r1", at=100, seconds=9))
    assert 105 <= timeline.runs[0].stopped_at <= 108
    assert timeline.holds[0].freed_at == 109
    # Thawed after the cancel point, and before the server would have ended the session by itself.
    assert play(for_ever, Freeze("r1", at=100, seconds=11)).holds[0].freed_at == 111


def test_a_cut_that_is_short_costs_nothing() -> None:
    timeline = play(for_ever, Partition("r1", at=100, seconds=4.9), seconds=200)
    assert [run.outcome for run in timeline.runs] == [None]


@pytest.mark.parametrize("fault", [DropSession("r1", at=100), DatabaseAway(at=100, seconds=0.01)])
def test_a_dropped_session_cancels_the_work_at_once(fault: Any) -> None:
    timeline = play(for_ever, fault, seconds=200)
    assert ended_as(timeline.runs[0]) == (100, Outcome.LOCK_LOST)
    assert timeline.holds[0].freed_at == 100
    assert not timeline.holds[0].kept


def test_while_the_database_is_away_ticks_are_unavailable() -> None:
    timeline = play(at_once, DatabaseAway(at=90, seconds=100), replicas=2, seconds=400)
    outcomes = {skip.outcome for skip in timeline.skips if 90 <= skip.at < 190}
    assert outcomes == {Outcome.UNAVAILABLE}
    assert not [run for run in timeline.runs if 90 <= run.started_at < 190]
    timeline.assert_recovers_within(75)


def test_a_drain_lets_the_work_finish_and_a_start_begins_a_new_process() -> None:
    made: list[float] = []

    async def work(tick: Tick) -> None:
        await trio.sleep(20)

    def services(locker: AdvisoryLocker) -> list[Service]:
        made.append(trio.current_time())
        return sweeping(work)(locker)

    faults = [Drain("r1", at=32), Start("r1", at=100), Start("r2", at=200)]
    timeline = Cluster(services, replicas=2, faults=faults).run(400)
    assert made == [0, 100, 200]
    assert [run.outcome for run in timeline.runs if run.started_at < 100] == [Outcome.SUCCESS]
    assert 100 <= timeline.runs[1].started_at < 130
    assert timeline.runs[1].number == 1
    assert min(skip.at for skip in timeline.skips if skip.replica == "r2") >= 200


def test_a_clock_that_is_wrong_shows_in_what_a_replica_says_and_shifts_no_tick() -> None:
    said: list[tuple[float, float]] = []

    async def work(tick: Tick) -> None:
        said.append((trio.current_time(), (tick.started_at - datetime(2000, 1, 1, tzinfo=UTC)).total_seconds()))

    faults = [
        ClockOffset("r1", at=100, seconds=3600),
        ClockOffset("r1", at=200, seconds=-5),
        ClockOffset("r2", at=0, seconds=9),
    ]
    timeline = Cluster(sweeping(work), replicas=1, faults=faults[:2]).run(300)
    for at, told in said:
        assert told == pytest.approx(at + (0 if at < 100 else 3600 if at < 200 else -5))
    assert [run.started_at for run in timeline.runs] == [run.started_at for run in play(at_once).runs]


def test_a_process_that_starts_behind_a_cut_or_in_a_frozen_machine_is_so_too() -> None:
    faults = [
        Start("r1", at=50),
        Partition("r1", at=10, seconds=200),
        Freeze("r2", at=10, seconds=200),
        Start("r2", at=50),
    ]
    timeline = Cluster(sweeping(at_once), replicas=2, faults=faults).run(400)
    assert {skip.outcome for skip in timeline.skips if skip.at < 210} == {Outcome.UNAVAILABLE}
    assert {skip.replica for skip in timeline.skips if skip.at < 210} == {"r1"}
    assert timeline.runs[0].started_at >= 210


def test_a_frozen_replica_hears_of_its_drain_at_the_thaw() -> None:
    async def work(tick: Tick) -> None:
        await trio.sleep(45)

    faults = [Freeze("r1", at=35, seconds=5), Drain("r1", at=36)]
    timeline = play(work, *faults, seconds=300, tick_timeout=50)
    assert [run.outcome for run in timeline.runs] == [Outcome.SUCCESS]
    # Its work had begun within the first 30 seconds, so it ends within the 30 that a drain gives.
    assert timeline.runs[0].stopped_at <= 75
    assert play(at_once, *faults).runs[-1].started_at <= 36


def test_what_starts_in_a_frozen_machine_may_be_drained_before_it_runs() -> None:
    faults = [Freeze("r1", at=10, seconds=100), Start("r1", at=20), Drain("r1", at=30)]
    timeline = Cluster(sweeping(at_once), replicas=2, faults=faults).run(300)
    assert {run.replica for run in timeline.runs} == {"r2"}
    assert not [skip for skip in timeline.skips if skip.replica == "r1"]


def test_what_is_killed_in_a_frozen_machine_before_it_ran_never_runs() -> None:
    made: list[float] = []

    def services(locker: AdvisoryLocker) -> list[Service]:
        made.append(trio.current_time())
        return sweeping(at_once)(locker)

    faults = [Freeze("r1", at=10, seconds=100), Start("r1", at=20), Kill("r1", at=30)]
    Cluster(services, replicas=2, faults=faults).run(300)
    assert made == [0]


def test_a_process_that_is_killed_behind_a_cut_keeps_its_locks_until_all_of_them_are_over() -> None:
    faults = [Partition("r1", at=100, seconds=6), Kill("r1", at=101), Partition("r1", at=104, seconds=6)]
    assert play(for_ever, *faults).holds[0].freed_at == 110


def test_a_server_that_goes_away_forgets_also_the_locks_of_those_that_are_no_more() -> None:
    faults = [Partition("r1", at=100, seconds=50), Kill("r1", at=101), DatabaseAway(at=104, seconds=1)]
    assert play(for_ever, *faults).holds[0].freed_at == 104


def test_a_fault_that_lasts_less_than_the_clock_can_tell_is_over_at_once() -> None:
    async def main() -> Timeline:
        await trio.sleep(2.0**40)
        return await Cluster(sweeping(at_once), replicas=1, faults=[Freeze("r1", at=10, seconds=1e-9)]).play(300)

    assert len(virtually(main).runs) == 5


def test_forced_runs_and_cadences_are_told_from_others() -> None:
    def services(locker: AdvisoryLocker) -> list[Service]:
        [swept] = sweeping(at_once, cadence="replica")(locker)

        async def force(tick: Tick) -> None:
            await swept.tick()

        return [swept, *sweeping(force, name="forcing", interval=200)(locker)]

    timeline = Cluster(services, replicas=1).run(600)
    forcing = {run.started_at for run in timeline.runs if run.service == "forcing"}
    assert {run.started_at for run in timeline.runs if run.forced} == forcing
    assert {facts.name: facts.cadence for facts in timeline.services} == {"sweep": "replica", "forcing": "cluster"}


def test_at_the_thaw_a_task_finds_its_lock_lost_in_its_first_step() -> None:
    found: list[bool] = []

    def services(locker: AdvisoryLocker) -> list[Service]:
        async def startup(tick: Tick) -> None:
            async def work(lease: Lease) -> None:
                with trio.CancelScope(shield=True):
                    await trio.sleep_until(110)
                    found.append(lease.lost)

            await locker.with_advisory_lock(5, work)

        return sweeping(at_once, startup=startup)(locker)

    Cluster(services, replicas=1, faults=[Freeze("r1", at=100, seconds=30)]).run(200)
    assert found[0]


def test_faults_of_one_that_is_gone_do_nothing() -> None:
    faults = [
        *(Kill("r1", at=40), Kill("r1", at=50), Drain("r1", at=60), DropSession("r1", at=70)),
        *(Freeze("r1", at=80, seconds=5), Partition("r1", at=90, seconds=5), ClockOffset("r1", at=95, seconds=5)),
    ]
    assert play(for_ever, *faults, seconds=150).runs[0].stopped_at == 40


# -- The locker --------------------------------------------------------------------------------------------------------


def with_locker(script: Callable[[AdvisoryLocker], Awaitable[None]], *faults: Any, seconds: float = 200) -> None:
    """Run the script with the locker of r1, in its process; it must come to its end."""
    ended = False

    def services(locker: AdvisoryLocker) -> list[Service]:
        async def startup(tick: Tick) -> None:
            nonlocal ended
            await script(locker)
            ended = True

        return sweeping(at_once, startup=startup)(locker)

    Cluster(services, replicas=1, faults=faults).run(seconds)
    assert ended


async def nothing(lease: Lease) -> None:
    """What runs under a lock and takes no time."""


async def never(lease: Lease) -> None:
    raise AssertionError("nobody may run this")


def test_it_excludes_others_in_the_same_process_and_checks_its_ids() -> None:
    async def script(locker: AdvisoryLocker) -> None:
        async def work(lease: Lease) -> None:
            assert (lease.lock_id, lease.lost) == (-5, False)
            assert await locker.with_advisory_lock(-5, never) is False
            assert await locker.with_advisory_lock(6, nothing) is True

        assert await locker.with_advisory_lock(-5, work) is True
        with pytest.raises(ValueError, match="64-bit"):
            await locker.with_advisory_lock(2**63, never)

    with_locker(script)


def test_errors_of_the_work_pass_as_they_are_and_free_the_lock() -> None:
    async def script(locker: AdvisoryLocker) -> None:
        for error in (OSError("this"), SystemExit(3), ExceptionGroup("those", [ValueError()])):

            async def work(lease: Lease, error: BaseException = error) -> None:
                raise error

            with pytest.raises(type(error)) as caught:
                await locker.with_advisory_lock(5, work)
            assert caught.value is error
            assert await locker.with_advisory_lock(5, nothing) is True

    with_locker(script)


def test_a_lost_lock_is_lost_for_good_and_said_after_the_work_has_stopped() -> None:
    leases: list[Lease] = []

    async def script(locker: AdvisoryLocker) -> None:
        async def work(lease: Lease) -> None:
            leases.append(lease)
            try:
                await trio.sleep_forever()
            finally:
                assert lease.lost
                with trio.CancelScope(shield=True):
                    await trio.sleep(2)

        with pytest.raises(LockLostError, match="the lock 5 was lost while the work ran"):
            await locker.with_advisory_lock(5, work)
        assert trio.current_time() == 52
        assert leases[0].lost
        await trio.sleep(1)
        assert await locker.with_advisory_lock(5, nothing) is True
        assert leases[0].lost

    # The startup pass itself runs under a lock that is lost too: so in a task of its own, which is not cancelled.
    async def shielded(locker: AdvisoryLocker) -> None:
        with trio.CancelScope(shield=True):
            await script(locker)

    with_locker(shielded, DropSession("r1", at=50))


def test_an_error_of_work_that_lost_its_lock_is_the_cause() -> None:
    async def script(locker: AdvisoryLocker) -> None:
        async def work(lease: Lease) -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise OSError("on the way out")

        with trio.CancelScope(shield=True):
            with pytest.raises(LockLostError) as caught:
                await locker.with_advisory_lock(5, work)
            assert isinstance(caught.value.__cause__, OSError)

    with_locker(script, DropSession("r1", at=50))


def test_a_session_that_came_back_before_a_fault_is_not_one_that_tried_in_vain() -> None:
    async def script(locker: AdvisoryLocker) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep_until(151)
            assert await locker.with_advisory_lock(5, nothing) is True

    # Nobody asks from 100 to 150; if the session had not been ready since then, it would wait for up to 10 seconds.
    with_locker(script, DropSession("r1", at=100), DatabaseAway(at=150, seconds=0.01))


def test_whoever_asks_behind_a_cut_waits_for_the_reply_and_not_longer() -> None:
    async def script(locker: AdvisoryLocker) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(51)
            with pytest.raises(DatabaseUnavailableError, match="the session with PostgreSQL was lost"):
                await locker.with_advisory_lock(5, never)
            assert 55 <= trio.current_time() <= 56
            with pytest.raises(DatabaseUnavailableError, match="there is no session with PostgreSQL"):
                await locker.with_advisory_lock(5, never)

    with_locker(script, Partition("r1", at=50, seconds=30))


def test_whoever_asks_behind_a_short_cut_gets_its_answer_afterwards() -> None:
    async def script(locker: AdvisoryLocker) -> None:
        await trio.sleep(51)
        assert await locker.with_advisory_lock(5, nothing) is True
        assert trio.current_time() == 54

    with_locker(script, Partition("r1", at=50, seconds=4))


def test_a_cancelled_wait_leaves_no_lock() -> None:
    async def script(locker: AdvisoryLocker) -> None:
        await trio.sleep(51)
        with trio.move_on_after(1) as scope:
            await locker.with_advisory_lock(5, never)
        assert scope.cancelled_caught
        assert trio.current_time() == 52
        await trio.sleep(5)
        assert await locker.with_advisory_lock(5, nothing) is True

    with_locker(script, Partition("r1", at=50, seconds=4))


def test_a_release_behind_a_cut_waits_for_its_answer_or_for_the_end_of_the_session() -> None:
    for seconds, released in ((4.0, (54.0, 54.0)), (30.0, (55.0, 56.0))):

        async def script(locker: AdvisoryLocker, released: tuple[float, float] = released) -> None:
            async def work(lease: Lease) -> None:
                await trio.sleep(51)

            with trio.CancelScope(shield=True):
                assert await locker.with_advisory_lock(5, work) is True
            # If the session ends, the startup pass is still to be cancelled for the loss of its own lock.
            assert released[0] <= trio.current_time() <= released[1] + 10

        with_locker(script, Partition("r1", at=50, seconds=seconds))


def test_a_release_behind_a_cut_is_not_dropped_by_a_cancellation() -> None:
    async def script(locker: AdvisoryLocker) -> None:
        async def work(lease: Lease) -> None:
            await trio.sleep_forever()

        with trio.move_on_at(51):
            await locker.with_advisory_lock(5, work)
        assert trio.current_time() == 54
        assert await locker.with_advisory_lock(5, nothing) is True

    with_locker(script, Partition("r1", at=50, seconds=4))


# -- How it is played --------------------------------------------------------------------------------------------------


def test_it_plays_within_a_run_of_the_callers_own() -> None:
    async def main() -> Timeline:
        await trio.sleep(1000.1)
        return await Cluster(sweeping(for_ever), faults=[Partition("r1", at=100, seconds=60)]).play(200)

    assert virtually(main) == Cluster(sweeping(for_ever), faults=[Partition("r1", at=100, seconds=60)]).run(200)


def test_it_refuses_a_clock_that_is_real() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"in virtual time .*: use Cluster\.run, or"):
            await Cluster(sweeping(at_once)).play(10)

    trio.run(main)


def test_a_run_of_its_own_is_refused_within_another() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"await Cluster\.play"):
            Cluster(sweeping(at_once)).run(10)

    virtually(main)


def test_two_plays_at_once_do_not_touch_each_other() -> None:
    timelines: list[Timeline] = []

    async def one(*faults: Any) -> None:
        timelines.append(await Cluster(sweeping(for_ever), replicas=1, faults=faults).play(250))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, Freeze("r1", at=50, seconds=100))
            nursery.start_soon(one)

    virtually(main)
    assert sorted(len(timeline.runs) for timeline in timelines) == [1, 2]


def test_cancelled_it_thaws_and_cancels_everything() -> None:
    cleaned: list[float] = []

    async def work(tick: Tick) -> None:
        try:
            await trio.sleep_forever()
        finally:
            cleaned.append(trio.current_time())

    async def main() -> None:
        with trio.move_on_after(100) as scope:
            await Cluster(sweeping(work), replicas=2, faults=[Freeze("r1", at=0, seconds=500), Kill("r2", at=50)]).play(
                900
            )
        assert scope.cancelled_caught

    virtually(main)
    assert cleaned == [100]


def test_what_services_raises_passes_through_also_while_others_are_frozen() -> None:
    made: list[int] = []

    def services(locker: AdvisoryLocker) -> list[Service]:
        made.append(1)
        if len(made) == 3:
            raise KeyError("no such setting")
        return sweeping(for_ever)(locker)

    faults = [Freeze("r1", at=50, seconds=500), Start("r3", at=100)]
    with pytest.raises(KeyError, match="no such setting"):
        Cluster(services, replicas=3, faults=faults).run(200)


def test_what_ends_a_program_passes_through() -> None:
    async def work(tick: Tick) -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        play(work)


def test_no_instrument_is_left_behind() -> None:
    async def main() -> None:
        before = trio._core._run.GLOBAL_RUN_CONTEXT.runner.instruments.copy()
        await Cluster(sweeping(at_once)).play(100)
        assert trio._core._run.GLOBAL_RUN_CONTEXT.runner.instruments == before

    trio.run(main, clock=MockClock(autojump_threshold=0))


# -- What it refuses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"services": 5}, TypeError, "services must be a plain function of a locker, got 5"),
        ({"services": for_ever}, TypeError, "services must be a plain function"),
        ({"replicas": 0}, ValueError, "replicas must be 1 or more, got 0"),
        ({"replicas": 2.0}, TypeError, "replicas must be an int"),
        ({"replicas": True}, TypeError, "replicas must be an int"),
        ({"seed": "x"}, TypeError, "seed must be an int"),
        ({"lease": 1}, ValueError, "lease must be from 2"),
        ({"epochs": 1}, TypeError, "epochs must be True or False"),
        ({"drain_timeout": -1}, ValueError, "drain_timeout must be 0 or more"),
        ({"faults": 5}, TypeError, "faults must be an iterable"),
        ({"faults": ["Kill"]}, TypeError, "faults must be faults, got 'Kill'"),
        ({"faults": [Kill]}, TypeError, "faults must be faults, got <class"),
        (
            {"faults": [Kill("r4", at=5)]},
            ValueError,
            r"must name replicas of the cluster, got Kill\('r4', at=5\): use one of r1, r2, r3",
        ),
        (
            {"faults": [Start("r1", at=5), Start("r1", at=1)]},
            ValueError,
            r"must start a replica that is not there, got Start\('r1', at=5\) after Start\('r1', at=1\)",
        ),
    ],
)
def test_it_refuses_what_makes_no_cluster(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Cluster(**{"services": sweeping(at_once)} | arguments)


@pytest.mark.parametrize(
    ("seconds", "error"), [(0, ValueError), (float("inf"), ValueError), ("1", TypeError), (True, TypeError)]
)
def test_it_refuses_what_is_no_time(seconds: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^seconds must be"):
        Cluster(sweeping(at_once)).run(seconds)


def test_services_must_give_services() -> None:
    with pytest.raises(TypeError, match=r"services must give Service objects, got 5: use Service\(Config"):
        Cluster(lambda locker: [5]).run(10)  # type: ignore[list-item]


@pytest.mark.parametrize(
    "given", [None, 5, Service(Config(name="sweep", interval=60, locker=MemoryLocker(), work=at_once))]
)
def test_services_must_be_several(given: Any) -> None:
    with pytest.raises(TypeError, match=r"services must return an iterable of Service, got .*: return \[Service"):
        Cluster(lambda locker: given).run(10)


def test_a_service_belongs_to_one_process() -> None:
    shared = Service(Config(name="sweep", interval=60, locker=MemoryLocker(), work=at_once))
    with pytest.raises(TypeError, match=r"must make new Service objects at each call, .* make it within the function"):
        Cluster(lambda locker: [shared], replicas=2).run(10)


def test_services_of_one_name_are_alike() -> None:
    intervals = iter([60, 60, 30])
    with pytest.raises(ValueError, match=r"must be the same in all processes, got .*interval=30.* in r3"):
        Cluster(lambda locker: sweeping(at_once, interval=next(intervals))(locker), replicas=3).run(10)


def test_services_that_never_ask_the_locker_of_the_cluster_are_not_judged() -> None:
    timeline = play(at_once, locker=MemoryLocker(), replicas=2)
    verdicts: list[Callable[[], None]] = [
        timeline.assert_never_overlapping,
        timeline.assert_once_per_interval,
        lambda: timeline.assert_recovers_within(100),
    ]
    for verdict in verdicts:
        with pytest.raises(AssertionError, match="sweep ran under no lock of the cluster; make it with the locker"):
            verdict()
    with pytest.raises(AssertionError, match="there was no service in any process"):
        Cluster(lambda locker: []).run(10).assert_never_overlapping()


def test_a_fault_after_the_end_is_a_mistake() -> None:
    with pytest.raises(
        ValueError, match=r"must begin before the end, got Kill\('r1', at=300\) and an end at 300 seconds"
    ):
        play(at_once, Kill("r1", at=300), seconds=300)


def test_it_refuses_a_clock_that_stands_still() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"goes on by itself, .*autojump_threshold=0"):
            await Cluster(sweeping(at_once)).play(10)

    trio.run(main, clock=MockClock())


def test_epochs_are_there_for_those_who_ask_for_them() -> None:
    timeline = Cluster(sweeping(at_once), epochs=True).run(600)
    assert [run.epoch for run in timeline.runs] == list(range(1, len(timeline.runs) + 1))


def test_work_in_flight_is_given_the_time_that_the_drain_has() -> None:
    for drain_timeout in (5.0, 50.0):
        timeline = Cluster(
            sweeping(for_ever), replicas=1, faults=[Drain("r1", at=40)], drain_timeout=drain_timeout
        ).run(200)
        assert [run.stopped_at for run in timeline.runs] == [40 + drain_timeout]


def test_it_prints_as_somebody_would_write_it() -> None:
    cluster = Cluster(sweeping(at_once), replicas=2, faults=[Kill("r1", at=5)], seed=3)
    assert repr(cluster) == "Cluster(replicas=2, faults=[Kill('r1', at=5)], lease=15, seed=3)"
