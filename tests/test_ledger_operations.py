"""The ledger's rows as operators see and change them, on a real server."""

from __future__ import annotations

import re
import threading
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ledger_view import do, emptied, ledgered_database, put
from pgbouncer import pgbouncer
from postgres_view import until

from tickrunner_trio import (
    DatabaseUnavailableError,
    HealthState,
    LockerConfigurationError,
    Outcome,
    PastRun,
    PostgresLedger,
)
from tickrunner_trio.abc import Ledger
from tickrunner_trio.lockers import _ledger_rows, _ledger_transaction
from tickrunner_trio.lockers._connection import Connection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tickrunner_trio._local_postgres import LocalPostgres

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=600)
AT = datetime(2026, 3, 1, 12, 0, 0, 250000, tzinfo=UTC)


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


# -- What is read ------------------------------------------------------------------------------------------------------


async def test_each_row_is_told_whole_by_name(dsn: str, ledger: PostgresLedger) -> None:
    assert isinstance(ledger, Ledger)
    put(dsn, "zebra", interval_seconds=0.1)
    put(
        dsn,
        "ant",
        lock_id=-(2**63),
        epoch=2**40 + 3,
        due_at=AT + timedelta(days=36500),
        paused_at=AT,
        paused_by="ada",
        pause_reason="disk",
        triggered_at=AT + timedelta(seconds=1),
        triggered_by="bob",
        holder="tickrunner_trio 5 web-1",
        started_at=AT + timedelta(seconds=2),
        last_outcome="failed",
        last_ended_at=AT + timedelta(seconds=3),
        last_duration=1.5,
        last_success=AT + timedelta(seconds=4),
        last_failure=AT + timedelta(seconds=5),
        last_error="OSError: full",
        consecutive_failures=2,
    )
    ant, zebra = await ledger.cluster_health()
    assert (zebra.name, zebra.state, zebra.interval) == ("zebra", HealthState.STARTING, 0.1)
    assert (ant.name, ant.state, ant.lock_id, ant.epoch) == ("ant", HealthState.DISABLED, -(2**63), 2**40 + 3)
    assert (ant.paused, ant.paused_at, ant.paused_by, ant.pause_reason) == (True, AT, "ada", "disk")
    assert (ant.triggered_at, ant.triggered_by) == (AT + timedelta(seconds=1), "bob")
    assert (ant.holder, ant.working_since) == ("tickrunner_trio 5 web-1", None)
    assert (ant.last_outcome, ant.last_ended, ant.last_duration) == (Outcome.FAILED, AT + timedelta(seconds=3), 1.5)
    assert (ant.last_success, ant.last_failure) == (AT + timedelta(seconds=4), AT + timedelta(seconds=5))
    assert (ant.last_error, ant.consecutive_failures) == ("OSError: full", 2)
    assert ant.next_due == AT + timedelta(days=36500)


async def test_a_run_is_under_way_only_while_somebody_holds_the_lock(dsn: str, ledger: PostgresLedger) -> None:
    put(dsn, "begun", lock_id=-8, started_at=AT, last_ended_at=AT - timedelta(seconds=1))
    put(dsn, "first", lock_id=2**40, started_at=AT)
    put(dsn, "ended", lock_id=9, started_at=AT, last_ended_at=AT + timedelta(seconds=1))

    async def working() -> dict[str, datetime | None]:
        return {row.name: row.working_since for row in await ledger.cluster_health()}

    assert set((await working()).values()) == {None}
    with psycopg.connect(dsn) as holder:
        for lock_id in (-8, 2**40, 9):
            holder.execute("SELECT pg_advisory_lock(%s)", (lock_id,))
        assert await working() == {"begun": AT, "first": AT, "ended": None}


async def test_a_service_that_nobody_runs_is_stalled_by_the_clock_of_the_database(
    dsn: str, ledger: PostgresLedger
) -> None:
    put(dsn, "late", due_at="=now() - interval '170 seconds'", last_ended_at="=now()")
    put(dsn, "stalled", due_at="=now() - interval '190 seconds'", last_ended_at="=now()")
    states = {row.name: row.state for row in await ledger.cluster_health()}
    assert states == {"late": HealthState.OK, "stalled": HealthState.STALLED}


async def test_a_service_whose_run_hangs_is_stalled_by_the_clock_of_the_database(
    dsn: str, ledger: PostgresLedger
) -> None:
    for lock_id, (name, seconds) in enumerate({"long": 230, "hangs": 250}.items(), start=101):
        put(dsn, name, lock_id=lock_id, due_at=AT, started_at=f"=now() - interval '{seconds} seconds'")
    put(dsn, "hangs_for_ever", lock_id=103, started_at="-infinity")
    with psycopg.connect(dsn) as holder:
        holder.execute("SELECT pg_advisory_lock(generate_series(101, 103))")
        states = {row.name: row.state for row in await ledger.cluster_health()}
    assert states == {
        "long": HealthState.STARTING,
        "hangs": HealthState.STALLED,
        "hangs_for_ever": HealthState.STARTING,  # what somebody wrote by hand
    }


async def test_the_history_is_told_newest_first_whatever_its_slots(dsn: str, ledger: PostgresLedger) -> None:
    put(dsn, "sweep")
    rows = [
        (99, 7, AT, AT + timedelta(seconds=1), "success", "web-1", ""),
        (0, 8, AT + timedelta(minutes=1), None, None, "web-2", ""),
        (98, 6, AT - timedelta(minutes=1), AT, "failed", "web-1", "OSError"),
    ]
    for row in rows:
        do(dsn, "INSERT INTO tickrunner.run VALUES ('sweep', %s, %s, %s, %s, %s, %s, %s)", *row)
    do(dsn, "INSERT INTO tickrunner.run VALUES ('other', 0, 1, now(), NULL, NULL, 'web-1', '')")
    runs = await ledger.history("sweep")
    assert [run.epoch for run in runs] == [8, 7, 6]
    assert runs[0] == PastRun(
        service="sweep", epoch=8, started_at=AT + timedelta(minutes=1), ended_at=None, outcome=None, replica="web-2",
        error="",
    )  # fmt: skip
    assert (runs[2].outcome, runs[2].ended_at, runs[2].error) == (Outcome.FAILED, AT, "OSError")


# -- What is changed ---------------------------------------------------------------------------------------------------


async def test_a_pause_is_kept_with_reason_and_name_until_it_is_taken_back(dsn: str, ledger: PostgresLedger) -> None:
    put(dsn, "sweep", due_at=AT)
    put(dsn, "other")
    paused = await ledger.pause("sweep", reason="disk", by="ada")
    assert (paused.state, paused.pause_reason, paused.paused_by) == (HealthState.DISABLED, "disk", "ada")
    again = await ledger.pause("sweep", reason="disk, and cables", by="bob")
    assert (again.paused_at, again.pause_reason, again.paused_by) == (paused.paused_at, "disk, and cables", "bob")
    other, seen = await ledger.cluster_health()
    assert (seen, other.paused) == (again, False)
    resumed = await ledger.resume("sweep")
    assert (resumed.paused, resumed.pause_reason, resumed.paused_by) == (False, "", "")
    assert resumed.next_due == AT
    assert await ledger.resume("sweep") == resumed


async def test_a_trigger_is_kept_with_its_name(dsn: str, ledger: PostgresLedger) -> None:
    put(dsn, "sweep", due_at=AT)
    first = await ledger.trigger("sweep", by="ada")
    assert first.triggered_at is not None
    assert (first.triggered_by, first.next_due) == ("ada", AT)
    second = await ledger.trigger("sweep")
    assert second.triggered_at is not None
    assert second.triggered_at > first.triggered_at
    assert second.triggered_by == ""


async def test_a_service_can_be_made_known_and_keeps_what_is_known_of_it(dsn: str, ledger: PostgresLedger) -> None:
    await ledger.add("sweep", lock_id=2**63 - 1, interval=0.25)
    await ledger.pause("sweep", reason="", by="")
    await ledger.add("sweep", lock_id=1, interval=60)
    [row] = await ledger.cluster_health()
    assert (row.lock_id, row.interval, row.paused) == (2**63 - 1, 0.25, True)


CALLS: dict[str, Callable[[PostgresLedger, str], Any]] = {
    "history": lambda ledger, name: ledger.history(name),
    "pause": lambda ledger, name: ledger.pause(name, reason="", by=""),
    "resume": lambda ledger, name: ledger.resume(name),
    "trigger": lambda ledger, name: ledger.trigger(name),
}


@pytest.mark.parametrize("call", CALLS)
async def test_a_service_that_nobody_knows_is_refused_with_those_that_are_known(
    dsn: str, ledger: PostgresLedger, call: str
) -> None:
    with pytest.raises(ValueError, match=r"^name must be .* got 'swep': it knows none yet"):
        await CALLS[call](ledger, "swep")
    put(dsn, "sweep")
    put(dsn, "expire")
    with pytest.raises(ValueError, match=r"^name must be .* got 'swep': use one of expire, sweep$"):
        await CALLS[call](ledger, "swep")


async def test_a_service_that_nobody_knows_may_have_any_name(ledger: PostgresLedger) -> None:
    for name in ("\0", "\ud800", "'; DROP SCHEMA tickrunner CASCADE; --", "\N{GRINNING FACE}" * 1000, ""):
        with pytest.raises(ValueError, match=r"^name must be "):
            await ledger.resume(name)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [((5, "", ""), "name"), (("sweep", 5, ""), "reason"), (("sweep", "", None), "by")],
)
async def test_what_is_no_text_is_refused_by_its_field(dsn: str, arguments: tuple[Any, Any, Any], field: str) -> None:
    name, reason, by = arguments
    with pytest.raises(TypeError, match=f"^{field} must be a str, got "):
        await PostgresLedger(dsn).pause(name, reason=reason, by=by)


@pytest.fixture(scope="module")
def latin1(postgres: LocalPostgres) -> Iterator[PostgresLedger]:
    with ledgered_database(postgres.dsn, "LATIN1") as dsn:
        ledger = PostgresLedger(dsn)
        trio.run(partial(ledger.add, "sweep", lock_id=1, interval=60))
        yield ledger


@settings(max_examples=40)
@given(reason=ANY_TEXT, by=ANY_TEXT)
@example(reason="\0\ud800\N{GRINNING FACE}\xe4", by="'; DROP TABLE tickrunner.service; --")
def test_any_text_can_be_written_whatever_the_encoding_of_the_database(
    latin1: PostgresLedger, reason: str, by: str
) -> None:
    written = trio.run(partial(latin1.pause, "sweep", reason=reason, by=by))
    for text in (written.pause_reason, written.paused_by):
        assert text.isascii()
        assert len(text) <= 500
    if re.fullmatch(r"[ -~\n]{0,500}", reason):
        assert written.pause_reason == reason


# -- What stands in the way --------------------------------------------------------------------------------------------


async def test_a_row_that_somebody_keeps_locked_is_told_in_time_and_the_others_are_free(
    dsn: str, ledger: PostgresLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_ledger_transaction, "LOCK_SECONDS", 0.1)
    put(dsn, "sweep")
    put(dsn, "other")
    with psycopg.connect(dsn) as forgetful:
        forgetful.execute("UPDATE tickrunner.service SET epoch = epoch WHERE name = 'sweep'")
        with pytest.raises(DatabaseUnavailableError, match=r"another session holds a lock .*: end its transaction"):
            await ledger.pause("sweep", reason="", by="")
        assert (await ledger.pause("other", reason="", by="")).paused
        assert [row.paused for row in await ledger.cluster_health()] == [True, False]


async def test_nothing_waits_for_a_synchronous_standby_that_is_gone(own_postgres: LocalPostgres) -> None:
    ledger = PostgresLedger(own_postgres.dsn)
    do(own_postgres.dsn, "ALTER SYSTEM SET synchronous_standby_names = 'gone'")
    do(own_postgres.dsn, "SELECT pg_reload_conf()")
    with trio.fail_after(30):
        await until(lambda: do(own_postgres.dsn, "SHOW synchronous_standby_names") == [("gone",)])
        await ledger.init()
        await ledger.add("sweep", lock_id=1, interval=60)
        assert (await ledger.pause("sweep", reason="", by="")).paused


async def test_a_pooler_in_transaction_mode_serves_and_keeps_no_setting(postgres: LocalPostgres) -> None:
    with pgbouncer(postgres, pool_size=1) as pooler:
        dsn = pooler.dsn("transaction")
        ledger = PostgresLedger(dsn, "through_a_pooler")
        try:
            await ledger.init()
            await ledger.add("sweep", lock_id=1, interval=60)
            assert (await ledger.trigger("sweep")).triggered_at is not None
            names = ("search_path", "lock_timeout", "statement_timeout", "synchronous_commit")
            shown = [do(dsn, f"SHOW {name}")[0][0] for name in names]
            assert shown == ['"$user", public', "0", "0", "on"]
        finally:
            await ledger.drop()


async def test_without_a_ledger_the_remedy_is_told(dsn: str) -> None:
    ledger = PostgresLedger(dsn)
    for call in [ledger.cluster_health, *(partial(each, ledger, "sweep") for each in CALLS.values())]:
        with pytest.raises(LockerConfigurationError, match=r"there is no ledger, .*: run 'tickrunner ledger"):
            await call()


async def test_a_server_that_is_too_old_is_told(ledger: PostgresLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "server_version", 130018)
    with pytest.raises(LockerConfigurationError, match=r"^the server is PostgreSQL 13\.18: .*14 or newer is needed$"):
        await ledger.cluster_health()


async def test_what_else_the_server_refuses_is_told_as_it_says(
    dsn: str, ledger: PostgresLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(dsn, "sweep")
    monkeypatch.setattr(_ledger_rows, "_ROWS", "SELECT 1 / 0 FROM {service}")
    with pytest.raises(LockerConfigurationError, match="division by zero"):
        await ledger.cluster_health()


async def test_a_server_that_is_away_is_told_as_such(tmp_path: object) -> None:
    with pytest.raises(DatabaseUnavailableError):
        await PostgresLedger(f"host={tmp_path} dbname=app").cluster_health()


async def test_a_caller_that_is_cancelled_returns_at_once(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entered = trio.Event()
    token = trio.lowlevel.current_trio_token()
    release = threading.Event()

    def hanging(*arguments: object) -> tuple[()]:
        token.run_sync_soon(entered.set)
        release.wait(30)
        return ()

    monkeypatch.setattr("tickrunner_trio.lockers._ledger.read_services", hanging)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(PostgresLedger(dsn).cluster_health)
            await entered.wait()
            nursery.cancel_scope.cancel()
    finally:
        release.set()


def test_no_repr_holds_the_connection_string() -> None:
    assert repr(PostgresLedger("host=db password=secret", "own")) == "<PostgresLedger 'own'>"


def test_what_is_no_connection_string_or_schema_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^conninfo must be a str, got a int: write it as"):
        PostgresLedger(5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^conninfo must not contain a NUL character"):
        PostgresLedger("host=db\0")
    with pytest.raises(ValueError, match=r"^schema must be the name of a schema"):
        PostgresLedger("host=db", "")
    assert PostgresLedger("host=db").schema == "tickrunner"


def test_the_columns_that_are_read_are_those_that_are_made() -> None:
    from tickrunner_trio.lockers._ledger_schema import COLUMNS  # noqa: PLC0415 - of this test alone

    words = set(re.findall(r"\w+", _ledger_rows._ROWS))
    unread = {column.name for column in COLUMNS["service"]} - words
    assert unread == {"timeline"}
