"""What `MemoryLocker` promises beyond `AdvisoryLocker`, to which tests/test_conformance.py holds it."""

from __future__ import annotations

import contextlib
import itertools
import math
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
from scripted import virtually
from trio.testing import assert_checkpoints

from tickrunner_trio import Lease, MemoryLocker
from tickrunner_trio.lockers import _memory

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from tickrunner_trio.abc import TimedLease

LOCK = 1001


async def nothing(lease: Lease) -> None:
    """Runs under a lock."""


async def is_free(locker: MemoryLocker, lock_id: int = LOCK) -> bool:
    return await locker.with_advisory_lock(lock_id, nothing)


def test_a_lease_tells_its_lock_and_its_epoch_and_is_never_lost() -> None:
    async def look(lease: Lease) -> None:
        assert (lease.lock_id, lease.epoch, lease.lost) == (LOCK, 1, False)

    virtually(MemoryLocker().with_advisory_lock, LOCK, look)


def test_a_busy_lock_is_told_in_no_time() -> None:
    async def holder(lease: Lease) -> None:
        await trio.sleep(10)

    async def main() -> None:
        locker = MemoryLocker()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(locker.with_advisory_lock, LOCK, holder)
            await trio.sleep(9.9)
            assert not await is_free(locker)
            assert trio.current_time() == 9.9
        assert trio.current_time() == 10
        assert await is_free(locker)

    virtually(main)


def test_the_locks_of_another_locker_are_others() -> None:
    locker, other = MemoryLocker(), MemoryLocker()

    async def fn(lease: Lease) -> None:
        assert await is_free(other)

    virtually(locker.with_advisory_lock, LOCK, fn)


@pytest.mark.parametrize(
    ("lock_id", "kind"), [(2**63, ValueError), (-(2**63) - 1, ValueError), (True, TypeError), ("1", TypeError)]
)
def test_what_is_no_lock_id_is_refused(lock_id: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"^lock_id must be"):
        virtually(is_free, MemoryLocker(), lock_id)


def test_no_checkpoint_stands_between_the_end_of_fn_and_the_answer() -> None:
    """A cancellation that comes at the end of the work does not turn a tick that ran into one that did not."""

    async def main() -> None:
        with trio.CancelScope() as scope:

            async def fn(lease: Lease) -> None:
                scope.cancel()

            assert await MemoryLocker().with_advisory_lock(LOCK, fn) is True
        assert not scope.cancelled_caught

    virtually(main)


def test_a_lock_that_is_busy_is_a_checkpoint_and_one_that_is_had_checks_for_a_cancellation_before() -> None:
    locker = MemoryLocker()

    async def fn(lease: Lease) -> None:
        with assert_checkpoints():
            assert not await is_free(locker)

    async def main() -> None:
        await locker.with_advisory_lock(LOCK, fn)
        with trio.CancelScope() as scope:
            scope.cancel()
            await locker.with_advisory_lock(LOCK, pytest.fail)
        assert scope.cancelled_caught

    virtually(main)


def test_a_hold_ends_by_the_clock_while_fn_runs_on_and_its_end_takes_nothing_from_who_came_after_it() -> None:
    locker = MemoryLocker()
    seen: list[object] = []

    async def hold(lease: Lease) -> None:
        timed = cast("TimedLease", lease)
        assert timed.let_go_after(5)
        assert timed.let_go_after(9), "what is said last counts"
        await trio.sleep(12)
        seen.append((trio.current_time(), lease.lost, timed.let_go_after(math.inf)))

    async def try_at(*times: float) -> None:
        for at in times:
            await trio.sleep_until(at)
            seen.append((at, await locker.with_advisory_lock(LOCK, work)))

    async def work(lease: Lease) -> None:
        await trio.sleep(4)
        assert not lease.lost
        assert not await is_free(locker), "the first holder's return let go of somebody else's lock"

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(locker.with_advisory_lock, LOCK, hold)
            nursery.start_soon(try_at, 8.9, 9.0)

    virtually(main)
    assert seen == [(8.9, False), (12, True, False), (9.0, True)]
    assert repr(locker) == "<MemoryLocker: 0 held>"


def test_a_hold_that_is_taken_back_does_not_end() -> None:
    locker = MemoryLocker()

    async def fn(lease: Lease) -> None:
        timed = cast("TimedLease", lease)
        assert timed.let_go_after(5)
        assert timed.let_go_after(math.inf)
        await trio.sleep(6)
        assert not lease.lost
        assert not await is_free(locker)

    virtually(lambda: locker.with_advisory_lock(LOCK, fn))


def test_no_hold_is_to_be_had_of_a_lock_that_was_let_go_of() -> None:
    leases: list[TimedLease] = []

    async def fn(lease: Lease) -> None:
        leases.append(cast("TimedLease", lease))

    virtually(lambda: MemoryLocker().with_advisory_lock(LOCK, fn))
    assert leases[0].let_go_after(1) is False


def test_epochs_count_up_over_all_grants_and_locks() -> None:
    epochs: list[int | None] = []

    async def fn(lease: Lease) -> None:
        epochs.append(lease.epoch)

    async def main() -> None:
        locker = MemoryLocker()
        for lock_id in (1, 2, 1, 1, 2):
            await locker.with_advisory_lock(lock_id, fn)

    virtually(main)
    assert epochs == [1, 2, 3, 4, 5]


def test_it_forgets_the_locks_that_were_let_go_and_its_repr_counts_those_held() -> None:
    locker = MemoryLocker()

    async def fn(lease: Lease) -> None:
        assert repr(locker) == "<MemoryLocker: 1 held>"

    async def main() -> None:
        for lock_id in range(100):
            await locker.with_advisory_lock(lock_id, fn)

    virtually(main)
    assert repr(locker) == "<MemoryLocker: 0 held>"


# Threads.


def in_thread(function: Callable[[], Any]) -> Any:
    """Run it in a thread of its own, wait for it, and return its answer."""
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(function()))
    thread.start()
    thread.join(timeout=60)
    assert len(answers) == 1
    return answers[0]


def test_a_trio_run_in_another_thread_is_somebody_else() -> None:
    locker = MemoryLocker()

    async def fn(lease: Lease) -> None:
        assert in_thread(lambda: virtually(is_free, locker)) is False

    assert virtually(locker.with_advisory_lock, LOCK, fn) is True
    assert in_thread(lambda: virtually(is_free, locker)) is True


def test_trio_runs_in_many_threads_exclude_each_other() -> None:
    locker = MemoryLocker()
    inside, rivals_inside = set[int](), set[int]()
    grants: list[int | None] = []
    together = threading.Barrier(4, timeout=60)

    async def fn(lease: Lease) -> None:
        me = threading.get_ident()
        rivals_inside.update(inside)
        inside.add(me)
        grants.append(lease.epoch)
        await trio.lowlevel.checkpoint()
        inside.discard(me)

    async def contend() -> int:
        together.wait()
        return sum([await locker.with_advisory_lock(LOCK, fn) for _ in range(200)])

    had: list[int] = []
    threads = [threading.Thread(target=lambda: had.append(trio.run(contend))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert rivals_inside == set()
    assert len(had) == 4
    assert sum(had) == len(grants) > 0
    assert grants == sorted(grants), "epochs count up in the order of the grants"
    assert len(set(grants)) == len(grants)


@pytest.mark.parametrize("looks", [1, 2])
def test_a_rival_that_finds_the_hold_over_and_a_holder_that_takes_its_end_back_do_not_both_have_the_lock(
    looks: int,
) -> None:
    """The holder's thread is stopped when it has looked at the clock so often, just before the end of its hold."""
    locker = MemoryLocker()
    rivals: list[threading.Thread] = []
    had: list[bool] = []

    class StoppedOnce(trio.abc.Clock):
        now, looks_left = 0.0, 0

        def start_clock(self) -> None: ...

        def deadline_to_sleep_time(self, deadline: float) -> float:
            return deadline - self.now

        def current_time(self) -> float:
            now = self.now
            self.looks_left -= 1
            if self.looks_left == 0:
                self.now = 1.0  # the hold ends
                rivals.append(threading.Thread(target=lambda: had.append(trio.run(is_free, locker))))
                rivals[0].start()
                rivals[0].join(timeout=0.2)  # unless it waits for the holder
            return now

    async def fn(lease: Lease) -> None:
        timed = cast("TimedLease", lease)
        assert timed.let_go_after(0.5)
        clock.looks_left = looks
        still_held = timed.let_go_after(math.inf)
        clock.looks_left = 0
        for rival in rivals:
            await trio.to_thread.run_sync(rival.join)
        assert still_held + sum(had) == 1

    clock = StoppedOnce()
    trio.run(locker.with_advisory_lock, LOCK, fn, clock=clock)


def test_nobody_else_runs_between_the_question_and_its_answer() -> None:
    """So a service needs no scope by which a drain could end the wait: there is none."""
    ran: list[str] = []

    async def note_other() -> None:
        ran.append("another task")

    async def fn(lease: Lease) -> None:
        ran.append("fn")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(note_other)
            await locker.with_advisory_lock(LOCK, fn)
            ran.append("answered")

    locker = MemoryLocker()
    assert locker.answers_at_once
    virtually(main)
    assert ran == ["fn", "answered", "another task"]


@pytest.mark.skipif(sys.platform == "win32", reason="raises a signal in its own process")
def test_a_ctrl_c_at_any_line_of_taking_or_letting_go_leaves_no_lock() -> None:
    """Nobody in the process would ever have it again."""

    async def interrupted(locker: MemoryLocker, line: int) -> bool:
        seen = 0

        def before_each_line(frame: FrameType, event: str, arg: object) -> Any:  # pragma: no cover - not traced itself
            nonlocal seen
            if frame.f_code.co_filename != _memory.__file__:
                return None
            if frame.f_code.co_name not in ("_take", "_let_go"):  # the oldest Trio wraps them
                return before_each_line
            seen += event == "line"
            if event == "line" and seen == line:
                signal.raise_signal(signal.SIGINT)
            return before_each_line

        tracing = sys.gettrace()
        with contextlib.suppress(KeyboardInterrupt):
            sys.settrace(before_each_line)
            try:
                await locker.with_advisory_lock(LOCK, nothing)
            finally:
                sys.settrace(tracing)
            await trio.lowlevel.checkpoint()  # where one comes that was kept back
        assert not locker._mutex.locked()
        assert await is_free(locker)
        return seen >= line

    lines = next(line for line in itertools.count(1) if not virtually(interrupted, MemoryLocker(), line))
    assert lines > 8
