"""What the ledger tells of the services over all replicas: the rows as they were when somebody looked last."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..abc import HasLedger
from ._asked import MAX_AGE, Asked, refresh
from ._views import cluster_view

if TYPE_CHECKING:
    from .. import Service, Supervisor


class ClusterWatch:
    """What is known of a supervisor's services over all replicas."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._rows = Asked(self._ask)
        self.has_any = any(map(has_ledger, supervisor.services))  #: Whether there is anything to ask.

    def of(self, service: Service) -> dict[str, Any] | None:
        """Return the row of a service, as JSON; None if it has no ledger, or nobody can tell now. It asks nobody."""
        return None if self._rows.answer is None else self._rows.answer.get(service.name)

    async def refresh(self, *, max_age: float = MAX_AGE) -> None:
        """Ask again, if what is known is older than ``max_age`` seconds. See `_asked.refresh`."""
        await refresh(self._supervisor, [self._rows] if self.has_any else [], max_age=max_age)

    async def _ask(self) -> dict[str, dict[str, Any]]:
        return {row.name: cluster_view(row) for row in await self._supervisor.cluster_health()}


def has_ledger(service: Service) -> bool:
    """Whether the locker of a service keeps a ledger."""
    locker = service.config.locker
    return isinstance(locker, HasLedger) and locker.ledger is not None
