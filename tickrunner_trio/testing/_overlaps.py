"""The verdict on overlaps: no two runs of a service at the same time, but for what no lease covers. Pure.

What it demands is told by `Timeline.assert_never_overlapping`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import _facts as facts
from ._drawing import clock_face
from ._facts import ROUNDING
from ._faults import DatabaseAway, DropSession, Freeze, Partition, ends_at
from ._findings import Finding, check_number, conclude, demand_something, judged, told

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ._faults import Fault
    from ._timeline import Run, Timeline


def never_overlapping(timeline: Timeline, *, within: float, names: Iterable[str] | None) -> None:
    check_number("within", within)
    if not within >= 0:
        raise ValueError(f"within must be 0 or more seconds, got {within!r}: 0 lets nothing pass")
    rule = "no two runs of a service at the same time"
    findings: list[Finding] = []
    for service in judged(timeline, names):
        runs = facts.runs_of(timeline, service)
        demand_something(timeline, service, runs, rule)
        for first, second in _pairs(runs):
            findings += _overlap(timeline, first, second, within)
    conclude(timeline, rule, findings)


def _pairs(runs: Sequence[Run]) -> Iterator[tuple[Run, Run]]:
    """All pairs of runs of which the second started before the first had stopped."""
    going_on: list[Run] = []
    for run in runs:
        going_on = [each for each in going_on if each.stopped_at > run.started_at]
        for each in going_on:
            yield each, run
        going_on.append(run)


def _overlap(timeline: Timeline, first: Run, second: Run, within: float) -> Iterator[Finding]:
    spans = [
        (max(one_begin, other_begin), min(one_end, other_end))
        for one_begin, one_end in facts.awake(timeline, first)
        for other_begin, other_end in facts.awake(timeline, second)
    ]
    spans = [(begin, end) for begin, end in spans if end - begin > ROUNDING]
    if not spans:
        return
    begin, end = spans[0][0], spans[-1][1]
    cause = _uncovered(timeline, first, second)
    sentence = (
        f"{first.service} ran on {told(first)} and on {told(second)} at once, for "
        f"{sum(end - begin for begin, end in spans):.3f} s from {clock_face(begin)} on"
    )
    if cause is not None:
        fault, known_at = cause
        if end <= known_at + within + ROUNDING:
            return
        sentence += (
            f"; {fault!r} came before, which no lease covers: only the epoch protects there, "
            f"or work that stops faster (allowed were within={within:g} s)"
        )
    yield Finding(sentence, begin, end)


def _uncovered(timeline: Timeline, first: Run, second: Run) -> tuple[Fault, float] | None:
    """The fault that the lease does not cover and that let the rival in, and when its victim could know of it."""
    for late, rival in ((first, second), (second, first)):
        for fault in reversed(facts.of_kind(timeline, (Freeze, DropSession, DatabaseAway), late.replica)):
            if late.started_at - ROUNDING <= fault.at <= max(rival.started_at, late.started_at) + ROUNDING:
                if not isinstance(fault, Freeze) and _has_no_session(timeline, late.replica, fault.at):
                    continue
                known_at = ends_at(fault) if isinstance(fault, Freeze) else fault.at
                # One that is cut off or frozen meanwhile hears of it afterwards, or finds that its lease is over.
                for other in facts.of_kind(timeline, (Freeze, Partition), late.replica):
                    if other.at <= known_at < ends_at(other):
                        latest = other.at + timeline.lease if isinstance(other, Partition) else ends_at(other)
                        known_at = max(known_at, min(ends_at(other), latest))
                return fault, known_at
    return None


def _has_no_session(timeline: Timeline, replica: str, at: float) -> bool:
    """Whether the replica has been cut off for so long that nothing is left that could be ended."""
    return any(
        fault.at + timeline.lease < at <= ends_at(fault) for fault in facts.of_kind(timeline, Partition, replica)
    )
