"""The tables of docs/command-line.md, from the parser. ``python tests/command_page.py`` writes them into the page."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from pages import ROOT, page

sys.path.insert(0, os.fspath(ROOT))

from tickrunner_trio._cli import _parser

if TYPE_CHECKING:
    from collections.abc import Iterator

BEGIN, END = "<!-- commands: begin -->\n", "<!-- commands: end -->\n"


def commands(parser: argparse.ArgumentParser, prefix: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The commands that do something, with their full names, in the order of the help."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield from commands(command, f"{prefix} {name}")
    if parser.get_default("command") is not None:
        yield prefix, parser


def rows(parser: argparse.ArgumentParser) -> list[str]:
    found = []
    for action in parser._actions:
        if action.option_strings and not isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
            shown = ", ".join(action.option_strings) + ("" if action.nargs == 0 else f" {value}")
            needed = "; required" if action.required else ""
            found.append("| `{}` | {}{} |".format(shown.replace("|", "\\|"), action.help, needed))
    return found


def tables() -> str:
    """What stands between the marks."""
    parser = _parser()
    lines = [f"{table}\n" for table in [_table(rows(parser))] if table]
    every = list(commands(parser, parser.prog))
    on_ledger = [command for _, command in every if "--dsn" in command._option_string_actions]
    common = [row for row in rows(on_ledger[0]) if all(row in rows(command) for command in on_ledger)]
    for name, command in every:
        words = [
            f"[{action.metavar}]" if action.nargs == "?" else str(action.metavar)
            for action in command._actions
            if not action.option_strings
        ]
        own = [row for row in rows(command) if command not in on_ledger or row not in common]
        also = "Takes the options of all commands on a ledger, below.\n" if command in on_ledger else ""
        lines += [f"### {name}", f"`{' '.join([name, *words])}`", f"{command.description}\n{also}".strip(), _table(own)]
    lines += ["### Options of all commands on a ledger", _table(common)]
    return "\n\n".join(line.strip() for line in lines if line) + "\n\n"


def _table(found: list[str]) -> str:
    return "\n".join(["| option | |", "| --- | --- |", *found]) if found else ""


def main() -> None:  # pragma: no cover - by hand; a test says whether it is to be done
    path = page("command-line").path
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    path.write_text(f"{before}{BEGIN}\n{tables()}{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":  # pragma: no cover - as above
    main()
