"""The ledger as the admin application shows and operates it: for all replicas, by one token, in any loop."""

from __future__ import annotations

import json
import logging
import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from admin_client import Answer, ask, events, exchange, request, running, served
from kept_ledger import KeptLedger, LedgerLocker, a_past

from tickrunner_trio import (
    ClusterHealth,
    Config,
    DatabaseUnavailableError,
    LockerConfigurationError,
    MemoryLocker,
    Outcome,
    PastRun,
    PostgresLocker,
    Service,
    Supervisor,
    lock_id_for,
)
from tickrunner_trio.admin import admin_app
from tickrunner_trio.admin._cluster import has_ledger
from tickrunner_trio.admin._guard import LONGEST_BODY

if TYPE_CHECKING:
    from tickrunner_trio import Tick

AT = datetime(2026, 3, 1, 12, 0, 0, 250000, tzinfo=UTC)


@pytest.fixture(autouse=True)
def late_first_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tick comes by itself while a test runs: the first slots are 54 seconds away."""
    monkeypatch.setattr(random, "random", lambda: 0.9)


@pytest.fixture
def ledger() -> KeptLedger:
    return KeptLedger()


@pytest.fixture
def supervisor(ledger: KeptLedger) -> Supervisor:
    locker = LedgerLocker(ledger)
    return Supervisor([a_service("sweep", locker), a_service("expire", locker), a_service("local", MemoryLocker())])


async def nothing(tick: Tick) -> None:
    """Work that is done at once."""


def a_service(name: str, locker: Any) -> Service:
    return Service(Config(name=name, interval=3600, locker=locker, work=nothing))


async def post(port: int, name: str, what: str, body: object = None, **headers: str) -> Answer:
    sent = b"" if body is None else json.dumps(body).encode()
    return await ask(port, "POST", f"/api/services/{name}/{what}", headers, body=sent)


# -- What is shown -----------------------------------------------------------------------------------------------------


async def test_each_service_is_shown_with_its_row(supervisor: Supervisor, ledger: KeptLedger) -> None:
    ledger.put(
        "sweep",
        lock_id=2**63 - 1,
        last_success=AT,
        last_outcome=Outcome.SUCCESS,
        last_error="e" * 600,
        holder="web-1",
        epoch=2**40,
        working_since=AT,
    )
    async with running(supervisor) as port:
        sweep, expire, local = (await ask(port, "GET", "/api/services")).json["services"]
        assert (await ask(port, "GET", "/api/services/sweep")).json["cluster"] == sweep["cluster"]
        rows = (await ask(port, "GET", "/api/cluster")).json["services"]
    row = sweep["cluster"]
    assert row.keys() == set(ClusterHealth.__dataclass_fields__)
    assert (row["lock_id"], row["last_success"], row["epoch"]) == (
        str(2**63 - 1),
        "2026-03-01T12:00:00.250+00:00",
        2**40,
    )
    assert (row["holder"], row["last_outcome"], row["paused_at"]) == ("web-1", "success", None)
    assert len(row["last_error"]) < 600
    assert (expire["cluster"]["state"], expire["cluster"]["lock_id"]) == ("starting", str(lock_id_for("expire")))
    assert rows == [row, expire["cluster"]]
    assert [each["ledger"] for each in (sweep, expire, local)] == [True, True, False]
    assert local["cluster"] is None


async def test_the_history_is_shown_newest_first(supervisor: Supervisor, ledger: KeptLedger) -> None:
    ledger.put("sweep")
    ledger.runs["sweep"] = a_past("sweep", 3)
    async with running(supervisor) as port:
        told = (await ask(port, "GET", "/api/services/sweep/history")).json
        assert (await ask(port, "GET", "/api/services/expire/history")).json["runs"] == []
    assert told["service"] == "sweep"
    assert [run["epoch"] for run in told["runs"]] == [3, 2, 1]
    assert {frozenset(run) for run in told["runs"]} == {frozenset(PastRun.__dataclass_fields__) - {"service"}}
    assert told["runs"][1]["error"] == "OSError: <b>full</b>"
    assert (told["runs"][0]["ended_at"], told["runs"][0]["outcome"]) == (None, None)


async def test_a_change_is_streamed(supervisor: Supervisor) -> None:
    async with running(supervisor) as port, events(port) as stream:
        await stream.board_where(lambda board: board["services"][0]["cluster"] is not None)
        await supervisor.pause("sweep", reason="disk", by="ada")
        board = await stream.board_where(lambda board: board["services"][0]["cluster"]["paused_at"] is not None)
    assert board["services"][0]["cluster"]["pause_reason"] == "disk"


async def test_the_ledger_is_asked_at_most_once_a_second_for_all_who_look(
    supervisor: Supervisor, ledger: KeptLedger
) -> None:
    async with running(supervisor) as port:
        for _ in range(5):
            await ask(port, "GET", "/api/services")
        assert ledger.asked <= 2
        assert (await post(port, "sweep", "tick")).json["outcome"] == "success"


async def test_while_the_database_cannot_tell_the_services_are_shown_without(
    supervisor: Supervisor, ledger: KeptLedger
) -> None:
    ledger.fails = DatabaseUnavailableError("connection refused")
    async with running(supervisor) as port:
        shown = (await ask(port, "GET", "/api/services/sweep")).json
        assert (shown["ledger"], shown["cluster"], shown["state"]) == (True, None, "starting")
        for method, path in (("GET", "cluster"), ("GET", "services/sweep/history"), ("POST", "services/sweep/resume")):
            refused = await ask(port, method, f"/api/{path}")
            assert (refused.status, refused.json) == (503, {"error": "connection refused"})


# -- What is done ------------------------------------------------------------------------------------------------------


async def test_a_service_is_paused_resumed_and_triggered(
    supervisor: Supervisor, ledger: KeptLedger, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tickrunner_trio.admin")
    async with running(supervisor) as port:
        paused = await post(port, "sweep", "pause", {"reason": "disk \ud83d\ude00", "by": "ada"})
        assert (paused.status, paused.json["state"]) == (200, "disabled")
        assert (paused.json["paused_by"], paused.json["pause_reason"]) == ("ada", "disk \N{GRINNING FACE}")
        assert (await ask(port, "GET", "/api/services/sweep")).json["cluster"]["paused_by"] == "ada"
        resumed = await post(port, "sweep", "resume")
        assert (resumed.status, resumed.json["paused_at"]) == (200, None)
        triggered = await post(port, "sweep", "trigger", {"by": "bob"})
        assert (triggered.status, triggered.json["triggered_by"]) == (200, "bob")
    assert ledger.rows["sweep"].triggered_by == "bob"
    assert [message for message in caplog.messages if "asked for" in message] == [
        f"{what} of sweep asked for from 127.0.0.1" for what in ("pause", "resume", "trigger")
    ]


async def test_who_does_not_say_who_it_is_is_known_by_address(supervisor: Supervisor, ledger: KeptLedger) -> None:
    async with running(supervisor) as port:
        await post(port, "sweep", "pause")
        await post(port, "sweep", "trigger", {})
    row = ledger.rows["sweep"]
    assert (row.paused_by, row.pause_reason, row.triggered_by) == ("somebody at 127.0.0.1", "", "somebody at 127.0.0.1")


@pytest.mark.parametrize(
    "body",
    [b"reason=disk", b"[]", b'"disk"', b'{"reason": 5}', b'{"by": null}', b'{"reson": "disk"}', b"\xff", b"[" * 900],
)
async def test_a_body_that_says_something_else_changes_nothing(
    supervisor: Supervisor, ledger: KeptLedger, body: bytes
) -> None:
    async with running(supervisor) as port:
        refused = await ask(port, "POST", "/api/services/sweep/pause", body=body)
    assert refused.status == 400
    assert 'such as {"reason": "...", "by": "..."}' in refused.json["error"]
    assert ledger.rows == {}


async def test_a_body_that_is_too_long_is_refused_whatever_it_says_of_its_length(
    supervisor: Supervisor, ledger: KeptLedger
) -> None:
    async with running(supervisor) as port:
        assert (await post(port, "sweep", "pause", {"reason": "x" * LONGEST_BODY})).status == 413
        size = LONGEST_BODY + 1
        chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (size, b" " * size)
        headers = {"Transfer-Encoding": "chunked"}
        sent = request("POST", "/api/services/sweep/pause", headers) + chunk
        assert (await exchange(port, sent)).status == 413
    assert ledger.rows == {}


# -- Who may, and when -------------------------------------------------------------------------------------------------

DONE = ("pause", "resume", "trigger")


@pytest.mark.parametrize("what", DONE)
async def test_without_a_ledger_it_is_a_conflict_with_the_remedy(what: str, supervisor: Supervisor) -> None:
    async with running(supervisor) as port:
        refused = await post(port, "local", what)
        assert refused.status == 409
        assert "PostgresLocker(conninfo, ledger=True)" in refused.json["error"]
        assert (await ask(port, "GET", "/api/services/local/history")).status == 409
    async with running(Supervisor([a_service("local", MemoryLocker())])) as port:
        assert (await ask(port, "GET", "/api/cluster")).status == 409


async def test_a_ledger_that_is_not_there_is_a_conflict_with_the_remedy(
    supervisor: Supervisor, ledger: KeptLedger
) -> None:
    ledger.fails = LockerConfigurationError("there is no ledger: run 'tickrunner ledger init'")
    async with running(supervisor) as port:
        refused = await post(port, "sweep", "trigger")
    assert (refused.status, refused.json["error"]) == (409, "there is no ledger: run 'tickrunner ledger init'")


@pytest.mark.parametrize("what", DONE)
async def test_it_is_guarded_as_a_forced_tick_is(what: str, supervisor: Supervisor, ledger: KeptLedger) -> None:
    path = f"/api/services/sweep/{what}"
    async with running(supervisor) as port:
        assert (await ask(port, "POST", path, token=None)).status == 401
        assert (await ask(port, "POST", path, token="wrong")).status == 401
        assert (await ask(port, "POST", path, {"Origin": "https://evil.example"})).status == 403
        assert (await ask(port, "POST", path, {"Sec-Fetch-Site": "cross-site"})).status == 403
        assert (await ask(port, "POST", path, {"Host": "evil.example"})).status == 400
        assert (await ask(port, "GET", path)).status == 405
        assert (await post(port, "swep", what)).status == 404
    async with running(supervisor, token=None) as port:
        assert (await ask(port, "POST", path)).status == 403
        assert (await ask(port, "GET", "/api/cluster")).status == 403
    assert ledger.rows == {}


async def test_before_the_supervisor_runs_nobody_is_asked(supervisor: Supervisor, ledger: KeptLedger) -> None:
    async with served(admin_app(supervisor, token="sesame-open-yourself")) as port:
        refused = await post(port, "sweep", "trigger")
    assert (refused.status, refused.json["error"]) == (503, "the supervisor is idle: it asks nobody")
    assert ledger.asked == 0


# -- On PostgreSQL -----------------------------------------------------------------------------------------------------


async def test_the_rows_of_a_real_ledger_are_shown_and_changed(dsn: str) -> None:
    locker = PostgresLocker(dsn, ledger=True)
    assert locker.ledger is not None
    await locker.ledger.init()
    sweep = a_service("sweep", locker)
    assert has_ledger(sweep)
    async with locker, running(Supervisor([sweep])) as port:
        assert (await post(port, "sweep", "pause", {"reason": "disk", "by": "ada"})).status == 200
        shown = (await ask(port, "GET", "/api/services/sweep")).json["cluster"]
        assert (shown["state"], shown["pause_reason"], shown["paused_by"]) == ("disabled", "disk", "ada")
        assert (await ask(port, "GET", "/api/services/sweep/history")).json["runs"] == []


def test_a_locker_without_one_has_none() -> None:
    assert not has_ledger(a_service("sweep", PostgresLocker("host=db")))
    assert not has_ledger(a_service("sweep", LedgerLocker(None)))
    assert not has_ledger(a_service("sweep", MemoryLocker()))
