"""How a promise is put to the test: calls of the locker in tasks of their own, each watched, each wait bounded.

What a locker under suspicion does with what comes out of ``fn`` is not to be relied on. So ``fn`` only writes down what
it saw, and the judgement is made outside of the locker's reach, in the task of the check.
"""

from __future__ import annotations

import inspect
import math
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import trio

from .._errors import DatabaseUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from ..abc import AdvisoryLocker, Lease

    Work: TypeAlias = Callable[[Lease], Awaitable[None]]


class UnkeptError(Exception):
    """What was seen of a promise that was not kept."""


def require(kept: object, seen: str, *, cause: BaseException | None = None) -> None:
    """Go on if that holds."""
    if not kept:
        raise UnkeptError(seen) from cause


async def checkpoints(count: int) -> None:
    """Let all other tasks run so many times."""
    for _ in range(count):
        await trio.lowlevel.checkpoint()


async def nothing(lease: Lease) -> None:  # noqa: ARG001  # the seam gives it
    """Work that is done as soon as it may be cancelled."""
    await trio.lowlevel.checkpoint()


class Call:
    """One call of ``with_advisory_lock``, and all that was seen of it. Without work, ``fn`` waits for `may_end`."""

    def __init__(self, trial: Trial, locker: AdvisoryLocker | None, work: Work | None, lock_id: int | None) -> None:
        self._trial = trial
        self._locker = locker or trial.locker
        self._work = work or self._until_it_may_end
        self.lock_id = trial.lock_id if lock_id is None else lock_id
        self.scope = trio.CancelScope()  #: Around the call; the check cancels it.
        self.may_end = trio.Event()
        # Of fn:
        self.runs = 0  #: How often it was begun.
        self.inside = 0  #: How often it was begun and has not stopped.
        self.completed = 0  #: How often it returned.
        self.begun = trio.Event()
        self.stopped = trio.Event()
        self.begun_cancelled = False  #: The caller had been cancelled before.
        self.lease: Any = None  #: That of its first run; what a home-made one is, nobody knows.
        self.task: trio.lowlevel.Task | None = None
        self.raised: BaseException | None = None
        self._unkept: UnkeptError | None = None  #: What its work found out.
        # Of the call:
        self.back = trio.Event()
        self._begun_or_back = trio.Event()
        self.answer: object = None
        self.error: BaseException | None = None

    async def run(self) -> None:
        """Make the call in this task. What it raises is written down, unless it is meant for others."""
        try:
            with self.scope:
                self.answer = await self._locker.with_advisory_lock(self.lock_id, self._fn)
        except trio.Cancelled:
            raise
        except BaseException as error:
            if not self._is_the_lockers(error):
                self._trial.end_with(error)
                return
            self.error = error
        self.back.set()
        self._begun_or_back.set()

    async def until_back(self, *, patience: float | None = None) -> None:
        """Wait until it has come back, and say what its work found out."""
        with self._trial.in_time(f"the call for the lock {self.lock_id} did not come back", patience):
            await self.back.wait()
        if self._unkept is not None:
            raise self._unkept
        require(self.inside == 0, "fn had not stopped when the call came back")

    async def until_begun(self) -> None:
        """Wait until ``fn`` runs; that the lock was not had breaks the promise."""
        has_begun = await self.begins()
        require(has_begun, f"asked for the lock {self.lock_id}, which was free, {self.told()}", cause=self.error)

    async def begins(self) -> bool:
        """Wait until ``fn`` runs, or the call is back without that; return whether it ran."""
        with self._trial.in_time(f"the call for the lock {self.lock_id} neither began fn nor came back"):
            await self._begun_or_back.wait()
        return self.begun.is_set()

    async def end(self) -> None:
        """Let ``fn`` end and wait for a call that has to succeed."""
        self.may_end.set()
        await self.until_back()
        require(self.answer is True, f"after fn had run, {self.told()}", cause=self.error)

    def told(self) -> str:
        """What the caller was told, as the end of a sentence."""
        if not self.back.is_set():
            return "the call has not come back"
        if self.error is not None:
            return f"the call raised {self.error!r}"
        if self.scope.cancelled_caught:
            return "the call was cancelled"
        return f"the call returned {self.answer!r}"

    async def _fn(self, lease: Lease) -> None:
        self.runs += 1
        self.inside += 1
        self.begun_cancelled |= self.scope.cancel_called
        self.lease = self.lease or lease
        self.task = trio.lowlevel.current_task()
        self.begun.set()
        self._begun_or_back.set()
        try:
            with self._trial.ending():
                await self._work(lease)
            self.completed += 1
        except UnkeptError as error:
            self._unkept = error
            raise
        except BaseException as error:
            self.raised = error
            raise
        finally:
            self.inside -= 1
            self.stopped.set()

    async def _until_it_may_end(self, lease: Lease) -> None:  # noqa: ARG002  # the seam gives it
        await self.may_end.wait()

    def _is_the_lockers(self, error: BaseException) -> bool:
        """Whether the locker is to answer for it; it is not for a Ctrl-C of the user's.

        Nor for a cancellation from outside: in a group, that one is met again at the next checkpoint.
        """
        return isinstance(error, Exception | BaseExceptionGroup) or type(error) is type(self.raised)


@dataclass(eq=False)
class Trial:
    """What a promise is tried with: a locker of its own, a second one of the same store where there is one."""

    locker: AdvisoryLocker
    other: AdvisoryLocker | None
    lock_id: int  #: Of this promise alone, so that no lock that another one found kept is in its way.
    nursery: trio.Nursery
    take_away: Callable[[Any, int], object] | None  #: The user's ``lose``, async or not.
    held_for: float
    at_once: int
    patience: float
    escaped: BaseException | None = None
    _ends: list[trio.CancelScope] = field(default_factory=list[trio.CancelScope])

    def end_with(self, error: BaseException) -> None:
        """End all for what is none of the locker's doing, such as a Ctrl-C: raised here, it would come in a group."""
        self.escaped = error
        self.end()

    def end(self) -> None:
        """End what still runs under a lock, also if the locker shields it from all cancellation."""
        for scope in self._ends:
            scope.cancel()
        self.nursery.cancel_scope.cancel()

    @contextmanager
    def ending(self) -> Generator[None]:
        """Have what is awaited within end with the trial."""
        with trio.CancelScope() as scope:
            self._ends.append(scope)
            yield

    async def lose(self, lock_id: int) -> None:
        """Have a lock of the locker lost."""
        assert self.take_away is not None  # the promise needs it
        with self.in_time("lose did not come back"):
            taking = self.take_away(self.locker, lock_id)
            if inspect.isawaitable(taking):
                await taking

    @property
    def rivals(self) -> tuple[AdvisoryLocker, ...]:
        """Whom the locker must hold off: itself, and the second one."""
        return (self.locker,) if self.other is None else (self.locker, self.other)

    @contextmanager
    def in_time(self, otherwise: str, patience: float | None = None) -> Generator[None]:
        """Bound what is awaited within."""
        seconds = self.patience if patience is None else patience
        with trio.move_on_after(seconds) as scope:
            yield
        require(not scope.cancelled_caught, f"{otherwise} within {seconds:g} seconds")

    def start(
        self, work: Work | None = None, *, locker: AdvisoryLocker | None = None, lock_id: int | None = None
    ) -> Call:
        """Make a call in a task of its own."""
        call = Call(self, locker, work, lock_id)
        self.nursery.start_soon(call.run)
        return call

    async def begin(
        self, work: Work | None = None, *, locker: AdvisoryLocker | None = None, lock_id: int | None = None
    ) -> Call:
        """Make a call in a task of its own for a lock that is free, and wait until ``fn`` runs."""
        call = self.start(work, locker=locker, lock_id=lock_id)
        await call.until_begun()
        return call

    async def here(
        self, work: Work = nothing, *, locker: AdvisoryLocker | None = None, lock_id: int | None = None
    ) -> Call:
        """Make a call in this very task, to its end."""
        call = Call(self, locker, work, lock_id)
        with self.in_time(f"the call for the lock {call.lock_id} did not come back"):
            await call.run()
        await call.until_back()
        return call

    async def expect_busy(
        self, when: str, *, lock_id: int | None = None, rivals: tuple[AdvisoryLocker, ...] = ()
    ) -> None:
        """Ask as everybody else would, who has to be told False, from whichever locker."""
        for rival in rivals or self.rivals:
            call = await self.here(locker=rival, lock_id=lock_id)
            who = self._name(rival)
            require(call.runs == 0, f"{when}, {who} had the lock {call.lock_id} too")
            told = f"{when}, {who} asked for the lock {call.lock_id}, and {call.told()}"
            require(call.answer is False, told, cause=call.error)

    async def expect_free(self, when: str, *, lock_id: int | None = None) -> None:
        """Ask as everybody else would, who has to have it, from whichever locker."""
        for rival in self.rivals:
            call = await self.here(locker=rival, lock_id=lock_id)
            told = f"{when}, {self._name(rival)} asked for the lock {call.lock_id}, and {call.told()}"
            require(call.answer is True and call.runs == 1, told, cause=call.error)

    async def expect_free_soon(self, when: str, *, lock_id: int | None = None) -> list[Call]:
        """As `expect_free`, of what may be let go of in the background, and after a loss; return who had it."""
        had: list[Call] = []
        for rival in self.rivals:
            told, pause = "", 0.01
            with trio.move_on_after(self.patience) as scope:
                while True:
                    call = await self.here(locker=rival, lock_id=lock_id)
                    if call.answer is True:
                        had.append(call)
                        break
                    told = call.told()
                    is_a_no = call.answer is False or isinstance(call.error, DatabaseUnavailableError)
                    require(is_a_no, f"{when}, {self._name(rival)} asked, and {told}", cause=call.error)
                    await trio.sleep(pause)
                    pause = min(2 * pause, 0.5)
            seen = f"{when}, {self._name(rival)} asked for the lock for {self.patience:g} seconds, and at last {told}"
            require(not scope.cancelled_caught, seen)
        return had

    async def seconds_of_a_call(self) -> tuple[float, float]:
        """How long a call takes until ``fn`` begins, and from its end until the call is back."""
        asked_at = trio.current_time()
        at = [math.nan, math.nan]

        async def work(lease: Lease) -> None:  # noqa: ARG001  # the seam gives it
            at[0] = trio.current_time()
            await trio.lowlevel.checkpoint()
            at[1] = trio.current_time()

        call = await self.here(work)
        require(
            call.answer is True, f"asked for the lock {call.lock_id}, which was free, {call.told()}", cause=call.error
        )
        return at[0] - asked_at, trio.current_time() - at[1]

    def _name(self, rival: AdvisoryLocker) -> str:
        return "another caller" if rival is self.locker else "another locker"
