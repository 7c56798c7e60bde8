"""A locker with a ledger needs no more than the privileges that ``tickrunner ledger init --print`` prints."""

from __future__ import annotations

import contextlib

import psycopg
import pytest
import trio
from ledger_view import do, role
from psycopg.conninfo import conninfo_to_dict

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
        raise AssertionError("it ran without its lock")

    with role(dsn) as (_, their_dsn):
        async with PostgresLocker(dsn) as locker:
            service = Service(Config(name="sweep", interval=60, locker=locker, work=work))
            with contextlib.closing(psycopg.connect(their_dsn)) as stranger:
                stranger.execute("SELECT pg_advisory_lock(%s)", [service.lock_id])
                assert (await service.tick()).outcome is Outcome.BUSY
            do(dsn, f"REVOKE CONNECT ON DATABASE {conninfo_to_dict(dsn)['dbname']} FROM PUBLIC")
            with pytest.raises(psycopg.OperationalError, match="permission denied"):
                psycopg.connect(their_dsn)
