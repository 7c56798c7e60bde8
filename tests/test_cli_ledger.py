"""``tickrunner status``, ``pause``, ``resume``, ``trigger`` and ``ledger``, on a real server."""

from __future__ import annotations

import getpass
import io
import json
import os
import re
import socket
import subprocess
import sys
import termios
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import trio
from ledger_view import do, emptied, ledgered_database, put, role

from tickrunner_trio import ClusterHealth, HealthState, Outcome, PastRun, PostgresLedger
from tickrunner_trio._cli import main
from tickrunner_trio._cli_ledger import DSN_VARIABLE
from tickrunner_trio._cli_ledger_tables import described, row_json, runs_table, services_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tickrunner_trio._local_postgres import LocalPostgres

AT = datetime(2026, 3, 1, 12, 0, 0, 250000, tzinfo=UTC)


class Command:
    """Runs the command line in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], dsn: str) -> None:
        self._capsys = capsys
        self._dsn = dsn

    def __call__(self, *arguments: str, dsn: str | None = None) -> tuple[int, str, str]:
        status = main([*arguments, "--dsn", self._dsn if dsn is None else dsn])
        said = self._capsys.readouterr()
        return status, said.out, said.err

    def json(self, *arguments: str, status: int = 0) -> Any:
        got, out, err = self(*arguments, "--json")
        assert (got, err) == (status, "")
        assert len(out.splitlines()) == 1
        return json.loads(out)


@pytest.fixture
def tickrunner(capsys: pytest.CaptureFixture[str], dsn: str) -> Command:
    return Command(capsys, dsn)


@pytest.fixture(scope="module")
def shared_dsn(postgres: LocalPostgres) -> Iterator[str]:
    with ledgered_database(postgres.dsn) as dsn:
        yield dsn


@pytest.fixture
def dsn(request: pytest.FixtureRequest, shared_dsn: str) -> str:
    """An empty database; for a test that asks for `ledger` too, one with an empty ledger, which costs less."""
    if "ledger" in request.fixturenames:
        return emptied(shared_dsn)
    return str(request.getfixturevalue("tickrunner_postgres"))


@pytest.fixture
def ledger(dsn: str) -> PostgresLedger:
    return PostgresLedger(dsn)


def cells(line: str) -> list[str]:
    """The columns of a line of a table."""
    return re.split(" {2,}", line)


# -- The tables --------------------------------------------------------------------------------------------------------


def test_a_ledger_is_made_checked_and_dropped(tickrunner: Command) -> None:
    where = "ledger in the schema tickrunner:"
    assert tickrunner("ledger", "check") == (1, "there is no schema 'tickrunner': run 'tickrunner ledger init'\n", "")
    assert tickrunner("ledger", "init") == (0, f"{where} made what was missing of it\n", "")
    assert tickrunner("ledger", "init") == (0, f"{where} nothing was missing\n", "")
    assert tickrunner("ledger", "check") == (0, f"{where} ok\n", "")
    status, _, refused = tickrunner("ledger", "drop")
    assert status == 2
    assert "add --yes" in refused
    assert tickrunner("ledger", "check")[0] == 0  # it is all there yet
    assert tickrunner("ledger", "drop", "--yes") == (0, f"{where} dropped\n", "")
    assert tickrunner("ledger", "drop", "--yes") == (0, f"{where} there was none\n", "")


def test_programs_are_told_the_same(tickrunner: Command) -> None:
    other = ("--schema", 'my "own"')
    assert tickrunner.json("ledger", "check", *other, status=1) == {
        "schema": 'my "own"',
        "problems": ["there is no schema 'my \"own\"': run 'tickrunner ledger init'"],
    }
    assert tickrunner.json("ledger", "init", *other) == {"schema": 'my "own"', "made": True}
    assert tickrunner.json("ledger", "init", *other) == {"schema": 'my "own"', "made": False}
    assert tickrunner.json("ledger", "check", *other) == {"schema": 'my "own"', "problems": []}
    assert tickrunner.json("status", *other) == {"schema": 'my "own"', "services": []}
    assert tickrunner.json("ledger", "drop", "--yes", *other) == {"schema": 'my "own"', "dropped": True}


def test_what_is_printed_is_all_that_another_role_needs(
    tickrunner: Command, dsn: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(DSN_VARIABLE, raising=False)
    with role(dsn) as (name, their_dsn):
        assert main(["ledger", "init", "--print", "--role", name]) == 0
        script = capsys.readouterr().out
        do(dsn, script)
        assert tickrunner("ledger", "check", dsn=their_dsn)[0] == 0
        status, refused, _ = tickrunner("ledger", "init", dsn=their_dsn)
        assert (status, refused) == (0, "ledger in the schema tickrunner: nothing was missing\n")
        status, _, refused = tickrunner("ledger", "drop", "--yes", dsn=their_dsn)
        assert status == 2
        assert "the role may not do this to the ledger" in refused
        assert main(["ledger", "drop", "--print"]) == 0
        do(dsn, capsys.readouterr().out)
        assert tickrunner("ledger", "check")[0] == 1


def test_with_a_database_only_what_is_missing_is_printed(tickrunner: Command, dsn: str, ledger: PostgresLedger) -> None:
    do(dsn, "ALTER TABLE tickrunner.run DROP COLUMN error")
    grants = ledger.grants(role="app")
    added = 'ALTER TABLE "tickrunner"."run" ADD COLUMN error text NOT NULL DEFAULT \'\''
    assert tickrunner.json("ledger", "init", "--print", "--role", "app")["statements"] == [added, *grants]
    do(dsn, added)
    assert tickrunner.json("ledger", "init", "--print", "--role", "app")["statements"] == list(grants)


def test_a_role_is_granted_what_it_needs_at_once(tickrunner: Command, dsn: str) -> None:
    with role(dsn) as (name, their_dsn):
        assert tickrunner("ledger", "init", "--role", name)[0] == 0
        assert tickrunner("ledger", "check", dsn=their_dsn)[0] == 0


# -- The services ------------------------------------------------------------------------------------------------------


def test_the_status_is_a_table_of_all_services(tickrunner: Command, dsn: str, ledger: PostgresLedger) -> None:
    assert tickrunner("status") == (0, "no service with a ledger has run yet\n", "")
    put(dsn, "sweep", last_ended_at="=now()", last_outcome="success", holder="web-1", last_duration=0.25)
    put(dsn, "expire", consecutive_failures=2, last_error="OSError: full\nup to the brim")
    status, out, err = tickrunner("status")
    heading, expire, sweep = out.splitlines()
    assert (status, err) == (0, "")
    assert cells(heading) == ["service", "state", "last success", "failures", "took", "next due", "last run by"]
    assert cells(expire) == ["expire", "failing", "never", "2", "-", "now", "-", "OSError: full up to the brim"]
    assert cells(sweep) == ["sweep", "ok", "never", "0", "250 ms", "now", "web-1"]


def test_the_status_of_one_service_has_its_runs(tickrunner: Command, dsn: str, ledger: PostgresLedger) -> None:
    put(dsn, "sweep", epoch=3)
    put(dsn, "other")
    do(dsn, "INSERT INTO tickrunner.run VALUES ('sweep', 1, 2, %s, %s, 'failed', 'web-1', 'OSError')", AT, AT)
    do(dsn, "INSERT INTO tickrunner.run VALUES ('sweep', 2, 3, %s, NULL, NULL, 'web-2', '')", AT + timedelta(1))
    status, out, _ = tickrunner("status", "sweep")
    services, _, runs = out.partition("\n\n")
    assert status == 0
    assert len(services.splitlines()) == 2
    assert [cells(line) for line in runs.splitlines()[1:]] == [
        ["2026-03-02 12:00:00.250", "-", "not ended", "3", "web-2"],
        ["2026-03-01 12:00:00.250", "0 ms", "failed", "2", "web-1", "OSError"],
    ]
    told = tickrunner.json("status", "sweep")
    assert told["service"]["epoch"] == 3
    assert told["service"]["lock_id"] == "7"
    assert [run["outcome"] for run in told["runs"]] == [None, "failed"]
    assert told["runs"][1]["started_at"] == AT.isoformat()


def test_a_service_is_paused_resumed_and_triggered(tickrunner: Command, dsn: str, ledger: PostgresLedger) -> None:
    put(dsn, "sweep")
    status, out, err = tickrunner("pause", "sweep", "--reason", "disk \x1b[31m", "--by", "ada")
    assert (status, err) == (0, "")
    assert out == r"sweep: disabled; due now; paused by ada just now: disk \x1b[31m" + "\n"
    paused = tickrunner.json("status", "sweep")["service"]
    assert (paused["state"], paused["paused_by"], paused["pause_reason"]) == ("disabled", "ada", r"disk \x1b[31m")
    assert tickrunner("resume", "sweep") == (0, "sweep: starting; due now\n", "")
    assert tickrunner("trigger", "sweep", "--by", "bob")[1] == (
        "sweep: starting; due now; triggered by bob just now, not begun\n"
    )
    assert tickrunner.json("trigger", "sweep", "--by", "eve")["service"]["triggered_by"] == "eve"


def test_who_asks_is_the_user_on_the_machine_unless_said(
    tickrunner: Command, dsn: str, ledger: PostgresLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(dsn, "sweep")
    monkeypatch.setattr(getpass, "getuser", lambda: "ada")
    assert tickrunner.json("trigger", "sweep")["service"]["triggered_by"] == f"ada@{socket.gethostname()}"

    def nameless() -> str:
        raise OSError("no name of user 1000")

    monkeypatch.setattr(getpass, "getuser", nameless)
    asked = tickrunner.json("pause", "sweep", "--reason", "disk")["service"]
    assert asked["paused_by"] == f"unknown@{socket.gethostname()}"


# -- Mistakes ----------------------------------------------------------------------------------------------------------


def test_without_a_ledger_each_command_tells_the_remedy_in_one_line(tickrunner: Command) -> None:
    for arguments in (["status"], ["pause", "sweep", "--reason", "disk"], ["resume", "sweep"], ["trigger", "sweep"]):
        status, out, err = tickrunner(*arguments)
        assert (status, out, len(err.splitlines())) == (2, "", 1)
        assert err.startswith("tickrunner: there is no ledger, or an incomplete one, in the schema 'tickrunner'")
        assert "run 'tickrunner ledger init --dsn ...'" in err


def test_a_pause_without_a_reason_is_refused(tickrunner: Command, dsn: str, ledger: PostgresLedger) -> None:
    put(dsn, "sweep")
    status, out, err = tickrunner("pause", "sweep", "--reason", " ")
    assert (status, out) == (2, "")
    assert err.startswith("tickrunner: argument --reason: it is empty: say why")
    assert tickrunner.json("status")["services"][0]["paused_at"] is None


def test_a_service_that_nobody_knows_is_told_with_those_that_are(
    tickrunner: Command, dsn: str, ledger: PostgresLedger
) -> None:
    put(dsn, "sweep")
    for arguments in (["status"], ["pause", "--reason", "disk"], ["resume"], ["trigger"]):
        status, out, err = tickrunner(*arguments, "swep")
        assert (status, out) == (2, "")
        assert err == (
            "tickrunner: name must be that of a service in the ledger 'tickrunner', got 'swep': use one of sweep\n"
        )


def test_a_row_that_is_deleted_while_it_is_looked_for_is_told(
    tickrunner: Command, dsn: str, ledger: PostgresLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(dsn, "sweep")

    async def deleted(_ledger: PostgresLedger) -> tuple[ClusterHealth, ...]:
        await trio.lowlevel.checkpoint()
        return ()

    monkeypatch.setattr(PostgresLedger, "cluster_health", deleted)
    refused = "tickrunner: name must be that of a service in the ledger, got 'sweep': its row was deleted just now\n"
    assert tickrunner("status", "sweep") == (2, "", refused)


def test_a_server_that_is_away_is_no_mistake_of_the_command_line(tickrunner: Command) -> None:
    status, out, err = tickrunner("status", dsn="host=/nowhere dbname=app password=secret")
    assert (status, out, len(err.splitlines())) == (1, "", 1)
    assert "secret" not in err


def test_the_traceback_is_shown_if_asked_for(tickrunner: Command) -> None:
    _, _, err = tickrunner("status", "--traceback")
    assert err.startswith("Traceback (most recent call last):")


def test_a_database_must_be_named_and_may_be_in_the_environment(
    dsn: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, ledger: PostgresLedger
) -> None:
    monkeypatch.delenv(DSN_VARIABLE, raising=False)
    assert main(["status"]) == 2
    assert f"give --dsn 'host=... dbname=...', or set {DSN_VARIABLE}" in capsys.readouterr().err
    monkeypatch.setenv(DSN_VARIABLE, dsn)
    assert main(["status"]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["status", "--schema", "pg_mine"], "schema must not be a schema of PostgreSQL's own, got 'pg_mine'"),
        (["pause", "sweep"], "the following arguments are required: --reason"),
        (["ledger"], "the following arguments are required: {init,check,drop}"),
        (["status", "--dsn", "host"], "conninfo is not a connection string"),
    ],
)
def test_a_wrong_command_line_is_told_in_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DSN_VARIABLE, "host=nowhere")
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert words in err
    assert len(err.splitlines()) == 1


def test_a_program_that_wants_json_gets_it_of_a_failure_too(
    tickrunner: Command, dsn: str, ledger: PostgresLedger, capsys: pytest.CaptureFixture[str]
) -> None:
    put(dsn, "sweep")
    mistakes = {
        ("status", "swep"): 2,
        ("pause", "swep", "--reason", "disk"): 2,
        ("status", "--schema", "pg_mine"): 2,
        ("trigger", "sweep", "--schema", "elsewhere"): 2,
        ("ledger", "init", "--role", "nobody_of_this_name"): 2,
    }
    for arguments, status in mistakes.items():
        got, out, err = tickrunner(*arguments, "--json")
        told = json.loads(out)
        assert (got, err) == (status, f"tickrunner: {told['error']}\n")
        assert len(out.splitlines()) == 1
    assert tickrunner("status", "--json", dsn="host=/nowhere")[1].startswith('{"schema": "tickrunner", "error": ')


@pytest.mark.parametrize("role", ["", "\udcff", "a\x1b[31m", "a" * 64, "\xe4"])
def test_a_role_that_can_be_none_is_refused_before_anything_is_done(
    role: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for more in (["--print"], ["--dsn", "host=/nowhere"]):
        assert main(["ledger", "init", "--role", role, *more]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("tickrunner: role must be the name of a role, 1 to 63 printable ASCII characters, got ")
        assert "\x1b" not in err


def test_what_the_server_refuses_is_told_with_its_own_remedy(
    tickrunner: Command, dsn: str, ledger: PostgresLedger
) -> None:
    refused = 'tickrunner: role "nobody_of_this_name" does not exist: create it, or name another role\n'
    assert tickrunner("ledger", "init", "--role", "nobody_of_this_name") == (2, "", refused)
    do(dsn, "CREATE VIEW public.looks_at_it AS SELECT name FROM tickrunner.service")
    status, out, err = tickrunner("ledger", "drop", "--yes")
    do(dsn, "DROP VIEW public.looks_at_it")
    assert (status, out) == (2, "")
    assert err.endswith("because other objects depend on them): drop that first\n")


@pytest.mark.parametrize("arguments", [["status"], ["status", "--json"], ["ledger", "check"]])
@pytest.mark.parametrize("buffered", ["", "1"])
def test_a_stdout_that_takes_nothing_is_told_in_one_line(
    arguments: list[str], buffered: str, dsn: str, ledger: PostgresLedger
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "tickrunner_trio", *arguments]
    environment = {**os.environ, DSN_VARIABLE: dsn, "PYTHONUNBUFFERED": buffered}
    try:
        ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    finally:
        os.close(writer)
    assert ended.stderr == "tickrunner: it is done, but stdout does not take what came of it: [Errno 32] Broken pipe\n"
    assert ended.returncode == 1


def test_a_row_that_somebody_wrote_by_hand_does_not_hide_the_others(
    tickrunner: Command, dsn: str, ledger: PostgresLedger
) -> None:
    put(dsn, "sweep", due_at=AT)
    for number, at in enumerate(["-infinity", "infinity", "4000-01-01 BC", "200000-01-01"]):
        put(dsn, f"odd_{number}", due_at=at, paused_at=at, last_success=at, started_at=at)
    for number, seconds in enumerate(["NaN", "Infinity", "-Infinity", "1e300"]):
        put(dsn, f"strange_{number}", interval_seconds=float(seconds), last_duration=float(seconds))
    do(dsn, "INSERT INTO tickrunner.run VALUES ('sweep', 1, 2, '-infinity', 'infinity', 'failed', 'web-1', '')")
    told = {row["name"]: row for row in tickrunner.json("status")["services"]}
    assert told["sweep"]["next_due"] == AT.isoformat()
    assert [told[f"odd_{number}"]["paused_at"][:4] for number in range(4)] == ["0001", "9999", "0001", "9999"]
    assert [told[f"strange_{number}"]["last_duration"] for number in range(4)] == [None, None, None, 1e300]
    assert told["strange_0"]["interval"] == 0.0
    status, out, err = tickrunner("status")
    assert (status, len(out.splitlines()), err) == (0, 10, "")
    assert tickrunner("status", "sweep")[0] == 0


def test_a_terminal_that_knows_ascii_only_is_told_all_the_same(
    dsn: str, ledger: PostgresLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(dsn, "sweep", last_error="\xe4")
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    assert main(["status", "--dsn", dsn]) == 0
    assert stdout.buffer.getvalue().endswith(b" \\xe4\n")  # type: ignore[attr-defined]


# -- Words -------------------------------------------------------------------------------------------------------------


def a_row(**more: Any) -> ClusterHealth:
    return ClusterHealth(**{"name": "sweep", "state": HealthState.OK, "lock_id": 2**63 - 1, "interval": 60.0, **more})


def test_ages_and_due_times_are_said_in_two_units() -> None:
    row = a_row(
        last_success=AT - timedelta(days=3, hours=2, minutes=59),
        last_duration=12.4,
        next_due=AT + timedelta(seconds=61),
        working_since=AT - timedelta(seconds=7),
        holder="web-1",
    )
    line = services_table([row], now=AT).splitlines()[1]
    assert cells(line) == ["sweep", "ok", "3 d 2 h ago", "0", "12 s", "in 1 min 1 s", "web-1", "at work for 7 s"]


def test_what_is_wider_than_the_terminal_stands_below_each_other() -> None:
    rows = [a_row(last_error="OSError: disk full"), a_row(name="expire", holder="web-1:7")]
    table = services_table(rows, now=AT)
    widest = max(map(len, table.splitlines()))
    assert services_table(rows, now=AT, width=widest) == table
    first, second = services_table(rows, now=AT, width=widest - 1).split("\n\n")
    assert [re.split(" {2,}", line, maxsplit=1) for line in second.splitlines()] == [
        ["service", "expire"],
        ["state", "ok"],
        ["last success", "never"],
        ["failures", "0"],
        ["took", "-"],
        ["next due", "now"],
        ["last run by", "web-1:7"],
    ]
    assert first.splitlines()[-1] == "              OSError: disk full"


@pytest.mark.parametrize(("columns", "lines"), [(80, 8), (0, 2)])
def test_the_width_is_that_of_the_terminal_that_shows_it(
    dsn: str, ledger: PostgresLedger, columns: int, lines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(dsn, "sweep", last_error="OSError: " + 80 * "x")
    main_end, terminal = os.openpty()
    with os.fdopen(main_end, "rb", buffering=0) as shown, os.fdopen(terminal, "w", encoding="utf-8") as stdout:
        termios.tcsetwinsize(terminal, (24, columns))
        monkeypatch.setattr(sys, "stdout", stdout)
        assert main(["status", "--dsn", dsn]) == 0
        assert len(shown.read(4096).splitlines()) == lines


@pytest.mark.parametrize(
    ("due", "more", "words"),
    [
        (0.5, {}, "now"),
        (125, {}, "2 min 5 s ago"),
        (125, {"working_since": AT}, "now"),
        (125, {"paused_at": AT}, "now"),
    ],
)
def test_a_service_that_nobody_runs_is_due_since(due: float, more: dict[str, Any], words: str) -> None:
    row = a_row(next_due=AT - timedelta(seconds=due), **more)
    assert described(row, now=AT).split("; ")[1] == f"due {words}"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5, "just now"),
        (0.9, "just now"),
        (1, "1 s ago"),
        (3600, "1 h ago"),
        (3661, "1 h 1 min ago"),
        (86400, "1 d ago"),
    ],
)
def test_how_long_ago_it_was(seconds: float, words: str) -> None:
    row = a_row(paused_at=AT - timedelta(seconds=seconds))
    assert described(row, now=AT) == f"sweep: ok; due now; paused {words}: -"


def test_a_run_that_only_a_newer_release_understands_is_not_hidden() -> None:
    run = PastRun(
        service="sweep",
        epoch=1,
        started_at=AT,
        ended_at=AT + timedelta(seconds=2.5),
        outcome=None,
        replica="a",
        error="",
    )
    assert "2.5 s  not known here" in runs_table([run])
    assert runs_table([]) == "no run of it is over yet"


def test_a_trigger_says_whether_its_run_has_begun() -> None:
    row = a_row(triggered_at=AT, triggered_by="bob", working_since=AT - timedelta(seconds=1))
    assert "triggered by bob just now, not begun; at work" in described(row, now=AT)
    row = a_row(triggered_at=AT, working_since=AT)
    assert "triggered just now; at work" in described(row, now=AT)


def test_each_field_of_a_row_is_told_to_programs() -> None:
    told = row_json(a_row(last_success=AT, last_outcome=Outcome.SUCCESS, epoch=5))
    assert told.keys() == set(ClusterHealth.__dataclass_fields__)
    assert json.loads(json.dumps(told))["last_outcome"] == "success"
    assert (told["lock_id"], told["last_success"], told["epoch"]) == ("9223372036854775807", AT.isoformat(), 5)
