"""What everybody who looks sees: all services as JSON, made at most once in `PERIOD` for all of them together."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from ._asked import MAX_AGE
from ._cluster import ClusterWatch, has_ledger
from ._holders import LockWatch
from ._views import as_json, service_view

if TYPE_CHECKING:
    from .. import Service, Supervisor

#: Seconds for which a view is good: the delay that a reader of the stream sees, and the bound on what readers cost.
PERIOD = 0.5


class Board:
    """The services of a supervisor, as they are shown."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self.services = {service.name: service for service in supervisor.services}
        self.locks = LockWatch(supervisor)
        self.cluster = ClusterWatch(supervisor)
        self._made_at: float | None = None
        self._shown = b""

    async def refresh(self, *, max_age: float = MAX_AGE) -> None:
        """Ask the database again what only it knows, if that is older than ``max_age`` seconds."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(self.cluster.refresh, max_age=max_age))
            await self.locks.refresh(max_age=max_age)

    def view(self) -> dict[str, Any]:
        """Return all services as they are now."""
        return {
            "supervisor": self.supervisor.state,
            "services": [self.view_of(service) for service in self.services.values()],
        }

    def view_of(self, service: Service) -> dict[str, Any]:
        """Return one service as it is now."""
        statistics = service.statistics()
        lock = self.locks.of(service, statistics)
        return {
            **service_view(service, service.health(), statistics),
            "lock": lock.state,
            "holder": lock.holder,
            "ledger": has_ledger(service),
            "cluster": self.cluster.of(service),
        }

    def shown(self) -> bytes:
        """Return all services as JSON, as they are now or were less than `PERIOD` ago; equal if nothing has changed."""
        now = time.monotonic()  # which all loops share that look
        if self._made_at is None or now - self._made_at >= PERIOD:
            self._made_at = now
            self._shown = as_json(self.view())
        return self._shown


def utc_now() -> str:
    """Return the time by which readers correct clocks of their own."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
