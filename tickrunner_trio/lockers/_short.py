"""A connection for one question: the session of the locks does nothing else, and is never asked.

It blocks, so it belongs into a worker thread.
"""

from __future__ import annotations

import selectors
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ._clock import boot_seconds
from ._driver import driver_needed

if TYPE_CHECKING:
    from collections.abc import Generator

    from ._connection import Connection


@contextmanager
def short_connection(conninfo: str) -> Generator[Connection]:
    """Open a connection for the time of the block.

    Raises:
        DatabaseUnavailableError: no server took us now.
        LockerConfigurationError: none will, unless somebody changes something.
    """
    with driver_needed():
        from ._connection import Connection  # noqa: PLC0415  # loads psycopg

    connection = Connection(conninfo, _wait)
    try:
        yield connection
    finally:
        connection.close()


def _wait(fd: int, events: int, deadline: float) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(fd, events)
        return bool(selector.select(max(0.0, deadline - boot_seconds())))
