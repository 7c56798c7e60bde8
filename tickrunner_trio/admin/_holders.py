"""Who holds the locks of the services: asked of their lockers seldom, and only while somebody looks.

::

    refresh() -> [asked within max_age, or being asked: wait for that at most] -> ask each locker that can tell
                                                                                    | answer     | failure, or slow
                                                                                    v            v
                                                                                  known       unknown, for a while

Nothing of this is on the way of a tick: a locker answers over a connection of its own. It is asked in a Trio task of
its own, one at a time, which readers wait for: a database that hangs costs a reader `PATIENCE` seconds at most, and one
task, however many come and leave. Readers may be in any loop, or in several.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import anyio
import anyio.lowlevel
import trio

from ._crossing import NotRunningError, begun_in_trio, result_of
from ._views import holder_view

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

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
    good_until: float = -math.inf  #: On the monotonic clock, which all loops share; so is the next one.
    asked_at: float = -math.inf
    asking: Future[None] | None = None  #: Done when it has answered; None: it was never asked.


class LockWatch:
    """What is known of the locks of a supervisor's services."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._answers: dict[int, _Answer] = {}
        for service in supervisor.services:
            locker = service.config.locker
            if isinstance(locker, TellsHolders):
                self._answers.setdefault(id(locker), _Answer(locker))

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

        Cancellation handling: the lockers go on to answer, for whoever asks next.
        """
        waiting: list[Future[None]] = []
        patience_ends_at = -math.inf
        for answer in self._answers.values():
            if answer.asking is None or answer.asking.done():
                if time.monotonic() < answer.good_until - (MAX_AGE - max_age):
                    continue
                answer.asked_at = time.monotonic()
                answer.asking = begun_in_trio(self._supervisor, self._ask, answer)
            waiting.append(answer.asking)
            patience_ends_at = max(patience_ends_at, answer.asked_at + PATIENCE)
        with anyio.move_on_after(max(0.0, patience_ends_at - time.monotonic())):
            await anyio.lowlevel.checkpoint()
            for asking in waiting:
                with contextlib.suppress(NotRunningError):
                    await result_of(asking)
        for answer in self._answers.values():
            if answer.asking in waiting and (not answer.asking.done() or answer.asking.exception() is not None):
                answer.holders = None

    async def _ask(self, answer: _Answer) -> None:
        ours = self._ours()
        found: dict[int, dict[str, Any]] | None = None
        try:
            with trio.move_on_after(PATIENCE):
                found = {
                    each.lock_id: holder_view(
                        pid=each.pid,
                        application_name=each.application_name,
                        client_address=each.client_address,
                        since=each.session_since,
                    )
                    for each in await answer.locker.holders()
                }
        except Exception as error:
            _log.debug("who holds the locks is not known now", exc_info=error)
        answer.holders = found
        answer.ours = ours | self._ours()
        answer.good_until = time.monotonic() + (AFTER_FAILURE if found is None else MAX_AGE)

    def _ours(self) -> frozenset[int]:
        services = self._supervisor.services
        return frozenset(service.lock_id for service in services if service.statistics().holds_lock)
