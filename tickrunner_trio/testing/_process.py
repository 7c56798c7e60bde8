"""One process of a simulated replica: a supervisor of the user's services, in surroundings of its own, all recorded.

The services are the user's own objects. Their work is wrapped, to see when it really starts and stops; what came of
each tick is overheard. Everything else is as in production.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from .._service import Service
from .._supervisor import Supervisor
from ._freezing import Ice
from ._lock_session import LockSession
from ._simulated_ledger import SimulatedLedgerLocker
from ._simulated_locker import SimulatedLocker
from ._timeline import Run, ServiceFacts, Skip

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .._outcome import Outcome, Tick, TickReport
    from ..abc import AdvisoryLocker
    from ..lockers import LeaseTiming
    from ._lock_server import LockServer
    from ._record import Record
    from ._simulated_ledger import SimulatedLedger

#: When the clocks on the walls say that the simulation begins: 2000-01-01 00:00 UTC.
BEGINNING = 946_684_800.0

#: What marks the work of a service that was watched before.
_WATCHED_BY = "_tickrunner_watched_by"


class Process:
    """See the module. It is a `_surroundings.Surroundings`.

    Args:
        replica: the name of the replica.
        seed: of its chance.
        services: as the user gave it to the cluster.
        record: shared with the other processes.
        server: shared with the other processes.
        timing: of the lease.
        poke: called when something has changed that the director of the simulation waits for.
        wall_offset: by how many seconds the replica's clock on the wall is wrong.
        drain_timeout: of the supervisor.
        ledger: shared with the other processes; None: there is none.
    """

    def __init__(
        self,
        replica: str,
        seed: str,
        services: Callable[[AdvisoryLocker], Iterable[Service]],
        *,
        record: Record,
        server: LockServer,
        timing: LeaseTiming,
        poke: Callable[[], object],
        wall_offset: Callable[[], float],
        drain_timeout: float,
        ledger: SimulatedLedger | None,
    ) -> None:
        self.replica = replica
        self.ice = Ice()
        self.is_gone = False  #: It was killed, or it has ended.
        self._seed = seed
        self._services = services
        self._record = record
        self._poke = poke
        self._wall_offset = wall_offset
        self._drain_timeout = drain_timeout
        self._chances: dict[str, random.Random] = {}
        self._open: dict[tuple[str, int], tuple[Tick, float]] = {}  # the runs that go on
        self._stopped: dict[tuple[str, int], tuple[Tick, float, float]] = {}  # until they are judged, in the same step
        self._staying: dict[str, float] = {}  # the services that it runs, and since when
        self._is_to_drain = False
        self._supervisor: Supervisor | None = None
        self.session = LockSession(
            server, replica, timing, chance=random.Random(f"{seed} session"), changed=self._session_changed
        )
        if ledger is None:
            self._locker = SimulatedLocker(server, self.session, trio.current_time)
        else:
            chance = random.Random(f"{seed} ledger")
            self._locker = SimulatedLedgerLocker(server, self.session, trio.current_time, ledger, chance)

    async def run(self) -> None:
        """Be the process, until it is drained or cancelled; what the user's function raises passes through."""
        if self.is_gone:  # it was killed before it took a step
            return
        try:
            if self._supervisor is None:  # it started in a frozen machine
                self.make_services()
            assert self._supervisor is not None
            await self._supervisor.run()
        finally:
            self.end()

    def make_services(self) -> None:
        """Call the user's function, in these surroundings."""
        services: object = self._services(self._locker)
        if not isinstance(services, Iterable):
            raise TypeError(f"services must return an iterable of Service, got {services!r}: return [Service(...)]")
        self._supervisor = Supervisor(
            [self._watched(service) for service in services], drain_timeout=self._drain_timeout
        )
        self._drain_if_due()

    def belongs_to(self, record: Record) -> bool:
        """Whether it plays in the simulation that writes that record."""
        return record is self._record

    def drain(self) -> None:
        """Tell it to end; frozen, it hears of that at the thaw."""
        self._is_to_drain = True
        self._drain_if_due()

    def _drain_if_due(self) -> None:
        if self._is_to_drain and self._supervisor is not None and not self.ice.is_frozen:
            for service in list(self._staying):
                self.drained(service)
            self._supervisor.drain()

    def freeze(self, now: float) -> None:
        self.session.freeze(now)
        self.ice.freeze()

    def thaw(self, now: float) -> None:
        self.session.thaw(now)  # first: a task that is thawed finds its lock lost
        self.ice.thaw()
        self._drain_if_due()

    def kill(self) -> None:
        """Let none of its tasks take another step."""
        self.ice.freeze()
        self.end()

    def end(self) -> None:
        """It is no more: what it had locked is free, what still ran is written down as unfinished. Idempotent."""
        if not self.is_gone:
            self.is_gone = True
            now = trio.current_time()
            self.session.end(now)
            for tick, started_at in self._open.values():
                self._write(tick, started_at, now, None)
            for service in list(self._staying):
                self.drained(service)

    # What the services take from their surroundings.

    def random_of(self, service: str) -> Callable[[], float]:
        """One stream for each service, so that the order in which Trio runs tasks changes nothing."""
        if service not in self._chances:
            self._chances[service] = random.Random(f"{self._seed} {service}")
        return self._chances[service].random

    def utc_offset(self) -> float:
        return BEGINNING - self._record.began_at + self._wall_offset()

    def overhear(self, report: TickReport) -> None:
        if self.is_gone:
            return
        stopped = self._stopped.pop((report.service, report.number), None)
        if stopped is not None:
            tick, started_at, stopped_at = stopped
            self._write(tick, started_at, stopped_at, report.outcome, report.lateness)
            return
        self._record.skips.append(
            Skip(
                replica=self.replica,
                service=report.service,
                at=self._record.since_beginning(trio.current_time()),
                outcome=report.outcome,
                number=report.number,
            )
        )

    def drained(self, service: str) -> None:
        since = self._staying.pop(service, None)
        if since is not None:
            self._record.stayed(self.replica, service, since, trio.current_time())

    # How it is watched.

    def _watched(self, service: object) -> Service:
        if not isinstance(service, Service):
            raise TypeError(f"services must give Service objects, got {service!r}: use Service(Config(...))")
        config = service.config
        startup = config.startup
        if hasattr(config.work, _WATCHED_BY):
            raise TypeError(
                f"services must make new Service objects at each call, got one that another process has: {service!r}; "
                "make it within the function, with the locker that it is given"
            )
        # The object stays the user's own: a subclass, with providers of its own, perhaps known to others.
        service._config = replace(  # noqa: SLF001
            config, work=self._timed(config.work), startup=None if startup is None else self._timed(startup)
        )
        self._staying[service.name] = trio.current_time()
        facts = ServiceFacts(
            name=service.name,
            interval=service.interval,
            lock_id=service.lock_id,
            cadence=config.cadence,
            tick_timeout=config.tick_timeout,
            has_startup=startup is not None,
        )
        known = self._record.services.setdefault(facts.name, facts)
        if known != facts:
            raise ValueError(
                f"services must be the same in all processes, got {facts!r} in {self.replica}, and before that "
                f"{known!r}: give the one that differs another name"
            )
        return service

    def _timed(self, work: Callable[[Tick], Awaitable[None]]) -> Callable[[Tick], Awaitable[None]]:
        @functools.wraps(work, updated=())
        async def timed(tick: Tick) -> None:
            key = tick.service, tick.number
            started_at = trio.current_time()
            self._open[key] = tick, started_at
            try:
                await work(tick)
            finally:
                del self._open[key]
                self._stopped[key] = tick, started_at, trio.current_time()

        setattr(timed, _WATCHED_BY, self.replica)
        return timed

    def _write(
        self, tick: Tick, started_at: float, stopped_at: float, outcome: Outcome | None, lateness: float = 0.0
    ) -> None:
        self._record.runs.append(
            Run(
                replica=self.replica,
                service=tick.service,
                started_at=self._record.since_beginning(started_at),
                stopped_at=self._record.since_beginning(stopped_at),
                outcome=outcome,
                number=tick.number,
                epoch=tick.epoch,
                lateness=lateness,
                forced=tick.forced,
            )
        )

    def _session_changed(self) -> None:
        self._locker.wake()
        self._poke()
