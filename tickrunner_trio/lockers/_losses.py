"""Why a session was lost: a small closed set, since each of these is a series of its own in somebody's metrics."""

from __future__ import annotations

from enum import StrEnum

#: What locks of a locker that has been left raise.
CLOSED = "this PostgresLocker is closed: make a new one"


class Loss(StrEnum):
    ENDED = "ended"  #: The server ended it, or the connection to it broke.
    TIMEOUT = "timeout"  #: A statement was not answered in time, or the lease was over before it was.
    STATEMENT = "statement"  #: The server did not do what a statement asked for.
    MISMATCH = "mismatch"  #: It was not the session that has the locks, or an unlock said so.
    BUG = "bug"  #: The thread died of a bug of ours.
