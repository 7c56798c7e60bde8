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
is the one statement of `Session`. It must not know who waits for a lock, nor when what is not written is tried again.

Invariants, beside those of the session:

1. A lock whose result has not been written is not let go of, but for one that has waited for too long.
2. Work begins only with an epoch that is on the server's disk.
3. Whatever is not as it should be, in whatever statement of a batch, costs the session.
4. The rows of watched services are looked at within four seconds, along with whatever else is asked.
"""

from __future__ import annotations

import os
import random
import socket
from typing import TYPE_CHECKING

from .._errors import DatabaseUnavailableError
from ._arrays import array, items_of, quoted_item, text_array
from ._batch import Done, lock_ids
from ._clock import boot_seconds
from ._ledger_lease import LedgerLease, Row
from ._ledger_refusals import LOCKED, in_words_of_the_ledger
from ._ledger_schema import escaped
from ._ledger_statements import ledger_statements
from ._ledger_watch import Seen
from ._losses import Loss
from ._pipeline import PipelinedConnection, refuse_old_libpq
from ._session import IS_OURS, Session

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ._batch import Batch
    from ._connection import Wait
    from ._lease import PostgresLease
    from ._ledger_watch import LedgerWatch
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


class LedgerSession(Session):
    """See the module and `Session`.

    Args:
        conninfo: the user's connection string.
        timing: of the lease.
        wait: see `Connection`.
        schema: of the ledger, unquoted.
        watch: knows at whom to look, and takes what is seen.
    """

    _connection: PipelinedConnection

    def __init__(self, conninfo: str, timing: LeaseTiming, wait: Wait, schema: str, watch: LedgerWatch) -> None:
        refuse_old_libpq()
        self._schema = schema
        self._watch = watch
        self._replica = escaped(f"{socket.gethostname()}:{os.getpid()}").encode()
        self._met: set[str] = set()  # the services that have rows, as far as one knows
        super().__init__(conninfo, timing, wait)

    def asks_at(self) -> float:
        """Return when the watched services are to be looked at."""
        return self._watch.look_at()

    def carry_out(self, batch: Batch, *, deadline: float) -> Done:
        """Do all of a batch, and tell its leases what their rows said; look at the watched services as well, if due."""
        now = boot_seconds()
        watched = self._watch.watched(now)
        told, plain = _parted(batch.releases, now)
        asked = [lease for lease in batch.acquires if isinstance(lease, LedgerLease)]
        if not (told or asked or watched):
            return Done(self.exchange(lock_ids(plain), lock_ids(batch.acquires), deadline=deadline))
        statements: list[tuple[str, list[bytes]]] = []
        if told:
            statements.append(("results", _results(told)))
        tried = array(lock_ids(batch.acquires))
        statements.append(("exchange", [array(lock_ids(plain)), tried]))
        if asked:
            services, intervals, forced, has_row = _columns(batch.acquires)
            parameters = [services, tried, intervals, forced]
            if any(lease.service not in self._met for lease in asked):
                statements.append(("register", parameters))
                self._met.update(lease.service for lease in asked)
            statements.append(("draw", [*parameters, self._replica]))
            statements.append(("put_back", [tried, has_row]))
        if watched:
            statements.append(("look", [text_array(watched)]))
        named = [((_PREFIX + name).encode(), parameters) for name, parameters in statements]
        with in_words_of_the_ledger(self._connection, self._schema):
            answers = self._connection.ask_all(named, deadline=deadline, forgiven=(_REGISTER, LOCKED))
        rows = dict(zip((name for name, _ in statements), answers, strict=True))
        return self._understood(batch, told, plain, asked, rows)

    # What opening it does.

    def _connected(self, conninfo: str, wait: Wait) -> PipelinedConnection:
        return PipelinedConnection(conninfo, wait)

    def _prepare(self, mark: str) -> None:
        super()._prepare(mark)
        self._connection.ask_row(_SETTINGS, columns=5, deadline=self._deadline())
        statements = ledger_statements(self._schema, IS_OURS.replace("%s", mark))
        for name in statements.__slots__:
            text: str = getattr(statements, name)
            with in_words_of_the_ledger(self._connection, self._schema):
                self._connection.prepare((_PREFIX + name).encode(), text.encode(), deadline=self._deadline())

    # What the answers mean.

    def _understood(
        self,
        batch: Batch,
        told: list[LedgerLease],
        plain: list[PostgresLease],
        asked: list[LedgerLease],
        answers: dict[str, list[list[str | None]]],
    ) -> Done:
        for rows in answers.values():
            for row in rows:
                self._must_be_ours(row[0])
        written, unwritten = _parted_by_result(told, answers["results"][0]) if told else ([], ())
        [[_, released, freed, _, said]] = answers["exchange"]
        self._must_be_released(lock_ids(plain), released)
        self._must_be_released(lock_ids(written), freed)
        granted = self._granted(lock_ids(batch.acquires), said)
        if asked:
            refused = self._take_rows(batch.acquires, granted, answers["draw"])
            [[_, put_back, _]] = answers["put_back"]
            self._must_be_released(refused, put_back)
        wakes = self._watch.woken_by([_seen(row) for row in answers["look"]]) if "look" in answers else ()
        return Done(granted, unwritten, wakes)

    def _take_rows(
        self, acquires: Sequence[PostgresLease], granted: list[bool], answer: list[list[str | None]]
    ) -> list[int]:
        """Tell leases what their rows said, and take a grant back where no epoch was drawn; return of which locks."""
        [_, drawn, epochs, successes, *_], *others = answer
        rows = {
            lock_id: Row(int(epoch), None, _number(last_success))
            for lock_id, epoch, last_success in zip(
                map(int, items_of(drawn)), items_of(epochs), items_of(successes), strict=True
            )
        }
        refused = {int(row[1] or 0): row for row in others}
        for index, lease in enumerate(acquires):
            if not granted[index] or not isinstance(lease, LedgerLease):
                continue
            if lease.lock_id in rows:
                lease.row = rows[lease.lock_id]
                continue
            if lease.lock_id not in refused:
                self._connection.loss = Loss.STATEMENT
                raise DatabaseUnavailableError(
                    f"the server granted the lock {lease.lock_id} and said nothing of its row"
                )
            lease.row = self._refused(lease, refused[lease.lock_id])
            granted[index] = False
        return [*refused]

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


def _parted(releases: Iterable[PostgresLease], now: float) -> tuple[list[LedgerLease], list[PostgresLease]]:
    """Part the locks with a result to write from those without, and from those that have waited for too long."""
    told: list[LedgerLease] = []
    plain: list[PostgresLease] = []
    for lease in releases:
        if isinstance(lease, LedgerLease) and now < lease.write_until:
            told.append(lease)
        else:
            plain.append(lease)
    return told, plain


def _parted_by_result(
    told: Iterable[LedgerLease], answer: Sequence[str | None]
) -> tuple[list[LedgerLease], set[LedgerLease]]:
    """Tell leases when they are due; part those that are done with from those whose result could not be written."""
    _, written, due_in, gone, _ = answer
    seconds = dict(zip(items_of(written), map(_number, items_of(due_in)), strict=True))
    done = seconds.keys() | set(items_of(gone))
    written_ones: list[LedgerLease] = []
    unwritten = set[LedgerLease]()
    for lease in told:
        key = str(lease.lock_id)
        lease.due_in = seconds.get(key)
        if key in done:
            written_ones.append(lease)
        else:
            unwritten.add(lease)
    return written_ones, unwritten


def _columns(acquires: Iterable[PostgresLease]) -> tuple[bytes, bytes, bytes, bytes]:
    """Return services, intervals, what is forced, and what has a row; NULL and false for a lock without one."""
    rows = [
        (quoted_item(lease.service), repr(lease.interval), "t" if lease.forced else "f", "t")
        if isinstance(lease, LedgerLease)
        else ("NULL", "NULL", "NULL", "f")
        for lease in acquires
    ]
    services, intervals, forced, has_row = zip(*rows, strict=True)
    return array(services), array(intervals), array(forced), array(has_row)


def _results(told: Sequence[LedgerLease]) -> list[bytes]:
    results = [lease.result for lease in told]
    return [
        text_array(lease.service for lease in told),
        array(lock_ids(told)),
        array(lease.epoch for lease in told),
        text_array(result.outcome for result in results),
        array(repr(result.duration) for result in results),
        text_array(result.error for result in results),
        array(repr(random.random()) for _ in told),
        array(repr(lease.interval) for lease in told),
    ]


def _number(text: str | None) -> float | None:
    return None if text is None or text == "NULL" else float(text)


def _seen(row: Sequence[str | None]) -> Seen:
    _, service, is_triggered, is_paused = row
    return Seen(service or "", is_triggered == "t", is_paused == "t")
