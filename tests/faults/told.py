"""The verdict in words: figures to read, and a timeline around each overlap that convicts. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from faults.judge import Evidence, Overlap, Verdict
    from faults.record import Run

_AROUND_SECONDS = 0.1
_MOST_TIMELINES = 5


def told(
    evidence: Evidence, verdict: Verdict, *, findings: Sequence[str] = (), skipped: Sequence[str] = ()
) -> list[str]:
    """Return the lines: what was judged, the figures, what was not done, and what was convicted."""
    marks = sum(len(run.written_at) for run in evidence.runs)
    late = [span.seconds for span in evidence.hiccups]
    lines = [
        f"{len(evidence.runs)} runs with {marks} marks, {len(evidence.faults)} faults",
        f"the machine was late {len(late)} times, at most {_ms(max(late, default=0.0))}, {_ms(sum(late))} in all",
    ]
    for cause, seconds in verdict.went_on.items():
        excused = [overlap for overlap in verdict.overlaps if overlap.excuse and overlap.excuse.cause == cause]
        if seconds or excused:
            after = {"dropped": "the server had dropped the session", "frozen": "SIGCONT", "GIL held": "it was let go"}
            lines.append(
                f"{cause}: the last marks of {len(seconds)} runs came up to {_most(seconds)} after "
                f"{after.get(cause, 'it went on')}; {len(excused)} overlaps excused, marks of these up to "
                f"{_most([overlap.late or 0.0 for overlap in excused])} after it (beyond what the work takes to stop)"
            )
    for service, gaps in verdict.gaps.items():
        if gaps:
            interval = evidence.services[service].interval
            lines.append(
                f"{service} in steady state: {len(gaps)} gaps of {min(gaps) / interval:.2f} to "
                f"{max(gaps) / interval:.2f} intervals, {sum(gaps) / len(gaps) / interval:.2f} in the mean"
            )
    if verdict.succession:
        worst = sorted(verdict.succession.items(), key=lambda item: -item[1])
        lines.append("all services ran again after " + ", ".join(f"{name} {waited:.1f} s" for name, waited in worst))
    lines += [f"skipped: {reason}" for reason in skipped]
    for overlap in verdict.convicting[:_MOST_TIMELINES]:
        lines += ["", *timeline(evidence, overlap)]
    broken = [*verdict.broken, *findings]
    lines += [f"CONVICTED: {sentence}" for sentence in broken]
    return lines if broken else [*lines, "Nothing was convicted."]


def timeline(evidence: Evidence, overlap: Overlap) -> list[str]:
    """Return what happened around an overlap, in milliseconds from its beginning."""
    zero = overlap.span.began_at
    since, until = zero - _AROUND_SECONDS, overlap.span.ended_at + _AROUND_SECONDS
    happened: list[tuple[float, str]] = []
    for run in evidence.runs:
        if run.service == overlap.first.service and run.stopped_at >= since and run.started_at <= until:
            happened += _of(run)
    for fault in evidence.faults:
        happened.append((fault.began_at, f"** {fault.name} of {fault.replica or 'the server'} begins"))
        happened.append((fault.healed_at, f"** {fault.name} is over"))
    for excuse in evidence.excuses:
        happened.append((excuse.at, f"** {excuse.replica} {excuse.cause}: {excuse.by}"))
    happened += [(span.began_at, f"** the machine is late by {_ms(span.seconds)}") for span in evidence.hiccups]
    inside = [(at, what) for at, what in sorted(happened) if since <= at <= until or what.startswith("   ")]
    before = [(at, what) for at, what in sorted(happened) if at < since and what.startswith("** ")][-2:]
    return [
        f"{overlap.first} and {overlap.second}, which began {_ms(zero - overlap.first.started_at)} later:",
        *(f"{(at - zero) * 1000:+10.1f} ms {what}" for at, what in [*before, *inside]),
    ]


def _of(run: Run) -> list[tuple[float, str]]:
    marks = len(run.written_at) - 1 - run.ended
    last = "ended" if run.ended else "was last heard of"
    return [
        (run.started_at, f"   {run} starts, with {marks} marks to come"),
        (run.stopped_at, f"   {run} {last}"),
    ]


def _most(seconds: Sequence[float]) -> str:
    return _ms(max(0.0, *seconds, 0.0))


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
