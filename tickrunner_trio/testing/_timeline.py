"""What happened in a simulated cluster: runs, ticks without a run, locks, faults. Times are virtual seconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ._drawing import drawn
from ._intervals import once_per_interval
from ._overlaps import never_overlapping
from ._recovery import recovers_within

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .._outcome import Outcome
    from ._faults import Fault
    from ._lock_server import Hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a service's work on one replica, from its real start to its real stop."""

    replica: str
    service: str
    started_at: float
    stopped_at: float  #: Or when it was killed, or when the simulation ended.
    outcome: Outcome | None  #: None: it was killed, or went on when the simulation ended.
    number: int = 1  #: As `tickrunner_trio.Tick.number`; counts anew in each process.
    epoch: int | None = None
    lateness: float = 0.0  #: Seconds from the slot to the start.
    forced: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """One tick whose work did not run."""

    replica: str
    service: str
    at: float
    outcome: Outcome
    number: int = 1  #: As `Run.number`.


@dataclass(frozen=True, slots=True, kw_only=True)
class Stay:
    """How long a process ran a service: until it was killed or drained, or the service drained itself."""

    replica: str
    service: str
    from_at: float
    until_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceFacts:
    """What the judgement needs to know of a service."""

    name: str
    interval: float
    lock_id: int = 0
    cadence: Literal["cluster", "replica"] = "cluster"
    tick_timeout: float | None = None
    has_startup: bool = False


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """What happened in a simulated cluster, and judgement on it. ``print`` it to see it drawn.

    Each ``assert_...`` raises an `AssertionError` that names the rule, the service, the replicas and the times, and
    draws that part of the timeline; also if a service never ran, or under no lock of the cluster, since a test that
    judges nothing is none. Each takes ``services``, the names of those to be judged; None: all.
    """

    seconds: float  #: How long it was played; virtual.
    replicas: tuple[str, ...]
    services: tuple[ServiceFacts, ...]
    lease: float = 15.0
    ledger: bool = False  #: Whether the lockers kept one.
    faults: tuple[Fault, ...] = ()  #: In order of time.
    runs: tuple[Run, ...] = ()  #: In order of their start.
    skips: tuple[Skip, ...] = ()  #: In order of time.
    holds: tuple[Hold, ...] = field(default=(), repr=False)  #: The locks as the server saw them, in order.
    unlocked: tuple[str, ...] = field(default=(), repr=False)  #: Services that ran under no lock of the cluster.
    stays: tuple[Stay, ...] = field(
        default=(), repr=False
    )  #: In order; none: each replica that is up has all services.

    def assert_never_overlapping(self, *, within: float = 0.0, services: Iterable[str] | None = None) -> None:
        """Assert that no two runs of a service went on at the same time, in all of the cluster.

        Time in which a replica is frozen is not running. What the lease does not cover fails too, unless it is let
        pass: a run that goes on after its session was dropped, the server went away, or its replica was frozen until a
        rival was let in, overlaps with the rival's for as long as it takes to stop. There only the epoch protects.

        Args:
            within: let such overlaps pass if they are over so many seconds after the replica could know.
            services: see the class.

        Raises:
            AssertionError: two runs of a service overlapped, or it never ran.
        """
        never_overlapping(self, within=within, names=services)

    def assert_once_per_interval(self, *, tolerance: float = 0.1, services: Iterable[str] | None = None) -> None:
        """Assert that each service of cadence "cluster" ran once per interval, over all replicas together.

        Not too often: two successes, one after the other, start at least (1 - ``tolerance``) x interval apart, if the
        session of the first one's replica did not end in between and neither that replica nor its service was drained
        or killed. With a ledger, whatever ends: the successes that could be written into it are one for each interval
        since the first run, less ``tolerance``, and no more.

        Not too seldom: from one start, whatever came of it, to the next, or to the end of the timeline, it is at most
        (1 + ``tolerance``) x interval; two intervals and its own duration after a run that outlasted its interval (with
        a ledger nine tenths of it, since it may have begun a tenth later than it was due) or began later than a tenth
        of it, where a run that does not end counts for its ``tick_timeout`` at most, or, if there is none, for an
        interval or the longest run that did end; and min(interval / 2, 60) seconds more after a startup pass that
        failed, since the first slot comes by chance. Not judged are stretches in which

        - a fault was under way, or had been until less than the lease and 10 seconds before (a `ClockOffset` is none),
        - the service was drained in some process, or no living process had it,
        - a forced run lay; forced runs are not looked at otherwise,
        - each replica that had the service found its gate closed.

        Args:
            tolerance: a part of the interval, from 0 to 1. 0.1 is what the library promises.
            services: see the class. Must be named if there are some of cadence "replica", for which nothing of this
                holds.

        Raises:
            AssertionError: a service ran too often or too seldom, or never.
            ValueError: ``tolerance`` is out of its bounds, or a service is of cadence "replica".
        """
        once_per_interval(self, tolerance=tolerance, names=services)

    def assert_recovers_within(self, seconds: float, *, services: Iterable[str] | None = None) -> None:
        """Assert that every service succeeds again soon: after each fault, and after each success.

        That is, nobody waits for more than so many seconds for a run that succeeds to start, while some replica could
        run it: one that is up and has the service, is not frozen, is not cut off from the locks, and the server is
        there. It is counted from the beginning of the timeline, from each fault (but for a `ClockOffset` and a
        `Start`), from each drain of the service in some process, or from the moment after these at which some replica
        can; and from the end of each success. Each further one starts the count anew; what comes less than ``seconds``
        before the next one or the end is not judged, nor is a time in which each replica that had the service found
        its gate closed.

        Of runs that last, two kinds are no lack of a success: one that ends as a success, while it is under way; and
        one that had not ended when a fault came or the timeline ended, if it had begun less than ``seconds`` before.

        Args:
            seconds: more than the longest interval, run and lease together, since nothing runs sooner; after a run
                that outlasts its interval, two intervals may pass.
            services: see the class.

        Raises:
            AssertionError: a service did not recover, or never ran.
            ValueError: ``seconds`` is not above 0, or more than the timeline has.
        """
        recovers_within(self, seconds=seconds, names=services)

    def __str__(self) -> str:
        return drawn(self, 0.0, self.seconds)
