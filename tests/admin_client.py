"""The admin application on a real server, and a client that sends exactly the bytes that a test gives it."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from tickrunner_trio.admin import admin_app, serve_admin

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from tickrunner_trio import Supervisor

TOKEN = "sesame-open-yourself"

#: Seconds after which a test that waits for a server is taken for hung.
PATIENCE = 30.0


@dataclass(frozen=True)
class Answer:
    """What a server said before it closed the connection."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@contextlib.asynccontextmanager
async def served(app: Any) -> AsyncGenerator[int]:
    """Serve an ASGI application on a port of loopback, and yield the port."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(serve_admin, app, port=0))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def running(
    supervisor: Supervisor, *, token: str | None = TOKEN, hosts: tuple[str, ...] = ()
) -> AsyncGenerator[int]:
    """Run the supervisor, serve its admin application, and yield the port."""
    async with trio.open_nursery() as nursery, served(admin_app(supervisor, token=token, hosts=hosts)) as port:
        await nursery.start(supervisor.run)
        yield port
        nursery.cancel_scope.cancel()


def request(
    method: str, path: str, headers: Mapping[str, str] | None = None, *, token: str | None = TOKEN, body: bytes = b""
) -> bytes:
    """The bytes of a request; a header that is given replaces that which would be sent."""
    sent = {"Host": "localhost"}
    if token is not None:
        sent["Authorization"] = f"Bearer {token}"
    if body:
        sent["Content-Length"] = str(len(body))
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in (sent | dict(headers or {})).items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


async def exchange(port: int, sent: bytes) -> Answer:
    """Send the bytes and read the answer to its end."""
    with trio.fail_after(PATIENCE):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(sent)
            return parsed(b"".join([chunk async for chunk in stream]))


async def ask(port: int, method: str, path: str, headers: Mapping[str, str] | None = None, **more: Any) -> Answer:
    """Make a request and return the answer."""
    return await exchange(port, request(method, path, headers, **more))


def parsed(received: bytes) -> Answer:
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return Answer(int(first.split()[1]), headers, body)


class Events:
    """A stream of events that is read one board after another."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._text = ""

    async def next_board(self) -> Any:
        """Return the next board that is sent; None at the end of the stream."""
        with trio.fail_after(PATIENCE):
            while True:
                _, found, after = self._text.partition("event: board\ndata: ")
                line, is_whole, rest = after.partition("\n\n")
                if found and is_whole:
                    self._text = rest
                    return json.loads(line)
                chunk = await self._stream.receive_some()
                if not chunk:
                    return None
                # The sizes of chunks stand on lines of their own, and no event is split: each is one chunk.
                self._text += chunk.decode().replace("\r\n", "\n")

    async def board_where(self, condition: Any) -> Any:
        while not condition(board := await self.next_board()):
            assert board is not None, "the stream ended"
        return board


@contextlib.asynccontextmanager
async def events(port: int) -> AsyncGenerator[Events]:
    """Open the stream of events."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(request("GET", "/api/events"))
        yield Events(stream)
