"""Arrays of PostgreSQL, as the text in which a statement takes and gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_QUOTED = str.maketrans({"\\": "\\\\", '"': '\\"'})


def array(items: Iterable[object]) -> bytes:
    """Return an array of what needs no quotes: numbers, booleans, NULL, and what `quoted_item` returned."""
    return f"{{{','.join(map(str, items))}}}".encode("ascii")


def quoted_item(text: str) -> str:
    """Return an ASCII text as an item."""
    return f'"{text.translate(_QUOTED)}"'


def text_array(texts: Iterable[str]) -> bytes:
    """Return an array of ASCII texts."""
    return array(map(quoted_item, texts))


def items_of(array: str | None) -> list[str]:
    """Return the items of an array that needs no quotes; none of NULL."""
    inner = (array or "{}")[1:-1]
    return inner.split(",") if inner else []
