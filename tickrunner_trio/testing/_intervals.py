"""The verdict on intervals: each service once per interval over all replicas, not too often and not too seldom. Pure.

What it demands is told by `Timeline.assert_once_per_interval`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from .._outcome import Outcome
from .._schedule import MAX_JITTER
from . import _facts as facts
from ._facts import ROUNDING
from ._faults import ClockOffset, DatabaseAway, Drain, DropSession, Kill, ends_at
from ._findings import Finding, check_number, conclude, demand_something, judged, told
from ._lock_session import LONGEST_RETURN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ._timeline import Run, ServiceFacts, Timeline

#: A run that began later than this part of its interval has a hold that reaches beyond the next slot.
_PUNCTUAL = 0.1


def once_per_interval(timeline: Timeline, *, tolerance: float, names: Iterable[str] | None) -> None:
    check_number("tolerance", tolerance)
    if not 0 <= tolerance <= 1:
        raise ValueError(
            f"tolerance must be a part of the interval from 0 to 1, got {tolerance!r}: 0.1 is the usual one"
        )
    services = judged(timeline, names)
    for service in services:
        if service.cadence != "cluster":
            raise ValueError(
                f"assert_once_per_interval is for services of cadence 'cluster', got {service.name!r}, which is of "
                f"{service.cadence!r}: name those to be judged, as services=[...]"
            )
    rule = "once per interval over all replicas"
    findings: list[Finding] = []
    for service in services:
        runs = [run for run in facts.runs_of(timeline, service) if not run.forced]
        demand_something(timeline, service, runs, rule)
        successes = [run for run in runs if run.outcome is Outcome.SUCCESS]
        if timeline.ledger:
            findings += _too_many(timeline, service, runs, tolerance)
        for first, second in pairwise(successes):
            if not timeline.ledger and _kept_hold(timeline, service, first, second):
                findings += _too_often(service, first, second, tolerance)
        for before, then_at in _gaps(timeline, service, runs):
            findings += _too_seldom(timeline, service, before, then_at, tolerance=tolerance)
    conclude(timeline, rule, findings)


def _kept_hold(timeline: Timeline, service: ServiceFacts, first: Run, second: Run) -> bool:
    """Whether nothing ended the hold of the first run before the second one started."""
    if any(
        first.started_at - ROUNDING <= fault.at <= second.started_at + ROUNDING
        for fault in facts.of_kind(timeline, (Kill, Drain, DropSession, DatabaseAway), first.replica)
    ):
        return False
    if any(
        stay.replica == first.replica and first.started_at <= stay.until_at <= second.started_at
        for stay in timeline.stays
        if stay.service == service.name
    ):
        return False
    return all(
        hold.kept
        for hold in timeline.holds
        if hold.lock_id == service.lock_id
        and hold.replica == first.replica
        and hold.granted_at - ROUNDING <= first.started_at <= hold.freed_at + ROUNDING
    )


def _too_often(service: ServiceFacts, first: Run, second: Run, tolerance: float) -> Iterator[Finding]:
    gap = second.started_at - first.started_at
    if gap < (1 - tolerance) * service.interval - ROUNDING:
        yield Finding(
            f"{service.name} succeeded on {told(first)} and again on {told(second)}, {gap:.3f} s later: "
            f"{gap / service.interval:.3f} of its interval of {service.interval:g} s",
            first.started_at,
            second.stopped_at,
        )


def _too_many(timeline: Timeline, service: ServiceFacts, runs: Sequence[Run], tolerance: float) -> Iterator[Finding]:
    """With a ledger the row moves on by an interval at each success that is written: so many fit into the time.

    Late ones come closer together, and a failure gives the row another phase, but neither makes room for more.
    """
    written = [run for run in runs if run.outcome is Outcome.SUCCESS and _was_written(timeline, service, run)]
    for number, run in enumerate(written):
        since = run.started_at - runs[0].started_at
        if since < (number - tolerance) * service.interval - ROUNDING:
            yield Finding(
                f"{service.name} succeeded {number + 1} times up to that on {told(run)}, within {since:.3f} s: more "
                f"than once per interval of {service.interval:g} s",
                run.started_at,
                run.stopped_at,
            )
            return


def _was_written(timeline: Timeline, service: ServiceFacts, run: Run) -> bool:
    """Whether its lock was given back in order, and with it the result."""
    return any(
        hold.kept
        for hold in timeline.holds
        if (hold.lock_id, hold.replica) == (service.lock_id, run.replica)
        and hold.granted_at - ROUNDING <= run.started_at
        and run.stopped_at <= hold.freed_at + ROUNDING
    )


def _gaps(timeline: Timeline, service: ServiceFacts, runs: Sequence[Run]) -> Iterator[tuple[Run | None, float]]:
    """Each run, and when the next one started, where nothing was wrong meanwhile. None: before the first one."""
    disturbed = [
        (fault.at, ends_at(fault) + timeline.lease + LONGEST_RETURN)
        for fault in timeline.faults
        if not isinstance(fault, ClockOffset)
    ]
    forced = [run for run in facts.runs_of(timeline, service) if run.forced]
    disturbed += [(run.started_at, run.stopped_at) for run in forced]
    disturbed += [
        (stay.until_at, stay.until_at)
        for stay in timeline.stays
        if stay.service == service.name
        if stay.until_at < timeline.seconds - ROUNDING
    ]
    firsts: list[Run | None] = [None, *runs]
    nexts = [*(run.started_at for run in runs), timeline.seconds]
    for first, then_at in zip(firsts, nexts, strict=True):
        from_at = 0.0 if first is None else first.started_at
        is_disturbed = any(begin <= then_at and end >= from_at for begin, end in disturbed)
        if (
            not is_disturbed
            and _somebody_has(timeline, service, from_at)
            and not facts.all_gated(timeline, service, from_at, then_at)
        ):
            yield first, then_at


def _somebody_has(timeline: Timeline, service: ServiceFacts, at: float) -> bool:
    return any(facts.has(timeline, replica, service, at) for replica in timeline.replicas)


def _longest(timeline: Timeline, service: ServiceFacts) -> float:
    """How long a run may go on that does not end: as its timeout says, or else as long as others did."""
    if service.tick_timeout is not None:
        return service.tick_timeout
    ended = [run for run in facts.runs_of(timeline, service) if run.outcome is not None and not run.forced]
    return max([service.interval, *(run.stopped_at - run.started_at for run in ended)])


def _too_seldom(
    timeline: Timeline,
    service: ServiceFacts,
    first: Run | None,
    then_at: float,
    *,
    tolerance: float,
) -> Iterator[Finding]:
    from_at = 0.0 if first is None else first.started_at
    longest = (1 + tolerance) * service.interval
    if first is not None and first.number == 1 and service.has_startup and first.outcome is not Outcome.SUCCESS:
        # A startup pass that failed begins no schedule: the first slot came by chance, and another replica's may have.
        longest += min(service.interval / 2, MAX_JITTER)
    if first is not None:
        duration = first.stopped_at - first.started_at
        # With a ledger it may have begun so much later than it was due, and ended after the next time.
        until_due = (1 - _PUNCTUAL if timeline.ledger else 1) * service.interval
        if duration > until_due or first.lateness > _PUNCTUAL * service.interval:
            allowed = duration if first.outcome is not None else min(duration, _longest(timeline, service))
            longest = max(longest, 2 * service.interval + allowed)
    if then_at - from_at > longest + ROUNDING:
        since = "from the beginning" if first is None else f"after its start on {told(first)}"
        yield Finding(
            f"{service.name} did not run for {then_at - from_at:.3f} s {since}, with nothing wrong: "
            f"{(then_at - from_at) / service.interval:.3f} of its interval of {service.interval:g} s",
            from_at,
            then_at,
        )
