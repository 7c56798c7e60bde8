"""A locker with a ledger needs no more than the privileges that ``tickrunner ledger init --print`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from ledger_view import do, role

from tickrunner_trio import Config, Outcome, PostgresLedger, PostgresLocker, Service, Supervisor, Tick
from tickrunner_trio._cli import main

if TYPE_CHECKING:
    import pytest


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
