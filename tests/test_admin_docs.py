"""docs/admin.md says what the code does: every route and bound, and blocks of Python that run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio
from admin_client import TOKEN, ask, served

from tickrunner_trio import Config, MemoryLocker, Service, Supervisor, Tick
from tickrunner_trio.admin import _app, _asked, _board, _exchange, _guard, _serving, _stream, _views, admin_app

if TYPE_CHECKING:
    import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "admin.md").read_text(encoding="utf-8")


async def succeed(tick: Tick) -> None:
    """Do nothing."""


def a_supervisor() -> Supervisor:
    return Supervisor([Service(Config(name="sweep", interval=60, locker=MemoryLocker(), work=succeed))])


def namespace() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL):
        exec(block, found)
    return found


async def test_its_mounted_application_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKRUNNER_ADMIN_TOKEN", TOKEN)
    supervisor = a_supervisor()
    async with served(namespace()["web_application"](supervisor)) as port:
        assert (await ask(port, "GET", "/admin/readyz", token=None)).status == 503
        assert (await ask(port, "GET", "/admin/api/services", {"Host": "ops.example.com"})).status == 200


async def test_its_server_ends_with_the_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor = a_supervisor()
    found = namespace()
    serve_admin = found["serve_admin"]

    async def on_a_free_port(app: Any, *, port: int, task_status: Any) -> None:
        await serve_admin(app, port=0, task_status=task_status)

    found["serve_admin"] = on_a_free_port
    async with trio.open_nursery() as nursery:
        nursery.start_soon(found["run"], supervisor, TOKEN)
        while supervisor.state != "running":
            await trio.lowlevel.checkpoint()
        supervisor.drain()


def test_its_table_is_that_of_the_module_and_of_the_routes() -> None:
    def table(text: str) -> set[str]:
        return set(re.findall(r"^(?:\| `|``)((?:GET|POST) [^`]+)`", text, flags=re.MULTILINE))

    assert _app.__doc__ is not None
    assert table(PAGE) == table(_app.__doc__)
    routes = admin_app(a_supervisor()).routes
    inner: Any = routes[-1]
    paths: set[str] = {route.path for route in [*routes[:-1], *inner.routes]}  # type: ignore[attr-defined]
    assert {each.split()[1] for each in table(PAGE)} == paths


def test_its_bounds_are_those_of_the_code() -> None:
    text = " ".join(PAGE.split())
    assert f"{_serving.MOST_CONNECTIONS} connections, {_exchange.LONGEST_HEAD // 1024} KiB of headers" in text
    assert f"{_exchange.LONGEST_BODY // 1024} KiB of body, {_exchange.MOST_LINES} lines of both" in text
    assert f"of at most {_guard.LONGEST_BODY // 1024} KiB, or none" in text
    assert f"{_serving.READ_TIMEOUT:g} seconds for a request and {_exchange.SEND_TIMEOUT:g} for each piece" in text
    assert f"{_stream.MOST_STREAMS} readers of events" in text
    assert f"cut after {_views.LONGEST_ERROR} characters" in text
    assert (_board.PERIOD, _asked.MAX_AGE) == (0.5, 1.0)
    assert "at most half a second old, holders and rows a second more" in text
    assert _serving.serve_admin.__doc__ is not None
    docstring = " ".join(_serving.serve_admin.__doc__.split())
    assert (
        f"at most {_serving.MOST_CONNECTIONS} connections, {_exchange.LONGEST_HEAD // 1024} KiB of headers" in docstring
    )
