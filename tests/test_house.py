"""What is written for those who change the project: its files and tests exist, its lists are those of the code."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from test_readme import existing_tests, sessions

from tickrunner_trio import HealthState, Outcome, lock_id_for
from tickrunner_trio._telemetry._names import INSTRUMENTS
from tickrunner_trio.lockers._ledger_schema import COLUMNS, DDL_LOCK_ID

ROOT = Path(__file__).parents[1]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


CONTRIBUTING, SECURITY = text("CONTRIBUTING.md"), text("SECURITY.md")
WORKFLOWS = {path.name: path.read_text(encoding="utf-8") for path in ROOT.glob(".github/workflows/*.yml")}


def row(of: str) -> str:
    """The right cell of a row of a table."""
    (cell,) = re.findall(rf"^\| {of} \| (.*) \|$", CONTRIBUTING, flags=re.MULTILINE)
    return str(cell)


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md"])
def test_each_file_folder_and_test_that_a_page_names_is_there(page: str) -> None:
    named = set(re.findall(r"`((?:\.ci|\.github|[a-z_]+)/[\w./-]*|[A-Z]+\.md)`", text(page))) - {"build/screenshots"}
    assert [name for name in named if not (ROOT / name).exists()] == []
    assert (
        set(re.findall(r"`(test_\w+)`", text(page))) - {"test_a_failed_tick_lets_the_lock_go_at_once"}
        <= existing_tests()
    )


def test_how_to_add_is_told_of_a_locker_an_outcome_and_a_metric() -> None:
    for what in ("a locker", "an outcome", "a metric"):
        assert len(re.findall(r"`[\w.]+/[\w./]*`", row(what))) >= 5


def test_a_test_may_end_a_moment_before_its_threads() -> None:
    """The fixture that sees that a test leaves none waits for them."""
    threading.Timer(0.02, list).start()


def test_it_is_about_one_page() -> None:
    assert len(CONTRIBUTING.splitlines()) <= 80


# -- What is frozen ----------------------------------------------------------------------------------------------------


def test_the_frozen_lock_ids_are_those_of_the_code() -> None:
    assert re.findall(r"-?\d{15,}", row("lock ids")) == [str(lock_id_for("rebalance")), str(DDL_LOCK_ID)]


def test_the_frozen_names_of_metrics_are_those_of_the_code() -> None:
    assert re.findall(r"`([^`]+)`", row("metrics")) == [each.name for each in INSTRUMENTS]


@pytest.mark.parametrize("table", list(COLUMNS))
def test_the_frozen_columns_of_the_ledger_are_those_of_the_code(table: str) -> None:
    assert re.findall(r"`([^`]+)`", row(f"ledger, `{table}`")) == [column.name for column in COLUMNS[table]]


def test_the_frozen_words_are_in_the_text_of_the_public_surface() -> None:
    surface = text("tests/public_surface.txt")
    for member in (*Outcome, *HealthState):
        assert f"    {member.name} = '{member.value}'\n" in surface


# -- What runs the sessions --------------------------------------------------------------------------------------------


def sessions_of_ci() -> set[str]:
    """What `.ci/run` calls beside the tests."""
    (listed,) = re.findall(r"^for session in (.*); do$", text(".ci/run"), flags=re.MULTILINE)
    (campaigns,) = re.findall(r"def campaigns\(.*?for each in \((.*?)\):", text("noxfile.py"), flags=re.DOTALL)
    return {*listed.split(), *campaigns.split(", "), "tests_lowest"} - {"campaigns"}


def test_the_table_of_sessions_is_what_ci_runs() -> None:
    table = CONTRIBUTING.partition("which you can call alone:")[2].partition("and not these")[0]
    assert set(re.findall(r"(?:nox -s |`)(\w+)`", table)) - {"tests", "tests_all"} == sessions_of_ci()


def test_the_workflow_runs_the_same_sessions_and_tries_the_package_too() -> None:
    (listed,) = re.findall(r"session: \[(.*)\]", WORKFLOWS["ci.yml"])
    assert set(listed.split(", ")) == sessions_of_ci() | {"package"}
    named = {name for each in WORKFLOWS.values() for name in re.findall(r"nox -s (\w+)", each)} | set(
        listed.split(", ")
    )
    assert named <= set(sessions())


def test_the_workflow_runs_the_line_of_the_readme_on_each_supported_python() -> None:
    (pythons,) = re.findall(r"python: \[(.*)\]", WORKFLOWS["ci.yml"])
    supported = re.findall(r"Programming Language :: Python :: (\d\.\d+)", text("pyproject.toml"))
    assert {"3.11", "3.14"} | set(supported) <= {version.strip('"') for version in pythons.split(", ")}
    assert "      - run: python -m pip install nox && nox -s tests\n" in WORKFLOWS["ci.yml"]


def test_actions_are_pinned_by_commit_since_a_tag_can_be_moved() -> None:
    used = [name for each in WORKFLOWS.values() for name in re.findall(r"uses: (.*)", each)]
    assert used
    assert [name for name in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", name)] == []
    assert len({name.partition("@")[0] for name in used}) == len(set(used))


def test_what_is_published_is_out_of_reach_before_any_dependency_runs() -> None:
    build, _ = WORKFLOWS["release.yml"].split("\n  publish:\n")
    before, _, after = build.partition("actions/upload-artifact@")
    assert re.findall(r"pip install (.*?) &&|nox -s", before) == ["build"]
    assert "nox -s package" in after


def test_only_the_job_that_publishes_may_do_more_than_read() -> None:
    for workflow in WORKFLOWS.values():
        assert "\npermissions:\n  contents: read\n" in workflow
    writing = [
        line for each in WORKFLOWS.values() for line in each.splitlines() if re.search(r"^\s+[\w-]+: write", line)
    ]
    assert len(writing) == 1
    assert "id-token" in writing[0]


def test_the_hooks_are_sessions_so_that_versions_stand_in_one_place() -> None:
    hooks = re.findall(r"entry: (.*)", text(".pre-commit-config.yaml"))
    assert hooks == ["nox -s ruff", "nox -s lint", "nox -s types"]
    assert "rev:" not in text(".pre-commit-config.yaml")


@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="asks git what is committed")
def test_the_hosts_that_are_named_are_known_so_none_is_a_package_registry() -> None:
    known = {"127.0.0.1", "www.w3.org", "github.com", "semver.org", "opentelemetry.io", "www.starlette.io"}
    known |= {"trio.readthedocs.io", "pytest-trio.readthedocs.io", "hypercorn.readthedocs.io"}
    label = "[A-Za-z0-9-]+"
    listed = subprocess.run(
        [
            "git",
            "grep",
            "-IhoE",
            "-e",
            rf"https?://{label}(\.{label})+",
            "-e",
            rf"\b{label}(\.{label})*\.(org|io|com|net|dev)\b",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    hosts = {line.rpartition("://")[2].lower() for line in listed.stdout.splitlines()}
    assert {host for host in hosts if not f".{host}".endswith((".example", ".example.com"))} == known
