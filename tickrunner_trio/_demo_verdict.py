"""What a demo proved. Pure: what the work recorded in the database goes in, a verdict comes out.

Nothing here believes the library: a run is what the work itself wrote, in the clock of the database. A run that was
killed wrote no end; it lasted at least until it was last seen, which the work renews every 50 ms, so that an overlap
with it is convicted and a successor that began after its death is not.

The promises, each of which can be broken:

1. No two runs of a service overlap.
2. A service runs about once per interval over all replicas.
3. Another replica takes over each service that the killed one was running.
4. Every object is in two folders at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

#: Two successes start at least this part of an interval apart while the session of the holder lives.
_LEAST_GAP = 0.9

#: A replica tries once per interval. The rest allows for work in flight and a machine that has other things to do.
_TAKEOVER_INTERVALS, _TAKEOVER_SECONDS = 3.0, 1.0


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a service's work, as the work itself recorded it. Aware datetimes of the database's clock."""

    service: str
    replica: str
    started_at: datetime
    last_seen_at: datetime | None
    ended_at: datetime | None

    @property
    def stopped_at(self) -> datetime:
        """When it ended; for a run that recorded no end, until when it certainly went on."""
        return self.ended_at or self.last_seen_at or self.started_at


@dataclass(frozen=True, kw_only=True)
class Kill:
    """Which replica was killed, and when: the time was taken just before the signal was sent."""

    replica: str
    at: datetime


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that the judgement rests upon."""

    intervals: Mapping[str, float]  #: Seconds, by service.
    runs: Sequence[Run]  #: Of all services, in any order.
    began_at: datetime  #: When all replicas were up.
    ended_at: datetime  #: When the drain began.
    kill: Kill | None
    objects: int
    replicated: int  #: Those of the objects that are in two folders.


@dataclass(frozen=True, kw_only=True)
class ServiceVerdict:
    """What was found about one service."""

    service: str
    runs: int  #: Those that started between `Evidence.began_at` and `Evidence.ended_at`.
    intervals: float  #: How many intervals that time was.
    overlaps: tuple[tuple[Run, Run], ...]  #: Pairs that ran at once, the earlier one first.
    was_killed: bool  #: Whether the killed replica was the one that was running it.
    taken_over_after: float | None  #: Seconds from the kill to the next run on another replica; None: never.

    @property
    def runs_per_interval(self) -> float:
        """The figure that should be about one."""
        return self.runs / self.intervals


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was proved, and what was not."""

    services: tuple[ServiceVerdict, ...]
    objects: int
    replicated: int
    broken: tuple[str, ...]  #: One sentence for each broken promise.


def judge(evidence: Evidence) -> Verdict:
    """Return what the evidence proves."""
    services = tuple(_service_verdict(evidence, service) for service in evidence.intervals)
    broken = [sentence for verdict in services for sentence in _broken_by(evidence, verdict)]
    if evidence.objects == 0:
        broken.append("there was no object to replicate")
    if evidence.replicated < evidence.objects:
        broken.append(f"{evidence.objects - evidence.replicated} of {evidence.objects} objects are not in two folders")
    unknown = sorted({run.service for run in evidence.runs} - set(evidence.intervals))
    if unknown:
        broken.append(f"work was recorded for services that no replica runs: {', '.join(unknown)}")
    return Verdict(services=services, objects=evidence.objects, replicated=evidence.replicated, broken=tuple(broken))


def _service_verdict(evidence: Evidence, service: str) -> ServiceVerdict:
    # Of those that started in the same microsecond the longest first, as `_overlaps` needs it.
    runs = sorted(
        (run for run in evidence.runs if run.service == service),
        key=lambda run: (run.started_at, run.started_at - run.stopped_at),
    )
    leading = _leading_run(runs, evidence.kill)
    was_killed = evidence.kill is not None and leading is not None and leading.replica == evidence.kill.replica
    return ServiceVerdict(
        service=service,
        runs=sum(evidence.began_at <= run.started_at <= evidence.ended_at for run in runs),
        intervals=(evidence.ended_at - evidence.began_at).total_seconds() / evidence.intervals[service],
        overlaps=tuple(_overlaps(runs)),
        was_killed=was_killed,
        taken_over_after=_takeover(runs, evidence.kill) if evidence.kill is not None and was_killed else None,
    )


def _overlaps(runs: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Return each run that started before an earlier one had stopped, behind the one that stops last of those."""
    found: list[tuple[Run, Run]] = []
    latest: Run | None = None
    for run in runs:
        if latest is not None and run.started_at < latest.stopped_at:
            found.append((latest, run))
        if latest is None or run.stopped_at > latest.stopped_at:
            latest = run
    return found


def _leading_run(runs: Sequence[Run], kill: Kill | None) -> Run | None:
    """Return the last run before the kill; those of the killed replica all were, also in the moment of the kill."""
    if kill is None:
        return None
    before = [run for run in runs if run.started_at <= kill.at or run.replica == kill.replica]
    return before[-1] if before else None


def _takeover(runs: Sequence[Run], kill: Kill) -> float | None:
    for run in runs:
        if run.replica != kill.replica and run.started_at > kill.at:
            return (run.started_at - kill.at).total_seconds()
    return None


def _broken_by(evidence: Evidence, verdict: ServiceVerdict) -> list[str]:
    service, interval = verdict.service, evidence.intervals[verdict.service]
    broken: list[str] = []
    for first, second in verdict.overlaps:
        both = f"{first.replica} and {second.replica}" if first.replica != second.replica else f"{first.replica} twice"
        broken.append(f"{service} ran on {both} at once at {second.started_at:%H:%M:%S.%f}")
    # One more for the run at either end of the time; a failover begins anew, which is another.
    most = verdict.intervals / _LEAST_GAP + (1 if evidence.kill is None else 2)
    if verdict.runs > most:
        broken.append(f"{service} ran {verdict.runs} times in {verdict.intervals:.1f} intervals, allowed: {most:.1f}")
    # Half is far below what is to be expected, and tells a service that does not run from a slow machine.
    if verdict.runs < verdict.intervals / 2 - 1:
        broken.append(f"{service} ran only {verdict.runs} times in {verdict.intervals:.1f} intervals")
    if verdict.was_killed:
        longest = takeover_bound(interval)
        if verdict.taken_over_after is None:
            broken.append(f"{service} was taken over by no other replica")
        elif verdict.taken_over_after > longest:
            broken.append(f"{service} was taken over after {verdict.taken_over_after:.1f} s, allowed: {longest:.1f} s")
    return broken


def takeover_bound(interval: float) -> float:
    """Return the seconds within which another replica has to take over a service of this interval (seconds)."""
    return _TAKEOVER_INTERVALS * interval + _TAKEOVER_SECONDS


def report(verdict: Verdict) -> list[str]:
    """Return the verdict in lines to read: figures for each service, then the objects, then what was broken."""
    width = max((len(service.service) for service in verdict.services), default=0)
    lines = ["What the work itself recorded:"]
    for service in verdict.services:
        line = (
            f"  {service.service:<{width}}  {service.runs_per_interval:.2f} runs per interval "
            f"({service.runs} in {service.intervals:.1f}), {len(service.overlaps)} overlapping"
        )
        if service.was_killed and service.taken_over_after is not None:
            line += f", taken over {service.taken_over_after:.2f} s after the kill"
        lines.append(line)
    lines.append(f"  objects fully replicated: {verdict.replicated} of {verdict.objects}")
    if verdict.broken:
        return lines + [f"BROKEN: {sentence}" for sentence in verdict.broken]
    return [*lines, "Every promise was kept."]
