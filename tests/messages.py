"""What the library says when something is wrong, read from its source: errors, and log messages from WARNING on.

Parts that differ from case to case are an ellipsis. What the command line says is left out: each of its lines says
itself what to do.
"""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tickrunner_trio

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(tickrunner_trio.__file__).parent
_ERRORS = {"LockLostError", "DatabaseUnavailableError", "LockerConfigurationError"}
_LEVELS = {"WARNING", "ERROR", "CRITICAL"}
#: Edges, which have words of their own, and what tests with faults that nobody has.
_LEFT_OUT = ("_cli", "_demo", "_local_postgres", "_postgres_binaries", "_postgres_keeper", "testing")


def messages() -> dict[str, set[str]]:
    """The texts by the kind of the error; of log messages, by the level, which is "?" where it differs."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).with_suffix("")
        if name.parts[0].startswith(_LEFT_OUT):
            continue
        module = importlib.import_module(".".join(["tickrunner_trio", *name.parts]).removesuffix(".__init__"))
        for kind, argument in _said(ast.parse(path.read_text(encoding="utf-8"))):
            text = _text(argument, module)
            if re.search("[a-z]{3}", text):  # else it is somebody else's words alone
                found.setdefault(kind, set()).add(text)
    return found


def _said(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func).rpartition(".")[2]
        if called in _ERRORS and node.args:
            yield called, node.args[0]
        elif called == "log_safely":
            level = ast.unparse(node.args[1]).rpartition(".")[2]
            if level in _LEVELS or level == "level":
                yield level if level in _LEVELS else "?", node.args[2]
        elif ast.unparse(node.func) in {"_log.warning", "_log.error", "_log.exception"}:
            yield called.replace("exception", "error").upper(), node.args[0]


def _text(node: ast.expr, module: Any) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return re.sub("%[dgsr]", "…", text)
        case ast.JoinedStr(values=values):
            return "".join(_text(value, module) for value in values)
        case ast.BinOp(left=left):
            return _text(left, module)
        case ast.Name(id=name) if isinstance(getattr(module, name, None), str):
            return re.sub("%[dgsr]", "…", getattr(module, name))
        case ast.FormattedValue(value=value):
            found = _text(value, module)
            return found if len(found) > 1 else "…"
    return "…"
