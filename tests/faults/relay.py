"""A TCP relay between one replica and the server: it can stop forwarding without closing, be slow, and refuse.

What it does not forward it keeps, and forwards when it is healed, as TCP does after packets were dropped: data and the
end of a connection alike. So each side goes on believing in the other.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable


class Relay:
    """See the module. All of it runs in Trio; the faults are plain calls that take effect at once.

    Args:
        target: called for each connection: the host and port to connect to.
        host: where to listen.
    """

    def __init__(self, target: Callable[[], tuple[str, int]], host: str = "127.0.0.1") -> None:
        self.host = host
        self.port = 0
        self._target = target
        self._to_server = _Gate()
        self._to_client = _Gate()
        self._delay: Callable[[], float] | None = None
        self._accepting = _Gate()
        self._listening = trio.CancelScope()
        self._connections: dict[trio.CancelScope, list[trio.SocketStream]] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Relay until cancelled. Started when it listens."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._accepting.passed()
                listeners = await trio.open_tcp_listeners(self.port, host=self.host)
                self.port = listeners[0].socket.getsockname()[1]
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED
                with trio.CancelScope() as self._listening:
                    await trio.serve_listeners(self._serve, listeners, handler_nursery=nursery)

    def partition(self, *, to_server: bool = True, to_client: bool = True) -> None:
        """Stop forwarding in one direction or both, and close nothing."""
        if to_server:
            self._to_server.shut()
        if to_client:
            self._to_client.shut()

    def slow_down(self, delay: Callable[[], float]) -> None:
        """Wait for so many seconds, asked anew each time, before whatever is forwarded."""
        self._delay = delay

    def refuse(self) -> None:
        """Close the listener, and reset all connections on both sides."""
        self._accepting.shut()
        self._listening.cancel()
        for scope, streams in self._connections.items():
            for stream in streams:
                # Closed with this, a socket sends a reset.
                with contextlib.suppress(OSError):
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                stream.socket.close()
            scope.cancel()

    def heal(self) -> None:
        """Take everything back, and forward what was kept."""
        self._delay = None
        for gate in (self._to_server, self._to_client, self._accepting):
            gate.open()

    async def _serve(self, client: trio.SocketStream) -> None:
        with trio.CancelScope() as scope:
            self._connections[scope] = [client]
            try:
                with contextlib.suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                    server = await trio.open_tcp_stream(*self._target())
                    async with client, server, trio.open_nursery() as nursery:
                        self._connections[scope].append(server)
                        nursery.start_soon(self._forward, client, server, self._to_server, scope)
                        nursery.start_soon(self._forward, server, client, self._to_client, scope)
            finally:
                del self._connections[scope]

    async def _forward(
        self, source: trio.SocketStream, sink: trio.SocketStream, gate: _Gate, scope: trio.CancelScope
    ) -> None:
        try:
            while True:
                await gate.passed()
                data = await source.receive_some(65536)
                if self._delay is not None:
                    await trio.sleep(self._delay())
                await gate.passed()  # it may have been shut while we waited
                if not data:
                    await sink.send_eof()
                    return
                await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):  # a reset, which ends both directions
            await gate.passed()
            scope.cancel()


class _Gate:
    """Open or shut."""

    def __init__(self) -> None:
        self._opened = trio.Event()
        self._opened.set()

    def open(self) -> None:
        self._opened.set()

    def shut(self) -> None:
        if self._opened.is_set():
            self._opened = trio.Event()

    async def passed(self) -> None:
        """Wait until it is open."""
        while not self._opened.is_set():
            await self._opened.wait()
