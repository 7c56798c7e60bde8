"""One connection to PostgreSQL: how it is made, what is said over it one statement at a time, and why it cannot be had.

It waits for nothing by itself: whoever opens one passes a `Wait`, so that the session's thread can watch for its other
duties meanwhile. libpq forbids sharing a connection between threads.

Invariants:

1. Only two errors leave this module, besides what ``wait`` raises: `DatabaseUnavailableError` for what waiting can
   mend, `LockerConfigurationError` for what it cannot. After either the connection is good for `Connection.close` only.
2. A reply is returned only when the statement is complete: the server has said that it is ready for the next one.
3. No error holds a password. What libpq says of a connection string that it cannot read is dropped whole, since it
   quotes the part that it stumbled over; in everything else the secrets of the string are blotted out.
"""

from __future__ import annotations

import logging
import re
from selectors import EVENT_READ, EVENT_WRITE
from typing import TYPE_CHECKING, NoReturn, Protocol, TypeVarTuple

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_attempts, make_conninfo, timeout_from_conninfo

from .._audit import log_safely
from .._errors import DatabaseUnavailableError, LockerConfigurationError
from ._clock import boot_seconds
from ._conninfo import parameters_of, remedy_for
from ._losses import Loss

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from psycopg.abc import ConnDict
    from psycopg.pq.abc import PGconn, PGresult

_log = logging.getLogger("tickrunner_trio.lockers.postgres")

_Arguments = TypeVarTuple("_Arguments")

_OLDEST_SERVER = 140000  # the first with idle_session_timeout

# Our statements are always the same, so what the server does not know, accept or allow, it will not tomorrow.
_NOT_MENDED_STATES = {
    b"0A": "use a PostgreSQL server, 14 or newer, or one that does all that PostgreSQL does",
    b"22": "use a PostgreSQL server, 14 or newer, or one that does all that PostgreSQL does",
    b"42": "let the role use pg_catalog's functions for settings and advisory locks, on PostgreSQL 14 or newer",
}


class Wait(Protocol):
    """How to wait for a socket."""

    def __call__(self, fd: int, events: int, deadline: float) -> bool:
        """Wait for `selectors` events until ``deadline`` (of `boot_seconds`); return whether one came."""
        ...


class Connection:
    """An open connection. Opening it may block for DNS alone; every other wait is ``wait``.

    Args:
        conninfo: the user's connection string; see `PostgresLocker`.
        wait: called for each wait. What it raises passes through, after the connection has been closed.

    Raises:
        DatabaseUnavailableError: no server took us now.
        LockerConfigurationError: none will, unless somebody changes something.
    """

    def __init__(self, conninfo: str, wait: Wait) -> None:
        self.loss = Loss.ENDED  #: Why it is of no use any more, after an error.
        self.refused = ("", "")  #: SQLSTATE and words of the server's, after a statement that it did not do.
        self._wait = wait
        self._parting_words = ""  #: What the server said unasked when it ended the session.
        parameters = parameters_of(conninfo)
        self._secrets = [
            str(value) for name, value in parameters.items() if re.search("password|secret", name) and value
        ]
        self._pgconn = self._connected(parameters)
        self._pgconn.notice_handler = self._noticed
        # Asked now, because the server takes it back when it is promoted. Some poolers do not pass it on.
        self.began_on_a_standby = self._pgconn.parameter_status(b"in_hot_standby") == b"on"

    @property
    def server_version(self) -> int:
        """The server's version, such as 180004."""
        return self._pgconn.server_version

    @property
    def server(self) -> str:
        """What it calls itself, such as PostgreSQL 18.4."""
        return f"PostgreSQL {self.server_version // 10000}.{self.server_version % 10000}"

    def refuse_old_server(self) -> None:
        """Refuse one that is older than PostgreSQL 14.

        Raises:
            LockerConfigurationError: it is.
        """
        if self.server_version < _OLDEST_SERVER:
            raise LockerConfigurationError(f"the server is {self.server}: PostgreSQL 14 or newer is needed")

    @property
    def backend_pid(self) -> int:
        """The process id that the other side gave for cancel requests: the backend's, or a pooler's invention."""
        return self._pgconn.backend_pid

    @property
    def is_open(self) -> bool:
        """Whether, as far as one can tell from here, the server still has the session."""
        return self._pgconn.status == pq.ConnStatus.OK and not self._parting_words

    @property
    def fd(self) -> int:
        """The socket. It turns readable when the server says something unasked, its end included."""
        try:
            return self._pgconn.socket
        except psycopg.Error as error:
            self._fail(str(error))

    def prepare(self, name: bytes, statement: bytes, *, deadline: float) -> None:
        """Have the server prepare a statement."""
        self._complete(pq.ExecStatus.COMMAND_OK, deadline, self._pgconn.send_prepare, name, statement)

    def execute(self, statement: bytes, *, deadline: float) -> None:
        """Have the server do a statement that has no answer."""
        self._complete(pq.ExecStatus.COMMAND_OK, deadline, self._pgconn.send_query_params, statement, None)

    def ask(
        self, statement: bytes, parameters: Sequence[bytes | None] | None = None, *, deadline: float
    ) -> list[list[str | None]]:
        """Return the rows of the answer to a statement, as text."""
        return texts(self._asked(statement, parameters, deadline))

    def ask_row(self, statement: bytes, *, columns: int, deadline: float) -> list[str]:
        """Return the one row of the answer to a statement; an answer of another shape is a failure like any other."""
        return self._row(self._asked(statement, None, deadline), columns)

    def ask_prepared(self, name: bytes, parameters: Sequence[bytes], *, columns: int, deadline: float) -> list[str]:
        """Return the one row of the answer to a prepared statement."""
        send = self._pgconn.send_query_prepared
        return self._row(self._complete(pq.ExecStatus.TUPLES_OK, deadline, send, name, parameters), columns)

    def begin(self, statement: bytes, *, deadline: float) -> None:
        """Send a statement; `row_if_answered` takes the answer."""
        if not self._is_sent(deadline, self._pgconn.send_query_params, statement, None):
            self._fail("the server did not take a statement in time")

    def row_if_answered(self, *, columns: int, deadline: float) -> list[str] | None:
        """Return the one row of the answer to what was begun; None if it has not come by then, and may come later."""
        result = self._result(pq.ExecStatus.TUPLES_OK, deadline)
        return None if result is None else self._row(result, columns)

    def read_unasked(self) -> None:
        """Read what came in while nothing was asked: notices, or the end of the session."""
        try:
            self._pgconn.consume_input()
            self._pgconn.is_busy()  # it parses what was read; words before an end go to `_noticed`
        except psycopg.Error as error:
            self._fail(str(error))
        if self._parting_words:
            self._fail(self._parting_words)

    def close(self) -> None:
        """Close the socket. The server lets the locks go as soon as it notices. Idempotent, does not block."""
        self._pgconn.finish()

    def _asked(self, statement: bytes, parameters: Sequence[bytes | None] | None, deadline: float) -> PGresult:
        send = self._pgconn.send_query_params
        return self._complete(pq.ExecStatus.TUPLES_OK, deadline, send, statement, parameters)

    def _row(self, result: PGresult, columns: int) -> list[str]:
        is_one = result.ntuples == 1 and result.nfields == columns
        get = result.get_value
        row = [
            value.decode(errors="replace")
            for column in range(columns if is_one else 0)
            if (value := get(0, column)) is not None
        ]
        if len(row) != columns:
            self.loss = Loss.STATEMENT
            self._fail(f"the server answered with {result.ntuples} rows where one of {columns} values was asked for")
        return row

    def _complete(
        self,
        status: pq.ExecStatus,
        deadline: float,
        send: Callable[[*_Arguments], None],
        *arguments: *_Arguments,
    ) -> PGresult:
        """Send a statement and return its one result."""
        sent_at = boot_seconds()
        result = self._result(status, deadline) if self._is_sent(deadline, send, *arguments) else None
        if result is None:
            self.loss = Loss.TIMEOUT
            self._fail(f"the server did not reply within {max(0.0, deadline - sent_at):.3g} seconds")
        return result

    def _is_sent(self, deadline: float, send: Callable[[*_Arguments], None], *arguments: *_Arguments) -> bool:
        try:
            send(*arguments)
            while self._pgconn.flush():
                if not self._wait(self.fd, EVENT_READ | EVENT_WRITE, deadline):
                    return False
                self._pgconn.consume_input()  # a server that cannot write to us does not read from us
        except psycopg.Error as error:
            self._fail(str(error))
        return True

    def _result(self, status: pq.ExecStatus, deadline: float) -> PGresult | None:
        """Return the one result of what was sent; None if it is not complete by then."""
        pgconn, reply = self._pgconn, None
        try:
            while True:
                while pgconn.is_busy():
                    if not self._wait(pgconn.socket, EVENT_READ, deadline):
                        return None
                    pgconn.consume_input()
                result = pgconn.get_result()
                if result is None:  # only now is the statement complete
                    break
                reply = result
                if result.status != status:
                    self._fail_statement(result)
        except psycopg.Error as error:
            self._fail(str(error))
        if reply is None:
            self.loss = Loss.STATEMENT
            self._fail("the server did not answer a statement")
        return reply

    def _connected(self, parameters: ConnDict) -> PGconn:
        """Try each address for ``connect_timeout`` seconds, which libpq itself respects only where it blocks."""
        failures: list[tuple[object, str]] = []  # the host, and what it said
        seconds, attempts = 0, list["ConnDict"]()
        try:
            seconds, attempts = timeout_from_conninfo(parameters), conninfo_attempts(parameters)
        except psycopg.Error as error:
            failures.append((None, str(error)))
        except ValueError as error:  # each Python has its own words for what idna cannot encode
            failures.append((None, f"invalid host name: {error}"))
        for attempt in attempts:
            try:
                return self._connected_once(make_conninfo("", **attempt), seconds)
            except psycopg.Error as error:
                failures.append((attempt.get("host"), str(error)))
        reason = "; ".join(dict.fromkeys(self._blotted(said) for _, said in failures))
        # One of a host's addresses may be dead while another tells what is wrong; another host may still let us in.
        remedies: dict[object, str | None] = {}
        for host, said in failures:
            remedies[host] = remedies.get(host) or remedy_for(said)
        if all(remedies.values()):
            raise LockerConfigurationError(f"{reason}: {next(iter(remedies.values()))}")
        raise DatabaseUnavailableError(reason)

    def _connected_once(self, conninfo: str, seconds: float) -> PGconn:
        deadline = boot_seconds() + seconds
        connection = pq.PGconn.connect_start(conninfo.encode())
        try:
            if password := connection.password.decode(errors="replace"):  # also of the environment, or of a file
                self._secrets.append(password)
            while connection.status != pq.ConnStatus.BAD:
                status = connection.connect_poll()
                if status == pq.PollingStatus.OK:
                    connection.nonblocking = 1
                    return connection
                events = EVENT_READ if status == pq.PollingStatus.READING else EVENT_WRITE
                if status != pq.PollingStatus.FAILED and not self._wait(connection.socket, events, deadline):
                    host = (connection.hostaddr or connection.host).decode(errors="replace")
                    raise psycopg.OperationalError(f"{host} did not finish connecting within {seconds} seconds")
            raise psycopg.OperationalError(connection.get_error_message())
        except BaseException:
            connection.finish()
            raise

    def _fail_statement(self, result: PGresult) -> NoReturn:
        state = result.error_field(pq.DiagnosticField.SQLSTATE) or b""
        message = (
            result.get_error_message() or f"the server answered {pq.ExecStatus(result.status).name} to a statement"
        )
        said = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b""
        self.refused = (state.decode("ascii", "replace"), self._blotted(said.decode(errors="replace")))
        if _ends_the_session(result):
            self._parting_words = self._blotted(message)
        remedy = _NOT_MENDED_STATES.get(state[:2])
        self.loss = Loss.ENDED if self._parting_words else Loss.STATEMENT
        if remedy is None or self._parting_words:
            self._fail(message)
        raise LockerConfigurationError(f"{self._blotted(message)}: {remedy}")

    def _noticed(self, notice: PGresult) -> None:
        message = self._blotted(notice.get_error_message())
        if _ends_the_session(notice):
            self._parting_words = message
        else:
            log_safely(_log, logging.DEBUG, "the server said: %s", message)

    def _fail(self, reason: str) -> NoReturn:
        raise DatabaseUnavailableError(self._parting_words or self._blotted(reason)) from None

    def _blotted(self, message: str) -> str:
        for secret in sorted(self._secrets, key=len, reverse=True):  # one may be a part of another
            message = message.replace(secret, "***")
        return " ".join(message.split())


def texts(result: PGresult) -> list[list[str | None]]:
    """Return the rows of a result."""
    get = result.get_value
    columns = range(result.nfields)
    return [
        [None if (value := get(row, column)) is None else value.decode(errors="replace") for column in columns]
        for row in range(result.ntuples)
    ]


def _ends_the_session(said: PGresult) -> bool:
    severity = said.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED) or b""
    state = said.error_field(pq.DiagnosticField.SQLSTATE) or b""
    return severity in {b"FATAL", b"PANIC"} or state.startswith(b"57P")  # a crash is told as a warning
