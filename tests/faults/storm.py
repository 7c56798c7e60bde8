"""The storm: tasks that ask for locks, hold them and are cancelled at random, while sessions are killed.

One process, two lockers that want the same few locks, each with half of the tasks. It demands:

1. Two tasks of one locker are never under one lock at once, whatever happens to its session.
2. Of two tasks of both lockers that are, one has lost its lease, and stops at once. One that leaves before its locker
   has been told is excused only if the server turns out to have ended the session of either: a rival may be in some
   milliseconds before the notice, as the locker's docstring says, and one overlap in a hundred ends just then. One that
   is lost because an unlock said false excuses nobody: that is what a lock given twice leads to.
3. Each call ends as it is promised: with True if and only if the work ran to its end, with False if and only if it
   never began, with `LockLostError` or `DatabaseUnavailableError`, or cancelled.
4. Afterwards nothing is held, nobody waits, every lock can be had, and the server knows of none.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import random
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg
import trio
from postgres_view import asked, locks, stopped

from tickrunner_trio import DatabaseUnavailableError, LockLostError, PostgresLocker
from tickrunner_trio.lockers import _backoff
from tickrunner_trio.lockers._losses import Loss

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tickrunner_trio import Lease
    from tickrunner_trio._local_postgres import LocalPostgres

LEASE = 2.0
TASKS = 500
LOCK_IDS = range(-100, 100)

#: The notice of a session's end, and the turn of a Trio loop on which so many tasks run.
AT_ONCE_SECONDS = 0.25

_BACKENDS = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'tickrunner_trio %'"


@dataclass
class _Inside:
    """A task under a lock."""

    lease: Lease
    rivals_since: float | None = None  #: When a task of the other locker came under the same lock.


@dataclass
class Storm:
    """What came of it, and what was found broken."""

    broken: list[str] = field(default_factory=list)
    ends: collections.Counter[str] = field(default_factory=collections.Counter)
    faults: collections.Counter[str] = field(default_factory=collections.Counter)
    overlaps: list[float] = field(default_factory=list)  #: Seconds, of those that demand 2 allows.
    unnoticed: int = 0  #: Those of them that ended before the notice.

    def lines(self) -> list[str]:
        """All of it, to read."""
        ends = ", ".join(f"{count} {end}" for end, count in self.ends.most_common())
        faults = ", ".join(f"{count} x {fault}" for fault, count in self.faults.most_common())
        worst = f"at most {max(self.overlaps, default=0.0) * 1000:.1f} ms long"
        return [
            f"storm: {TASKS} tasks, {len(LOCK_IDS)} locks; {ends}; {faults}",
            f"storm: {len(self.overlaps)} times work of a lost session had not stopped when its rival's began; {worst}",
            f"storm: {self.unnoticed} of these ended before the loss was noticed",
            *(f"CONVICTED: {sentence}" for sentence in sorted(set(self.broken))),
        ]


async def storm(server: LocalPostgres, *, seconds: float, rng: random.Random) -> Storm:
    """Let it rage for so long, then see what is left."""
    result = Storm()
    # Sessions that are killed all the time would be opened ever less often, and the storm be a calm.
    _backoff.LONGEST_SECONDS = 0.2
    watcher = _Watcher(result)
    logging.getLogger("tickrunner_trio").addHandler(watcher)
    async with PostgresLocker(server.dsn, lease=LEASE) as one, PostgresLocker(server.dsn, lease=LEASE) as other:
        inside: dict[tuple[PostgresLocker, int], _Inside] = {}
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_kill, server, rng, result)
                for locker, rival in [(one, other), (other, one)] * (TASKS // 2):
                    caller = _Caller(locker, rival, inside, random.Random(rng.random()), result, nursery)
                    nursery.start_soon(caller.ask_for_ever)
        await _calm((one, other), result)
    logging.getLogger("tickrunner_trio").removeHandler(watcher)
    if left := await trio.to_thread.run_sync(locks, server.dsn):
        result.broken.append(f"locks are left: {left}")
    missing = {"had it", "busy", "lost", "unavailable", "cancelled"} - result.ends.keys()
    if missing:
        result.broken.append(f"it was no storm: no call ended with {', '.join(sorted(missing))}")
    return result


class _Watcher(logging.Handler):
    """Takes what is logged; errors are findings."""

    def __init__(self, result: Storm) -> None:
        super().__init__(logging.WARNING)
        self._result = result

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR:
            self._result.broken.append(f"logged: {record.getMessage()}")


class _Caller:
    """A task that asks one locker for locks.

    Args:
        locker: the one that it asks.
        rival: the other one.
        inside: who is under which lock, of both.
        rng: of its own: then the order in which Trio runs the tasks decides nothing.
        nursery: for what is known only later.
    """

    def __init__(  # noqa: PLR0917
        self,
        locker: PostgresLocker,
        rival: PostgresLocker,
        inside: dict[tuple[PostgresLocker, int], _Inside],
        rng: random.Random,
        result: Storm,
        nursery: trio.Nursery,
    ) -> None:
        self._nursery = nursery
        self._locker, self._rival = locker, rival
        self._inside, self._rng, self._result = inside, rng, result
        self._began = self._ended = False

    async def ask_for_ever(self) -> None:
        while True:
            with trio.move_on_after(self._rng.expovariate(1 / 0.03)):
                await self._ask(self._rng.choice(LOCK_IDS))
            await trio.sleep(self._rng.uniform(0, 0.03))

    async def _ask(self, lock_id: int) -> None:
        self._began = self._ended = False
        try:
            had = await self._locker.with_advisory_lock(lock_id, self._work)
        except LockLostError:
            end, as_promised = "lost", self._began
        except DatabaseUnavailableError:
            end, as_promised = "unavailable", not self._began
        except trio.Cancelled:
            self._result.ends["cancelled"] += 1
            raise
        else:
            end, as_promised = ("had it", self._ended) if had else ("busy", not self._began)
        self._result.ends[end] += 1
        if not as_promised:
            self._result.broken.append(f"{end!r} although the work began: {self._began}, ended: {self._ended}")

    async def _work(self, lease: Lease) -> None:
        self._began = True
        here, place, rivals = _Inside(lease), (self._locker, lease.lock_id), (self._rival, lease.lock_id)
        if place in self._inside:
            self._result.broken.append("two tasks of one locker were under one lock at once")
        self._inside[place] = here
        if (there := self._inside.get(rivals)) is not None:
            here.rivals_since = there.rivals_since = trio.current_time()
        try:
            await trio.sleep(self._rng.uniform(0, 0.05))
            if self._rng.random() < 0.1:  # work that takes its time to stop
                with trio.CancelScope(shield=True):
                    await trio.sleep(0.005)
        finally:
            del self._inside[place]
            self._leave(here, self._inside.get(rivals))
        self._ended = True

    def _leave(self, here: _Inside, there: _Inside | None) -> None:
        """The first of two that leaves ends their overlap."""
        if there is None or here.rivals_since is None:
            return
        seconds = trio.current_time() - here.rivals_since
        here.rivals_since = there.rivals_since = None
        if seconds > AT_ONCE_SECONDS:
            self._result.broken.append(f"work went on for {seconds:.2f} s beside a rival's after its session was lost")
        elif not (here.lease.lost or there.lease.lost):
            self._nursery.start_soon(self._demand_an_end, self._ended_sessions())
        self._result.overlaps.append(seconds)

    def _ended_sessions(self) -> tuple[int, int]:
        """How many sessions the server has ended, of both."""
        return self._locker._tally.lost[Loss.ENDED], self._rival._tally.lost[Loss.ENDED]

    async def _demand_an_end(self, ended_before: tuple[int, int]) -> None:
        with trio.CancelScope(shield=True):  # also if the storm is over meanwhile; so long, and no longer
            await trio.sleep(AT_ONCE_SECONDS)
        if self._ended_sessions() == ended_before:
            self._result.broken.append("two tasks were under one lock at once, and neither had lost it")
        else:
            self._result.unnoticed += 1


async def _kill(server: LocalPostgres, rng: random.Random, result: Storm) -> None:
    """End sessions: politely, by SIGKILL, which ends all of the server's, and by stopping one past its reply."""
    while True:
        await trio.sleep(rng.uniform(0.2, 0.8))
        with contextlib.suppress(psycopg.OperationalError, ProcessLookupError):
            backends = await trio.to_thread.run_sync(asked, server.dsn, _BACKENDS)
            if not backends:
                continue
            victim, how = rng.choice(backends), rng.choice(["terminated"] * 3 + ["SIGKILL", "SIGSTOP"])
            if how == "terminated":
                await trio.to_thread.run_sync(asked, server.dsn, f"SELECT pg_terminate_backend({victim})")
            elif how == "SIGKILL":
                os.kill(victim, signal.SIGKILL)
            else:
                with stopped(victim):
                    await trio.sleep(LEASE / 2)
            result.faults[how] += 1


async def _calm(lockers: Sequence[PostgresLocker], result: Storm) -> None:
    """See that nothing is held and nobody waits, and that every lock can be had."""
    with trio.move_on_after(15):
        while any(locker.statistics().held + locker.statistics().waiting for locker in lockers):  # noqa: ASYNC110
            await trio.sleep(0.01)
    for locker in lockers:
        statistics = locker.statistics()
        if statistics.held or statistics.waiting:
            result.broken.append(f"in the end {statistics.held} locks were held and {statistics.waiting} wanted")
        for lock_id in LOCK_IDS:
            if not await _had_in_time(locker, lock_id):
                result.broken.append("a lock could not be had afterwards")


async def _had_in_time(locker: PostgresLocker, lock_id: int) -> bool:
    async def nothing(lease: Lease) -> None:
        pass

    with trio.move_on_after(15):
        while True:
            with contextlib.suppress(DatabaseUnavailableError):
                if await locker.with_advisory_lock(lock_id, nothing):
                    return True
            await trio.sleep(0.05)
    return False
