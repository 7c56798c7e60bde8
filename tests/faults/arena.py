"""Where the campaign takes place: a server, replicas that reach it through relays, and the journal of what was done.

The journal says what the judge cannot know from the record: when a server dropped a session, and when a frozen replica
was woken. A session counts as dropped when its backend process has ended, which the kernel tells; by then the server
has let its locks go.
"""

from __future__ import annotations

import contextlib
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
import trio
from postgres_view import asked
from psycopg.conninfo import make_conninfo

from faults import control, private_network
from faults.judge import LONGEST_BACKOFF_SECONDS, Evidence, Excuse, Fault, Span, hiccups, merged
from faults.private_network import Cable
from faults.record import Tail, boot_time, runs_of
from faults.relay import Relay
from faults.replica import Plan
from faults.replica_process import ReplicaProcess, environment, program

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

    from tickrunner_trio._local_postgres import LocalPostgres

LEASE = 2.0
INTERVALS = {"sweep": 0.6, "expire": 0.6, "refill": 0.6, "audit": 0.6}
WORK = (0.1, 0.3)

_SESSIONS = (
    "SELECT pid || ' ' || application_name FROM pg_stat_activity"
    " WHERE application_name LIKE 'tickrunner_trio %' AND backend_type = 'client backend'"
)


class Arena:
    """See the module. Made by `open_arena`.

    Args:
        server: the one that the relays lead to; `server` may be set to another.
        directory: for the record and the logs.
        rng: decides what a seed decides.
        locker: which of `broken_lockers.LOCKERS` the replicas use.
    """

    def __init__(
        self,
        server: LocalPostgres,
        directory: Path,
        rng: random.Random,
        *,
        locker: str = "honest",
        work: tuple[float, float] = WORK,
        stopping: float = 0.0,
    ) -> None:
        self.server = server
        self.rng = rng
        self.replicas: dict[str, ReplicaProcess] = {}
        self.cables: dict[str, Cable] = {}
        self.excuses: list[Excuse] = []
        self.faults: list[Fault] = []
        self.steady: list[Span] = []
        self.findings: list[str] = []  #: What was found broken beside the runs.
        self.servers = contextlib.ExitStack()  #: Those that faults have started.
        self.record = directory / "record"
        self.record.touch()
        self.tail = Tail(self.record)
        self._directory = directory
        self._locker, self._work, self._stopping = locker, work, stopping
        self._nursery: trio.Nursery | None = None
        self._number = 0

    # -- Replicas ------------------------------------------------------------------------------------------------------

    async def add_replica(self, *, with_cable: bool = False) -> ReplicaProcess:
        """Start one more replica, with a relay of its own, and wait until its services run."""
        assert self._nursery is not None
        self._number += 1
        name = f"r{self._number}"
        relay = Relay(self._target)
        wrapper = private_network.WRAPPER if with_cable else ()
        replica = await ReplicaProcess.started(name, relay, self._directory / f"{name}.log", wrapper=wrapper)
        self.replicas[name] = replica
        if with_cable:
            await _own_network(replica.pid)
            self.cables[name] = await trio.to_thread.run_sync(Cable, replica.pid)
            relay.host = self.cables[name].host
        await self._nursery.start(relay.run)
        plan = Plan(
            name=name,
            dsn=make_conninfo(self.server.dsn, host=relay.host, port=relay.port, connect_timeout=2),
            record=str(self.record),
            intervals=INTERVALS,
            work=self._work,
            lease=LEASE,
            stopping=self._stopping,
            locker=self._locker,
        )
        await replica.ready(plan)
        return replica

    async def kill_replica(self, name: str) -> None:
        """Kill one for good."""
        replica = self.replicas.pop(name)
        self.cables.pop(name, None)
        await replica.kill()

    def _target(self) -> tuple[str, int]:
        address = urlsplit(self.server.dsn)
        return str(address.hostname), int(address.port or 0)

    # -- What one can see ----------------------------------------------------------------------------------------------

    async def ask(self, query: str) -> list[Any]:
        """Ask the server over a connection that is gone afterwards, not through a relay."""
        return await trio.to_thread.run_sync(asked, self.server.dsn, query)

    async def sessions(self) -> dict[str, list[int]]:
        """The process ids of the backends that hold the locks of each replica."""
        names = {replica.pid: name for name, replica in self.replicas.items()}
        found: dict[str, list[int]] = {}
        for row in await self.ask(_SESSIONS):
            backend, _, pid, *_ = row.split()
            if int(pid) in names:
                found.setdefault(names[int(pid)], []).append(int(backend))
        return found

    async def settled(self) -> None:
        """Wait until each replica has its session, for as long as that may take."""
        with trio.fail_after(LEASE + 2 * LONGEST_BACKOFF_SECONDS + 5):
            while True:
                with contextlib.suppress(psycopg.OperationalError):
                    if self.replicas.keys() == (await self.sessions()).keys():
                        return
                await trio.sleep(0.05)

    async def somebody_at_work(self, *, among: Iterable[str] = ()) -> str:
        """Wait for a run that has just started, and return its replica."""
        names = set(among) or self.replicas.keys()
        with trio.move_on_after(10):
            while True:
                self.tail.look()
                if working := sorted(self.tail.at_work(within=0.05) & names):
                    return self.rng.choice(working)
                await trio.sleep(0.005)
        return self.rng.choice(sorted(names))  # the judge will ask why nobody works

    async def all_ran(self, *, since: float) -> None:
        """Wait until all services have run, for as long as they may take and a little more."""
        bound = LEASE + max(INTERVALS.values()) + LONGEST_BACKOFF_SECONDS + 1
        with trio.move_on_after(max(0.0, since + bound - boot_time())):
            while True:
                self.tail.look()
                if self.tail.started_after(since) >= INTERVALS.keys():
                    return
                await trio.sleep(0.01)

    async def steady_for(self, seconds: float) -> None:
        """Do nothing to anybody for so long."""
        began_at = boot_time()
        await trio.sleep(seconds)
        self.steady.append(Span(began_at, boot_time()))

    # -- What the judge must know --------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def dropping(self, by: str, names: Iterable[str] = ()) -> AsyncGenerator[list[int]]:
        """What is done inside has the server drop the sessions of these replicas, or of all; yield their backends."""
        names = set(names) or set(self.replicas)
        backends = [(name, pid) for name, pids in (await self.sessions()).items() if name in names for pid in pids]
        with contextlib.ExitStack() as descriptors:
            ends = [(name, _watched(pid, descriptors)) for name, pid in backends]
            began_at = boot_time()
            with trio.fail_after(30):
                async with trio.open_nursery() as nursery:
                    for name, fd in ends:
                        nursery.start_soon(self._note_end, by, name, fd, began_at)
                    yield [pid for _, pid in backends]

    async def _note_end(self, by: str, name: str, pidfd: int, began_at: float) -> None:
        await trio.lowlevel.wait_readable(pidfd)
        self.excuses.append(Excuse(cause="dropped", replica=name, began_at=began_at, at=boot_time(), by=by))

    def evidence(self) -> Evidence:
        """All that is known by now."""
        self.tail.look()
        late: list[Span] = []
        runs = []
        for run in runs_of(self.tail.events):
            if run.service == control.SERVICE:
                late += hiccups(run.written_at)
            else:
                runs.append(run)
        return Evidence(
            lease=LEASE,
            intervals=INTERVALS,
            stopping=self._stopping,
            runs=runs,
            excuses=self.excuses,
            faults=self.faults,
            steady=self.steady,
            hiccups=merged(late),
            ended_at=boot_time(),
        )


@contextlib.asynccontextmanager
async def open_arena(
    server: LocalPostgres, directory: Path, rng: random.Random, *, replicas: int = 3, **options: Any
) -> AsyncGenerator[Arena]:
    """Start the control and the replicas, the last one with a cable if that can be; and end them whatever happens."""
    arena = Arena(server, directory, rng, **options)
    cable = private_network.why_not() is None
    controls: list[trio.Process] = []
    try:
        async with trio.open_nursery() as nursery:
            arena._nursery = nursery
            for cpu in sorted(os.sched_getaffinity(0))[:4]:
                command = program("control", str(arena.record), str(cpu))
                controls.append(await trio.lowlevel.open_process(command, stdin=-1, env=environment()))
            async with trio.open_nursery() as starting:
                for index in range(replicas):
                    starting.start_soon(_started(arena, with_cable=cable and index == replicas - 1))
            yield arena
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            for replica in arena.replicas.values():
                await replica.kill()
            for process in controls:
                process.kill()
                await process.wait()
                await process.stdin.aclose()  # type: ignore[union-attr]  # it is a pipe
            for cable_left in arena.cables.values():
                cable_left.close()
            await trio.to_thread.run_sync(arena.servers.close)


def _started(arena: Arena, *, with_cable: bool) -> Callable[[], Any]:
    async def start() -> None:
        await arena.add_replica(with_cable=with_cable)

    return start


def _watched(pid: int, descriptors: contextlib.ExitStack) -> int:
    """Return a descriptor that turns readable when the process ends."""
    fd = os.pidfd_open(pid)
    descriptors.callback(os.close, fd)
    return fd


async def _own_network(pid: int) -> None:
    """Wait until a process that is being started has a network other than ours."""
    ours = Path("/proc/self/ns/net").readlink()
    with trio.fail_after(30):
        while Path(f"/proc/{pid}/ns/net").readlink() == ours:  # noqa: ASYNC110  # another process does it
            await trio.sleep(0.005)
