"""docs/ledger.md and docs/fencing.md say what the code does: Python runs, late writes are refused, commands exist."""

from __future__ import annotations

import os
import random
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
import trio
from fenced_writes import FENCING, PAGE, blocks, namespace
from ledger_view import do

from tickrunner_trio import Config, Outcome, PostgresLedger, PostgresLocker, Service, Tick, lock_id_for
from tickrunner_trio._cli import _parser
from tickrunner_trio._cli_ledger import DSN_VARIABLE
from tickrunner_trio._cli_ledger_tables import services_table
from tickrunner_trio._cluster_health import STALLED_AFTER
from tickrunner_trio.lockers._ledger_schema import COLUMNS, LONGEST_TEXT, RUNS_KEPT
from tickrunner_trio.lockers._ledger_setup import TABLE_LOCK_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
REPORT = "CREATE TABLE report (name text PRIMARY KEY, body text NOT NULL, epoch bigint NOT NULL)"


async def test_its_program_runs_its_service(
    dsn: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "random", lambda: 0.0)  # the first slot is at once
    caplog.set_level("INFO")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(namespace()["main"], dsn)
        with trio.fail_after(60):
            while not any("of all replicas" in message for message in caplog.messages):  # noqa: ASYNC110
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


# -- Fencing -----------------------------------------------------------------------------------------------------------


def test_a_write_is_refused_once_a_later_run_has_written(dsn: str) -> None:
    write_report = namespace()["write_report"]

    def tick(epoch: int) -> Tick:
        return Tick(**{**dict.fromkeys(Tick.__dataclass_fields__), "service": "report", "epoch": epoch})  # type: ignore[arg-type]

    do(dsn, REPORT)
    with psycopg.connect(dsn, autocommit=True) as connection:
        for epoch in (5, 5, 2**40):
            write_report(connection, tick(epoch), f"of {epoch}")
        with pytest.raises(RuntimeError, match=r"^a run after epoch 6 has written: this one is too late$"):
            write_report(connection, tick(6), "late")
    assert do(dsn, "SELECT body FROM report") == [(f"of {2**40}",)]


async def test_a_ledger_that_was_lost_goes_on_above_the_epochs_that_it_is_given(dsn: str) -> None:
    await PostgresLedger(dsn).init()
    [insert] = re.findall(r"`(INSERT INTO .*)`", FENCING)
    do(dsn, insert)
    epochs: list[int | None] = []

    async def work(tick: Tick) -> None:
        epochs.append(tick.epoch)
        await trio.lowlevel.checkpoint()

    async with PostgresLocker(dsn, ledger=True) as locker:
        await Service(Config(name="report", interval=3600, locker=locker, work=work)).tick()
    [(lock_id,)] = do(dsn, "SELECT lock_id FROM tickrunner.service")
    assert lock_id == lock_id_for("report")
    assert epochs[0] is not None
    assert epochs[0] > int(re.findall(r"\d+", insert)[-1])


@pytest.fixture
def frozen_holder(dsn: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(HERE / "fenced_holder.py"), dsn]
    environment = os.environ | {"PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as holder:
        try:
            yield holder
        finally:
            holder.kill()


async def test_the_late_write_of_a_frozen_holder_is_refused(dsn: str, frozen_holder: subprocess.Popen[str]) -> None:
    write_report = namespace()["write_report"]
    do(dsn, REPORT)
    assert frozen_holder.stdout is not None
    stdout = frozen_holder.stdout
    begun, epoch = (await trio.to_thread.run_sync(stdout.readline)).split()
    assert begun == "begun"
    frozen_holder.send_signal(signal.SIGSTOP)
    epochs: list[int | None] = []

    async def work(tick: Tick) -> None:
        epochs.append(tick.epoch)
        with psycopg.connect(dsn) as connection:
            write_report(connection, tick, "in time")

    async with PostgresLocker(dsn, lease=2, ledger=True) as locker:
        service = Service(Config(name="report", interval=3600, locker=locker, work=work))
        with trio.fail_after(60):
            while (await service.tick()).outcome is not Outcome.SUCCESS:  # noqa: ASYNC110 - of another process
                await trio.sleep(0.05)
    frozen_holder.send_signal(signal.SIGCONT)
    said, _ = await trio.to_thread.run_sync(frozen_holder.communicate, "\n", 60.0)
    assert said.splitlines() == [f"a run after epoch {epoch} has written: this one is too late", "lock_lost"]
    assert do(dsn, "SELECT body, epoch FROM report") == [("in time", epochs[0])]
    assert epochs[0] is not None
    assert epochs[0] > int(epoch)


def test_the_block_that_makes_writes_safe_is_about_ten_lines() -> None:
    [block] = [block for block in blocks("python") if "FENCED" in block]
    assert len([line for line in block.splitlines() if line]) <= 12


# -- What it names -----------------------------------------------------------------------------------------------------


def test_its_columns_are_those_of_the_tables() -> None:
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \|", PAGE, flags=re.MULTILINE)
    assert [name for row in rows for name in re.findall("[a-z_]+", row)] == [
        *(
            "name",
            "lock_id",
            "interval_seconds",
            "epoch",
            "timeline",
            "due_at",
            "paused_at",
            "paused_by",
            "pause_reason",
        ),
        *("triggered_at", "triggered_by", "holder", "started_at", "last_outcome", "last_ended_at", "last_duration"),
        *("last_success", "last_failure", "last_error", "consecutive_failures"),
    ]
    assert {name for row in rows for name in re.findall("[a-z_]+", row)} == {each.name for each in COLUMNS["service"]}
    run = ", ".join(f"`{column.name}`" for column in COLUMNS["run"])
    assert f"`run` is a ring of the last {RUNS_KEPT} runs of each: {run}." in PAGE


def test_its_grants_are_those_that_are_printed() -> None:
    [block] = blocks("sql")
    assert block.split(";\n")[:-1] == list(PostgresLedger("").grants(role="app"))


def commands() -> list[str]:
    return [line[2:].partition("  #")[0] for block in blocks("text") for line in block.splitlines() if line[:2] == "$ "]


@pytest.mark.parametrize("command", commands())
def test_its_commands_exist(command: str) -> None:
    program, *arguments = shlex.split(command)
    assert program == "tickrunner"
    assert _parser().parse_args(arguments).command


def test_its_table_has_the_columns_of_the_status() -> None:
    heading = services_table([]) or ""
    assert heading == "no service with a ledger has run yet"
    [shown] = [line for block in blocks("text") for line in block.splitlines() if line.startswith("service ")]
    assert re.split(" {2,}", shown) == [
        *("service", "state", "last success", "failures", "took", "next due", "last run by"),
    ]


def test_its_bounds_are_those_of_the_code() -> None:
    text = " ".join(PAGE.split())
    assert f"at most {LONGEST_TEXT} characters" in text
    assert f"{TABLE_LOCK_SECONDS:g} seconds at a time" in text
    assert f"`{DSN_VARIABLE}`" in text
    assert STALLED_AFTER == 3.0
    assert "overdue by three intervals" in text
