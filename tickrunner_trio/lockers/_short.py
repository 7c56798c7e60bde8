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


def checked_conninfo(conninfo: object) -> str:
    """Return ``conninfo`` if it may be a connection string. No error shows it, since it may hold a password.

    Raises:
        TypeError: it is no str.
        ValueError: it holds a NUL.
    """
    if not isinstance(conninfo, str):
        raise TypeError(
            f"conninfo must be a str, got a {type(conninfo).__name__}: write it as 'postgresql://user@host/database'"
        )
    if "\0" in conninfo:
        raise ValueError("conninfo must not contain a NUL character, at which libpq would end it: remove it")
    return conninfo


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
