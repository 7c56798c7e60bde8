"""What was the case on a timeline at some time: who ran, who was up, who was frozen, whose gates were closed. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._outcome import Outcome
from ._faults import Freeze, Start, ends_at, is_up_at_first, lifecycle, replica_of

if TYPE_CHECKING:
    from ._faults import Fault
    from ._timeline import Run, ServiceFacts, Timeline

#: Seconds by which sums of floats may be off.
ROUNDING = 1e-6


def runs_of(timeline: Timeline, service: ServiceFacts) -> list[Run]:
    return sorted((run for run in timeline.runs if run.service == service.name), key=lambda run: run.started_at)


def awake(timeline: Timeline, run: Run) -> list[tuple[float, float]]:
    """The stretches of a run in which its replica was not frozen."""
    spans: list[tuple[float, float]] = []
    begin = run.started_at
    for fault in of_kind(timeline, Freeze, run.replica):
        if fault.at < run.stopped_at and ends_at(fault) > begin:
            if fault.at > begin:
                spans.append((begin, fault.at))
            begin = ends_at(fault)
    if begin <= run.stopped_at:
        spans.append((begin, run.stopped_at))
    return spans


def of_kind(timeline: Timeline, kind: type[Fault] | tuple[type[Fault], ...], replica: str) -> list[Fault]:
    return sorted(
        (fault for fault in timeline.faults if isinstance(fault, kind) and replica_of(fault) in (replica, None)),
        key=lambda fault: fault.at,
    )


def has(timeline: Timeline, replica: str, service: ServiceFacts, at: float) -> bool:
    """Whether the replica is up and runs the service, which may have drained itself, or be one of other replicas."""
    return _is_up(timeline, replica, at) and (
        not timeline.stays
        or any(
            stay.from_at - ROUNDING <= at < stay.until_at
            for stay in timeline.stays
            if (stay.replica, stay.service) == (replica, service.name)
        )
    )


def _is_up(timeline: Timeline, replica: str, at: float) -> bool:
    past = [fault for fault in lifecycle(replica, timeline.faults) if fault.at <= at]
    return isinstance(past[-1], Start) if past else is_up_at_first(replica, timeline.faults)


def all_gated(timeline: Timeline, service: ServiceFacts, begin: float, end: float) -> bool:
    """Whether each replica that had the service at first found its gate closed in that time."""
    gated = {
        skip.replica
        for skip in timeline.skips
        if skip.service == service.name and skip.outcome is Outcome.GATED
        if begin - ROUNDING <= skip.at <= end + ROUNDING
    }
    return bool(gated) and all(
        replica in gated for replica in timeline.replicas if has(timeline, replica, service, begin)
    )
