"""The check has teeth: it convicts each locker of the gallery of the promise that it breaks, and the honest one not.

And each of its teeth bites: without any single one, a locker of the gallery would go free, or be told something else.
"""

from __future__ import annotations

import ast
from pathlib import Path
from types import ModuleType

import pytest
from locker_gallery import GALLERY, HonestLocker, Store
from scripted import virtually

from tickrunner_trio.testing import (
    BrokenPromiseError,
    LockerReport,
    _cancellation_promises,
    _conformance,
    _loss_promises,
    _promises,
    check_advisory_locker,
)
from tickrunner_trio.testing._promise import Promise


def checked(kind: type[HonestLocker]) -> LockerReport:
    store = Store()

    async def lose(locker: HonestLocker, lock_id: int) -> None:
        locker.store.lose(lock_id)

    async def main() -> LockerReport:
        return await check_advisory_locker(
            lambda: kind(store), shared=True, lose=lose, held_for=3600, at_once=20, patience=120
        )

    report: LockerReport = virtually(main)
    return report


def test_the_honest_locker_keeps_every_promise() -> None:
    assert checked(HonestLocker).skipped == ()


@pytest.mark.parametrize("kind", GALLERY, ids=lambda kind: kind.__name__)
def test_a_bug_is_found_by_the_promise_that_it_breaks(kind: type[HonestLocker]) -> None:
    with pytest.raises(BrokenPromiseError) as caught:
        checked(kind)
    assert caught.value.promise == kind.promise, str(caught.value)
    assert kind.seen in caught.value.seen


def test_every_promise_catches_a_bug_that_all_before_it_let_through() -> None:
    assert {kind.promise for kind in GALLERY} == set(checked(HonestLocker).checked)


# Each single check.

MODULES = {
    "PROMISES": _promises,
    "CANCELLATION_PROMISES": _cancellation_promises,
    "LOSS_PROMISES": _loss_promises,
}

#: Of these, the wait is the point: the calls that follow would find the same, and might come too early.
WAITS = {
    ("CANCELLATION_PROMISES", "_cancelled_at_the_end", 0),
    ("LOSS_PROMISES", "passes_what_fn_raises_during_a_loss", 0),
    ("LOSS_PROMISES", "leaves_the_next_holder_alone", 0),
}


def is_check(node: ast.AST) -> bool:
    if not isinstance(node, ast.Expr):
        return False
    call = node.value.value if isinstance(node.value, ast.Await) else node.value
    return isinstance(call, ast.Call) and ast.unparse(call.func).startswith(("require", "trial.expect_"))


def source_of(module: ModuleType) -> str:
    assert module.__file__ is not None
    return Path(module.__file__).read_text(encoding="utf-8")


def functions_of(tree: ast.Module) -> list[ast.AsyncFunctionDef]:
    return [node for node in tree.body if isinstance(node, ast.AsyncFunctionDef)]


def checks() -> list[tuple[str, str, int]]:
    """Each check: the promises of its module, its function, and its place there."""
    return [
        (name, function.name, place)
        for name, module in MODULES.items()
        for function in functions_of(ast.parse(source_of(module)))
        for place in range(sum(is_check(node) for node in ast.walk(function)))
    ]


def without(module: ModuleType, function: str, place: int) -> tuple[ModuleType, set[str]]:
    """The module without one of its checks, and the promises that this may concern."""
    tree = ast.parse(source_of(module))
    functions = {node.name: node for node in functions_of(tree)}
    check = [node for node in ast.walk(functions[function]) if is_check(node)][place]

    class Removing(ast.NodeTransformer):
        def visit_Expr(self, node: ast.Expr) -> ast.AST:
            return ast.copy_location(ast.Pass(), node) if node is check else self.generic_visit(node)

    changed = ModuleType(module.__name__)
    vars(changed).update(__package__=module.__package__)
    exec(compile(ast.fix_missing_locations(Removing().visit(tree)), f"<{module.__name__}>", "exec"), vars(changed))
    users = [
        name
        for name, node in functions.items()
        if name == function or function in {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    ]
    promises = [getattr(changed, name) for name in users]
    return changed, {promise.sentence for promise in promises if isinstance(promise, Promise)}


def is_convicted(kind: type[HonestLocker]) -> bool:
    try:
        checked(kind)
    except BrokenPromiseError as error:
        return error.promise == kind.promise and kind.seen in error.seen
    except Exception:  # what the check stumbles over without one of its own
        return False
    return False


@pytest.mark.parametrize(("name", "function", "place"), checks())
def test_without_any_one_check_a_bug_would_go_free(
    name: str, function: str, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed, concerned = without(MODULES[name], function, place)
    monkeypatch.setattr(_conformance, name, getattr(changed, name))
    suspects = [kind for kind in GALLERY if kind.promise in concerned]
    assert suspects
    assert all(is_convicted(kind) for kind in suspects) == ((name, function, place) in WAITS)
