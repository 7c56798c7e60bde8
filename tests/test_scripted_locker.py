"""`ScriptedLocker`: what its plans say is what happens, exactly then, and all of it is written down."""

from __future__ import annotations

import dataclasses
import itertools
import math
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from scripted import virtually

from tickrunner_trio import DatabaseUnavailableError, LockLostError
from tickrunner_trio.testing import Busy, Fails, Grant, LockAttempt, ScriptedLocker, Step, Unavailable

if TYPE_CHECKING:
    from tickrunner_trio import Lease

LOCK = 1001
ERROR = OSError("bug")


async def nothing(lease: Lease) -> None:
    """Work that is done at once."""


async def works_for_ten_seconds(lease: Lease) -> None:
    await trio.sleep(10)


async def forever(lease: Lease) -> None:
    await trio.sleep_forever()


async def answers(locker: ScriptedLocker, count: int, lock_id: int = LOCK) -> list[Any]:
    """What so many attempts were told, one after the other: an answer or the type of an error."""
    told: list[Any] = []
    for _ in range(count):
        try:
            told.append(await locker.with_advisory_lock(lock_id, nothing))
        except Exception as error:
            told.append(type(error))
    return told


# Plans.


def test_each_attempt_takes_the_next_step_and_then_the_one_for_all_others() -> None:
    locker = ScriptedLocker([Busy(), Unavailable("away"), Fails(ERROR), Grant()], otherwise=Busy())
    told = virtually(answers, locker, 6)
    assert told == [False, DatabaseUnavailableError, OSError, True, False, False]


def test_without_a_plan_every_lock_is_granted() -> None:
    assert virtually(answers, ScriptedLocker(), 3) == [True, True, True]


def test_a_plan_may_be_one_for_each_lock_id() -> None:
    async def main() -> None:
        locker = ScriptedLocker({1: [Busy(), Grant()], -1: [Unavailable()]}, otherwise=Fails(ERROR))
        assert await answers(locker, 1, 1) == [False]
        assert await answers(locker, 2, -1) == [DatabaseUnavailableError, OSError]
        assert await answers(locker, 2, 1) == [True, OSError]
        assert await answers(locker, 1, 2) == [OSError]

    virtually(main)


def test_a_plan_may_have_no_end() -> None:
    locker = ScriptedLocker(itertools.cycle([Busy(), Grant()]))
    assert repr(locker) == "<ScriptedLocker: 0 attempts, 0 held>"
    assert virtually(answers, locker, 5) == [False, True, False, True, False]


def test_a_plan_for_one_lock_id_may_have_no_end() -> None:
    locker = ScriptedLocker({LOCK: itertools.cycle([Busy(), Grant()])}, otherwise=Unavailable())
    assert virtually(answers, locker, 3) == [False, True, False]
    assert virtually(answers, locker, 1, LOCK + 1) == [DatabaseUnavailableError]


def test_what_is_no_step_is_told_by_the_attempt_that_draws_it_where_there_is_no_looking_ahead() -> None:
    async def main() -> None:
        locker = ScriptedLocker(iter([Busy(), "busy"]))  # type: ignore[list-item]
        assert await answers(locker, 1) == [False]
        with pytest.raises(TypeError, match=r"^plan\[1\] must be a Grant, Busy, Unavailable or Fails, got 'busy'"):
            await locker.with_advisory_lock(LOCK, nothing)
        assert len(locker.attempts) == 1

    virtually(main)


def test_one_plan_goes_over_the_attempts_on_all_locks() -> None:
    async def main() -> None:
        locker = ScriptedLocker([Busy(), Grant(), Busy()])
        assert await answers(locker, 1, 1) == [False]
        assert await answers(locker, 1, 2) == [True]
        assert await answers(locker, 1, 1) == [False]
        assert [(attempt.lock_id, attempt.number) for attempt in locker.attempts] == [(1, 1), (2, 1), (1, 2)]

    virtually(main)


def test_the_steps_are_taken_in_the_order_of_the_questions_and_not_of_the_answers() -> None:
    locker = ScriptedLocker([Grant(answers_after=2), Busy(answers_after=1)])

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(locker.with_advisory_lock, LOCK, nothing)
            await trio.sleep(0.5)
            assert await locker.with_advisory_lock(LOCK, nothing) is False

    virtually(main)
    assert [(attempt.answered_at, attempt.ended) for attempt in locker.attempts] == [(2, "returned"), (1.5, "busy")]


def test_what_is_done_otherwise_can_be_changed_while_it_runs() -> None:
    locker = ScriptedLocker([Busy()], otherwise=Unavailable("away"))

    async def main() -> None:
        assert await answers(locker, 2) == [False, DatabaseUnavailableError]
        locker.otherwise = Grant()
        assert await answers(locker, 1) == [True]

    virtually(main)
    assert locker.otherwise == Grant()


def test_a_grant_does_not_break_the_exclusion() -> None:
    locker = ScriptedLocker()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(locker.with_advisory_lock, LOCK, works_for_ten_seconds)
            await trio.sleep(1)
            assert locker.held == {LOCK}
            assert await answers(locker, 1) == [False]
            assert await answers(locker, 1, -LOCK) == [True]
        assert locker.held == frozenset()

    virtually(main)


@pytest.mark.parametrize("step", [Busy(answers_after=3), Unavailable(answers_after=3), Fails(ERROR, answers_after=3)])
def test_any_answer_can_be_slow(step: Any) -> None:
    locker = ScriptedLocker([step])
    virtually(answers, locker, 1)
    assert (locker.attempts[0].asked_at, locker.attempts[0].answered_at) == (0, 3)


def test_an_answer_that_never_comes_can_be_cancelled() -> None:
    locker = ScriptedLocker([Grant(answers_after=math.inf)])

    async def main() -> None:
        with trio.move_on_after(7) as scope:
            await locker.with_advisory_lock(LOCK, nothing)
        assert scope.cancelled_caught

    virtually(main)
    assert locker.attempts == [LockAttempt(LOCK, 1, Grant(answers_after=math.inf), 0, ended_at=7, ended="abandoned")]
    assert locker.events == []


def test_an_error_is_the_very_one_and_an_outage_has_its_reason() -> None:
    async def main() -> None:
        locker = ScriptedLocker([Fails(ERROR), Unavailable("restarting")])
        with pytest.raises(OSError, match="bug") as caught:
            await locker.with_advisory_lock(LOCK, nothing)
        assert caught.value is ERROR
        with pytest.raises(DatabaseUnavailableError, match=r"^restarting$"):
            await locker.with_advisory_lock(LOCK, nothing)

    virtually(main)


def test_an_unlock_that_fails_is_told_after_fn_and_the_lock_is_free() -> None:
    locker = ScriptedLocker([Grant(fails_to_unlock=ERROR)])

    async def main() -> None:
        with pytest.raises(OSError, match="bug") as caught:
            await locker.with_advisory_lock(LOCK, nothing)
        assert caught.value is ERROR
        assert await answers(locker, 1) == [True]

    virtually(main)
    assert [attempt.ended for attempt in locker.attempts] == ["returned", "returned"]


def test_an_unlock_that_fails_hides_no_error_of_fn() -> None:
    async def fails(lease: Lease) -> None:
        raise ValueError("own")

    locker = ScriptedLocker([Grant(fails_to_unlock=ERROR)])
    with pytest.raises(ValueError, match="own"):
        virtually(locker.with_advisory_lock, LOCK, fails)


@pytest.mark.parametrize(("first_epoch", "epochs"), [(1, [1, 2, 3]), (-5, [-5, -4, -3]), (None, [None, None, None])])
def test_epochs_count_up_over_all_locks_from_the_first_or_there_are_none(
    first_epoch: int | None, epochs: list[int | None]
) -> None:
    seen: list[int | None] = []

    async def look(lease: Lease) -> None:
        seen.append(lease.epoch)

    async def main() -> None:
        locker = ScriptedLocker(first_epoch=first_epoch)
        for lock_id in (1, 2, 1):
            await locker.with_advisory_lock(lock_id, look)

    virtually(main)
    assert seen == epochs


# Losses.


def test_a_loss_comes_exactly_then_and_is_told_when_fn_has_stopped() -> None:
    locker = ScriptedLocker([Grant(answers_after=1, lost_after=5)])
    seen: list[tuple[str, float, bool]] = []

    async def cleans_up(lease: Lease) -> None:
        seen.append(("begun", trio.current_time(), lease.lost))
        try:
            await trio.sleep_forever()
        finally:
            seen.append(("cancelled", trio.current_time(), lease.lost))
            with trio.CancelScope(shield=True):
                await trio.sleep(3)

    async def main() -> None:
        with pytest.raises(LockLostError, match=r"^the lock 1001 was lost while the work ran"):
            await locker.with_advisory_lock(LOCK, cleans_up)

    virtually(main)
    assert seen == [("begun", 1, False), ("cancelled", 6, True)]
    assert locker.events == [("locked", 1), ("unlocked", 9)]


def test_a_lock_can_be_lost_when_fn_begins() -> None:
    lost: list[bool] = []

    async def look(lease: Lease) -> None:
        lost.append(lease.lost)

    with pytest.raises(LockLostError):
        virtually(ScriptedLocker([Grant(lost_after=0)]).with_advisory_lock, LOCK, look)
    assert lost == [True]


def test_a_loss_shows_in_the_lease_also_while_the_loop_is_blocked_and_in_another_thread() -> None:
    seen: list[bool] = []

    async def blocks(lease: Lease) -> None:
        seen.append(lease.lost)
        began = time.monotonic()
        while time.monotonic() < began + 0.05:
            pass  # no checkpoint, so that no scope can have been cancelled
        seen.append(lease.lost)
        thread = threading.Thread(target=lambda: seen.append(lease.lost))
        thread.start()
        thread.join()

    with pytest.raises(LockLostError):
        trio.run(ScriptedLocker([Grant(lost_after=0.04)]).with_advisory_lock, LOCK, blocks)
    assert seen == [False, True, True]


def test_work_that_returns_before_the_loss_has_lost_nothing_and_its_lease_says_so_for_ever() -> None:
    leases: list[Lease] = []

    async def keeps(lease: Lease) -> None:
        leases.append(lease)

    async def main() -> None:
        assert await ScriptedLocker([Grant(lost_after=5)]).with_advisory_lock(LOCK, keeps) is True
        await trio.sleep(100)
        assert not leases[0].lost

    virtually(main)


def test_a_lost_lease_stays_lost() -> None:
    leases: list[Lease] = []

    async def keeps(lease: Lease) -> None:
        leases.append(lease)
        await trio.sleep_forever()

    async def main() -> None:
        with pytest.raises(LockLostError):
            await ScriptedLocker([Grant(lost_after=5)]).with_advisory_lock(LOCK, keeps)
        await trio.sleep(100)
        assert leases[0].lost

    virtually(main)


def test_a_test_can_have_a_lock_lost_whatever_the_plan_says() -> None:
    locker = ScriptedLocker([Grant(lost_after=1000)])

    async def lose() -> None:
        await trio.sleep(2)
        locker.lose(LOCK)
        locker.lose(LOCK)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lose)
            with pytest.raises(LockLostError):
                await locker.with_advisory_lock(LOCK, forever)
        with pytest.raises(ValueError, match=r"^lock_id must be of a lock that is held, got 1001: held are \[\]$"):
            locker.lose(LOCK)

    virtually(main)
    assert locker.events == [("locked", 0), ("unlocked", 2)]


def test_an_error_of_fn_is_the_cause_of_the_loss_that_it_came_with() -> None:
    async def fails(lease: Lease) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ERROR

    with pytest.raises(LockLostError) as caught:
        virtually(ScriptedLocker([Grant(lost_after=1)]).with_advisory_lock, LOCK, fails)
    assert caught.value.__cause__ is ERROR


# Records.


def test_every_way_to_end_is_written_down() -> None:
    async def fails(lease: Lease) -> None:
        raise ERROR

    async def is_cancelled_in_a_group(lease: Lease) -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled as cancelled:
            raise BaseExceptionGroup("of a nursery", [cancelled]) from None

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(locker.with_advisory_lock, LOCK, nothing)
            await trio.sleep(1)
            with pytest.raises(OSError, match="bug"):
                await locker.with_advisory_lock(LOCK, fails)
            for work in (forever, is_cancelled_in_a_group):
                with trio.move_on_after(2):
                    await locker.with_advisory_lock(LOCK, work)
            with pytest.raises(LockLostError):
                await locker.with_advisory_lock(LOCK, forever)
            await answers(locker, 2)

            async def look(lease: Lease) -> None:
                running.append(locker.attempts[-1])

            await locker.with_advisory_lock(LOCK, look)

    running: list[LockAttempt] = []
    steps = [Grant(), Grant(), Grant(), Grant(), Grant(lost_after=3), Unavailable(), Busy()]
    locker = ScriptedLocker(steps)
    virtually(main)
    attempts = [dataclasses.astuple(attempt)[3:] for attempt in locker.attempts]
    assert attempts == [
        (0, 0, True, 0, "returned"),
        (1, 1, True, 1, "raised"),
        (1, 1, True, 3, "cancelled"),
        (3, 3, True, 5, "cancelled"),
        (5, 5, True, 8, "lost"),
        (8, 8, False, 8, "refused"),
        (8, 8, False, 8, "busy"),
        (8, 8, True, 8, "returned"),
    ]
    assert [attempt.step for attempt in locker.attempts] == [*steps, Grant()]
    assert running == [LockAttempt(LOCK, 8, Grant(), 8, 8, granted=True)]


def test_a_test_can_put_events_of_its_own_between_those_of_the_locker() -> None:
    locker = ScriptedLocker()

    async def work(lease: Lease) -> None:
        await trio.sleep(2)
        locker.note("worked")

    virtually(locker.with_advisory_lock, LOCK, work)
    assert locker.events == [("locked", 0), ("worked", 2), ("unlocked", 2)]


def test_its_lists_are_copies() -> None:
    locker = ScriptedLocker()
    virtually(answers, locker, 1)
    locker.events.clear()
    locker.attempts.clear()
    assert len(locker.events) == 2
    assert len(locker.attempts) == 1
    assert repr(locker) == "<ScriptedLocker: 1 attempts, 0 held>"


def test_it_is_a_checkpoint_whatever_the_answer() -> None:
    async def main() -> None:
        for step in (Grant(), Busy(), Unavailable(), Fails(ERROR)):
            with trio.testing.assert_checkpoints():
                await answers(ScriptedLocker([step]), 1)

    virtually(main)


# Values.

seconds = st.floats(0, allow_nan=False)
steps = st.one_of(
    st.builds(Grant, lost_after=seconds, answers_after=seconds, fails_to_unlock=st.none()),
    st.builds(Busy, answers_after=seconds),
    st.builds(Unavailable, st.text(), answers_after=seconds),
)


@given(st.lists(steps))
def test_a_plan_prints_as_it_is_written(plan: list[Any]) -> None:
    names = {"Grant": Grant, "Busy": Busy, "Unavailable": Unavailable, "math": math}
    assert eval(repr(plan), names) == plan


def test_what_was_left_out_is_not_printed() -> None:
    steps = [Grant(), Grant(lost_after=5), Busy(), Unavailable(), Unavailable("away", answers_after=1.5), Fails(ERROR)]
    assert repr(steps) == (
        "[Grant(), Grant(lost_after=5), Busy(), Unavailable(), Unavailable('away', answers_after=1.5), "
        "Fails(OSError('bug'))]"
    )


@pytest.mark.parametrize(
    ("make", "kind", "match"),
    [
        (lambda: Grant(lost_after=-1), ValueError, r"^lost_after must be seconds from 0 to math.inf, got -1: "),
        (lambda: Grant(answers_after=math.nan), ValueError, "^answers_after must be"),
        (lambda: Grant(lost_after=True), TypeError, "^lost_after must be a number of seconds, got True: "),
        (lambda: Grant(answers_after="1"), TypeError, "^answers_after must be a number"),  # type: ignore[arg-type]
        (lambda: Grant(fails_to_unlock=OSError), TypeError, "^fails_to_unlock must be an exception"),  # type: ignore[arg-type]
        (lambda: Busy(answers_after=-0.1), ValueError, "^answers_after must be"),
        (lambda: Unavailable(OSError()), TypeError, "^reason must be a str"),  # type: ignore[arg-type]
        (lambda: Unavailable(answers_after=-1), ValueError, "^answers_after must be"),
        (lambda: Fails("away"), TypeError, "^error must be an exception, got 'away'"),  # type: ignore[arg-type]
        (lambda: Fails(ERROR, answers_after=-1), ValueError, "^answers_after must be"),
        (lambda: ScriptedLocker([Busy]), TypeError, r"^plan\[0\] must be a Grant, Busy"),  # type: ignore[list-item]
        (lambda: ScriptedLocker({3: [Busy(), None]}), TypeError, r"^plan\[3\]\[1\] must be a Grant"),  # type: ignore[list-item]
        (lambda: ScriptedLocker([Step()]), TypeError, r"^plan\[0\] must be a Grant"),
        (lambda: ScriptedLocker(Busy()), TypeError, r"^plan must be an iterable of steps, got Busy\(\): write \[Busy"),  # type: ignore[call-overload]
        (lambda: ScriptedLocker(otherwise=True), TypeError, "^otherwise must be a Grant"),  # type: ignore[call-overload]
        (lambda: ScriptedLocker({2**63: []}), ValueError, "^a key of plan must be a signed 64-bit integer"),
        (lambda: ScriptedLocker(first_epoch="1"), TypeError, "^first_epoch must be an int or None"),  # type: ignore[call-overload]
        (lambda: ScriptedLocker(first_epoch=True), TypeError, "^first_epoch must be an int or None"),
    ],
)
def test_what_makes_no_sense_is_refused_where_it_is_written(make: Any, kind: type[Exception], match: str) -> None:
    with pytest.raises(kind, match=match):
        make()


def test_what_is_done_otherwise_is_checked_also_later() -> None:
    locker = ScriptedLocker()
    with pytest.raises(TypeError, match=r"^otherwise must be a Grant"):
        locker.otherwise = None  # type: ignore[assignment]


@pytest.mark.parametrize(("lock_id", "kind"), [(2**63, ValueError), (True, TypeError)])
def test_what_is_no_lock_id_is_refused(lock_id: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"^lock_id must be"):
        virtually(ScriptedLocker().with_advisory_lock, lock_id, nothing)


@pytest.mark.parametrize("value", [Grant(), Busy(), Unavailable(), Fails(ERROR)])
def test_steps_are_frozen(value: Any) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.answers_after = 1.0
