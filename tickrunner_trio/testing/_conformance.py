"""The conformance suite for lockers: each promise of `AdvisoryLocker`, put to a locker of anybody's, without pytest.

The promises are in `_promises`, `_cancellation_promises` and `_loss_promises`, what they are tried with in `_trial`;
here is who calls them, and what is told of it.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import trio

from ..abc import AdvisoryLocker
from ._cancellation_promises import CANCELLATION_PROMISES
from ._loss_promises import LOSS_PROMISES
from ._promises import PROMISES
from ._steps import checked_count, checked_duration
from ._trial import Trial, UnkeptError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._promise import Promise

#: A locker, or what gives one on ``async with`` and closes it afterwards, as a `PostgresLocker` does.
MadeLocker: TypeAlias = AdvisoryLocker | AbstractAsyncContextManager[AdvisoryLocker]

#: Each promise that needs but one lock has one of its own, so that it does not matter what others left behind.
_FIRST_LOCK = 1001

_NOT_SHARED = "shared=True was not given, which says that make_locker makes lockers of one store"
_NO_LOSE = "lose= was not given, without which no lock is lost"


class BrokenPromiseError(AssertionError):
    """A locker does not keep a promise of `AdvisoryLocker`. The text says which, and what was seen of that."""

    def __init__(self, promise: str, seen: str) -> None:
        super().__init__(f"{promise} Not so: {seen}.")
        self.promise = promise  #: The promise, in one sentence.
        self.seen = seen  #: What the locker did instead.


class SkippedPromise(NamedTuple):
    """A promise that was not put to the test."""

    promise: str  #: In one sentence.
    reason: str  #: Why not, and what would have it checked.


@dataclass(frozen=True, slots=True)
class LockerReport:
    """What `check_advisory_locker` found of a locker that keeps its promises."""

    checked: tuple[str, ...]  #: The promises that were seen to be kept, each in one sentence.
    skipped: tuple[SkippedPromise, ...]  #: Those that could not be checked.

    def __str__(self) -> str:
        lines = [f"kept:    {promise}" for promise in self.checked]
        return "\n".join(lines + [f"skipped: {promise} ({reason})" for promise, reason in self.skipped])


async def check_advisory_locker(
    make_locker: Callable[[], MadeLocker],
    *,
    shared: bool = False,
    lose: Callable[[Any, int], object] | None = None,
    held_for: float = 1.0,
    at_once: int = 200,
    patience: float = 30.0,
) -> LockerReport:
    """Hold a locker to all that `AdvisoryLocker` and `Lease` promise, and say which promise it breaks first.

    It needs no test framework: call it in any test that runs under Trio. Each promise gets a locker of its own, and all
    of them together a store that nobody else uses meanwhile: it locks ids all over the 64 bits, 0 among them. It leaves
    no task behind, and no lock of a locker that keeps its promises.

    What it cannot see: whether the locker outlives the failures of its store, beyond what ``lose`` does; whether two
    machines exclude each other; and whether `Lease.lost` is true in time while Trio's loop is blocked, which takes a
    clock and a thread other than Trio's to find out. A locker that shields itself from cancellation and then waits for
    ever hangs the check.

    Args:
        make_locker: makes a locker: a class, a lambda. If what it gives is an async context manager, the check enters
            it and uses what that gives: ``lambda: PostgresLocker(dsn)``.
        shared: say True if the lockers that ``make_locker`` makes share one store, as those of several processes do;
            the promises are then held between two lockers too, not only within one.
        lose: a function ``lose(locker, lock_id)``, async or not, that takes a lock away from behind the locker's back,
            while ``fn`` runs under it: ends its session, deletes its key. Without it nothing is said about losses.
        held_for: for how many seconds a lock must be kept under long work; above 0. Choose more than the time after
            which the store lets go of what is not renewed; on a virtual clock an hour costs nothing.
        at_once: how many callers come at once, and how many locks are held at once; from 2. Choose fewer where the
            locker has a bound.
        patience: for how many seconds of Trio's clock anything may last before it counts as never; above 0. Choose more
            than the locker takes to notice a loss.

    Returns:
        What was checked and what was skipped. Look at it once; what is skipped is not known to work.

    Raises:
        BrokenPromiseError: the locker broke a promise; an `AssertionError`. What the locker raised is its cause.
        TypeError: an argument is of the wrong kind, or ``make_locker`` made no locker.
        ValueError: a number is out of its bounds.
        BaseException: what ``make_locker``, its context manager and ``lose`` raise, as it is.

    Cancellation handling: passes through after the locker has let go and has been left.

    On a virtual clock that jumps (`trio.testing.MockClock` with ``autojump_threshold=0``) a whole check takes
    milliseconds. Such a clock does not wait for threads and sockets, so a locker over a network needs the real one.

    Example::

        async def test_my_locker() -> None:
            report = await check_advisory_locker(lambda: MyLocker("store.example"), shared=True)
            assert [skipped.reason for skipped in report.skipped] == [...]
    """
    for name, function in (("make_locker", make_locker), *([("lose", lose)] if lose is not None else [])):
        if not callable(function):
            raise TypeError(f"{name} must be callable, got {function!r}: write a lambda that calls it")
    checked_duration("held_for", held_for)
    checked_duration("patience", patience)
    checked_count("at_once", at_once)
    checked: list[str] = []
    skipped: list[SkippedPromise] = []
    for lock_id, promise in enumerate((*PROMISES, *CANCELLATION_PROMISES, *LOSS_PROMISES), _FIRST_LOCK):
        if promise.needs_loss and lose is None:
            skipped.append(SkippedPromise(promise.sentence, _NO_LOSE))
            continue
        async with AsyncExitStack() as stack:
            locker = await _made(make_locker, stack)
            other = await _made(make_locker, stack) if shared else None
            given = {"locker": locker, "other": other, "lock_id": lock_id, "take_away": lose}
            unkept = await _unkept(promise, **given, held_for=held_for, at_once=at_once, patience=patience)
        # Outside of the locker's context, which may have a nursery that would put it into a group.
        if unkept is not None:
            raise BrokenPromiseError(promise.sentence, str(unkept)) from unkept.__cause__
        checked.append(promise.sentence)
    if not shared:
        skipped.append(SkippedPromise("All of this holds between two lockers of one store too.", _NOT_SHARED))
    return LockerReport(tuple(checked), tuple(skipped))


async def _made(make_locker: Callable[[], MadeLocker], stack: AsyncExitStack) -> AdvisoryLocker:
    made = make_locker()
    if isinstance(made, AbstractAsyncContextManager):
        made = await stack.enter_async_context(made)
    if not isinstance(made, AdvisoryLocker):
        raise TypeError(
            f"make_locker must make an object with an async method with_advisory_lock(lock_id, fn), made {made!r}"
        )
    return made


async def _unkept(promise: Promise, **given: Any) -> UnkeptError | None:
    """Return what was seen of it if it was not kept."""
    error: BaseException | None = None
    is_over = False
    async with trio.open_nursery() as nursery:
        trial = Trial(nursery=nursery, **given)
        try:
            await promise.check(trial)
            is_over = True
        except trio.Cancelled:
            raise
        except BaseException as raised:
            error = raised  # the nursery would put it into a group
        finally:
            trial.end()
    error = trial.escaped or error
    if error is not None and not isinstance(error, UnkeptError):
        raise error
    if error is None and not is_over:  # and no scope around the check, or this line would not be reached
        return UnkeptError("the locker cancelled more than fn: the nursery of its caller")
    return error
