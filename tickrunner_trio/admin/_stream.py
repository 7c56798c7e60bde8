"""Server-sent events: the board, again whenever it has changed.

There is one board and no queue: each reader looks at it by itself, so one that reads slowly misses states in between
and costs no memory, and one that does not read is dropped. Streams end with the supervisor's drain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from ._board import PERIOD, Board, utc_now
from ._views import as_json

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

#: Readers at once, of one application.
MOST_STREAMS = 32

#: Seconds after which something is sent although nothing has changed, so that both sides notice a dead connection.
HEARTBEAT = 10.0

#: Seconds that a reader may take for what was sent before it is dropped.
SEND_PATIENCE = 5.0

_HEADERS = [(b"content-type", b"text/event-stream"), (b"x-accel-buffering", b"no")]  # or nginx would hoard events


class Streams:
    """The readers of a board."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._open = 0

    @property
    def is_full(self) -> bool:
        """Whether there are as many readers as there may be."""
        return self._open >= MOST_STREAMS

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send the board on and on, until the reader leaves or the supervisor is drained: an ASGI application.

        Raises:
            OSError: the reader is gone, or does not take what it is sent: so the answer stays incomplete.
        """
        self._open += 1
        is_broken_off = False
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_until_gone, receive, tasks.cancel_scope)
                tasks.start_soon(self._keep_fresh)
                await self._send_on(send)
                tasks.cancel_scope.cancel()
        except* OSError:
            is_broken_off = True
        finally:
            self._open -= 1
        if is_broken_off:  # in no group, since servers know an OSError only as it is
            raise OSError("the reader is gone, or does not take what it is sent")

    async def _send_on(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        last, sent_at = b"", anyio.current_time()
        is_over = False
        while not is_over:
            # Asked before the board is made, so that the last event shows the drain.
            is_over = self._board.supervisor.state in ("draining", "drained")
            shown = self._board.shown()
            if shown != last or anyio.current_time() - sent_at >= HEARTBEAT:
                event = b"event: clock\ndata: %b\n\n" % as_json(utc_now())
                if shown != last:
                    event += b"event: board\ndata: %b\n\n" % shown
                with anyio.move_on_after(SEND_PATIENCE) as patience:
                    await send({"type": "http.response.body", "body": event, "more_body": True})
                if patience.cancelled_caught:
                    raise OSError("the reader does not take what it is sent")
                last, sent_at = shown, anyio.current_time()
            if not is_over:
                await anyio.sleep(PERIOD)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _keep_fresh(self) -> None:
        while True:
            await self._board.refresh()
            await anyio.sleep(PERIOD)


async def _until_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
