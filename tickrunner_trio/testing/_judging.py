"""The judgement on a timeline: pure functions, each of which raises an `AssertionError` that draws what is wrong.

What each demands is told by the method of `Timeline` that calls it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NoReturn

from .._outcome import Outcome
from .._schedule import MAX_JITTER
from ._drawing import clock_face, drawn
from ._faults import (
    ClockOffset,
    DatabaseAway,
    Drain,
    DropSession,
    Freeze,
    Kill,
    Partition,
    Start,
    ends_at,
    is_up_at_first,
    lifecycle,
    replica_of,
)
from ._lock_session import LONGEST_RETURN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ._faults import Fault
    from ._timeline import Run, ServiceFacts, Timeline

#: Seconds by which sums of floats may be off.
_ROUNDING = 1e-6

#: A run that began later than this part of its interval has a hold that reaches beyond the next slot.
_PUNCTUAL = 0.1


@dataclass(frozen=True, slots=True)
class _Finding:
    """What broke a rule, and where it can be seen."""

    sentence: str
    begin: float
    end: float


def never_overlapping(timeline: Timeline, *, within: float, names: Iterable[str] | None) -> None:
    _check_number("within", within)
    if not within >= 0:
        raise ValueError(f"within must be 0 or more seconds, got {within!r}: 0 lets nothing pass")
    rule = "no two runs of a service at the same time"
    findings: list[_Finding] = []
    for service in _judged(timeline, names):
        runs = _runs_of(timeline, service)
        _demand_something(timeline, service, runs, rule)
        for first, second in _pairs(runs):
            findings += _overlap(timeline, first, second, within)
    _conclude(timeline, rule, findings)


def once_per_interval(timeline: Timeline, *, tolerance: float, names: Iterable[str] | None) -> None:
    _check_number("tolerance", tolerance)
    if not 0 <= tolerance <= 1:
        raise ValueError(
            f"tolerance must be a part of the interval from 0 to 1, got {tolerance!r}: 0.1 is the usual one"
        )
    services = _judged(timeline, names)
    for service in services:
        if service.cadence != "cluster":
            raise ValueError(
                f"assert_once_per_interval is for services of cadence 'cluster', got {service.name!r}, which is of "
                f"{service.cadence!r}: name those to be judged, as services=[...]"
            )
    rule = "once per interval over all replicas"
    findings: list[_Finding] = []
    for service in services:
        runs = [run for run in _runs_of(timeline, service) if not run.forced]
        _demand_something(timeline, service, runs, rule)
        successes = [run for run in runs if run.outcome is Outcome.SUCCESS]
        for first, second in pairwise(successes):
            if _kept_hold(timeline, service, first, second):
                findings += _too_often(service, first, second, tolerance)
        for before, then_at in _gaps(timeline, service, runs):
            findings += _too_seldom(service, before, then_at, tolerance, _longest(service, runs))
    _conclude(timeline, rule, findings)


def recovers_within(timeline: Timeline, *, seconds: float, names: Iterable[str] | None) -> None:
    _check_number("seconds", seconds)
    if not 0 < seconds <= timeline.seconds:
        raise ValueError(
            f"seconds must be above 0 and at most the {timeline.seconds:g} of the timeline, got "
            f"{seconds!r}: play it for longer"
        )
    rule = f"every service succeeds within {seconds:g} seconds after each fault and each success"
    findings: list[_Finding] = []
    for service in _judged(timeline, names):
        runs = _runs_of(timeline, service)
        _demand_something(timeline, service, runs, rule)
        moments = [*_moments(timeline, service), *_moments_after(timeline, service, runs)]
        for moment in moments:
            if moment.until - moment.at >= seconds - _ROUNDING:
                findings += _too_late(timeline, service, runs, moment, seconds)
    _conclude(timeline, rule, findings)


# What all have in common.


def _check_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {value!r}: write one, such as 1")


def _judged(timeline: Timeline, names: Iterable[str] | None) -> list[ServiceFacts]:
    known = {service.name: service for service in timeline.services}
    if names is None:
        if not known:
            _fail(timeline, "nothing to judge: there was no service in any process", 0.0, timeline.seconds)
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


def _runs_of(timeline: Timeline, service: ServiceFacts) -> list[Run]:
    return sorted((run for run in timeline.runs if run.service == service.name), key=lambda run: run.started_at)


def _demand_something(timeline: Timeline, service: ServiceFacts, runs: Sequence[Run], rule: str) -> None:
    if not runs:
        _fail(timeline, f"nothing to judge ({rule}): {service.name} never ran", 0.0, timeline.seconds)
    if service.name in timeline.unlocked:
        _fail(
            timeline,
            f"nothing to judge ({rule}): {service.name} ran under no lock of the cluster; make it with the locker that "
            "the function of services is given",
            0.0,
            timeline.seconds,
        )


def _conclude(timeline: Timeline, rule: str, findings: list[_Finding]) -> None:
    if findings:
        worst = min(findings, key=lambda finding: finding.begin)
        more = f" ({len(findings) - 1} more like it)" if len(findings) > 1 else ""
        margin = max([worst.end - worst.begin, *(service.interval / 2 for service in timeline.services)])
        _fail(timeline, f"broken: {rule}: {worst.sentence}{more}", worst.begin - margin, worst.end + margin)


def _fail(timeline: Timeline, sentence: str, begin: float, end: float) -> NoReturn:
    raise AssertionError(f"{sentence}\n\n{drawn(timeline, begin, end)}")


def _told(run: Run) -> str:
    return f"{run.replica} (tick {run.number}, {clock_face(run.started_at)} to {clock_face(run.stopped_at)})"


# No two at once.


def _pairs(runs: Sequence[Run]) -> Iterator[tuple[Run, Run]]:
    """All pairs of runs of which the second started before the first had stopped."""
    going_on: list[Run] = []
    for run in runs:
        going_on = [each for each in going_on if each.stopped_at > run.started_at]
        for each in going_on:
            yield each, run
        going_on.append(run)


def _overlap(timeline: Timeline, first: Run, second: Run, within: float) -> Iterator[_Finding]:
    spans = [
        (max(one_begin, other_begin), min(one_end, other_end))
        for one_begin, one_end in _awake(timeline, first)
        for other_begin, other_end in _awake(timeline, second)
    ]
    spans = [(begin, end) for begin, end in spans if end - begin > _ROUNDING]
    if not spans:
        return
    begin, end = spans[0][0], spans[-1][1]
    cause = _uncovered(timeline, first, second)
    sentence = (
        f"{first.service} ran on {_told(first)} and on {_told(second)} at once, for "
        f"{sum(end - begin for begin, end in spans):.3f} s from {clock_face(begin)} on"
    )
    if cause is not None:
        fault, known_at = cause
        if end <= known_at + within + _ROUNDING:
            return
        sentence += (
            f"; {fault!r} came before, which no lease covers: only the epoch protects there, "
            f"or work that stops faster (allowed were within={within:g} s)"
        )
    yield _Finding(sentence, begin, end)


def _awake(timeline: Timeline, run: Run) -> list[tuple[float, float]]:
    """The stretches of a run in which its replica was not frozen."""
    spans: list[tuple[float, float]] = []
    begin = run.started_at
    for fault in _of_kind(timeline, Freeze, run.replica):
        if fault.at < run.stopped_at and ends_at(fault) > begin:
            if fault.at > begin:
                spans.append((begin, fault.at))
            begin = ends_at(fault)
    if begin <= run.stopped_at:
        spans.append((begin, run.stopped_at))
    return spans


def _of_kind(timeline: Timeline, kind: type[Fault] | tuple[type[Fault], ...], replica: str) -> list[Fault]:
    return sorted(
        (fault for fault in timeline.faults if isinstance(fault, kind) and replica_of(fault) in (replica, None)),
        key=lambda fault: fault.at,
    )


def _uncovered(timeline: Timeline, first: Run, second: Run) -> tuple[Fault, float] | None:
    """The fault that the lease does not cover and that let the rival in, and when its victim could know of it."""
    for late, rival in ((first, second), (second, first)):
        for fault in reversed(_of_kind(timeline, (Freeze, DropSession, DatabaseAway), late.replica)):
            if late.started_at - _ROUNDING <= fault.at <= max(rival.started_at, late.started_at) + _ROUNDING:
                if not isinstance(fault, Freeze) and _has_no_session(timeline, late.replica, fault.at):
                    continue
                known_at = ends_at(fault) if isinstance(fault, Freeze) else fault.at
                # One that is cut off or frozen meanwhile hears of it afterwards, or finds that its lease is over.
                for other in _of_kind(timeline, (Freeze, Partition), late.replica):
                    if other.at <= known_at < ends_at(other):
                        latest = other.at + timeline.lease if isinstance(other, Partition) else ends_at(other)
                        known_at = max(known_at, min(ends_at(other), latest))
                return fault, known_at
    return None


def _has_no_session(timeline: Timeline, replica: str, at: float) -> bool:
    """Whether the replica has been cut off for so long that nothing is left that could be ended."""
    return any(fault.at + timeline.lease < at <= ends_at(fault) for fault in _of_kind(timeline, Partition, replica))


# Once per interval.


def _kept_hold(timeline: Timeline, service: ServiceFacts, first: Run, second: Run) -> bool:
    """Whether nothing ended the hold of the first run before the second one started."""
    if any(
        first.started_at - _ROUNDING <= fault.at <= second.started_at + _ROUNDING
        for fault in _of_kind(timeline, (Kill, Drain, DropSession, DatabaseAway), first.replica)
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
        and hold.granted_at - _ROUNDING <= first.started_at <= hold.freed_at + _ROUNDING
    )


def _too_often(service: ServiceFacts, first: Run, second: Run, tolerance: float) -> Iterator[_Finding]:
    gap = second.started_at - first.started_at
    if gap < (1 - tolerance) * service.interval - _ROUNDING:
        yield _Finding(
            f"{service.name} succeeded on {_told(first)} and again on {_told(second)}, {gap:.3f} s later: "
            f"{gap / service.interval:.3f} of its interval of {service.interval:g} s",
            first.started_at,
            second.stopped_at,
        )


def _gaps(timeline: Timeline, service: ServiceFacts, runs: Sequence[Run]) -> Iterator[tuple[Run | None, float]]:
    """Each run, and when the next one started, where nothing was wrong meanwhile. None: before the first one."""
    disturbed = [
        (fault.at, ends_at(fault) + timeline.lease + LONGEST_RETURN)
        for fault in timeline.faults
        if not isinstance(fault, ClockOffset)
    ]
    forced = [run for run in _runs_of(timeline, service) if run.forced]
    disturbed += [(run.started_at, run.stopped_at) for run in forced]
    disturbed += [
        (stay.until_at, stay.until_at)
        for stay in timeline.stays
        if stay.service == service.name
        if stay.until_at < timeline.seconds - _ROUNDING
    ]
    firsts: list[Run | None] = [None, *runs]
    nexts = [*(run.started_at for run in runs), timeline.seconds]
    for first, then_at in zip(firsts, nexts, strict=True):
        from_at = 0.0 if first is None else first.started_at
        is_disturbed = any(begin <= then_at and end >= from_at for begin, end in disturbed)
        if (
            not is_disturbed
            and _somebody_has(timeline, service, from_at)
            and not _all_gated(timeline, service, from_at, then_at)
        ):
            yield first, then_at


def _somebody_has(timeline: Timeline, service: ServiceFacts, at: float) -> bool:
    return any(_has(timeline, replica, service, at) for replica in timeline.replicas)


def _has(timeline: Timeline, replica: str, service: ServiceFacts, at: float) -> bool:
    """Whether the replica is up and runs the service, which may have drained itself, or be one of other replicas."""
    return _is_up(timeline, replica, at) and (
        not timeline.stays
        or any(
            stay.from_at - _ROUNDING <= at < stay.until_at
            for stay in timeline.stays
            if (stay.replica, stay.service) == (replica, service.name)
        )
    )


def _all_gated(timeline: Timeline, service: ServiceFacts, begin: float, end: float) -> bool:
    """Whether each replica that had the service at first found its gate closed in that time."""
    gated = {
        skip.replica
        for skip in timeline.skips
        if skip.service == service.name and skip.outcome is Outcome.GATED
        if begin - _ROUNDING <= skip.at <= end + _ROUNDING
    }
    return bool(gated) and all(
        replica in gated for replica in timeline.replicas if _has(timeline, replica, service, begin)
    )


def _longest(service: ServiceFacts, runs: Sequence[Run]) -> float:
    """How long a run may go on that does not end: as its timeout says, or else as long as others did."""
    if service.tick_timeout is not None:
        return service.tick_timeout
    return max([service.interval, *(run.stopped_at - run.started_at for run in runs if run.outcome is not None)])


def _too_seldom(
    service: ServiceFacts, first: Run | None, then_at: float, tolerance: float, longest_run: float
) -> Iterator[_Finding]:
    from_at = 0.0 if first is None else first.started_at
    longest = (1 + tolerance) * service.interval
    if first is not None and first.number == 1 and service.has_startup and first.outcome is not Outcome.SUCCESS:
        # A startup pass that failed begins no schedule: the first slot came by chance, and another replica's may have.
        longest += min(service.interval / 2, MAX_JITTER)
    if first is not None:
        duration = first.stopped_at - first.started_at
        if duration > service.interval or first.lateness > _PUNCTUAL * service.interval:
            allowed = duration if first.outcome is not None else min(duration, longest_run)
            longest = max(longest, 2 * service.interval + allowed)
    if then_at - from_at > longest + _ROUNDING:
        since = "from the beginning" if first is None else f"after its start on {_told(first)}"
        yield _Finding(
            f"{service.name} did not run for {then_at - from_at:.3f} s {since}, with nothing wrong: "
            f"{(then_at - from_at) / service.interval:.3f} of its interval of {service.interval:g} s",
            from_at,
            then_at,
        )


# Recovery.


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
            until = next((at for at, _ in causes if at >= run.stopped_at - _ROUNDING), timeline.seconds)
            yield _Moment(f"after its success on {_told(run)}", run.stopped_at, until, run)


def _too_late(
    timeline: Timeline, service: ServiceFacts, runs: Sequence[Run], moment: _Moment, seconds: float
) -> Iterator[_Finding]:
    starts = [
        run.started_at
        for run in runs
        if run.started_at >= moment.at - _ROUNDING and run is not moment.success
        # One that went on until the next fault or the end, and was young then, is not to be blamed for what became of
        # it; an old one may as well hang.
        if run.outcome is Outcome.SUCCESS
        or (run.stopped_at >= moment.until - _ROUNDING and moment.until - run.started_at < seconds)
    ]
    end = moment.at + seconds
    is_late = not starts or starts[0] > end + _ROUNDING
    is_excused = any(_fills(timeline, run, moment.at, end) for run in runs) or _all_gated(
        timeline, service, moment.at, end
    )
    if is_late and not is_excused:
        then = f"only at {clock_face(starts[0])}" if starts else "never"
        yield _Finding(
            f"{service.name} could be run from {clock_face(moment.at)} on, {moment.after}; it succeeded {then}",
            moment.at,
            starts[0] if starts else moment.at + seconds,
        )


def _fills(timeline: Timeline, run: Run, begin: float, end: float) -> bool:
    """Whether the run, a success in the end, fills all of that time."""
    return run.outcome is Outcome.SUCCESS and any(
        since <= begin and until >= end for since, until in _awake(timeline, run)
    )


def _somebody_can(timeline: Timeline, service: ServiceFacts, at: float) -> bool:
    """Whether some replica is up with the service, not frozen, not cut off, and has a server, from that moment on."""
    return any(
        _has(timeline, replica, service, at)
        and not any(
            fault.at <= at < ends_at(fault) for fault in _of_kind(timeline, (Freeze, Partition, DatabaseAway), replica)
        )
        for replica in timeline.replicas
    )


def _is_up(timeline: Timeline, replica: str, at: float) -> bool:
    past = [fault for fault in lifecycle(replica, timeline.faults) if fault.at <= at]
    return isinstance(past[-1], Start) if past else is_up_at_first(replica, timeline.faults)
