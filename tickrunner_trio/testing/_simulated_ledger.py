"""The rows of a simulated ledger, as the one server has them, and the locker of a process that asks them. Virtual time.

What becomes of a row is `_dueness`, which is what the statements of a `PostgresLocker` compute as well. As there, an
epoch is drawn in the step that grants the lock, and a result is written in the step that lets it go: one that could not
be sent, because the session was lost before, is not in the row, and the run is repeated. What is left out: pausing and
triggering, the history, and a primary that fails over.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from .._dueness import due_after, epoch_after, is_due
from .._lock_ids import checked_lock_id
from .._outcome import Outcome
from ..abc import LedgerAnswer, LedgerState
from ._simulated_locker import SimulatedLease, SimulatedLocker

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractContextManager

    from .._outcome import TickReport
    from ..abc import LedgerLease
    from ._lock_server import LockServer
    from ._lock_session import LockSession

_TIMELINE = 1


@dataclass(slots=True)
class _Row:
    due_at: float
    epoch: int = 0
    timeline: int = 0
    started_at: float = 0.0


class SimulatedLedger:
    """The rows, by service. The time comes in as an argument."""

    def __init__(self) -> None:
        self._rows: dict[str, _Row] = {}

    def draw(self, service: str, *, now: float, interval: float, forced: bool) -> tuple[int | None, float]:
        """Return the epoch, or None if it is not due; and when it is due."""
        row = self._rows.setdefault(service, _Row(due_at=now))
        if not forced and not is_due(row.due_at, now=now, interval=interval):
            return None, row.due_at
        row.epoch = epoch_after(row.epoch, timeline=row.timeline, server_timeline=_TIMELINE)
        row.timeline, row.started_at = _TIMELINE, now
        return row.epoch, row.due_at

    def write(
        self, service: str, epoch: int | None, outcome: Outcome, *, now: float, interval: float, chance: float
    ) -> float:
        """Write what came of a run, if the row has its epoch still; return when it is due."""
        row = self._rows[service]
        if row.epoch == epoch:
            due_at = due_after(
                outcome, row.due_at, started_at=row.started_at, now=now, interval=interval, chance=chance
            )
            assert due_at is not None  # it had one before
            row.due_at = due_at
        return row.due_at


class SimulatedLedgerLease(SimulatedLease):
    """A `LedgerLease`."""

    __slots__ = ("outcome",)

    def __init__(self, session: LockSession, lock_id: int, clock: Callable[[], float]) -> None:
        super().__init__(session, lock_id, clock)
        self.outcome = Outcome.CANCELLED  #: Until something is reported.

    def report(self, report: TickReport) -> None:
        self.outcome = report.outcome


class SimulatedLedgerLocker(SimulatedLocker):
    """A `LedgerLocker`. See the module and `SimulatedLocker`.

    Args:
        server: the one that all replicas share.
        session: of the process.
        clock: seconds since the simulation began.
        ledger: the one that all replicas share.
        chance: decides when a failure is tried again.
    """

    has_ledger = True

    def __init__(
        self,
        server: LockServer,
        session: LockSession,
        clock: Callable[[], float],
        ledger: SimulatedLedger,
        chance: random.Random,
    ) -> None:
        super().__init__(server, session, clock)
        self._ledger = ledger
        self._chance = chance

    async def with_due_lock(
        self,
        lock_id: int,
        fn: Callable[[LedgerLease], Awaitable[None]],
        *,
        service: str,
        interval: float,
        forced: bool,
    ) -> LedgerAnswer:
        """Try the lock once; if it was had, and the service is due, run ``fn`` under it. See `abc.LedgerLocker`."""
        checked_lock_id(lock_id)
        await trio.lowlevel.checkpoint()
        answer = LedgerAnswer(state=LedgerState.BUSY)
        lease = SimulatedLedgerLease(self._session, lock_id, self._clock)

        def granted() -> bool:
            nonlocal answer
            now = self._clock()
            lease.epoch, due_at = self._ledger.draw(service, now=now, interval=interval, forced=forced)
            if lease.epoch is None:
                answer = LedgerAnswer(state=LedgerState.NOT_DUE, due_in=due_at - now)
            return lease.epoch is not None

        def leaving() -> None:
            nonlocal answer
            now = self._clock()
            due_at = self._ledger.write(
                service, lease.epoch, lease.outcome, now=now, interval=interval, chance=self._chance.random()
            )
            answer = LedgerAnswer(state=LedgerState.RAN, due_in=due_at - now)

        if await self._run(lease, fn, granted, leaving) and answer.state is not LedgerState.RAN:
            answer = LedgerAnswer(state=LedgerState.RAN)  # the session was closed before the result was sent
        return answer

    def watching(self, service: str, wake: Callable[[], object]) -> AbstractContextManager[None]:  # noqa: ARG002
        """Watch nothing: nobody pauses or triggers here."""
        return nullcontext()
