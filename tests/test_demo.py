"""The demo: its verdict on invented evidence, its view, and the whole of it as a real process that nothing outlives."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pty
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import trio
from cli_processes import run_to_end, started
from hypothesis import given
from hypothesis import strategies as st
from psycopg import sql

import tickrunner_trio
from tickrunner_trio import _demo, _demo_database, _demo_replica, lock_id_for
from tickrunner_trio._cli import main
from tickrunner_trio._cli_errors import CommandError
from tickrunner_trio._demo_database import demo_database
from tickrunner_trio._demo_replica import Replica
from tickrunner_trio._demo_table import Board, Look
from tickrunner_trio._demo_verdict import Evidence, Kill, Run, Verdict, judge, report, takeover_bound
from tickrunner_trio._local_postgres import LocalPostgresError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tickrunner_trio._local_postgres import LocalPostgres

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def run(start: float, end: float | None, replica: str = "a", *, seen: float | None = None, service: str = "s") -> Run:
    return Run(
        service=service,
        replica=replica,
        started_at=at(start),
        last_seen_at=None if seen is None else at(seen),
        ended_at=None if end is None else at(end),
    )


def evidence(
    *runs: Run, kill: Kill | None = None, seconds: float = 10, objects: int = 3, replicated: int = 3
) -> Evidence:
    return Evidence(
        intervals={"s": 1.0},
        runs=runs,
        began_at=at(0),
        ended_at=at(seconds),
        kill=kill,
        objects=objects,
        replicated=replicated,
    )


#: Ten runs in ten intervals, 0.2 s each, by two replicas in turn.
FAULTLESS = [run(n, n + 0.2, "ab"[n % 2]) for n in range(10)]


def convicted(verdict: Verdict) -> str:
    assert report(verdict)[-1] == f"BROKEN: {verdict.broken[-1]}"
    (sentence,) = verdict.broken
    return sentence


# The verdict: overlaps


def test_faultless_evidence_is_acquitted() -> None:
    verdict = judge(evidence(*FAULTLESS))
    assert verdict.broken == ()
    (service,) = verdict.services
    assert (service.runs, service.runs_per_interval, service.overlaps) == (10, 1.0, ())
    assert report(verdict) == [
        "What the work itself recorded:",
        "  s  1.00 runs per interval (10 in 10.0), 0 overlapping",
        "  objects fully replicated: 3 of 3",
        "Every promise was kept.",
    ]


def test_runs_of_two_replicas_at_once_are_convicted() -> None:
    first, second = FAULTLESS[3], run(3.19, 3.3, "a")
    verdict = judge(evidence(*FAULTLESS, second))
    assert verdict.services[0].overlaps == ((first, second),)
    assert convicted(verdict) == "s ran on b and a at once at 12:00:03.190000"


def test_runs_of_one_replica_at_once_are_convicted_too() -> None:
    assert convicted(judge(evidence(*FAULTLESS, run(3.19, 3.3, "b")))) == "s ran on b twice at once at 12:00:03.190000"


def test_a_run_that_starts_when_the_other_ends_is_no_overlap() -> None:
    assert judge(evidence(*FAULTLESS, run(3.2, 3.3))).broken == ()


def test_a_long_run_overlaps_all_that_start_within_it_not_only_the_next() -> None:
    long, short, later = run(0, 5, "a"), run(1, 1.1, "b"), run(3, 3.1, "b")
    assert judge(evidence(long, short, later)).services[0].overlaps == ((long, short), (long, later))


def test_runs_of_different_services_may_overlap() -> None:
    both = [*FAULTLESS, *(replace(one, service="t") for one in FAULTLESS)]
    assert judge(replace(evidence(*both), intervals={"s": 1.0, "t": 1.0})).broken == ()


def test_a_killed_run_lasts_until_it_was_last_seen() -> None:
    killed = run(3.3, None, "a", seen=3.6)
    assert judge(evidence(*FAULTLESS, killed)).broken == ()
    successor = run(3.59, 3.7, "b")
    assert judge(evidence(*FAULTLESS, killed, successor)).services[0].overlaps == ((killed, successor),)
    assert judge(evidence(*FAULTLESS, killed, run(3.61, 3.7, "b"))).services[0].overlaps == ()


def test_an_end_counts_although_it_was_last_seen_earlier() -> None:
    assert len(judge(evidence(run(0, 2, "a", seen=1), run(1.5, 3, "b"))).services[0].overlaps) == 1


spans = st.tuples(st.integers(0, 30), st.integers(0, 10))


@given(st.lists(spans, max_size=12))
def test_an_overlap_is_found_exactly_when_two_runs_share_a_moment(pairs: list[tuple[int, int]]) -> None:
    runs = [run(start, start + length, str(number)) for number, (start, length) in enumerate(pairs)]
    # A run of no length shares no moment with what begins at that very moment.
    shared = any(
        one is not other and one.started_at <= other.started_at < one.stopped_at and one.stopped_at > one.started_at
        for one in runs
        for other in runs
    )
    found = judge(evidence(*runs)).services[0].overlaps
    assert bool(found) == shared
    for first, second in found:
        assert first.started_at <= second.started_at < first.stopped_at


# The verdict: the other promises


def test_too_many_runs_are_convicted() -> None:
    crowd = [run(n / 2, n / 2 + 0.1) for n in range(20)]
    assert convicted(judge(evidence(*crowd))) == "s ran 20 times in 10.0 intervals, allowed: 12.1"


def test_a_failover_excuses_one_more_run() -> None:
    twelve = [*FAULTLESS, run(5.4, 5.5, "b"), run(6.4, 6.5, "b"), run(7.4, 7.5, "b")]
    assert convicted(judge(evidence(*twelve))) == "s ran 13 times in 10.0 intervals, allowed: 12.1"
    assert judge(evidence(*twelve, kill=Kill(replica="a", at=at(5)))).broken == ()


def test_too_few_runs_are_convicted() -> None:
    assert judge(evidence(*FAULTLESS[:4])).broken == ()
    assert convicted(judge(evidence(*FAULTLESS[:3]))) == "s ran only 3 times in 10.0 intervals"
    assert judge(evidence()).services[0].runs_per_interval == 0


def test_runs_before_all_were_up_and_after_the_drain_began_do_not_count() -> None:
    outside = [run(-1, -0.9), run(-2, -1.9), run(10.5, 10.6), run(11, 11.1)]
    assert judge(evidence(*FAULTLESS, *outside)).services[0].runs == 10


def test_a_takeover_is_timed_from_the_kill() -> None:
    taken_over = [run(0, 0.2), run(1, 1.2), run(2, None, "a", seen=2.1), *(run(n, n + 0.2, "b") for n in range(4, 10))]
    verdict = judge(evidence(*taken_over, kill=Kill(replica="a", at=at(2.5))))
    assert verdict.broken == ()
    assert verdict.services[0].was_killed
    assert verdict.services[0].taken_over_after == 1.5
    assert report(verdict)[1].endswith("taken over 1.50 s after the kill")


def test_a_service_that_another_replica_was_running_needs_no_takeover() -> None:
    verdict = judge(evidence(*FAULTLESS, kill=Kill(replica="a", at=at(9.5))))
    assert not verdict.services[0].was_killed
    assert verdict.broken == ()


def test_a_run_that_the_killed_replica_began_after_the_time_was_taken_is_its_own() -> None:
    began_late = [*FAULTLESS[:6], run(6.3, None, "a", seen=6.3), run(7, 7.1, "b"), run(8, 8.1, "b"), run(9, 9.1, "b")]
    verdict = judge(evidence(*began_late, kill=Kill(replica="a", at=at(6.2))))
    assert verdict.services[0].was_killed
    assert verdict.services[0].taken_over_after == pytest.approx(0.8)


def test_a_missing_takeover_is_convicted() -> None:
    alone = [run(n, n + 0.2) for n in range(6)]
    assert (
        convicted(judge(evidence(*alone, kill=Kill(replica="a", at=at(5.5))))) == "s was taken over by no other replica"
    )


def test_a_late_takeover_is_convicted() -> None:
    longest = takeover_bound(1.0)
    runs = [run(n, n + 0.2) for n in range(5)]
    kill = Kill(replica="a", at=at(4.5))
    assert judge(evidence(*runs, run(4.5 + longest, 9, "b"), kill=kill)).broken == ()
    late = judge(evidence(*runs, run(4.6 + longest, 9, "b"), kill=kill))
    assert convicted(late) == "s was taken over after 4.1 s, allowed: 4.0 s"


def test_a_killed_replica_that_ran_nothing_leaves_nothing_to_take_over() -> None:
    assert judge(evidence(*FAULTLESS, kill=Kill(replica="c", at=at(5)))).broken == ()


def test_objects_in_one_folder_only_are_convicted() -> None:
    assert convicted(judge(evidence(*FAULTLESS, objects=5, replicated=3))) == "2 of 5 objects are not in two folders"
    assert convicted(judge(evidence(*FAULTLESS, objects=0, replicated=0))) == "there was no object to replicate"


def test_work_of_a_service_that_nobody_announced_is_convicted() -> None:
    stray = run(3, 3.1, service="stray")
    assert convicted(judge(evidence(*FAULTLESS, stray))) == "work was recorded for services that no replica runs: stray"


# The view


def _started(*names: str) -> dict[str, object]:
    return {
        "message": "services started",
        "services": [{"name": name, "interval": 1.0, "lock_id": number} for number, name in enumerate(names)],
    }


def _tick(service: str, outcome: str) -> dict[str, object]:
    return {"component": service, "outcome": outcome, "timestamp": "2026-01-01T12:00:00.000+00:00"}


def test_the_board_shows_what_replicas_say_and_what_the_database_shows() -> None:
    board = Board(["one", "two"])
    assert board.rows() == []
    assert board.hear("one", _started("x", "y")) == "one: up"
    assert board.up == {"one"}
    assert board.hear("one", _tick("x", "success")) == "one: x: success"
    assert board.hear("two", _tick("x", "busy")) is None
    assert board.hear("two", _tick("y", "failed")) == "two: y: failed"
    assert board.hear("two", _tick("z", "failed")) is None, "no service of ours"
    assert board.hear("two", {"message": "something else", "component": "x"}) is None
    board.see(Look(runs={("x", "one"): 3}, holders=frozenset({(0, "one"), (1, "two")})))
    board.killed.add("one")
    assert board.rows() == [
        ("x", "one", "killed", "success", "3", "held"),
        ("x", "two", "standby", "busy", "0", ""),
        ("y", "one", "killed", "", "0", ""),
        ("y", "two", "failing", "failed", "0", "held"),
    ]


def test_the_busiest_replica_ran_most_or_holds_most() -> None:
    board = Board(["one", "two", "three"])
    board.see(Look(runs={("x", "one"): 2, ("y", "two"): 2, ("x", "two"): 1}, holders=frozenset({(1, "three")})))
    assert board.busiest() == "two"
    board.see(Look(runs={("x", "one"): 1, ("y", "two"): 1}, holders=frozenset({(1, "two")})))
    assert board.busiest() == "two"


# A replica


@pytest.mark.parametrize(
    ("lines", "last_words"),
    [
        (["boom"], "boom"),
        (["boom", "[1]"], "[1]"),
        ([{"level": "error", "message": "boom"}, {"level": "info", "message": "on"}], "boom"),
        ([{"level": "critical", "message": "m", "exception": "Traceback\nKeyError: 1"}], "KeyError: 1"),
        ([{"level": "info", "message": "m"}], "it said nothing"),
        ([], "it said nothing"),
    ],
)
async def test_a_replica_that_ends_by_itself_is_an_error_with_its_last_words(
    lines: list[object], last_words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    code = f"import sys; sys.stderr.writelines(line + chr(10) for line in {said}); sys.exit(3)"
    monkeypatch.setattr(_demo_replica, "_COMMAND", (sys.executable, "-c", code))
    records: list[object] = []
    with pytest.raises(CommandError) as raised:
        await Replica("one", os.environ).run(lambda _, record: records.append(record))
    assert str(raised.value) == f"one ended by itself with status 3: {last_words}"
    assert records == [line for line in lines if isinstance(line, dict)]


_UNWILLING = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('{"up": 1}', flush=True)
time.sleep(600)
"""


async def test_a_replica_that_does_not_drain_is_killed_and_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_demo_replica, "_COMMAND", (sys.executable, "-c", _UNWILLING))
    monkeypatch.setattr(_demo_replica, "DRAIN_SECONDS", 0)
    monkeypatch.setattr(_demo_replica, "_PATIENCE", 0.2)
    replica, up = Replica("one", os.environ), trio.Event()
    with pytest.RaisesGroup(pytest.RaisesExc(CommandError, match="one ended instead of draining with status -9")):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(replica.run, lambda *_: up.set())
            await up.wait()
            await replica.drain()


async def test_a_cancelled_replica_is_killed_and_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os; print('{\"pid\":', os.getpid(), '}', flush=True)" + _UNWILLING
    monkeypatch.setattr(_demo_replica, "_COMMAND", (sys.executable, "-c", code))
    records: list[Mapping[str, Any]] = []
    with trio.CancelScope() as scope:

        def tell(_: str, record: Mapping[str, Any]) -> None:
            records.append(record)
            scope.cancel()

        await Replica("one", os.environ).run(tell)
    with pytest.raises(ProcessLookupError):
        os.kill(records[0]["pid"], 0)


# The database


async def test_a_look_shows_who_holds_which_lock_and_who_ran_what(own_postgres: LocalPostgres) -> None:
    async with demo_database(own_postgres.dsn) as database:
        with psycopg.connect(database.conninfo("replica-7"), autocommit=True) as replica:
            replica.execute("create schema object_store")
            replica.execute("create table object_store.runs (service text, replica text)")
            replica.execute("insert into object_store.runs values ('x', 'replica-7'), ('x', 'replica-7'), ('x', 'r')")
            for lock_id in (-1, 5, lock_id_for("rebalance"), -(2**63), 2**63 - 1):
                replica.execute("select pg_advisory_lock(%s::bigint)", [lock_id])
            replica.execute("select pg_advisory_lock(3, 4)")  # Another space of ids, which we do not use.
            look = await database.look()
        assert look.runs == {("x", "replica-7"): 2, ("x", "r"): 1}
        assert look.holders == {
            (lock_id, "replica-7") for lock_id in (-1, 5, -3371678497705346647, -(2**63), 2**63 - 1)
        }
        assert (await database.now()).utcoffset() is not None
        own_postgres.stop("kill")
        with pytest.raises(CommandError, match="does not answer"):
            await database.now()


# The whole


def _marked(mark: str) -> set[int]:
    """The processes whose environment holds the mark."""
    found: set[int] = set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes():
                found.add(int(path.parent.name))
        except OSError:
            continue
    return found


class Traces:
    """What a demo may leave behind: processes with a mark in their environment, and files in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._mark = secrets.token_hex(16)
        # Without somebody's own server, unless a test says so: a killed demo would leave its database there.
        self.environment = {
            "TMPDIR": str(directory),
            "TICKRUNNER_TEST_MARK": self._mark,
            "TICKRUNNER_TEST_DSN": "",
        }

    def processes(self) -> set[int]:
        return _marked(self._mark)

    def files(self) -> list[str]:
        return sorted(path.name for path in self._directory.iterdir())

    def wait_for_no_process(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert self.processes() == set()


@pytest.fixture
def traces() -> Iterator[Traces]:
    # Short, and open to the user that the server runs as when we are root.
    directory = Path(tempfile.mkdtemp(prefix="demo-", dir="/tmp"))
    directory.chmod(0o755)
    found = Traces(directory)
    try:
        yield found
    finally:
        for pid in found.processes():
            os.kill(pid, signal.SIGKILL)  # pragma: no cover - of a test that has failed
        shutil.rmtree(directory)


on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes through /proc")


@on_linux
def test_the_demo_keeps_its_promises_and_leaves_nothing(traces: Traces) -> None:
    status, output, errors = run_to_end("demo", "--seconds", "6", **traces.environment)
    assert (status, errors) == (0, ""), output
    lines = output.splitlines()
    assert lines[-1] == "Every promise was kept."
    assert [line.endswith(": up") for line in lines].count(True) == 3
    assert len(re.findall(r"replica-\d: look at it on http://127\.0\.0\.1:\d+/#token=\S{43,}\n", output)) == 3
    assert any(line.endswith("killed with SIGKILL") for line in lines)
    verdict = lines[lines.index("What the work itself recorded:") :]
    assert [line.split()[0] for line in verdict[1:5]] == ["replication", "rebalancing", "expiry", "cleanup_queue"]
    assert all(", 0 overlapping" in line for line in verdict[1:5])
    assert any("after the kill" in line for line in verdict[1:5])
    assert traces.processes() == set()
    assert traces.files() == []


@on_linux
def test_a_signal_ends_the_demo_and_leaves_nothing(traces: Traces) -> None:
    with started("demo", "--seconds", "60", **traces.environment) as process:
        process.wait_for(": success")
        # The demo, the server's keeper, the server, three replicas.
        assert len(traces.processes()) >= 6
        assert traces.files() != []
        process.signal(signal.SIGTERM)
        status, output, errors = process.end()
    assert (status, errors) == (128 + signal.SIGTERM, "")
    assert "promise" not in output
    assert traces.processes() == set()
    assert traces.files() == []


@on_linux
def test_a_killed_demo_takes_its_processes_with_it(traces: Traces) -> None:
    with started("demo", "--seconds", "60", "--replicas", "2", **traces.environment) as process:
        process.wait_for(": success")
        process.signal(signal.SIGKILL)
        assert process.end()[0] == -signal.SIGKILL
    traces.wait_for_no_process(30)


@on_linux
def test_on_somebodys_server_the_demo_has_a_database_of_its_own_and_drops_it(
    traces: Traces, own_postgres: LocalPostgres
) -> None:
    environment = {**traces.environment, "TICKRUNNER_TEST_DSN": own_postgres.dsn}
    with started("demo", "--seconds", "60", "--no-kill", "--replicas", "1", **environment) as process:
        process.wait_for(": success")
        with psycopg.connect(own_postgres.dsn) as connection:
            names = {name for (name,) in connection.execute("select datname from pg_database")}
            assert [name for name in names if name.startswith("tickrunner_demo_")] != []
            assert connection.execute("select to_regnamespace('object_store')").fetchone() == (None,)
        process.signal(signal.SIGINT)
        assert process.end()[0] == 130
    with psycopg.connect(own_postgres.dsn) as connection:
        assert {name for (name,) in connection.execute("select datname from pg_database")} == {
            "postgres",
            "template0",
            "template1",
        }
    assert traces.processes() == set()
    assert traces.files() == []


@on_linux
def test_impatient_signals_cut_nothing_short(traces: Traces) -> None:
    with started("demo", "--seconds", "60", "--replicas", "2", **traces.environment) as process:
        process.wait_for(": success")
        for _ in range(5):
            process.signal(signal.SIGINT)
            time.sleep(0.02)
        status, _, errors = process.end()
    assert (status, errors) == (130, "")
    assert traces.processes() == set()
    assert traces.files() == []


async def test_a_cancellation_while_the_database_is_created_leaves_none(
    own_postgres: LocalPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = _demo_database._on_server
    statements: list[str] = []

    async def execute_and_cancel(server: str, statement: sql.Composed) -> None:
        await execute(server, statement)
        statements.append(statement.as_string(None))
        scope.cancel()

    monkeypatch.setattr(_demo_database, "_on_server", execute_and_cancel)
    with trio.CancelScope() as scope:
        async with demo_database(own_postgres.dsn):
            raise AssertionError("it was cancelled before")
    assert scope.cancelled_caught
    assert [statement.split()[0] for statement in statements] == ["create", "drop"]
    with psycopg.connect(own_postgres.dsn) as connection:
        names = {name for (name,) in connection.execute("select datname from pg_database")}
    assert names == {"postgres", "template0", "template1"}


@pytest.mark.parametrize("dsn", ["postgress://me:hunter2@127.0.0.1/app", "host=127.0.0.1 password='hunter2"])
def test_a_connection_string_that_cannot_be_read_is_one_line_that_keeps_the_password(
    dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TICKRUNNER_TEST_DSN", dsn)
    assert main(["demo"]) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("tickrunner: TICKRUNNER_TEST_DSN is not a connection string that libpq can read")
    assert "hunter2" not in errors
    assert errors.count("\n") == 1


@on_linux
def test_a_server_that_is_away_is_one_line(traces: Traces) -> None:
    environment = {**traces.environment, "TICKRUNNER_TEST_DSN": "host=127.0.0.1 port=1 user=nobody"}
    status, output, errors = run_to_end("demo", **environment)
    assert (status, output) == (1, "")
    assert errors.startswith("tickrunner: the demo cannot create a database for itself: ")
    assert errors.count("\n") == 1
    assert traces.files() == []


@on_linux
def test_an_example_that_cannot_be_seeded_is_one_line(traces: Traces) -> None:
    status, output, errors = run_to_end("demo", OBJECT_STORE_REBALANCING="maybe", **traces.environment)
    assert (status, output) == (1, "")
    assert errors.startswith("tickrunner: the example application cannot seed: object_store: OBJECT_STORE_REBALANCING")
    assert errors.count("\n") == 1
    assert traces.processes() == set()
    assert traces.files() == []


def test_a_server_that_does_not_start_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def local_postgres() -> None:
        raise LocalPostgresError("it did not start.\n  its log")

    monkeypatch.delenv("TICKRUNNER_TEST_DSN", raising=False)
    monkeypatch.setattr(_demo, "local_postgres", local_postgres)
    assert main(["demo"]) == 1
    assert capsys.readouterr().err == "tickrunner: it did not start. its log\n"


@on_linux
def test_a_replica_that_dies_ends_the_demo(traces: Traces) -> None:
    with started("demo", "--seconds", "60", "--replicas", "2", **traces.environment) as process:
        process.wait_for(": success")
        victim = next(pid for pid in traces.processes() if _is_replica(pid))
        os.kill(victim, signal.SIGKILL)
        status, _, errors = process.end()
    assert status == 1
    assert "ended by itself with status -9: " in errors
    assert errors.count("\n") == 1
    assert traces.processes() == set()
    assert traces.files() == []


def _is_replica(pid: int) -> bool:
    return b"object_store.app:services" in Path(f"/proc/{pid}/cmdline").read_bytes()


@on_linux
def test_each_replica_can_be_looked_at_and_a_token_that_all_were_given_is_not_shown(traces: Traces) -> None:
    arguments = ("--seconds", "60", "--replicas", "1")
    with started("demo", *arguments, TICKRUNNER_ADMIN_TOKEN="sesame", **traces.environment) as process:
        address = process.wait_for("replica-1: look at it on ").rpartition(" ")[2]
        process.wait_for("replica-1: up")
        with urllib.request.urlopen(f"{address}readyz", timeout=30) as reply:
            assert json.load(reply) == {"ready": True, "supervisor": "running"}
        process.signal(signal.SIGINT)
        status, output, errors = process.end()
    assert (status, errors) == (130, "")
    assert "sesame" not in output


def test_without_the_extra_the_replicas_have_no_admin_application(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--admin" in _demo_replica._COMMAND
    find_spec = importlib.util.find_spec
    with monkeypatch.context() as without:
        without.setattr(importlib.util, "find_spec", lambda name: None if name == "h11" else find_spec(name))
        importlib.reload(_demo_replica)
        assert "--admin" not in _demo_replica._COMMAND
    importlib.reload(_demo_replica)
    assert "--admin" in _demo_replica._COMMAND


LINK = b": look at it on http://127.0.0.1:"


@on_linux
def test_on_a_terminal_the_demo_shows_a_table_until_ctrl_c(traces: Traces) -> None:
    package_parent = str(Path(tickrunner_trio.__file__).parent.parent)
    environment = {**os.environ, **traces.environment, "PYTHONPATH": package_parent, "COLUMNS": "100", "LINES": "40"}
    terminal, other_end = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tickrunner_trio", "demo", "--seconds", "60", "--replicas", "2"],
        stdin=subprocess.DEVNULL,
        stdout=other_end,
        stderr=subprocess.PIPE,
        env={**environment, "TERM": "xterm"},
    ) as demo:
        os.close(other_end)
        try:
            shown = b""
            while not (
                all(each in shown for each in (b"last outcome", b"held", b"success")) and shown.count(LINK) == 2
            ):
                shown += os.read(terminal, 65536)
            demo.send_signal(signal.SIGINT)
            with contextlib.suppress(OSError):  # The other end is closed.
                while True:
                    shown += os.read(terminal, 65536)
            assert demo.wait(30) == 130
            assert demo.stderr is not None
            assert demo.stderr.read() == b""
        finally:
            demo.kill()
            os.close(terminal)
    assert shown.count(LINK) == 2
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l"), "the cursor was not shown again"
    assert traces.processes() == set()
    assert traces.files() == []


@pytest.mark.skipif(importlib.util.find_spec("rich") is None, reason="it hides rich")
def test_a_missing_package_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "rich.py").write_text("raise ImportError('there is no rich')\n")
    status, output, errors = run_to_end("demo", cwd=tmp_path)
    assert (status, output) == (2, "")
    assert errors == (
        "tickrunner: the demo needs packages that are not there (there is no rich): "
        "run python -m pip install 'tickrunner-trio[demo]'\n"
    )


def test_nothing_to_start_is_one_line_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TICKRUNNER_TEST_DSN", raising=False)
    monkeypatch.setattr(_demo, "server_binaries", tuple)
    assert main(["demo"]) == 2
    assert "let TICKRUNNER_TEST_DSN name a server" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr(_demo, "__file__", "/nowhere/tickrunner_trio/_demo.py")
    assert main(["demo"]) == 2
    assert "the example application is not installed with this package" in capsys.readouterr().err
