"""The promises of `AdvisoryLocker` about callers that are cancelled: while they try, while `fn` runs, and after it.

Where a call awaits something, nobody but its author knows. So the cancellation comes after each small number of
checkpoints, for what happens within the process, and after each fraction of the time that a call takes, for the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from ._promise import Promise, promise
from ._trial import Call, Trial, checkpoints, nothing, require

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..abc import Lease


@promise("Cancelling the caller cancels fn, and the cancellation passes through.")
async def passes_cancellation(trial: Trial) -> None:
    call = await trial.begin()
    call.scope.cancel()
    await call.until_back()
    require(call.scope.cancelled_caught, f"the caller was cancelled while fn ran, and {call.told()}", cause=call.error)


@promise("The lock is let go after fn has been cancelled.")
async def lets_go_when_cancelled(trial: Trial) -> None:
    call = await trial.begin()
    call.scope.cancel()
    await call.until_back()
    await trial.expect_free_soon("after the caller had been cancelled and fn had stopped")


@promise("The lock is let go only after fn has really stopped, however long that takes after a cancellation.")
async def holds_until_fn_has_stopped(trial: Trial) -> None:
    async def cleans_up(lease: Lease) -> None:  # noqa: ARG001  # the seam gives it
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.1)
                await trial.expect_busy("while fn cleaned up after a cancellation")

    call = await trial.begin(cleans_up)
    call.scope.cancel()
    await call.until_back()


@promise("Cancelled before or while it tries the lock, a call leaves no lock behind, and fn does not do its work.")
async def leaves_no_lock_when_cancelled(trial: Trial) -> None:
    seconds, _ = await trial.seconds_of_a_call()
    for count in range(16):
        call = trial.start(nothing)
        await checkpoints(count)
        call.scope.cancel()
        await _judge_cancelled(trial, call, f"cancelled after {count} checkpoints")
        require(count > 0 or call.runs == 0, "fn was begun although the caller had been cancelled before the call")
    for sixteenth in range(17):
        after = seconds * sixteenth / 16
        call = trial.start(nothing)
        call.scope.deadline = trio.current_time() + after
        await _judge_cancelled(trial, call, f"cancelled after {after:.3g} of {seconds:.3g} seconds")


async def _judge_cancelled(trial: Trial, call: Call, when: str) -> None:
    await call.until_back()
    is_well = call.scope.cancelled_caught if call.answer is None else call.answer is True and call.completed
    require(is_well, f"{when}, {call.told()}", cause=call.error)
    require(not (call.begun_cancelled and call.completed), f"{when}, fn was begun after that and ran to its end")
    await trial.expect_free_soon(when)


@promise(
    "Cancelled while it tries a lock that somebody holds, a call takes nothing away from the holder, and gets nothing."
)
async def keeps_the_lock_when_a_rival_is_cancelled(trial: Trial) -> None:
    holder = await trial.begin()
    for count in range(8):
        for rival in trial.rivals:
            call = trial.start(nothing, locker=rival)
            await checkpoints(count)
            call.scope.cancel()
            await call.until_back()
            await trial.expect_busy(f"after a rival had been cancelled after {count} checkpoints")
    await holder.end()
    await trial.expect_free_soon("after the holder had let go")


@promise("A cancellation that comes when fn has ended leaves no lock behind, and takes the place of no error.")
async def lets_go_when_cancelled_at_the_end(trial: Trial) -> None:
    error = ValueError("fn's own")

    async def fails(lease: Lease) -> None:
        await nothing(lease)
        raise error

    _, seconds = await trial.seconds_of_a_call()
    for work in (nothing, fails):
        for count in range(-1, 8):
            await _cancelled_at_the_end(trial, work, f"cancelled {count} checkpoints after the end of fn", count=count)
        for eighth in range(1, 8):
            after = seconds * eighth / 8
            when = f"cancelled {after:.3g} of {seconds:.3g} seconds after the end of fn"
            await _cancelled_at_the_end(trial, work, when, after=after)


async def _cancelled_at_the_end(
    trial: Trial, work: Callable[[Lease], Awaitable[None]], when: str, *, count: int = 0, after: float = 0.0
) -> None:
    """Of -1 checkpoints, the cancellation is the last thing that fn does."""

    async def until_then(lease: Lease) -> None:
        try:
            await work(lease)
        finally:
            if count < 0:
                call.scope.cancel()
            elif after:
                call.scope.deadline = trio.current_time() + after

    call = trial.start(until_then)
    await call.until_begun()
    with trial.in_time("fn did not end"):
        await call.stopped.wait()
    await checkpoints(max(count, 0))
    if not after:
        call.scope.cancel()
    await call.until_back()
    if call.raised is not None:
        require(call.error is call.raised, f"{when}, which had raised {call.raised!r}, {call.told()}", cause=call.error)
    else:
        is_well = call.answer is True or (call.answer is None and call.scope.cancelled_caught)
        require(is_well, f"{when}, {call.told()}", cause=call.error)
    await trial.expect_free_soon(when)


@promise("Cancelled while it tries one lock, a call disturbs nobody who tries another one.")
async def leaves_other_calls_alone(trial: Trial) -> None:
    seconds, _ = await trial.seconds_of_a_call()
    for eighth in range(9):
        after = seconds * eighth / 8
        gone = trial.start(nothing)
        gone.scope.deadline = trio.current_time() + after
        other = trial.start(nothing, lock_id=-trial.lock_id)  # at the same time, so that they may share a question
        await gone.until_back()
        await other.until_back()
        told = f"another call beside it was cancelled after {after:.3g} of {seconds:.3g} seconds, and {other.told()}"
        require(other.answer is True, told, cause=other.error)


CANCELLATION_PROMISES: tuple[Promise, ...] = (
    passes_cancellation,
    lets_go_when_cancelled,
    holds_until_fn_has_stopped,
    leaves_no_lock_when_cancelled,
    keeps_the_lock_when_a_rival_is_cancelled,
    lets_go_when_cancelled_at_the_end,
    leaves_other_calls_alone,
)
