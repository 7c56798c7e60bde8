"""Text for a terminal, made of values that are anybody's: none fails to be shown, and none is obeyed."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_T = TypeVar("_T")


def safely(convert: Callable[[_T], str], value: _T) -> str:
    """Return what ``str``, ``repr`` or the like makes of a value of the user's, or a placeholder if that fails."""
    try:
        return convert(value)
    except Exception as error:  # Theirs, RecursionError in what is nested too deep, ValueError in too many digits.
        return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"


def printable(text: str) -> str:
    """Return the text with what a terminal might obey escaped, but for line breaks and tabs."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in "\n\t" else ascii(each)[1:-1] for each in text)


def on_one_line(text: str) -> str:
    """Return the text as `printable`, with one space for whatever white space there is."""
    return printable(" ".join(text.split()))


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return the rows as lines, each cell on one line and as wide as its column."""
    cells = [[on_one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)
