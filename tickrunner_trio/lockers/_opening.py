"""How the session of a locker is opened: what is loaded for it, and what is made before the first one.

It must not know when one is needed, nor what it is for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._driver import driver_needed
from ._ledger_setup import init_ledger

if TYPE_CHECKING:
    from ._connection import Wait
    from ._ledger_watch import LedgerWatch
    from ._session import Session
    from ._timing import LeaseTiming


class SessionOpener:
    """Opens the sessions of one locker, one after the other.

    Args:
        conninfo: the user's connection string.
        timing: of the lease.
        schema: of the ledger, unquoted; None: the locker keeps none.
        watch: who watches services of the ledger.
    """

    def __init__(self, conninfo: str, timing: LeaseTiming, *, schema: str | None, watch: LedgerWatch) -> None:
        self._conninfo = conninfo
        self._timing = timing
        self._schema = schema
        self._watch = watch
        self._ledger_is_there = False

    def open(self, wait: Wait) -> Session:
        """Open one; before the first one with a ledger, see that this is there, or make it.

        Raises:
            DatabaseUnavailableError: there is no server that takes us now and may give locks.
            LockerConfigurationError: there will be none, unless somebody changes something.
        """
        with driver_needed():
            from ._session import Session  # noqa: PLC0415  # loads psycopg
        if self._schema is None:
            return Session(self._conninfo, self._timing, wait)
        from ._ledger_session import LedgerSession  # noqa: PLC0415  # as above

        if not self._ledger_is_there:
            init_ledger(self._conninfo, self._schema)
            self._ledger_is_there = True
        return LedgerSession(self._conninfo, self._timing, wait, self._schema, self._watch)
