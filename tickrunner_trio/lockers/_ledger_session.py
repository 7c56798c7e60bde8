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

_SEARCH_PATH = b"SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false)"
_PREFIX = "tickrunner_trio_ledger_"


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
            services, intervals, forced = _columns(batch.acquires)
            parameters = [services, tried, intervals, forced]
            if any(lease.service not in self._met for lease in asked):
                statements.append(("register", parameters))
                self._met.update(lease.service for lease in asked)
            statements.append(("draw", [*parameters, self._replica]))
            has_row = _array(str(isinstance(lease, LedgerLease)) for lease in batch.acquires)
            statements.append(("put_back", [tried, has_row]))
        if watched:
            statements.append(("look", [_texts(watched)]))
        answers = self._connection.ask_all(
            [((_PREFIX + name).encode(), parameters) for name, parameters in statements], deadline=deadline
        )
        return self._understood(
            batch, told, plain, asked, dict(zip((name for name, _ in statements), answers, strict=True))
        )

    # What opening it does.

    def _connected(self, conninfo: str, wait: Wait) -> PipelinedConnection:
        return PipelinedConnection(conninfo, wait)

    def _prepare(self, mark: str) -> None:
        super()._prepare(mark)
        # With pg_catalog first and alone, no object of the role's can stand in for one of the system's.
        self._connection.ask_row(_SEARCH_PATH, columns=1, deadline=self._deadline())
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
        told.sort(key=lambda lease: lease.lock_id)
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
            [[_, _, are_done, due_in]] = answers["results"]
            for lease, is_done, seconds in zip(told, _items(are_done), _items(due_in), strict=True):
                lease.due_in = None if seconds == "NULL" else float(seconds)
                if is_done != "t":
                    unwritten.add(lease)
        [[_, released, freed, _, granted_text]] = answers["exchange"]
        self._must_be_true(released, len(plain))
        self._must_be_true(freed, len(told) - len(unwritten))
        granted = [answer == "t" for answer in _items(granted_text)]
        if len(granted) != len(batch.acquires):
            self._is_odd(f"answered for {len(granted)} locks where {len(batch.acquires)} were asked")
        if asked:
            rows = {int(row[1] or 0): row for row in answers["draw"]}
            refused = 0
            for index, lease in enumerate(batch.acquires):
                if granted[index] and isinstance(lease, LedgerLease):
                    lease.row = self._row(lease, rows)
                    granted[index] = lease.row.epoch is not None
                    refused += not granted[index]
            [[_, put_back, _]] = answers["put_back"]
            self._must_be_true(put_back, refused)
        return Done(granted, unwritten, _seen(answers["look"]) if "look" in answers else None)

    def _row(self, lease: LedgerLease, rows: dict[int, list[str | None]]) -> Row:
        if lease.lock_id not in rows:
            self._is_odd(f"granted the lock {lease.lock_id} and said nothing of its row")
        _, _, epoch, has_row, due_in, last_success, is_paused, paused_by, reason = rows[lease.lock_id]
        if has_row != "t":  # somebody has deleted it: the next one that is granted the lock makes it anew
            self._met.discard(lease.service)
        return Row(
            epoch=None if epoch is None else int(epoch),
            due_in=None if due_in is None else float(due_in),
            last_success=None if last_success is None else float(last_success),
            is_paused=is_paused == "t",
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


def _columns(acquires: Iterable[PostgresLease]) -> tuple[bytes, bytes, bytes]:
    """Return services, intervals, and what is forced; NULL for a lock without a row."""
    of_each = [lease if isinstance(lease, LedgerLease) else None for lease in acquires]
    return (
        _texts(None if lease is None else lease.service for lease in of_each),
        _array("NULL" if lease is None else repr(lease.interval) for lease in of_each),
        _array("NULL" if lease is None else str(lease.forced) for lease in of_each),
    )


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
    ]


def _array(values: Iterable[str]) -> bytes:
    """Return an array of values that need no quotes."""
    return f"{{{','.join(values)}}}".encode("ascii")


def _texts(values: Iterable[str | None]) -> bytes:
    """Return an array of ASCII texts."""
    return _array("NULL" if value is None else f'"{value.translate(_QUOTED)}"' for value in values)


_QUOTED = str.maketrans({"\\": "\\\\", '"': '\\"'})


def _items(array: str | None) -> list[str]:
    """Return the items of an array that needs no quotes."""
    inner = (array or "{}")[1:-1]
    return inner.split(",") if inner else []


def _seen(rows: Iterable[Sequence[str | None]]) -> list[Seen]:
    return [Seen(service or "", is_triggered == "t", is_paused == "t") for _, service, is_triggered, is_paused in rows]
