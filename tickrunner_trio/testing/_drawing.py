"""A timeline as text: a lane for each replica and service, the faults above it, at most 100 columns. Pure."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from .._outcome import Outcome
from ._faults import ClockOffset, DatabaseAway, Drain, DropSession, Freeze, Kill, Partition, Start, ends_at, replica_of

if TYPE_CHECKING:
    from ._faults import Fault
    from ._timeline import ServiceFacts, Timeline

_WIDTH = 100
_LONGEST_LABEL = 30
_MOST_STRIPS = 10
_COLUMNS_PER_INTERVAL = 10

_FAULT_SIGNS: dict[type[Fault], str] = {
    Kill: "K",
    Freeze: "F",
    Partition: "P",
    ClockOffset: "C",
    DropSession: "X",
    Drain: "D",
    Start: "S",
    DatabaseAway: "A",
}

_SKIP_SIGNS = {Outcome.BUSY: "b", Outcome.UNAVAILABLE: "u", Outcome.GATED: "g"}

_LEGEND = (
    "# ran  x ran without success  > killed or still going on  - lock held on to\n"
    "b busy  u unavailable  g gated  e another outcome without a run\n"
    "K killed  F frozen  P cut off  X session dropped  A database away  D drained  S started  C clock set"
)


def clock_face(seconds: float) -> str:
    """Return virtual seconds as h:mm:ss.s."""
    tenths = round(seconds * 10)
    minutes, tenths = divmod(tenths, 600)
    return f"{minutes // 60}:{minutes % 60:02}:{tenths // 10:02}.{tenths % 10}"


def drawn(timeline: Timeline, begin: float, end: float) -> str:
    """Draw the part of the timeline from ``begin`` to ``end``, with the faults in it in words."""
    begin, end = max(0.0, begin), max(min(end, timeline.seconds), begin)
    labels = [label for replica in timeline.replicas for label in _labels(timeline, replica)]
    indent = min(max(map(len, [*labels, "database"]), default=0), _LONGEST_LABEL) + 2
    columns = _WIDTH - indent
    shortest = min((service.interval for service in timeline.services), default=1.0) / _COLUMNS_PER_INTERVAL
    strips = max(1, min(_MOST_STRIPS, math.ceil((end - begin) / (shortest * columns))))
    parts = [_summary(timeline)]
    parts += [
        _strip(timeline, begin + (end - begin) * n / strips, begin + (end - begin) * (n + 1) / strips, indent, columns)
        for n in range(strips)
    ]
    told = [fault for fault in timeline.faults if _is_seen(fault, begin, end)]
    if told:
        parts.append("\n".join(f"at {clock_face(fault.at)}  {fault!r}" for fault in told))
    parts.append(_LEGEND)
    return "\n\n".join(parts)


def _is_seen(fault: Fault, begin: float, end: float) -> bool:
    return fault.at <= end and ends_at(fault) >= begin


def _summary(timeline: Timeline) -> str:
    outcomes = Counter("unfinished" if run.outcome is None else str(run.outcome) for run in timeline.runs)
    told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())) or "none"
    return f"{clock_face(timeline.seconds)} of virtual time, lease {timeline.lease:g} s; runs: {told}"


def _labels(timeline: Timeline, replica: str) -> list[str]:
    return [replica, *(f"{replica} {service.name}" for service in timeline.services)]


class _Strip:
    """A stretch of the timeline, as lanes of signs; what is marked later covers what was marked before."""

    def __init__(self, begin: float, end: float, columns: int) -> None:
        self._begin = begin
        self._end = end
        self._columns = columns
        self._lanes: list[tuple[str, list[str]]] = []

    def add_lane(self, label: str) -> None:
        self._lanes.append((label, [" "] * self._columns))

    def mark(self, since: float, until: float, sign: str) -> None:
        """Mark the last lane, in one column at least."""
        if until < self._begin or since > self._end:
            return
        per_column = (self._end - self._begin) / self._columns or 1.0
        first = max(0, min(self._columns - 1, int((since - self._begin) / per_column)))
        last = max(first, min(self._columns - 1, math.ceil((until - self._begin) / per_column) - 1))
        self._lanes[-1][1][first : last + 1] = sign * (last + 1 - first)

    def text(self, indent: int) -> str:
        face = clock_face(self._end)
        ruler = " " * indent + clock_face(self._begin).ljust(self._columns - len(face)) + face
        lanes = [f"{label[:_LONGEST_LABEL].ljust(indent)}{''.join(signs)}".rstrip() for label, signs in self._lanes]
        return "\n".join([ruler, *lanes])


def _strip(timeline: Timeline, begin: float, end: float, indent: int, columns: int) -> str:
    strip = _Strip(begin, end, columns)
    _draw_faults(strip, "database", [fault for fault in timeline.faults if replica_of(fault) is None], begin, end)
    for replica in timeline.replicas:
        own = [fault for fault in timeline.faults if replica_of(fault) == replica]
        _draw_faults(strip, replica, own, begin, end)
        for service in timeline.services:
            strip.add_lane(f"{replica} {service.name}")
            _draw_service(strip, timeline, replica, service)
    return strip.text(indent)


def _draw_faults(strip: _Strip, label: str, faults: list[Fault], begin: float, end: float) -> None:
    seen = [fault for fault in faults if _is_seen(fault, begin, end)]
    if seen:
        strip.add_lane(label)
    for fault in seen:
        strip.mark(fault.at, ends_at(fault), _FAULT_SIGNS[type(fault)])


def _draw_service(strip: _Strip, timeline: Timeline, replica: str, service: ServiceFacts) -> None:
    for skip in timeline.skips:
        if (skip.replica, skip.service) == (replica, service.name):
            strip.mark(skip.at, skip.at, _SKIP_SIGNS.get(skip.outcome, "e"))
    for hold in timeline.holds:
        if (hold.replica, hold.lock_id) == (replica, service.lock_id):
            strip.mark(hold.granted_at, hold.freed_at, "-")
    for run in timeline.runs:
        if (run.replica, run.service) == (replica, service.name):
            sign = ">" if run.outcome is None else "#" if run.outcome is Outcome.SUCCESS else "x"
            strip.mark(run.started_at, run.stopped_at, sign)
