"""A connection that says several statements at once: a transaction each, and one round trip for all of them.

It must not know what they are.
"""

from __future__ import annotations

from selectors import EVENT_READ, EVENT_WRITE
from typing import TYPE_CHECKING, NoReturn

import psycopg
from psycopg import pq

from .._errors import LockerConfigurationError
from ._clock import boot_seconds
from ._connection import Connection, texts
from ._losses import Loss

if TYPE_CHECKING:
    from collections.abc import Sequence


_OLDEST_LIBPQ = 140000  # the first with a pipeline


def refuse_old_libpq() -> None:
    """Refuse a libpq without a pipeline.

    Raises:
        LockerConfigurationError: it is older than version 14.
    """
    if pq.version() < _OLDEST_LIBPQ:
        raise LockerConfigurationError(
            f"libpq is version {pq.version() // 10000}, and a ledger needs 14 or newer: pip install 'psycopg[binary]'"
        )


class PipelinedConnection(Connection):
    """See `Connection`."""

    def ask_all(
        self,
        statements: Sequence[tuple[bytes, Sequence[bytes | None]]],
        *,
        deadline: float,
        forgiven: tuple[bytes, str] | None = None,
    ) -> list[list[list[str | None]]]:
        """Have prepared statements executed one after the other; return the rows of each, as text.

        Each is a transaction of its own: what came before one that fails stays. All of them are complete when it
        returns.

        Args:
            statements: the name and the parameters of each.
            deadline: until when all must be answered.
            forgiven: the name of one that may fail, and the SQLSTATE with which it may: then it has no rows.
        """
        pgconn = self._pgconn
        sent_at = boot_seconds()
        try:
            pgconn.enter_pipeline_mode()
            for name, parameters in statements:
                pgconn.send_query_prepared(name, parameters)
                pgconn.pipeline_sync()
            while pgconn.flush():
                if not self._wait(self.fd, EVENT_READ | EVENT_WRITE, deadline):
                    self._too_late(sent_at, deadline)
                pgconn.consume_input()  # a server that cannot write to us does not read from us
            may_fail, with_state = forgiven or (None, "")
            rows = [
                self._rows_up_to_sync(sent_at, deadline, forgiven=with_state if name == may_fail else "")
                for name, _ in statements
            ]
            pgconn.exit_pipeline_mode()
        except psycopg.Error as error:
            self._fail_midway(str(error))
        return rows

    def _fail_midway(self, reason: str) -> NoReturn:
        """Name what the server said when it ended the session, not what libpq says of a pipeline that is no more."""
        pgconn = self._pgconn
        if pgconn.status == pq.ConnStatus.BAD:  # so there is nothing to wait for
            reason = pgconn.get_error_message() or reason
            ends = 0
            while ends < 2:  # what came before it is there too; each result has an end, and two are the end of all
                result = pgconn.get_result()
                ends = ends + 1 if result is None else 0
                if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
                    self._fail_statement(result)
        self._fail(reason)

    def _rows_up_to_sync(self, sent_at: float, deadline: float, *, forgiven: str) -> list[list[str | None]]:
        pgconn = self._pgconn
        rows: list[list[str | None]] = []
        while True:
            while pgconn.is_busy():
                if not self._wait(self.fd, EVENT_READ, deadline):
                    self._too_late(sent_at, deadline)
                pgconn.consume_input()
            result = pgconn.get_result()
            if result is None:  # the end of the statement; its transaction is committed when the sync comes
                continue
            if result.status == pq.ExecStatus.PIPELINE_SYNC:
                return rows
            if forgiven and result.error_field(pq.DiagnosticField.SQLSTATE) == forgiven.encode():
                continue
            if result.status != pq.ExecStatus.TUPLES_OK:
                self._fail_statement(result)
            rows = texts(result)

    def _too_late(self, sent_at: float, deadline: float) -> NoReturn:
        self.loss = Loss.TIMEOUT
        self._fail(f"the server did not reply within {max(0.0, deadline - sent_at):.3g} seconds")
