"""From ``module:attribute`` to services. A mistake on the way is one line that tells whose it is and how to mend it.

The attribute is one of two things: a list of services, or a function without required arguments that returns an async
context manager of such a list, so that it can open what the services share. A module that cannot be found is told
apart from a module that was found and failed while it was imported.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import math
import sys
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

import trio

from . import Service
from ._cli_errors import CommandError, UsageError, first_leaf, only_leaf, told
from ._cli_text import safely

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    #: What `load` returns. Entering it may raise `CommandError`, in a group if the user's own nursery is around it.
    OpenServices: TypeAlias = Callable[[], AbstractAsyncContextManager[Sequence[Service]]]

_EXAMPLE = "write it as module:attribute, for example myapp.background:services"


def load(target: str) -> OpenServices:
    """Import the module of ``module:attribute`` and return what opens the services that the attribute stands for.

    The current directory is put in front of the import path, as ``python -m`` does, which does not either where
    ``PYTHONSAFEPATH`` or ``-P`` says so. Dots in the attribute descend.

    Raises:
        UsageError: the target is no ``module:attribute``, or its module or attribute cannot be had, or is of no use.
    """
    module_name, colon, attribute = target.partition(":")
    if not (colon and module_name and attribute):
        raise UsageError(f"{target!r} does not name services: {_EXAMPLE}")
    value = _attribute(_module(module_name), module_name, attribute)
    if isinstance(value, Service):
        raise UsageError(f"{target} is one Service, not a list: write {attribute} = [...] around it")
    if _items(value) is not None:
        services = _checked(target, value)
        return lambda: contextlib.nullcontext(services)
    factory = _checked_factory(target, value)
    return lambda: _opened(target, factory)


def _module(name: str) -> object:
    if not all(name.split(".")):
        raise UsageError(f"{name!r} is not an absolute module name: {_EXAMPLE}")
    here = str(Path.cwd())
    if here not in sys.path and not sys.flags.safe_path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Only the name that was asked for, or a package on the way to it, is a mistake of the command line.
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise UsageError(
                f"there is no module {error.name!r} in {here} or on the import path: "
                "correct the name, or change to the directory that holds it"
            ) from error
        raise UsageError(f"module {name!r} cannot be imported: {told(error)}: mend it there") from error
    except SystemExit as error:
        raise UsageError(
            f"module {name!r} exits when it is imported: {told(error)}: put that behind if __name__ == '__main__'"
        ) from error
    except BaseException as error:
        if first_leaf(error, KeyboardInterrupt) is not None:
            raise
        raise UsageError(f"module {name!r} cannot be imported: {told(only_leaf(error))}: mend it there") from error  # noqa: ASYNC104 - outside of Trio


def _items(value: object) -> Sequence[object] | None:
    """Return the value if it is a list of anything, or the like; None if it is something else."""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return cast("Sequence[object]", value)
    return None


def _attribute(module: object, module_name: str, attribute: str) -> object:
    value = module
    for name in attribute.split("."):
        try:
            value = getattr(value, name)
        except AttributeError as error:
            known = getattr(module, "__dict__", {})
            usable = sorted(name for name, it in known.items() if not name.startswith("_") and _looks_usable(it))
            hint = f"it has {', '.join(usable)}" if usable else "define it there"
            raise UsageError(f"module {module_name!r} has no attribute {attribute!r}: {hint}") from error
        except Exception as error:
            raise UsageError(
                f"attribute {attribute!r} of module {module_name!r} cannot be had: {told(only_leaf(error))}: "
                "mend it there"
            ) from error
    return value


def _looks_usable(value: object) -> bool:
    """Whether a name of the module may be what was meant: a list of services, or a context manager function."""
    if (items := _items(value)) is not None:
        return len(items) > 0 and all(isinstance(item, Service) for item in items)
    return inspect.isfunction(value) and inspect.isasyncgenfunction(inspect.unwrap(value))


def _checked_factory(target: str, value: object) -> Callable[[], object]:
    decorate = "decorate it with @contextlib.asynccontextmanager and let it yield the list"
    if inspect.isasyncgenfunction(value) or inspect.iscoroutinefunction(value):
        raise UsageError(f"{target} is an async function that no context manager is made of: {decorate}")
    if not callable(value):
        raise UsageError(
            f"{target} is {safely(repr, value)}: "
            "it must be a list of Service, or an async context manager function that yields one"
        )
    try:
        inspect.signature(value).bind()
    except TypeError as error:
        raise UsageError(f"{target} cannot be called without arguments: {error}: give them defaults") from error
    except ValueError:
        pass  # Some callables written in C have no signature; calling it will tell.
    return value


@contextlib.asynccontextmanager
async def _opened(target: str, factory: Callable[[], object]) -> AsyncGenerator[Sequence[Service]]:
    has_run = False
    try:
        async with contextlib.AsyncExitStack() as stack:
            services = await _entered(target, factory, stack)
            yield _checked(target, services)
            has_run = True
    except* CommandError:
        raise
    except* Exception as errors:
        # Its own background task cancels what runs within it; otherwise only we do.
        is_closing = has_run or trio.current_effective_deadline() == -math.inf
        when = "was closed" if is_closing else "ran"
        raise CommandError(f"{target} failed while it {when}: {told(only_leaf(errors))}", status=1) from errors


async def _entered(target: str, factory: Callable[[], object], stack: contextlib.AsyncExitStack) -> object:
    try:
        manager = factory()
        if _items(manager) is not None:
            raise UsageError(
                f"{target} is a function that returns a list: name the list itself, or let the function yield it "
                "and decorate it with @contextlib.asynccontextmanager"
            )
        if not isinstance(manager, AbstractAsyncContextManager):
            raise UsageError(
                f"{target} returned {safely(repr, manager)}, which is no async context manager: "
                "decorate an async generator function with @contextlib.asynccontextmanager"
            )
        return await stack.enter_async_context(cast("AbstractAsyncContextManager[object]", manager))
    except UsageError:
        raise
    except Exception as error:
        cause = only_leaf(error)
        # The library and most others refuse a wrong value with these two: no second attempt will do better.
        status = 2 if isinstance(cause, TypeError | ValueError) else 1
        raise CommandError(f"{target} cannot be opened: {told(cause)}", status=status) from error


def _checked(target: str, services: object) -> Sequence[Service]:
    items = _items(services)
    if items is None:
        raise UsageError(f"{target} gives {safely(repr, services)}: it must give a list of Service")
    checked: list[Service] = []
    for number, item in enumerate(items):
        if not isinstance(item, Service):
            raise UsageError(f"{target} gives {safely(repr, item)} at index {number}: every item must be a Service")
        checked.append(item)
    if not checked:
        raise UsageError(f"{target} gives no services: put at least one Service into the list")
    return checked
