"""Lockers with one realistic bug each, and the honest one that they are made from. `caught_by` says what gives it away.

They share a `Store`, as the lockers of several processes do. Asking it and letting go take time, in which one can be
cancelled, so that bugs between two awaits have room.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import trio

from tickrunner_trio import DatabaseUnavailableError, LockLostError

if TYPE_CHECKING:
    from collections.abc import Callable

ASKING = 0.5  #: Seconds.
LETTING_GO = 0.25


class StoreLease:
    def __init__(self, locker: HonestLocker, lock_id: int, epoch: int | None) -> None:
        self.lock_id: Any = lock_id
        self.epoch: Any = epoch
        self.key: Any = lock_id  #: Under which the store has it.
        self.scope = trio.CancelScope()
        self.granted_at = trio.current_time()
        self.locker = locker

    @property
    def gone(self) -> bool:
        return self.scope.cancel_called

    @property
    def lost(self) -> Any:
        return self.gone


@dataclass(eq=False)
class Store:
    """What lockers share."""

    held: dict[Any, StoreLease] = field(default_factory=dict)
    epochs: dict[Any, int] = field(default_factory=dict)
    releases: int = 0

    def next_epoch(self, key: Any) -> int:
        self.epochs[key] = self.epochs.get(key, 0) + 1
        return self.epochs[key]

    def lose(self, lock_id: int) -> None:
        """Take a lock away from its holder, whom the store tells."""
        lease = self.held.pop(lock_id)
        lease.locker.was_told(lease)


class HonestLocker:
    """Keeps all promises. The steps are methods, for the others to get wrong."""

    promise: ClassVar[str | None] = None  #: The promise that gives a bug away; none here.
    seen: ClassVar[str] = ""  #: What is said of it, where it is not clear from the promise.

    def __init__(self, store: Store) -> None:
        self.store = store

    async def with_advisory_lock(self, lock_id: int, fn: Any) -> Any:
        await self.ask(lock_id)
        lease = self.grant(lock_id)
        if lease is None:
            return False
        await self.hold(lease, fn)
        return True

    async def ask(self, lock_id: int) -> None:
        await trio.sleep(ASKING)

    def grant(self, lock_id: int) -> StoreLease | None:
        key = self.key(lock_id)
        if key in self.store.held:
            return None
        lease = self.lease(lock_id, self.store.next_epoch(key))
        lease.key = key
        self.store.held[key] = lease
        return lease

    def key(self, lock_id: int) -> Any:
        return lock_id

    def lease(self, lock_id: int, epoch: int) -> StoreLease:
        return StoreLease(self, lock_id, epoch)

    async def hold(self, lease: StoreLease, fn: Any) -> None:
        try:
            await self.run(lease, fn)
        finally:
            await self.let_go(lease)

    async def run(self, lease: StoreLease, fn: Any) -> None:
        try:
            with lease.scope:
                await fn(lease)
        except Exception as error:
            if lease.gone:
                raise LockLostError from error
            raise
        if lease.gone:
            raise LockLostError

    async def let_go(self, lease: StoreLease) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(LETTING_GO)
        self.forget(lease)

    def forget(self, lease: StoreLease) -> None:
        if self.store.held.get(lease.key) is lease:
            del self.store.held[lease.key]
            self.store.releases += 1

    def was_told(self, lease: StoreLease) -> None:
        """The store says that the lock is gone."""
        lease.scope.cancel()


GALLERY: list[type[HonestLocker]] = []


def caught_by(promise: str, *, seen: str = "") -> Callable[[type[HonestLocker]], type[HonestLocker]]:
    def hang(locker: type[HonestLocker]) -> type[HonestLocker]:
        locker.promise, locker.seen = promise, seen
        GALLERY.append(locker)
        return locker

    return hang


# -- What a call says and does ----------------------------------------------------------------------------------------


@caught_by("with_advisory_lock is async and takes lock_id and fn, in this order and by these names.")
class NamesItsParametersOtherwise(HonestLocker):
    async def with_advisory_lock(self, key: int, work: Any) -> Any:
        return await super().with_advisory_lock(key, work)


@caught_by("with_advisory_lock is async and takes lock_id and fn, in this order and by these names.")
class IsNotAsync(HonestLocker):
    def with_advisory_lock(self, lock_id: int, fn: Any) -> Any:
        return self.grant(lock_id) is not None


@caught_by("If the lock was had, fn has run exactly once, to its end, and the call returns True.")
class ForgetsToReturnTrue(HonestLocker):
    async def with_advisory_lock(self, lock_id: int, fn: Any) -> Any:
        return None if await super().with_advisory_lock(lock_id, fn) else False


@caught_by("If the lock was had, fn has run exactly once, to its end, and the call returns True.")
class ReturnsTheLease(HonestLocker):
    """True enough for an ``if``; a `Service` takes it for a locker that lies."""

    async def with_advisory_lock(self, lock_id: int, fn: Any) -> Any:
        leases: list[Any] = []

        async def noted(lease: Any) -> None:
            leases.append(lease)
            await fn(lease)

        await super().with_advisory_lock(lock_id, noted)
        return leases[0] if leases else False


@caught_by("If the lock was had, fn has run exactly once, to its end, and the call returns True.")
class SaysFalseAfterTheWork(HonestLocker):
    """It returns whether the release came in time, or the like."""

    async def with_advisory_lock(self, lock_id: int, fn: Any) -> Any:
        await super().with_advisory_lock(lock_id, fn)
        return False


@caught_by("If the lock was had, fn has run exactly once, to its end, and the call returns True.")
class RunsFnTwice(HonestLocker):
    """A retry that wraps too much."""

    async def run(self, lease: StoreLease, fn: Any) -> None:
        async def twice(lease: StoreLease) -> None:
            await fn(lease)
            await fn(lease)

        await super().run(lease, twice)


@caught_by("If the lock was had, fn has run exactly once, to its end, and the call returns True.")
class CancelsFnWhenItIsAnswered(HonestLocker):
    """It hands fn the scope that bounds its own questions."""

    async def run(self, lease: StoreLease, fn: Any) -> None:
        with trio.move_on_after(0):
            await super().run(lease, fn)


@caught_by("fn runs in the task of the caller.")
class RunsFnInATaskOfItsOwn(HonestLocker):
    async def run(self, lease: StoreLease, fn: Any) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(super().run, lease, fn)


@caught_by("When a call has come back, its lock is free again.")
class NeverLetsGo(HonestLocker):
    def forget(self, lease: StoreLease) -> None:
        pass


@caught_by("When a call has come back, its lock is free again.")
class LetsGoInTheBackground(HonestLocker):
    async def let_go(self, lease: StoreLease) -> None:
        async def some_day() -> None:
            await trio.sleep(60)
            self.forget(lease)  # pragma: no cover - it is convicted by then

        trio.lowlevel.spawn_system_task(some_day)


@caught_by("When a call has come back, its lock is free again.")
class CanBeHadOnce(HonestLocker):
    """It caches what it was answered."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.had = set[int]()

    def grant(self, lock_id: int) -> StoreLease | None:
        if lock_id in self.had:
            return None
        self.had.add(lock_id)
        return super().grant(lock_id)


@caught_by("fn may be whatever gives an awaitable when it is called with a lease.")
class TakesCoroutinesOnly(HonestLocker):
    async def run(self, lease: StoreLease, fn: Any) -> None:
        def task(lease: StoreLease) -> Any:
            coroutine = fn(lease)
            coroutine.cr_frame  # noqa: B018  # as debuggers and tracers look at it
            return coroutine

        await super().run(lease, task)


@caught_by("fn may be whatever gives an awaitable when it is called with a lease.", seen="and fn ran 0 times")
class AwaitsCoroutinesOnly(HonestLocker):
    async def run(self, lease: StoreLease, fn: Any) -> None:
        async def run(lease: StoreLease) -> None:
            work = fn(lease)
            if inspect.iscoroutine(work):
                await work

        await super().run(lease, run)


@caught_by("fn may be whatever gives an awaitable when it is called with a lease.")
class NamesFnInItsLog(HonestLocker):
    async def run(self, lease: StoreLease, fn: Any) -> None:
        logging.getLogger(__name__).debug("runs %s", fn.__qualname__)
        await super().run(lease, fn)


@caught_by("The lease names the lock, has an epoch that is an int or None, and is not lost while the lock is held.")
class GivesTheIdAsText(HonestLocker):
    def lease(self, lock_id: int, epoch: int) -> StoreLease:
        lease = super().lease(lock_id, epoch)
        lease.lock_id = f"locks/{lock_id}"
        return lease


@caught_by("The lease names the lock, has an epoch that is an int or None, and is not lost while the lock is held.")
class GivesTheEpochAsText(HonestLocker):
    def lease(self, lock_id: int, epoch: int) -> StoreLease:
        lease = super().lease(lock_id, epoch)
        lease.epoch = str(epoch)
        return lease


@caught_by("The lease names the lock, has an epoch that is an int or None, and is not lost while the lock is held.")
class GivesNoLease(HonestLocker):
    async def run(self, lease: StoreLease, fn: Any) -> None:
        await super().run(lease, lambda lease: fn(lease.lock_id))


@caught_by("The lease names the lock, has an epoch that is an int or None, and is not lost while the lock is held.")
class AsksWhetherItIsLostByAMethod(HonestLocker):
    """A bound method is true, so a `Service` would take every lock for lost."""

    def lease(self, lock_id: int, epoch: int) -> StoreLease:
        class Lease(StoreLease):
            def lost(self) -> Any:
                """A method, which is always true."""

        return Lease(self, lock_id, epoch)


# -- Exclusion --------------------------------------------------------------------------------------------------------


@caught_by("While a lock is held, everybody else is told False, at once, and their fn does not run.")
class GrantsToEverybody(HonestLocker):
    def grant(self, lock_id: int) -> StoreLease | None:
        return super().grant(lock_id) or self.lease(lock_id, self.store.next_epoch(lock_id))


@caught_by("While a lock is held, everybody else is told False, at once, and their fn does not run.")
class SaysTrueWhenBusy(HonestLocker):
    async def with_advisory_lock(self, lock_id: int, fn: Any) -> Any:
        await super().with_advisory_lock(lock_id, fn)
        return True


@caught_by("While a lock is held, everybody else is told False, at once, and their fn does not run.")
class SaysNothingWhenBusy(HonestLocker):
    async def with_advisory_lock(self, lock_id: int, fn: Any) -> Any:
        return await super().with_advisory_lock(lock_id, fn) or None


@caught_by("While a lock is held, everybody else is told False, at once, and their fn does not run.")
class RaisesWhenBusy(HonestLocker):
    async def with_advisory_lock(self, lock_id: int, fn: Any) -> Any:
        if not await super().with_advisory_lock(lock_id, fn):
            raise DatabaseUnavailableError("lock not available")
        return True


@caught_by("While a lock is held, everybody else is told False, at once, and their fn does not run.")
class WaitsForTheLock(HonestLocker):
    async def ask(self, lock_id: int) -> None:
        await super().ask(lock_id)
        while lock_id in self.store.held:  # noqa: ASYNC110  # as they do
            await trio.sleep(1)


@caught_by("While a lock is held, everybody else is told False, at once, and their fn does not run.")
class IsReentrantWithinTheProcess(HonestLocker):
    """PostgreSQL's advisory locks are, within a session, and this one keeps no book of its own."""

    def grant(self, lock_id: int) -> StoreLease | None:
        holder = self.store.held.get(lock_id)
        if holder is not None and holder.locker is self:
            return self.lease(lock_id, self.store.next_epoch(lock_id))
        return super().grant(lock_id)


@caught_by("While a lock is held, everybody else is told False, at once, and their fn does not run.")
class KeepsItsLocksToItself(HonestLocker):
    """It excludes within its process only."""

    def __init__(self, store: Store) -> None:
        super().__init__(Store(epochs=store.epochs))


@caught_by("While a lock is held, everybody else is told False, at once, and their fn does not run.", seen="it took 10")
class TriesAgainForAWhile(HonestLocker):
    """A retry of ten seconds is no waiting, it thinks."""

    async def with_advisory_lock(self, lock_id: int, fn: Any) -> Any:
        with trio.move_on_after(10):
            while lock_id in self.store.held:  # noqa: ASYNC110  # as they do
                await trio.sleep(1)
        return await super().with_advisory_lock(lock_id, fn)


@caught_by("Who was told False has taken nothing away from the holder.")
class LetsGoWhatItWasNotGranted(HonestLocker):
    async def with_advisory_lock(self, lock_id: int, fn: Any) -> Any:
        try:
            return await super().with_advisory_lock(lock_id, fn)
        finally:
            self.store.held.pop(lock_id, None)


@caught_by("Who was told False has taken nothing away from the holder.", seen="the lease was lost")
class DrawsAnEpochForEachQuestion(HonestLocker):
    """The holder is whoever drew the last one, and those who are told False draw too."""

    async def ask(self, lock_id: int) -> None:
        await super().ask(lock_id)
        if lock_id in self.store.held:
            self.store.next_epoch(lock_id)

    def lease(self, lock_id: int, epoch: int) -> StoreLease:
        class Lease(StoreLease):
            @property
            def lost(self) -> Any:
                return self.gone or self.epoch < self.locker.store.epochs[self.key]

        return Lease(self, lock_id, epoch)


@caught_by("The holder itself is somebody else too: asking again under the lock, it is told False.")
class IsReentrantForTheTask(HonestLocker):
    holders: ClassVar[dict[StoreLease, trio.lowlevel.Task]] = {}

    def grant(self, lock_id: int) -> StoreLease | None:
        holder = self.store.held.get(lock_id)
        if holder is not None and self.holders.get(holder) is trio.lowlevel.current_task():
            return self.lease(lock_id, self.store.next_epoch(lock_id))
        lease = super().grant(lock_id)
        if lease is not None:
            self.holders[lease] = trio.lowlevel.current_task()
        return lease


@caught_by("The lock is held for as long as fn runs.")
class ExpiresWithoutRenewal(HonestLocker):
    """A key with a time to live, which nobody renews."""

    def grant(self, lock_id: int) -> StoreLease | None:
        holder = self.store.held.get(lock_id)
        if holder is not None and trio.current_time() > holder.granted_at + 300:
            del self.store.held[lock_id]
        return super().grant(lock_id)


@caught_by("The lock is held for as long as fn runs.", seen="the call returned True")
class BoundsTheWork(HonestLocker):
    """Its timeout for a question is around the work too."""

    async def run(self, lease: StoreLease, fn: Any) -> None:
        with trio.move_on_after(60):
            await super().run(lease, fn)


@caught_by("The lock is held for as long as fn runs.")
class TakesALongHoldForALoss(HonestLocker):
    def lease(self, lock_id: int, epoch: int) -> StoreLease:
        lease = super().lease(lock_id, epoch)
        lease.scope.deadline = trio.current_time() + 600
        return lease


@caught_by("The lock is held for as long as fn runs.", seen="lease.lost was True")
class JudgesALeaseByItsAge(HonestLocker):
    """It renews the key, and not its own opinion of when the key expires."""

    def lease(self, lock_id: int, epoch: int) -> StoreLease:
        class Lease(StoreLease):
            @property
            def lost(self) -> Any:
                return self.gone or trio.current_time() > self.granted_at + 300

        return Lease(self, lock_id, epoch)


@caught_by("Of many callers at once, at most one has the lock at a time, and each one that had it is told True.")
class LooksBeforeItAsks(HonestLocker):
    """Between its SELECT and its INSERT somebody else comes in."""

    async def with_advisory_lock(self, lock_id: int, fn: Any) -> Any:
        if lock_id in self.store.held:
            await super().ask(lock_id)
            return False
        await super().ask(lock_id)
        self.store.held.pop(lock_id, None)
        lease = self.grant(lock_id)
        assert lease is not None
        await self.hold(lease, fn)
        return True


@caught_by("Of many callers at once, at most one has the lock at a time, and each one that had it is told True.")
class HasABoundedQueue(HonestLocker):
    """It answers when too many ask, and what it answers is not the truth."""

    asking = 0

    async def with_advisory_lock(self, lock_id: int, fn: Any) -> Any:
        if self.asking >= 5:
            await trio.lowlevel.checkpoint()
            raise DatabaseUnavailableError("queue full")
        self.asking += 1
        try:
            return await super().with_advisory_lock(lock_id, fn)
        finally:
            self.asking -= 1


@caught_by("Many locks can be held at once.")
class HasASmallPool(HonestLocker):
    """One connection for each lock that is held, and who comes later waits for one."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.pool = trio.Semaphore(5)

    async def hold(self, lease: StoreLease, fn: Any) -> None:
        async with self.pool:
            await super().hold(lease, fn)


@caught_by("Many locks can be held at once.")
class LosesTheOldestOfMany(HonestLocker):
    """A cache with an upper bound."""

    def grant(self, lock_id: int) -> StoreLease | None:
        if len(self.store.held) >= 5:
            self.store.lose(next(iter(self.store.held)))
        return super().grant(lock_id)


# -- Lock ids ---------------------------------------------------------------------------------------------------------


@caught_by("Every signed 64-bit integer is a lock: 0, negative ones, the least and the greatest.")
class TakesZeroForNone(HonestLocker):
    def key(self, lock_id: int) -> Any:
        return lock_id or object()


@caught_by(
    "Every signed 64-bit integer is a lock: 0, negative ones, the least and the greatest.", seen="asked for the lock 0"
)
class NeverLetsGoOfZero(HonestLocker):
    """Whether there is something to let go of, it asks the id."""

    def forget(self, lease: StoreLease) -> None:
        if lease.lock_id:
            super().forget(lease)


@caught_by("Every signed 64-bit integer is a lock: 0, negative ones, the least and the greatest.")
class TakesUnsignedIdsOnly(HonestLocker):
    def key(self, lock_id: int) -> Any:
        return lock_id.to_bytes(8, "big")


@caught_by("Every signed 64-bit integer is a lock: 0, negative ones, the least and the greatest.")
class SaysTheUnsignedId(HonestLocker):
    def lease(self, lock_id: int, epoch: int) -> StoreLease:
        return super().lease(lock_id % 2**64, epoch)


@caught_by("Different ids are different locks, also if they differ in one bit or in the sign only.")
class HasOneLockForAll(HonestLocker):
    def key(self, lock_id: int) -> Any:
        return "lock"


@caught_by("Different ids are different locks, also if they differ in one bit or in the sign only.")
class TruncatesIds(HonestLocker):
    def key(self, lock_id: int) -> Any:
        return lock_id & 0xFFFF_FFFF


@caught_by("Different ids are different locks, also if they differ in one bit or in the sign only.")
class LosesTheSign(HonestLocker):
    def key(self, lock_id: int) -> Any:
        return abs(lock_id)


@caught_by("Different ids are different locks, also if they differ in one bit or in the sign only.")
class LosesTheSignBit(HonestLocker):
    def key(self, lock_id: int) -> Any:
        return lock_id & (2**63 - 1)


@caught_by("Different ids are different locks, also if they differ in one bit or in the sign only.")
class GoesThroughJavaScript(HonestLocker):
    """Numbers of JSON are floats to some."""

    def key(self, lock_id: int) -> Any:
        return float(lock_id)


@caught_by("Different ids are different locks, also if they differ in one bit or in the sign only.")
class HashesIds(HonestLocker):
    """In Python -1 and -2 have one hash."""

    def key(self, lock_id: int) -> Any:
        return hash(lock_id)


@caught_by("Different ids are different locks, also if they differ in one bit or in the sign only.")
class LetsGoOfAllLocks(HonestLocker):
    """As pg_advisory_unlock_all() does, or a rollback."""

    def forget(self, lease: StoreLease) -> None:
        self.store.held.clear()


@caught_by("Different ids are different locks, also if they differ in one bit or in the sign only.", seen="lost")
class TakesAnyReleaseForALoss(HonestLocker):
    """The store tells of keys that go, and it does not look which."""

    def lease(self, lock_id: int, epoch: int) -> StoreLease:
        releases_before = self.store.releases

        class Lease(StoreLease):
            @property
            def lost(self) -> Any:
                return self.gone or self.locker.store.releases > releases_before

        return Lease(self, lock_id, epoch)


# -- The end of fn ----------------------------------------------------------------------------------------------------


@caught_by("The lock is let go after fn has raised, whatever it raised.")
class KeepsTheLockAfterAnError(HonestLocker):
    async def hold(self, lease: StoreLease, fn: Any) -> None:
        await self.run(lease, fn)
        await self.let_go(lease)


@caught_by("The lock is let go after fn has raised, whatever it raised.")
class KeepsTheLockAfterABaseException(HonestLocker):
    async def hold(self, lease: StoreLease, fn: Any) -> None:
        try:
            await self.run(lease, fn)
        except Exception:
            await self.let_go(lease)
            raise
        await self.let_go(lease)


@caught_by("The lock is let go after fn has raised, whatever it raised.")
class KeepsWhatItBelievesLost(HonestLocker):
    """A LockLostError of fn's own says nothing about this lock."""

    async def hold(self, lease: StoreLease, fn: Any) -> None:
        lost = False
        try:
            await self.run(lease, fn)
        except LockLostError:
            lost = True
            raise
        finally:
            if not lost:
                await self.let_go(lease)


@caught_by("An Exception of fn comes out of the call as it is: the very object, in no group and in place of no other.")
class WrapsErrorsInAGroup(HonestLocker):
    async def run(self, lease: StoreLease, fn: Any) -> None:
        async with trio.open_nursery():
            await super().run(lease, fn)


@caught_by("An Exception of fn comes out of the call as it is: the very object, in no group and in place of no other.")
class SwallowsErrors(HonestLocker):
    async def run(self, lease: StoreLease, fn: Any) -> None:
        try:
            await super().run(lease, fn)
        except Exception:
            logging.getLogger(__name__).debug("work failed", exc_info=True)


@caught_by("An Exception of fn comes out of the call as it is: the very object, in no group and in place of no other.")
class RaisesAnErrorOfItsOwn(HonestLocker):
    async def run(self, lease: StoreLease, fn: Any) -> None:
        try:
            await super().run(lease, fn)
        except Exception as error:
            raise RuntimeError(f"the work under the lock {lease.lock_id} failed") from error


@caught_by(
    "An Exception of fn comes out of the call as it is: the very object, in no group and in place of no other.",
    seen="its __cause__ was None",
)
class ForgetsTheCause(HonestLocker):
    """It unwraps its own group, and ``from None`` is meant for that."""

    async def run(self, lease: StoreLease, fn: Any) -> None:
        try:
            await super().run(lease, fn)
        except LockLostError:
            raise
        except Exception as error:
            raise error from None


@caught_by("An Exception of fn comes out of the call as it is: the very object, in no group and in place of no other.")
class RaisesTheErrorOfTheUnlock(HonestLocker):
    """After an error its transaction is aborted, and the unlock says only that."""

    async def hold(self, lease: StoreLease, fn: Any) -> None:
        failed = False
        try:
            await self.run(lease, fn)
        except Exception:
            failed = True
            raise
        finally:
            await self.let_go(lease)
            if failed:
                raise OSError("current transaction is aborted")


@caught_by("An Exception of fn comes out of the call as it is: the very object, in no group and in place of no other.")
class TakesTheFirstOfAGroup(HonestLocker):
    """It has a nursery, and unwraps more than its own group."""

    async def run(self, lease: StoreLease, fn: Any) -> None:
        try:
            await super().run(lease, fn)
        except ExceptionGroup as group:
            raise group.exceptions[0] from None


@caught_by(
    "A LockLostError, DatabaseUnavailableError or LockerConfigurationError of fn's own is an error as any other."
)
class TakesALossOfFnsOwnForBusy(HonestLocker):
    async def with_advisory_lock(self, lock_id: int, fn: Any) -> Any:
        try:
            return await super().with_advisory_lock(lock_id, fn)
        except LockLostError:
            return False


@caught_by(
    "A LockLostError, DatabaseUnavailableError or LockerConfigurationError of fn's own is an error as any other."
)
class TriesAgainWhenTheDatabaseIsAway(HonestLocker):
    """Its retry is around the work, whose database is another one."""

    async def with_advisory_lock(self, lock_id: int, fn: Any) -> Any:
        for _ in range(2):
            try:
                return await super().with_advisory_lock(lock_id, fn)
            except DatabaseUnavailableError:
                await trio.sleep(1)
        return await super().with_advisory_lock(lock_id, fn)


@caught_by(
    "A LockLostError, DatabaseUnavailableError or LockerConfigurationError of fn's own is an error as any other."
)
class TakesATimeoutOfFnsOwnForAnOutage(HonestLocker):
    async def with_advisory_lock(self, lock_id: int, fn: Any) -> Any:
        try:
            return await super().with_advisory_lock(lock_id, fn)
        except TimeoutError as error:
            raise DatabaseUnavailableError("timeout") from error


@caught_by(
    "What fn raises to end the program comes out of the call as it is: KeyboardInterrupt, SystemExit, and their kin."
)
class SwallowsACtrlC(HonestLocker):
    async def run(self, lease: StoreLease, fn: Any) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            await super().run(lease, fn)


@caught_by(
    "What fn raises to end the program comes out of the call as it is: KeyboardInterrupt, SystemExit, and their kin."
)
class MakesAnErrorOfAnExit(HonestLocker):
    async def run(self, lease: StoreLease, fn: Any) -> None:
        try:
            await super().run(lease, fn)
        except SystemExit as error:
            raise RuntimeError("the work exited") from error


@caught_by(
    "What fn raises to end the program comes out of the call as it is: KeyboardInterrupt, SystemExit, and their kin."
)
class PutsACtrlCIntoAGroup(HonestLocker):
    async def run(self, lease: StoreLease, fn: Any) -> None:
        try:
            await super().run(lease, fn)
        except KeyboardInterrupt as error:
            raise BaseExceptionGroup("unhandled errors", [error]) from None


@caught_by("Of one lock, either no lease has an epoch, or each has a higher one than all before it.")
class HasOneEpoch(HonestLocker):
    def lease(self, lock_id: int, epoch: int) -> StoreLease:
        return super().lease(lock_id, 1)


@caught_by("Of one lock, either no lease has an epoch, or each has a higher one than all before it.")
class CountsEpochsDown(HonestLocker):
    def lease(self, lock_id: int, epoch: int) -> StoreLease:
        return super().lease(lock_id, -epoch)


@caught_by("Of one lock, either no lease has an epoch, or each has a higher one than all before it.")
class CountsEpochsInTheProcess(HonestLocker):
    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.epochs = itertools.count(1)

    def lease(self, lock_id: int, epoch: int) -> StoreLease:
        return super().lease(lock_id, next(self.epochs))


@caught_by("Of one lock, either no lease has an epoch, or each has a higher one than all before it.")
class HasAnEpochAtFirst(HonestLocker):
    def lease(self, lock_id: int, epoch: int) -> StoreLease:
        lease = super().lease(lock_id, epoch)
        lease.epoch = epoch if epoch < 3 else None
        return lease


# -- Cancellation -----------------------------------------------------------------------------------------------------


@caught_by("Cancelling the caller cancels fn, and the cancellation passes through.")
class ShieldsTheWork(HonestLocker):
    async def run(self, lease: StoreLease, fn: Any) -> None:
        with trio.CancelScope(shield=True):
            await super().run(lease, fn)


@caught_by("Cancelling the caller cancels fn, and the cancellation passes through.")
class SwallowsACancellation(HonestLocker):
    async def run(self, lease: StoreLease, fn: Any) -> None:
        with contextlib.suppress(trio.Cancelled):
            await super().run(lease, fn)


@caught_by("Cancelling the caller cancels fn, and the cancellation passes through.")
class TakesACancellationForALoss(HonestLocker):
    async def run(self, lease: StoreLease, fn: Any) -> None:
        try:
            await super().run(lease, fn)
        except trio.Cancelled as error:
            raise LockLostError from error


@caught_by("The lock is let go after fn has been cancelled.")
class KeepsTheLockAfterACancellation(HonestLocker):
    """It awaits the release without a shield, so the release is what is cancelled."""

    async def let_go(self, lease: StoreLease) -> None:
        await trio.sleep(LETTING_GO)
        self.forget(lease)


@caught_by("The lock is let go only after fn has really stopped, however long that takes after a cancellation.")
class LetsGoWhenItIsCancelled(HonestLocker):
    """A task that renews the lock has it, and is cancelled together with the work."""

    async def hold(self, lease: StoreLease, fn: Any) -> None:
        async def keeps_the_lock() -> None:
            try:
                await trio.sleep_forever()
            finally:
                await self.let_go(lease)

        error: BaseException | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keeps_the_lock)
            try:
                await self.run(lease, fn)
            except trio.Cancelled:
                raise
            except BaseException as raised:
                error = raised
            nursery.cancel_scope.cancel()
        if error is not None:
            raise error


@caught_by("Cancelled before or while it tries the lock, a call leaves no lock behind, and fn does not do its work.")
class KeepsWhatItWasGrantedTooLate(HonestLocker):
    """The store has granted it when the caller is cancelled, who never hears of it."""

    async def with_advisory_lock(self, lock_id: int, fn: Any) -> Any:
        lease = self.grant(lock_id)
        await self.ask(lock_id)
        if lease is None:
            return False
        await self.hold(lease, fn)
        return True


@caught_by("Cancelled before or while it tries the lock, a call leaves no lock behind, and fn does not do its work.")
class CannotBeCancelledWhileItTries(HonestLocker):
    async def ask(self, lock_id: int) -> None:
        with trio.CancelScope(shield=True):
            await super().ask(lock_id)


@caught_by("Cancelled before or while it tries the lock, a call leaves no lock behind, and fn does not do its work.")
class SaysFalseWhenItIsCancelled(HonestLocker):
    async def with_advisory_lock(self, lock_id: int, fn: Any) -> Any:
        try:
            await self.ask(lock_id)
        except trio.Cancelled:
            return False
        lease = self.grant(lock_id)
        if lease is None:
            return False
        await self.hold(lease, fn)
        return True


@caught_by("Cancelled before or while it tries the lock, a call leaves no lock behind, and fn does not do its work.")
class DoesTheWorkOfWhoHasGone(HonestLocker):
    """Once asked, it finishes what it was asked for; only the answer is lost."""

    async def with_advisory_lock(self, lock_id: int, fn: Any) -> Any:
        await trio.lowlevel.checkpoint()
        try:
            await self.ask(lock_id)
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                lease = self.grant(lock_id)
                if lease is not None:
                    await self.hold(lease, fn)
            raise
        lease = self.grant(lock_id)
        if lease is None:
            return False
        await self.hold(lease, fn)
        return True


@caught_by(
    "Cancelled while it tries a lock that somebody holds, a call takes nothing away from the holder, and gets nothing."
)
class CleansUpAfterARival(HonestLocker):
    """Cancelled, it unlocks for safety's sake, whoever holds the lock."""

    async def ask(self, lock_id: int) -> None:
        try:
            await super().ask(lock_id)
        except trio.Cancelled:
            self.store.held.pop(lock_id, None)
            raise


@caught_by(
    "Cancelled while it tries a lock that somebody holds, a call takes nothing away from the holder, and gets nothing."
)
class IsGrantedWhatItNoLongerWants(HonestLocker):
    """It leaves its place in the queue of the store to nobody."""

    left: ClassVar[dict[tuple[Store, int], StoreLease]] = {}

    async def ask(self, lock_id: int) -> None:
        try:
            await super().ask(lock_id)
        except trio.Cancelled:
            if lock_id in self.store.held:
                self.left[self.store, lock_id] = self.lease(lock_id, 0)
            raise

    def forget(self, lease: StoreLease) -> None:
        super().forget(lease)
        if (self.store, lease.lock_id) in self.left:
            self.store.held[lease.lock_id] = self.left.pop((self.store, lease.lock_id))


@caught_by("A cancellation that comes when fn has ended leaves no lock behind, and takes the place of no error.")
class KeepsTheLockWhenCancelledAtTheEnd(HonestLocker):
    """The release is shielded on the way of the errors, and not on the good one."""

    async def hold(self, lease: StoreLease, fn: Any) -> None:
        try:
            await self.run(lease, fn)
        except BaseException:
            await self.let_go(lease)
            raise
        await trio.sleep(LETTING_GO)
        self.forget(lease)


@caught_by("A cancellation that comes when fn has ended leaves no lock behind, and takes the place of no error.")
class LetsACancellationHideAnError(HonestLocker):
    """It waits for the confirmation of the release, and is cancelled there, while an error is on its way."""

    async def let_go(self, lease: StoreLease) -> None:
        self.forget(lease)
        await trio.sleep(LETTING_GO)


@caught_by(
    "A cancellation that comes when fn has ended leaves no lock behind, and takes the place of no error.",
    seen="the call returned False",
)
class SaysFalseWhenCancelledAtTheEnd(HonestLocker):
    async def with_advisory_lock(self, lock_id: int, fn: Any) -> Any:
        await self.ask(lock_id)
        lease = self.grant(lock_id)
        if lease is None:
            return False
        try:
            await self.run(lease, fn)
        finally:
            self.forget(lease)
        try:
            await trio.sleep(LETTING_GO)
        except trio.Cancelled:
            return False
        return True


@caught_by(
    "Cancelled while it tries one lock, a call disturbs nobody who tries another one.", seen="did not come back within"
)
class LeavesTheBatchWaiting(HonestLocker):
    """Who comes first asks for all, and wakes the others, unless it is cancelled."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.batch: trio.Event | None = None

    async def ask(self, lock_id: int) -> None:
        if self.batch is not None:
            await self.batch.wait()
            return
        batch = self.batch = trio.Event()
        try:
            await super().ask(lock_id)
        finally:
            self.batch = None
        batch.set()


@caught_by(
    "Cancelled while it tries one lock, a call disturbs nobody who tries another one.", seen="connection is closed"
)
class ClosesTheConnectionOfAll(HonestLocker):
    """Cancelled in the middle of an answer, it cannot read on; those whose answers come after that are told so."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.connection = object()

    async def ask(self, lock_id: int) -> None:
        connection = self.connection
        try:
            await super().ask(lock_id)
        except trio.Cancelled:
            self.connection = object()
            raise
        if self.connection is not connection:
            raise DatabaseUnavailableError("the connection is closed")


# -- Losses -----------------------------------------------------------------------------------------------------------


@caught_by(
    "A loss cancels fn; lease.lost is true by then, and stays true.", seen="fn was not cancelled within 120 seconds"
)
class NoticesNoLoss(HonestLocker):
    def was_told(self, lease: StoreLease) -> None:
        pass


@caught_by("A loss cancels fn; lease.lost is true by then, and stays true.")
class NoticesALossAtTheEnd(HonestLocker):
    """It raises `LockLostError` when the unlock says false."""

    def was_told(self, lease: StoreLease) -> None:
        pass

    async def run(self, lease: StoreLease, fn: Any) -> None:
        await super().run(lease, fn)
        if self.store.held.get(lease.key) is not lease:  # pragma: no cover - it is convicted before
            raise LockLostError


@caught_by("A loss cancels fn; lease.lost is true by then, and stays true.")
class NeverSaysLost(HonestLocker):
    def lease(self, lock_id: int, epoch: int) -> StoreLease:
        class Lease(StoreLease):
            lost = False

        return Lease(self, lock_id, epoch)

    async def run(self, lease: StoreLease, fn: Any) -> None:
        with lease.scope:
            await fn(lease)
        if lease.scope.cancel_called:
            raise LockLostError


@caught_by("A loss cancels fn; lease.lost is true by then, and stays true.")
class SaysLostTooLate(HonestLocker):
    """The scope knows that it caught something only when the work has stopped."""

    def lease(self, lock_id: int, epoch: int) -> StoreLease:
        class Lease(StoreLease):
            @property
            def lost(self) -> Any:
                return self.scope.cancelled_caught

        return Lease(self, lock_id, epoch)


@caught_by("A loss cancels fn; lease.lost is true by then, and stays true.", seen="when the call had come back")
class ForgetsALossAtTheEnd(HonestLocker):
    """What is not held is not lost, it thinks."""

    def lease(self, lock_id: int, epoch: int) -> StoreLease:
        class Lease(StoreLease):
            ended = False

            @property
            def lost(self) -> Any:
                return self.gone and not self.ended

        return Lease(self, lock_id, epoch)

    def forget(self, lease: Any) -> None:
        super().forget(lease)
        lease.ended = True


@caught_by("A loss cancels fn; lease.lost is true by then, and stays true.", seen="cancelled more than fn")
class CancelsMoreThanFn(HonestLocker):
    """The only scope that it finds is that of the nursery in which its caller runs."""

    def lease(self, lock_id: int, epoch: int) -> StoreLease:
        lease = super().lease(lock_id, epoch)
        nursery = trio.lowlevel.current_task().parent_nursery
        assert nursery is not None
        lease.scope = nursery.cancel_scope
        return lease

    async def run(self, lease: StoreLease, fn: Any) -> None:
        await fn(lease)
        if lease.gone:  # pragma: no cover - it is convicted before
            raise LockLostError


@caught_by("LockLostError is raised for a loss, by itself and in no group, after fn has stopped.")
class SaysFalseOfALoss(HonestLocker):
    async def with_advisory_lock(self, lock_id: int, fn: Any) -> Any:
        leases: list[Any] = []

        async def noted(lease: Any) -> None:
            leases.append(lease)
            await fn(lease)

        try:
            return await super().with_advisory_lock(lock_id, noted)
        except LockLostError:
            if leases[0].lost:
                return False
            raise


@caught_by("LockLostError is raised for a loss, by itself and in no group, after fn has stopped.")
class PutsALossIntoAGroup(HonestLocker):
    async def run(self, lease: StoreLease, fn: Any) -> None:
        try:
            await super().run(lease, fn)
        except LockLostError as error:
            if lease.lost:
                raise ExceptionGroup("unhandled errors", [error]) from None
            raise


@caught_by("LockLostError is raised for a loss, by itself and in no group, after fn has stopped.")
class TakesALossForAnOutage(HonestLocker):
    async def run(self, lease: StoreLease, fn: Any) -> None:
        try:
            await super().run(lease, fn)
        except LockLostError as error:
            if lease.lost:
                raise DatabaseUnavailableError from error
            raise


@caught_by("LockLostError is raised for a loss, by itself and in no group, after fn has stopped.")
class BeginsAnewAfterALoss(HonestLocker):
    """It takes the lock again and tells fn nothing of it."""

    async def with_advisory_lock(self, lock_id: int, fn: Any) -> Any:
        leases: list[Any] = []

        async def noted(lease: Any) -> None:
            leases.append(lease)
            await fn(lease)

        try:
            return await super().with_advisory_lock(lock_id, noted)
        except LockLostError:
            if not leases[0].lost:
                raise
            return await super().with_advisory_lock(lock_id, noted)


@caught_by("After a loss the lock can be had again; the lost lease stays lost, and its epoch is outdone.")
class NeverRecovers(HonestLocker):
    """What it lost stays in its book."""

    def was_told(self, lease: StoreLease) -> None:
        super().was_told(lease)
        self.store.held[lease.key] = self.lease(lease.lock_id, lease.epoch)


@caught_by("After a loss the lock can be had again; the lost lease stays lost, and its epoch is outdone.")
class ForgetsThatItWasLost(HonestLocker):
    """It asks whether the key is there, and not whose it is."""

    def lease(self, lock_id: int, epoch: int) -> StoreLease:
        class Lease(StoreLease):
            @property
            def lost(self) -> Any:
                return self.key not in self.locker.store.held

        return Lease(self, lock_id, epoch)


@caught_by("After a loss the lock can be had again; the lost lease stays lost, and its epoch is outdone.")
class CountsEpochsFromOneAfterALoss(HonestLocker):
    """The counter is in the key that was deleted."""

    def was_told(self, lease: StoreLease) -> None:
        super().was_told(lease)
        self.store.epochs.clear()


@caught_by(
    "After a loss the lock can be had again; the lost lease stays lost, and its epoch is outdone.", seen="the new lease"
)
class TakesTheNextLeaseForLostToo(HonestLocker):
    """A flag of its session, which nobody takes down."""

    was_lost = False

    def was_told(self, lease: StoreLease) -> None:
        super().was_told(lease)
        self.was_lost = True

    def lease(self, lock_id: int, epoch: int) -> StoreLease:
        class Lease(StoreLease):
            @property
            def lost(self) -> Any:
                return self.gone or self.locker.was_lost  # type: ignore[attr-defined]

        return Lease(self, lock_id, epoch)


@caught_by(
    "After a loss the lock can be had again; the lost lease stays lost, and its epoch is outdone.", seen="had the lock"
)
class ExcludesNobodyAfterALoss(HonestLocker):
    """Its book of what it holds is gone with its session."""

    was_lost = False

    def was_told(self, lease: StoreLease) -> None:
        super().was_told(lease)
        self.was_lost = True

    def grant(self, lock_id: int) -> StoreLease | None:
        return super().grant(lock_id) or (
            self.lease(lock_id, self.store.next_epoch(lock_id)) if self.was_lost else None
        )


@caught_by("LockLostError is raised for a loss also if fn resists its cancellation and returns.")
class ForgivesWhoResists(HonestLocker):
    """It looks whether the scope caught a cancellation, and not whether the lock was lost."""

    async def run(self, lease: StoreLease, fn: Any) -> None:
        with lease.scope:
            await fn(lease)
        if lease.scope.cancelled_caught:
            raise LockLostError


@caught_by("What fn raises when it is cancelled for a loss is not swallowed.")
class SwallowsWhatEndsTheProgramInALoss(HonestLocker):
    async def run(self, lease: StoreLease, fn: Any) -> None:
        try:
            await super().run(lease, fn)
        except SystemExit:
            if not lease.lost:
                raise
            raise LockLostError from None


@caught_by("What fn raises when it is cancelled for a loss is not swallowed.")
class CallsItASuccessThatTheCleanUpFailed(HonestLocker):
    async def run(self, lease: StoreLease, fn: Any) -> None:
        try:
            await super().run(lease, fn)
        except LockLostError as error:
            if error.__cause__ is None:
                raise


@caught_by(
    "Who has lost the lock takes nothing away from who has it next, however late its fn stops.", seen="had the lock"
)
class DeletesTheKeyWhosesoeverItIs(HonestLocker):
    """It unlocks by DEL, and compares no token."""

    def forget(self, lease: StoreLease) -> None:
        self.store.held.pop(lease.key, None)
        self.store.releases += 1


@caught_by("Who has lost the lock takes nothing away from who has it next, however late its fn stops.", seen="said")
class MarksTheLockAsLostAtTheEnd(HonestLocker):
    """The mark is of the lock, not of the lease, and a grant takes it away."""

    marked: ClassVar[set[tuple[Store, Any]]] = set()

    def lease(self, lock_id: int, epoch: int) -> StoreLease:
        self.marked.discard((self.store, lock_id))

        class Lease(StoreLease):
            @property
            def lost(self) -> Any:
                return self.gone or (self.locker.store, self.key) in MarksTheLockAsLostAtTheEnd.marked

        return Lease(self, lock_id, epoch)

    def forget(self, lease: StoreLease) -> None:
        super().forget(lease)
        if lease.gone:
            self.marked.add((self.store, lease.key))
