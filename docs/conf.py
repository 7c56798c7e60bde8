"""How Sphinx builds these pages. `nox -s docs` makes an error of each warning, and of each name that leads nowhere."""

from __future__ import annotations

from importlib.metadata import version as version_of
from typing import TYPE_CHECKING, Any

from sphinx.ext.napoleon import Config, GoogleDocstring

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "tickrunner_trio"
author = "the tickrunner_trio authors"
copyright = author  # noqa: A001 - Sphinx's name for it
version = release = version_of("tickrunner-trio")

extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
myst_heading_anchors = 3  # headings that links may name, and must if they do
exclude_patterns = ["_build"]

default_role = "py:obj"  # `Name` in a docstring is a reference, and so a promise that the name exists
nitpicky = True
autodoc_member_order = "bysource"
autodoc_class_signature = "separated"
autodoc_default_options = {"members": True, "undoc-members": True, "exclude-members": "__new__, __init__"}
autodoc_typehints = "signature"

# Names of other projects. They are no links: resolving them would need the network at each build.
nitpick_ignore_regex = [
    (r"py:.*", r"(trio|asyncio|outcome|psycopg|opentelemetry|starlette)(\..*)?"),
    (r"py:.*", r"(logging|datetime|collections\.abc|typing|enum|dataclasses|contextlib)(\..*)?"),
    (
        r"py:.*",
        r"(None|True|False|bool|int|float|str|object|BaseException|Exception|TypeError|ValueError|RuntimeError)",
    ),
    (
        r"py:class",
        r"SearchStrategy|ReadableSpan|Starlette|ASGIApp|AbstractContextManager",
    ),  # of others, by the names that signatures show
    (r"py:class", r"Logger"),  # the alias of `_config` for a logger or an adapter
    (r"py:class", r"MadeLocker"),  # the alias of `testing` for a locker, or what gives one on ``async with``
]


def _read_google_style(  # noqa: PLR0917 - as Sphinx calls it
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    # Sphinx's own napoleon does the same to attributes, and takes what stands before the first colon for a type.
    if what not in ("attribute", "data", "property"):
        lines[:] = GoogleDocstring(list(lines), Config(), app, what, name, obj, options).lines()


def _resolve_from_the_top(app: Sphinx, env: Any, node: Any, contnode: Any) -> Any:
    # The docstrings of `tickrunner_trio.testing` name what is imported from above as its readers do.
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or target.startswith("tickrunner_trio."):
        return None
    domain, where = env.get_domain("py"), node.get("refdoc", "")
    for package in ("tickrunner_trio", "tickrunner_trio.testing"):
        if found := domain.resolve_xref(
            env, where, app.builder, node["reftype"], f"{package}.{target}", node, contnode
        ):
            return found
    return None


def setup(app: Sphinx) -> None:
    app.connect("missing-reference", _resolve_from_the_top)
    app.connect("autodoc-process-docstring", _read_google_style)
