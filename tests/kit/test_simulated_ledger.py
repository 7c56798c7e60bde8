"""Clusters with a ledger: once per interval whatever starts, stops, crashes or is cut off; in virtual time."""

from __future__ import annotations

import logging
import os
import random
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import trio
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from scripted import virtually
from test_cluster_rules import LEASE, SETUPS, Setup
from test_simulated_locker import TIMING, World

from tickrunner_trio import Config, Outcome, Service, Tick
from tickrunner_trio.abc import LedgerAnswer, LedgerLease, LedgerLocker, LedgerState
from tickrunner_trio.testing import Cluster, DropSession, Kill, Start, check_advisory_locker, strategies
from tickrunner_trio.testing._lock_session import LONGEST_RETURN
from tickrunner_trio.testing._simulated_ledger import SimulatedLedger, SimulatedLedgerLocker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tickrunner_trio import AdvisoryLocker, Lease
    from tickrunner_trio.testing import Timeline

PLANS = int(os.environ.get("TICKRUNNER_TEST_PLANS", "60")) // 4

silent = logging.getLogger("tests.test_simulated_ledger")
silent.disabled = True


def successes(timeline: Timeline) -> list[float]:
    return [run.started_at for run in timeline.runs if run.outcome is Outcome.SUCCESS]


def daily(locker: AdvisoryLocker) -> list[Service]:
    async def work(tick: Tick) -> None:
        await trio.sleep(600)

    return [Service(Config(name="daily", interval=86400.0, locker=locker, work=work, log=silent))]


def deploys(hours: float, replicas: int, seconds: float) -> list[Any]:
    """Every so many hours one replica after the other is replaced, a minute apart."""
    count = int(seconds / hours / 3600)
    faults: list[Any] = []
    for number in range(1, count):
        for replica in range(1, replicas + 1):
            at = number * hours * 3600 + replica * 60.0
            faults += [Kill(f"r{replica}", at=at), Start(f"r{replica}", at=at + 30)]
    return faults


@pytest.mark.parametrize("hours", [1.0, 6.0, 23.0])
@pytest.mark.parametrize("replicas", [1, 3])
def test_a_daily_service_runs_once_a_day_whatever_is_deployed_in_between(hours: float, replicas: int) -> None:
    days = 5
    cluster = Cluster(
        daily, replicas=replicas, faults=deploys(hours, replicas, days * 86400.0), ledger=True, seed=replicas
    )
    timeline = cluster.run(days * 86400.0)
    starts = successes(timeline)
    assert len(starts) == days
    gaps = [(after - before) / 86400 for before, after in pairwise(starts)]
    # A run that a deploy kills is begun anew: 10 minutes, and half a minute for the new process.
    assert all(0.98 < gap < 1.02 for gap in gaps)
    assert sum(gaps) / len(gaps) == pytest.approx(1.0, abs=0.001)


def test_without_faults_the_gaps_are_an_interval_each() -> None:
    timeline = Cluster(daily, replicas=5, ledger=True).run(30 * 86400.0)
    gaps = [(after - before) / 86400 for before, after in pairwise(successes(timeline))]
    assert len(gaps) == 29
    assert all(0.9996 < gap < 1.0004 for gap in gaps)


def test_after_a_crash_in_mid_work_another_replica_begins_as_soon_as_the_lock_is_free() -> None:
    timeline = Cluster(daily, replicas=3, ledger=True, faults=[Kill("r1", at=100), Kill("r2", at=101)], seed=3).run(
        2000
    )
    killed = [run for run in timeline.runs if run.outcome is None]
    assert killed, "the seed is to be one with which r1 or r2 begins"
    [success] = successes(timeline)
    assert success - 101 <= 30.0


def test_epochs_count_up_for_each_service_over_all_replicas() -> None:
    timeline = Cluster(daily, replicas=3, ledger=True, faults=[DropSession("r1", at=50_000)]).run(5 * 86400.0)
    epochs = [run.epoch for run in timeline.runs]
    assert epochs == list(range(1 << 40, (1 << 40) + len(epochs)))
    assert "ledger=True" in repr(Cluster(daily, ledger=True))


def test_a_ledger_is_there_or_not() -> None:
    with pytest.raises(TypeError, match="ledger must be True or False"):
        Cluster(daily, ledger="tickrunner")  # type: ignore[arg-type]


@pytest.mark.parametrize("setup", SETUPS.values(), ids=list(SETUPS))
def test_under_any_faults_no_run_overlaps_each_interval_has_one_and_all_recover(setup: Setup) -> None:
    @hypothesis.settings(max_examples=PLANS, suppress_health_check=[HealthCheck.too_slow])
    @given(plan=strategies.fault_plans(replicas=setup.replicas, until=setup.seconds), seed=st.integers(0, 2**16))
    def check(plan: Any, seed: int) -> None:
        timeline = Cluster(
            lambda locker: [each.service(locker) for each in setup.services],
            replicas=setup.replicas,
            faults=plan,
            lease=LEASE,
            seed=seed,
            ledger=True,
        ).run(setup.seconds)
        timeline.assert_never_overlapping(within=LEASE / 3)
        timeline.assert_once_per_interval()
        for each in setup.services:
            slots = each.slots_to_success + 1
            longest = slots * each.interval + 2 * (each.longest + each.stopping) + LEASE + LONGEST_RETURN
            timeline.assert_recovers_within(min(longest, setup.seconds), services=[each.name])

    check()


# -- The locker of one process -----------------------------------------------------------------------------------------


class ByItsLedger(SimulatedLedgerLocker):
    """A locker all of whose locks have rows, which are always due."""

    async def with_advisory_lock(self, lock_id: int, fn: Callable[[Lease], Awaitable[None]]) -> bool:
        answer = await self.with_due_lock(lock_id, fn, service=str(lock_id), interval=60.0, forced=True)
        return answer.state is LedgerState.RAN


class WorldWithLedger(World):
    def __init__(self) -> None:
        super().__init__()
        self.ledger = SimulatedLedger()

    def locker(self) -> Any:
        plain = super().locker()
        session = self.sessions.pop(plain)
        locker = ByItsLedger(self.server, session, trio.current_time, self.ledger, random.Random(1))
        session._changed = locker.wake
        self.sessions[locker] = session
        return locker


@pytest.mark.parametrize("fault", ["drop", "cut"])
def test_it_keeps_every_promise(fault: str) -> None:
    async def main() -> None:
        world = WorldWithLedger()
        assert isinstance(world.locker(), LedgerLocker)
        report = await check_advisory_locker(
            world.locker, shared=True, lose=getattr(world, fault), held_for=10 * TIMING.lease
        )
        assert report.skipped == ()

    virtually(main)


def test_a_result_whose_session_is_lost_is_not_in_the_row() -> None:
    async def main() -> None:
        world = WorldWithLedger()
        one, other = world.locker(), world.locker()

        async def work(lease: LedgerLease) -> None:
            await world.drop(one, 1)

        with pytest.raises(Exception, match="lost"):
            await one.with_due_lock(1, work, service="a", interval=60.0, forced=False)

        async def done(lease: LedgerLease) -> None:
            assert lease.epoch == (1 << 40) + 1

        answer = await other.with_due_lock(1, done, service="a", interval=60.0, forced=False)
        assert (answer.state, answer.due_in) == (LedgerState.RAN, 0.0)  # cancelled: nothing was reported
        with other.watching("a", list):
            pass

    virtually(main)


def test_a_result_of_an_epoch_that_is_past_changes_nothing() -> None:
    ledger = SimulatedLedger()
    first, _ = ledger.draw("a", now=0.0, interval=10.0, forced=False)
    second, _ = ledger.draw("a", now=1.0, interval=10.0, forced=False)
    assert first != second
    assert ledger.write("a", first, Outcome.SUCCESS, now=2.0, interval=10.0, chance=0.5) == 0.0
    assert ledger.write("a", second, Outcome.SUCCESS, now=2.0, interval=10.0, chance=0.5) == 10.0


def test_work_that_ends_while_it_is_cut_off_ran_and_nobody_knows_when_it_is_due() -> None:
    async def main() -> None:
        world = WorldWithLedger()
        locker = world.locker()
        session = world.sessions[locker]

        async def work(lease: LedgerLease) -> None:
            session.cut(trio.current_time())

        async def direct() -> None:
            await trio.sleep(0.5)
            await trio.sleep_until(session.next_at())
            session.advance(trio.current_time())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(direct)
            answer = await locker.with_due_lock(1, work, service="a", interval=60.0, forced=False)
        assert answer == LedgerAnswer(state=LedgerState.RAN)

    virtually(main)
