"""Hold the mutants that no test kills to the list of those that none needs to: the second half of ``nox -s mutants``.

mutmut changes the pure modules in one place at a time and runs their tests. A mutant for which all of them pass is a
rule that no test holds, or it stands in survivors.toml with the argument why it may live. One that turns a loop into an
endless one is ended by mutmut after some seconds, and counts as killed.

mutmut numbers the mutants of a function, and the numbers shift with every edit; so here a mutant is told by its
function and by its lines before and after. Both lists are compared as bags: two mutants can read alike.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

LIST = Path(__file__).with_name("survivors.toml")

KILLED = {"killed", "timeout"}
ALIVE = {"survived", "no tests"}

#: mutmut's names: `package.module.x_function__mutmut_1`, and `package.module.xǁClassǁmethod__mutmut_1` for a method.
_NAME = re.compile(r"tickrunner_trio\.(?P<module>.+)\.x(?:ǁ(?P<kind>[^ǁ]+)ǁ|_)(?P<function>[^ǁ.]+)__mutmut_\d+")


class Mutant(NamedTuple):
    function: str  #: With its module below the package, and its class: ``_schedule.Schedule.take``.
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.function}\n    - {self.before}\n    + {self.after}"


def mutant_of(name: str, shown: str) -> Mutant:
    """Read what ``mutmut show`` says of the mutant of that name: a comment, then a unified diff of its function."""
    parts = _NAME.fullmatch(name)
    assert parts is not None, f"mutmut names its mutants otherwise than it did: {name}"
    _, _, diff = shown.partition("\n@@")
    lines = {
        sign: " ".join(line[1:].strip() for line in diff.splitlines() if line.startswith(sign)).strip() for sign in "-+"
    }
    function = ".".join(part for part in parts.group("module", "kind", "function") if part)
    return Mutant(function, before=lines["-"], after=lines["+"])


def argued(text: str) -> list[Mutant]:
    """Read the mutants of the list; each entry has an argument, and a change."""
    found: list[Mutant] = []
    for entry in tomllib.loads(text)["argument"]:
        assert entry.keys() == {"why", "mutants"}, f"an argument has a why and mutants, got {entry.keys()}"
        assert entry["why"].strip(), f"say why these may live: {entry['mutants']}"
        found += [Mutant(**fields) for fields in entry["mutants"]]
    assert not (same := [mutant for mutant in found if mutant.before == mutant.after]), f"these change nothing: {same}"
    return found


def faults(survivors: Iterable[Mutant], listed: Iterable[Mutant]) -> list[str]:
    """Return what is wrong with the one or with the other."""
    alive, allowed = Counter(survivors), Counter(listed)
    unargued = [f"no test fails for it, and nothing says why: {mutant}" for mutant in (alive - allowed).elements()]
    stale = [f"killed, or gone: take it off the list: {mutant}" for mutant in (allowed - alive).elements()]
    return unargued + stale


def main() -> int:
    verdicts = dict(re.findall(r"^ +(\S+): (.+)$", _mutmut("results", "--all", "true"), flags=re.MULTILINE))
    survivors = [mutant_of(name, _mutmut("show", name)) for name, verdict in verdicts.items() if verdict in ALIVE]
    found = faults(survivors, argued(LIST.read_text(encoding="utf-8")))
    found += [f"no verdict: {name}: {verdict}" for name, verdict in verdicts.items() if verdict not in KILLED | ALIVE]
    for fault in found:
        print(fault)
    counted = ", ".join(f"{count} {verdict}" for verdict, count in Counter(verdicts.values()).most_common())
    print(f"{len(verdicts)} mutants: {counted}; faults: {len(found)}")
    return 1 if found or not verdicts else 0


def _mutmut(*arguments: str) -> str:
    return subprocess.run(["mutmut", *arguments], capture_output=True, check=True, encoding="utf-8").stdout


if __name__ == "__main__":
    sys.exit(main())
