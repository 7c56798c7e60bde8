"""The README does what it says: its Python runs, its commands exist, and CI runs the very line that it gives."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cli_processes import run_to_end, started

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

#: The conninfo that stands for the reader's own database.
CONNINFO = '"host=db dbname=app"'


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    return [line.removeprefix("$ ") for block in blocks("console") for line in block.splitlines()]


A_SERVICE, ON_THE_COMMAND_LINE, TESTING_A_SERVICE = blocks("python")


@pytest.fixture
def myapp(dsn: str, tmp_path: Path) -> Path:
    """The module of the README, on a database that is there."""
    assert CONNINFO in ON_THE_COMMAND_LINE
    (tmp_path / "myapp.py").write_text(A_SERVICE + ON_THE_COMMAND_LINE.replace(CONNINFO, repr(dsn)), encoding="utf-8")
    return tmp_path


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_the_service_is_a_program_of_ten_lines_that_shows_its_ticks(dsn: str, tmp_path: Path) -> None:
    assert len([line for line in A_SERVICE.splitlines() if line]) <= 10
    program = A_SERVICE.replace(CONNINFO, repr(dsn)).replace("interval=60", "interval=0.1")
    (tmp_path / "sweep.py").write_text(program, encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, "-W", "error", "sweep.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        patience = threading.Timer(60, process.kill)  # for a program that says nothing, as it would without logging
        patience.start()
        try:
            assert process.stderr is not None
            assert any("sweeping" in line for line in process.stderr)
        finally:
            patience.cancel()
            process.kill()
            patience.join()


@pytest.mark.parametrize("command", [command for command in commands() if command.startswith("tickrunner check")])
def test_the_check_passes(myapp: Path, command: str) -> None:
    status, stdout, stderr = run_to_end(*command.split()[1:], cwd=myapp)
    assert (status, stderr) == (0, "")
    assert "sweep" in stdout


@pytest.mark.parametrize("command", [command for command in commands() if command.startswith("tickrunner run")])
def test_the_services_run_until_a_signal(myapp: Path, command: str) -> None:
    with started(*command.split()[1:], cwd=myapp) as process:
        process.wait_for("services started")
        process.signal(signal.SIGINT)
        assert process.end()[0] == 0


#: The reader's patience is longer than that of this suite, and wants the least example.
FEWER_EXAMPLES = """
from hypothesis import Phase, settings
settings.register_profile("few", max_examples=25, phases=[Phase.generate])
settings.load_profile("few")
"""


def test_the_test_passes_and_can_fail(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(FEWER_EXAMPLES, encoding="utf-8")

    def printed(test: str) -> str:
        module = tmp_path / "test_sweep.py"
        module.write_text(A_SERVICE + test, encoding="utf-8")
        options = ["-q", "-c", str(tmp_path / "pytest.ini"), "-p", "no:cacheprovider"]
        (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        command = [sys.executable, "-m", "pytest", *options, str(module)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout

    assert "\n1 passed" in printed(TESTING_A_SERVICE)
    sooner_than_it_can = printed(TESTING_A_SERVICE.replace("within(180)", "within(30)"))
    assert "\n1 failed" in sooner_than_it_can
    assert "AssertionError: broken: every service succeeds within 30 seconds" in sooner_than_it_can


def test_the_test_of_a_service_has_at_most_15_lines() -> None:
    assert len(TESTING_A_SERVICE.splitlines()) <= 15


def promises() -> list[str]:
    """What stands in the right column of the table of promises, row by row."""
    (table,) = re.findall(r"^\| promise .*\n\| --- .*\n((?:\|.*\n)+)", README, flags=re.MULTILINE)
    return [row.split(" | ")[1] for row in table.splitlines()]


def existing_tests() -> set[str]:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    return {name for source in sources for name in re.findall(r"^(?:async )?def (test_\w+)\(", source, re.MULTILINE)}


def test_each_promise_is_backed_by_a_test_that_exists_or_a_figure_that_was_measured() -> None:
    assert len(promises()) >= 7
    measured = json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))
    there = existing_tests()
    for backing in promises():
        tests = re.findall(r"`(test_\w+)`", backing)
        figures = re.findall(r"`(\w+)`, ([^:`]+): ([^,]+), (met|MISSED)", backing)
        assert tests or figures, f"nothing backs: {backing}"
        assert set(tests) <= there
        for question, name, target, verdict in figures:
            comparison = measured[question]["comparisons"][name]
            assert (comparison["target"], comparison["verdict"]) == (target, verdict)


def test_each_page_and_folder_that_it_names_is_there() -> None:
    named = set(re.findall(r"[`(]((?:docs|examples|dashboards|benchmarks|tests)/[\w./]*|[A-Z]+\.md)[`)]", README))
    assert {"docs/replicas.svg", "docs/design.md", "CONTRIBUTING.md", "SECURITY.md"} <= named
    assert [name for name in named if not (ROOT / name).exists()] == []


def sessions() -> Iterator[str]:
    for node in ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and any("nox.session" in ast.unparse(it) for it in node.decorator_list):
            assert ast.get_docstring(node)
            yield node.name


def test_the_two_lines_are_these_and_name_sessions_that_exist() -> None:
    lines = [command for command in commands() if not command.startswith("tickrunner ")]
    assert lines == [f"python -m pip install nox && nox -s {session}" for session in ("demo", "tests")]
    assert {"demo", "tests", "lint", "types", "docs", "bench"} <= set(sessions())


def test_every_session_that_a_page_names_exists() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("benchmarks/*.md"), *ROOT.glob("docs/*.md")]
    named = {name for page in pages for name in re.findall(r"nox -s ([a-z_]+)", page.read_text(encoding="utf-8"))}
    assert {"demo", "tests", "lint", "bench"} <= named <= set(sessions())


@pytest.mark.skipif(shutil.which("bash") is None, reason="runs a line of a bash script")
def test_ci_runs_the_line_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (extraction,) = [line for line in script.splitlines() if line.startswith("command=")]
    bash = ["bash", "-c", f'{extraction}; printf %s "$command"']
    done = subprocess.run(bash, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "python -m pip install nox && nox -s tests"


def test_no_example_is_left_out() -> None:
    assert len(re.findall("^```", README, flags=re.MULTILINE)) == 2 * len(blocks("python") + blocks("console"))
