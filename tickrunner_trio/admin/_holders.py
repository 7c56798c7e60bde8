"""Who holds the locks of the services: asked of their lockers seldom, and only while somebody looks.

::

    refresh() -> [asked within max_age, or somebody is asking: wait for that at most] -> ask each locker that can tell
                                                                                        | answer     | failure, or slow
                                                                                        v            v
                                                                                      known       unknown, for a while

Nothing of this is on the way of a tick: a locker answers over a connection of its own. A database that hangs costs a
reader `PATIENCE` seconds at most, and a few threads that wait.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import anyio

from ._crossing import NotRunningError, in_trio
from ._views import holder_view

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .. import Service, ServiceStatistics, Supervisor
    from ..lockers import LockHolder

#: Seconds that an answer is good for.
MAX_AGE = 1.0

#: Seconds that a reader waits for it.
PATIENCE = 2.0

#: Seconds before a locker that could not tell is asked again: an outage is no time for more connections.
AFTER_FAILURE = 5.0

_log = logging.getLogger("tickrunner_trio.admin")


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


@dataclass(slots=True)
class _Answer:
    """What one locker said when it was asked last."""

    locker: TellsHolders
    holders: dict[int, dict[str, Any]] | None = None  #: By lock id; None: it could not tell.
    ours: frozenset[int] = frozenset()  #: The locks that this replica had when it was asked.
    good_until: float = -math.inf


class LockWatch:
    """What is known of the locks of a supervisor's services."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._answers: dict[int, _Answer] = {}
        for service in supervisor.services:
            locker = service.config.locker
            if isinstance(locker, TellsHolders):
                self._answers.setdefault(id(locker), _Answer(locker))
        self._asking: anyio.Event | None = None

    def of(self, service: Service, statistics: ServiceStatistics) -> LockView:
        """Return what is known of the lock of a service. It asks nobody."""
        answer = self._answers.get(id(service.config.locker))
        holders = None if answer is None else answer.holders
        holder = None if holders is None else holders.get(service.lock_id)
        was_ours = answer is not None and service.lock_id in answer.ours
        if statistics.holds_lock:
            return LockView("held_here", holder if was_ours else None)
        if holders is None:
            return LockView("unknown", None)
        # Ours when it was asked, and let go of since: whoever has it now, it is not that session.
        return LockView("free", None) if holder is None or was_ours else LockView("held_elsewhere", holder)

    async def refresh(self, *, max_age: float = MAX_AGE) -> None:
        """Ask the lockers again, unless that is less than ``max_age`` seconds ago or they could not tell just now.

        Cancellation handling: who waits for the same answer goes on with what is known.
        """
        if self._asking is not None:
            with anyio.move_on_after(PATIENCE):
                await self._asking.wait()
            return
        now = anyio.current_time()
        due = [each for each in self._answers.values() if now >= each.good_until - (MAX_AGE - max_age)]
        if not due:
            return
        self._asking = anyio.Event()
        try:
            async with anyio.create_task_group() as tasks:
                for answer in due:
                    tasks.start_soon(self._ask, answer)
        finally:
            self._asking.set()
            self._asking = None

    async def _ask(self, answer: _Answer) -> None:
        ours = self._ours()
        found: dict[int, dict[str, Any]] | None = None
        try:
            with anyio.move_on_after(PATIENCE):
                found = {
                    each.lock_id: holder_view(
                        pid=each.pid,
                        application_name=each.application_name,
                        client_address=each.client_address,
                        since=each.session_since,
                    )
                    for each in await in_trio(self._supervisor, answer.locker.holders)
                }
        except NotRunningError:
            pass
        except Exception as error:
            _log.debug("who holds the locks is not known now", exc_info=error)
        answer.holders = found
        answer.ours = ours | self._ours()
        answer.good_until = anyio.current_time() + (AFTER_FAILURE if found is None else MAX_AGE)

    def _ours(self) -> frozenset[int]:
        services = self._supervisor.services
        return frozenset(service.lock_id for service in services if service.statistics().holds_lock)
