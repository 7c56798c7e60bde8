"""What all verdicts on a timeline have in common: which runs they judge, what was the case, and how they fail. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from .._outcome import Outcome
from ._drawing import clock_face, drawn
from ._faults import Freeze, Start, ends_at, is_up_at_first, lifecycle, replica_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ._faults import Fault
    from ._timeline import Run, ServiceFacts, Timeline

#: Seconds by which sums of floats may be off.
ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Finding:
    """What broke a rule, and where it can be seen."""

    sentence: str
    begin: float
    end: float


def judged(timeline: Timeline, names: Iterable[str] | None) -> list[ServiceFacts]:
    known = {service.name: service for service in timeline.services}
    if names is None:
        if not known:
            fail(timeline, "nothing to judge: there was no service in any process", 0.0, timeline.seconds)
        return list(known.values())
    if isinstance(names, str):
        raise TypeError(f"services must be an iterable of names, got {names!r}: write [{names!r}]")
    chosen = list(names)
    if not chosen:
        raise ValueError("services must be names of services, got none: leave it out to judge all")
    for name in chosen:
        if name not in known:
            raise ValueError(f"services must be names of services, got {name!r}: use some of {', '.join(known)}")
    return [known[name] for name in chosen]


def check_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {value!r}: write one, such as 1")


def runs_of(timeline: Timeline, service: ServiceFacts) -> list[Run]:
    return sorted((run for run in timeline.runs if run.service == service.name), key=lambda run: run.started_at)


def demand_something(timeline: Timeline, service: ServiceFacts, runs: Sequence[Run], rule: str) -> None:
    if not runs:
        fail(timeline, f"nothing to judge ({rule}): {service.name} never ran", 0.0, timeline.seconds)
    if service.name in timeline.unlocked:
        fail(
            timeline,
            f"nothing to judge ({rule}): {service.name} ran under no lock of the cluster; make it with the locker that "
            "the function of services is given",
            0.0,
            timeline.seconds,
        )


def conclude(timeline: Timeline, rule: str, findings: list[Finding]) -> None:
    if findings:
        worst = min(findings, key=lambda finding: finding.begin)
        more = f" ({len(findings) - 1} more like it)" if len(findings) > 1 else ""
        margin = max([worst.end - worst.begin, *(service.interval / 2 for service in timeline.services)])
        fail(timeline, f"broken: {rule}: {worst.sentence}{more}", worst.begin - margin, worst.end + margin)


def fail(timeline: Timeline, sentence: str, begin: float, end: float) -> NoReturn:
    raise AssertionError(f"{sentence}\n\n{drawn(timeline, begin, end)}")


def told(run: Run) -> str:
    return f"{run.replica} (tick {run.number}, {clock_face(run.started_at)} to {clock_face(run.stopped_at)})"


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
    return is_up(timeline, replica, at) and (
        not timeline.stays
        or any(
            stay.from_at - ROUNDING <= at < stay.until_at
            for stay in timeline.stays
            if (stay.replica, stay.service) == (replica, service.name)
        )
    )


def is_up(timeline: Timeline, replica: str, at: float) -> bool:
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
