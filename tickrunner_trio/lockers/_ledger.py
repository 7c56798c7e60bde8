"""The Trio face of the ledger's operations: each in a worker thread, on a connection of its own."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from ._ledger_rows import add_service, pause, read_runs, read_services, resume, trigger
from ._ledger_schema import DEFAULT_SCHEMA, checked_role, checked_schema, creation, grants, removal
from ._ledger_setup import drop_ledger, init_ledger, ledger_problems, missing_statements
from ._short import checked_conninfo

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._cluster_health import ClusterHealth, PastRun

_T = TypeVar("_T")


class PostgresLedger:
    """The ledger of a database, for those who operate it: ``tickrunner status``, ``pause`` and the like use it.

    ::

        ledger = PostgresLedger("postgresql://ops@db.example/app")
        await ledger.pause("rebalance", reason="disk is being replaced", by="ada")

    It is a name and no connection: each call opens one, does one short transaction, and closes it. It may be used from
    several tasks, and goes through a pooler in any mode. No call waits for a synchronous standby, nor longer than
    2 seconds for the lock of a row.

    Args:
        conninfo: as that of `PostgresLocker`.
        schema: where the ledger's tables are: 1 to 63 printable ASCII characters; it is quoted.

    Raises:
        TypeError: ``conninfo`` or ``schema`` is not a str.
        ValueError: ``conninfo`` holds a NUL, or ``schema`` is no name for a schema.

    All of its methods raise `DatabaseUnavailableError` where the server cannot do it now, and
    `LockerConfigurationError` where it will not, with the remedy: there is no ledger, or the role lacks a privilege.

    Cancellation handling: they return at once. The worker thread goes on, some ten seconds at most, and the change that
    it was asked for may come about.
    """

    def __init__(self, conninfo: str, schema: str = DEFAULT_SCHEMA) -> None:
        self._conninfo = checked_conninfo(conninfo)
        self._schema = checked_schema(schema, "schema")

    @property
    def schema(self) -> str:
        """The schema of its tables, unquoted."""
        return self._schema

    def statements(self, *, role: str | None = None) -> tuple[str, ...]:
        """Return the SQL that makes a ledger where there is none, and grants a role what a locker and operators need.

        Args:
            role: which; None: the one that runs the statements.

        Raises:
            TypeError: ``role`` is not a str.
            ValueError: it is empty, longer than 63 characters, or not printable ASCII.
        """
        return (*creation(self._schema), *self.grants(role=role))

    def grants(self, *, role: str | None = None) -> tuple[str, ...]:
        """Return the part of `statements` that grants. It raises as that does."""
        return tuple(grants(self._schema, None if role is None else checked_role(role)))

    def removal(self) -> tuple[str, ...]:
        """Return the SQL that drops the ledger, which fails where something else is in its schema."""
        return tuple(removal(self._schema))

    async def missing(self) -> tuple[str, ...]:
        """Return the SQL that `init` would run now, without grants; nothing where nothing is missing."""
        return await self._in_thread(missing_statements)

    async def init(self, *, role: str | None = None) -> bool:
        """Make what is missing of the ledger: the schema, its tables, or columns that a newer release has added.

        Several at once all succeed. Where nothing is missing, the role needs no privilege for it. Running lockers are
        held up by 0.1 seconds at most, and only if a column is added.

        Args:
            role: is granted what it needs to use the ledger; None: nobody is.

        Returns:
            Whether anything was missing.

        Raises:
            LockerConfigurationError: also where a table has the name of one of ours, and is none: it stays as it is.
            TypeError: ``role`` is not a str.
            ValueError: it is empty, longer than 63 characters, or not printable ASCII.
        """
        return await self._in_thread(partial(init_ledger, role=None if role is None else checked_role(role)))

    async def check(self) -> tuple[str, ...]:
        """Return what is wrong with the ledger for this role, each with its remedy; nothing if all is well."""
        return await self._in_thread(ledger_problems)

    async def drop(self) -> bool:
        """Drop the ledger's tables, and the schema if nothing else is in it; return whether there was any of them.

        A table that only has the name of one of ours is not dropped, which is a `LockerConfigurationError`, nor is the
        schema ``public``.

        With them go the epochs: the next ones begin anew, below those that were given out. What compares epochs has to
        forget its own.
        """
        return await self._in_thread(drop_ledger)

    async def cluster_health(self) -> tuple[ClusterHealth, ...]:
        """Return the health of all services over all replicas, by name: of those that were ever asked to run."""
        return await self._in_thread(read_services)

    async def history(self, name: str) -> tuple[PastRun, ...]:
        """Return the last 100 runs of a service over all replicas that are over, the newest first.

        Raises:
            ValueError: the ledger does not know the service.
        """
        return await self._in_thread(read_runs, name)

    async def pause(self, name: str, *, reason: str, by: str) -> ClusterHealth:
        """Let no replica begin a run of the service until it is resumed; return its row.

        A run that is under way ends as it will. Ticks are GATED meanwhile, those that somebody forces too. It is kept
        in the row, over deploys and restarts. Paused again, ``reason`` and ``by`` are replaced.

        Args:
            name: of the service.
            reason: for those who find it paused.
            by: who paused it.

        Raises:
            TypeError: one of them is not a str.
            ValueError: the ledger does not know the service.
        """
        return await self._in_thread(partial(pause, reason=_checked("reason", reason), by=_checked("by", by)), name)

    async def resume(self, name: str) -> ClusterHealth:
        """Let the service run again, within 5 seconds if it is due; return its row.

        Of one that is not paused, nothing changes.

        Raises:
            ValueError: the ledger does not know the service.
        """
        return await self._in_thread(resume, name)

    async def trigger(self, name: str, *, by: str = "") -> ClusterHealth:
        """Have the next free replica run the service, due or not; return its row.

        The replicas look for it every few seconds, and the run begins within 5 seconds if one of them is free. It
        counts as the interval's run. While the service is paused it waits. Triggered again before a run has begun, it
        is one run; triggered while one is under way, another one follows. A run that dies is begun again.

        Raises:
            TypeError: ``by`` is not a str.
            ValueError: the ledger does not know the service.
        """
        return await self._in_thread(partial(trigger, by=_checked("by", by)), name)

    async def add(self, name: str, *, lock_id: int, interval: float) -> None:
        """Make the service known to the ledger before its first tick; one that it knows stays as it is."""
        await self._in_thread(partial(add_service, lock_id=lock_id, interval=interval), name)

    def __repr__(self) -> str:
        return f"<PostgresLedger {self._schema!r}>"  # no conninfo, which may hold a password

    async def _in_thread(self, function: Callable[..., _T], *arguments: str) -> _T:
        call = partial(function, self._conninfo, self._schema, *(_checked("name", each) for each in arguments))
        return await trio.to_thread.run_sync(call, abandon_on_cancel=True)


def _checked(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{field} must be a str, got {value!r}: write one")
    return value
