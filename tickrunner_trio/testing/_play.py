"""One play of a simulated cluster: the director, the replicas, and what is done to them.

::

    director: the one task that does what is due next: a fault, the end of one, the deadline of a session
      |
      +-- replica r1, r2, ...: what is done to a machine, frozen or cut off, is done to each of its processes
            |
            +-- process: a Supervisor of the user's services                              (_process)
                  under ice, which holds back all of its tasks                            (_freezing)
                  with a locker                                                           (_simulated_locker)
                  over a session of its own                                               (_lock_session)
                  with the one server that all share                                      (_lock_server)

Invariants:

1. What the cluster itself decides, it decides by the seed: where between two beats a fault falls, jitter, holds,
   backoff, and the order of what is due at the same moment; faults of one replica keep theirs.
2. The server's ends of sessions, the cancel points and the faults come at their times, to the float.
3. However the play ends, no task stays frozen, and nothing that comes afterwards is in the timeline.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from .._surroundings import simulated
from ._faults import (
    ClockOffset,
    DatabaseAway,
    DropSession,
    Freeze,
    Kill,
    Partition,
    Start,
    ends_at,
    is_up_at_first,
    replica_of,
)
from ._freezing import Freezer
from ._lock_server import LockServer
from ._process import Process
from ._record import Record
from ._simulated_ledger import SimulatedLedger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .._service import Service
    from ..abc import AdvisoryLocker
    from ..lockers import LeaseTiming
    from ._faults import AnyFault
    from ._freezing import Ice
    from ._timeline import Timeline


@dataclass
class _Replica:
    """A machine, which may have had several processes."""

    name: str
    frozen: int = 0
    cut: int = 0
    wall_offset: float = 0.0
    processes: list[Process] = field(default_factory=list[Process])

    @property
    def alive(self) -> list[Process]:
        return [process for process in self.processes if not process.is_gone]


class Play:
    """See the module. All arguments as of `Cluster`, checked; it is run once."""

    def __init__(
        self,
        services: Callable[[AdvisoryLocker], Iterable[Service]],
        replicas: tuple[str, ...],
        faults: tuple[AnyFault, ...],
        timing: LeaseTiming,
        seed: int,
        *,
        epochs: bool,
        drain_timeout: float,
        ledger: bool,
    ) -> None:
        self._services = services
        self._faults = faults
        self._timing = timing
        self._seed = seed
        self._drain_timeout = drain_timeout
        self._replicas = {name: _Replica(name) for name in replicas}
        self._record = Record(trio.current_time())
        self._server = LockServer(timing.lease, self._record.freed, epochs=epochs)
        self._ledger = SimulatedLedger() if ledger else None
        self._changed = trio.lowlevel.ParkingLot()
        self._nursery: trio.Nursery

    async def run(self, seconds: float) -> Timeline:
        """See `Cluster.play`."""
        freezer = Freezer(self._ice_of)
        trio.lowlevel.add_instrument(freezer)
        ending: BaseException
        try:
            async with trio.open_nursery() as self._nursery:
                try:
                    await self._direct(seconds)
                    self._refuse_threads()
                finally:
                    self._finish()
            return self._record.timeline(
                seconds,
                replicas=tuple(self._replicas),
                faults=self._faults,
                lease=self._timing.lease,
                locked=self._server.granted,
                ledger=self._ledger is not None,
            )
        except BaseExceptionGroup as group:
            # The nursery's own wrapping comes off, and no more.
            ending = group.exceptions[0] if len(group.exceptions) == 1 else group
        finally:
            trio.lowlevel.remove_instrument(freezer)
        raise ending

    async def _direct(self, seconds: float) -> None:
        until = self._record.began_at + seconds
        chance = random.Random(f"{self._seed} order")
        script: list[tuple[float, float, Callable[[AnyFault, float], None], AnyFault]] = []
        ranks: dict[tuple[float, str | None], float] = {}
        for fault in self._faults:
            begin = self._record.began_at + fault.at
            # Those of one replica in the order in which they were listed: a Kill before a Start is a restart.
            rank = ranks.get((begin, replica_of(fault)), 0.0)
            rank = ranks[begin, replica_of(fault)] = rank + (1.0 - rank) * chance.random()
            script.append((begin, rank, self._begin, fault))
            if isinstance(fault, Freeze | Partition | DatabaseAway):
                end = max(self._record.began_at + ends_at(fault), math.nextafter(begin, math.inf))
                script.append((end, chance.random(), self._end, fault))
        script.sort(key=lambda entry: entry[:2], reverse=True)
        for replica in self._replicas.values():
            if is_up_at_first(replica.name, self._faults):
                self._start(replica, trio.current_time())
        while (now := trio.current_time()) < until:
            while script and script[-1][0] <= now:
                _, _, do, fault = script.pop()
                for process in self._alive():
                    process.session.advance(now)
                do(fault, now)
            for process in self._alive():
                process.session.advance(now)
            due = [until, *(entry[0] for entry in script[-1:])]
            due += [process.session.next_at() for process in self._alive()]
            with trio.move_on_at(min(due)):
                await self._changed.park()

    def _refuse_threads(self) -> None:
        """Raise `RuntimeError` if some work waits for a thread: time did not, so that the timeline is worthless."""
        for task in _tasks_in(self._nursery):
            # Private to Trio, and missed without harm if it goes: a task's own coroutine is hidden behind its ice.
            if getattr(getattr(task, "_abort_func", None), "__module__", None) == "trio._threads":
                raise RuntimeError(
                    f"the task {task.name} waits for a thread (trio.to_thread) at the end of a simulation, whose "
                    "virtual time does not wait for threads: have the work take as an argument what blocks, and give "
                    "it something here that awaits trio.sleep"
                )

    def _finish(self) -> None:
        """Close the record, then thaw and cancel all there is."""
        self._server.finish(trio.current_time())
        processes = [process for replica in self._replicas.values() for process in replica.processes]
        for process in processes:
            process.end()
        for process in processes:
            process.ice.melt()
        self._nursery.cancel_scope.cancel()

    # What is done to the replicas.

    def _begin(self, fault: AnyFault, now: float) -> None:
        match fault:
            case DatabaseAway():
                self._go_away(now)
            case Start():
                self._start(self._replicas[fault.replica], now)
            case Freeze():
                self._replicas[fault.replica].frozen += 1
                self._each(fault.replica, lambda process: process.freeze(now))
            case Partition():
                self._replicas[fault.replica].cut += 1
                # Also of processes that are no more: the kernel's last words for them may be under way.
                for process in self._replicas[fault.replica].processes:
                    process.session.cut(now)
            case ClockOffset():
                self._replicas[fault.replica].wall_offset = fault.seconds
            case Kill():
                self._each(fault.replica, Process.kill)
            case DropSession():
                self._each(fault.replica, lambda process: process.session.drop(now))
            case _:  # a Drain
                self._each(fault.replica, Process.drain)

    def _go_away(self, now: float) -> None:
        self._server.go_away(now)
        for process in self._alive():
            process.session.drop(now)

    def _each(self, replica: str, do: Callable[[Process], object]) -> None:
        for process in self._replicas[replica].alive:
            do(process)

    def _end(self, fault: AnyFault, now: float) -> None:
        """Undo what has an end."""
        if isinstance(fault, DatabaseAway):
            self._server.come_back()
        elif isinstance(fault, Freeze):
            self._replicas[fault.replica].frozen -= 1
            self._each(fault.replica, lambda process: process.thaw(now))
        else:
            assert isinstance(fault, Partition)
            self._replicas[fault.replica].cut -= 1
            for process in self._replicas[fault.replica].processes:
                process.session.mend(now)

    def _start(self, replica: _Replica, now: float) -> None:
        process = Process(
            replica.name,
            f"{self._seed} {replica.name} {len(replica.processes)}",
            self._services,
            record=self._record,
            server=self._server,
            timing=self._timing,
            poke=self._changed.unpark_all,
            wall_offset=lambda: replica.wall_offset,
            drain_timeout=self._drain_timeout,
            ledger=self._ledger,
        )
        for _ in range(replica.frozen):
            process.ice.freeze()
        process.session.started(now, cut=replica.cut, frozen=replica.frozen)
        replica.processes.append(process)
        # Each task that the process will ever spawn inherits this.
        token = simulated.set(process)
        try:
            # Here rather than in a task of the process, where the errors of all replicas would come as a group.
            if not process.ice.is_frozen:
                process.make_services()
            self._nursery.start_soon(process.run, name=f"process of {replica.name}")
        finally:
            simulated.reset(token)

    def _alive(self) -> list[Process]:
        return [process for replica in self._replicas.values() for process in replica.alive]

    def _ice_of(self, task: trio.lowlevel.Task) -> Ice | None:
        process = task.context.get(simulated)
        return process.ice if isinstance(process, Process) and process.belongs_to(self._record) else None


def _tasks_in(nursery: trio.Nursery) -> Iterator[trio.lowlevel.Task]:
    for task in nursery.child_tasks:
        yield task
        for child in task.child_nurseries:
            yield from _tasks_in(child)
