"""What all verdicts on a timeline have in common: which services they judge, and how they fail. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from ._drawing import clock_face, drawn

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ._timeline import Run, ServiceFacts, Timeline


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
