"""The pages of docs/, for the tests that hold them to the code: blocks, headings, links, tables."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@dataclass(frozen=True)
class Page:
    """One page, as it is written."""

    path: Path

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @property
    def prose(self) -> str:
        """The text without its blocks."""
        return re.sub(r"^(```+).*?^\1$", "", self.text, flags=re.MULTILINE | re.DOTALL)

    @property
    def words(self) -> str:
        """The prose on one line."""
        return " ".join(self.prose.split())

    def blocks(self, language: str) -> list[str]:
        return re.findall(rf"^```{language}\n(.*?)^```$", self.text, flags=re.MULTILINE | re.DOTALL)

    def languages(self) -> list[str]:
        """What stands behind the opening fences, one for each block."""
        return re.findall(r"^```(.*)\n(?:.*\n)*?```$", self.text, flags=re.MULTILINE)

    def program(self, name: str) -> str:
        """The block of Python whose first line is its file's name."""
        [source] = [block for block in self.blocks("python") if block.startswith(f"# {name}\n")]
        return source

    def tables(self) -> list[list[list[str]]]:
        """The tables, as rows of cells, without their heads."""
        found = re.findall(r"(?:^\|.*\|\n)+", self.prose, flags=re.MULTILINE)
        return [[_cells(row) for row in table.splitlines()[2:]] for table in found]

    def anchors(self) -> set[str]:
        """What links may name: the headings as GitHub and MyST write them."""
        headings = re.findall(r"^#+ (.*)$", self.prose, flags=re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

    def links(self) -> list[str]:
        """Where links and pictures lead, but for those to other sites."""
        return [to for to in re.findall(r"\]\(([^)\s]+)\)", self.prose) if "://" not in to]


def _cells(row: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row.strip().strip("|"))]


def page(name: str) -> Page:
    return Page(DOCS / f"{name}.md")


def pages() -> list[Page]:
    return [Page(path) for path in sorted(DOCS.glob("*.md"))]
