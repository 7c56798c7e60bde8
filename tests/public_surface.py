"""What other programs are written against, as text: ``python tests/public_surface.py`` writes `public_surface.txt`.

A change of the file is a change of the interface, and is reviewed as one. It lists the public names of each public
module with their signatures, the fixtures, and the command line. Of a class it lists what our own code defines; what
comes from elsewhere (enum, logging, Hypothesis) is left to those.
"""

from __future__ import annotations

import argparse
import dataclasses
import enum
import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tickrunner_trio import _cli

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed import DataclassInstance

FILE = Path(__file__).parent / "public_surface.txt"
MODULES = ("", ".abc", ".lockers", ".bridges", ".admin", ".testing", ".testing.strategies", ".testing.pytest_plugin")


class _AsWritten(str):
    """An annotation that is shown without quotes around it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def surface() -> str:
    """Return the whole text."""
    shown: dict[int, str] = {}  # what stands further up already, by identity
    lines = [line for name in MODULES for line in _module(f"tickrunner_trio{name}", shown)]
    return "\n".join([*lines, *_command_line(), ""])


def _module(name: str, shown: dict[int, str]) -> Iterator[str]:
    yield f"# {name}\n"
    module = importlib.import_module(name)
    if hasattr(module, "__version__"):
        yield "__version__: str"
    for each in sorted(getattr(module, "__all__", None) or _public_names(module)):
        value = getattr(module, each)
        if id(value) in shown:
            yield f"{each} = {shown[id(value)]}"
        else:
            shown[id(value)] = f"{name}.{each}"
            yield from _name(each, value)
    yield ""


def _public_names(module: ModuleType) -> Iterator[str]:
    """The names of a module without ``__all__``: a package offers what it takes from below, another what it defines."""
    is_package = hasattr(module, "__path__")
    for name in dir(module):
        value = getattr(module, name)
        home = getattr(value, "__module__", module.__name__)
        if name.startswith(("_", "pytest_")) or isinstance(value, ModuleType | bool):
            continue
        if home.startswith("tickrunner_trio") if is_package else home == module.__name__:
            yield name


def _name(name: str, value: Any) -> Iterator[str]:
    if inspect.isclass(value):
        bases = [each.__name__ for each in value.__bases__ if each is not object and not each.__name__.startswith("_")]
        yield f"class {name}" + (f"({', '.join(bases)})" if bases else "")
        yield from (f"    {line}" for line in _members(value))
    elif type(value).__name__ == "FixtureFunctionDefinition":
        yield f"fixture {name} -> {inspect.get_annotations(inspect.unwrap(value))['return']}"
    elif callable(value):
        yield _function(name, value)
    else:
        yield f"{name} = {value!r}"


def _members(value: type) -> Iterator[str]:
    if issubclass(value, enum.Enum):
        yield from (f"{member.name} = {member.value!r}" for member in value)
    elif dataclasses.is_dataclass(value):
        yield from _fields(value)
    elif "__init__" in {name for each in _ours(value) for name in vars(each)} and not _is_protocol(value):
        yield f"__init__{_signature(value)}"
    fields = {each.name for each in dataclasses.fields(value)} if dataclasses.is_dataclass(value) else set()
    members = {name: member for each in _ours(value) for name, member in _public(each)}
    yield from (_member(name, members[name]) for name in sorted(members.keys() - fields))


def _ours(value: type) -> list[type]:
    return [each for each in reversed(value.__mro__) if each.__module__.startswith("tickrunner_trio")]


def _is_protocol(value: type) -> bool:
    return bool(getattr(value, "_is_protocol", False))


def _fields(value: type[DataclassInstance]) -> Iterator[str]:
    """The fields of a dataclass as its parameters would read: after ``*`` those that are given by name only."""
    fields = sorted(dataclasses.fields(value), key=lambda each: bool(each.kw_only))
    for number, each in enumerate(fields):
        if each.kw_only and not (number and fields[number - 1].kw_only):
            yield "*"
        is_required = each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
        default = "..." if each.default is dataclasses.MISSING else repr(_default(each.default))
        yield f"{each.name}: {each.type}" + ("" if is_required else f" = {default}")


def _public(value: type) -> Iterator[tuple[str, Any]]:
    """What a class itself defines, methods and properties and annotated attributes, by name."""
    for name, annotation in inspect.get_annotations(value).items():
        if not name.startswith("_"):
            yield name, getattr(annotation, "__forward_arg__", annotation)
    for name, member in vars(value).items():
        is_shown = name in ("__aenter__", "__call__") or not name.startswith("_")
        if is_shown and (isinstance(member, property | classmethod | staticmethod) or inspect.isroutine(member)):
            yield name, member


def _member(name: str, member: Any) -> str:
    if isinstance(member, str):
        return f"{name}: {member}"
    if isinstance(member, property):
        assert member.fget is not None
        return f"{name}: {inspect.get_annotations(member.fget)['return']}"
    return _function(name, getattr(member, "__func__", member))


def _function(name: str, function: Any) -> str:
    is_async = inspect.iscoroutinefunction(inspect.unwrap(function))
    return f"{'async def' if is_async else 'def'} {name}{_signature(function)}"


def _signature(value: Any) -> str:
    signature = inspect.signature(value)
    parameters = [
        each.replace(annotation=_as_written(each.annotation), default=_default(each.default))
        for each in signature.parameters.values()
    ]
    return str(signature.replace(parameters=parameters, return_annotation=_as_written(signature.return_annotation)))


def _as_written(annotation: Any) -> Any:
    return _AsWritten(annotation) if isinstance(annotation, str) else annotation


def _default(value: Any) -> Any:
    """A default as its definition would read, without the addresses that some objects show."""
    if value is inspect.Parameter.empty or (isinstance(value, str) and not isinstance(value, enum.Enum)):
        return value
    if isinstance(value, enum.Enum):
        return _AsWritten(f"{type(value).__name__}.{value.name}")
    if isinstance(value, tuple):
        return _AsWritten(f"({', '.join(each.__name__ if inspect.isclass(each) else repr(each) for each in value)})")
    return _AsWritten(re.sub(r" at 0x\w+|object ", "", repr(value)))


def _command_line() -> Iterator[str]:
    yield "# tickrunner\n"
    yield from _parser("tickrunner", _cli._parser())


def _parser(prog: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    below: dict[str, argparse.ArgumentParser] = {}
    words: list[str] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            below = action.choices
        elif action.option_strings:
            words.append("|".join(action.option_strings) + ("" if action.nargs == 0 else f" {_metavar(action)}"))
        else:
            words.append(f"[{_metavar(action)}]" if action.nargs in ("?", "*") else _metavar(action))
    yield " ".join([prog, *(f"[{word}]" if word.startswith("-") else word for word in words)])
    for name, each in below.items():
        yield from _parser(f"{prog} {name}", each)


def _metavar(action: argparse.Action) -> str:
    return "|".join(map(str, action.choices)) if action.choices else str(action.metavar or action.dest.upper())


if __name__ == "__main__":  # pragma: no cover - by hand; a test says whether it is to be done
    FILE.write_text(surface(), encoding="utf-8")
