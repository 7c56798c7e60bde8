"""One request and its answer on one connection: h11 on one side, ASGI on the other.

Invariants:

1. A request is in memory as a whole before the application hears of it, and bounded: in bytes, and in lines before any
   of them is understood.
2. Nothing that comes after the request is understood; so much of it is read and thrown away as the client needs to read
   the answer.

It must not know of other connections, nor for how long one may wait for its client but for a piece of an answer.
"""

from __future__ import annotations

import contextlib
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import h11
import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

    from starlette.types import Message

#: Bytes of a request's line and headers; and of its body, which nothing here has a use for.
LONGEST_HEAD = 16 * 1024
LONGEST_BODY = 4 * 1024

#: Lines of a request: of its head, of the sizes of chunks, and of its body. Each header and each chunk is some 3 us of
#: work, which nothing interrupts: of 16 KiB full of them 15 to 30 ms, for which ticks wait, times the connections.
MOST_LINES = 128

#: Seconds for each piece of an answer.
SEND_TIMEOUT = 5.0

_STATUSES = frozenset(map(int, HTTPStatus))


class Exchange:
    """See the module."""

    def __init__(
        self, stream: trio.SocketStream, idle_for: Callable[[float], AbstractContextManager[trio.CancelScope]]
    ) -> None:
        self._stream = stream
        self._idle_for = idle_for  #: Around each wait for the client to take a part of the answer.
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=LONGEST_HEAD)
        self._start: Message | None = None
        self._is_head = False
        self._left = LONGEST_HEAD  #: Bytes after the request that are read and thrown away.
        self.is_deserted = False  #: Whether the application has been told that the client left.
        self.body: bytes | None = None  #: Of the request; None once the application has had it.

    # What the client sends.

    async def read_request(self) -> tuple[h11.Request | None, bytes]:
        """Return a whole request; None for its head if the client closed before it was complete.

        Raises:
            h11.RemoteProtocolError: it is malformed or too long.
        """
        request: h11.Request | None = None
        body = b""
        lines = 0
        while True:  # noqa: ASYNC913 - each turn takes one of a few events, or waits for the client
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                if self._http.they_are_waiting_for_100_continue:
                    await self._send(h11.InformationalResponse(status_code=100, headers=[]))
                data = await self._stream.receive_some(LONGEST_HEAD)
                lines += data.count(b"\n")
                if lines > MOST_LINES:  # before they are understood, which is what takes time
                    raise h11.RemoteProtocolError("the request has too many lines", error_status_hint=431)
                self._http.receive_data(data)
            elif isinstance(event, h11.Request):
                self._is_head = event.method == b"HEAD"
                if not event.target.startswith(b"/") or event.http_version not in (b"1.0", b"1.1"):
                    raise h11.RemoteProtocolError("no request for a path by HTTP/1")
                request = event
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > LONGEST_BODY:
                    raise h11.RemoteProtocolError("the body is too long", error_status_hint=413)
            elif isinstance(event, h11.EndOfMessage):
                return request, body
            else:
                return None, b""

    def scope_of(self, request: h11.Request) -> dict[str, Any]:
        """Return the request as ASGI has it."""
        target, _, query = request.target.partition(b"?")
        client, server = self._stream.socket.getpeername(), self._stream.socket.getsockname()
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},  # 2.4: `send` raises OSError when the client is gone
            "http_version": request.http_version.decode("ascii"),
            "method": request.method.decode("ascii"),
            "scheme": "http",
            "path": unquote(target.decode("ascii")),
            "raw_path": target,
            "query_string": query,
            "root_path": "",
            "headers": [(bytes(name), bytes(value)) for name, value in request.headers],
            "client": client[:2],
            "server": server[:2],
        }

    async def receive(self) -> Message:
        """Give the application the body, then wait for the client to leave.

        A half-close looks the same as leaving until something is sent. It ends what the application does until its
        client leaves, such as a stream of events; any other answer reaches a client that half-closed.
        """
        if self.body is not None:
            body, self.body = self.body, None
            return {"type": "http.request", "body": body, "more_body": False}
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            # What comes after the request is nobody's; from one who sends much of it, that is as good as leaving.
            while self._left > 0 and (data := await self._stream.receive_some(LONGEST_HEAD)):
                self._left -= len(data)
        self.is_deserted = True
        return {"type": "http.disconnect"}

    # What the client gets.

    @property
    def is_unfinished(self) -> bool:
        """Whether the answer is not complete."""
        return self._http.our_state in (h11.SEND_RESPONSE, h11.SEND_BODY)

    async def send(self, message: Message) -> None:
        """Send a part of the application's answer.

        Raises:
            OSError: the client is gone, or does not take it, in time or before others need its connection.
        """
        try:
            with self._idle_for(SEND_TIMEOUT) as waiting:
                await self._send_part(message)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise OSError("the client is gone") from error
        if waiting.cancelled_caught:
            raise OSError("the client does not take its answer")

    async def _send_part(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            await trio.lowlevel.checkpoint()
            return
        start, self._start = self._start, None
        if start is not None:
            await self._send(_response(start["status"], start.get("headers", ())))
        if (body := message.get("body", b"")) and not self._is_head:
            await self._send(h11.Data(data=body))
        if not message.get("more_body", False):
            await self._send(h11.EndOfMessage())

    async def refuse(self, status: int, reason: str) -> None:
        """Answer with a line of text, if no answer has begun; otherwise break off, which the client can tell."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        text = f"{reason}\n".encode()
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(text))]
        with self._idle_for(SEND_TIMEOUT):
            await self._send(_response(status, headers))
            if not self._is_head:
                await self._send(h11.Data(data=text))
            await self._send(h11.EndOfMessage())

    async def linger(self) -> None:
        """Let the client read the answer to its end and close first."""
        with contextlib.suppress(trio.BrokenResourceError):
            await self._stream.send_eof()
            while self._left > 0 and (data := await self._stream.receive_some(LONGEST_HEAD)):
                self._left -= len(data)

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        await self._stream.send_all(data or b"")


def _response(status: int, headers: Iterable[tuple[bytes, bytes]]) -> h11.Response:
    phrase = HTTPStatus(status).phrase if status in _STATUSES else ""
    own = [(b"date", formatdate(usegmt=True).encode("ascii")), (b"connection", b"close")]
    return h11.Response(status_code=status, headers=[*headers, *own], reason=phrase.encode("ascii"))
