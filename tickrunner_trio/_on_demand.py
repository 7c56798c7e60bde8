"""Names of a package whose modules are loaded when somebody asks for one (PEP 562): few programs need them."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def on_demand(
    namespace: dict[str, Any], modules: Mapping[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """Return what a package takes for its ``__getattr__``, its ``__dir__`` and its ``__all__``.

    The last is for ``import *``, which asks for no name that it does not find there or loaded already.

    Args:
        namespace: the ``globals()`` of the package.
        modules: by name the module that has it, relative to the package.
    """
    package = namespace["__name__"]

    def get(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name)
        value = namespace[name] = getattr(import_module(modules[name], package), name)
        return value

    def names() -> list[str]:
        return sorted({*namespace, *modules})

    public = [name for name in names() if name[0] != "_" and not isinstance(namespace.get(name), ModuleType)]
    return get, names, public
