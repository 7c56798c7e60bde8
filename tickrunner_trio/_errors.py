"""The errors that cross the library's seams: four situations, told apart by what the reader can do about them.

==============================  =====================================================================
`LockLostError`                 The work was under way and the lock went away: the work was cancelled.
`DatabaseUnavailableError`      Nobody can tell now who holds the lock. Waiting mends it.
`LockerConfigurationError`      Waiting does not mend it: somebody has to change a setting.
`ServicePausedError`            Somebody has paused the service, in the ledger: it is to be resumed.
==============================  =====================================================================

The hierarchy is flat: none of the four is a kind of another, so that an ``except`` clause names one situation.
"""


class LockLostError(Exception):
    """The lock was lost while ``fn`` ran under it, and ``fn`` was cancelled for that reason.

    Another replica may run the same work from that moment on. Raised by `AdvisoryLocker.with_advisory_lock`
    after ``fn`` has stopped; a `Service` turns it into `Outcome.LOCK_LOST`.
    """


class DatabaseUnavailableError(Exception):
    """The database cannot be asked now, so nobody can tell who holds the lock; it may answer later.

    Raised by lockers when their server is away, starting up, a standby, or out of connections. The work of a service
    may raise it too, to say that its own database is away: the tick is then `Outcome.UNAVAILABLE`, which is no
    failure of the service.
    """


class LockerConfigurationError(Exception):
    """The locker cannot work as it is set up, and waiting will not mend that. The message says the remedy."""


class ServicePausedError(Exception):
    """Somebody has paused the service in the ledger, so its work did not run.

    No locker raises it: it is the ``error`` of a `TickReport` whose outcome is `Outcome.GATED` for that reason.

    Args:
        by: who paused it; "" if nobody said.
        reason: why; likewise.
    """

    def __init__(self, *, by: str, reason: str) -> None:
        super().__init__(f"the service is paused by {by or 'somebody'}: {reason or 'no reason was given'}")
        self.by = by  #: Who paused it.
        self.reason = reason  #: Why.
