"""docs/migrating-*.md: the services run, Go's lock and ours exclude each other, and the table is the public surface."""

from __future__ import annotations

import re
import sys
import types
from typing import Any

import psycopg
import pytest
import trio
from pages import page

import tickrunner_trio
from tickrunner_trio import Outcome, PostgresLocker, Service
from tickrunner_trio.testing import ScriptedLocker

GO, APSCHEDULER = page("migrating-from-go"), page("migrating-from-apscheduler")


def go_service(locker: Any, moved: int) -> tuple[Service, list[str]]:
    found: dict[str, Any] = {}
    exec(GO.blocks("python")[0], found)
    calls: list[str] = []

    class Backends:
        async def rebalance(self) -> int:
            await trio.lowlevel.checkpoint()
            return moved

        async def update_quota_metrics(self) -> None:
            calls.append("quota")

    return found["rebalancing"](locker, Backends()), calls


async def test_a_lock_that_a_go_replica_holds_makes_ours_busy_and_the_other_way_round(dsn: str) -> None:
    [lock_id] = re.findall(r"LockID: (\d+)", GO.blocks("go")[0])
    async with PostgresLocker(dsn) as locker:
        service, _ = go_service(locker, 1)
        assert service.lock_id == int(lock_id)
        with psycopg.connect(dsn, autocommit=True) as go:
            assert go.execute("SELECT pg_try_advisory_lock(%s)", [service.lock_id]).fetchone() == (True,)
            assert (await service.tick()).outcome is Outcome.BUSY
            go.execute("SELECT pg_advisory_unlock(%s)", [service.lock_id])
            assert (await service.tick()).outcome is Outcome.SUCCESS

            async def work(lease: object) -> None:
                await trio.lowlevel.checkpoint()
                assert go.execute("SELECT pg_try_advisory_lock(%s)", [service.lock_id]).fetchone() == (False,)

            assert await locker.with_advisory_lock(service.lock_id, work)


@pytest.mark.parametrize(("moved", "calls"), [(0, []), (3, ["quota"])])
async def test_the_pass_refreshes_the_quota_when_it_moved_something(moved: int, calls: list[str]) -> None:
    service, refreshed = go_service(ScriptedLocker(), moved)
    assert (await service.tick()).outcome is Outcome.SUCCESS
    assert refreshed == calls


def test_each_name_of_the_table_is_there() -> None:
    table = GO.tables()[0]
    assert len(table) == 14
    for _, ours in table:
        for name in re.findall(r"`([A-Za-z_]+)(?:\(|`|\.)", ours):
            assert (
                hasattr(tickrunner_trio, name)
                or name in dir(Service)
                or name.startswith("tickrunner_")
                or name == "outcome"
            )


async def test_the_job_of_apscheduler_runs_as_a_service(
    dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = types.ModuleType("before")
    exec(APSCHEDULER.program("before.py"), vars(before))
    [job] = before.scheduler.get_jobs()
    assert job.id == "sweep"
    assert not before.scheduler.running  # or the job would go on under both
    monkeypatch.setitem(sys.modules, "before", before)
    monkeypatch.setattr("tickrunner_trio._service.jitter", lambda *_: 0.0)
    found: dict[str, Any] = {}
    exec(APSCHEDULER.program("after.py"), found)
    said = ""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(found["main"], dsn)
        with trio.fail_after(60):
            while "sweeping\n" not in said:
                await trio.sleep(0.01)
                said += capsys.readouterr().out
        nursery.cancel_scope.cancel()
