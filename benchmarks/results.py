"""What the rounds of a question come to: medians with their spread, verdicts, and a look at an earlier run. Pure.

A result is what `results.json` holds for a question, so that one code shows and compares both.
"""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any

from .question import OURS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .measuring import Answer
    from .question import Comparison

    #: JSON: ``ways``, ``comparisons`` and ``failures``; see `result_of`.
    Result = dict[str, Any]

#: A value that is worse than the committed one by more than this factor is said loudly.
WORSE = 4 / 3

MET, MISSED, NOT_MEASURED, NO_TARGET = "met", "MISSED", "not measured", ""


def spread(values: Sequence[float]) -> list[float]:
    """Return the median, the least and the greatest, to four digits."""
    return [_rounded(each) for each in (statistics.median(values), min(values), max(values))]


def _rounded(number: float) -> float:
    return (
        number if number == 0 or not math.isfinite(number) else round(number, 3 - math.floor(math.log10(abs(number))))
    )


def result_of(answer: Answer) -> Result:
    """Sum up what was measured."""
    question = answer.question
    seen = dict.fromkeys(way for measured in answer.rounds for way in measured)
    return {
        "rounds": question.rounds,
        "ways": {
            way: {
                figure.name: spread(values)
                for figure in question.figures
                if (values := [each[way][figure.name] for each in answer.rounds if figure.name in each.get(way, {})])
            }
            for way in seen
        },
        "comparisons": {each.name: _compared(each, answer) for each in question.comparisons},
        "failures": dict(answer.failures),
    }


def _compared(comparison: Comparison, answer: Answer) -> dict[str, Any]:
    """Take a comparison from each round that allows it, and judge the median."""
    values = []
    lacking = ""
    for measured in answer.rounds:
        try:
            values.append(comparison.of(measured))
        except KeyError as error:
            lacking = str(error.args[0])
        except ZeroDivisionError:
            lacking = "a figure above zero"
    compared: dict[str, Any] = {"target": comparison.target, "upward": comparison.is_upward}
    if values:
        compared["value"] = spread(values)
        met = comparison.is_met_by(statistics.median(values))
        compared["verdict"] = (MET if met else MISSED) if comparison.target else NO_TARGET
    else:  # a peer that does not run is no fault of ours; what lacks ours is
        compared["verdict"] = MISSED if lacking.startswith(OURS) and comparison.target else NOT_MEASURED
    if comparison.guarded:
        compared["guarded"] = True
    return compared


def missed(results: dict[str, Result]) -> list[str]:
    """Name the targets that were missed."""
    return [
        f"{key}: {name}"
        for key, result in results.items()
        for name, compared in result["comparisons"].items()
        if compared["verdict"] == MISSED
    ]


def worse(now: dict[str, Result], committed: dict[str, Result]) -> Iterator[str]:
    """Say of each guarded comparison that is worse than the committed one by more than a third what it is and was."""
    for key, result in now.items():
        before = committed.get(key, {"comparisons": {}})["comparisons"]
        for name, compared in result["comparisons"].items():
            if not compared.get("guarded") or "value" not in before.get(name, {}):
                continue
            if "value" not in compared:
                yield f"{key}: {name}: not measured now"
                continue
            was, is_now = before[name]["value"][0], compared["value"][0]
            if (is_now * WORSE < was) if compared["upward"] else (is_now > was * WORSE):
                yield f"{key}: {name}: {is_now:g} now, {was:g} committed"


def new(now: dict[str, Result], committed: dict[str, Result]) -> list[str]:
    """Name the guarded comparisons with which nothing committed can be compared."""
    return [
        f"{key}: {name}"
        for key, result in now.items()
        for name, compared in result["comparisons"].items()
        if compared.get("guarded")
        and "value" not in committed.get(key, {"comparisons": {}})["comparisons"].get(name, {})
    ]
