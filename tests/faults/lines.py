"""JSON lines over pipes: how the campaign and a replica talk."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import trio


class Lines:
    """Reads one line after the other."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._rest = b""

    async def read(self) -> dict[str, Any] | None:
        """Return the next line, decoded; None at the end."""
        while b"\n" not in self._rest:
            data = await self._stream.receive_some(65536)
            if not data:
                return None
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        decoded: dict[str, Any] = json.loads(line)
        return decoded


def line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"
