"""Every locker of ours against every promise of `AdvisoryLocker`; and the check. Its teeth: kit/test_locker_gallery."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import trio
from faults.broken_lockers import CarriesLocksOver
from locker_gallery import HonestLocker, ShieldsTheWork, Store
from postgres_view import terminate
from scripted import virtually

from tickrunner_trio import MemoryLocker, PostgresLocker
from tickrunner_trio.lockers import _session_thread
from tickrunner_trio.lockers._lock_book import LockBook
from tickrunner_trio.testing import (
    BrokenPromiseError,
    Fails,
    Grant,
    LockerReport,
    ScriptedLocker,
    check_advisory_locker,
)
from tickrunner_trio.testing._cancellation_promises import CANCELLATION_PROMISES
from tickrunner_trio.testing._loss_promises import LOSS_PROMISES
from tickrunner_trio.testing._promises import PROMISES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

NO_LOSS = {each.sentence for each in (*PROMISES, *CANCELLATION_PROMISES)}
ALL = {*NO_LOSS, *(each.sentence for each in LOSS_PROMISES)}
BETWEEN_TWO = "All of this holds between two lockers of one store too."


async def lose(locker: Any, lock_id: int) -> None:
    locker.lose(lock_id)


def checked(make_locker: Callable[[], Any], **options: Any) -> LockerReport:
    async def main() -> LockerReport:
        return await check_advisory_locker(make_locker, **options)

    report: LockerReport = virtually(main)
    return report


# Our lockers.


def test_a_memory_locker_keeps_every_promise_and_loses_no_lock() -> None:
    report = checked(MemoryLocker, held_for=3600)
    assert set(report.checked) == NO_LOSS


async def test_it_does_so_on_the_real_clock_too() -> None:
    report = await check_advisory_locker(MemoryLocker, held_for=0.1, patience=10)
    assert set(report.checked) == NO_LOSS


def test_memory_lockers_share_no_store() -> None:
    with pytest.raises(BrokenPromiseError, match="another locker had the lock"):
        checked(MemoryLocker, shared=True)


def test_one_memory_locker_for_all_of_a_process_keeps_every_promise() -> None:
    locker = MemoryLocker()
    report = checked(lambda: locker, shared=True)
    assert set(report.checked) == NO_LOSS


@pytest.mark.parametrize(
    "make_locker",
    [
        ScriptedLocker,
        lambda: ScriptedLocker(first_epoch=None),
        lambda: ScriptedLocker(otherwise=Grant(answers_after=2)),
        lambda: ScriptedLocker(otherwise=Grant(lost_after=1e6)),
    ],
)
def test_a_scripted_locker_keeps_every_promise(make_locker: Callable[[], ScriptedLocker]) -> None:
    report = checked(make_locker, lose=lose, held_for=3600)
    assert set(report.checked) == ALL


def test_what_loses_a_lock_may_be_a_plain_function() -> None:
    assert set(checked(ScriptedLocker, lose=ScriptedLocker.lose).checked) == ALL


def test_a_loss_that_is_in_the_plan_keeps_the_promises_about_losses() -> None:
    async def wait_for_the_plan(locker: Any, lock_id: int) -> None:
        await trio.sleep(4)

    report = checked(lambda: ScriptedLocker(otherwise=Grant(lost_after=4)), lose=wait_for_the_plan)
    assert set(report.checked) == ALL


async def test_a_postgres_locker_keeps_every_promise_also_between_two_sessions(dsn: str) -> None:
    async def lose_its_session(locker: Any, lock_id: int) -> None:
        await trio.to_thread.run_sync(terminate, dsn)

    report = await check_advisory_locker(lambda: PostgresLocker(dsn), shared=True, lose=lose_its_session)
    assert report.skipped == ()
    assert set(report.checked) == ALL


async def test_a_postgres_locker_that_carries_its_locks_over_is_found_out(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other lockers of tests/faults fail with the network only, which the check does not touch."""
    monkeypatch.setattr(_session_thread, "LockBook", LockBook)  # to have it back, since the locker puts in its own

    async def lose_its_session(locker: Any, lock_id: int) -> None:
        await trio.to_thread.run_sync(terminate, dsn)

    with pytest.raises(BrokenPromiseError, match=r"^A loss cancels fn; .* fn was not cancelled within 3 seconds\.$"):
        await check_advisory_locker(lambda: CarriesLocksOver(dsn), lose=lose_its_session, held_for=0.1, patience=3)


# The report.


def test_what_was_not_checked_is_told_with_the_remedy() -> None:
    report = checked(MemoryLocker)
    assert [promise for promise, _ in report.skipped] == [*(each.sentence for each in LOSS_PROMISES), BETWEEN_TWO]
    assert {reason.split()[0] for _, reason in report.skipped} == {"lose=", "shared=True"}
    assert str(report).splitlines() == [
        *(f"kept:    {promise}" for promise in report.checked),
        *(f"skipped: {promise} ({reason})" for promise, reason in report.skipped),
    ]


def test_nothing_is_skipped_when_everything_is_given() -> None:
    store = Store()

    async def lose_it(locker: HonestLocker, lock_id: int) -> None:
        store.lose(lock_id)

    report = checked(lambda: HonestLocker(store), shared=True, lose=lose_it)
    assert report.skipped == ()
    assert not store.held


def test_each_promise_is_one_sentence_and_said_once() -> None:
    sentences = [each.sentence for each in (*PROMISES, *CANCELLATION_PROMISES, *LOSS_PROMISES)]
    assert [count for count in Counter(sentences).values() if count > 1] == []
    for sentence in sentences:
        assert sentence.endswith(".")
        assert ". " not in sentence
        assert len(sentence) <= 120


def test_a_broken_promise_is_an_assertion_error_that_says_the_promise_and_what_was_seen() -> None:
    class Deaf(MemoryLocker):
        async def with_advisory_lock(self, lock_id: int, fn: Any) -> bool:
            await trio.lowlevel.checkpoint()
            return True

    with pytest.raises(AssertionError) as caught:
        checked(Deaf)
    assert isinstance(caught.value, BrokenPromiseError)
    assert (
        caught.value.promise == "If the lock was had, fn has run exactly once, to its end, and the call returns True."
    )
    assert caught.value.seen == "the call returned True, and fn was begun 0 times and ran to its end 0 times"
    assert str(caught.value) == f"{caught.value.promise} Not so: {caught.value.seen}."


def test_what_the_locker_raised_is_the_cause() -> None:
    error = OSError("bug")

    with pytest.raises(BrokenPromiseError, match=r"it raised OSError\('bug'\)") as caught:
        checked(lambda: ScriptedLocker(otherwise=Fails(error)))
    assert caught.value.__cause__ is error


# What it is given.


def test_a_context_manager_is_entered_and_left_for_each_promise() -> None:
    seen: list[str] = []

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[MemoryLocker]:
        seen.append("entered")
        async with trio.open_nursery():
            yield MemoryLocker()
        seen.append("left")

    report = checked(opened)
    assert seen == ["entered", "left"] * len(report.checked)


def test_a_broken_promise_comes_out_of_a_nursery_of_the_context_manager_as_it_is() -> None:
    store = Store()

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[ShieldsTheWork]:
        async with trio.open_nursery():
            yield ShieldsTheWork(store)

    with pytest.raises(BrokenPromiseError):
        checked(opened)


@pytest.mark.parametrize("made", [None, object(), trio.Lock()])
def test_what_is_no_locker_is_refused(made: object) -> None:
    with pytest.raises(TypeError, match=r"^make_locker must make an object with an async method with_advisory_lock"):
        checked(lambda: made)


@pytest.mark.parametrize(
    ("options", "kind", "match"),
    [
        ({"make_locker": MemoryLocker()}, TypeError, "make_locker must be callable"),
        ({"lose": 1}, TypeError, "lose must be callable"),
        ({"held_for": True}, TypeError, "held_for must be a number"),
        ({"held_for": 0}, ValueError, "held_for must be a finite number of seconds above 0"),
        ({"patience": float("inf")}, ValueError, "patience must be a finite"),
        ({"patience": float("nan")}, ValueError, "patience must be"),
        ({"at_once": 1}, ValueError, "at_once must be at least 2"),
        ({"at_once": 2.0}, TypeError, "at_once must be an int"),
    ],
)
def test_a_wrong_argument_is_refused(options: dict[str, Any], kind: type[Exception], match: str) -> None:
    with pytest.raises(kind, match=f"^{match}"):
        checked(**{"make_locker": MemoryLocker, **options})


@pytest.mark.parametrize("error", [OSError("no such key"), KeyboardInterrupt()])
def test_what_lose_raises_comes_out_as_it_is(error: BaseException) -> None:
    async def fails(locker: Any, lock_id: int) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        checked(ScriptedLocker, lose=fails)
    assert caught.value is error


def test_a_lose_that_hangs_is_told() -> None:
    async def hangs(locker: Any, lock_id: int) -> None:
        await trio.sleep_forever()

    with pytest.raises(BrokenPromiseError, match="lose did not come back within 30 seconds"):
        checked(ScriptedLocker, lose=hangs)


# How it ends.


@pytest.mark.parametrize("kind", [HonestLocker, ShieldsTheWork])
@pytest.mark.parametrize("cancelled_at", [0.0, 1.0, 10.0, 60.0, 600.0])
def test_it_can_be_cancelled_at_any_time_and_leaves_no_task_and_no_lock(
    kind: type[HonestLocker], cancelled_at: float
) -> None:
    store = Store()

    async def main() -> None:
        tasks_before = trio.lowlevel.current_statistics().tasks_living
        with trio.move_on_after(cancelled_at) as scope:
            await check_advisory_locker(lambda: kind(store), shared=True, held_for=3600, patience=1e6)
        assert scope.cancelled_caught
        assert trio.lowlevel.current_statistics().tasks_living == tasks_before

    virtually(main)
    assert not store.held


@pytest.mark.parametrize("number", [1, 2, 3, 10, 40, 200, 500])
def test_a_ctrl_c_while_the_locker_works_is_no_broken_promise_and_comes_out_as_it_is(number: int) -> None:
    ctrl_c = KeyboardInterrupt()
    calls = itertools.count(1)

    class Interrupted(MemoryLocker):
        async def with_advisory_lock(self, lock_id: int, fn: Any) -> bool:
            if next(calls) == number:
                await trio.lowlevel.checkpoint()
                raise ctrl_c
            return await super().with_advisory_lock(lock_id, fn)

    with pytest.raises(KeyboardInterrupt) as caught:
        checked(Interrupted)
    assert caught.value is ctrl_c
