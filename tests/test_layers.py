"""The house that `tickrunner_trio/__init__.py` draws: each module imports only from floors that its own stands on."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(__file__).parents[1] / "tickrunner_trio"

#: Which modules make a layer. A trailing * stands for any ending.
MODULES = {
    "abc": ["abc", "_errors", "_on_demand"],
    "pure": [
        *("_config", "_outcome", "_schedule", "_health", "_statistics", "_lock_ids", "_version", "lockers._timing"),
        *("_callables", "_cluster_health", "_due_queue", "_dueness", "lockers._ledger_schema", "lockers._deadline"),
        "lockers._backoff",
    ],
    "observing": ["_audit", "_surroundings", "_trio_run", "_utc", "_telemetry*"],
    "running": [
        *("_alarm", "_attempt", "_watching", "_forced", "_reporting", "_service", "_supervisor", "_passes"),
        *("_operations", "_ledgered"),
    ],
    "lockers": [
        *("lockers", "lockers._memory", "lockers._postgres", "lockers._lock_book", "lockers._lease", "lockers._clock"),
        *("lockers._calls", "lockers._losses", "lockers._driver", "lockers._hold_ends", "lockers._sleeper"),
        *("lockers._statistics", "lockers._session_thread", "lockers._session", "lockers._connection"),
        "lockers._conninfo",
        *("lockers._holders", "lockers._short", "lockers._ledger", "lockers._ledger_rows", "lockers._ledger_setup"),
        *("lockers._ledger_transaction", "lockers._ledger_watch", "lockers._ledger_lease", "lockers._ledger_session"),
        *("lockers._ledger_statements", "lockers._pipeline", "lockers._arrays", "lockers._batch", "lockers._unwritten"),
        *("lockers._waker", "lockers._watchdog", "lockers._opening", "lockers._ledger_refusals"),
    ],
    "bridges": [
        *("bridges", "_thread_work", "_asyncio_work", "_asyncio_tasks", "_application_loop", "_trio_asyncio_loop"),
        "_foreign",
    ],
    "contents": [""],  # the package itself
    "testing": ["testing*"],
    "edges": ["_cli*", "_demo*", "__main__", "admin*"],
    "alone": ["_local_postgres", "_postgres_binaries", "_postgres_keeper"],
}

#: From which layers a layer may import, beside itself.
LAYERS = {
    "abc": [],
    "pure": ["abc"],
    "observing": ["abc", "pure"],
    "running": ["abc", "pure", "observing"],
    "lockers": ["abc", "pure", "observing"],
    "bridges": ["abc", "pure", "observing"],
    "contents": ["abc", "pure", "observing", "running", "lockers"],
    "testing": ["abc", "pure", "observing", "running", "lockers", "alone"],
    "edges": ["abc", "contents", "alone"],
    "alone": [],
}

#: What a layer may import from elsewhere, beside the standard library; and a module, beside what its layer may.
PACKAGES = {
    "observing": {"trio"},
    "running": {"trio", "outcome"},
    "lockers": {"trio", "outcome"},
    "testing": {"trio"},
    "testing._database": {"psycopg"},
    "testing._memory_telemetry": {"opentelemetry"},
    "testing.pytest_plugin": {"pytest"},
    "bridges": {"trio", "outcome"},
    "edges": {"trio"},
    **{
        f"_telemetry.{module}": {"opentelemetry"}
        for module in ("_ids", "_events", "_meters", "_registry", "_spans", "_times")
    },
    "_cli_sdk": {"opentelemetry"},
    **{f"lockers.{module}": {"psycopg"} for module in ("_connection", "_conninfo", "_pipeline")},
    **{f"testing.{module}": {"hypothesis"} for module in ("strategies", "_fault_plans", "_health_machine")},
    **{f"admin.{module}": {"starlette"} for module in ("_app", "_guard", "_operating")},
    **{f"admin.{module}": {"anyio"} for module in ("_asked", "_crossing", "_stream", "_board")},
    "admin._exchange": {"h11"},
    "admin._serving": {"h11"},
    "_demo": {"psycopg", "rich"},
    "_demo_table": {"rich"},
    "_demo_database": {"psycopg"},
}

#: Of the standard library, what a pure module has no use for.
IMPURE = {"asyncio", "io", "os", "pathlib", "selectors", "socket", "subprocess", "threading", "time"}


def layer_of(module: str) -> str | None:
    for layer, names in MODULES.items():
        for name in names:
            if module == name or (name.endswith("*") and module.startswith(name[:-1])):
                return layer
    return None


def sources() -> dict[str, tuple[str, bool]]:
    """Each module's name below the package, its text, and whether it is a package itself."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        found[".".join(parts[:-1] if is_package else parts)] = (path.read_text(encoding="utf-8"), is_package)
    return found


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only type checkers see."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in child.orelse:
                yield from nodes(other)
        else:
            yield from nodes(child)


def imports(module: str, tree: ast.AST, *, is_package: bool) -> Iterator[str]:
    """What a module imports: `.name` for a module of ours (`.` for the package itself), else the top-level package."""
    for node in nodes(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = ["tickrunner_trio", *module.split(".")] if module else ["tickrunner_trio"]
            up = node.level - (1 if is_package else 0)
            base = package[: len(package) - up] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{start}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            if top != "tickrunner_trio":
                yield top
                continue
            while rest and layer_of(rest) is None:  # an attribute of a module, not a module
                rest = rest.rpartition(".")[0]
            yield f".{rest}"


def faults(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """What is wrong with a module of that name and text."""
    layer = layer_of(module)
    if layer is None:
        return [f"{module} is in no layer: put it into MODULES"]
    tree = ast.parse(source)
    found = list(forbidden_imports(module, layer, imports(module, tree, is_package=is_package)))
    for node in nodes(tree):
        if layer == "pure" and isinstance(node, ast.AsyncFunctionDef):
            found.append(f"{module} ({layer}) has an async function, {node.name}")
        if layer in ("abc", "pure") and isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith):
            found.append(f"{module} ({layer}) awaits in line {node.lineno}")
        if layer == "pure" and isinstance(node, ast.Call) and ast.unparse(node.func) == "open":
            found.append(f"{module} ({layer}) opens a file in line {node.lineno}")
    return found


def forbidden_imports(module: str, layer: str, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        if name.startswith("."):
            other = layer_of(name[1:])
            if other != layer and other not in LAYERS[layer]:
                yield f"{module} ({layer}) imports {name} ({other})"
        elif name in sys.stdlib_module_names:
            if layer == "pure" and name in IMPURE:
                yield f"{module} ({layer}) imports {name}"
        elif name not in PACKAGES.get(layer, set()) | PACKAGES.get(module, set()):
            yield f"{module} ({layer}) imports {name}"


def test_each_module_keeps_to_its_layer() -> None:
    found: list[str] = []
    for module, (text, is_package) in sources().items():
        found += faults(module, text, is_package=is_package)
    assert found == []


def test_the_table_names_no_module_that_is_gone() -> None:
    there = set(sources())
    listed = {name for names in MODULES.values() for name in names}
    assert {name for name in listed if not name.endswith("*")} <= there
    assert all(any(module.startswith(name[:-1]) for module in there) for name in listed if name.endswith("*"))
    assert PACKAGES.keys() <= MODULES.keys() | there


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("_new", ""),
        ("_health", "import trio"),
        ("_health", "from trio import sleep"),
        ("_health", "import time"),
        ("_health", "from . import _service"),
        ("_health", "from ._service import Service"),
        ("_health", "import tickrunner_trio._service"),
        ("_health", "from tickrunner_trio._service import Service"),
        ("_health", "from . import Service"),
        ("_health", "def later():\n    from ._audit import request_id"),
        ("_health", "if TYPE_CHECKING:\n    pass\nelse:\n    import trio"),
        ("_health", "async def wait(): pass"),
        ("_health", "text = open('file').read()"),
        ("abc", "async def f(): await g()"),
        ("_service", "from ._cli import main"),
        ("_service", "from .lockers import MemoryLocker"),
        ("_service", "import psycopg"),
        ("lockers._postgres", "import psycopg.pq"),
        ("lockers._memory", "from .._service import Service"),
        ("_service", "from opentelemetry import trace"),
        ("_telemetry._names", "from opentelemetry import trace"),
        ("_service", "from .bridges import thread_work"),
        ("_thread_work", "from ._service import Service"),
        ("", "from .bridges import thread_work"),
        ("_cli_run", "from ._service import Service"),
        ("_cli_run", "import rich"),
        ("_service", "from .testing import Judged"),
        ("testing", "import hypothesis"),
        ("testing._history", "from hypothesis import given"),
        ("testing._history", "from .._cli import main"),
        ("_local_postgres", "from . import Service"),
    ],
)
def test_the_check_finds_what_breaks_the_rules(module: str, source: str) -> None:
    assert len(faults(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("_health", "from ._outcome import Outcome\nimport dataclasses"),
        ("_health", "if TYPE_CHECKING:\n    import trio\n    from ._service import Service"),
        ("abc", "async def f(): ..."),
        ("lockers._postgres", "from .._errors import LockLostError\nfrom ._session_thread import Thread"),
        ("_cli_run", "from . import Supervisor\nfrom ._cli_errors import UsageError\nimport trio"),
        ("_demo", "from ._local_postgres import local_postgres"),
        ("testing.strategies", "from hypothesis import given\nfrom .._service import Service"),
    ],
)
def test_the_check_lets_through_what_keeps_them(module: str, source: str) -> None:
    assert faults(module, source) == []


def test_importing_the_package_loads_nothing_that_only_some_need() -> None:
    program = "import sys, tickrunner_trio; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "trio" in loaded
    heavy = {"psycopg", "psycopg_binary", "rich", "opentelemetry.sdk", "hypothesis", "trio_asyncio", "starlette", "h11"}
    assert heavy.isdisjoint(loaded)


def test_importing_the_package_loads_no_module_of_ours_that_only_some_need() -> None:
    program = (
        "import sys, tickrunner_trio; print(*(name for name in sys.modules if name.startswith('tickrunner_trio')))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    ours = {name.removeprefix("tickrunner_trio").removeprefix(".") for name in loaded}
    assert {name for name in ours if name.startswith("lockers")} == {"lockers", "lockers._memory"}
    assert {"_cluster_health", "_statistics", "bridges"}.isdisjoint(ours)
    assert {name for name in ours if layer_of(name) in ("testing", "edges", "alone")} == set()


@pytest.mark.parametrize("package", ["tickrunner_trio", "tickrunner_trio.lockers"])
def test_a_name_that_is_loaded_on_demand_is_as_good_as_any_other(package: str) -> None:
    program = f"""
import {package} as package
listed = set(dir(package))
assert "PostgresLocker" in listed and "PostgresLocker" not in vars(package)
assert package.PostgresLocker is package.PostgresLocker is vars(package)["PostgresLocker"]
from {package} import PostgresLedger
assert set(dir(package)) >= listed
try:
    package.PostgresLoker
except AttributeError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said == f"module '{package}' has no attribute 'PostgresLoker'\n"


def test_importing_the_package_loads_no_asyncio_that_its_dependencies_have_not() -> None:
    before = "import sys, trio, outcome, opentelemetry.trace, opentelemetry.metrics; before = set(sys.modules)"
    program = f"{before}; import tickrunner_trio; print(*sys.modules.keys() - before)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "tickrunner_trio" in loaded
    assert "asyncio" not in loaded
