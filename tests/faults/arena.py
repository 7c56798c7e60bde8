"""Where the campaign takes place: a server, replicas that reach it through relays, and the journal of what was done.

The journal says what the judge cannot know from the record: when a server dropped a session, and when a frozen replica
was woken. A session counts as dropped when its backend process has ended, which the kernel tells; by then the server
has let its locks go.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
import trio
from postgres_view import asked
from psycopg.conninfo import make_conninfo

from faults import control, private_network
from faults.judge import LONGEST_BACKOFF_SECONDS, Evidence, Excuse, Fault, Habits, Span, hiccups, merged
from faults.private_network import Cable
from faults.record import Tail, boot_time, runs_of
from faults.relay import Relay
from faults.replica import Plan
from faults.replica_process import ReplicaProcess, environment, program

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncGenerator, Iterable

    from tickrunner_trio._local_postgres import LocalPostgres

LEASE = 2.0

_SHORT = Habits(interval=0.6, shortest=0.1, longest=0.3)
#: It is still at work when a rival gets its lock after a silent fault, and takes most of its time for stopping.
_LONG = Habits(interval=0.6, shortest=LEASE + 0.9, longest=LEASE + 1.4, stopping=LEASE / 4)
SERVICES = {"sweep": _SHORT, "expire": _SHORT, "refill": _LONG, "audit": _LONG}
LONG_RUNNING = {name for name, habits in SERVICES.items() if habits is _LONG}

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
    ) -> None:
        self.server = server
        self.rng = rng
        self.replicas: dict[str, ReplicaProcess] = {}
        self.cables: dict[str, Cable] = {}
        self.excuses: list[Excuse] = []
        self.faults: list[Fault] = []
        self.steady: list[Span] = []
        self.struck_at = 0.0  #: When the last fault began; set by `somebody_at_work`.
        self.findings: list[str] = []  #: What was found broken beside the runs.
        self.servers = contextlib.ExitStack()  #: Those that faults have started.
        self.record = directory / "record"
        self.record.touch()
        self.tail = Tail(self.record)
        self._directory = directory
        self._locker = locker
        self._nursery: trio.Nursery | None = None
        self._has_cables = private_network.why_not() is None
        self._number = 0

    # -- Replicas ------------------------------------------------------------------------------------------------------

    async def add_replica(self) -> None:
        """Start one more replica, with a relay of its own, and wait until its services run."""
        assert self._nursery is not None
        self._number += 1
        name = f"r{self._number}"
        relay = Relay(self._target)
        wrapper = private_network.WRAPPER if self._has_cables else ()
        replica = await ReplicaProcess.started(name, relay, self._directory / f"{name}.log", wrapper=wrapper)
        self.replicas[name] = replica
        if self._has_cables:
            await _own_network(replica.pid)
            self.cables[name] = await trio.to_thread.run_sync(Cable, replica.pid)
            relay.host = self.cables[name].host
        await self._nursery.start(relay.run)
        plan = Plan(
            name=name,
            dsn=make_conninfo(self.server.dsn, host=relay.host, port=relay.port, connect_timeout=2),
            record=str(self.record),
            services=SERVICES,
            lease=LEASE,
            locker=self._locker,
        )
        await replica.ready(plan)

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
        """Wait until each replica has its session, and the server says so too, for as long as that may take."""
        with trio.fail_after(LEASE + 2 * LONGEST_BACKOFF_SECONDS + 5):
            while True:
                with contextlib.suppress(psycopg.OperationalError):
                    sessions = await self.sessions()
                    if all(len(sessions.get(name, ())) == 1 for name in self.replicas) and await self._all_ready():
                        return
                await trio.sleep(0.05)

    async def _all_ready(self) -> bool:
        counted = [(await replica.told("report"))["statistics"] for replica in self.replicas.values()]
        return all(counts["sessions_opened"] == counts["sessions_lost"] + 1 for counts in counted)

    async def somebody_at_work(self) -> str:
        """Wait for a long run that has just started, and return its replica: the moment for a fault."""
        working: list[str] = []
        with trio.move_on_after(10):  # after that the judge will ask why nobody works
            while not working:
                await trio.sleep(0.005)
                self.tail.look()
                working = sorted(self.tail.at_work(LONG_RUNNING, within=0.1) & self.replicas.keys())
        self.struck_at = boot_time()
        return self.rng.choice(working or sorted(self.replicas))

    async def all_ran(self, *, since: float) -> None:
        """Wait until all services have run, for as long as they may take and a little more."""
        bound = LEASE + max(habits.interval for habits in SERVICES.values()) + LONGEST_BACKOFF_SECONDS + 1
        with trio.move_on_after(max(0.0, since + bound - boot_time())):
            while True:
                self.tail.look()
                if self.tail.started_after(since) >= SERVICES.keys():
                    return
                await trio.sleep(0.01)

    async def steady_for(self, seconds: float) -> None:
        """Do nothing to anybody for so long. No session may end meanwhile."""
        before = await self.sessions()
        began_at = boot_time()
        await trio.sleep(seconds)
        self.steady.append(Span(began_at, boot_time()))
        if (after := await self.sessions()) != before:
            self.findings.append(f"the sessions {before} became {after} although nothing was done to them")

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
            services=SERVICES,
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
    """Start the control and the replicas, each with a cable if that can be; and end them whatever happens."""
    arena = Arena(server, directory, rng, **options)
    controls: list[trio.Process] = []
    try:
        async with trio.open_nursery() as nursery:
            arena._nursery = nursery
            for cpu in sorted(os.sched_getaffinity(0))[:4]:
                command = program("control", str(arena.record), str(cpu))
                controls.append(await trio.lowlevel.open_process(command, stdin=-1, env=environment()))
            async with trio.open_nursery() as starting:
                for _ in range(replicas):
                    starting.start_soon(arena.add_replica)
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


def _watched(pid: int, descriptors: contextlib.ExitStack) -> int:
    """Return a descriptor that turns readable when the process ends."""
    fd = os.pidfd_open(pid)
    descriptors.callback(os.close, fd)
    return fd


async def _own_network(pid: int) -> None:
    """Wait until a process that is being started has a network other than ours."""

    def network(of: str) -> Path:
        return Path(f"/proc/{of}/ns/net").readlink()

    with trio.fail_after(30):
        while network(str(pid)) == network("self"):  # noqa: ASYNC110  # another process does it
            await trio.sleep(0.005)
