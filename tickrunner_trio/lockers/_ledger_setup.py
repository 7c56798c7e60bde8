"""How a ledger is made, mended, checked and dropped. All of it blocks, on a connection of its own.

::

    init:   what is missing? -- nothing --------------------------------------------> done
                  | something
                  v
            wait for whoever creates or drops it now -> what is missing now? -> make it -> commit -> done
                                                                                  |
                                                            a table is in use: roll back, try again for a while

To change a table the server needs it for itself alone, and while it waits for that, everybody else waits behind it: the
statements of running lockers too, which wait for nothing. So it waits for `TABLE_LOCK_SECONDS` at a time.

Invariants:

1. Several at once all succeed: one makes what is missing, the others find it.
2. A role that may not create anything is not refused where nothing is missing.
3. Nothing is ever changed but by adding a table or a column; only `drop_ledger` takes away.
4. Neither touches a table that is none of ours, and has the name of one by chance.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .._errors import DatabaseUnavailableError, LockerConfigurationError
from ._clock import boot_seconds
from ._ledger_schema import COLUMNS, DDL_LOCK_ID, PRIVILEGES, creation, grants, quoted, removal, table
from ._ledger_transaction import transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ._ledger_transaction import Transaction

#: Seconds for which a change of a table may hold up others, and from one try to the next.
TABLE_LOCK_SECONDS = 0.1
#: Seconds after which nobody tries any more.
PATIENCE = 8.0

_SCHEMA = "SELECT has_schema_privilege(oid, 'USAGE') FROM pg_namespace WHERE nspname = $1::name"
_WHO = "SELECT current_user::text"
# Of views and the like too, since no table can bear their names; one without a column has a row without a name.
_COLUMNS = (
    "SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod)"
    " FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
    " LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
    " WHERE n.nspname = $1::name"
)
_INDEXES = (
    "SELECT c.relname, i.relname, x.indisprimary, ARRAY(SELECT a.attname::text FROM unnest(x.indkey) WITH ORDINALITY"
    " AS k(number, place) JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = k.number ORDER BY k.place),"
    " ARRAY(SELECT a.attname::text FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum = ANY (x.indkey)"
    "  AND a.attcollation NOT IN (0, 'pg_catalog.\"C\"'::regcollation))"
    " FROM pg_index AS x JOIN pg_class AS c ON c.oid = x.indrelid JOIN pg_class AS i ON i.oid = x.indexrelid"
    " JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = $1::name ORDER BY i.relname"
)
_PRIVILEGE = (
    "SELECT has_table_privilege(c.oid, $3) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
    " WHERE n.nspname = $1::name AND c.relname = $2::name"
)
# Who owns a table may have code run by whoever writes to it: a trigger runs as the role that set it off.
_STRANGER = (
    "SELECT o.rolname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
    " JOIN pg_roles AS o ON o.oid = c.relowner WHERE n.nspname = $1::name AND c.relname = $2::name"
    " AND NOT o.rolsuper AND o.rolname <> current_user"
    " AND o.oid <> (SELECT datdba FROM pg_database WHERE datname = current_database())"
)
_OTHERS = (
    "SELECT 1 FROM pg_depend AS d JOIN pg_namespace AS n ON d.refclassid = 'pg_namespace'::regclass"
    " AND d.refobjid = n.oid WHERE n.nspname = $1::name LIMIT 1"
)
_PRIMARY_KEYS = {"service": "{name}", "run": "{service,slot}"}
_NOT_OURS = "it is no table of ours; name another schema"


def init_ledger(conninfo: str, schema: str, *, role: str | None = None) -> bool:
    """Make what is missing of the ledger, and give a role what it needs; return whether anything was made.

    Args:
        conninfo: of a role that may do so.
        schema: its name.
        role: the role that is to use it; None: it is granted nothing.

    Raises:
        DatabaseUnavailableError: the server cannot do it now; or others use the tables without a pause.
        LockerConfigurationError: the role may not do it, and something is missing; or a table is none of ours.
    """
    granting = [] if role is None else grants(schema, role)
    if not granting and not missing_statements(conninfo, schema):
        return False

    def make(writing: Transaction) -> bool:
        missing = creation(schema, _found_of_ours(writing, schema))  # somebody may have made it meanwhile
        for statement in [*missing, *granting]:
            writing.execute(statement)
        return bool(missing)

    return _changed(conninfo, schema, make)


def missing_statements(conninfo: str, schema: str) -> tuple[str, ...]:
    """Return the statements that `init_ledger` would make it complete with. It raises as `ledger_problems` does."""
    with transaction(conninfo, schema, writes=False) as reading:
        return tuple(creation(schema, _found_of_ours(reading, schema)))


def ledger_problems(conninfo: str, schema: str) -> tuple[str, ...]:
    """Return what is wrong with the ledger for this role, each with its remedy; nothing if all is well.

    Raises:
        DatabaseUnavailableError: the server cannot tell now.
        LockerConfigurationError: it will not, unless somebody changes something.
    """
    with transaction(conninfo, schema, writes=False) as reading:
        return tuple(_problems(reading, schema))


def drop_ledger(conninfo: str, schema: str) -> bool:
    """Drop the ledger's tables, and the schema if nothing else is in it; return whether there was any of them.

    Raises:
        DatabaseUnavailableError: the server cannot do it now; or others use the tables without a pause.
        LockerConfigurationError: the role may not do it; or a table is none of ours.
    """

    def drop(writing: Transaction) -> bool:
        if COLUMNS.keys().isdisjoint(_found_of_ours(writing, schema) or ()):
            return False
        drop_tables, *drop_schema = removal(schema)
        writing.execute(drop_tables)
        for statement in [] if writing.ask(_OTHERS, schema) else drop_schema:
            writing.execute(statement)
        return True

    return _changed(conninfo, schema, drop)


def _changed(conninfo: str, schema: str, change: Callable[[Transaction], bool]) -> bool:
    """Return what the change returned, once it could be made while nobody else used what it changes."""
    deadline = boot_seconds() + PATIENCE
    while True:
        writing = None
        try:
            with transaction(conninfo, schema) as writing:
                writing.wait_for_locks(PATIENCE)
                writing.ask("SELECT pg_advisory_xact_lock($1::bigint)::text", DDL_LOCK_ID)
                writing.wait_for_locks(TABLE_LOCK_SECONDS)
                return change(writing)
        except DatabaseUnavailableError:
            if writing is None or not writing.was_locked_out or boot_seconds() > deadline:
                raise
        time.sleep(TABLE_LOCK_SECONDS)


def _found(transaction: Transaction, schema: str) -> dict[str, dict[str, str]] | None:
    """Return the tables of the schema, and the columns of each with their types; None if there is no schema."""
    if not transaction.ask(_SCHEMA, schema):
        return None
    found: dict[str, dict[str, str]] = {}
    for name, column, kind in transaction.ask(_COLUMNS, schema):
        columns = found.setdefault(str(name), {})
        if column is not None:
            columns[column] = str(kind)
    return found


def _found_of_ours(transaction: Transaction, schema: str) -> dict[str, dict[str, str]] | None:
    """Return what `_found` does.

    Raises:
        LockerConfigurationError: one of these tables has the name of one of ours, and is none.
    """
    found = _found(transaction, schema)
    indexes = transaction.ask(_INDEXES, schema) if found else []
    for name, known in (found or {}).items():
        for problem in _foreign_problems(schema, name, known, indexes) if name in COLUMNS else ():
            raise LockerConfigurationError(problem)
    return found


def _problems(reading: Transaction, schema: str) -> Iterator[str]:
    found = _found(reading, schema)
    if found is None:
        yield f"there is no schema {schema!r}: run 'tickrunner ledger init'"
        return
    use_schema, use_tables = grants(schema, str(reading.ask(_WHO)[0][0]))  # whoever may grant is another role
    if reading.ask(_SCHEMA, schema) != [["t"]]:
        yield f"the role may not use the schema {quoted(schema)}: {use_schema}"
    indexes = reading.ask(_INDEXES, schema)
    for name in COLUMNS:
        known = found.get(name)
        if known is None:
            yield f"there is no table {table(schema, name)}: run 'tickrunner ledger init'"
            continue
        foreign = tuple(_foreign_problems(schema, name, known, indexes))
        yield from foreign
        if foreign:
            continue
        yield from _missing_columns(schema, name, known)
        yield from _index_problems(schema, name, indexes)
        for [owner] in reading.ask(_STRANGER, schema, name):
            yield (
                f"{table(schema, name)} belongs to the role {owner}, whose triggers would run as this one: let it "
                "belong to the owner of the database, or name another schema"
            )
        for privilege in PRIVILEGES:
            if reading.ask(_PRIVILEGE, schema, name, privilege) != [["t"]]:
                yield f"the role may not {privilege} on {table(schema, name)}: {use_tables}"


def _foreign_problems(
    schema: str, name: str, known: Mapping[str, str], indexes: Sequence[Sequence[str | None]]
) -> Iterator[str]:
    """Tell what no table of ours can be like, of whichever release."""
    for column in COLUMNS[name]:
        if column.name not in known:
            if column.is_of_old:
                yield f"{table(schema, name)} has no column {column.name}: {_NOT_OURS}"
        elif known[column.name] != column.kind:
            yield f"{table(schema, name)}.{column.name} is {known[column.name]}, not {column.kind}: {_NOT_OURS}"
    wanted = _PRIMARY_KEYS[name]
    if not any(of == name and is_primary == "t" and keys == wanted for of, _, is_primary, keys, _ in indexes):
        yield f"{table(schema, name)} has not the primary key {wanted}: {_NOT_OURS}"


def _missing_columns(schema: str, name: str, known: Mapping[str, str]) -> Iterator[str]:
    for column in COLUMNS[name]:
        if column.name not in known:
            yield f"{table(schema, name)} has no column {column.name}: run 'tickrunner ledger init'"


def _index_problems(schema: str, name: str, indexes: Sequence[Sequence[str | None]]) -> Iterator[str]:
    for of, index, is_primary, keys, by_locale in indexes:
        if of == name and is_primary != "t":
            yield f"{table(schema, name)} has an index {index} on {keys}, which may make each tick dearer: drop it"
        elif of == name and by_locale != "{}":
            key = (by_locale or "").strip("{}")
            yield (
                f"{table(schema, name)} has its key in the order of a locale, and would lose rows when the system's "
                f'locales change: ALTER TABLE {table(schema, name)} ALTER {key} TYPE text COLLATE pg_catalog."C"'
            )
