"""Who holds the locks of the services, as their lockers tell."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from ._asked import MAX_AGE, Asked, refresh
from ._views import holder_view

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .. import Service, ServiceStatistics, Supervisor
    from ..lockers import LockHolder


@runtime_checkable
class TellsHolders(Protocol):
    """A locker that can say who holds its locks, as `PostgresLocker` does."""

    async def holders(self) -> Sequence[LockHolder]:
        """Return the holders of all locks, over all clients."""
        ...


@dataclass(frozen=True, slots=True)
class LockView:
    """What is known of a lock now."""

    state: Literal["held_here", "held_elsewhere", "free", "unknown"]
    holder: dict[str, Any] | None  #: The session that holds it, as JSON; None: nobody, or nobody knows.


@dataclass(frozen=True, slots=True)
class _Told:
    """What one locker said."""

    holders: dict[int, dict[str, Any]]  #: By lock id.
    ours: frozenset[int]  #: The locks that this replica had when it was asked.


class LockWatch:
    """What is known of the locks of a supervisor's services."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._asked: dict[int, Asked[_Told]] = {}
        for service in supervisor.services:
            locker = service.config.locker
            if isinstance(locker, TellsHolders):
                self._asked.setdefault(id(locker), Asked(partial(self._told, locker)))

    def of(self, service: Service, statistics: ServiceStatistics) -> LockView:
        """Return what is known of the lock of a service. It asks nobody."""
        asked = self._asked.get(id(service.config.locker))
        told = None if asked is None else asked.answer
        holder = None if told is None else told.holders.get(service.lock_id)
        was_ours = told is not None and service.lock_id in told.ours
        if statistics.holds_lock:
            return LockView("held_here", holder if was_ours else None)
        if told is None:
            return LockView("unknown", None)
        # Ours when it was asked, and let go of since: whoever has it now, it is not that session.
        return LockView("free", None) if holder is None or was_ours else LockView("held_elsewhere", holder)

    async def refresh(self, *, max_age: float = MAX_AGE) -> None:
        """Ask the lockers again, if what they said is older than ``max_age`` seconds. See `_asked.refresh`."""
        await refresh(self._supervisor, self._asked.values(), max_age=max_age)

    async def _told(self, locker: TellsHolders) -> _Told:
        ours = self._ours()
        holders = {each.lock_id: holder_view(each) for each in await locker.holders()}
        return _Told(holders, ours | self._ours())

    def _ours(self) -> frozenset[int]:
        services = self._supervisor.services
        return frozenset(service.lock_id for service in services if service.statistics().holds_lock)
