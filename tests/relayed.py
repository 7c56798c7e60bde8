"""A way to the server that a test can cut: the relay of the fault campaign, for one connection string."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from faults.relay import Relay
from psycopg.conninfo import conninfo_to_dict, make_conninfo

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


@asynccontextmanager
async def relayed(dsn: str) -> AsyncGenerator[tuple[Relay, str]]:
    """A relay to the server, and the connection string that leads through it."""
    where = conninfo_to_dict(dsn)
    host, port = str(where.get("hostaddr") or where["host"]), int(where.get("port") or 5432)
    if host.startswith("/"):
        pytest.skip("the relay speaks TCP, and TICKRUNNER_TEST_DSN names a Unix socket")
    relay = Relay(lambda: (host, port))
    async with trio.open_nursery() as nursery:
        await nursery.start(relay.run)
        yield relay, make_conninfo(dsn, host=relay.host, hostaddr=relay.host, port=relay.port)
        nursery.cancel_scope.cancel()
