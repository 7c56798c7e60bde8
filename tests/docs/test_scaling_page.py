"""docs/scaling.md: a server is asked no more than the page says, and services keep to their databases."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import trio
from pages import page
from postgres_view import asked, locks, until

from tickrunner_trio import Config, PostgresLocker, Service, Supervisor, Tick, lock_id_for
from tickrunner_trio.lockers._clock import boot_seconds
from tickrunner_trio.testing._database import FreshDatabase

PROGRAM = page("scaling").program("partitioned.py")


def partitioned(monkeypatch: Any, one: str, two: str) -> dict[str, Any]:
    monkeypatch.setenv("LOCKS_ONE", one)
    monkeypatch.setenv("LOCKS_TWO", two)
    found: dict[str, Any] = {}
    exec(PROGRAM, found)
    return found


async def test_each_service_has_its_lock_in_the_database_that_its_name_says(dsn: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("tickrunner_trio._service.jitter", lambda *_: 0.0)
    with contextlib.closing(FreshDatabase(dsn)) as other:
        program = partitioned(monkeypatch, dsn, other.conninfo)
        ids: dict[str, list[int]] = {
            database: sorted(lock_id_for(name) for name in program["NAMES"] if program["database_of"](name) == database)
            for database in ("one", "two")
        }
        assert all(ids.values())
        async with program["services"]() as services, trio.open_nursery() as nursery:
            nursery.start_soon(Supervisor(services).run)
            await until(lambda: locks(dsn) == ids["one"] and locks(other.conninfo) == ids["two"])
            nursery.cancel_scope.cancel()
        assert other.emptied() == []


def test_a_database_that_is_added_takes_over_its_share_and_moves_nothing_else(monkeypatch: Any) -> None:
    program = partitioned(monkeypatch, "", "")
    program["NAMES"] = [f"service_{number}" for number in range(600)]
    before = {name: program["database_of"](name) for name in program["NAMES"]}
    program["DATABASES"]["three"] = ""
    after = {name: program["database_of"](name) for name in program["NAMES"]}
    moved = [name for name in before if before[name] != after[name]]
    assert {after[name] for name in moved} == {"three"}
    assert 150 < len(moved) < 250


async def test_a_fleet_says_no_more_than_a_statement_per_tick_one_per_release_and_the_beats(dsn: str) -> None:
    replicas, names, lease = 6, [f"sweep_{number}" for number in range(10)], 2.0

    async def sweep(tick: Tick) -> None:
        await trio.lowlevel.checkpoint()

    def committed() -> int:
        query = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        return int(asked(dsn, query)[0])

    before, began_at = committed(), boot_seconds()
    fleet: list[Service] = []
    async with contextlib.AsyncExitStack() as stack:
        lockers = [await stack.enter_async_context(PostgresLocker(dsn, lease=lease)) for _ in range(replicas)]
        fleet = [
            Service(Config(name=name, interval=1, locker=locker, work=sweep)) for locker in lockers for name in names
        ]
        with trio.move_on_after(4):
            async with trio.open_nursery() as nursery:
                for service in fleet:
                    nursery.start_soon(service.run)
        beat = lockers[0].timing.beat
    ticks = sum(sum(service.statistics().ticks.values()) for service in fleet)
    runs = sum(service.statistics().ticks["success"] for service in fleet)
    beats = replicas * math.ceil((boot_seconds() - began_at) / beat)
    opening = 10 * replicas  # a handful for each session, and one that looks
    assert ticks > 2 * len(fleet)
    await until(lambda: asked(dsn, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()") == [1])
    assert ticks / 2 < committed() - before <= ticks + runs + beats + opening
