"""The judge: what was recorded and what was done to it go in, a verdict comes out. Pure.

What it demands, for each service:

1. No two runs overlap. Excused is what nobody can prevent: a run that had stopped within 20 ms, plus the time that the
   work itself takes to stop, after the server dropped its session, or after its replica was woken from being frozen;
   if the overlap did not begin before that. Where the machine itself was late meanwhile, by so much more.
2. In steady state it runs once per interval.
3. After each fault it runs again within the lease, one interval, and the longest pause between two attempts to connect.

How late the machine was is told by the `control`, which takes no lock: a broken locker cannot widen its own excuse. And
the excuse grows only by what the machine was late between the moment that counts and the end of the run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from faults.record import MARK_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from faults.record import Run

NOTICE_SECONDS = 0.020
LONGEST_BACKOFF_SECONDS = 10.0

#: Two successes start at least this part of an interval apart while the session of the holder lives.
_LEAST_GAP = 0.9

#: A mark of the control that is late by less is no hiccup, but how exactly a process sleeps.
_PUNCTUAL_SECONDS = 0.002

Cause = Literal["dropped", "frozen", "GIL held", "machine froze"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Excuse:
    """Something that was done to a replica that no locker can prevent, from its beginning to the moment that counts."""

    cause: Cause
    replica: str
    began_at: float  #: Just before it was done.
    at: float  #: When the server had dropped the session, or when the replica was woken.
    by: str  #: The fault that did it.


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault that was injected, and from when on all services must run again."""

    name: str
    replica: str  #: The victim; empty if it was the server.
    began_at: float
    healed_at: float
    succeeded_from: float


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time."""

    began_at: float
    ended_at: float

    @property
    def seconds(self) -> float:
        return self.ended_at - self.began_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """What a service does while nobody disturbs it; in seconds."""

    interval: float
    shortest: float  #: A run lasts at least so long,
    longest: float  #: and at most so long.
    stopping: float = 0.0  #: What the work takes to stop when it is cancelled.

    @property
    def overrun(self) -> float:
        """By how much a run may be longer than its interval."""
        return max(0.0, self.longest - self.interval)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that the judgement rests upon; times in seconds of one clock."""

    lease: float
    services: Mapping[str, Habits]  #: By name.
    runs: Sequence[Run]
    excuses: Sequence[Excuse] = ()
    faults: Sequence[Fault] = ()
    steady: Sequence[Span] = ()  #: Times in which nothing was done to anybody.
    hiccups: Sequence[Span] = ()  #: Times in which the machine was late: `hiccups`.
    ended_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Two runs of one service at once; ``excuse`` is why that could not be helped, or None."""

    first: Run
    second: Run
    excuse: Excuse | None
    late: float | None = None  #: How long the excused run went on beyond the moment that counts and its own stopping.

    @property
    def span(self) -> Span:
        return Span(self.second.started_at, min(self.first.stopped_at, self.second.stopped_at))

    @property
    def sentence(self) -> str:
        return f"{self.first} and {self.second} overlap for {self.span.seconds * 1000:.1f} ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was found."""

    broken: tuple[str, ...]  #: One sentence for each demand that was not met.
    overlaps: tuple[Overlap, ...]
    went_on: Mapping[Cause, Sequence[float]]
    """How long each run that was going on, rival or not, went on beyond the moment that counts and its own stopping."""
    succession: Mapping[str, float] = field(default_factory=dict)  #: By fault, the longest wait for a service; seconds.
    gaps: Mapping[str, Sequence[float]] = field(default_factory=dict)  #: In steady state, between starts, by service.

    @property
    def convicting(self) -> tuple[Overlap, ...]:
        return tuple(overlap for overlap in self.overlaps if overlap.excuse is None)


def judge(evidence: Evidence) -> Verdict:
    """Return what the evidence proves."""
    excuses = [*evidence.excuses, *_of_the_machine(evidence)]
    runs = [run for run in evidence.runs if run.service in evidence.services]
    overlaps = [_judged(evidence, excuses, first, second) for first, second in _overlapping(runs)]
    broken = [overlap.sentence for overlap in overlaps if overlap.excuse is None]
    unknown = sorted({run.service for run in evidence.runs} - set(evidence.services))
    if unknown:
        broken.append(f"work was recorded of services that nobody runs: {', '.join(unknown)}")
    gaps: dict[str, list[float]] = {service: [] for service in evidence.services}
    for service, span in ((service, span) for service in evidence.services for span in evidence.steady):
        broken += _unsteady(evidence, service, span, gaps[service])
    succession: dict[str, float] = {}
    for fault in evidence.faults:
        waited, sentences = _succession(evidence, fault)
        succession[fault.name] = max(waited, succession.get(fault.name, 0.0))
        broken += sentences
    return Verdict(
        broken=tuple(broken),
        overlaps=tuple(overlaps),
        went_on=_went_on(evidence, excuses),
        succession=succession,
        gaps=gaps,
    )


def hiccups(marks: Iterable[float]) -> list[Span]:
    """Return when a process that should have written a mark every 10 ms was late, from then until it wrote."""
    marks = sorted(marks)
    return [
        Span(before + MARK_SECONDS, after)
        for before, after in pairwise(marks)
        if after - before > MARK_SECONDS + _PUNCTUAL_SECONDS
    ]


def merged(spans: Iterable[Span]) -> list[Span]:
    """Return the times that are in any of the spans, without overlaps and in order."""
    union: list[Span] = []
    for span in sorted(spans, key=lambda span: span.began_at):
        if union and span.began_at <= union[-1].ended_at:
            union[-1] = Span(union[-1].began_at, max(union[-1].ended_at, span.ended_at))
        else:
            union.append(span)
    return union


def longest_succession(evidence: Evidence, service: str) -> float:
    """Return the seconds within which a service must run again after a fault."""
    return evidence.lease + evidence.services[service].interval + LONGEST_BACKOFF_SECONDS


def _overlapping(runs: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Return all pairs of runs of one service of which the second started before the first had stopped."""
    pairs: list[tuple[Run, Run]] = []
    going_on: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.started_at):
        earlier = [each for each in going_on.get(run.service, []) if each.stopped_at > run.started_at]
        pairs += [(each, run) for each in earlier]
        going_on[run.service] = [*earlier, run]
    return pairs


def _judged(evidence: Evidence, excuses: Sequence[Excuse], first: Run, second: Run) -> Overlap:
    for late in (first, second):  # which of the two ran without its lock is what the excuse tells
        for excuse in excuses:
            if (
                excuse.replica == late.replica
                and second.started_at >= excuse.began_at
                and late.stopped_at <= excuse.at + _allowed(evidence, excuse, late)
            ):
                return Overlap(first=first, second=second, excuse=excuse, late=_late(evidence, late, excuse))
    return Overlap(first=first, second=second, excuse=None)


def _allowed(evidence: Evidence, excuse: Excuse, late: Run) -> float:
    machine = sum(
        max(0.0, min(span.ended_at, late.stopped_at) - max(span.began_at, excuse.at)) for span in evidence.hiccups
    )
    return NOTICE_SECONDS + evidence.services[late.service].stopping + machine


def _late(evidence: Evidence, run: Run, excuse: Excuse) -> float:
    return run.stopped_at - excuse.at - evidence.services[run.service].stopping


def _of_the_machine(evidence: Evidence) -> list[Excuse]:
    """A machine that stood still for half of the time that the work has for stopping has frozen all replicas."""
    replicas = {run.replica for run in evidence.runs}
    return [
        Excuse(cause="machine froze", replica=replica, began_at=span.began_at, at=span.ended_at, by="the machine")
        for span in evidence.hiccups
        if span.seconds >= evidence.lease / 6
        for replica in sorted(replicas)
    ]


def _went_on(evidence: Evidence, excuses: Sequence[Excuse]) -> dict[Cause, list[float]]:
    went_on: dict[Cause, list[float]] = {"dropped": [], "frozen": [], "GIL held": [], "machine froze": []}
    for excuse in excuses:
        went_on[excuse.cause] += [
            _late(evidence, run, excuse)
            for run in evidence.runs
            if run.service in evidence.services
            and run.replica == excuse.replica
            and run.started_at < excuse.began_at < run.stopped_at
        ]
    return went_on


def _unsteady(evidence: Evidence, service: str, span: Span, gaps: list[float]) -> list[str]:
    """Say what is wrong with the runs of a service in a time in which nothing was done; add the gaps between them."""
    habits = evidence.services[service]
    interval = habits.interval
    late = sum(each.seconds for each in evidence.hiccups if span.began_at <= each.began_at <= span.ended_at)
    starts = sorted(
        run.started_at
        for run in evidence.runs
        if run.service == service and span.began_at <= run.started_at <= span.ended_at
    )
    between = [after - before for before, after in pairwise(starts)]
    gaps += between
    broken = [
        f"{service} ran twice within {gap / interval:.2f} of its interval in steady state"
        for gap in between
        if gap < _LEAST_GAP * interval - NOTICE_SECONDS - late
    ]
    edges = [span.began_at, *starts, span.ended_at]
    longest = max(after - before for before, after in pairwise(edges))
    # A slot that falls into the replica's own hold is missed, and the next one is an interval later.
    if longest > 2 * interval + habits.overrun + late:
        broken.append(f"{service} did not run for {longest / interval:.2f} of its intervals in steady state")
    return broken


def _succession(evidence: Evidence, fault: Fault) -> tuple[float, list[str]]:
    longest, broken = 0.0, []
    for service in evidence.services:
        bound = longest_succession(evidence, service)
        nexts = (run.started_at for run in evidence.runs if run.service == service)
        next_at = min((at for at in nexts if at > fault.succeeded_from), default=None)
        waited = (evidence.ended_at if next_at is None else next_at) - fault.succeeded_from
        longest = max(longest, waited)
        if waited > bound:
            broken.append(f"{service} did not run for {waited:.1f} s after {fault.name}, allowed: {bound:.1f} s")
        elif next_at is None:
            broken.append(f"{service} never ran again after {fault.name}")
    return longest, broken
