"""HTTP/1.1 on Trio, by h11, for an ASGI application that few people use and nobody may hold up.

::

    accept -> READING --request complete--> ANSWERING --answer sent--> LINGERING, half-closed, at most LINGER -> closed
                 |                             |
                 +--> READ_TIMEOUT: closed     +--> a send that takes SEND_TIMEOUT: the application gets OSError, closed
                 +--> too long or malformed: 4xx, then as after an answer

    MOST_CONNECTIONS are open and one more comes: the oldest that waits for its client is closed for it: one that is
    READING, LINGERING, or ANSWERING somebody who does not take the answer

Invariants:

1. A connection carries one request: nothing is kept alive, pipelined or left to be taken for the next one.
2. A request is in memory as a whole before the application hears of it, and bounded.
3. Nobody waits for a client for ever: each wait has its bound, and a cancellation ends all of them at once, but for
   answers that are being given: those have END_GRACE more, so that who forced a tick hears of it after the drain.
4. Clients that neither send nor read cannot lock others out, so probes are answered: only answers that are still
   being made stay.
5. No error of a client or of the application ends the server.

Why not a server that there is: Hypercorn's Trio worker sends under a shield without a bound, so that a client which
does not read keeps the process from ending, and does not bound the number of connections; Uvicorn knows asyncio only.
"""

from __future__ import annotations

import contextlib
import logging
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import unquote

import h11
import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from contextlib import AbstractContextManager

    from starlette.types import ASGIApp, Message

MOST_CONNECTIONS = 128

#: Bytes of a request's line and headers; and of its body, which nothing here has a use for.
LONGEST_HEAD = 16 * 1024
LONGEST_BODY = 4 * 1024

#: Lines of a request: of its head, of the sizes of chunks, and of its body. Each header and each chunk is some 3 us of
#: work, which nothing interrupts: of 16 KiB full of them 15 to 30 ms, for which ticks wait, times the connections.
MOST_LINES = 128

#: Seconds from the acceptance of a connection to the end of its request.
READ_TIMEOUT = 5.0

#: Seconds for each piece of an answer.
SEND_TIMEOUT = 5.0

#: Seconds for the client to close after an answer. Closing first, with unread bytes, would destroy the answer.
LINGER = 1.0

#: Seconds for answers that are being given when the server is cancelled.
END_GRACE = 1.0

_STATUSES = frozenset(map(int, HTTPStatus))

_log = logging.getLogger("tickrunner_trio.admin")


async def serve_admin(  # noqa: ASYNC128 - `trio.serve_listeners` calls it
    app: ASGIApp,
    *,
    host: str = "127.0.0.1",
    port: int,
    task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Serve an ASGI application over HTTP until cancelled.

    One request per connection, at most 128 connections, 16 KiB of headers and 4 KiB of body, 128 lines of both, 5
    seconds to send the request and 5 for each piece of the answer to be taken: a client that is slow, idle or hostile
    is dropped, and holds up neither others nor the services. There is no TLS: put a proxy in front where the network
    is not your own.

    Args:
        app: such as `admin_app` returns. It gets no lifespan events, and no WebSockets.
        host: an address or a name of this machine; "127.0.0.1" is reached from this machine only, "0.0.0.0" from all.
        port: 0 for one that the system chooses.
        task_status: started with the listeners, once they accept connections.

    Raises:
        OSError: it cannot listen there.

    Cancellation handling: it accepts no more and closes the connections on which nothing is being answered, at once.
    What is being answered has 1 second to be done, shielded, then it is cancelled as well. To let clients see a drain,
    and what came of ticks that they forced, cancel it when `tickrunner_trio.Supervisor.run` has returned.

    Error handling: logger ``tickrunner_trio.admin``. ERROR: the application raised; its client gets a 500. DEBUG:
    connections that were dropped.
    """
    listeners = await trio.open_tcp_listeners(port, host=host)
    server = _Server(app)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.end_when_cancelled)
        await trio.serve_listeners(server.handle, listeners, handler_nursery=nursery, task_status=task_status)
    raise AssertionError("serve_listeners never returns")  # said for the type


class _Server:
    """The connections of one server."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._open = 0
        self._is_ending = False
        #: Around each connection; shielded, so that its answer may outlast a cancellation for a while.
        self._connections: set[trio.CancelScope] = set()
        #: Around all waiting for clients that may be cut short for others, oldest first; and whether for an answer.
        self._idle: dict[trio.CancelScope, bool] = {}

    async def end_when_cancelled(self) -> None:
        """Wait to be cancelled, then see that all connections end."""
        try:
            await trio.sleep_forever()
        finally:
            self._is_ending = True
            for connection in self._connections:
                connection.deadline = trio.current_time() + END_GRACE
            for waiting, is_answering in self._idle.items():
                if not is_answering:
                    waiting.cancel()

    async def handle(self, stream: trio.SocketStream) -> None:
        """Take one connection to its end."""
        with trio.CancelScope(shield=not self._is_ending) as connection:
            self._connections.add(connection)
            try:
                await self._handle(stream)
            finally:
                self._connections.discard(connection)

    async def _handle(self, stream: trio.SocketStream) -> None:
        self._open += 1
        try:
            is_one_too_many = self._open > MOST_CONNECTIONS and not self._drop_oldest()
            async with stream:
                await self._answer_one(stream, is_refused=is_one_too_many)
        except OSError as error:  # of `getpeername` on a socket that is gone already, for example
            _log.debug("a connection was lost", exc_info=error)
        except trio.BrokenResourceError as error:
            _log.debug("a client went away", exc_info=error)
        except Exception as error:
            _log.error("the admin application's server failed on a connection", exc_info=error)
        finally:
            self._open -= 1

    def _drop_oldest(self) -> bool:
        """Drop the connection that has waited longest for its client; return whether there was one."""
        oldest = next(iter(self._idle), None)
        if oldest is None:
            return False
        del self._idle[oldest]
        oldest.cancel()
        return True

    @contextlib.contextmanager
    def _idle_for(self, seconds: float, *, is_answering: bool = False) -> Generator[trio.CancelScope]:
        """Bound the waiting for a client, which ends as well when its connection is dropped for another one."""
        scope = trio.CancelScope(deadline=trio.current_time() + seconds)
        self._idle[scope] = is_answering
        try:
            with scope:
                yield scope
        finally:
            self._idle.pop(scope, None)

    async def _answer_one(self, stream: trio.SocketStream, *, is_refused: bool) -> None:
        exchange = _Exchange(stream, partial(self._idle_for, is_answering=True))
        request: h11.Request | None = None
        body = b""
        try:
            if is_refused:  # no other could be dropped in its favour
                raise h11.RemoteProtocolError("too many connections", error_status_hint=503)
            with self._idle_for(READ_TIMEOUT):
                request, body = await exchange.read_request()
        except h11.RemoteProtocolError as error:
            await exchange.refuse(
                error.error_status_hint, "the request cannot be taken: malformed, too long or too many"
            )
        else:
            if request is None:
                return  # too slow, or gone, or dropped for another one
            await self._run_app(exchange, request, body)
        with self._idle_for(LINGER):
            await exchange.linger()

    async def _run_app(self, exchange: _Exchange, request: h11.Request, body: bytes) -> None:
        exchange.body = body
        try:
            await self._app(exchange.scope_of(request), exchange.receive, exchange.send)
            if exchange.is_unfinished and not exchange.is_deserted:
                raise RuntimeError("the ASGI application returned before its answer was complete")
        except OSError:
            _log.debug("a client went away, or would not take its answer")
            raise
        except Exception as error:
            _log.error("the ASGI application raised", exc_info=error)
            await exchange.refuse(500, "the application failed")


class _Exchange:
    """One request and its answer on one connection: h11 on one side, ASGI on the other."""

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
