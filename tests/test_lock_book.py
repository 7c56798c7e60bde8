"""The book of locks against a model: callers, the thread and the server as plain lists, and a clock that a rule moves.

The machine plays all who use the book, in every order that the code allows them: callers that want, are cancelled,
work, hold and stop; the thread, with one statement under way at a time; the server, which does what a statement says as
soon as it is sent, whether or not its answer is heard; and Trio, which hears later what the thread tells it.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections import deque
from dataclasses import dataclass, field
from itertools import count, product
from typing import TYPE_CHECKING, Any, Literal

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tickrunner_trio import DatabaseUnavailableError, LockerConfigurationError
from tickrunner_trio._telemetry._meters import SessionTally
from tickrunner_trio.lockers import _deadline, _hold_ends, _lock_book, _unwritten, _waker
from tickrunner_trio.lockers._batch import Batch
from tickrunner_trio.lockers._lease import LeaseState, PostgresLease
from tickrunner_trio.lockers._ledger_lease import LedgerLease
from tickrunner_trio.lockers._lock_book import EXPIRED, MOST_LOCKS, LockBook
from tickrunner_trio.lockers._losses import Loss
from tickrunner_trio.lockers._timing import LeaseTiming

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from tickrunner_trio.lockers._batch import Answer

#: Of powers of two, so that the sums below are exact. H + W <= L and L + G <= S hold.
TIMING = LeaseTiming(lease=16.0, beat=2.0, reply=4.0, cancel_after=10.0, cleanup=5.0)

#: Mostly small, so that a session lives for a while, and quarters, so that a deadline is met exactly: there `<` and
#: `<=` differ.
SECONDS = st.integers(0, 8).map(lambda n: n / 4) | st.sampled_from([0.25, 0.5, 1.0, 5.0, 10.0])
PICKS = st.integers(0, 9)


@dataclass(eq=False)
class Caller:
    """One call of `with_advisory_lock`, and what the model says of its lock."""

    lease: PostgresLease
    state: LeaseState = LeaseState.WANTED
    waits: Literal["to have it", "until it is free", "no more"] = "to have it"
    runs: bool = False  #: Its fn has begun and not returned.
    hold_ends_at: float = math.inf  #: When the hold ends; inf while work runs under the lock.
    ended_itself: bool = False
    lost_by: str | None = None
    seen_lost: bool = False  #: Somebody was told that it is lost.
    to_stop_by: float = math.inf
    outlived: bool = False

    @property
    def lost_its_work(self) -> bool:
        """Whether work runs under a lock that is lost; under a hold there is none."""
        return self.state is LeaseState.LOST and self.hold_ends_at == math.inf

    @property
    def lock_id(self) -> int:
        return self.lease.lock_id


@dataclass
class Statement:
    """What is under way to the server."""

    batch: Batch
    sent_at: float
    granted: list[bool]


@dataclass
class Figures:
    """What the statistics must say."""

    opened: int = 0
    lost: int = 0
    batches: int = 0
    largest: int = 0
    round_trip: float | None = None
    outlived: int = 0


@dataclass
class Server:
    """The locks of our session, by id, and the ids that others hold."""

    ours: dict[int, Caller] = field(default_factory=dict)
    others: set[int] = field(default_factory=set)


class BookMachine(RuleBasedStateMachine):
    """See the module. Each rule tells the model first what must come of it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.roused = 0
        self.book = LockBook(TIMING, lambda: self.now, self.rouse)
        self.server = Server()
        self.figures = Figures()
        self.callers: list[Caller] = []  # whose call has not returned yet
        self.in_book: dict[int, Caller] = {}
        self.wanted: list[Caller] = []
        self.leaving: list[Caller] = []
        self.statement: Statement | None = None
        self.told: deque[list[Answer]] = deque()  # what Trio has not heard yet
        self.refusal: tuple[type[Exception], str] | None = (DatabaseUnavailableError, "the first connection")
        self.is_closed = True
        self.limit = 0
        self.answered_at = -math.inf
        self.expires_at = -math.inf
        self.sleeps_until: float | None = None  # the thread, unless it is roused

    def rouse(self, *, at_once: bool) -> None:
        assert not self.book._mutex._is_owned(), "I/O under the mutex"  # type: ignore[attr-defined]
        self.roused += 1
        self.sleeps_until = None

    # Who uses the book.

    @property
    def is_ready(self) -> bool:
        return self.refusal is None

    @property
    def has_expired(self) -> bool:
        return self.now >= self.expires_at

    def callers_that_wait(self, what: str) -> list[Caller]:
        return [caller for caller in self.callers if caller.waits == what]

    @property
    def runs(self) -> list[Caller]:
        return [caller for caller in self.callers if caller.runs]

    # Callers, in Trio's thread.

    @rule(lock_id=st.integers(-2, 4))
    def want(self, lock_id: int) -> None:
        caller = Caller(PostgresLease(self.book, lock_id))
        if self.refusal is not None:
            kind, reason = self.refusal
            with pytest.raises(kind) as caught:
                self.book.want(caller.lease)
            assert str(caught.value).startswith(reason)
        elif lock_id in self.in_book:
            assert self.book.want(caller.lease) is False
        else:
            assert self.book.want(caller.lease) is True
            self.callers.append(caller)
            self.in_book[lock_id] = caller
            self.wanted.append(caller)

    @precondition(lambda self: self.callers_that_wait("to have it"))
    @rule(pick=PICKS)
    def cancel_while_it_waits(self, pick: int) -> None:
        """By its scope, or by Trio's watchdog, which answers in place of a thread that is stuck."""
        self.leave_without_it(one_of(self.callers_that_wait("to have it"), pick))

    @precondition(lambda self: self.callers_that_wait("until it is free"))
    @rule(pick=PICKS)
    def watchdog_ends_the_wait_for_a_release(self, pick: int) -> None:
        self.callers.remove(one_of(self.callers_that_wait("until it is free"), pick))

    def leave_without_it(self, caller: Caller) -> None:
        caller.waits = "no more"
        self.callers.remove(caller)
        self.book.abandon(caller.lease)
        follows = {LeaseState.HELD: self.model_leaves, LeaseState.LOST: self.model_frees}
        follows.get(caller.state, lambda _: None)(caller)

    @precondition(lambda self: self.told)
    @rule()
    def trio_hears(self) -> None:
        for lease, answer in self.told.popleft():
            caller = next((caller for caller in self.callers if caller.lease is lease), None)
            if caller is None or caller.waits == "no more":
                continue
            waited, caller.waits = caller.waits, "no more"
            if waited == "until it is free":
                assert answer is True
                assert self.server.ours.get(caller.lock_id) is not caller
                self.callers.remove(caller)
            elif answer is True:
                self.begin(caller)
            elif answer is False:
                assert caller.state is LeaseState.FREE
                self.callers.remove(caller)
            else:
                assert isinstance(answer, Exception)
                self.leave_without_it(caller)

    def begin(self, caller: Caller) -> None:
        assert caller.state in (LeaseState.HELD, LeaseState.LOST)
        if self.loss_is_told(caller) is None:
            assert self.server.ours[caller.lock_id] is caller
            caller.runs = True
        else:
            self.hand_back(caller)

    @precondition(lambda self: self.runs)
    @rule(pick=PICKS)
    def work_stops(self, pick: int) -> None:
        caller = one_of(self.runs, pick)
        caller.runs = False
        self.hand_back(caller)

    def hand_back(self, caller: Caller) -> None:
        match caller.state:
            case LeaseState.HELD:
                self.model_leaves(caller)
            case LeaseState.LOST:
                self.model_frees(caller)
            case _:
                assert caller.ended_itself
        follows = caller.state is LeaseState.LEAVING
        assert self.book.give_back(caller.lease) is follows
        if follows:
            caller.waits = "until it is free"
        else:
            self.callers.remove(caller)

    @precondition(lambda self: self.runs)
    @rule(pick=PICKS, seconds=SECONDS | st.just(math.inf) | st.just(-1.0))
    def hold(self, pick: int, seconds: float) -> None:
        caller = one_of(self.runs, pick)
        lasts = caller.state is LeaseState.HELD and not self.has_expired
        if lasts:
            caller.hold_ends_at = self.now + seconds
        assert caller.lease.let_go_after(seconds) is lasts
        assert caller.lease.lost is not lasts

    # Whoever looks.

    @precondition(lambda self: self.runs)
    @rule(pick=PICKS)
    def look(self, pick: int) -> None:
        self.loss_is_told(one_of(self.runs, pick))

    @precondition(lambda self: self.is_ready and self.runs)
    @rule(pick=PICKS, who=st.sampled_from(["the thread", "Trio", "the work"]), late=st.sampled_from([0.0, 0.25, -0.25]))
    def lease_runs_out(self, pick: int, who: str, late: float) -> None:
        """Just so, or not quite; somebody looks first."""
        self.now = max(self.now, self.expires_at + late)
        caller = one_of(self.runs, pick)
        match who:
            case "Trio":
                self.loss_is_told(caller)
            case "the work":
                self.lost_shows(caller)
            case _ if self.statement is not None:
                self.server_answers()
            case _:
                self.thread_asks()

    def loss_is_told(self, caller: Caller) -> str | None:
        loss = caller.lost_by
        if caller.state is LeaseState.HELD and self.has_expired:
            loss = EXPIRED
        if not caller.ended_itself:  # else it may be told or not
            assert caller.lease.loss == loss
        self.lost_shows(caller)
        return loss

    def lost_shows(self, caller: Caller) -> None:
        """And stays."""
        has_expired = caller.state is LeaseState.HELD and self.has_expired
        is_lost = caller.lost_by is not None or caller.ended_itself or has_expired
        assert is_lost or not caller.seen_lost
        assert caller.lease.lost is is_lost
        caller.seen_lost = is_lost

    # The thread.

    @initialize(lock_table=st.sampled_from([6400, 12, 4, 3]))
    def first_session(self, lock_table: int) -> None:
        self.session_opens(0.0, lock_table)

    @precondition(lambda self: self.is_closed and not self.is_ready)
    @rule(ago=st.sampled_from([0.0, 0.25, 1.0, 9.75, 10.0]), lock_table=st.sampled_from([6400, 15, 0]))
    def session_opens(self, ago: float, lock_table: int) -> None:
        self.answered_at = self.now - ago
        self.expires_at = self.answered_at + TIMING.cancel_after
        self.limit = max(1, min(MOST_LOCKS, lock_table // 4))
        self.figures.opened += 1
        self.refusal, self.is_closed = None, False
        self.book.session_opened(self.answered_at, lock_table)

    @precondition(lambda self: self.is_ready and self.statement is None)
    @rule()
    def thread_asks(self) -> None:
        for caller in [*self.in_book.values()]:
            if caller.state is LeaseState.HELD and caller.hold_ends_at <= self.now:
                caller.ended_itself = True
                self.model_leaves(caller)
        acquires, refused = self.model_asks()
        releases, self.leaving = self.leaving, []
        batch = self.book.next_batch()
        assert [lease for lease, _ in batch.refused] == [caller.lease for caller in refused]
        assert {type(error) for _, error in batch.refused} <= {LockerConfigurationError}
        if refused:
            self.told.append(batch.refused)
        assert {lease.lock_id for lease in batch.releases} == {caller.lock_id for caller in releases}
        assert [lease.lock_id for lease in batch.acquires] == [caller.lock_id for caller in acquires]
        assert len(batch) == len({lease.lock_id for lease in [*batch.releases, *batch.acquires]}) <= MOST_LOCKS
        if not batch:
            self.sleeps_until = min(self.book.due_at(), self.now + TIMING.beat)
            return
        self.sleeps_until = None
        # The server: what it must never see is a lock taken twice, or let go of although we do not hold it.
        for lease in batch.releases:
            caller = self.server.ours.pop(lease.lock_id)
            assert caller.lease is lease
            assert caller.ended_itself or not caller.runs, "its work has not stopped"
        granted = []
        for caller in acquires:
            assert caller.lock_id not in self.server.ours, "re-entrant"
            granted.append(caller.lock_id not in self.server.others)
            if granted[-1]:
                self.server.ours[caller.lock_id] = caller
        assert len(self.server.ours) <= self.limit
        self.statement = Statement(batch, self.now, granted)

    @precondition(lambda self: self.is_ready and self.statement is None)
    @rule()
    def thread_beats(self) -> None:
        """Only when there was nothing else to ask; what came since then waits for the next statement."""
        if not self.wanted and not self.leaving and self.now < self.book.due_at():
            batch = self.book.next_batch()
            assert not batch
            self.statement = Statement(batch, self.now, [])

    @precondition(lambda self: self.statement is not None)
    @rule()
    def server_answers(self) -> None:
        assert self.statement is not None
        statement, self.statement = self.statement, None
        in_time = not self.has_expired
        answers = self.book.answered(statement.batch, statement.granted, statement.sent_at)
        if not in_time:
            assert answers is None
            self.session_ends("it came too late", left=False, server_has_it=True)
            return
        assert answers is not None
        self.answered_at = statement.sent_at
        self.expires_at = statement.sent_at + TIMING.cancel_after
        self.figures.round_trip = self.now - statement.sent_at
        if statement.batch:
            self.figures.batches += 1
            self.figures.largest = max(self.figures.largest, len(statement.batch))
        expected: list[tuple[PostgresLease, bool]] = []
        for lease in statement.batch.releases:
            self.model_frees(self.in_book[lease.lock_id])
            expected.append((lease, True))
        for lease, had in zip(statement.batch.acquires, statement.granted, strict=True):
            caller = self.in_book[lease.lock_id]
            if not had:
                self.model_frees(caller)
            elif caller in self.callers:
                caller.state = LeaseState.HELD
            else:
                self.model_leaves(caller)
            expected.append((lease, had))
        assert answers == expected
        self.told.append(list(answers))

    @precondition(lambda self: self.in_book and not self.is_closed)
    @rule(reason=st.sampled_from(["ended", "hung", "crashed"]), left=st.booleans(), server_has_it=st.booleans())
    def session_ends(self, reason: str, *, left: bool, server_has_it: bool) -> None:
        """With a statement under way or not; at a second time the thread tells of what went wrong in between."""
        self.statement = None
        self.figures.lost += self.is_ready and not left
        self.refusal = (DatabaseUnavailableError, f"refused: {reason}")
        self.expires_at = -math.inf
        lost, answers = self.book.lose_session(reason, self.refusal, left=left, server_has_it=server_has_it)
        held = [caller for caller in self.in_book.values() if caller.state is LeaseState.HELD]
        waiting = [caller for caller in self.in_book.values() if caller.state in (LeaseState.WANTED, LeaseState.ASKED)]
        assert {id(lease) for lease in lost} == {id(caller.lease) for caller in held}
        assert {id(lease) for lease, _ in answers} == {id(caller.lease) for caller in waiting}
        assert {str(answer) for _, answer in answers} <= {self.refusal[1]}
        assert len({id(answer) for _, answer in answers}) == len(answers), "two callers share an error"
        for caller in held:
            caller.state, caller.lost_by = LeaseState.LOST, reason
            over_at = self.answered_at + TIMING.lease
            caller.to_stop_by = over_at if server_has_it else min(over_at, self.now + TIMING.cleanup)
        self.wanted = []
        self.sleeps_until = None
        assert self.book.due_at() == math.inf
        self.told.append(list(answers))

    @precondition(lambda self: not self.is_ready)
    @rule()
    def thread_waits_for_the_work(self) -> None:
        runs = any(caller.lost_its_work for caller in self.in_book.values())
        assert self.book.lost_work_runs() is runs
        self.sleeps_until = math.inf if runs else None

    @precondition(lambda self: not self.is_ready and not self.is_closed)
    @rule()
    def session_is_closed(self) -> None:
        self.server.ours.clear()
        self.leaving = []
        self.is_closed = True
        answers = self.book.session_closed()
        freed = [caller for caller in self.in_book.values() if caller.state is not LeaseState.LOST]
        assert {id(lease) for lease, _ in answers} == {id(caller.lease) for caller in freed}
        assert {answer for _, answer in answers} <= {True}
        for caller in freed:
            self.model_frees(caller)
        self.told.append(list(answers))

    @rule()
    def thread_looks_for_work_that_resists(self) -> None:
        late = [
            caller
            for caller in self.in_book.values()
            if caller.lost_its_work and caller.to_stop_by <= self.now and not caller.outlived
        ]
        assert {id(lease) for lease in self.book.outlived()} == {id(caller.lease) for caller in late}
        for caller in late:
            caller.outlived = True
        self.figures.outlived += len(late)

    @rule(lock_table=st.sampled_from([6400, 12]))
    def thread_goes_on(self, lock_table: int) -> None:
        """Whatever it does next where nothing goes wrong."""
        if self.statement is not None:
            self.server_answers()
        elif self.is_ready:
            self.thread_asks()
        elif self.is_closed:
            self.session_opens(0.0, lock_table)
        else:
            self.session_is_closed()

    @rule(lock_ids=st.sets(st.integers(-2, 4), max_size=3))
    def all_goes_well(self, lock_ids: set[int]) -> None:
        """Some want locks and get their answers; so often that the machine sees more than the outages."""
        while not self.is_ready or self.statement is not None:
            self.thread_goes_on(6400)
        for lock_id in sorted(lock_ids):
            self.want(lock_id)
        self.thread_asks()
        if self.statement is not None:
            self.server_answers()
        while self.told:
            self.trio_hears()

    # The world.

    @rule(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(lock_id=st.integers(-2, 4))
    def somebody_else(self, lock_id: int) -> None:
        """Take the id in another process, or let go of it."""
        if lock_id not in self.server.ours:
            self.server.others ^= {lock_id}

    # The model.

    def model_leaves(self, caller: Caller) -> None:
        caller.state, caller.hold_ends_at = LeaseState.LEAVING, math.inf
        self.leaving.append(caller)

    def model_asks(self) -> tuple[list[Caller], list[Caller]]:
        """Return who is asked for, and who is refused because all room is taken."""
        held = [caller for caller in self.in_book.values() if caller.state in (LeaseState.HELD, LeaseState.LOST)]
        room = self.limit - len(held)
        acquires: list[Caller] = []
        refused: list[Caller] = []
        wanted, self.wanted = self.wanted, []
        for caller in wanted:
            if caller not in self.callers:
                self.model_frees(caller)
            elif len(acquires) < room:
                caller.state = LeaseState.ASKED
                acquires.append(caller)
            elif room > 0:
                self.wanted.append(caller)
            else:
                self.model_frees(caller)
                refused.append(caller)
        return acquires, refused

    def model_frees(self, caller: Caller) -> None:
        caller.state, caller.hold_ends_at = LeaseState.FREE, math.inf
        del self.in_book[caller.lock_id]

    @invariant()
    def every_lock_is_where_the_drawing_has_it(self) -> None:
        for caller in [*self.callers, *self.in_book.values()]:
            assert caller.lease.state is caller.state

    @invariant()
    def what_the_server_holds_is_in_the_book(self) -> None:
        """Invariant 1; of a session that is lost, everything is refused, and it is only there to be closed."""
        if self.is_ready:
            for lock_id, caller in self.server.ours.items():
                assert self.in_book[lock_id] is caller
                assert caller.state is not LeaseState.WANTED

    @invariant()
    def work_runs_under_no_id_twice(self) -> None:
        running = [caller.lock_id for caller in self.callers if caller.runs and not caller.ended_itself]
        assert len(running) == len(set(running))

    @invariant()
    def where_work_runs_the_server_holds_the_lock_or_the_work_is_told(self) -> None:
        for caller in self.callers:
            if caller.runs and self.server.ours.get(caller.lock_id) is not caller:
                assert caller.lease.lost

    @invariant()
    def nobody_waits_whom_nobody_will_answer(self) -> None:
        """Invariant 5: the answer is under way to Trio, or what gives it is still to come."""
        told = {id(lease) for answers in self.told for lease, _ in answers}
        to_come = {id(caller.lease) for caller in self.in_book.values()}
        for caller in self.callers:
            if caller.waits != "no more":
                assert id(caller.lease) in told | to_come

    @invariant()
    def a_sleeping_thread_has_nothing_to_do(self) -> None:
        if self.sleeps_until is not None and self.is_ready:
            assert not self.wanted
            assert not self.leaving
            ends = [caller.hold_ends_at for caller in self.in_book.values() if caller.state is LeaseState.HELD]
            assert self.sleeps_until <= min(ends, default=math.inf)
        elif self.sleeps_until is not None:
            assert any(caller.lost_its_work for caller in self.in_book.values())

    @invariant()
    def the_statistics_are_exact(self) -> None:
        said = self.book.statistics()
        states = [caller.state for caller in self.in_book.values()]
        assert said.held == states.count(LeaseState.HELD)
        assert said.waiting == states.count(LeaseState.WANTED) + states.count(LeaseState.ASKED)
        assert (said.sessions_opened, said.sessions_lost) == (self.figures.opened, self.figures.lost)
        assert (said.batches, said.largest_batch) == (self.figures.batches, self.figures.largest)
        assert (said.last_round_trip, said.outlived) == (self.figures.round_trip, self.figures.outlived)

    @invariant()
    def the_deadlines_are_those_of_the_last_statement_that_was_answered(self) -> None:
        assert self.book.deadline.seconds_left(self.now) == max(0.0, self.expires_at - self.now)
        if self.has_expired:
            assert self.book.deadline.reply_by(self.now) <= self.now
        else:
            assert self.book.deadline.reply_by(self.now) == min(self.now + TIMING.reply, self.expires_at)
        assert self.book.deadline.server_ends_at() == self.answered_at + TIMING.lease

    @invariant()
    def the_refusal_is_told_anew_each_time(self) -> None:
        said = self.book.refusal()
        assert (said is None) is self.is_ready
        if said is not None:
            assert said is not self.book.refusal()

    def teardown(self) -> None:
        """When the last session is closed, all who wait are answered; when all work has stopped, the book is empty."""
        if not self.is_closed:
            self.session_ends("the end", left=True, server_has_it=True)
            self.session_is_closed()
        while self.told:
            self.trio_hears()
        assert [caller for caller in self.callers if caller.waits != "no more"] == []
        while running := [caller for caller in self.callers if caller.runs]:
            self.work_stops(0)
            assert running[0] not in self.callers, "closed, so there is nothing to wait for"
        assert self.callers == []
        assert self.book._in_use == {}
        assert self.book._lost_work == {}


def one_of(callers: list[Caller], pick: int) -> Caller:
    return callers[pick % len(callers)]


BookMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=60)
TestTheBook = BookMachine.TestCase


# -- Single rules ------------------------------------------------------------------------------------------------------


class Desk:
    """A book with a session, for one test; the clock is set by hand."""

    def __init__(self, lock_table: int = 6400) -> None:
        self.now = 0.0
        self.roused = 0
        self.book = LockBook(TIMING, lambda: self.now, self.rouse)
        self.book.session_opened(0.0, lock_table)

    def rouse(self, *, at_once: bool) -> None:
        self.roused += 1
        self.at_once = at_once

    def want(self, *lock_ids: int) -> list[PostgresLease]:
        leases = [PostgresLease(self.book, lock_id) for lock_id in lock_ids]
        assert [self.book.want(lease) for lease in leases] == [True] * len(leases)
        return leases

    def have(self, *lock_ids: int) -> list[PostgresLease]:
        """Want them and be granted them, now."""
        leases = self.want(*lock_ids)
        batch = self.book.next_batch()
        assert batch.acquires == leases
        answers = self.book.answered(batch, [True] * len(leases), self.now)
        assert answers == [(lease, True) for lease in leases]
        return leases


def test_before_the_first_session_and_without_one_everybody_is_refused_with_the_reason() -> None:
    book = LockBook(TIMING, lambda: 0.0, lambda *, at_once: None)
    with pytest.raises(DatabaseUnavailableError, match=r"^the first connection is still being made$"):
        book.want(PostgresLease(book, 5))
    book.session_opened(0.0, 6400)
    book.lose_session("ended", (LockerConfigurationError, "no such role"), left=False, server_has_it=False)
    with pytest.raises(LockerConfigurationError, match="no such role"):
        book.want(PostgresLease(book, 5))
    assert book.statistics().waiting == 0


def test_before_the_first_session_there_is_nothing_to_rely_on_to_lose_or_to_wait_for() -> None:
    book = LockBook(TIMING, lambda: 1000.0, lambda *, at_once: None)
    assert book.deadline.seconds_left(1000.0) == 0.0
    assert book.deadline.server_ends_at() == -math.inf
    refusal = (DatabaseUnavailableError, "no route to the server")
    assert book.lose_session("no route to the server", refusal, left=False, server_has_it=False) == ([], [])
    assert book.session_closed() == []
    assert str(book.refusal()) == "no route to the server"
    assert book.statistics().sessions_lost == 0, "none was had"


def test_sessions_and_their_losses_by_kind_are_counted_in_the_tally_that_the_book_was_given() -> None:
    tally = SessionTally(Loss)
    book = LockBook(TIMING, lambda: 0.0, lambda *, at_once: None, tally)
    refusal = (DatabaseUnavailableError, "lost")
    for loss in (Loss.TIMEOUT, Loss.MISMATCH, Loss.TIMEOUT):
        book.session_opened(0.0, 6400)
        book.lose_session("lost", refusal, left=False, server_has_it=False, loss=loss)
    book.session_opened(0.0, 6400)
    book.lose_session("left", refusal, left=True, server_has_it=False, loss=Loss.BUG)
    assert tally.opened == book.statistics().sessions_opened == 4
    assert tally.lost == {"ended": 0, "timeout": 2, "statement": 0, "mismatch": 1, "bug": 0}


@pytest.mark.parametrize(
    ("lock_table", "most"), [(1_000_000, 1000), (6400, 1000), (4000, 1000), (3999, 999), (120, 30), (7, 1), (0, 1)]
)
def test_a_session_takes_a_thousand_locks_or_a_quarter_of_the_lock_table_and_names_the_remedy(
    lock_table: int, most: int
) -> None:
    desk = Desk(lock_table)
    leases = desk.have(*range(most))
    wanted = desk.want(most)
    batch = desk.book.next_batch()
    assert not batch
    [(refused, error)] = batch.refused
    assert [refused] == wanted
    assert isinstance(error, LockerConfigurationError)
    assert str(error) == (
        f"this process holds {most} locks already, and a PostgresLocker holds no more: at most 1000, and at most a "
        "quarter of max_locks_per_transaction x max_connections, because the server's lock table is for everybody: "
        "run fewer services per process, or raise max_locks_per_transaction"
    )
    # One that is held is busy, as always, and one that is let go of makes room.
    assert desk.book.want(PostgresLease(desk.book, 0)) is False
    assert desk.book.give_back(leases[0])
    batch = desk.book.next_batch()
    desk.book.answered(batch, [], desk.now)
    desk.want(most)


def test_what_there_may_be_no_room_for_waits_for_the_answers_and_is_refused_only_if_they_took_all() -> None:
    desk = Desk(lock_table=12)  # three locks
    wanted = desk.want(1, 2, 3, 4, 5, 6, 7)
    batch = desk.book.next_batch()
    assert (batch.acquires, batch.refused) == (wanted[:3], [])
    desk.book.answered(batch, [True, False, True], desk.now)
    batch = desk.book.next_batch()
    assert (batch.acquires, batch.refused) == (wanted[3:4], [])
    desk.book.answered(batch, [True], desk.now)
    batch = desk.book.next_batch()
    assert not batch
    assert [lease for lease, _ in batch.refused] == wanted[4:]
    assert len({id(error) for _, error in batch.refused}) == 3, "two callers share an error"


def test_a_lock_that_leaves_makes_room_in_the_same_statement() -> None:
    desk = Desk(lock_table=4)
    [held] = desk.have(1)
    assert desk.book.give_back(held)
    wanted = desk.want(2)
    batch = desk.book.next_batch()
    assert (batch.releases, batch.acquires, batch.refused) == ([held], wanted, [])


def test_a_statement_has_a_thousand_locks_at_most_releases_included() -> None:
    desk = Desk()
    for lease in desk.have(*range(900)):
        desk.book.give_back(lease)
    wanted = desk.want(*range(1000, 1300))
    batch = desk.book.next_batch()
    assert (len(batch.releases), batch.acquires) == (900, wanted[:100])
    desk.book.answered(batch, [True] * 100, desk.now)
    assert desk.book.next_batch().acquires == wanted[100:]


def test_where_many_asked_at_once_the_thread_is_woken_when_trio_has_run_all_that_is_ready() -> None:
    desk = Desk()
    desk.have(*range(7))
    assert desk.book.next_batch().acquires == []
    desk.want(50)
    assert desk.at_once
    desk.book.answered(desk.book.next_batch(), [True], desk.now)
    desk.have(*range(100, 108))
    assert not desk.book.next_batch()
    desk.want(51)
    assert not desk.at_once


@pytest.mark.parametrize("company", [0, 20])
@pytest.mark.parametrize("how", ["want", "abandon", "give_back"])
def test_whoever_finds_the_thread_asleep_wakes_it_and_no_other_does_until_it_has_looked(how: str, company: int) -> None:
    desk = Desk()
    lease, *_ = desk.have(5, *range(100, 100 + company))
    assert not desk.book.next_batch()
    roused = desk.roused
    match how:
        case "want":
            desk.want(6)
        case "abandon":
            desk.book.abandon(lease)
        case _:
            desk.book.give_back(lease)
    assert (desk.roused, desk.at_once) == (roused + 1, not company)
    [other] = desk.want(7)
    desk.book.abandon(other)
    assert desk.roused == roused + 1
    assert desk.book.next_batch()


def test_a_book_that_nobody_has_used_yet_has_its_thread_woken_at_once() -> None:
    desk = Desk()
    desk.want(5)
    assert (desk.roused, desk.at_once) == (1, True)


def test_a_hold_that_has_woken_the_thread_is_company_enough_for_whoever_comes_before_it_has_looked() -> None:
    desk = Desk()
    [lease, other] = desk.have(5, 7)
    assert not desk.book.next_batch()
    roused = desk.roused
    assert lease.let_go_after(1.0)
    assert other.let_go_after(0.5)
    desk.want(6)
    assert desk.roused == roused + 1


def test_a_hold_that_ends_when_the_thread_looks_by_itself_wakes_nobody() -> None:
    desk = Desk()
    [lease, other] = desk.have(5, 7)
    assert lease.let_go_after(1.0)
    assert not desk.book.next_batch()
    assert desk.book.due_at() == 1.0
    roused = desk.roused
    assert other.let_go_after(1.0)
    assert desk.roused == roused
    desk.now = 1.0
    assert desk.book.next_batch().releases == [lease, other], "so it is awake, although nobody woke it"
    desk.want(6)
    assert desk.roused == roused


def test_to_hand_back_a_lock_whose_hold_has_ended_and_that_is_free_wakes_nobody() -> None:
    desk = Desk()
    [lease] = desk.have(5)
    assert lease.let_go_after(0.0)
    batch = desk.book.next_batch()
    assert batch.releases == [lease]
    assert desk.book.answered(batch, [], desk.now) == [(lease, True)]
    assert not desk.book.next_batch(), "the thread sleeps"
    desk.roused = 0
    assert desk.book.give_back(lease) is False
    assert desk.roused == 0


def test_a_hold_that_is_longer_than_a_beat_wakes_nobody() -> None:
    desk = Desk()
    [lease] = desk.have(5)
    assert not desk.book.next_batch()
    roused = desk.roused
    assert lease.let_go_after(TIMING.beat + 0.25)
    assert desk.roused == roused
    assert desk.book.due_at() == TIMING.beat + 0.25
    assert lease.let_go_after(TIMING.beat)
    assert desk.roused == roused + 1


def test_a_hold_wakes_the_thread_at_once_also_when_it_is_to_be_woken_soon() -> None:
    desk = Desk()
    leases = desk.have(*range(20))
    assert leases[1].let_go_after(1.0)
    assert desk.roused == 1, "it is awake"
    assert not desk.book.next_batch()
    desk.want(50)
    assert (desk.roused, desk.at_once) == (2, False)
    assert leases[0].let_go_after(1.0)
    assert (desk.roused, desk.at_once) == (3, True)


def test_a_signal_handler_in_the_middle_of_the_book_may_ask_how_it_is() -> None:
    desk = Desk()
    [lease] = desk.have(5)
    seen: list[object] = []

    def clock() -> float:  # it is asked under the mutex
        if not seen:
            seen.append(None)
            seen.append((desk.book.statistics().held, lease.lost, desk.book.refusal()))
        return 0.0

    desk.book._clock = clock
    assert lease.lost_for() == 0.0
    assert seen[1:] == [(1, False, None)]


def test_releases_and_acquires_go_together_each_in_the_order_in_which_they_came() -> None:
    desk = Desk()
    held = desk.have(1, 2, 3)
    wanted = desk.want(9, 8)
    assert all(desk.book.give_back(lease) for lease in (held[2], held[0]))
    wanted += desk.want(7)
    batch = desk.book.next_batch()
    assert batch.releases == [held[2], held[0]]
    assert batch.acquires == wanted
    assert len(batch) == 5


def test_the_thread_is_roused_once_however_many_come_and_not_while_it_asks() -> None:
    desk = Desk()
    assert not desk.book.next_batch()
    desk.want(*range(100))
    assert desk.roused == 1
    batch = desk.book.next_batch()
    desk.want(*range(100, 200))
    desk.book.answered(batch, [True] * 100, desk.now)
    assert desk.roused == 1
    assert len(desk.book.next_batch()) == 100


def test_a_caller_cancelled_before_the_server_was_asked_is_not_asked_for() -> None:
    desk = Desk()
    [lease] = desk.want(5)
    desk.book.abandon(lease)
    assert not desk.book.next_batch()
    desk.want(5)


def test_a_lock_granted_to_a_caller_cancelled_meanwhile_goes_back_with_the_next_statement() -> None:
    desk = Desk()
    [lease] = desk.want(5)
    batch = desk.book.next_batch()
    desk.book.abandon(lease)
    desk.book.answered(batch, [True], desk.now)
    assert desk.book.statistics().held == 0
    assert desk.book.next_batch().releases == [lease]
    assert desk.book.want(PostgresLease(desk.book, 5)) is False, "not before the server has let it go"


def test_a_lock_lost_on_its_way_to_a_caller_that_is_cancelled_is_free_at_once() -> None:
    """Nobody runs under it, so nobody would ever hand it back."""
    desk = Desk()
    [lease] = desk.have(5)
    desk.book.lose_session("ended", (DatabaseUnavailableError, "ended"), left=False, server_has_it=False)
    desk.book.session_closed()
    desk.book.abandon(lease)
    assert not desk.book.lost_work_runs()
    desk.now = 20.0
    desk.book.session_opened(desk.now, 6400)
    assert desk.book.outlived() == []
    desk.want(5)


def test_a_hold_ends_with_the_first_statement_at_its_time_and_with_none_before() -> None:
    desk = Desk()
    [lease, other] = desk.have(5, 6)
    assert lease.let_go_after(4.0)
    desk.now = 3.75
    assert not desk.book.next_batch()
    assert not lease.lost
    desk.now = 4.0
    batch = desk.book.next_batch()
    assert batch.releases == [lease]
    assert lease.lost
    assert lease.loss is None
    assert not lease.let_go_after(math.inf), "it cannot be taken back any more"
    desk.book.answered(batch, [], desk.now)
    assert desk.book.give_back(lease) is False
    assert not other.lost


def test_holds_that_were_put_off_or_ended_early_do_not_pile_up() -> None:
    desk = Desk()
    [lease, other] = desk.have(5, 6)
    for step in range(10_000):
        assert lease.let_go_after(100.0 + step)
        assert other.let_go_after(50.0 if step % 2 else math.inf)
    assert len(desk.book._holds._heap) < 200
    desk.now = 50.0
    assert desk.book.next_batch().releases == [other]


def test_a_lock_whose_result_could_not_be_written_is_kept_and_leaves_again_after_a_while() -> None:
    desk = Desk()
    [lease, other] = desk.have(5, 6)
    assert desk.book.give_back(lease)
    assert desk.book.give_back(other)
    batch = desk.book.next_batch()
    assert desk.book.answered(batch, [], desk.now, {lease}) == [(other, True)]
    assert lease.state is LeaseState.LEAVING
    assert desk.book.want(PostgresLease(desk.book, 5)) is False
    assert not desk.book.next_batch()
    assert desk.book.due_at() == 0.2
    desk.now = 0.1875
    assert not desk.book.next_batch()
    desk.now = 0.2
    batch = desk.book.next_batch()
    assert batch.releases == [lease]
    assert desk.book.due_at() == math.inf
    assert desk.book.answered(batch, [], desk.now) == [(lease, True)]
    assert not desk.book.next_batch()


def test_results_that_cannot_be_written_are_tried_again_together_when_the_first_one_is() -> None:
    desk = Desk()
    leases = desk.have(5, 6)
    for lease in leases:
        desk.book.give_back(lease)
        desk.book.answered(desk.book.next_batch(), [], desk.now, {lease})
        desk.now += 0.125
    assert desk.book.due_at() == 0.2
    batch = desk.book.next_batch()
    assert batch.releases == leases
    assert desk.book.answered(batch, [], desk.now, {leases[1]}) == [(leases[0], True)]
    assert desk.book.due_at() == desk.now + 0.2
    desk.now += 0.25
    assert desk.book.next_batch().releases == leases[1:], "and not what is written"


def test_a_lock_whose_result_could_not_be_written_makes_no_room_when_it_is_tried_again() -> None:
    desk = Desk(lock_table=4)
    [lease] = desk.have(5)
    desk.book.give_back(lease)
    desk.book.answered(desk.book.next_batch(), [], desk.now, {lease})
    desk.now += 1.0
    desk.book.want(PostgresLease(desk.book, 6))
    batch = desk.book.next_batch()
    assert (batch.releases, batch.acquires, len(batch.refused)) == ([lease], [], 1)


def test_a_result_that_cannot_be_written_is_done_with_when_its_session_is() -> None:
    desk = Desk()
    [lease] = desk.have(5)
    desk.book.give_back(lease)
    desk.book.answered(desk.book.next_batch(), [], desk.now, {lease})
    desk.book.lose_session("gone", (DatabaseUnavailableError, "gone"), left=False, server_has_it=False)
    assert desk.book.session_closed() == [(lease, True)]
    desk.book.session_opened(desk.now, 6400)
    desk.now = 1.0
    assert not desk.book.next_batch()
    assert desk.book.due_at() == math.inf


def test_who_is_in_a_hurry_waits_for_one_lease_at_most_counted_from_the_first_time() -> None:
    desk = Desk()
    lease = LedgerLease(desk.book, 5, service="sweep", interval=60.0, forced=False)
    assert lease.write_until == math.inf
    desk.now = 3.0
    lease.hurry()
    assert lease.write_until == 3.0 + TIMING.lease
    desk.now = 9.0
    lease.hurry()
    assert lease.write_until == 3.0 + TIMING.lease
    PostgresLease(desk.book, 6).hurry()  # which waits for nothing


def test_the_result_of_a_caller_that_was_cancelled_before_the_answer_is_waited_for_one_lease_at_most() -> None:
    desk = Desk()
    lease = LedgerLease(desk.book, 5, service="sweep", interval=60.0, forced=False)
    desk.book.want(lease)
    desk.book.next_batch()
    desk.book.abandon(lease)
    assert lease.write_until == desk.now + TIMING.lease


@pytest.mark.parametrize("instead", [math.inf, 6.0])
def test_a_hold_that_was_put_off_does_not_end_at_its_first_time(instead: float) -> None:
    desk = Desk()
    [lease] = desk.have(5)
    assert lease.let_go_after(4.0)
    assert lease.let_go_after(instead)
    desk.now = 4.0
    assert not desk.book.next_batch()
    assert not lease.lost
    assert desk.book.due_at() == instead, "nor does the thread wake for it again and again"


@pytest.mark.parametrize("granted", [[True], [True, True, True]])
def test_an_answer_about_fewer_or_more_locks_than_were_asked_for_is_a_bug_that_shows(granted: list[bool]) -> None:
    desk = Desk()
    desk.want(5, 6)
    batch = desk.book.next_batch()
    with pytest.raises(ValueError, match="zip"):
        desk.book.answered(batch, granted, desk.now)


@pytest.mark.parametrize("asked_to", ["look", "hold", "answer"])
def test_at_the_deadline_to_the_very_moment_the_lease_is_over(asked_to: str) -> None:
    for now, is_over in ((9.75, False), (10.0, True)):
        desk = Desk()
        [lease] = desk.have(5)
        desk.want(6)
        batch = desk.book.next_batch()
        desk.now = now
        match asked_to:
            case "look":
                assert lease.lost is is_over
                over = "PostgreSQL has answered nothing for too long: the lease on its locks is over"
                assert lease.loss == (over if is_over else None)
            case "hold":
                assert lease.let_go_after(1.0) is not is_over
            case _:
                assert (desk.book.answered(batch, [True], sent_at=9.0) is None) is is_over


@pytest.mark.parametrize("who", ["Trio", "the work", "the thread"])
def test_whoever_sees_first_that_the_lease_is_over_no_late_answer_takes_it_back(who: str) -> None:
    """Whatever the clock says then: that the deadline was once seen to have passed is remembered, not worked out."""
    desk = Desk()
    [lease] = desk.have(5)
    [other] = desk.want(6)
    batch = desk.book.next_batch()
    desk.now = 10.0
    match who:
        case "Trio":
            assert lease.loss == EXPIRED
        case "the work":
            assert lease.lost
        case _:
            assert desk.book.answered(batch, [True], sent_at=9.0) is None
    desk.now = 9.0
    assert lease.lost
    assert desk.book.deadline.seconds_left(desk.now) == 0.0
    assert not lease.let_go_after(1.0)
    assert desk.book.answered(batch, [True], sent_at=9.0) is None
    assert desk.book.statistics().held == 1, "of those, only the lock that was had in time"
    lost, answers = desk.book.lose_session("hung", (DatabaseUnavailableError, "hung"), left=False, server_has_it=False)
    assert lost == [lease]
    assert [(lease, str(answer)) for lease, answer in answers] == [(other, "hung")]


def test_a_lease_that_was_lost_stays_lost_after_its_work_has_handed_it_back() -> None:
    """As in a worker thread that was abandoned and asks now and then."""
    desk = Desk()
    [lease] = desk.have(5)
    desk.now = 10.0
    assert lease.lost
    assert desk.book.give_back(lease)
    assert lease.lost


def test_how_long_a_lock_has_been_lost_counts_from_the_loss_of_its_session() -> None:
    desk = Desk()
    [lease] = desk.have(5)
    desk.now = 4.0
    assert lease.lost_for() == 0.0
    desk.book.lose_session("ended", (DatabaseUnavailableError, "ended"), left=False, server_has_it=False)
    assert lease.lost_for() == 0.0
    desk.now = 4.75
    assert lease.lost_for() == 0.75
    desk.book.give_back(lease)
    assert lease.lost_for() == 0.75


@pytest.mark.parametrize("who", ["who asks", "the work", "the thread", "whoever hands it back"])
def test_how_long_a_lock_has_been_lost_counts_from_the_deadline_whoever_saw_late_that_it_has_passed(who: str) -> None:
    desk = Desk()
    [lease] = desk.have(5)
    desk.now = 10.25  # the deadline was at 10
    match who:
        case "the work":
            assert lease.lost
        case "the thread":
            desk.book.lose_session("hung", (DatabaseUnavailableError, "hung"), left=False, server_has_it=True)
        case "whoever hands it back":
            assert desk.book.give_back(lease)
        case _:
            pass
    assert lease.lost_for() == 0.25
    desk.now = 12.0
    assert lease.lost_for() == 2.0
    desk.now = 9.0
    assert lease.lost_for() == 0.0, "never negative, whatever the clock says"


def test_a_lock_of_a_later_session_is_not_lost_since_the_end_of_the_lease_of_an_earlier_one() -> None:
    desk = Desk()
    desk.now = 10.0
    assert desk.book.deadline.seconds_left(desk.now) == 0.0
    desk.book.lose_session("hung", (DatabaseUnavailableError, "hung"), left=False, server_has_it=False)
    desk.book.session_closed()
    desk.book.session_opened(desk.now, 6400)
    [lease] = desk.have(5)
    assert lease.lost_for() == 0.0
    desk.now = 21.0  # the deadline was at 20
    assert lease.lost_for() == 1.0


def test_a_hold_that_is_lost_is_nothing_that_could_resist() -> None:
    desk = Desk()
    held_on, worked_under = desk.have(5, 6)
    assert held_on.let_go_after(60.0)
    desk.book.lose_session("ended", (DatabaseUnavailableError, "ended"), left=False, server_has_it=False)
    assert held_on.lost
    desk.now = 20.0
    assert desk.book.outlived() == [worked_under]
    desk.book.give_back(worked_under)
    assert not desk.book.lost_work_runs(), "so the session need not be kept for it"


def test_a_hold_that_is_not_to_end_by_itself_any_more_lasts_and_its_loss_is_still_nothing_that_could_resist() -> None:
    desk = Desk()
    [ended, lasts] = desk.have(5, 6)
    assert ended.let_go_after(1.0)
    assert lasts.let_go_after(2.0)
    desk.now = 1.0
    assert desk.book.next_batch().releases == [ended]
    desk.book.end_no_more_holds()
    assert desk.book.due_at() == math.inf, "the thread would look again and again"
    desk.now = 3.0
    assert desk.book.next_batch().releases == []
    assert not lasts.lost
    assert lasts.let_go_after(math.inf) is False
    lost, _ = desk.book.lose_session("left", (trio.ClosedResourceError, "closed"), left=True, server_has_it=True)
    assert lost == [lasts]
    assert not desk.book.lost_work_runs()
    desk.now = TIMING.lease + 5.0
    assert desk.book.outlived() == []


def test_work_that_resists_is_told_of_once_from_its_time_to_stop_on() -> None:
    desk = Desk()
    stubborn, other = desk.have(5, 6)
    desk.now = 2.0
    desk.book.lose_session("ended", (DatabaseUnavailableError, "ended"), left=False, server_has_it=False)
    desk.book.session_closed()
    assert desk.book.give_back(other) is False
    desk.now = 6.75
    assert desk.book.outlived() == []
    desk.now = 7.0
    assert desk.book.outlived() == [stubborn]
    assert desk.book.outlived() == []
    assert desk.book.statistics().outlived == 1
    # Its id is refused as long as it goes on, also in the next session.
    desk.book.session_opened(desk.now, 6400)
    assert desk.book.want(PostgresLease(desk.book, 5)) is False
    assert stubborn.lost
    assert desk.book.give_back(stubborn) is False
    desk.want(5)


def test_the_session_is_kept_until_the_server_has_ended_it_counted_from_the_last_answer_and_not_from_the_loss() -> None:
    desk = Desk()
    desk.now = 1.0
    desk.have(5)
    desk.now = 4.0
    desk.book.next_batch()
    desk.book.lose_session("hung", (DatabaseUnavailableError, "hung"), left=False, server_has_it=False)
    assert desk.book.deadline.server_ends_at() == 1.0 + TIMING.lease


def test_each_work_that_stops_after_the_loss_rouses_the_thread_which_waits_for_the_last() -> None:
    desk = Desk()
    leases = desk.have(5, 6, 7)
    desk.book.lose_session("hung", (DatabaseUnavailableError, "hung"), left=False, server_has_it=False)
    for lease in leases:
        assert desk.book.lost_work_runs()
        roused = desk.roused
        assert desk.book.give_back(lease) is False
        assert desk.roused == roused + 1
    assert not desk.book.lost_work_runs()


# -- Two threads -------------------------------------------------------------------------------------------------------


class WouldBlockError(Exception):
    pass


class PretendMutex:
    """The book's mutex, where one thread plays both: who would have to wait for the other one is told so."""

    def __init__(self) -> None:
        self.is_locked = False

    def __enter__(self) -> None:
        if self.is_locked:
            raise WouldBlockError  # pragma: no cover - in another's trace function nothing is traced
        self.is_locked = True

    def __exit__(self, *_: object) -> None:
        self.is_locked = False


class Interleaved:
    """One of each: a lock held, one on its way out, one wanted, one that the server has been asked for."""

    def __init__(self) -> None:
        self.desk = Desk()
        self.book = self.desk.book
        self.book._mutex = PretendMutex()  # type: ignore[assignment]
        self.answered: dict[PostgresLease, object] = {}
        self.held, self.leaving = self.desk.have(1, 2)
        self.ours = {1, 2}
        assert self.book.give_back(self.leaving)
        [self.asked] = self.desk.want(3)
        self.batch = self.send()
        [self.wanted] = self.desk.want(4)
        self.new = PostgresLease(self.book, 5)
        self.gone: set[PostgresLease] = set()

    # What the thread does.

    def send(self) -> Batch:
        batch = self.book.next_batch()
        for lease in batch.releases:
            self.ours.remove(lease.lock_id)
        for lease in batch.acquires:
            assert lease.lock_id not in self.ours
            self.ours.add(lease.lock_id)
        return batch

    def take_the_answer(self) -> None:
        answers = self.book.answered(self.batch, [True] * len(self.batch.acquires), 0.0)
        self.batch = Batch([], [])
        self.tell(answers or [])

    def take_the_answer_and_ask(self) -> None:
        self.take_the_answer()
        self.batch = self.send()

    def lose_and_reconnect(self) -> None:
        _lost, answers = self.book.lose_session(
            "ended", (DatabaseUnavailableError, "ended"), left=False, server_has_it=False
        )
        self.tell(answers)
        self.tell(self.book.session_closed())
        self.ours.clear()
        self.batch = Batch([], [])
        self.book.session_opened(0.0, 6400)

    def tell(self, answers: list[Answer]) -> None:
        self.answered.update(answers)

    # What Trio does.

    def want(self) -> None:
        try:
            assert self.book.want(self.new)
        except DatabaseUnavailableError:  # pragma: no cover - as above
            self.gone.add(self.new)

    def abandon_wanted(self) -> None:
        self.book.abandon(self.wanted)
        self.gone.add(self.wanted)

    def abandon_asked(self) -> None:
        self.book.abandon(self.asked)
        self.gone.add(self.asked)

    def give_back(self) -> None:
        self.gone.add(self.held)
        self.book.give_back(self.held)

    def hold(self) -> None:
        self.book.let_go_after(self.held, 0.0)

    # Afterwards.

    def settle(self) -> None:
        """Let the thread go on for as long as something rouses it; then everybody has been answered."""
        self.take_the_answer()
        while True:
            self.batch = self.send()
            if self.batch:
                self.take_the_answer()
            elif self.desk.roused:
                self.desk.roused = 0
            else:
                return


BOOK = {module.__file__ for module in (_deadline, _hold_ends, _lock_book, _unwritten, _waker)}


def run_with_another_in_the_middle(first: Callable[[], None], second: Callable[[], None], *, line: int) -> bool:
    """Run the first, and the second as a whole before that line of the book, or when it can go on; else after it.

    What the book is made of counts as the book.

    Returns:
        Whether the first had so many lines.
    """
    seen = 0
    is_done = False

    def before_each_line(frame: FrameType, event: str, arg: object) -> Any:  # pragma: no cover - as above
        nonlocal seen, is_done
        if frame.f_code.co_filename not in BOOK:
            return None
        seen += event == "line"
        if seen >= line and not is_done:
            with contextlib.suppress(WouldBlockError):
                second()
                is_done = True
        return before_each_line

    tracing = sys.gettrace()
    sys.settrace(before_each_line)
    try:
        first()
    finally:
        sys.settrace(tracing)
    if not is_done:
        second()
    return seen >= line


THREADS = ["take_the_answer", "take_the_answer_and_ask", "lose_and_reconnect"]
CALLERS = ["want", "abandon_wanted", "abandon_asked", "give_back", "hold"]


@pytest.mark.parametrize(("first", "second"), [*product(THREADS, CALLERS), *product(CALLERS, THREADS)])
def test_what_one_thread_does_in_the_middle_of_what_the_other_does_loses_no_wish_no_release_and_no_wake_up(
    first: str, second: str
) -> None:
    """What the machine above cannot see, being one thread: that each step is taken under the mutex as a whole."""
    for line in count(1):  # pragma: no branch - endless
        both = Interleaved()
        is_inside = run_with_another_in_the_middle(getattr(both, first), getattr(both, second), line=line)
        both.settle()
        said = both.book.statistics()
        assert said.waiting == 0
        assert said.held == len(both.ours)
        waited = {both.asked, both.wanted, both.leaving} | ({both.new} if "want" in (first, second) else set())
        assert waited - both.gone <= both.answered.keys()
        for lease in {both.held, both.asked, both.wanted, both.new} - both.gone:
            both.book.give_back(lease)
        both.settle()
        assert both.ours == set()
        assert both.book._in_use == {}
        if not is_inside:
            assert line > 5, "the first was interrupted nowhere"
            return
