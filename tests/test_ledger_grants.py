"""A locker with a ledger needs no more than the privileges that ``tickrunner ledger init --print`` prints."""

from __future__ import annotations

import contextlib

import psycopg
import pytest
import trio
from ledger_view import do, role
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tickrunner_trio import Config, Outcome, PostgresLedger, PostgresLocker, Service, Supervisor, Tick
from tickrunner_trio._cli import main


async def test_a_role_with_these_privileges_alone_runs_fails_pauses_and_triggers(
    dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fails = [False, True, False]

    async def work(tick: Tick) -> None:
        assert tick.epoch is not None
        await trio.lowlevel.checkpoint()
        if fails.pop(0):
            raise OSError("full")

    with role(dsn) as (name, their_dsn):
        await trio.to_thread.run_sync(main, ["ledger", "init", "--print", "--role", name])
        do(dsn, capsys.readouterr().out)
        async with PostgresLocker(their_dsn, ledger=True) as locker:
            service = Service(Config(name="sweep", interval=60, locker=locker, work=work, on_error=lambda _: None))
            supervisor = Supervisor([service])
            assert [(await service.tick()).outcome for _ in range(2)] == [Outcome.SUCCESS, Outcome.FAILED]
            await supervisor.pause("sweep", reason="disk", by="ada")
            assert (await service.tick()).outcome is Outcome.GATED
            await supervisor.resume("sweep")
            await supervisor.trigger("sweep")
            assert (await service.tick()).outcome is Outcome.SUCCESS
            [row] = await supervisor.cluster_health()
            assert (row.last_outcome, row.consecutive_failures, row.triggered_at) == (Outcome.SUCCESS, 0, None)
            assert [run.outcome for run in await supervisor.history("sweep")] == [
                *(Outcome.SUCCESS, Outcome.FAILED, Outcome.SUCCESS),
            ]
        assert await PostgresLedger(their_dsn).check() == ()


#: Operators that PostgreSQL would find before its own, and of each of them the types.
_TRAPS = {"=": ("text", "int", "oid", "name"), "<>": ("text", "int"), "||": ("text",)}


async def test_no_operator_of_a_search_path_takes_the_place_of_postgresqls_own(dsn: str) -> None:
    traps = ["CREATE SCHEMA trap"]
    for number, (operator, kinds) in enumerate(_TRAPS.items()):
        result = "text" if operator == "||" else "bool"
        for kind in kinds:
            function = f"FUNCTION trap.trap_{number} ({kind}, {kind}) RETURNS {result}"
            traps.append(f"CREATE {function} LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$")
            arguments = f"LEFTARG = {kind}, RIGHTARG = {kind}, FUNCTION = trap.trap_{number}"
            traps.append(f"CREATE OPERATOR trap.{operator} ({arguments})")
    do(dsn, ";".join(traps))
    # A mark that is empty is one that was reset: it has to be compared with something.
    led_astray = make_conninfo(dsn, options="-c search_path=trap,pg_catalog -c tickrunner_trio.session=")
    held: list[int] = []

    async def work(tick: Tick) -> None:
        held.extend(holder.lock_id for holder in await locker.holders())

    for ledger in (False, True):
        async with PostgresLocker(led_astray, ledger=ledger) as locker:
            service = Service(Config(name="sweep", interval=60, locker=locker, work=work))
            assert (await service.tick()).outcome is Outcome.SUCCESS
    await PostgresLedger(led_astray).pause("sweep", reason="disk", by="ada")
    assert held == [service.lock_id] * 2


async def test_a_ledger_that_a_stranger_has_made_is_told_since_its_triggers_run_as_the_role_of_the_replicas(
    dsn: str,
) -> None:
    ledger = PostgresLedger(dsn, "trojan")
    with role(dsn) as (stranger, _):
        await ledger.init()
        assert await ledger.check() == ()
        do(dsn, f"ALTER TABLE trojan.service OWNER TO {stranger}")
        [problem] = await ledger.check()
        assert problem.startswith(f'"trojan"."service" belongs to the role {stranger}, whose triggers')
        do(dsn, f"ALTER DATABASE {conninfo_to_dict(dsn)['dbname']} OWNER TO {stranger}")
        assert await ledger.check() == ()
        do(dsn, f"REASSIGN OWNED BY {stranger} TO CURRENT_USER")


async def test_a_stranger_who_may_connect_keeps_a_service_from_running(dsn: str) -> None:
    async def work(tick: Tick) -> None:
        await trio.lowlevel.checkpoint()

    with role(dsn) as (_, their_dsn):
        async with PostgresLocker(dsn) as locker:
            service = Service(Config(name="sweep", interval=60, locker=locker, work=work))
            with contextlib.closing(psycopg.connect(their_dsn)) as stranger:
                stranger.execute("SELECT pg_advisory_lock(%s)", [service.lock_id])
                assert (await service.tick()).outcome is Outcome.BUSY
            do(dsn, f"REVOKE CONNECT ON DATABASE {conninfo_to_dict(dsn)['dbname']} FROM PUBLIC")
            with pytest.raises(psycopg.OperationalError, match="permission denied"):
                psycopg.connect(their_dsn)
