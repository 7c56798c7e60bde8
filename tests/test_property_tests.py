"""Property tests take the same examples at each run in CI, and others at each run elsewhere."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

#: What takes the choice of examples out of the hands of the profiles.
PINS = {"derandomize", "seed", "register_profile", "load_profile", "reproduce_failure", "random"}

#: Where it is meant: the profiles themselves, bugs that have to be found whatever the seed, and what strategies reach.
PINNED_ON_PURPOSE = {
    *("conftest.py", "test_cluster_rules.py", "test_faults.py", "test_health_gallery.py", "test_strategies.py"),
}


def settings_under(**environment: str) -> str:
    program = "import conftest, hypothesis; print(hypothesis.settings.default.derandomize)"
    variables = {name: value for name, value in os.environ.items() if name not in ("CI", "HYPOTHESIS_PROFILE")}
    variables |= {"PYTHONPATH": str(TESTS), **environment}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=variables)
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("environment", "derandomized"), [({"CI": "true"}, "True"), ({"CI": ""}, "False"), ({}, "False")]
)
def test_the_profile_is_derandomized_in_ci_and_free_elsewhere(environment: dict[str, str], derandomized: str) -> None:
    assert settings_under(**environment) == derandomized


def pins(source: str) -> set[str]:
    """What of a test module's use of Hypothesis pins its examples."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "hypothesis":
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("settings", "find"):
            found |= {keyword.arg for keyword in node.keywords if keyword.arg}
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith(("hypothesis", "settings")):
            found.add(node.attr)
    return found & PINS


def test_no_test_decides_that_for_itself() -> None:
    found = {path.name for path in TESTS.rglob("*.py") if pins(path.read_text(encoding="utf-8"))}
    assert found == PINNED_ON_PURPOSE


@pytest.mark.parametrize(
    "source",
    [
        "from hypothesis import given, seed",
        "import hypothesis\n@hypothesis.seed(1)\ndef test(): ...",
        "@settings(max_examples=5, derandomize=False)\ndef test(): ...",
        "hypothesis.settings.load_profile('mine')",
        "find(strategy, condition, random=Random(1))",
    ],
)
def test_the_check_finds_who_does(source: str) -> None:
    assert pins(source)
    assert not pins("from hypothesis import given\n@settings(max_examples=5)\ndef test(): random.seed(1)")
