"""One PostgreSQL session that holds advisory locks: how it is opened, what is said over it, and why it cannot be had.

The only importer of psycopg; `_session_thread` imports it when a locker opens. It waits for nothing by itself: whoever
opens a session passes a `Wait`, so that the thread can watch for its other duties meanwhile. libpq forbids sharing a
connection, so everything here belongs to one thread.

Invariants:

1. Only two errors leave this module, besides what ``wait`` raises: `DatabaseUnavailableError` for what waiting can
   mend, `LockerConfigurationError` for what it cannot. After either the session is good for `Session.close` only.
2. A lock is granted only by a statement that completed: the server has said that it is ready for the next one.
3. No error holds a password. What libpq says of a connection string that it cannot read is dropped whole, since it
   quotes the part that it stumbled over; in everything else the secrets of the string are blotted out.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from selectors import EVENT_READ, EVENT_WRITE
from typing import TYPE_CHECKING, NoReturn, Protocol

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_attempts, conninfo_to_dict, make_conninfo, timeout_from_conninfo

from .._audit import log_safely
from .._errors import DatabaseUnavailableError, LockerConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg.abc import ConnDict
    from psycopg.pq.abc import PGconn, PGresult

_log = logging.getLogger("tickrunner_trio.lockers.postgres")

REPLY_SECONDS = 5.0
"""How long `Session.try_lock` and `Session.unlock` wait for the server before the session counts as lost."""

# Below REPLY_SECONDS, so that a statement that is stuck ends in the server too, and its backend with the session.
_STATEMENT_TIMEOUT_MS = b"4000"
_CONNECT_SECONDS = 5  # libpq's own default is to wait for ever
_OLDEST_SERVER = 140000

# Qualified, so that no search_path of the role can put other functions in their place.
_TRY_LOCK = b"SELECT pg_catalog.pg_try_advisory_lock(id) FROM pg_catalog.unnest($1::pg_catalog.int8[]) AS id"
_UNLOCK = b"SELECT pg_catalog.pg_advisory_unlock(id) FROM pg_catalog.unnest($1::pg_catalog.int8[]) AS id"
# A role's idle_session_timeout would end the session under the work that holds its locks.
_SETTINGS = (
    b"SELECT pg_catalog.set_config('statement_timeout', $1, false),"
    b" pg_catalog.set_config('idle_session_timeout', '0', false)"
)

_HOW_TO_WRITE = (
    "conninfo is not a connection string that PostgreSQL's client library can read: write it as "
    "'postgresql://user:password@host:port/database' with :/?#@% in the password percent-encoded, "
    "or as 'host=... dbname=... password=...' with values that hold spaces in single quotes"
)
_CREDENTIALS = "correct the user, the password or the database in conninfo, or the server's pg_hba.conf"

# libpq does not hand out the SQLSTATE of a refused connection, only the text, in the language of the server's
# lc_messages. Where that is not English, these are reported as DatabaseUnavailableError, with the server's reason.
_NOT_MENDED_BY_WAITING = {
    r"authentication failed for user|no password supplied": _CREDENTIALS,  # 28P01, 28000
    r"pg_hba\.conf (entry|rejects)|is not permitted to log in|permission denied for database": _CREDENTIALS,
    r"FATAL: +(role|database) .* does not exist": _CREDENTIALS,  # 28000, 3D000
    r"^invalid |^could not match |^bad value ": "correct that parameter of conninfo",
    r"could not parse network address|Servname not supported": "correct hostaddr or port in conninfo",
    r"definition of service .* not found": "correct service in conninfo, or the service file",
    r"authentication method requirement": "correct require_auth in conninfo, or the server's pg_hba.conf",
    r"does not support SSL": "correct sslmode in conninfo, or switch on SSL at the server",
    r"root certificate file .* does not exist|certificate verify failed": "correct sslrootcert or sslmode in conninfo",
}


class Wait(Protocol):
    """How the thread waits for a socket."""

    def __call__(self, fd: int, events: int, deadline: float) -> bool:
        """Wait for `selectors` events until ``deadline`` (of `time.monotonic`); return whether one came."""
        ...


class Session:
    """An open session. Opening it may block for DNS alone; every other wait is ``wait``.

    Args:
        conninfo: the user's connection string; see `PostgresLocker`.
        wait: called for each wait. What it raises passes through, after the connection has been closed.

    Raises:
        DatabaseUnavailableError: no server took us now.
        LockerConfigurationError: none will, unless somebody changes something.
    """

    def __init__(self, conninfo: str, wait: Wait) -> None:
        self._wait = wait
        self._parting_words = ""  #: What the server said unasked when it ended the session.
        parameters = _parameters(conninfo)
        self._secrets = [
            str(value) for name, value in parameters.items() if re.search("password|secret", name) and value
        ]
        self._connection = self._connected(parameters)
        try:
            self._connection.nonblocking = 1
            self._connection.notice_handler = self._noticed
            version = self._connection.server_version
            self.description = (
                f"PostgreSQL {version // 10000}.{version % 10000}, backend {self._connection.backend_pid}"
            )
            if version < _OLDEST_SERVER:
                raise LockerConfigurationError(f"the server is {self.description}: PostgreSQL 14 or newer is needed")
            self._ask(_SETTINGS, _STATEMENT_TIMEOUT_MS, rows=1)
        except BaseException:
            self.close()
            raise

    @property
    def fd(self) -> int:
        """The socket. It turns readable when the server says something unasked, its end included."""
        try:
            return self._connection.socket
        except psycopg.Error as error:
            self._fail(str(error))

    def try_lock(self, lock_ids: Sequence[int]) -> list[bool]:
        """Try each lock once, and return for each whether it was had. The session must hold none of them."""
        return self._ask(_TRY_LOCK, _array(lock_ids), rows=len(lock_ids))

    def unlock(self, lock_ids: Sequence[int]) -> None:
        """Let go of locks that the session holds; an answer that it held one not is a failure like any other."""
        answers = self._ask(_UNLOCK, _array(lock_ids), rows=len(lock_ids))
        if not all(answers):
            self._fail(f"the server did not hold the lock {lock_ids[answers.index(False)]} that was to be released")

    def read_unasked(self) -> None:
        """Read what came in while nothing was asked: notices, or the end of the session."""
        try:
            self._connection.consume_input()
            self._connection.is_busy()  # it parses what was read; words before an end go to `_noticed`
        except psycopg.Error as error:
            self._fail(str(error))
        if self._parting_words:
            self._fail(self._parting_words)

    def close(self) -> None:
        """Close the socket. The server lets the locks go as soon as it notices. Idempotent, does not block."""
        self._connection.finish()

    def _connected(self, parameters: ConnDict) -> PGconn:
        """Try each address for ``connect_timeout`` seconds, which libpq itself respects only where it blocks."""
        failures: list[tuple[object, str]] = []  # the host, and what it said
        try:
            seconds = timeout_from_conninfo(parameters)
            for attempt in conninfo_attempts(parameters):
                try:
                    return self._connected_once(make_conninfo("", **attempt), seconds)
                except psycopg.Error as error:
                    failures.append((attempt.get("host"), str(error)))
        except psycopg.Error as error:
            failures.append((None, str(error)))
        except ValueError as error:  # each Python has its own words for what idna cannot encode
            failures.append((None, f"invalid host name: {error}"))
        reason = "; ".join(dict.fromkeys(self._blotted(said) for _, said in failures))
        # One of a host's addresses may be dead while another tells what is wrong; another host may still let us in.
        remedies: dict[object, str | None] = {}
        for host, said in failures:
            remedies[host] = remedies.get(host) or _remedy(said)
        if all(remedies.values()):
            raise LockerConfigurationError(f"{reason}: {next(iter(remedies.values()))}")
        raise DatabaseUnavailableError(reason)

    def _connected_once(self, conninfo: str, seconds: float) -> PGconn:
        deadline = time.monotonic() + seconds
        connection = pq.PGconn.connect_start(conninfo.encode())
        try:
            while connection.status != pq.ConnStatus.BAD:
                status = connection.connect_poll()
                if status == pq.PollingStatus.OK:
                    return connection
                events = EVENT_READ if status == pq.PollingStatus.READING else EVENT_WRITE
                if status != pq.PollingStatus.FAILED and not self._wait(connection.socket, events, deadline):
                    host = (connection.hostaddr or connection.host).decode(errors="replace")
                    raise psycopg.OperationalError(f"{host} did not finish connecting within {seconds} seconds")
            raise psycopg.OperationalError(connection.get_error_message())
        except BaseException:
            connection.finish()
            raise

    def _ask(self, statement: bytes, parameter: bytes, *, rows: int) -> list[bool]:
        """Return the first column of the reply, as bools; a reply of another number of rows is a failure."""
        deadline = time.monotonic() + REPLY_SECONDS
        connection, reply = self._connection, None
        try:
            connection.send_query_params(statement, [parameter])
            while connection.flush():
                self._wait_for_reply(EVENT_READ | EVENT_WRITE, deadline)
                connection.consume_input()  # a server that cannot write to us does not read from us
            while True:
                while connection.is_busy():
                    self._wait_for_reply(EVENT_READ, deadline)
                    connection.consume_input()
                result = connection.get_result()
                if result is None:  # only now is the statement complete
                    break
                reply = result
                if result.status != pq.ExecStatus.TUPLES_OK:
                    self._fail(result.get_error_message())
        except psycopg.Error as error:
            self._fail(str(error))
        if reply is None or reply.ntuples != rows:
            self._fail(f"the server did not reply to a statement with {rows} rows")
        return [reply.get_value(row, 0) == b"t" for row in range(reply.ntuples)]

    def _wait_for_reply(self, events: int, deadline: float) -> None:
        if not self._wait(self.fd, events, deadline):
            self._fail(f"the server did not reply within {REPLY_SECONDS:g} seconds")

    def _noticed(self, notice: PGresult) -> None:
        severity = notice.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED) or b""
        state = notice.error_field(pq.DiagnosticField.SQLSTATE) or b""
        message = self._blotted(notice.get_error_message())
        if severity in {b"FATAL", b"PANIC"} or state.startswith(b"57P"):  # a crash is told as a warning
            self._parting_words = message
        else:
            log_safely(_log, logging.DEBUG, "the server said: %s", message)

    def _fail(self, reason: str) -> NoReturn:
        raise DatabaseUnavailableError(self._parting_words or self._blotted(reason)) from None

    def _blotted(self, message: str) -> str:
        for secret in self._secrets:
            message = message.replace(secret, "***")
        return " ".join(message.split())


def _parameters(conninfo: str) -> ConnDict:
    """Parse the user's connection string and add our defaults for what neither it nor the environment says."""
    try:
        parameters = None if _is_ambiguous(conninfo) else conninfo_to_dict(conninfo)
    except (psycopg.Error, UnicodeError):
        parameters = None
    if parameters is None:  # raised out here: in the clause above the error would have one with the password as context
        raise LockerConfigurationError(_HOW_TO_WRITE)
    defaults: dict[str, tuple[str, int | str]] = {
        "connect_timeout": ("PGCONNECT_TIMEOUT", _CONNECT_SECONDS),
        # A standby grants the same ids as its primary, and its session survives promotion.
        "target_session_attrs": ("PGTARGETSESSIONATTRS", "read-write"),
    }
    for name, (variable, value) in defaults.items():
        if variable not in os.environ:
            parameters.setdefault(name, value)
    # The pid comes first, because the server cuts it off after 63 bytes. libpq looks at it last of all: after
    # application_name in the string, PGAPPNAME and a service file.
    parameters.setdefault("fallback_application_name", f"tickrunner_trio {os.getpid()} {socket.gethostname()}")
    return parameters


def _is_ambiguous(conninfo: str) -> bool:
    """Whether libpq would take a part of the password for a host or a database, and then quote it.

    It ends user and password at the first ``@``, unless a ``/`` comes before that.
    """
    uri = re.match(r"postgres(?:ql)?://(?:[^@/]*@)?([^?]*)", conninfo)
    return uri is not None and "@" in uri[1]


def _remedy(said: str) -> str | None:
    said = " ".join(said.split())
    return next((remedy for pattern, remedy in _NOT_MENDED_BY_WAITING.items() if re.search(pattern, said)), None)


def _array(lock_ids: Sequence[int]) -> bytes:
    return b"{%s}" % ",".join(map(str, lock_ids)).encode()
