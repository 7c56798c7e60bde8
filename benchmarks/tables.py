"""Tables of results, as Markdown that is readable as plain text too. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .results import MISSED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .question import Question
    from .results import Result

BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"


def spread_text(spread: Sequence[float], places: int) -> str:
    """Write a median, and between which values it lies."""
    median, low, high = (f"{number:,.{places}f}" for number in spread)
    return f"{median} ({low} to {high})"


def tables_of(question: Question, result: Result) -> str:
    """Return what was measured, and what is judged, of one question."""
    figures = question.figures
    rows = [
        [way, *(spread_text(measured[each.name], each.places) if each.name in measured else "" for each in figures)]
        for way, measured in result["ways"].items()
    ]
    rows += [[way, f"failed: {reason}"] for way, reason in result["failures"].items() if way not in result["ways"]]
    compared = []
    for each in question.comparisons:
        its = result["comparisons"].get(each.name)
        if its is not None:
            shown = spread_text(its["value"], each.places) if "value" in its else ""
            compared.append([each.name, shown, its["target"], its["verdict"]])
    return "\n".join(
        [
            table(["way", *(each.name for each in figures)], rows),
            "",
            table([f"{question.key}: ours", "ratio or value", "target", ""], compared),
        ]
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay a table out."""
    filled = [list(head), *([*row, *[""] * (len(head) - len(row))] for row in rows)]
    filled = [[cell.replace("|", "/").replace("\n", " ") for cell in row] for row in filled]
    widths = [max(len(row[column]) for row in filled) for column in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in filled
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def behind(questions: Sequence[Question], results: dict[str, Result]) -> str:
    """List the targets that were missed and the ratios by which another way does better than ours."""
    lines = []
    for question in questions:
        compared = results.get(question.key, {"comparisons": {}})["comparisons"]
        for each in question.comparisons:
            its = compared.get(each.name, {})
            missed = its.get("verdict") == MISSED
            if missed or ("value" in its and each.is_behind(its["value"][0])):
                shown = spread_text(its["value"], each.places) if "value" in its else "not measured"
                verdict = f"; target missed: {its['target']}" if missed else ""
                lines.append(f"- `{question.key}`, {each.name}: {shown}{verdict}")
    return "\n".join(lines) or "Nowhere in what was asked."


def page_with(page: str, questions: Sequence[Question], results: dict[str, Result]) -> str:
    """Return the page with the tables of all results between its markers."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not rest or END not in rest:
        raise ValueError(f"the page has no line {BEGIN!r} with a line {END!r} after it: put them where the tables go")
    parts = [f"### Where others do better\n\n{behind(questions, results)}"]
    for question in questions:
        if question.key in results:
            result = results[question.key]
            parts.append(f"## {question.title}\n\n`{question.key}`, {result['rounds']} rounds. {question.notes}")
            if question.plot is not None:
                parts.append(f"![{question.plot.title}]({question.plot.name}.svg)")
            parts.append(tables_of(question, result))
            parts.append(f"Measured with: {result['surroundings']}")
    return before + "\n\n".join([BEGIN, *parts, END]) + after
