"""The simulation has teeth: the library broken on purpose, each way, is caught, and by the rule that forbids it."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tickrunner_trio import Config, Outcome, Service, Tick
from tickrunner_trio import _schedule as schedule
from tickrunner_trio import _service as service
from tickrunner_trio._alarm import Alarm
from tickrunner_trio.lockers._backoff import Backoff
from tickrunner_trio.lockers._timing import lease_timing
from tickrunner_trio.testing import Cluster, DatabaseAway, Freeze, Kill, Partition, Start, _cluster
from tickrunner_trio.testing._lock_server import Grant, LockServer
from tickrunner_trio.testing._lock_session import LockSession
from tickrunner_trio.testing._simulated_locker import SimulatedLease

if TYPE_CHECKING:
    from collections.abc import Callable

INTERVAL = 60.0
SEEDS = range(20)  # they put the works and holds anywhere around the faults

OVERLAP = "broken: no two runs of a service at the same time"
OFTEN = "broken: once per interval over all replicas: sweep succeeded on .* and again"
SELDOM = "broken: once per interval over all replicas: sweep did not run for"
RECOVERY = "broken: every service succeeds within"

silent = logging.getLogger("tests.test_cluster_mutants")
silent.disabled = True


def judge(faults: tuple[Any, ...], *, seed: int, work_seconds: float = 50.0, lease: float = 6.0) -> None:
    """Play it and hold it to all rules. The work is nearly always under way, and takes some time to stop."""
    cleaning = lease / 4  # less than the third that it is given

    async def work(tick: Tick) -> None:
        try:
            await trio.sleep(work_seconds)
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await trio.sleep(cleaning)
            raise

    cluster = Cluster(
        lambda locker: [Service(Config(name="sweep", interval=INTERVAL, locker=locker, work=work, log=silent))],
        faults=faults,
        lease=lease,
        seed=seed,
    )
    timeline = cluster.run(20 * INTERVAL)
    timeline.assert_never_overlapping(within=cleaning)
    timeline.assert_once_per_interval()
    timeline.assert_recovers_within(lease + 10 + 2 * INTERVAL)


def everywhere(fault: Callable[..., Any], *, seconds: float) -> tuple[Any, ...]:
    """The fault, once for each replica, so that it hits whoever holds the lock; their slots are far apart."""
    starts = (Start("r2", at=20), Start("r3", at=40))
    return starts + tuple(fault(f"r{number}", at=305 * number, seconds=seconds) for number in (1, 2, 3))


PARTITIONS = everywhere(Partition, seconds=60)
FREEZES = everywhere(Freeze, seconds=20)
KILLS = (Kill("r1", at=300), Kill("r2", at=600))
RESTART = (Kill("r2", at=90), Start("r2", at=100))
AWAY = (DatabaseAway(at=300, seconds=200),)


def lease_never_lost(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SimulatedLease, "lose", lambda self: None)
    patch.setattr(SimulatedLease, "lost", False)


def work_is_not_cancelled_when_the_lock_is_lost(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SimulatedLease, "lose", lambda self: setattr(self, "_is_lost", True))


def unlock_what_is_there(patch: pytest.MonkeyPatch) -> None:
    unlock = LockServer.unlock
    patch.setattr(
        LockServer,
        "unlock",
        lambda self, backend, lock_id, now: lock_id in backend.locks and unlock(self, backend, lock_id, now),
    )


def two_are_granted_the_lock(patch: pytest.MonkeyPatch) -> None:
    grant = LockServer.try_lock

    def try_lock(self: Any, backend: Any, lock_id: int, now: float) -> Grant | None:
        return Grant(1) if lock_id in self._holders and now > 300 else grant(self, backend, lock_id, now)

    patch.setattr(LockServer, "try_lock", try_lock)
    unlock_what_is_there(patch)


def session_is_closed_before_the_work_has_stopped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LockSession, "_close_if_idle", LockSession._close)


def cancel_point_after_the_servers_release(patch: pytest.MonkeyPatch) -> None:
    timing = lease_timing
    patch.setattr(
        _cluster, "lease_timing", lambda lease: replace(timing(lease), cancel_after=1.5 * lease, reply=1.5 * lease)
    )


def thawed_holder_takes_its_lease_for_good(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LockSession, "_resume", lambda self, now: setattr(self, "_is_silent", False))
    patch.setattr(LockSession, "is_expired", lambda self, now: False)
    unlock_what_is_there(patch)


def lock_let_go_of_when_the_timeout_strikes(patch: pytest.MonkeyPatch) -> None:
    """A quick unlock: the session parts with its backend as soon as the work is told to stop."""
    lose = SimulatedLease.lose

    def lose_at_once(self: Any) -> None:
        lose(self)
        if self._session.backend is not None:
            self._session._server.end(self._session.backend, trio.current_time())

    patch.setattr(SimulatedLease, "lose", lose_at_once)


def hold_let_go_early(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(service, "hold_until", lambda outcome, **given: given["started_at"])


def hold_for_half_of_the_interval(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(schedule, "SUCCESS_HOLD", 0.5)


def slots_drift(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(service, "Schedule", lambda first, interval: schedule.Schedule(first, 1.5 * interval))


def first_tick_after_whole_intervals(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(service, "jitter", lambda interval, random: 1.5 * interval)


def no_retry_after_unavailable(patch: pytest.MonkeyPatch) -> None:
    publish = Service._publish

    class SleepsForEver(Alarm):
        async def sleep_until(self, deadline: float) -> None:
            await trio.sleep_forever()

    def gives_up(self: Any, attempt: Any, outcome: Outcome) -> None:
        publish(self, attempt, outcome)
        if outcome is Outcome.UNAVAILABLE:
            self._alarm = SleepsForEver()

    patch.setattr(Service, "_publish", gives_up)


def no_reconnection(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Backoff, "next_seconds", lambda self: math.inf)


def locks_of_an_ended_session_stay(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LockServer, "_free", lambda self, backend, lock_id, now, *, kept: backend.locks.pop(lock_id))
    patch.setattr(LockServer, "unlock", lambda self, backend, lock_id, now: self._holders.pop(lock_id))


def no_idle_session_timeout(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LockServer, "end_the_silent", lambda self, now: None)


def session_that_parts_never_closes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LockSession, "_close", lambda self, now: setattr(self, "_answered_at", math.inf))


@dataclass(frozen=True)
class Mutant:
    breaks: Callable[[pytest.MonkeyPatch], None]
    caught_by: str
    plan: tuple[Any, ...] = ()
    work_seconds: float = 50.0
    lease: float = 6.0


MUTANTS = [
    Mutant(lease_never_lost, OVERLAP, PARTITIONS),
    Mutant(lease_never_lost, OVERLAP, FREEZES),
    Mutant(work_is_not_cancelled_when_the_lock_is_lost, OVERLAP, PARTITIONS),
    Mutant(two_are_granted_the_lock, OVERLAP),
    Mutant(session_is_closed_before_the_work_has_stopped, OVERLAP, everywhere(Partition, seconds=33), lease=60),
    Mutant(cancel_point_after_the_servers_release, OVERLAP, PARTITIONS),
    Mutant(thawed_holder_takes_its_lease_for_good, OVERLAP, FREEZES),
    Mutant(lock_let_go_of_when_the_timeout_strikes, OVERLAP, PARTITIONS),
    Mutant(hold_let_go_early, OFTEN, work_seconds=2),
    Mutant(hold_for_half_of_the_interval, OFTEN, RESTART, work_seconds=2),
    Mutant(slots_drift, SELDOM),
    Mutant(first_tick_after_whole_intervals, SELDOM),
    Mutant(no_retry_after_unavailable, RECOVERY, AWAY),
    Mutant(no_reconnection, RECOVERY, AWAY),
    Mutant(locks_of_an_ended_session_stay, RECOVERY, KILLS),
    Mutant(no_idle_session_timeout, RECOVERY, everywhere(Freeze, seconds=250)),
    Mutant(session_that_parts_never_closes, RECOVERY, PARTITIONS),
]


@pytest.mark.parametrize("plan", [(), PARTITIONS, FREEZES, KILLS, RESTART, AWAY], ids=repr)
def test_the_library_as_it_is_keeps_all_rules(plan: tuple[Any, ...]) -> None:
    for seed in SEEDS:
        judge(plan, seed=seed)
        judge(plan, seed=seed, work_seconds=2, lease=60)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.breaks.__name__)
def test_what_is_broken_is_caught_by_the_rule_that_forbids_it(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.breaks(monkeypatch)
    with pytest.raises(AssertionError, match=mutant.caught_by):
        for seed in SEEDS:  # pragma: no branch - one of them shows it
            judge(mutant.plan, seed=seed, work_seconds=mutant.work_seconds, lease=mutant.lease)
