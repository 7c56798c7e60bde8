"""The ledger's tables: their names, columns and privileges, and what may stand in them. Text in, text out.

::

    service   one row per service: when it is due, who runs it, what came of it, whether it is paused or triggered
    run       its last runs, as a ring: run number n is in slot n % `RUNS_KEPT`

Invariants:

1. Columns are only ever added, with a default or without NOT NULL, and every statement names its columns: so the
   releases before and after work side by side on one table.
2. Neither table has an index beside its primary key, and half of each page stays free: so every update of a tick is
   HOT. An index on the due time would make none of them so.
3. A name of the user's gets into SQL only through `quoted`, a text only through `escaped` and a parameter.
4. Keys are compared byte by byte, whatever the locale of the database. An index in the order of a locale loses rows
   when the system's library of locales changes, with an upgrade of its host or on a standby with another one: then a
   service would get a second row, and its epochs would begin anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

#: The schema that ``ledger=True`` stands for.
DEFAULT_SCHEMA = "tickrunner"
#: Of each service.
RUNS_KEPT = 100
#: Characters of a text in a row.
LONGEST_TEXT = 500

_LONGEST_NAME = 63  # PostgreSQL cuts off the rest, silently
_CUT = "..."

#: Whoever creates, changes or drops a ledger holds this advisory lock for the time of its transaction. Frozen for ever:
#: `lock_id_for("ledger", "tickrunner_trio")`.
DDL_LOCK_ID = 6841390147815446351


@dataclass(frozen=True, slots=True)
class Column:
    """A column of one of the tables."""

    name: str
    kind: str  #: Its type, as ``format_type`` writes it.
    condition: str = ""  #: What follows the type: NOT NULL, a default.

    @property
    def is_of_old(self) -> bool:
        """Whether every ledger has it, since no release could have added it to a table with rows."""
        return self.name in _KEYS or (self.condition.startswith("NOT NULL") and "DEFAULT" not in self.condition)

    def __str__(self) -> str:
        return " ".join(filter(None, (self.name, self.kind, self.condition)))


_TIME = "timestamp with time zone"
_BYTE_BY_BYTE = 'COLLATE pg_catalog."C"'

#: Table by table, in the order in which they are created.
COLUMNS: Mapping[str, tuple[Column, ...]] = {
    "service": (
        Column("name", "text", f"{_BYTE_BY_BYTE} PRIMARY KEY"),
        Column("lock_id", "bigint", "NOT NULL"),
        Column("interval_seconds", "double precision", "NOT NULL"),
        Column("epoch", "bigint", "NOT NULL DEFAULT 0"),
        Column("timeline", "bigint", "NOT NULL DEFAULT 0"),
        Column("due_at", _TIME),
        Column("paused_at", _TIME),
        Column("paused_by", "text"),
        Column("pause_reason", "text"),
        Column("triggered_at", _TIME),
        Column("triggered_by", "text"),
        Column("holder", "text"),  # of the run under way, or of the last one; so is started_at
        Column("started_at", _TIME),
        Column("last_outcome", "text"),
        Column("last_ended_at", _TIME),
        Column("last_duration", "double precision"),
        Column("last_success", _TIME),
        Column("last_failure", _TIME),
        Column("last_error", "text", "NOT NULL DEFAULT ''"),
        Column("consecutive_failures", "integer", "NOT NULL DEFAULT 0"),
    ),
    "run": (
        Column("service", "text", _BYTE_BY_BYTE),
        Column("slot", "smallint"),
        Column("epoch", "bigint", "NOT NULL"),
        Column("started_at", _TIME, "NOT NULL"),
        Column("ended_at", _TIME),
        Column("outcome", "text"),
        Column("replica", "text", "NOT NULL"),
        Column("error", "text", "NOT NULL DEFAULT ''"),
    ),
}

_KEYS = {"name", "service", "slot"}
#: What stands beside the columns of a table.
_CONSTRAINTS = {"run": ("PRIMARY KEY (service, slot)",)}
#: Pages are left half empty, so that a new version of a row finds room beside the old one. A ring is updated all over,
#: and pruned pages keep a pointer per row: of 20,000 updates at 50 per cent 234 moved to another page, at 45 none.
_STORAGE = {"service": "WITH (fillfactor = 50)", "run": "WITH (fillfactor = 45)"}

#: What the role of a locker, and of the operations on the ledger, needs; of each table.
PRIVILEGES = ("SELECT", "INSERT", "UPDATE")


def checked_schema(schema: object, field: str = "ledger") -> str:
    """Return ``schema`` if a schema of PostgreSQL can bear that name.

    Raises:
        TypeError: it is no str.
        ValueError: it is empty, too long, not printable ASCII, or a name that PostgreSQL keeps for itself.
    """
    if not isinstance(schema, str):
        raise TypeError(f"{field} must be the name of a schema, got {schema!r}: write one, such as {DEFAULT_SCHEMA!r}")
    if not (schema and schema.isascii() and schema.isprintable() and len(schema) <= _LONGEST_NAME):
        raise ValueError(
            f"{field} must be the name of a schema, 1 to {_LONGEST_NAME} printable ASCII characters, got {schema!r}: "
            f"write one, such as {DEFAULT_SCHEMA!r}"
        )
    if schema.startswith("pg_") or schema == "information_schema":
        raise ValueError(f"{field} must not be a schema of PostgreSQL's own, got {schema!r}: write another name")
    return schema


def checked_role(role: object) -> str:
    """Return ``role`` if it may be the name of one.

    Raises:
        TypeError: it is no str.
        ValueError: it is empty, too long, or not printable ASCII.
    """
    if not isinstance(role, str):
        raise TypeError(f"role must be the name of a role, got {role!r}: write one, such as 'app'")
    if not (role and role.isascii() and role.isprintable() and len(role) <= _LONGEST_NAME):
        raise ValueError(
            f"role must be the name of a role, 1 to {_LONGEST_NAME} printable ASCII characters, got {role!r}: write "
            "one, such as 'app'"
        )
    return role


def quoted(name: str) -> str:
    """Return a name as an identifier of SQL, whatever characters it has."""
    return '"{}"'.format(name.replace('"', '""'))


def table(schema: str, name: str) -> str:
    """Return the qualified name of a table of the ledger, quoted."""
    return f"{quoted(schema)}.{quoted(name)}"


def escaped(text: str) -> str:
    r"""Return a text as a row may hold it: printable ASCII and line breaks, of at most `LONGEST_TEXT` characters.

    What is none of that is written as Python writes it in a str, ``\n`` aside: ``\xe4``, ``\u2026``, ``\x00``. So it is
    valid in each encoding that a database may have. A longer text ends in three dots, and never within an escape.
    """
    kept: list[str] = []
    length = fitting = 0
    for each in text:
        is_kept = each == "\n" or (each.isascii() and each.isprintable())
        piece = each if is_kept else ascii(each)[1:-1]
        length += len(piece)
        if length > LONGEST_TEXT:
            return "".join(kept[:fitting]) + _CUT
        kept.append(piece)
        if length <= LONGEST_TEXT - len(_CUT):
            fitting = len(kept)
    return "".join(kept)


def creation(schema: str, found: Mapping[str, Collection[str]] | None = None) -> list[str]:
    """Return the statements that make a ledger, or make it complete; none if nothing is missing.

    Args:
        schema: its name, unquoted.
        found: the tables that there are, with the names of their columns; None: there is not even the schema.
    """
    statements = [f"CREATE SCHEMA {quoted(schema)}"] if found is None else []
    for name, columns in COLUMNS.items():
        known = (found or {}).get(name)
        if known is None:
            body = ",\n    ".join([*map(str, columns), *_CONSTRAINTS.get(name, ())])
            statements.append(f"CREATE TABLE {table(schema, name)} (\n    {body}\n) {_STORAGE[name]}")
        else:
            missing = [f"ADD COLUMN {column}" for column in columns if column.name not in known]
            if missing:
                statements.append(f"ALTER TABLE {table(schema, name)} {', '.join(missing)}")
    return statements


def grants(schema: str, role: str | None = None) -> list[str]:
    """Return the statements that give a role what it needs of the ledger, and no more; None: the current role."""
    to = "CURRENT_USER" if role is None else quoted(role)
    tables = ", ".join(table(schema, name) for name in COLUMNS)
    return [
        f"GRANT USAGE ON SCHEMA {quoted(schema)} TO {to}",
        f"GRANT {', '.join(PRIVILEGES)} ON {tables} TO {to}",
    ]


def removal(schema: str) -> list[str]:
    """Return the statements that drop a ledger, if nothing else is in its schema; none drops ``public``."""
    tables = ", ".join(table(schema, name) for name in COLUMNS)
    drop_schema = [] if schema == "public" else [f"DROP SCHEMA IF EXISTS {quoted(schema)}"]
    return [f"DROP TABLE IF EXISTS {tables}", *drop_schema]
