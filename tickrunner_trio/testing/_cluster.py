"""A cluster of replicas in one Trio run, in virtual time, with faults: what users of the library test services with.

Here is what it is told and what it promises; `_play` does it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING

import trio
from trio.testing import MockClock

from .._supervisor import Supervisor
from ..lockers._timing import lease_timing
from ._faults import AnyFault, Start, lifecycle, replica_of
from ._play import Play

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._service import Service
    from ..abc import AdvisoryLocker
    from ._faults import Fault
    from ._timeline import Timeline


class Cluster:
    """N replicas of a user's services in virtual time, with one shared lock world, and faults at given times.

    ``services`` is called once for each process, with the locker of that process; the services that it returns run
    under a `tickrunner_trio.Supervisor`. The locker behaves as a `tickrunner_trio.PostgresLocker` of that lease, over
    one primary, whose round trips take no time: a replica that is cut off or frozen for too long loses its session and
    its locks, when the real one would, and the work is cancelled when it would be. Its epochs count up.

    Args:
        services: ``def services(locker) -> Iterable[Service]``. What it raises passes through `run` and `play`.
        replicas: how many, named r1, r2, ...; each is there from the beginning, unless its first `Kill`, `Drain` or
            `Start` is a `Start`.
        faults: what goes wrong, and when. One that hits a process does nothing if there is none; what is done to the
            machine, a `Freeze`, `Partition` or `ClockOffset`, meets also the process that starts there later.
        lease: seconds from 2 to 3,600, as of `PostgresLocker`.
        seed: decides all that is left open: jitter, holds and backoff, where between two beats of the session a fault
            falls, and the order of faults at the same moment; those of one replica keep theirs. The order in which Trio
            runs tasks that are ready at the same moment is Trio's own; it is fixed only under Hypothesis, by which
            Trio lets it be seeded.
        epochs: whether leases have epochs, which count up over all locks; a `PostgresLocker` without a ledger gives
            none.
        ledger: whether the lockers keep a ledger, as ``PostgresLocker(..., ledger=True)`` does: services then run once
            per interval over kills, drains and lost sessions, and their leases have its epochs. Nobody pauses or
            triggers a service here.
        drain_timeout: seconds that work in flight is given at a `Drain`, as of `tickrunner_trio.Supervisor`.

    `run` and `play` raise `TypeError` if what ``services`` returns is no iterable of `Service` objects, or has one that
    another process has already, and `ValueError` if services of one name differ in interval, cadence or lock.

    Raises:
        TypeError: ``services`` is not a plain function, or one of the others is of the wrong kind.
        ValueError: there is no replica, a fault names an unknown one or starts one that is there, or ``lease`` is out
            of its bounds.

    What is not simulated: threads (virtual time does not wait for them; a play that ends while work waits for one
    raises), tasks that `trio.lowlevel.spawn_system_task` makes, which belong to no replica, and the time that code
    takes. Clocks on the walls begin at 2000-01-01 00:00 UTC, as the library tells them (``Tick.started_at``);
    ``datetime.now()`` and ``time.time()`` in the work are the real clock, and no `ClockOffset` reaches them.

    ::

        def services(locker):
            return [Service(Config(name="sweep", interval=60, locker=locker, work=sweep))]

        timeline = Cluster(services, replicas=3, faults=[Kill("r1", at=600)]).run(3600)
        timeline.assert_never_overlapping()
    """

    def __init__(
        self,
        services: Callable[[AdvisoryLocker], Iterable[Service]],
        *,
        replicas: int = 3,
        faults: Iterable[Fault] = (),
        lease: float = 15.0,
        seed: int = 0,
        epochs: bool = False,
        ledger: bool = False,
        drain_timeout: float = 30.0,
    ) -> None:
        if inspect.iscoroutinefunction(services) or not callable(services):
            raise TypeError(f"services must be a plain function of a locker, got {services!r}: write one with 'def'")
        if isinstance(replicas, bool) or not isinstance(replicas, int):
            raise TypeError(f"replicas must be an int, got {replicas!r}: write how many there are, such as 3")
        if replicas < 1:
            raise ValueError(f"replicas must be 1 or more, got {replicas!r}: a cluster of none does nothing")
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise TypeError(f"seed must be an int, got {seed!r}: write any")
        self._services = services
        self._replicas = tuple(f"r{number}" for number in range(1, replicas + 1))
        self._timing = lease_timing(lease)
        self._faults = _checked_faults(faults, self._replicas)
        self._seed = seed
        if not isinstance(epochs, bool):
            raise TypeError(f"epochs must be True or False, got {epochs!r}: True for leases that have them")
        if not isinstance(ledger, bool):
            raise TypeError(f"ledger must be True or False, got {ledger!r}: True for lockers that keep one")
        Supervisor((), drain_timeout=drain_timeout)  # checks it
        self._epochs = epochs
        self._ledger = ledger
        self._drain_timeout = drain_timeout

    def __repr__(self) -> str:
        faults = f", faults={list(self._faults)!r}" if self._faults else ""
        ledger = ", ledger=True" if self._ledger else ""
        return (
            f"Cluster(replicas={len(self._replicas)}{faults}{ledger}, lease={self._timing.lease:g}, seed={self._seed})"
        )

    def run(self, seconds: float) -> Timeline:
        """Play it in a Trio run of its own, and return what happened; hours take milliseconds.

        Args:
            seconds: how much virtual time passes; above 0.

        Raises:
            TypeError: ``seconds`` is no number.
            ValueError: it is not above 0, not finite, or a fault begins only then or later.
            RuntimeError: called within a Trio run: await `play` there; or some work waits for a thread at the end.
            BaseException: what ``services`` raised, or what ended a `tickrunner_trio.Supervisor`, as it is.
        """
        self._check_end(seconds)
        if _is_within_a_run():
            raise RuntimeError("Cluster.run starts a Trio run of its own, and there is one here: await Cluster.play")
        return trio.run(self.play, seconds, clock=MockClock(autojump_threshold=0))

    async def play(self, seconds: float) -> Timeline:
        """Play it within the caller's own Trio run, and return what happened. It begins anew each time.

        The timeline ends after so many seconds. Then whatever is left is cancelled: what runs, what is frozen, and what
        the killed processes left behind, whose clean-up has waited until now, since a SIGKILL runs none. That takes as
        long as the work takes to stop.

        Args:
            seconds: how much virtual time passes; above 0.

        Raises:
            RuntimeError: the clock of the run is not a `trio.testing.MockClock` that goes on by itself, or some work
                waits for a thread at the end.
            BaseException: as `run`.

        Cancellation handling: everything is thawed and cancelled, then the cancellation passes through.
        """
        self._check_end(seconds)
        clock = trio.lowlevel.current_clock()
        if not isinstance(clock, MockClock) or (clock.rate == 0 and clock.autojump_threshold == math.inf):
            raise RuntimeError(
                f"a Cluster is played in virtual time that goes on by itself, and the clock is {clock!r}: "
                "use Cluster.run, or call play under "
                "trio.run(..., clock=MockClock(autojump_threshold=0)), which is the autojump_clock of pytest-trio"
            )
        await trio.lowlevel.checkpoint()
        play = Play(
            self._services,
            self._replicas,
            self._faults,
            self._timing,
            self._seed,
            epochs=self._epochs,
            ledger=self._ledger,
            drain_timeout=self._drain_timeout,
        )
        return await play.run(seconds)

    def _check_end(self, seconds: float) -> None:
        _check_seconds(seconds)
        for fault in self._faults:
            if fault.at >= seconds:
                raise ValueError(
                    f"faults must begin before the end, got {fault!r} and an end at {seconds:g} seconds: play for "
                    "longer, or choose an earlier time, as fault_plans(until=...) does"
                )


def _checked_faults(faults: Iterable[Fault], replicas: tuple[str, ...]) -> tuple[AnyFault, ...]:
    if not isinstance(faults, Iterable):
        raise TypeError(f"faults must be an iterable of faults, got {faults!r}: write [Kill('r1', at=600)]")
    checked: list[AnyFault] = []
    for fault in faults:
        if not isinstance(fault, AnyFault):
            raise TypeError(f"faults must be faults, got {fault!r}: write one such as Kill('r1', at=600)")
        replica = replica_of(fault)
        if replica is not None and replica not in replicas:
            raise ValueError(
                f"faults must name replicas of the cluster, got {fault!r}: use one of {', '.join(replicas)}"
            )
        checked.append(fault)
    for replica in replicas:
        for before, fault in pairwise(lifecycle(replica, checked)):
            if isinstance(before, Start) and isinstance(fault, Start):
                raise ValueError(  # noqa: TRY004 - a Start is a fault, but not there
                    f"faults must start a replica that is not there, got {fault!r} after {before!r}: "
                    "put a Kill or a Drain in between"
                )
    return tuple(sorted(checked, key=lambda fault: fault.at))


def _is_within_a_run() -> bool:
    try:
        trio.lowlevel.current_trio_token()
    except RuntimeError:
        return False
    return True


def _check_seconds(seconds: object) -> None:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"seconds must be a number of virtual seconds, got {seconds!r}: write one, such as 3600")
    if not 0 < seconds < math.inf:  # refuses nan too
        raise ValueError(f"seconds must be finite and above 0, got {seconds!r}: write such as 3600")
