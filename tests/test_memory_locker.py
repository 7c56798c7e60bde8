"""`MemoryLocker` against each sentence of the docstring of `AdvisoryLocker`: it is the model for all lockers."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
import trio
from scripted import virtually
from trio.testing import assert_checkpoints

from tickrunner_trio import AdvisoryLocker, DatabaseUnavailableError, Lease, LockLostError, MemoryLocker

if TYPE_CHECKING:
    from collections.abc import Callable

LOCK = 1001


async def nothing(lease: Lease) -> None:
    """Runs under a lock."""


async def is_free(locker: MemoryLocker, lock_id: int = LOCK) -> bool:
    return await locker.with_advisory_lock(lock_id, nothing)


def test_it_satisfies_the_protocols() -> None:
    assert isinstance(MemoryLocker(), AdvisoryLocker)

    async def look(lease: Lease) -> None:
        assert isinstance(lease, Lease)

    virtually(MemoryLocker().with_advisory_lock, LOCK, look)


def test_the_lock_was_had_and_fn_ran_once_in_the_callers_task() -> None:
    tasks: list[trio.lowlevel.Task] = []

    async def fn(lease: Lease) -> None:
        await trio.sleep(1)
        tasks.append(trio.lowlevel.current_task())

    async def main() -> None:
        assert await MemoryLocker().with_advisory_lock(LOCK, fn) is True
        assert tasks == [trio.lowlevel.current_task()]

    virtually(main)


def test_a_lease_tells_its_lock_and_its_epoch_and_is_never_lost() -> None:
    async def look(lease: Lease) -> None:
        assert (lease.lock_id, lease.epoch, lease.lost) == (LOCK, 1, False)

    virtually(MemoryLocker().with_advisory_lock, LOCK, look)


def test_somebody_else_is_told_false_at_once_and_its_fn_does_not_run() -> None:
    ran: list[str] = []

    async def holder(lease: Lease) -> None:
        ran.append("holder")
        await trio.sleep(10)

    async def rival(lease: Lease) -> None:
        ran.append("rival")

    async def main() -> None:
        locker = MemoryLocker()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(locker.with_advisory_lock, LOCK, holder)
            await trio.sleep(5)
            assert await locker.with_advisory_lock(LOCK, rival) is False
            assert trio.current_time() == 5
            await trio.sleep(4.9)
            assert await locker.with_advisory_lock(LOCK, rival) is False
        assert trio.current_time() == 10
        assert await locker.with_advisory_lock(LOCK, rival) is True

    virtually(main)
    assert ran == ["holder", "rival"]


def test_the_holder_itself_is_somebody_else_too() -> None:
    locker = MemoryLocker()

    async def fn(lease: Lease) -> None:
        assert not await is_free(locker)
        assert not await is_free(locker)

    assert virtually(locker.with_advisory_lock, LOCK, fn) is True


def test_locks_of_other_ids_and_of_other_lockers_do_not_exclude() -> None:
    locker, other = MemoryLocker(), MemoryLocker()

    async def fn(lease: Lease) -> None:
        assert await is_free(locker, -LOCK)
        assert await is_free(other)

    virtually(locker.with_advisory_lock, LOCK, fn)


def test_letting_one_lock_go_keeps_the_others() -> None:
    locker = MemoryLocker()

    async def fn(lease: Lease) -> None:
        assert await is_free(locker, -LOCK)
        assert not await is_free(locker, LOCK)

    virtually(locker.with_advisory_lock, LOCK, fn)


@pytest.mark.parametrize("lock_id", [0, -1, 2**63 - 1, -(2**63)])
def test_any_signed_64_bit_integer_is_a_lock(lock_id: int) -> None:
    assert virtually(is_free, MemoryLocker(), lock_id) is True


@pytest.mark.parametrize(
    ("lock_id", "kind"), [(2**63, ValueError), (-(2**63) - 1, ValueError), (True, TypeError), ("1", TypeError)]
)
def test_what_is_no_lock_id_is_refused(lock_id: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"^lock_id must be"):
        virtually(is_free, MemoryLocker(), lock_id)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("own"),
        LockLostError("the work's own"),
        DatabaseUnavailableError("the work's own"),
        ExceptionGroup("", [ValueError()]),
        BaseExceptionGroup("", [KeyboardInterrupt(), ValueError()]),
        KeyboardInterrupt(),
        SystemExit(3),
        GeneratorExit(),
    ],
)
def test_what_fn_raises_passes_through_as_it_is_after_the_lock_was_let_go(error: BaseException) -> None:
    async def fn(lease: Lease) -> None:
        await trio.sleep(1)
        raise error

    async def main() -> None:
        locker = MemoryLocker()
        with pytest.raises(type(error)) as caught:
            await locker.with_advisory_lock(LOCK, fn)
        assert caught.value is error
        assert await is_free(locker)

    virtually(main)


def test_cancelled_while_it_tries_it_leaves_no_lock_behind_and_does_not_run_fn() -> None:
    ran: list[Lease] = []

    async def fn(lease: Lease) -> None:
        ran.append(lease)

    async def main() -> None:
        locker = MemoryLocker()
        with trio.CancelScope() as scope:
            scope.cancel()
            await locker.with_advisory_lock(LOCK, fn)
        assert scope.cancelled_caught
        assert ran == []
        assert await locker.with_advisory_lock(LOCK, fn)
        assert len(ran) == 1

    virtually(main)


def test_cancelled_while_fn_runs_it_lets_the_lock_go_only_after_fn_has_really_stopped() -> None:
    async def fn(lease: Lease) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(deadline=trio.current_time() + 3, shield=True):
                await trio.sleep_forever()

    async def main() -> None:
        locker = MemoryLocker()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(locker.with_advisory_lock, LOCK, fn)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await trio.sleep(2.9)
                assert not await is_free(locker)
        assert trio.current_time() == 4
        assert await is_free(locker)

    virtually(main)


def test_no_checkpoint_stands_between_the_end_of_fn_and_the_answer() -> None:
    """A cancellation that comes at the end of the work does not turn a tick that ran into one that did not."""

    async def main() -> None:
        with trio.CancelScope() as scope:

            async def fn(lease: Lease) -> None:
                scope.cancel()

            assert await MemoryLocker().with_advisory_lock(LOCK, fn) is True
        assert not scope.cancelled_caught

    virtually(main)


def test_it_is_always_a_checkpoint_also_when_the_lock_is_busy() -> None:
    locker = MemoryLocker()

    async def fn(lease: Lease) -> None:
        with assert_checkpoints():
            assert not await is_free(locker)

    async def main() -> None:
        with assert_checkpoints():
            assert await is_free(locker)
        await locker.with_advisory_lock(LOCK, fn)

    virtually(main)


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


def test_a_thread_that_is_stopped_in_the_midst_of_a_grant_does_not_bring_an_old_epoch_later() -> None:
    """Only the holder draws: a rival that ran between a draw and its grant would be granted a higher number before."""
    locker = MemoryLocker()
    numbers, grants = iter(range(1, 10)), list[int | None]()

    async def fn(lease: Lease) -> None:
        grants.append(lease.epoch)

    class StoppedAtTheFirst:
        def __next__(self) -> int:
            number = next(numbers)
            if number == 1:
                in_thread(lambda: virtually(locker.with_advisory_lock, LOCK, fn))
            return number

    locker._epochs = StoppedAtTheFirst()  # type: ignore[assignment]
    virtually(locker.with_advisory_lock, LOCK, fn)
    virtually(locker.with_advisory_lock, LOCK, fn)
    assert grants == sorted(grants)
