"""The ledger's tables as text: names, privileges, and what may stand in a row."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tickrunner_trio import lock_id_for
from tickrunner_trio.lockers._ledger_schema import (
    COLUMNS,
    DDL_LOCK_ID,
    LONGEST_TEXT,
    checked_role,
    checked_schema,
    creation,
    escaped,
    grants,
    quoted,
    removal,
    table,
)

TIME = "timestamp with time zone"
ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=700)
PIECE = re.compile(r"\\x[0-9a-f]{2}|\\u[0-9a-f]{4}|\\U[0-9a-f]{8}|\\[trn]|[\n -~]")


@given(ANY_TEXT)
@example("\0")
@example("\ud800")
@example("\N{GRINNING FACE}" * 200)
@example("\\")
def test_any_text_becomes_short_printable_ascii_and_line_breaks(text: str) -> None:
    kept = escaped(text)
    assert kept.isascii()
    assert kept.replace("\n", "").isprintable()
    assert len(kept) <= LONGEST_TEXT


@given(ANY_TEXT)
@example("a" * 490 + "\xe4\u2026" * 5)
def test_a_text_is_cut_between_characters_and_says_so(text: str) -> None:
    whole = "".join(each if each == "\n" or " " <= each <= "~" else escaped(each) for each in text)
    kept = escaped(text)
    if len(whole) <= LONGEST_TEXT:
        assert kept == whole
    else:
        assert kept.endswith("...")
        assert whole.startswith(kept[:-3])
        assert len(kept) > LONGEST_TEXT - len("\\U0001f600")
        rest = whole[len(kept) - 3 :]
        assert PIECE.match(rest)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", ""),
        ("plain ~ text\nof two lines", "plain ~ text\nof two lines"),
        ("\t\r\x00\x1b[31m\x7f", r"\t\r\x00\x1b[31m\x7f"),
        ("\xe4\u2026\N{GRINNING FACE}\udc80", r"\xe4\u2026\U0001f600\udc80"),
        (r"C:\new '\"", r"C:\new '\""),
        ("a" * 500, "a" * 500),
        ("a" * 501, "a" * 497 + "..."),
        ("a" * 495 + "\xe4\xe4", "a" * 495 + "..."),
        ("a" * 493 + "\xe4", "a" * 493 + r"\xe4"),
        ("a" * 493 + "\xe4" + "bbbb", "a" * 493 + r"\xe4" + "..."),
    ],
)
def test_what_becomes_of_a_text(text: str, kept: str) -> None:
    assert escaped(text) == kept


@pytest.mark.parametrize("name", ["tickrunner", 'a"b', "a b; DROP TABLE x", "a" * 63, "Upper.Case'"])
def test_a_name_of_printable_ascii_may_be_a_schema_and_is_quoted(name: str) -> None:
    assert checked_schema(name) == name
    assert quoted(name)[1:-1].replace('""', "") == name.replace('"', "")
    assert table(name, "run") == f'{quoted(name)}."run"'


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "1 to 63 printable ASCII"),
        ("a" * 64, "1 to 63 printable ASCII"),
        ("gr\xfcn", "1 to 63 printable ASCII"),
        ("a\0b", "1 to 63 printable ASCII"),
        ("pg_mine", "of PostgreSQL's own"),
        ("information_schema", "of PostgreSQL's own"),
    ],
)
def test_another_name_is_refused_with_the_remedy(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"^ledger must .*{words}.*got {re.escape(repr(name))}: write") as caught:
        checked_schema(name)
    assert "schema" in str(caught.value)


def test_what_is_no_name_is_refused_under_the_name_of_its_field() -> None:
    with pytest.raises(TypeError, match=r"^schema must be the name of a schema, got 5: write one"):
        checked_schema(5, "schema")


def test_only_what_is_missing_is_made() -> None:
    complete = {name: [column.name for column in columns] for name, columns in COLUMNS.items()}
    assert creation("a b", complete) == []
    assert [statement.split(" (")[0] for statement in creation("a b")] == [
        *('CREATE SCHEMA "a b"', 'CREATE TABLE "a b"."service"', 'CREATE TABLE "a b"."run"')
    ]
    assert [statement.split(" (")[0] for statement in creation("s", {"service": complete["service"]})] == [
        'CREATE TABLE "s"."run"'
    ]
    older = {**complete, "service": [each for each in complete["service"] if each not in {"due_at", "last_error"}]}
    assert creation("s", older) == [
        f"ALTER TABLE {table('s', 'service')} ADD COLUMN due_at {TIME}, ADD COLUMN last_error text NOT NULL DEFAULT ''"
    ]


def test_the_table_of_runs_is_a_ring_per_service() -> None:
    assert creation("s", {})[1].splitlines() == [
        'CREATE TABLE "s"."run" (',
        '    service text COLLATE pg_catalog."C",',
        "    slot smallint,",
        "    epoch bigint NOT NULL,",
        f"    started_at {TIME} NOT NULL,",
        f"    ended_at {TIME},",
        "    outcome text,",
        "    replica text NOT NULL,",
        "    error text NOT NULL DEFAULT '',",
        "    PRIMARY KEY (service, slot)",
        ") WITH (fillfactor = 45)",
    ]


def test_what_is_dropped_is_ours_and_the_schema_only_if_nothing_else_is_in_it() -> None:
    assert removal("s") == ['DROP TABLE IF EXISTS "s"."service", "s"."run"', 'DROP SCHEMA IF EXISTS "s"']


def test_the_schema_that_every_database_has_stays() -> None:
    assert removal("public") == ['DROP TABLE IF EXISTS "public"."service", "public"."run"']


def test_half_of_each_page_stays_free_and_there_is_no_further_index() -> None:
    service, run = creation("s", {})
    assert service.endswith("WITH (fillfactor = 50)")
    assert run.endswith("PRIMARY KEY (service, slot)\n) WITH (fillfactor = 45)")
    assert "INDEX" not in service + run


def test_a_column_that_may_be_missing_has_a_default_or_may_be_null() -> None:
    # Those of the first release are never missing; what is added later must be right for the rows that are there.
    first = {"lock_id", "interval_seconds", "epoch", "started_at", "replica"}
    for columns in COLUMNS.values():
        for column in columns:
            assert column.name in first or "NOT NULL" not in column.condition or "DEFAULT" in column.condition


def test_a_table_without_what_each_release_had_is_none_of_ours() -> None:
    assert {name: [each.name for each in columns if each.is_of_old] for name, columns in COLUMNS.items()} == {
        "service": ["name", "lock_id", "interval_seconds"],
        "run": ["service", "slot", "epoch", "started_at", "replica"],
    }


@pytest.mark.parametrize("role", ['my "role"', "a" * 63, "pg_monitor"])
def test_a_name_of_printable_ascii_may_be_a_role(role: str) -> None:
    assert checked_role(role) == role


@pytest.mark.parametrize("role", ["", "a" * 64, "\xe4", "a\nb", "\udcff"])
def test_a_name_that_no_role_bears_here_is_refused(role: str) -> None:
    with pytest.raises(ValueError, match="role must be") as refused:
        checked_role(role)
    assert str(refused.value) == (
        f"role must be the name of a role, 1 to 63 printable ASCII characters, got {role!r}: write one, such as 'app'"
    )


def test_a_role_must_be_a_str() -> None:
    with pytest.raises(TypeError) as refused:
        checked_role(5)
    assert str(refused.value) == "role must be the name of a role, got 5: write one, such as 'app'"


def test_a_role_is_granted_what_it_needs_and_no_more() -> None:
    assert grants("s", 'my "role"') == [
        'GRANT USAGE ON SCHEMA "s" TO "my ""role"""',
        'GRANT SELECT, INSERT, UPDATE ON "s"."service", "s"."run" TO "my ""role"""',
    ]
    assert grants("s")[0] == 'GRANT USAGE ON SCHEMA "s" TO CURRENT_USER'


def test_the_lock_that_guards_creation_never_changes() -> None:
    assert DDL_LOCK_ID == lock_id_for("ledger", "tickrunner_trio") == 6841390147815446351
