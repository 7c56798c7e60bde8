"""A ledger in memory, for tests of what operates one; and lockers that keep it."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import trio

from tickrunner_trio import ClusterHealth, HealthState, MemoryLocker, Outcome, PastRun

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tickrunner_trio import Lease


class KeptLedger:
    """Rows that a test puts there, and operations that change them; `fails` is raised by each of them."""

    def __init__(self) -> None:
        self.rows: dict[str, ClusterHealth] = {}
        self.runs: dict[str, tuple[PastRun, ...]] = {}
        self.fails: Exception | None = None
        self.asked = 0
        self.added: list[tuple[str, int, float]] = []

    def put(self, name: str, **fields: Any) -> None:
        known = {"state": HealthState.OK, "lock_id": 1, "interval": 60.0, **fields}
        self.rows[name] = ClusterHealth(name=name, **known)

    async def cluster_health(self) -> tuple[ClusterHealth, ...]:
        await self._checkpoint()
        return tuple(self.rows.values())

    async def history(self, name: str) -> tuple[PastRun, ...]:
        await self._checkpoint()
        self._row(name)
        return self.runs.get(name, ())

    async def pause(self, name: str, *, reason: str, by: str) -> ClusterHealth:
        now = datetime.now(UTC)
        return await self._changed(name, state=HealthState.DISABLED, paused_at=now, paused_by=by, pause_reason=reason)

    async def resume(self, name: str) -> ClusterHealth:
        return await self._changed(name, state=HealthState.OK, paused_at=None, paused_by="", pause_reason="")

    async def trigger(self, name: str, *, by: str = "") -> ClusterHealth:
        return await self._changed(name, triggered_at=datetime.now(UTC), triggered_by=by)

    async def add(self, name: str, *, lock_id: int, interval: float) -> None:
        await self._checkpoint()
        self.added.append((name, lock_id, interval))
        self.put(name, state=HealthState.STARTING, lock_id=lock_id, interval=interval)

    async def _changed(self, name: str, **fields: Any) -> ClusterHealth:
        await self._checkpoint()
        self.rows[name] = dataclasses.replace(self._row(name), **fields)
        return self.rows[name]

    def _row(self, name: str) -> ClusterHealth:
        if name not in self.rows:
            raise ValueError(f"name must be that of a service, got {name!r}")
        return self.rows[name]

    async def _checkpoint(self) -> None:
        self.asked += 1
        await trio.lowlevel.checkpoint()
        if self.fails is not None:
            raise self.fails


class LedgerLocker:
    """A locker in memory that keeps a ledger, or none."""

    def __init__(self, ledger: KeptLedger | None) -> None:
        self.ledger = ledger
        self._memory = MemoryLocker()

    async def with_advisory_lock(self, lock_id: int, fn: Callable[[Lease], Awaitable[None]]) -> bool:
        return await self._memory.with_advisory_lock(lock_id, fn)


def a_past(name: str, count: int = 2) -> tuple[PastRun, ...]:
    """Runs of a service, the newest of which is under way."""
    at = datetime(2026, 3, 1, 12, tzinfo=UTC)
    return tuple(
        PastRun(
            service=name,
            epoch=count - age,
            started_at=at - timedelta(minutes=age),
            ended_at=None if age == 0 else at - timedelta(minutes=age) + timedelta(seconds=age),
            outcome=None if age == 0 else Outcome.FAILED if age == 1 else Outcome.SUCCESS,
            replica=f"web-{age}",
            error="OSError: <b>full</b>" if age == 1 else "",
        )
        for age in range(count)
    )
