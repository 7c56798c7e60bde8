"""The connections of an HTTP/1.1 server on Trio, for an ASGI application that few use and nobody may hold up.

::

    accept -> READING --request complete--> ANSWERING --answer sent--> LINGERING, half-closed, at most LINGER -> closed
                 |                             |
                 +--> READ_TIMEOUT: closed     +--> a send that takes SEND_TIMEOUT: the application gets OSError, closed
                 +--> too long or malformed: 4xx, then as after an answer

    MOST_CONNECTIONS are open and one more comes: the oldest that waits for its client is closed for it: one that is
    READING, LINGERING, or ANSWERING somebody who does not take the answer

Invariants:

1. A connection carries one request: nothing is kept alive, pipelined or left to be taken for the next one.
2. Nobody waits for a client for ever: each wait has its bound, and a cancellation ends all of them at once, but for
   answers that are being given: those have END_GRACE more, so that who forced a tick hears of it after the drain.
3. Clients that neither send nor read cannot lock others out, so probes are answered: only answers that are still
   being made stay.
4. No error of a client or of the application ends the server.

Why not a server that there is: Hypercorn's Trio worker sends under a shield without a bound, so that a client which
does not read keeps the process from ending, and does not bound the number of connections; Uvicorn knows asyncio only.
"""

from __future__ import annotations

import contextlib
import logging
from functools import partial
from typing import TYPE_CHECKING, NoReturn

import h11
import trio

from ._exchange import Exchange

if TYPE_CHECKING:
    from collections.abc import Generator

    from starlette.types import ASGIApp

MOST_CONNECTIONS = 128

#: Seconds from the acceptance of a connection to the end of its request.
READ_TIMEOUT = 5.0

#: Seconds for the client to close after an answer. Closing first, with unread bytes, would destroy the answer.
LINGER = 1.0

#: Seconds for answers that are being given when the server is cancelled.
END_GRACE = 1.0

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
        exchange = Exchange(stream, partial(self._idle_for, is_answering=True))
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

    async def _run_app(self, exchange: Exchange, request: h11.Request, body: bytes) -> None:
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
