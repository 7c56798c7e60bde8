"""The blocks of docs/ledger.md and docs/fencing.md, for the tests that run them in this process and in others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "ledger.md").read_text(encoding="utf-8")
FENCING = (DOCS / "fencing.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE + FENCING, flags=re.MULTILINE | re.DOTALL)


def namespace() -> dict[str, Any]:
    """What the blocks of Python define, all of them together."""
    found: dict[str, Any] = {}
    for block in blocks("python"):
        exec(block, found)
    return found
