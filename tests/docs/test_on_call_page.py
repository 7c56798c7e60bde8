"""docs/on-call.md: its statements tell what they are said to, its commands exist, and the alerts lead to it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from ledger_view import put
from pages import ROOT, page
from psycopg.rows import dict_row

from tickrunner_trio import Outcome, PostgresLedger
from tickrunner_trio._cli import _parser

if TYPE_CHECKING:
    from pathlib import Path

PAGE = page("on-call")
LEDGER, LOCKS = PAGE.blocks("sql")


def rows(dsn: str, statement: str) -> list[dict[str, Any]]:
    with psycopg.connect(dsn, row_factory=dict_row) as connection:
        return connection.execute(statement.encode()).fetchall()


@pytest.mark.parametrize("lock_id", [-1861228075853553907, 2**40, 7])
def test_its_statement_names_the_lock_and_who_holds_it(dsn: str, lock_id: int) -> None:
    with psycopg.connect(dsn, application_name="tickrunner_trio 7 web-1", autocommit=True) as holder:
        holder.execute("SELECT pg_advisory_lock(%s), pg_advisory_lock(1, 2)", (lock_id,))
        [row] = rows(dsn, LOCKS)
        assert (row["lock_id"], row["pid"], row["application_name"]) == (
            lock_id,
            holder.info.backend_pid,
            "tickrunner_trio 7 web-1",
        )
        assert row["state_change"] >= row["backend_start"]
    assert rows(dsn, LOCKS) == []


async def test_its_statement_reads_the_ledger(dsn: str) -> None:
    await PostgresLedger(dsn).init()
    put(dsn, "sweep", paused_at="=now()", paused_by="ada", pause_reason="disk", holder="web-1:7")
    [row] = rows(dsn, LEDGER)
    assert (row["name"], row["paused_by"], row["pause_reason"], row["holder"]) == ("sweep", "ada", "disk", "web-1:7")


def test_its_commands_exist() -> None:
    commands = re.findall(r"`tickrunner ([a-z]+)((?: [a-z]+)*)`|tickrunner (status)((?: sweep)?)'", PAGE.text)
    given = {(a or c, *(b or d).split()) for a, b, c, d in commands}
    assert {name for name, *_ in given} == {"status", "check", "ledger", "resume", "trigger"}
    for name, *arguments in given:
        assert _parser().parse_args([name, *(arguments or ["x:y"] * (name == "check"))]).command


def test_its_outcomes_are_those_that_leave_a_service_without_a_run() -> None:
    [not_run, _] = PAGE.tables()
    named = {Outcome(word) for row in not_run for word in re.findall(r"`([a-z_]+)`", row[0]) if word in set(Outcome)}
    # A loss of the lock, or of the replica, is made up for by the next one.
    assert set(Outcome) - named == {Outcome.SUCCESS, Outcome.LOCK_LOST, Outcome.CANCELLED}


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", ROOT / "dashboards" / "README.md", ROOT / "dashboards" / "alerts.yml"]
)
def test_who_has_an_alert_is_led_to_it(path: Path) -> None:
    assert "docs/on-call.md" in path.read_text(encoding="utf-8")
