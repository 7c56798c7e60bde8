"""The promises of `AdvisoryLocker` and `Lease` about calls that nothing disturbs, in the order of their checks.

The first ones are what the later ones build on, so that the first broken promise is the one to mend first.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import trio

from .._errors import DatabaseUnavailableError, LockerConfigurationError, LockLostError
from .._lock_ids import MAX_LOCK_ID, MIN_LOCK_ID
from ..abc import Lease
from ._promise import Promise, promise
from ._trial import Trial, UnkeptError, checkpoints, nothing, require

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator

# -- What a call says and does -----------------------------------------------------------------------------------------


@promise("with_advisory_lock is async and takes lock_id and fn, in this order and by these names.")
async def takes_what_the_protocol_says(trial: Trial) -> None:
    calls: tuple[Callable[[], Awaitable[bool]], ...] = (
        lambda: trial.locker.with_advisory_lock(trial.lock_id, nothing),
        lambda: trial.locker.with_advisory_lock(lock_id=trial.lock_id, fn=nothing),
    )
    for call in calls:
        with trial.in_time("the call did not come back"):
            try:
                await call()
            except Exception as error:
                raise UnkeptError(f"called as the protocol says, it raised {error!r}") from error


@promise("If the lock was had, fn has run exactly once, to its end, and the call returns True.")
async def says_true_when_fn_ran(trial: Trial) -> None:
    call = await trial.here()
    require(call.answer is True, f"the lock was free, and {call.told()}", cause=call.error)
    seen = f"the call returned True, and fn was begun {call.runs} times and ran to its end {call.completed} times"
    require(call.runs == call.completed == 1, seen)


@promise("fn runs in the task of the caller.")
async def runs_fn_in_the_callers_task(trial: Trial) -> None:
    call = await trial.here()
    require(call.task is trio.lowlevel.current_task(), f"the caller is another task than that of fn, {call.task!r}")


class _Later:
    """An awaitable that is no coroutine."""

    def __init__(self, begin: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._begin = begin

    def __await__(self) -> Generator[Any, Any, None]:
        return self._begin().__await__()


@promise("fn may be whatever gives an awaitable when it is called with a lease.")
async def takes_any_fn(trial: Trial) -> None:
    leases: list[Lease] = []

    class Work:
        async def __call__(self, lease: Lease) -> None:
            leases.append(lease)
            await trio.lowlevel.checkpoint()

    def disguised(lease: Lease) -> Awaitable[None]:
        return _Later(lambda: Work()(lease))

    works: tuple[Callable[[Lease], Awaitable[None]], ...] = (
        Work(),
        functools.partial(Work.__call__, Work()),
        disguised,
    )
    for work in works:
        ran_before = len(leases)
        with trial.in_time("the call did not come back"):
            try:
                answer = await trial.locker.with_advisory_lock(trial.lock_id, work)
            except Exception as error:
                raise UnkeptError(f"with fn={work!r}, the call raised {error!r}") from error
            seen = f"with fn={work!r}, the call returned {answer!r}, and fn ran {len(leases) - ran_before} times"
            require(answer is True and len(leases) == ran_before + 1, seen)


@promise("The lease names the lock, has an epoch that is an int or None, and is not lost while the lock is held.")
async def gives_a_lease(trial: Trial) -> None:
    async def work(lease: Lease) -> None:
        for _ in range(3):
            require(isinstance(lease, Lease), f"fn was given {lease!r}, which has not all attributes of a Lease")
            require(
                lease.lock_id == trial.lock_id, f"under the lock {trial.lock_id}, lease.lock_id was {lease.lock_id!r}"
            )
            require(lease.lost is False, f"nobody took the lock away, and lease.lost was {lease.lost!r}")
            is_an_epoch = lease.epoch is None or type(lease.epoch) is int
            require(is_an_epoch, f"lease.epoch was {lease.epoch!r}")
            await trio.lowlevel.checkpoint()

    await trial.here(work)


# -- Exclusion ---------------------------------------------------------------------------------------------------------


@promise("While a lock is held, everybody else is told False, at once, and their fn does not run.")
async def tells_others_false(trial: Trial) -> None:
    seconds_of_a_yes, _ = await trial.seconds_of_a_call()
    at_once = 10 * seconds_of_a_yes + 1  # seconds: a busy machine is no broken promise, who tries again for a while is
    for rival in trial.rivals:
        holder = await trial.begin()
        asked_at = trio.current_time()
        await trial.expect_busy("while the lock was held", rivals=(rival,))
        took = trio.current_time() - asked_at
        told = f"it took {took:.3g} seconds to say False, and {seconds_of_a_yes:.3g} to begin fn when the lock was free"
        require(took <= at_once, told)
        await holder.end()


@promise("The holder itself is somebody else too: asking again under the lock, it is told False.")
async def is_not_reentrant(trial: Trial) -> None:
    async def work(lease: Lease) -> None:  # noqa: ARG001  # the seam gives it
        await trial.expect_busy("asked for again by the task that held the lock")

    await trial.here(work)


@promise("Who was told False has taken nothing away from the holder.")
async def keeps_the_lock_when_others_ask(trial: Trial) -> None:
    holder = await trial.begin()
    for rival in trial.rivals:
        await trial.here(locker=rival)
    require(holder.lease.lost is False, "the lease was lost when somebody else had asked for the lock")
    await trial.expect_busy("after somebody else had been told False")
    await holder.end()


@promise("The lock is held for as long as fn runs.")
async def holds_as_long_as_fn_runs(trial: Trial) -> None:
    holder = await trial.begin()
    began_at = trio.current_time()
    for tenth in range(1, 11):
        await trio.sleep_until(began_at + tenth * trial.held_for / 10)
        held_for = f"when the lock had been held for {trio.current_time() - began_at:.3g} seconds"
        require(holder.lease.lost is False, f"{held_for}, lease.lost was {holder.lease.lost!r}")
        require(not holder.back.is_set(), f"{held_for}, {holder.told()}", cause=holder.error)
        await trial.expect_busy(held_for)
    await holder.end()


@promise("Of many callers at once, at most one has the lock at a time, and each one that had it is told True.")
async def excludes_many(trial: Trial) -> None:
    inside: list[int] = [0, 0]  # now, and at most

    async def work(lease: Lease) -> None:  # noqa: ARG001  # the seam gives it
        inside[0] += 1
        inside[1] = max(inside)
        await checkpoints(3)
        inside[0] -= 1

    calls = [trial.start(work, locker=trial.rivals[place % len(trial.rivals)]) for place in range(trial.at_once)]
    for call in calls:
        await call.until_back()
        told = f"of {trial.at_once} callers at once, one began fn {call.runs} times, and {call.told()}"
        require(call.runs <= 1 and call.answer is (call.runs == 1), told, cause=call.error)
    require(inside[1] == 1, f"of {trial.at_once} callers at once, {inside[1]} had the lock at the same time")


# -- Lock ids ----------------------------------------------------------------------------------------------------------


@promise("Every signed 64-bit integer is a lock: 0, negative ones, the least and the greatest.")
async def locks_every_id(trial: Trial) -> None:
    for lock_id in (0, -1, MIN_LOCK_ID, MAX_LOCK_ID):
        holder = await trial.begin(lock_id=lock_id)
        require(
            holder.lease.lock_id == lock_id, f"under the lock {lock_id}, lease.lock_id was {holder.lease.lock_id!r}"
        )
        await trial.expect_busy("while the lock was held", lock_id=lock_id)
        await holder.end()
        await trial.expect_free("after the call had come back", lock_id=lock_id)


@promise("Different ids are different locks, also if they differ in one bit or in the sign only.")
async def tells_ids_apart(trial: Trial) -> None:
    # 57 bits: as a float, it would be the same as its neighbours.
    for held in (trial.lock_id, -1, 0x0123_4567_89AB_CDEF):
        holder = await trial.begin(lock_id=held)
        with_another_bit = [held ^ 1 << bit for bit in range(63)]
        with_another_sign = (-held, ~held, held + MIN_LOCK_ID if held > 0 else held - MIN_LOCK_ID)
        for other in (*with_another_bit, *with_another_sign):
            call = await trial.here(lock_id=other)
            told = f"while the lock {held} was held, the lock {other} was asked for, and {call.told()}"
            require(call.answer is True, told, cause=call.error)
        await trial.expect_busy("after other locks had been let go", lock_id=held)
        require(holder.lease.lost is False, "the lease was lost when other locks had been let go")
        await holder.end()


@promise("Many locks can be held at once.")
async def holds_many_locks(trial: Trial) -> None:
    first = -(trial.at_once // 2)
    calls = [
        trial.start(locker=trial.rivals[place % len(trial.rivals)], lock_id=first + place)
        for place in range(trial.at_once)
    ]
    for call in calls:
        await call.until_begun()
    for call in calls:
        await call.end()


# -- The end of fn -----------------------------------------------------------------------------------------------------


@promise("When a call has come back, its lock is free again.")
async def lets_go_when_fn_returns(trial: Trial) -> None:
    for locker in trial.rivals:
        await trial.here(locker=locker)
        await trial.expect_free("after fn had returned and the call had come back")


def _raising(error: BaseException, *, at_once: bool) -> Callable[[Lease], Awaitable[None]]:
    async def work(lease: Lease) -> None:  # noqa: ARG001  # the seam gives it
        if not at_once:
            await trio.lowlevel.checkpoint()
        raise error

    return work


async def _passes(trial: Trial, error: BaseException) -> None:
    cause = error.__cause__
    for at_once in (True, False):
        call = await trial.here(_raising(error, at_once=at_once))
        require(call.runs == 1, f"fn raised {error!r} and was begun {call.runs} times")
        require(call.error is error, f"fn raised {error!r}, and {call.told()}", cause=call.error)
        changed = f"fn raised {error!r} from {cause!r}, and as it came out its __cause__ was {error.__cause__!r}"
        require(error.__cause__ is cause, changed)


@promise("An Exception of fn comes out of the call as it is: the very object, in no group and in place of no other.")
async def passes_errors(trial: Trial) -> None:
    from_another = RuntimeError("fn's own")
    from_another.__cause__ = OSError("its cause")
    for error in (ValueError("fn's own"), OSError(5, "fn's own"), trio.TooSlowError("fn's own"), from_another):
        await _passes(trial, error)
    await _passes(trial, ExceptionGroup("fn's own", [ValueError("one"), OSError("two")]))


class _OwnLockLostError(LockLostError):
    """So that a locker that means its own is seen not to catch this one."""


@promise("A LockLostError, DatabaseUnavailableError or LockerConfigurationError of fn's own is an error as any other.")
async def passes_errors_of_its_own_kind(trial: Trial) -> None:
    kinds = (LockLostError, _OwnLockLostError, DatabaseUnavailableError, LockerConfigurationError)
    for kind in (*kinds, trio.ClosedResourceError, TimeoutError):
        await _passes(trial, kind("fn's own"))


class _GoodbyeError(BaseException):
    """Ends a program, as KeyboardInterrupt does."""


@promise(
    "What fn raises to end the program comes out of the call as it is: KeyboardInterrupt, SystemExit, and their kin."
)
async def passes_what_ends_the_program(trial: Trial) -> None:
    for kind in (KeyboardInterrupt, SystemExit, GeneratorExit, _GoodbyeError):
        await _passes(trial, kind("fn's own"))
    await _passes(trial, BaseExceptionGroup("fn's own", [KeyboardInterrupt(), ValueError("beside")]))


@promise("The lock is let go after fn has raised, whatever it raised.")
async def lets_go_when_fn_raises(trial: Trial) -> None:
    errors = (ValueError("fn's own"), LockLostError("fn's own"), DatabaseUnavailableError("fn's own"))
    for error in (*errors, KeyboardInterrupt(), SystemExit(), GeneratorExit()):
        for at_once in (True, False):
            await trial.here(_raising(error, at_once=at_once))
            await trial.expect_free(f"after fn had raised {error!r}")


@promise("Of one lock, either no lease has an epoch, or each has a higher one than all before it.")
async def counts_epochs_up(trial: Trial) -> None:
    epochs: list[int | None] = []

    async def work(lease: Lease) -> None:
        epochs.append(lease.epoch)
        await trio.lowlevel.checkpoint()

    async def fails(lease: Lease) -> None:
        await work(lease)
        raise ValueError("fn's own")

    for each in (work, work, fails, work):
        for locker in trial.rivals:
            await trial.here(each, locker=locker)
    numbers = [epoch for epoch in epochs if epoch is not None]
    require(numbers in ([], epochs), f"some leases have epochs, and others not: {epochs}")
    require(sorted(set(numbers)) == numbers, f"the epochs of one lock were, in the order of its grants, {numbers}")


PROMISES: tuple[Promise, ...] = (
    takes_what_the_protocol_says,
    says_true_when_fn_ran,
    runs_fn_in_the_callers_task,
    lets_go_when_fn_returns,
    takes_any_fn,
    gives_a_lease,
    tells_others_false,
    keeps_the_lock_when_others_ask,
    is_not_reentrant,
    lets_go_when_fn_raises,
    passes_errors,
    passes_errors_of_its_own_kind,
    passes_what_ends_the_program,
    locks_every_id,
    tells_ids_apart,
    counts_epochs_up,
    holds_as_long_as_fn_runs,
    excludes_many,
    holds_many_locks,
)
