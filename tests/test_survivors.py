"""The list of mutants that may live: how it is compared, and that it speaks of the code as it is."""

from __future__ import annotations

import ast
import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import survivors
from survivors import LIST, Mutant, argued, faults, mutant_of
from test_layers import MODULES

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mutmut"]

LISTED = argued(LIST.read_text(encoding="utf-8"))

ONE = Mutant("_health.f", "a > b", "a >= b")
OTHER = Mutant("_health.f", "a > b", "a < b")


def test_survivors_that_are_listed_and_no_others_are_right() -> None:
    assert faults([], []) == []
    assert faults([ONE, OTHER], [OTHER, ONE]) == []


def test_a_survivor_that_is_not_listed_is_a_fault() -> None:
    assert faults([ONE, OTHER], [OTHER]) == [
        "no test fails for it, and nothing says why: _health.f\n    - a > b\n    + a >= b"
    ]


def test_a_listed_mutant_that_does_not_survive_is_a_fault() -> None:
    assert faults([], [ONE]) == ["killed, or gone: take it off the list: _health.f\n    - a > b\n    + a >= b"]


def test_of_two_mutants_that_read_alike_each_needs_its_own_entry() -> None:
    assert faults([ONE, ONE], [ONE, ONE]) == []
    assert len(faults([ONE, ONE], [ONE])) == 1
    assert len(faults([ONE], [ONE, ONE])) == 1


SHOWN = """\
# tickrunner_trio._schedule.xǁScheduleǁ_latest__mutmut_16: survived
--- tickrunner_trio/_schedule.py
+++ tickrunner_trio/_schedule.py
@@ -4,6 +4,6 @@
     # Division rounds: the slots themselves say which one has passed.
     while index > self._index and self._first + index * self._interval > now:
-        index -= 1
+        index -= 2
     while self._first + (index + 1) * self._interval <= now:
         index += 1
     return index
"""


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("tickrunner_trio._schedule.xǁScheduleǁ_latest__mutmut_16", "_schedule.Schedule._latest"),
        ("tickrunner_trio.lockers._lock_book.xǁLockBookǁ__init____mutmut_6", "lockers._lock_book.LockBook.__init__"),
        ("tickrunner_trio._callables.x__call_of__mutmut_5", "_callables._call_of"),
        ("tickrunner_trio.lockers._timing.x_lease_timing__mutmut_12", "lockers._timing.lease_timing"),
    ],
)
def test_a_mutant_is_told_by_its_function_and_its_line_before_and_after(name: str, function: str) -> None:
    assert mutant_of(name, SHOWN) == Mutant(function, before="index -= 1", after="index -= 2")


def test_a_change_of_several_lines_is_told_as_one() -> None:
    shown = "# name\n--- a\n+++ a\n@@ -1,4 +1,3 @@\n f(\n-    one,\n-    other,\n+    one,\n )\n"
    assert mutant_of("tickrunner_trio._health.x_f__mutmut_1", shown) == Mutant("_health.f", "one, other,", "one,")


@pytest.mark.parametrize(
    "entry",
    [
        'mutants = [{ function = "_health.f", before = "a", after = "b" }]',
        'why = " "\nmutants = [{ function = "_health.f", before = "a", after = "b" }]',
        'why = "since"\nmutants = [{ function = "_health.f", before = "a", after = "a" }]',
    ],
)
def test_an_entry_without_an_argument_or_without_a_change_is_refused(entry: str) -> None:
    with pytest.raises(AssertionError):
        argued(f"[[argument]]\n{entry}\n")


# -- From what mutmut says to an exit status ---------------------------------------------------------------------------


class Mutmut:
    """A program of that name, which says what it is told to. The real one takes minutes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.verdicts: dict[str, str] = {}
        program = folder / "mutmut"
        program.write_text(
            f"#!/bin/sh\ncd {shlex.quote(str(folder))}\n"
            'case "$*" in "results --all true") cat results;; "show "*) cat "$2";; *) exit 1;; esac\n',
            encoding="utf-8",
        )
        program.chmod(0o755)

    def add(self, verdict: str, mutant: Mutant = ONE) -> None:
        module, _, function = mutant.function.rpartition(".")
        name = f"tickrunner_trio.{module}.x_{function}__mutmut_{len(self.verdicts) + 1}"
        self.verdicts[name] = verdict
        diff = f"# {name}: {verdict}\n--- a\n+++ a\n@@ -1,1 +1,1 @@\n-    {mutant.before}\n+    {mutant.after}"
        self.folder.joinpath(name).write_text(diff, encoding="utf-8")

    def judged(self) -> tuple[int, list[str]]:
        said = "".join(f"    {name}: {verdict}\n" for name, verdict in self.verdicts.items())
        self.folder.joinpath("results").write_text(said, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, survivors.__file__],
            env={**os.environ, "PATH": f"{self.folder}{os.pathsep}{os.environ['PATH']}"},
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        assert done.stderr == ""
        return done.returncode, done.stdout.splitlines()


@pytest.fixture
def mutmut(tmp_path: Path) -> Mutmut:
    """Its survivors are those of the list."""
    program = Mutmut(tmp_path)
    for mutant in LISTED:
        program.add("survived", mutant)
    program.add("killed")
    program.add("timeout")
    return program


def test_where_all_others_are_killed_by_a_test_or_by_their_endless_loop_all_is_right(mutmut: Mutmut) -> None:
    alive = len(LISTED)
    assert mutmut.judged() == (
        0,
        [f"{alive + 2} mutants: {alive} survived, 1 killed, 1 timeout; faults: 0"],
    )


@pytest.mark.parametrize("verdict", ["survived", "no tests"])
def test_one_more_that_lives_is_told_of_also_one_that_no_test_reaches(mutmut: Mutmut, verdict: str) -> None:
    mutmut.add(verdict, ONE)
    status, lines = mutmut.judged()
    assert (status, lines[:-1]) == (1, faults([ONE], [])[0].splitlines())


@pytest.mark.parametrize("verdict", ["not checked", "suspicious", "segfault", "check was interrupted by user"])
def test_a_mutant_that_nobody_has_judged_is_told_of(mutmut: Mutmut, verdict: str) -> None:
    mutmut.add(verdict)
    status, lines = mutmut.judged()
    assert (status, lines[:-1]) == (1, [f"no verdict: {[*mutmut.verdicts][-1]}: {verdict}"])


def test_no_mutants_at_all_are_no_success(tmp_path: Path) -> None:
    status, lines = Mutmut(tmp_path).judged()
    assert status == 1
    assert lines[-1] == f"0 mutants: ; faults: {len(LISTED)}"


# -- The list and the settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mutant", LISTED, ids=lambda mutant: mutant.function)
def test_what_the_list_argues_about_is_still_in_the_code(mutant: Mutant) -> None:
    """A list that speaks of other code is found here, and not only by the run that takes minutes."""
    path, names = ROOT / "tickrunner_trio", mutant.function.split(".")
    while (path / names[0]).is_dir():
        path /= names.pop(0)
    text = path.joinpath(f"{names.pop(0)}.py").read_text(encoding="utf-8")
    node: ast.AST = ast.parse(text)
    for name in names:
        [node] = [child for child in ast.iter_child_nodes(node) if getattr(child, "name", None) == name]
    code = " ".join((ast.get_source_segment(text, node) or "").split())
    assert mutant.before in code


def test_every_pure_module_is_mutated_and_so_are_the_book_of_locks_and_what_it_is_made_of() -> None:
    pure = {f"tickrunner_trio/{module.replace('.', '/')}.py" for module in MODULES["pure"] if module != "_version"}
    book = {f"tickrunner_trio/lockers/{module}.py" for module in ("_hold_ends", "_lock_book", "_unwritten", "_waker")}
    assert set(SETTINGS["only_mutate"]) == pure | book


def test_the_tests_that_mutants_have_to_pass_are_there() -> None:
    for path in SETTINGS["pytest_add_cli_args_test_selection"]:
        assert (ROOT / path).is_file()
