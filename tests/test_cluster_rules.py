"""The rules of the design, held over thousands of random fault plans in virtual time: the simulation is the model."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import trio
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from tickrunner_trio import Config, Service, Tick
from tickrunner_trio.testing import Cluster, strategies
from tickrunner_trio.testing._lock_session import LONGEST_RETURN

if TYPE_CHECKING:
    from tickrunner_trio import AdvisoryLocker
    from tickrunner_trio.testing import Timeline

LEASE = 15.0

#: For each of the four setups; `nox -s simulation` asks for 2,000 in all.
PLANS = int(os.environ.get("TICKRUNNER_TEST_PLANS", "100")) // 4

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
    timeout: float | None = None
    startup: bool = False

    @property
    def slots_to_success(self) -> int:
        """In so many slots a replica that has begun in the worst moment succeeds: one may fail, one be in the past."""
        return 3 if self.fails_each or self.timeout else 2

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
                tick_timeout=self.timeout,
                log=silent,
            )
        )


@dataclass(frozen=True)
class Setup:
    """So many replicas run these services for so long."""

    replicas: int
    services: tuple[Habits, ...]
    seconds: float

    def play(self, plan: Any, seed: int) -> Timeline:
        return Cluster(
            lambda locker: [each.service(locker) for each in self.services],
            replicas=self.replicas,
            faults=plan,
            lease=LEASE,
            seed=seed,
        ).run(self.seconds)


SETUPS = {
    "two replicas, work without end": Setup(2, (Habits("long", 20, shortest=5, longest=25),), 400),
    "three replicas, work that cleans up for as long as it may": Setup(
        3, (Habits("tidy", 30, shortest=1, longest=12, stopping=LEASE / 3),), 600
    ),
    "three replicas, work that fails": Setup(
        3, (Habits("short", 20, fails_each=3), Habits("failing", 30, shortest=2, longest=4, fails_each=2)), 300
    ),
    "five replicas, three services": Setup(
        5,
        (
            Habits("quick", 20),
            Habits("boot", 40, longest=6, startup=True),
            Habits("slow", 60, shortest=10, longest=20, timeout=18),
        ),
        300,
    ),
}


@pytest.mark.parametrize("setup", SETUPS.values(), ids=list(SETUPS))
def test_under_any_faults_no_run_overlaps_each_interval_has_one_and_all_recover(setup: Setup) -> None:
    @hypothesis.settings(max_examples=PLANS, suppress_health_check=[HealthCheck.too_slow])
    @given(plan=strategies.fault_plans(replicas=setup.replicas, until=setup.seconds), seed=st.integers(0, 2**16))
    def holds(plan: Any, seed: int) -> None:
        timeline = setup.play(plan, seed)
        # No lease covers a session that the server drops, or a replica that was frozen: the work is told at once, and
        # may clean up.
        timeline.assert_never_overlapping(within=max(each.stopping for each in setup.services))
        timeline.assert_once_per_interval(tolerance=0.1)
        for each in setup.services:
            # The server frees the locks, the survivors connect anew, and their slots come.
            seconds = LEASE + LONGEST_RETURN + each.slots_to_success * (each.interval + each.longest)
            timeline.assert_recovers_within(seconds, services=[each.name])

    holds()


def test_under_hypothesis_the_same_seed_and_plan_give_the_same_timeline() -> None:
    played: list[tuple[Any, int, Timeline]] = []
    setup = SETUPS["three replicas, work that cleans up for as long as it may"]

    # Hypothesis seeds each example's chance alike, and Trio's too.
    @hypothesis.settings(max_examples=10, derandomize=True, database=None)
    @given(plan=strategies.fault_plans(until=setup.seconds), seed=st.integers(0, 2**16))
    def play(plan: Any, seed: int) -> None:
        played.append((plan, seed, setup.play(plan, seed)))

    play()
    first, played = played, []
    play()
    assert len(first) >= 10
    assert played == first
