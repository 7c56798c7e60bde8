"""docs/failures.md: its question in psql names whoever has a lock, and nobody else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger_view import do
from pages import page
from postgres_view import backend

from tickrunner_trio import PostgresLocker, lock_id_for

if TYPE_CHECKING:
    from tickrunner_trio import Lease


async def test_who_has_a_lock_can_be_asked_in_psql(dsn: str) -> None:
    [question] = page("failures").blocks("sql")
    found: list[tuple[object, ...]] = []

    async def work(lease: Lease) -> None:
        found.extend(do(dsn, question))

    async with PostgresLocker(dsn) as locker:
        await locker.with_advisory_lock(lock_id_for("rebalance"), work)
        [(lock_id, pid, name, *_)] = found
        assert (lock_id, pid, str(name).split()[0]) == (lock_id_for("rebalance"), backend(dsn), "tickrunner_trio")
        assert do(dsn, question) == []
