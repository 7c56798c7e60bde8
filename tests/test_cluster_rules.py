"""The rules of the design, held over thousands of random fault plans in virtual time: the simulation is the model."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import trio
from conftest import IN_CI
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from tickrunner_trio import Config, Service, Tick
from tickrunner_trio.testing import Cluster
from tickrunner_trio.testing._fault_plans import fault_plans

if TYPE_CHECKING:
    from tickrunner_trio import AdvisoryLocker

LEASE = 15.0

#: Four configurations with so many plans each, in CI.
PLANS = 500

silent = logging.getLogger("tests.test_cluster_rules")
silent.disabled = True


@dataclass(frozen=True)
class Habits:
    """What a service does; in seconds."""

    name: str
    interval: float
    shortest: float = 0.0  #: Its work takes from this
    longest: float = 0.0  #: to that, in turn.
    stopping: float = 0.0  #: So long it cleans up when it is cancelled.
    fails_each: int = 0  #: Each such run fails; 0: none.
    startup: bool = False

    def service(self, locker: AdvisoryLocker) -> Service:
        count = 0

        async def work(tick: Tick) -> None:
            nonlocal count
            count += 1
            try:
                await trio.sleep(self.shortest + (self.longest - self.shortest) * (count % 4) / 3)
            except trio.Cancelled:
                with trio.CancelScope(shield=True):
                    await trio.sleep(self.stopping)
                raise
            if self.fails_each and count % self.fails_each == 0:
                raise OSError("out of luck")

        return Service(
            Config(
                name=self.name,
                interval=self.interval,
                locker=locker,
                work=work,
                startup=work if self.startup else None,
                log=silent,
            )
        )


SETUPS: dict[str, tuple[int, tuple[Habits, ...]]] = {
    "two replicas, work without end": (2, (Habits("long", 20, shortest=5, longest=25),)),
    "three replicas, work that cleans up for as long as it may": (
        3,
        (Habits("tidy", 30, shortest=1, longest=12, stopping=LEASE / 3),),
    ),
    "three replicas, work that fails": (
        3,
        (Habits("short", 20, fails_each=3), Habits("failing", 30, shortest=2, longest=4, fails_each=2)),
    ),
    "five replicas, three services": (
        5,
        (Habits("quick", 20), Habits("boot", 40, longest=6, startup=True), Habits("slow", 60, shortest=10, longest=20)),
    ),
}


@pytest.mark.parametrize("setup", SETUPS)
def test_under_any_faults_no_run_overlaps_each_interval_has_one_and_all_recover(setup: str) -> None:
    replicas, services = SETUPS[setup]
    seconds = 20.0 * min(each.interval for each in services)
    stopping = max(each.stopping for each in services)
    # The server frees the locks, somebody is connected again, its next slot comes; and the next one if that one fails.
    recovery = LEASE + 10 + sum(2 * each.interval + each.longest for each in services if each.interval >= 0)

    @hypothesis.settings(max_examples=PLANS, suppress_health_check=[HealthCheck.too_slow])
    @given(plan=fault_plans(replicas=replicas, until=seconds), seed=st.integers(0, 2**16))
    def holds(plan: Any, seed: int) -> None:
        cluster = Cluster(
            lambda locker: [each.service(locker) for each in services],
            replicas=replicas,
            faults=plan,
            lease=LEASE,
            seed=seed,
        )
        timeline = cluster.run(seconds)
        timeline.assert_never_overlapping(within=stopping)
        timeline.assert_once_per_interval(tolerance=0.1)
        timeline.assert_recovers_within(min(recovery, seconds))

    holds()
