"""The simulated session: the arithmetic of the lease in virtual time, and its invariants under any faults."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tickrunner_trio.lockers import _conninfo
from tickrunner_trio.lockers._deadline import Deadline
from tickrunner_trio.lockers._timing import lease_timing
from tickrunner_trio.testing import _lock_session
from tickrunner_trio.testing._lock_server import Grant, Hold, LockServer
from tickrunner_trio.testing._lock_session import LockSession, SessionState

if TYPE_CHECKING:
    from collections.abc import Callable

TIMING = lease_timing(15.0)  # beat 3, reply 5, cancel after 9.985, cleanup 5
LOCK = 7


class Chance(random.Random):
    """Decides for the worst: the fault falls just after a beat, or just before the next one."""

    def __init__(self, share: float) -> None:
        super().__init__(0)
        self.share = share

    def random(self) -> float:
        return self.share

    def uniform(self, a: float, b: float) -> float:
        return b


class Work:
    """Who holds the lock, and stops at once when it is lost unless told otherwise."""

    def __init__(self, lock_id: int = LOCK) -> None:
        self.lock_id = lock_id
        self.is_held = False
        self.lost_at: float | None = None
        self.now: Callable[[], float] = lambda: 0.0

    def lose(self) -> None:
        assert self.is_held
        assert self.lost_at is None
        self.lost_at = self.now()


class World:
    """One server and a session, both brought up to date in steps of a hundredth of a second."""

    def __init__(self, share: float = 0.0) -> None:
        self.holds: list[Hold] = []
        self.server = LockServer(TIMING.lease, self.holds.append)
        self.session = LockSession(self.server, "r1", TIMING, chance=Chance(share), changed=lambda: None)
        self.now = 0.0
        self.work = Work()
        self.work.now = lambda: self.now
        self.session.started(0.0, cut=0, frozen=0)
        assert self.state is SessionState.READY

    def hold(self) -> None:
        assert self.session.backend is not None
        assert self.session.reserve(self.work)
        self.session.ask(self.now)
        assert self.server.try_lock(self.session.backend, LOCK, self.now) is not None
        self.work.is_held = True

    def go_on_to(self, at: float) -> None:
        while (due := self.session.next_at()) <= at:
            self.now = due
            self.session.advance(due)
        self.now = at
        self.session.advance(at)

    @property
    def state(self) -> SessionState:
        return self.session.state

    @property
    def freed_at(self) -> float | None:
        return self.holds[0].freed_at if self.holds else None


def test_a_cut_shorter_than_the_wait_for_a_reply_costs_nothing() -> None:
    world = World()
    world.hold()
    world.go_on_to(100)
    world.session.cut(100.0)  # the next beat is due at 103, its reply until 108
    world.go_on_to(107.9)
    world.session.mend(107.9)
    world.go_on_to(200)
    assert world.work.lost_at is None
    assert world.holds == []
    assert world.state is SessionState.READY


def test_a_cut_is_waited_for_as_long_after_an_earlier_one_that_cost_a_session() -> None:
    world = World()
    world.go_on_to(100)
    world.session.cut(100.0)
    world.go_on_to(140)
    world.session.mend(140.0)
    world.go_on_to(200)
    world.hold()
    world.session.cut(200.0)
    world.go_on_to(207.9)
    assert world.work.lost_at is None
    world.session.mend(207.9)
    world.session.cut(300.0)
    world.go_on_to(400)
    assert world.work.lost_at == 308


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_longer_one_costs_the_session_so_long_after_the_last_beat(share: float) -> None:
    world = World(share)
    world.hold()
    world.go_on_to(100)
    world.session.cut(100.0)
    beat_at = 100 - share * TIMING.beat
    world.go_on_to(150)
    assert world.work.lost_at == pytest.approx(beat_at + TIMING.beat + TIMING.reply)
    assert world.freed_at == pytest.approx(beat_at + TIMING.lease)


def test_a_statement_of_our_own_is_waited_for_as_long_as_a_beat() -> None:
    world = World()
    world.hold()
    world.go_on_to(100)
    world.session.cut(100.0)
    world.go_on_to(101)
    world.session.ask(101.0)
    world.go_on_to(102)
    world.session.ask(102.0)  # goes out after that one
    world.go_on_to(150)
    assert world.work.lost_at == pytest.approx(101 + TIMING.reply)


def test_the_last_statement_counts_as_a_beat() -> None:
    world = World(share=0.999)
    world.go_on_to(100)
    world.hold()
    world.session.cut(100.0)
    world.go_on_to(150)
    assert world.freed_at == 100 + TIMING.lease


@pytest.mark.parametrize(("thawed_at", "is_lost"), [(109.9, False), (110.1, True)])
def test_frozen_it_is_lost_from_the_cancel_point_on(thawed_at: float, is_lost: bool) -> None:
    world = World()
    world.hold()
    world.go_on_to(100)
    world.session.freeze(100.0)
    world.go_on_to(109.98)
    assert not world.session.is_expired(109.98)
    assert world.session.is_expired(109.99)
    world.now = thawed_at
    world.session.thaw(thawed_at)
    assert (world.work.lost_at == thawed_at) is is_lost
    assert (world.state is SessionState.READY) is not is_lost


def test_the_server_frees_the_locks_of_a_frozen_holder_after_the_lease() -> None:
    world = World()
    world.hold()
    world.go_on_to(100)
    world.session.freeze(100.0)
    other = world.server.connect("r2")
    assert world.server.try_lock(other, LOCK, 114.9) is None
    assert world.server.try_lock(other, LOCK, 115.0) == Grant(2)
    assert world.holds == [Hold("r1", LOCK, 0.0, 115.0, kept=False)]


def test_a_beat_that_was_sent_before_a_freeze_is_waited_for_no_longer_than_any() -> None:
    world = World()
    world.hold()
    world.go_on_to(100)
    world.session.cut(100.0)
    world.go_on_to(104)  # the beat was sent at 103
    world.session.freeze(104.0)
    world.session.thaw(107.9)
    world.go_on_to(150)
    assert world.work.lost_at == 108


def test_a_beat_that_the_network_delivers_while_its_sender_is_frozen_counts_for_the_server() -> None:
    world = World()
    world.hold()
    world.go_on_to(100)
    world.session.cut(100.0)
    world.go_on_to(104)
    world.session.freeze(104.0)
    world.session.mend(105.0)
    world.session.thaw(130.0)
    assert world.freed_at == 120


def test_what_was_not_yet_sent_is_not_delivered_when_the_way_is_back() -> None:
    world = World()
    world.hold()
    world.go_on_to(100)
    world.session.cut(100.0)
    world.session.freeze(101.0)  # before the beat
    world.session.mend(105.0)
    world.server.end_the_silent(116.0)
    assert world.freed_at == 115


def test_a_beat_that_was_due_while_it_was_frozen_is_sent_at_the_thaw_and_waited_for() -> None:
    world = World()
    world.hold()
    world.go_on_to(100)
    world.session.cut(100.0)
    world.session.freeze(101.0)
    world.session.thaw(104.5)
    assert world.session.next_at() == 109.5
    world.session.freeze(104.6)
    world.session.mend(105.0)
    assert world.server.held(105.0) != []
    world.server.end_the_silent(119.9)
    assert world.freed_at is None  # the statement of 104.5 arrived at 105
    world.server.end_the_silent(120.0)
    assert world.freed_at == 120


def test_a_backend_that_has_ended_is_not_listened_for_any_more() -> None:
    world = World()
    world.session.cut(1.0)
    backend = world.session.backend
    assert backend is not None
    world.server.end(backend, 2.0)
    assert backend.silent_since == float("inf")
    world.server.end_the_silent(100.0)
    assert world.holds == []


def test_after_a_thaw_nothing_has_happened_in_the_past() -> None:
    world = World()
    world.hold()
    world.go_on_to(100)
    world.session.freeze(100.0)
    world.session.thaw(130.0)
    assert world.freed_at == 115
    assert world.session.state is SessionState.CLOSED  # it connects anew in a tenth of a second
    world.go_on_to(130.1)
    assert world.session.state.name == "READY"


def test_a_statement_that_was_answered_late_counts_from_its_sending() -> None:
    world = World(share=0.999)
    world.hold()
    world.go_on_to(100)
    world.session.cut(100.0)
    sent_at = 100 - 0.999 * TIMING.beat + TIMING.beat
    world.session.mend(102.0)
    world.session.cut(102.1)
    world.go_on_to(150)
    assert world.freed_at == pytest.approx(sent_at + TIMING.lease)


def test_an_attempt_to_connect_that_is_under_way_succeeds_as_soon_as_the_way_is_back() -> None:
    world = World()
    world.go_on_to(100)
    world.session.cut(100.0)
    world.go_on_to(110)  # lost at 108, and tried again from 108.1 until 113.1
    world.session.mend(110.0)
    assert world.state is SessionState.READY


def test_after_a_session_that_lived_it_does_not_wait_long() -> None:
    world = World()
    world.go_on_to(50)
    world.server.go_away(50.0)
    world.session.drop(50.0)
    world.go_on_to(70)
    world.server.come_back()
    world.go_on_to(85)
    world.session.drop(100.0)
    world.go_on_to(100.11)
    assert world.state is SessionState.READY


def test_after_giving_up_the_session_is_kept_until_the_work_has_stopped() -> None:
    world = World()
    world.hold()
    world.go_on_to(100)
    world.session.cut(100.0)
    world.go_on_to(108)
    assert world.state is SessionState.PARTING
    world.session.mend(109.0)
    assert world.holds == []  # the work is still cleaning up
    world.now = 110.0
    world.work.is_held = False
    world.session.released(110.0)
    assert world.freed_at == 110


def test_work_that_does_not_stop_is_waited_for_until_the_server_has_freed_the_lock() -> None:
    world = World()
    world.hold()
    world.go_on_to(100)
    world.session.cut(100.0)
    world.go_on_to(114.9)
    assert world.state is SessionState.PARTING
    world.go_on_to(115)
    assert world.state.name == "CLOSED"  # mypy believes that it stays what it was
    assert world.freed_at == 115


@pytest.mark.parametrize("how", ["dropped", "away"])
def test_a_loud_end_is_noticed_at_once_and_frees_the_locks_at_once(how: str) -> None:
    world = World()
    world.hold()
    world.go_on_to(50)
    if how == "away":
        world.server.go_away(50.0)
    world.session.drop(50.0)
    assert world.work.lost_at == 50
    assert world.freed_at == 50
    world.go_on_to(50.2)
    assert (world.state is SessionState.READY) is (how == "dropped")
    if how == "away":
        world.server.come_back()
        world.go_on_to(61)
        assert world.state is SessionState.READY


def test_a_loud_end_is_not_heard_through_a_cut() -> None:
    world = World()
    world.hold()
    world.go_on_to(50)
    world.session.cut(50.0)
    world.session.drop(50.0)
    assert world.freed_at == 50
    world.go_on_to(54)
    assert world.work.lost_at is None
    world.now = 54.0
    world.session.mend(54.0)
    assert world.work.lost_at == 54


def test_a_process_that_ends_behind_a_cut_keeps_its_locks_until_the_lease_is_over_or_the_way_is_back() -> None:
    for mended_at, freed_at in ((104.0, 104.0), (130.0, 115.0)):
        world = World()
        world.hold()
        world.go_on_to(100)
        world.session.cut(100.0)
        world.session.end(101.0)
        world.server.end_the_silent(mended_at)
        world.session.mend(mended_at)
        assert world.freed_at == freed_at


def test_what_such_a_process_says_last_waits_for_the_end_of_all_cuts() -> None:
    world = World()
    world.hold()
    world.go_on_to(100)
    world.session.cut(100.0)
    world.session.end(101.0)
    world.session.cut(102.0)
    world.session.mend(103.0)
    assert world.freed_at is None
    world.session.mend(104.0)
    assert world.freed_at == 104


def test_the_locks_of_one_session_are_not_reentrant() -> None:
    world = World()
    world.hold()
    assert not world.session.reserve(Work())
    world.session.stopped(world.work)
    assert world.session.reserve(Work())


def test_epochs_count_up() -> None:
    server = LockServer(15.0, lambda hold: None)
    backends = [server.connect(f"r{number}") for number in (1, 2)]
    epochs = []
    for at in range(6):
        backend = backends[at % 2]
        epochs.append(server.try_lock(backend, LOCK, at))
        server.unlock(backend, LOCK, at)
    assert epochs == [Grant(number) for number in range(1, 7)]


@given(
    lease=st.floats(2, 3600),
    share=st.floats(0, 0.999),
    at=st.floats(10_000, 20_000),
    looked_after=st.floats(0, 1.2),
)
def test_its_times_are_those_of_the_real_deadline(lease: float, share: float, at: float, looked_after: float) -> None:
    timing = lease_timing(lease)
    holds: list[Hold] = []
    server = LockServer(lease, holds.append)
    session = LockSession(server, "r1", timing, chance=Chance(share), changed=lambda: None)
    session.started(0.0, cut=0, frozen=0)
    for _ in range(3):  # each session as if there had been none before
        session.advance(at)
        assert session.backend is not None
        assert server.try_lock(session.backend, LOCK, at - timing.beat) is not None
        answered_at = at - share * timing.beat
        looked_at = at + looked_after * lease
        deadline = Deadline(timing)
        deadline.put_off(answered_at)

        session.cut(at)
        assert session.next_at() == deadline.reply_by(answered_at + timing.beat)
        session.freeze(at)
        assert session.is_expired(looked_at) is deadline.has_passed(looked_at)
        server.end_the_silent(at + 2 * lease)
        assert holds.pop().freed_at == deadline.server_ends_at()
        session.thaw(at + 2 * lease)
        session.advance(at + 4 * lease)
        session.mend(at + 4 * lease)
        at += 5 * lease + 100


def test_its_attempts_fail_after_as_long_as_the_real_ones() -> None:
    assert _lock_session._CONNECT_SECONDS == _conninfo._CONNECT_SECONDS


class Replica:
    """A session, the work under its lock, and how long that takes to stop."""

    def __init__(self, world: AnyFaults, number: int) -> None:
        self.world = world
        self.session = LockSession(
            world.server, f"r{number}", TIMING, chance=random.Random(number), changed=lambda: None
        )
        self.frozen = self.cut = 0
        self.work: Work | None = None
        self.stops_at: float | None = None
        self.excused = False  # the server ended the session, or it was frozen: no lease covers that
        self.session.started(0.0, cut=0, frozen=0)

    def advance(self, now: float) -> None:
        """Do what was due, each at its time."""
        while True:
            due = self.session.next_at()
            stops = self.stops_at if self.stops_at is not None and not self.frozen else float("inf")
            at = min(due, stops)
            if at > now:
                break
            self.world.now = max(self.world.now, at) if at > self.world.now else self.world.now
            self.session.advance(at)
            if stops <= at:
                self.stop(at)
        self.session.advance(now)

    def stop(self, now: float) -> None:
        assert self.work is not None
        work, self.work, self.stops_at = self.work, None, None
        work.is_held = False
        self.session.released(now) if work.lost_at is not None else None
        self.session.stopped(work)


class AnyFaults(RuleBasedStateMachine):
    """Three replicas want one lock; any faults. Work stops within its third of the lease once it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.holds: list[Hold] = []
        self.server = LockServer(TIMING.lease, self.holds.append)
        self.replicas = [Replica(self, number) for number in range(3)]
        self.epoch = 0

    def bring_up_to(self, now: float) -> None:
        for replica in self.replicas:
            replica.advance(now)
        self.now = now

    @rule(seconds=st.sampled_from([0.1, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0]))
    def time_passes(self, seconds: float) -> None:
        self.bring_up_to(self.now + seconds)

    @rule(index=st.integers(0, 2))
    def somebody_tries(self, index: int) -> None:
        replica = self.replicas[index]
        session = replica.session
        self.bring_up_to(self.now)
        if replica.frozen or replica.cut or session.state is not SessionState.READY or replica.work is not None:
            return
        work = Work()
        assert session.reserve(work)
        session.ask(self.now)
        assert session.backend is not None
        grant = self.server.try_lock(session.backend, LOCK, self.now)
        if grant is None:
            session.stopped(work)
            return
        assert grant.epoch is not None
        assert grant.epoch > self.epoch, "epochs count up"
        self.epoch = grant.epoch
        for other in self.replicas:
            if other is not replica and other.work is not None:
                assert other.excused, "a rival's work still ran when the lock was granted"
        work.is_held = True
        replica.work, replica.excused = work, False

        def lost() -> None:
            if work.is_held and work.lost_at is None:
                work.lost_at = self.now
                replica.stops_at = max(self.now, session_now(replica)) + TIMING.cleanup

        work.lose = lost  # type: ignore[method-assign]

    @rule(index=st.integers(0, 2))
    def somebody_is_done(self, index: int) -> None:
        replica = self.replicas[index]
        self.bring_up_to(self.now)
        if replica.work is None or replica.frozen or replica.cut or replica.work.lost_at is not None:
            return
        assert replica.session.backend is not None
        replica.session.ask(self.now)
        self.server.unlock(replica.session.backend, LOCK, self.now)
        replica.stop(self.now)

    @rule(index=st.integers(0, 2))
    def freeze(self, index: int) -> None:
        self.bring_up_to(self.now)
        self.replicas[index].excused = True
        self.replicas[index].session.freeze(self.now)
        self.replicas[index].frozen += 1

    @precondition(lambda self: any(replica.frozen for replica in self.replicas))
    @rule()
    def thaw(self) -> None:
        self.bring_up_to(self.now)
        replica = next(replica for replica in self.replicas if replica.frozen)
        replica.session.thaw(self.now)
        replica.frozen -= 1

    @rule(index=st.integers(0, 2))
    def cut(self, index: int) -> None:
        self.bring_up_to(self.now)
        self.replicas[index].session.cut(self.now)
        self.replicas[index].cut += 1

    @precondition(lambda self: any(replica.cut for replica in self.replicas))
    @rule()
    def mend(self) -> None:
        self.bring_up_to(self.now)
        replica = next(replica for replica in self.replicas if replica.cut)
        replica.session.mend(self.now)
        replica.cut -= 1

    @rule(index=st.integers(0, 2))
    def drop(self, index: int) -> None:
        self.bring_up_to(self.now)
        self.replicas[index].excused = True
        self.replicas[index].session.drop(self.now)

    @invariant()
    def no_lock_has_two_holders(self) -> None:
        holds = sorted([*self.holds, *self.server.held(self.now)], key=lambda hold: hold.granted_at)
        for before, after in pairwise(holds):
            assert before.freed_at <= after.granted_at

    @invariant()
    def an_expired_lease_is_lost_unless_nothing_of_it_runs(self) -> None:
        running = [(each.work, each.session) for each in self.replicas if each.work is not None and not each.frozen]
        assert [work for work, session in running if session.is_expired(self.now) and work.lost_at is None] == []


def session_now(replica: Replica) -> float:
    return replica.world.now


AnyFaults.TestCase.settings = settings(stateful_step_count=40, deadline=None)
TestAnyFaults: Any = AnyFaults.TestCase


def test_the_machine_sees_lost_work_stop_and_a_rival_come_in_beside_what_is_frozen() -> None:
    """What chance makes of it else, and not each time."""
    machine = AnyFaults()
    machine.somebody_tries(0)
    machine.drop(0)
    machine.time_passes(0.1)
    machine.drop(0)
    machine.time_passes(20.0)
    machine.somebody_tries(0)
    machine.cut(0)
    machine.time_passes(20.0)
    assert machine.replicas[0].work is None
    machine.somebody_tries(1)
    machine.freeze(1)
    machine.time_passes(20.0)
    machine.somebody_tries(2)
    assert [replica.work is not None for replica in machine.replicas] == [False, True, True]
    machine.thaw()
    machine.drop(1)
    machine.time_passes(20.0)
    machine.no_lock_has_two_holders()
    machine.an_expired_lease_is_lost_unless_nothing_of_it_runs()
