"""The promises about a lock that is lost while `fn` runs under it; only the user can have one lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
import trio.lowlevel

from .._errors import LockLostError
from ._promise import Promise, promise
from ._trial import Call, Trial, require

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..abc import Lease


#: For how long somebody else tries to get a lost lock whose work has not stopped; some lockers keep it till then.
_TRIES_SECONDS = 1.0


async def _forever(lease: Lease) -> None:  # noqa: ARG001  # the seam gives it
    await trio.sleep_forever()


async def _lost(trial: Trial, work: Callable[[Lease], Awaitable[None]], *, lock_id: int | None = None) -> Call:
    """Have the lock of a call lost while its work runs, and wait until it is back."""
    call = await trial.begin(work, lock_id=lock_id)
    await trial.lose(call.lock_id)
    await call.until_back(patience=2 * trial.patience)  # by then its work has said that it waited for the loss in vain
    return call


@promise("A loss cancels fn; lease.lost is true by then, and stays true.", needs_loss=True)
async def cancels_fn(trial: Trial) -> None:
    lost: list[object] = []

    async def work(lease: Lease) -> None:
        if lost:  # it has been begun again, which another promise forbids
            return
        with trio.move_on_after(trial.patience):
            try:
                await trio.sleep_forever()
            finally:
                lost.append(lease.lost)
        require(kept=False, seen=f"the lock was lost, and fn was not cancelled within {trial.patience:g} seconds")

    call = await _lost(trial, work)
    require(lost == [True], f"fn was cancelled for the loss, and lease.lost was {lost[0]!r}")
    require(call.lease.lost is True, f"when the call had come back, lease.lost was {call.lease.lost!r}")


@promise("LockLostError is raised for a loss, by itself and in no group, after fn has stopped.", needs_loss=True)
async def raises_lock_lost(trial: Trial) -> None:
    async def cleans_up(lease: Lease) -> None:  # noqa: ARG001  # the seam gives it
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.05)

    call = await _lost(trial, cleans_up)
    require(isinstance(call.error, LockLostError), f"the lock was lost, and {call.told()}", cause=call.error)


@promise("LockLostError is raised for a loss also if fn resists its cancellation and returns.", needs_loss=True)
async def raises_lock_lost_when_fn_resists(trial: Trial) -> None:
    async def resists(lease: Lease) -> None:
        with trio.move_on_after(trial.patience, shield=True):
            await trio.lowlevel.checkpoint()
            while not lease.lost:  # noqa: ASYNC110  # a lease has no event for it
                await trio.sleep(0.01)

    call = await _lost(trial, resists)
    require(isinstance(call.error, LockLostError), f"the lock was lost, and {call.told()}", cause=call.error)


@promise("What fn raises when it is cancelled for a loss is not swallowed.", needs_loss=True)
async def passes_what_fn_raises_during_a_loss(trial: Trial) -> None:
    for lock_id, error in (
        (trial.lock_id, ValueError("of the clean-up")),
        (-trial.lock_id, SystemExit("of the clean-up")),
    ):

        async def fails(lease: Lease, error: BaseException = error) -> None:  # noqa: ARG001  # the seam gives it
            try:
                await trio.sleep_forever()
            finally:
                raise error

        await trial.expect_free_soon("after the loss before", lock_id=lock_id)
        call = await _lost(trial, fails, lock_id=lock_id)
        is_well = call.error is error or (isinstance(error, Exception) and isinstance(call.error, LockLostError))
        require(is_well, f"fn raised {error!r} when it was cancelled, and {call.told()}", cause=call.error)


@promise(
    "After a loss the lock can be had again; the lost lease stays lost, and its epoch is outdone.", needs_loss=True
)
async def recovers(trial: Trial) -> None:
    call = await _lost(trial, _forever)
    again, *_ = await trial.expect_free_soon("after the loss")
    if call.lease.epoch is not None:
        epochs = f"the epoch of the lost lease was {call.lease.epoch!r}, and that of the next one {again.lease.epoch!r}"
        require(again.lease.epoch is not None and again.lease.epoch > call.lease.epoch, epochs)
    holder = await trial.begin()
    require(call.lease.lost is True, f"while the lock was held again, the lost lease said {call.lease.lost!r}")
    require(holder.lease.lost is False, f"while the lock was held again, the new lease said {holder.lease.lost!r}")
    await trial.expect_busy("while the lock was held again after a loss")
    await holder.end()


@promise("Who has lost the lock takes nothing away from who has it next, however late its fn stops.", needs_loss=True)
async def leaves_the_next_holder_alone(trial: Trial) -> None:
    may_stop = trio.Event()

    async def resists(lease: Lease) -> None:  # noqa: ARG001  # the seam gives it
        with trio.move_on_after(3 * trial.patience, shield=True):
            await may_stop.wait()

    try:
        loser = await trial.begin(resists)
        await trial.lose(loser.lock_id)
        heir = await _who_has_it_next(trial)
    finally:
        may_stop.set()  # nothing else ends it soon, with its shield
    await loser.until_back()
    if heir is None:
        return
    # Till its store has answered again, a locker cannot know that the lock is held.
    await trial.expect_free_soon("after a loss", lock_id=-trial.lock_id)
    when = "while somebody had the lock, after who had lost it before had stopped"
    await trial.expect_busy(when)
    require(heir.lease.lost is False, f"{when}, the lease said {heir.lease.lost!r}")
    await heir.end()


async def _who_has_it_next(trial: Trial) -> Call | None:
    """Have somebody else hold a lost lock, unless the locker keeps it from all until the lost work has stopped."""
    tries_until = trio.current_time() + _TRIES_SECONDS
    while True:
        call = trial.start(locker=trial.rivals[-1])
        if await call.begins():
            return call
        if trio.current_time() >= tries_until:
            return None
        await trio.sleep(0.05)


LOSS_PROMISES: tuple[Promise, ...] = (
    cancels_fn,
    raises_lock_lost,
    recovers,
    raises_lock_lost_when_fn_resists,
    passes_what_fn_raises_during_a_loss,
    leaves_the_next_holder_alone,
)
