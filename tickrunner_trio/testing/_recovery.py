"""The verdict on recovery: after each fault and each success every service succeeds again soon. Pure.

What it demands is told by `Timeline.assert_recovers_within`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .._outcome import Outcome
from . import _facts as facts
from ._drawing import clock_face
from ._facts import ROUNDING
from ._faults import ClockOffset, DatabaseAway, Freeze, Partition, Start, ends_at
from ._findings import Finding, check_number, conclude, demand_something, judged, told

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ._timeline import Run, ServiceFacts, Timeline


def recovers_within(timeline: Timeline, *, seconds: float, names: Iterable[str] | None) -> None:
    check_number("seconds", seconds)
    if not 0 < seconds <= timeline.seconds:
        raise ValueError(
            f"seconds must be above 0 and at most the {timeline.seconds:g} of the timeline, got "
            f"{seconds!r}: play it for longer"
        )
    rule = f"every service succeeds within {seconds:g} seconds after each fault and each success"
    findings: list[Finding] = []
    for service in judged(timeline, names):
        runs = facts.runs_of(timeline, service)
        demand_something(timeline, service, runs, rule)
        moments = [*_moments(timeline, service), *_moments_after(timeline, service, runs)]
        for moment in moments:
            if moment.until - moment.at >= seconds - ROUNDING:
                findings += _too_late(timeline, service, runs, moment, seconds)
    conclude(timeline, rule, findings)


@dataclass(frozen=True, slots=True)
class _Moment:
    """From when on somebody could go on, after what, and until when nothing new came between."""

    after: str
    at: float
    until: float
    success: Run | None = None  #: That came before, perhaps in no time.


def _causes(timeline: Timeline, service: ServiceFacts) -> list[tuple[float, str]]:
    """What starts the count anew, and when, in order; of those at one moment a fault is the last."""
    causes = [(0.0, "from the beginning")]
    causes += [
        (stay.until_at, f"after {service.name} was drained on {stay.replica}")
        for stay in timeline.stays
        if stay.service == service.name and stay.until_at < timeline.seconds
    ]
    causes += [
        (fault.at, f"after {fault!r}") for fault in timeline.faults if not isinstance(fault, ClockOffset | Start)
    ]
    return sorted(causes, key=lambda cause: cause[0])


def _moments(timeline: Timeline, service: ServiceFacts) -> Iterator[_Moment]:
    causes = _causes(timeline, service)
    changes = {0.0, *(at for fault in timeline.faults for at in (fault.at, ends_at(fault)))}
    changes |= {at for stay in timeline.stays for at in (stay.from_at, stay.until_at)}
    ends = [*(at for at, _ in causes[1:]), timeline.seconds]
    for (caused_at, after), end in zip(causes, ends, strict=True):
        # Until the next fault begins, ability can only come back.
        for at in sorted(changes):
            if caused_at <= at < end and _somebody_can(timeline, service, at):
                yield _Moment(after, at, min(end, timeline.seconds))
                break


def _moments_after(timeline: Timeline, service: ServiceFacts, runs: Sequence[Run]) -> Iterator[_Moment]:
    """The end of each success is one: it does not have to be the last."""
    causes = _causes(timeline, service)
    for run in runs:
        if run.outcome is Outcome.SUCCESS and _somebody_can(timeline, service, run.stopped_at):
            until = next((at for at, _ in causes if at >= run.stopped_at - ROUNDING), timeline.seconds)
            yield _Moment(f"after its success on {told(run)}", run.stopped_at, until, run)


def _too_late(
    timeline: Timeline, service: ServiceFacts, runs: Sequence[Run], moment: _Moment, seconds: float
) -> Iterator[Finding]:
    starts = [
        run.started_at
        for run in runs
        if run.started_at >= moment.at - ROUNDING and run is not moment.success
        # One that went on until the next fault or the end, and was young then, is not to be blamed for what became of
        # it; an old one may as well hang.
        if run.outcome is Outcome.SUCCESS
        or (run.stopped_at >= moment.until - ROUNDING and moment.until - run.started_at < seconds)
    ]
    end = moment.at + seconds
    is_late = not starts or starts[0] > end + ROUNDING
    is_excused = any(_fills(timeline, run, moment.at, end) for run in runs) or facts.all_gated(
        timeline, service, moment.at, end
    )
    if is_late and not is_excused:
        then = f"only at {clock_face(starts[0])}" if starts else "never"
        yield Finding(
            f"{service.name} could be run from {clock_face(moment.at)} on, {moment.after}; it succeeded {then}",
            moment.at,
            starts[0] if starts else moment.at + seconds,
        )


def _fills(timeline: Timeline, run: Run, begin: float, end: float) -> bool:
    """Whether the run, a success in the end, fills all of that time."""
    return run.outcome is Outcome.SUCCESS and any(
        since <= begin and until >= end for since, until in facts.awake(timeline, run)
    )


def _somebody_can(timeline: Timeline, service: ServiceFacts, at: float) -> bool:
    """Whether some replica is up with the service, not frozen, not cut off, and has a server, from that moment on."""
    return any(
        facts.has(timeline, replica, service, at)
        and not any(
            fault.at <= at < ends_at(fault)
            for fault in facts.of_kind(timeline, (Freeze, Partition, DatabaseAway), replica)
        )
        for replica in timeline.replicas
    )
