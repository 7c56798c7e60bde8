"""The ledger's statements on a real server: their arithmetic against `_dueness`, and what they leave of a table."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickrunner_trio import Outcome
from tickrunner_trio._dueness import EPOCH_BITS, due_after, epoch_after, is_due
from tickrunner_trio.lockers._ledger_setup import init_ledger
from tickrunner_trio.lockers._ledger_statements import ledger_statements

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Seconds by which two ways to compute with floats and microseconds may differ.
ROUNDING = 2e-5


@dataclass
class Session:
    """A session that says the statements one by one, as a pipeline does."""

    connection: psycopg.Connection[Any]

    def say(self, name: str, *parameters: str) -> list[tuple[str | None, ...]]:
        result = self.connection.pgconn.exec_prepared(name.encode(), [each.encode() for each in parameters])
        assert result.status == psycopg.pq.ExecStatus.TUPLES_OK, result.error_message.decode()
        texts = [[result.get_value(row, column) for column in range(result.nfields)] for row in range(result.ntuples)]
        return [tuple(None if text is None else text.decode() for text in row) for row in texts]

    def do(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        cursor = self.connection.execute(statement, parameters or None)  # type: ignore[call-overload]
        return cursor.fetchall() if cursor.description else []

    def ask(self, *names: str, interval: float = 60.0, forced: bool = False, lock_id: int = 1) -> list[Any]:
        """Try locks from ``lock_id`` on, make rows, draw, put back; return the answer of the draw."""
        locks = array(*range(lock_id, lock_id + len(names)))
        asked = [array(*names), locks, array(*[interval] * len(names)), array(*["t" if forced else "f"] * len(names))]
        self.say("exchange", "{}", locks)
        self.say("register", *asked)
        answer = self.say("draw", *asked, "somebody")
        self.say("put_back", locks, array(*["t"] * len(names)))
        return answer

    def tell(
        self, name: str, epoch: int, outcome: Outcome, *, interval: float, chance: float, lock_id: int = 1
    ) -> None:
        answer = self.say(
            "results",
            *(array(each) for each in (name, lock_id, epoch, outcome.value, 0.25, "said", chance, interval)),
        )
        assert answer[0][0] == "ours"
        self.say("exchange", "{}", "{}")


def array(*values: object) -> str:
    return f"{{{','.join(map(str, values))}}}"


@contextlib.contextmanager
def session(dsn: str, mark: str = "ours") -> Iterator[Session]:
    statements = ledger_statements("tickrunner", f"current_setting('tickrunner_trio.session', true) = '{mark}'")
    with psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as connection:
        connection.execute("SET search_path = pg_catalog, pg_temp")
        connection.execute("SET tickrunner_trio.session = 'ours'")
        for name in statements.__slots__:
            connection.pgconn.prepare(name.encode(), getattr(statements, name).encode())
        yield Session(connection)


@pytest.fixture
def ledger(dsn: str) -> Iterator[Session]:
    init_ledger(dsn, "tickrunner")
    with session(dsn) as opened:
        yield opened


def locks(opened: Session) -> int:
    return len(opened.do("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"))


# -- Against the model -------------------------------------------------------------------------------------------------


def test_what_a_run_does_to_the_due_time_is_what_the_model_says(ledger: Session) -> None:
    """Whatever the row said before, down to what only a hand can have written into it."""

    @settings(max_examples=150)
    @given(
        outcome=st.sampled_from(list(Outcome)),
        due_in=st.none() | st.floats(-20, 20),
        took=st.floats(0, 10) | st.sampled_from([0.0, 1.0]),
        interval=st.sampled_from([0.001, 0.1, 60.0, 86400.0, 366 * 86400.0]) | st.floats(0.001, 1e5),
        chance=st.just(0.0) | st.floats(1e-9, 1),
    )
    def check(outcome: Outcome, due_in: float | None, took: float, interval: float, chance: float) -> None:
        ledger.do("DELETE FROM tickrunner.service")
        ledger.do(
            "INSERT INTO tickrunner.service (name, lock_id, interval_seconds, epoch, started_at, due_at) VALUES"
            " ('a', 1, 9, 7, now() - %s::float8 * interval '1 s', now() + %s::float8 * interval '1 s')",
            took * interval,
            None if due_in is None else (due_in - took) * interval,
        )
        query = "SELECT extract(epoch FROM {})::float8 FROM tickrunner.service"
        [(due_at,)], [(started_at,)] = ledger.do(query.format("due_at")), ledger.do(query.format("started_at"))
        ledger.tell("a", 7, outcome, interval=interval, chance=chance)
        [(after,)], [(now,)] = ledger.do(query.format("due_at")), ledger.do(query.format("last_ended_at"))
        model = due_after(outcome, due_at, started_at=started_at, now=now, interval=interval, chance=chance)
        if model is None or after is None:
            assert model is after
        elif outcome is Outcome.SUCCESS:
            # Where a step ends now but for the rounding, one of the two takes it and the other one does not.
            assert min(abs(after - model), abs(abs(after - model) - interval)) < ROUNDING
            assert now < after <= now + interval + ROUNDING
        else:
            assert abs(after - model) < ROUNDING

    check()


@pytest.mark.parametrize("due_at", ["infinity", "-infinity", "0001-01-01 00:00Z", "9999-01-01 00:00Z"])
def test_a_due_time_that_nobody_can_reckon_with_costs_nothing_but_counts_as_due(ledger: Session, due_at: str) -> None:
    ledger.ask("a", interval=0.001)
    ledger.do("UPDATE tickrunner.service SET due_at = %s", due_at)
    [(_, _, epochs, *_)] = ledger.ask("a", interval=0.001)
    ledger.do("UPDATE tickrunner.service SET due_at = %s, interval_seconds = 0", due_at)
    ledger.tell("a", int(str(epochs)[1:-1]), Outcome.SUCCESS, interval=0.001, chance=0.5)
    [(is_near,)] = ledger.do("SELECT abs(extract(epoch FROM due_at - now())) < 10 FROM tickrunner.service")
    assert is_near


@settings(max_examples=100)
@given(due_in=st.floats(-3, 3).filter(lambda part: abs(part) > 0.01 and abs(part - 1) > 0.01), forced=st.booleans())
def test_the_model_of_due_is_scale_free(due_in: float, forced: bool) -> None:
    assert is_due(due_in * 60, now=0.0, interval=60.0) is is_due(due_in * 600, now=0.0, interval=600.0)


def test_what_is_due_is_drawn_and_nothing_else(ledger: Session) -> None:
    parts = [-1e6, -1.0, -0.01, 0.01, 0.5, 0.99, 1.01, 5.0, 1e6]
    names = [f"s{index}" for index in range(len(parts))]
    ledger.ask(*names)
    for lock_id in range(1, len(parts) + 1):
        ledger.do("SELECT pg_advisory_unlock(%s)", lock_id)
    for name, part in zip(names, parts, strict=True):
        ledger.do("UPDATE tickrunner.service SET due_at = now() + %s * interval '60 s' WHERE name = %s", part, name)
    [(_, drawn, *_), *others] = ledger.ask(*names)
    expected = {index + 1 for index, part in enumerate(parts) if is_due(part * 60, now=0.0, interval=60.0)}
    assert set(map(int, str(drawn)[1:-1].split(","))) == expected
    assert {int(str(row[1])) for row in others} == set(range(1, len(parts) + 1)) - expected
    assert locks(ledger) == len(expected)


@settings(max_examples=60)
@given(epoch=st.integers(0, 1 << 45), timeline=st.integers(0, 40))
def test_the_model_of_epochs_fits_a_bigint(epoch: int, timeline: int) -> None:
    assert 0 < epoch_after(epoch, timeline=timeline, server_timeline=7) < 1 << 63


def test_the_epoch_is_what_the_model_says(ledger: Session) -> None:
    ledger.ask("a")
    for epoch, timeline in [(0, 0), (5, 1), (1 << EPOCH_BITS, 1), ((9 << EPOCH_BITS) + 4, 9), (77, 3), (1 << 50, 2)]:
        ledger.do("UPDATE tickrunner.service SET epoch = %s, timeline = %s", epoch, timeline)
        [(_, _, epochs, *_)] = ledger.ask("a", forced=True)
        assert int(str(epochs)[1:-1]) == epoch_after(epoch, timeline=timeline, server_timeline=1)


# -- Its rows ----------------------------------------------------------------------------------------------------------


def test_an_outcome_leaves_in_the_row_what_health_would_say_of_it(ledger: Session) -> None:
    def after(outcome: Outcome) -> tuple[Any, ...]:
        [(_, _, epochs, *_)] = ledger.ask("a", forced=True)
        ledger.tell("a", int(str(epochs)[1:-1]), outcome, interval=60.0, chance=0.5)
        [row] = ledger.do(
            "SELECT last_outcome, consecutive_failures, last_error, last_success = last_ended_at,"
            " last_failure = last_ended_at, last_duration FROM tickrunner.service"
        )
        return row

    assert after(Outcome.FAILED) == ("failed", 1, "said", None, True, 0.25)
    assert after(Outcome.TIMED_OUT) == ("timed_out", 2, "said", None, True, 0.25)
    assert after(Outcome.CANCELLED) == ("cancelled", 2, "said", None, False, 0.25)
    assert after(Outcome.SUCCESS) == ("success", 0, "", True, False, 0.25)
    assert after(Outcome.UNAVAILABLE) == ("unavailable", 0, "", False, False, 0.25)
    assert after(Outcome.LOCK_LOST) == ("lock_lost", 1, "said", False, True, 0.25)


def test_the_history_is_a_ring_and_a_run_that_never_ended_is_in_it_without_an_end(ledger: Session) -> None:
    for _ in range(101):
        [(_, _, epochs, *_)] = ledger.ask("a", forced=True)
        ledger.tell("a", int(str(epochs)[1:-1]), Outcome.SUCCESS, interval=60.0, chance=0.5)
    last = int(str(epochs)[1:-1])
    rows = ledger.do("SELECT epoch, outcome FROM tickrunner.run ORDER BY epoch")
    assert rows == [(last - 99 + index, "success") for index in range(100)]
    ledger.ask("a", forced=True)  # never told
    ledger.ask("a", forced=True)
    rows = ledger.do("SELECT epoch, outcome, ended_at, replica FROM tickrunner.run ORDER BY epoch DESC LIMIT 2")
    assert rows[0] == (last + 1, None, None, "somebody")
    assert rows[1][:2] == (last, "success")


def test_every_update_is_hot(ledger: Session) -> None:
    names = [f"s{index}" for index in range(100)]
    for _ in range(103):
        [(_, drawn, epochs, *_)] = ledger.ask(*names, forced=True)
        ids = [int(each) for each in str(drawn)[1:-1].split(",")]
        count = len(ids)
        ledger.say(
            *("results", array(*(names[each - 1] for each in ids)), str(drawn), str(epochs)),
            *(array(*[each] * count) for each in ("success", 0.1, '""', 0.5, 60.0)),
        )
        ledger.say("exchange", "{}", "{}")
    ledger.do("SELECT pg_stat_force_next_flush()" if ledger.connection.info.server_version >= 150000 else "SELECT 1")
    query = "SELECT relname, n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE schemaname = 'tickrunner'"
    statistics = {name: (updates, hot) for name, updates, hot in ledger.do(query)}
    for table, least in (("service", 20_000), ("run", 300)):
        updates, hot = statistics[table]
        assert updates >= least
        assert hot >= updates * 0.99, f"of {updates} updates of {table}, {hot} were HOT"


def test_under_another_mark_nothing_is_done(ledger: Session, dsn: str) -> None:
    ledger.ask("a", forced=True)
    [before] = ledger.do("SELECT s::text FROM tickrunner.service AS s")
    with session(dsn, mark="another") as stranger:
        for name, parameters in {
            "results": ["{a}", "{1}", array(1 << EPOCH_BITS), "{success}", "{0.1}", "{x}", "{0.5}", "{60}"],
            "exchange": ["{1}", "{2}"],
            "register": ["{b}", "{2}", "{60}", "{t}"],
            "put_back": ["{2}", "{t}"],
        }.items():
            assert [row[0] for row in stranger.say(name, *parameters)] == ["shared"], name
        assert stranger.say("draw", "{a}", "{1}", "{60}", "{t}", "x")[0][0] == "shared"
        assert locks(stranger) == 0
    assert ledger.do("SELECT s::text FROM tickrunner.service AS s") == [before]


# -- Others at the same rows -------------------------------------------------------------------------------------------


def test_a_row_that_somebody_has_locked_is_left_out_and_nothing_waits(ledger: Session, dsn: str) -> None:
    [(_, _, epochs, *_)] = ledger.ask("a", "b", forced=True)
    a, b = (int(each) for each in str(epochs)[1:-1].split(","))
    with psycopg.connect(dsn) as psql:
        psql.execute("UPDATE tickrunner.service SET last_error = 'x' WHERE name = 'a'")
        ledger.do("SET statement_timeout = '2s'")
        [(_, written, _, gone, kept)] = ledger.say(
            *(
                "results",
                "{a,b}",
                "{1,2}",
                array(a, b),
                "{success,success}",
                "{0.1,0.1}",
                '{"",""}',
                "{0.5,0.5}",
                "{60,60}",
            )
        )
        assert (written, gone, kept) == ("{2}", "{}", "{2}")
        ledger.say("exchange", "{}", "{}")
        assert locks(ledger) == 1
        ledger.do("SELECT pg_advisory_unlock_all()")
        [(_, drawn, *_), (_, refused, *_)] = ledger.ask("a", "b", forced=True)
        assert (drawn, refused) == ("{2}", "1")
    with psycopg.connect(dsn) as psql:
        psql.execute("UPDATE tickrunner.run SET error = 'x'")
        [(epoch,)] = ledger.do("SELECT epoch FROM tickrunner.service WHERE name = 'b'")
        ledger.do("UPDATE tickrunner.service SET epoch = epoch + 99 WHERE name = 'b'")
        ledger.tell("b", epoch + 99, Outcome.SUCCESS, interval=60.0, chance=0.5, lock_id=2)


def test_a_result_of_an_epoch_that_is_past_changes_nothing_and_is_done_with(ledger: Session) -> None:
    [(_, _, epochs, *_)] = ledger.ask("a", forced=True)
    epoch = int(str(epochs)[1:-1])
    ledger.do("UPDATE tickrunner.service SET epoch = epoch + 1")
    before = ledger.do("SELECT s::text FROM tickrunner.service AS s")
    answer = ledger.say("results", "{a}", "{1}", array(epoch), "{success}", "{0.1}", "{x}", "{0.5}", "{60}")
    assert answer == [("ours", "{}", "{}", "{1}", "{1}")]
    assert ledger.do("SELECT s::text FROM tickrunner.service AS s") == before


def test_a_trigger_is_done_with_when_a_run_that_began_after_it_has_ended(ledger: Session) -> None:
    trigger = "UPDATE tickrunner.service SET triggered_at = clock_timestamp(), triggered_by = 'x'"

    def run(outcome: Outcome, *, meanwhile: str = "SELECT 1") -> bool:
        [(_, _, epochs, *_), *_] = ledger.ask("a")
        ledger.do(meanwhile)
        ledger.tell("a", int(str(epochs)[1:-1]), outcome, interval=60.0, chance=0.5)
        [(triggered,)] = ledger.do(
            "SELECT triggered_at IS NOT NULL OR triggered_by IS NOT NULL FROM tickrunner.service"
        )
        return bool(triggered)

    assert not run(Outcome.SUCCESS)
    ledger.do(trigger)
    assert run(Outcome.CANCELLED)  # a drain cut it short: somebody else does it
    assert run(Outcome.SUCCESS, meanwhile=trigger)  # it was triggered again
    assert not run(Outcome.FAILED)
    ledger.do(
        trigger.replace("clock_timestamp()", "clock_timestamp() + interval '1 hour'")
    )  # by a clock set back since
    assert not run(Outcome.SUCCESS)


def test_a_run_that_ended_before_it_began_because_the_clock_was_set_back_has_ended_all_the_same(
    ledger: Session,
) -> None:
    [(_, _, epochs, *_)] = ledger.ask("a", forced=True)
    ledger.do("UPDATE tickrunner.service SET started_at = started_at + interval '1 hour'")
    ledger.tell("a", int(str(epochs)[1:-1]), Outcome.SUCCESS, interval=60.0, chance=0.5)
    ledger.ask("a", forced=True)
    assert ledger.do("SELECT outcome FROM tickrunner.run") == [("success",)]
