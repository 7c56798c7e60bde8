"""The session of a locker with a ledger: what one batch says to the server, and what the answers mean.

::

    a release with a result:   LEAVING --- results ---> written, or the row has another epoch --- exchange ---> FREE
                                  ^           |
                                  +-----------+ somebody has the row locked: the lock is kept, and it is tried again

    an acquire:   ASKED --- exchange ---> not granted: BUSY
                               |
                               v
                            granted --- draw ---> an epoch was drawn: HELD
                                          |
                                          v
                               not due, paused, or somebody has the row locked --- put back ---> not granted

All of it is one pipeline, and one round trip; `_ledger_statements` has the text. Without a lock that has a row, a batch
is the one statement of `Session`.

Invariants, beside those of the session:

1. A lock whose result has not been written is not let go of, but for one that has waited for too long.
2. Work begins only with an epoch that is on the server's disk.
3. Whatever is not as it should be, in whatever statement of a batch, costs the session.
"""

from __future__ import annotations

import os
import random
import socket
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from .._errors import DatabaseUnavailableError, LockerConfigurationError
from ._clock import boot_seconds
from ._ledger_lease import LedgerLease, Row
from ._ledger_schema import escaped
from ._ledger_statements import ledger_statements
from ._losses import Loss
from ._pipeline import PipelinedConnection, refuse_old_libpq
from ._session import IS_OURS, SHARED, Session

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ._connection import Wait
    from ._lease import PostgresLease
    from ._lock_book import Batch
    from ._timing import LeaseTiming

# With pg_catalog first and alone, no object of the role's can stand in for one of the system's. Plans are kept: one
# that was made while the tables were small would read all of them ever after, 0.3 s for 100,000 runs; and to make one
# anew for each statement triples the time of a single result. The last two are for what arrays and times are as text.
_SETTINGS = (
    b"SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false),"
    b" pg_catalog.set_config('enable_seqscan', 'off', false),"
    b" pg_catalog.set_config('plan_cache_mode', 'force_generic_plan', false),"
    b" pg_catalog.set_config('array_nulls', 'on', false),"
    b" pg_catalog.set_config('extra_float_digits', '1', false)"
)
_PREFIX = "tickrunner_trio_ledger_"
_REGISTER = f"{_PREFIX}register".encode()


class Seen(NamedTuple):
    """What somebody has done to a service."""

    service: str
    is_triggered: bool
    is_paused: bool


class Done(NamedTuple):
    """What came of a batch."""

    granted: list[bool]  #: Of its acquires.
    unwritten: set[LedgerLease]  #: Of its releases: the locks that are kept.
    seen: list[Seen] | None  #: None: it was not looked at.


class LedgerSession(Session):
    """See the module and `Session`.

    Args:
        conninfo: the user's connection string.
        timing: of the lease.
        wait: see `Connection`.
        schema: of the ledger, unquoted.
    """

    _connection: PipelinedConnection

    def __init__(self, conninfo: str, timing: LeaseTiming, wait: Wait, schema: str) -> None:
        refuse_old_libpq()
        self._schema = schema
        self._replica = escaped(f"{socket.gethostname()}:{os.getpid()}").encode()
        self._met: set[str] = set()  # the services that have rows, as far as one knows
        super().__init__(conninfo, timing, wait)

    def carry_out(self, batch: Batch, watched: Sequence[str] | None, *, deadline: float) -> Done:
        """Do all of a batch, and tell its leases what their rows said; look at the watched services as well, if any."""
        told, plain = self._parted(batch.releases)
        asked = [lease for lease in batch.acquires if isinstance(lease, LedgerLease)]
        if not (told or asked or watched):
            granted = self.exchange(
                [lease.lock_id for lease in plain], [lease.lock_id for lease in batch.acquires], deadline=deadline
            )
            return Done(granted, set(), None)
        statements: list[tuple[str, list[bytes]]] = []
        if told:
            statements.append(("results", _results(told)))
        tried = _array(str(lease.lock_id) for lease in batch.acquires)
        statements.append(("exchange", [_array(str(lease.lock_id) for lease in plain), tried]))
        if asked:
            services, intervals, forced, has_row = _columns(batch.acquires)
            parameters = [services, tried, intervals, forced]
            if any(lease.service not in self._met for lease in asked):
                statements.append(("register", parameters))
                self._met.update(lease.service for lease in asked)
            statements.append(("draw", [*parameters, self._replica]))
            statements.append(("put_back", [tried, has_row]))
        if watched:
            statements.append(("look", [_texts(watched)]))
        answers = self._connection.ask_all(
            [((_PREFIX + name).encode(), parameters) for name, parameters in statements],
            deadline=deadline,
            dispensable=_REGISTER,
        )
        return self._understood(
            batch, told, plain, asked, dict(zip((name for name, _ in statements), answers, strict=True))
        )

    # What opening it does.

    def _connected(self, conninfo: str, wait: Wait) -> PipelinedConnection:
        return PipelinedConnection(conninfo, wait)

    def _prepare(self, mark: str) -> None:
        super()._prepare(mark)
        self._connection.ask_row(_SETTINGS, columns=5, deadline=self._deadline())
        statements = ledger_statements(self._schema, IS_OURS.replace("%s", mark))
        for name in statements.__slots__:
            text: str = getattr(statements, name)
            self._connection.prepare((_PREFIX + name).encode(), text.encode(), deadline=self._deadline())

    # What the answers mean.

    def _parted(self, releases: Iterable[PostgresLease]) -> tuple[list[LedgerLease], list[PostgresLease]]:
        """Part the locks with a result to write from those without, and from those that have waited for too long."""
        now = boot_seconds()
        told: list[LedgerLease] = []
        plain: list[PostgresLease] = []
        for lease in releases:
            if isinstance(lease, LedgerLease) and now < lease.write_until:
                told.append(lease)
            else:
                plain.append(lease)
        return told, plain

    def _understood(
        self,
        batch: Batch,
        told: list[LedgerLease],
        plain: list[PostgresLease],
        asked: list[LedgerLease],
        answers: dict[str, list[list[str | None]]],
    ) -> Done:
        for rows in answers.values():
            if any(row[0] != "ours" for row in rows):
                self._connection.loss = Loss.MISMATCH
                raise LockerConfigurationError(SHARED)
        unwritten = set[LedgerLease]()
        if told:
            [[_, written, due_in, gone, _]] = answers["results"]
            seconds = dict(zip(_items(written), _items(due_in), strict=True))
            done = seconds.keys() | set(_items(gone))
            for lease in told:
                key = str(lease.lock_id)
                lease.due_in = _number(seconds.get(key))
                if key not in done:
                    unwritten.add(lease)
        [[_, released, freed, _, granted_text]] = answers["exchange"]
        self._must_be_true(released, len(plain))
        self._must_be_true(freed, len(told) - len(unwritten))
        granted = [answer == "t" for answer in _items(granted_text)]
        if len(granted) != len(batch.acquires):
            self._is_odd(f"answered for {len(granted)} locks where {len(batch.acquires)} were asked")
        if asked:
            refused = self._take_rows(batch.acquires, granted, answers["draw"])
            [[_, put_back, _]] = answers["put_back"]
            self._must_be_true(put_back, refused)
        return Done(granted, unwritten, _seen(answers["look"]) if "look" in answers else None)

    def _take_rows(self, acquires: Sequence[PostgresLease], granted: list[bool], answer: list[list[str | None]]) -> int:
        """Tell leases what their rows said, and take a grant back where no epoch was drawn; return how often."""
        [_, lock_ids, epochs, successes, *_], *others = answer
        drawn = {
            int(lock_id): (int(epoch), _number(last_success))
            for lock_id, epoch, last_success in zip(_items(lock_ids), _items(epochs), _items(successes), strict=True)
        }
        rows = {int(row[1] or 0): row for row in others}
        for index, lease in enumerate(acquires):
            if not granted[index] or not isinstance(lease, LedgerLease):
                continue
            had = drawn.get(lease.lock_id)
            if had is not None:
                lease.row = Row(had[0], None, had[1])
                continue
            if lease.lock_id not in rows:
                self._is_odd(f"granted the lock {lease.lock_id} and said nothing of its row")
            lease.row = self._refused(lease, rows[lease.lock_id])
            granted[index] = False
        return len(rows)

    def _refused(self, lease: LedgerLease, row: list[str | None]) -> Row:
        _, _, has_row, due_in, last_success, is_paused, paused_by, reason = row
        if has_row != "true":  # it could not be made, or somebody has deleted it: the next one that asks makes it anew
            self._met.discard(lease.service)
        return Row(
            epoch=None,
            due_in=_number(due_in),
            last_success=_number(last_success),
            is_paused=is_paused == "true",
            paused_by=paused_by or "",
            pause_reason=reason or "",
        )

    def _must_be_true(self, answers: str | None, count: int) -> None:
        said = _items(answers)
        if said != ["t"] * count:
            self._connection.loss = Loss.MISMATCH
            raise DatabaseUnavailableError(
                f"the server did not hold a lock that was to be released; of {count} it said {answers}"
            )

    def _is_odd(self, what: str) -> NoReturn:
        self._connection.loss = Loss.STATEMENT
        raise DatabaseUnavailableError(f"the server {what}")


def _columns(acquires: Iterable[PostgresLease]) -> tuple[bytes, bytes, bytes, bytes]:
    """Return services, intervals, what is forced, and what has a row; NULL and false for a lock without one."""
    rows = [
        (_text(lease.service), repr(lease.interval), "t" if lease.forced else "f", "t")
        if isinstance(lease, LedgerLease)
        else ("NULL", "NULL", "NULL", "f")
        for lease in acquires
    ]
    services, intervals, forced, has_row = zip(*rows, strict=True)
    return _array(services), _array(intervals), _array(forced), _array(has_row)


def _results(told: Sequence[LedgerLease]) -> list[bytes]:
    results = [lease.result for lease in told]
    return [
        _texts(lease.service for lease in told),
        _array(str(lease.lock_id) for lease in told),
        _array(str(lease.epoch) for lease in told),
        _texts(result.outcome for result in results),
        _array(repr(result.duration) for result in results),
        _texts(result.error for result in results),
        _array(repr(random.random()) for _ in told),
        _array(repr(lease.interval) for lease in told),
    ]


def _array(values: Iterable[str]) -> bytes:
    """Return an array of values that need no quotes."""
    return f"{{{','.join(values)}}}".encode("ascii")


def _texts(values: Iterable[str]) -> bytes:
    """Return an array of ASCII texts."""
    return _array(map(_text, values))


def _text(value: str) -> str:
    return f'"{value.translate(_QUOTED)}"'


_QUOTED = str.maketrans({"\\": "\\\\", '"': '\\"'})


def _items(array: str | None) -> list[str]:
    """Return the items of an array that needs no quotes."""
    inner = (array or "{}")[1:-1]
    return inner.split(",") if inner else []


def _number(text: str | None) -> float | None:
    return None if text is None or text == "NULL" else float(text)


def _seen(rows: Iterable[Sequence[str | None]]) -> list[Seen]:
    return [Seen(service or "", is_triggered == "t", is_paused == "t") for _, service, is_triggered, is_paused in rows]
