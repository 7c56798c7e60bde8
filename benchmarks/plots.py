"""Bars with their spread, as SVG written by hand: a few kilobytes, the same bytes for the same figures. Pure.

Light background, no scripts and no fonts of its own, so that it looks alike wherever Markdown is shown.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from .question import OURS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .question import Plot
    from .results import Result

WIDTH, LABELS, RIGHT = 860, 300, 130
BAR, GAP, TOP, BOTTOM = 16, 10, 44, 34
OUR_COLOURS = ("#0b6e4f", "#3fa27f", "#9bd3bd")
THEIR_COLOURS = ("#5b6b8c", "#93a0ba", "#c8cfdd")
INK, FAINT = "#222222", "#dddddd"


def svg_of(plot: Plot, result: Result) -> str:
    """Return the picture of a result."""
    ways = [
        way
        for way, measured in result["ways"].items()
        if any(figure in measured for figure in plot.figures) and (plot.ways is None or way in plot.ways)
    ]
    spreads = [result["ways"][way][figure] for way in ways for figure in plot.figures if figure in result["ways"][way]]
    if not spreads:
        raise ValueError(f"there is nothing to draw for the plot {plot.name!r}: no way has its figures")
    scale, marks = _scale([number for spread in spreads for number in spread], is_logarithmic=plot.is_logarithmic)
    parts: list[str] = []
    top = TOP
    for way in ways:
        colours = OUR_COLOURS if way.startswith(OURS) else THEIR_COLOURS
        measured = result["ways"][way]
        figures = [figure for figure in plot.figures if figure in measured]
        middle = top + len(figures) * BAR / 2 + 4
        weight = ' font-weight="bold"' if way.startswith(OURS) else ""
        parts.append(f'<text x="{LABELS - 8}" y="{middle:g}" text-anchor="end"{weight}>{escape(way)}</text>')
        for figure in figures:
            colour = colours[plot.figures.index(figure) % len(colours)]
            parts += _bar(measured[figure], top, colour, scale, name=figure if len(plot.figures) > 1 else "")
            top += BAR
        top += GAP
    height = top + BOTTOM
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        f' font-family="sans-serif" font-size="12" fill="{INK}" role="img" aria-label="{escape(plot.title)}">'
    )
    frame = [
        svg,
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="24" font-size="15" font-weight="bold">{escape(plot.title)}</text>',
    ]
    for mark in marks:
        x = scale(mark)
        frame.append(f'<line x1="{x:.1f}" y1="{TOP - 6}" x2="{x:.1f}" y2="{top}" stroke="{FAINT}"/>')
        frame.append(f'<text x="{x:.1f}" y="{top + 16}" text-anchor="middle" font-size="11">{_number(mark)}</text>')
    return "\n".join([*frame, *parts, "</svg>", ""])


def _bar(spread: Sequence[float], top: float, colour: str, scale: Callable[[float], float], *, name: str) -> list[str]:
    """Draw one bar, a whisker from the least to the greatest round, and its median."""
    median, low, high = (scale(number) for number in spread)
    middle = top + BAR / 2
    label = f"{name} {_number(spread[0])}" if name else _number(spread[0])
    return [
        f'<rect x="{LABELS}" y="{top + 1}" width="{max(1, median - LABELS):.1f}" height="{BAR - 2}" fill="{colour}"/>',
        f'<line x1="{low:.1f}" y1="{middle:g}" x2="{high:.1f}" y2="{middle:g}" stroke="{INK}" stroke-width="1.5"/>',
        f'<text x="{max(median, high) + 6:.1f}" y="{middle + 4:g}" font-size="11">{escape(label)}</text>',
    ]


def _scale(numbers: Sequence[float], *, is_logarithmic: bool) -> tuple[Callable[[float], float], list[float]]:
    """Return what turns a number into an x, and where there is a mark."""
    room = WIDTH - LABELS - RIGHT
    most = max(numbers)
    if is_logarithmic:
        low = math.floor(math.log10(min(number for number in numbers if number > 0)))
        high = math.ceil(math.log10(most))
        low, high = (low, high) if low < high else (low, low + 1)

        def logarithmic(number: float) -> float:
            exponent = math.log10(number) if number > 0 else low
            return LABELS + room * (exponent - low) / (high - low)

        return logarithmic, [10.0**exponent for exponent in range(low, high + 1)]
    most = most or 1.0
    step = 10 ** math.floor(math.log10(most))
    step = next(step * part for part in (0.1, 0.2, 0.5, 1, 2) if most / (step * part) <= 6)

    def linear(number: float) -> float:
        return LABELS + room * number / most

    return linear, [step * index for index in range(int(most / step) + 1)]


def _number(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"
