"""The session that holds the advisory locks: what is made sure of when it opens, and the statements it lives on.

::

    connected -> is it PostgreSQL 14 or newer? -> is there a pooler in between that would share the session?
              -> mark it as ours -> make the settings of the lease -> read them back, and what else must be so
              -> prepare -> ready

Nothing is set before the pooler is known: in transaction mode settings, like locks, would go to whoever comes next.
What finds out about the pooler can be led astray, by two poolers behind one address for example. So the session bears a
mark, a setting of our own, and each statement does something only where it finds it.

Invariants:

1. A session is made only on a primary, and only if it is ours alone and keeps our settings. If it turns out later that
   a statement went to another one, nothing was asked of that, and the session is lost.
2. It never says or hears anything large, waits for no lock and for no standby: the server ends it only while it is
   idle, and keeps its locks as long as it is not.
3. A lock counts as had only by a statement that is complete. A failed statement may have taken locks all the same, and
   an unlock that says false may have left them: either ends the session.
"""

from __future__ import annotations

import math
import re
import secrets
from typing import TYPE_CHECKING, NoReturn

from .._errors import DatabaseUnavailableError, LockerConfigurationError
from ._arrays import array, items_of
from ._batch import Done, lock_ids
from ._clock import boot_seconds
from ._connection import Connection
from ._losses import Loss
from ._timing import server_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._batch import Batch
    from ._connection import Wait
    from ._timing import LeaseTiming

# Everything is qualified, so that no search_path of the role can put other functions in its place; so are operators,
# the unseen ones too, which are why there is no NULLIF and no USING.
_BACKEND = b"SELECT pg_catalog.pg_backend_pid()"
_FACTS = (
    b"SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('transaction_read_only'),"
    b" pg_catalog.current_setting('max_locks_per_transaction'), pg_catalog.current_setting('max_connections')"
)
_MARK = "tickrunner_trio.session"  # a setting of ours: any role may make those that have a dot in their names
IS_OURS = f"pg_catalog.current_setting('{_MARK}', true) OPERATOR(pg_catalog.=) '%s'"
# Releases first: the columns are evaluated from left to right. Nothing is done under another mark.
_EXCHANGE = (
    f"SELECT CASE WHEN {IS_OURS} THEN 'ours' ELSE 'shared' END,"
    f" CASE WHEN {IS_OURS} THEN"
    " ARRAY(SELECT pg_catalog.pg_advisory_unlock(pg_catalog.unnest($1::pg_catalog.int8[]))) ELSE '{}' END,"
    f" CASE WHEN {IS_OURS} THEN"
    " ARRAY(SELECT pg_catalog.pg_try_advisory_lock(pg_catalog.unnest($2::pg_catalog.int8[]))) ELSE '{}' END"
)
# For one lock alone, as most are asked for and let go of: without arrays the server needs 14 us instead of 20, and a
# lock with its unlock takes a seventh less on one core.
_ALONE = (
    f"SELECT CASE WHEN {IS_OURS} THEN CASE WHEN pg_catalog.FUNCTION($1::pg_catalog.int8) THEN 't' ELSE 'f' END"
    " ELSE 'shared' END"
)
_SHARED = (
    "conninfo leads to a pooler that shares the server's sessions among its clients (pool_mode transaction or "
    "statement), and with them their locks: connect to PostgreSQL directly, or to a pool in session mode"
)
_NAME = b"tickrunner_trio_exchange"
_RELEASE_ALONE, _ACQUIRE_ALONE = b"tickrunner_trio_release", b"tickrunner_trio_acquire"

_PROBES = 5
_GLANCE_SECONDS = 0.01
_MILLISECONDS = {"ms": 1, "s": 1_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}


class Session:
    """A session of the server, made ready for holding locks. Not for use after an error, but for `close`.

    Args:
        conninfo: the user's connection string.
        timing: of the lease.
        wait: see `Connection`.

    Raises:
        DatabaseUnavailableError: there is no server that takes us now and may give locks.
        LockerConfigurationError: there will be none, unless somebody changes something.
    """

    def __init__(self, conninfo: str, timing: LeaseTiming, wait: Wait) -> None:
        self._timing = timing
        self._connection = connection = self._connected(conninfo, wait)
        try:
            self.description = f"{connection.server}, backend {connection.backend_pid}"
            connection.refuse_old_server()
            if self._backend(connection) != str(connection.backend_pid):
                self._refuse_shared_sessions(conninfo, wait)
            mark = secrets.token_hex(8)
            self._mark_as_ours(mark)
            self._make_settings()
            self.lock_table = self._checked_facts()
            self._prepare(mark)
        except BaseException:
            self.close()
            raise

    @property
    def fd(self) -> int:
        """The socket. It turns readable when the server says something unasked, its end included."""
        return self._connection.fd

    @property
    def is_open(self) -> bool:
        """Whether, as far as one can tell from here, the server still has the session."""
        return self._connection.is_open

    @property
    def loss(self) -> Loss:
        """Why it is lost; to be asked after an error."""
        return self._connection.loss

    def asks_at(self) -> float:
        """Return when it has something of its own to ask, whatever the batch; inf: never."""
        return math.inf

    def carry_out(self, batch: Batch, *, deadline: float) -> Done:
        """Do all of a batch, which may be empty; return what came of it."""
        return Done(self.exchange(lock_ids(batch.releases), lock_ids(batch.acquires), deadline=deadline))

    def exchange(self, release: Sequence[int], acquire: Sequence[int], *, deadline: float) -> list[bool]:
        """Let go of some locks, then try others, in one statement; return for each of these whether it was had.

        With neither it is a beat. The session must hold the former, and none of the latter.
        """
        if len(release) + len(acquire) == 1:
            return self._exchange_one(release, acquire, deadline=deadline)
        return self._exchange_all(release, acquire, deadline=deadline)

    def _exchange_one(self, release: Sequence[int], acquire: Sequence[int], *, deadline: float) -> list[bool]:
        """Do so with one lock, by the statement for that."""
        name, lock_id = (_RELEASE_ALONE, release[0]) if release else (_ACQUIRE_ALONE, acquire[0])
        [said] = self._connection.ask_prepared(name, [b"%d" % lock_id], columns=1, deadline=deadline)
        if said not in ("t", "f"):
            self._must_be_ours(said)
        if acquire:
            return [said == "t"]
        if said != "t":
            self._must_be_released(release, "{f}")
        return []

    def _exchange_all(self, release: Sequence[int], acquire: Sequence[int], *, deadline: float) -> list[bool]:
        arrays = [array(release), array(acquire)]
        whose, released, acquired = self._connection.ask_prepared(_NAME, arrays, columns=3, deadline=deadline)
        self._must_be_ours(whose)
        self._must_be_released(release, released)
        return self._granted(acquire, acquired)

    def read_unasked(self) -> None:
        """Read what came in while nothing was asked: notices, or the end of the session."""
        self._connection.read_unasked()

    def give_up(self, reason: str) -> NoReturn:
        """Have done with it, because its last answer came too late."""
        self._connection.loss = Loss.TIMEOUT
        raise DatabaseUnavailableError(reason)

    def close(self) -> None:
        """Close the socket. The server lets the locks go as soon as it notices. Idempotent, does not block."""
        self._connection.close()

    # What the answers mean.

    def _must_be_ours(self, whose: str | None) -> None:
        if whose != "ours":
            self._connection.loss = Loss.MISMATCH
            raise LockerConfigurationError(_SHARED)

    def _must_be_released(self, asked: Sequence[int], said: str | None) -> None:
        if items_of(said) != ["t"] * len(asked):
            self._connection.loss = Loss.MISMATCH
            raise DatabaseUnavailableError(
                f"the server did not hold a lock that was to be released; of {_shown(asked)} it said {said}"
            )

    def _granted(self, asked: Sequence[int], said: str | None) -> list[bool]:
        """Return for each whether it was had."""
        granted = [answer == "t" for answer in items_of(said)]
        if len(granted) != len(asked):
            self._connection.loss = Loss.STATEMENT
            raise DatabaseUnavailableError(
                f"the server answered for {len(granted)} locks where {len(asked)} were asked"
            )
        return granted

    # What opening it does.

    def _connected(self, conninfo: str, wait: Wait) -> Connection:
        return Connection(conninfo, wait)

    def _prepare(self, mark: str) -> None:
        for name, statement in (
            (_NAME, _EXCHANGE),
            (_RELEASE_ALONE, _ALONE.replace("FUNCTION", "pg_advisory_unlock")),
            (_ACQUIRE_ALONE, _ALONE.replace("FUNCTION", "pg_try_advisory_lock")),
        ):
            self._connection.prepare(name, statement.replace("%s", mark).encode(), deadline=self._deadline())

    def _deadline(self) -> float:
        return boot_seconds() + self._timing.reply

    def _backend(self, connection: Connection) -> str:
        [pid] = connection.ask_row(_BACKEND, columns=1, deadline=self._deadline())
        return pid

    def _refuse_shared_sessions(self, conninfo: str, wait: Wait) -> None:
        """There is a pooler. See whether another client of it gets at our backend, or we at another one.

        Each asks twice in a row: of two sessions that are given out in turns, two clients that ask in turns would each
        get its own. Where we have the last session of a pool in session mode the other one waits, and we are answered
        all the same. A pool that shares would serve it before us, since it has waited for longer; then both got at one.
        """
        other = Connection(conninfo, wait)
        try:
            ours, theirs = set[str](), set[str]()
            patience = self._timing.reply / 2
            is_waiting = False
            for _ in range(_PROBES):
                ours |= {self._backend(self._connection), self._backend(self._connection)}
                for _ in range(2):
                    if not is_waiting:
                        other.begin(_BACKEND, deadline=self._deadline())
                    row = other.row_if_answered(columns=1, deadline=boot_seconds() + patience)
                    is_waiting = row is None
                    patience = _GLANCE_SECONDS if is_waiting else patience
                    theirs |= set(row or ())
        finally:
            other.close()
        if len(ours) > 1 or len(theirs) > 1 or ours & theirs:
            raise LockerConfigurationError(_SHARED)

    def _mark_as_ours(self, mark: str) -> None:
        """Set the mark, unless there is one: of another client that shares the session, which would lose it."""
        mine = f"pg_catalog.set_config('{_MARK}', '{mark}', false)"
        there_is = f"pg_catalog.current_setting('{_MARK}', true) OPERATOR(pg_catalog.<>) ''"
        statement = f"SELECT CASE WHEN {there_is} THEN pg_catalog.current_setting('{_MARK}', true) ELSE {mine} END"
        [found] = self._connection.ask_row(statement.encode(), columns=1, deadline=self._deadline())
        if found != mark:
            raise LockerConfigurationError(_SHARED)

    def _make_settings(self) -> None:
        """Make all settings by one statement, and read them back by another, since some poolers drop them silently."""
        settings = server_settings(self._timing, server_version=self._connection.server_version)
        made = ", ".join(f"pg_catalog.set_config('{name}', '{value}', false)" for name, value in settings.items())
        self._connection.ask_row(f"SELECT {made}".encode(), columns=len(settings), deadline=self._deadline())
        read = ", ".join(f"pg_catalog.current_setting('{name}')" for name in settings)
        values = self._connection.ask_row(f"SELECT {read}".encode(), columns=len(settings), deadline=self._deadline())
        for (name, wanted), value in zip(settings.items(), values, strict=True):
            # Over a Unix socket, and where the system does not know them, those of TCP stay 0.
            if _plain(value) != wanted and not (name.startswith("tcp_") and value == "0"):
                raise LockerConfigurationError(
                    f"the setting {name} is {value!r} after it was set to {wanted!r}, so the server would not keep the "
                    "lease: connect to PostgreSQL directly, or through a pooler that lets settings pass"
                )

    def _checked_facts(self) -> int:
        """Refuse a server whose locks are worth nothing now; return how many locks its lock table is made for."""
        facts = self._connection.ask_row(_FACTS, columns=4, deadline=self._deadline())
        in_recovery, read_only, locks, connections = facts
        if self._connection.began_on_a_standby and in_recovery == "f":
            raise DatabaseUnavailableError("the server was promoted after the session was opened: a new one is needed")
        if in_recovery == "t":  # it gives the ids that its primary gives too, and its sessions survive promotion
            raise DatabaseUnavailableError("the server is a standby: waiting for a primary, or for its promotion")
        if read_only == "on":
            raise DatabaseUnavailableError("the session is read-only: waiting for a server that takes writes")
        return int(locks) * int(connections)


def _shown(lock_ids: Sequence[int]) -> str:
    shown = ", ".join(map(str, lock_ids[:3]))
    return f"{shown}, ..." if len(lock_ids) > 3 else shown


def _plain(value: str) -> str:
    """Take the unit off a duration that PostgreSQL shows: ``15s`` is ``15000``."""
    shown = re.fullmatch(r"(\d+)(ms|s|min|h|d)", value)
    return value if shown is None else str(int(shown[1]) * _MILLISECONDS[shown[2]])
