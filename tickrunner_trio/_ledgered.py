"""What a service makes of a locker with a ledger: how an attempt gets its lock, and which slot follows from the answer.

::

    run() -> the first slot, at once or a little later -> tick -> the answer                    the next slot
                                                            ^     ran, not due, or paused --->  when it is due, + a part
                                                            |     busy, lost, unavailable --->  now, + a part
                                                            |                                        |
                                                            +--------- triggered, resumed: now <-----+

A part is a random part of min(interval / 10, 30 s), so that the replicas do not all ask at once. Nothing is held on to
after the work: the ledger knows when the service is due, whoever asks.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from ._errors import ServicePausedError
from ._outcome import Outcome
from ._schedule import slot_when_busy, slot_when_due
from .abc import LedgerLocker, LedgerState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractContextManager

    from ._config import Config
    from ._outcome import TickReport
    from .abc import LedgerAnswer, LedgerLease


NOTHING = nullcontext()


class LedgerTurn:
    """One attempt's turn at a locker with a ledger.

    Args:
        locker: of the service.
        config: of the service.
        forced: whether it is to run though it is not due.
    """

    __slots__ = ("_config", "_forced", "_locker", "answer")

    def __init__(self, locker: LedgerLocker, config: Config, *, forced: bool) -> None:
        self._locker = locker
        self._config = config
        self._forced = forced
        self.answer: LedgerAnswer | None = None  #: None: there was none, or there is none yet.

    async def with_lock(
        self, lock_id: int, fn: Callable[[LedgerLease], Awaitable[None]], report_of: Callable[[], TickReport | None]
    ) -> bool:
        """Do as `AdvisoryLocker.with_advisory_lock`; the report goes into the ledger before the lock is let go.

        Raises:
            ServicePausedError: somebody has paused the service; ``fn`` did not run.
        """

        async def run(lease: LedgerLease) -> None:
            try:
                await fn(lease)
            finally:
                report = report_of()
                if report is not None:
                    lease.report(report)

        config = self._config
        answer = self.answer = await self._locker.with_due_lock(
            lock_id, run, service=config.name, interval=config.interval, forced=self._forced
        )
        if answer.state is LedgerState.PAUSED:
            raise ServicePausedError(by=answer.paused_by, reason=answer.pause_reason)
        return answer.state is LedgerState.RAN

    def next_slot(self, outcome: Outcome, now: float, random: Callable[[], float]) -> float | None:
        """Return when this replica asks again; None: at its next slot as it is."""
        answer, interval = self.answer, self._config.interval
        if self._config.cadence == "replica":
            return None
        if answer is None:
            # Another replica may do it meanwhile, and if not, this one is not to wait for a whole interval.
            is_open = outcome in (Outcome.UNAVAILABLE, Outcome.LOCK_LOST)
            return slot_when_busy(now, interval, random) if is_open else None
        if answer.state is LedgerState.PAUSED:
            return None
        if answer.state is LedgerState.BUSY or answer.due_in is None:
            return slot_when_busy(now, interval, random)
        return slot_when_due(now, answer.due_in, interval, random)


def ledger_of(config: Config) -> LedgerLocker | None:
    """Return the locker of a service if it keeps a ledger."""
    locker = config.locker
    return locker if isinstance(locker, LedgerLocker) and locker.has_ledger else None


def watching(ledger: LedgerLocker | None, config: Config, wake: Callable[[], object]) -> AbstractContextManager[None]:
    """For the time of the block, have ``wake`` called when the service is triggered or resumed."""
    return NOTHING if ledger is None else ledger.watching(config.name, wake)
