"""The arithmetic of the lease: how often to beat, how long to wait, when to cancel, what is left to stop in. Pure.

The server ends a session that it has not heard from for the lease, and so frees its locks. On this side::

    c            c+H            c+H+W     c+L                      c+S
    |-------------|---------------|--------|------------------------|----> seconds
    sent, and     the next beat   its      the work                 the server
    answered      is sent         reply    is cancelled             frees the locks
    later on                      is late  |<--------- G ---------->|

c is the time just before the *sending* of the last round trip that was *answered*: the server heard from us at c or
later. H is the beat, W the wait for its reply, L the cancel point, G what a tick gets for stopping, S the lease, and
rho how much faster the server's clock may run. Two inequalities make it safe: ``H + W <= L``, so that a server that
answers keeps the work going, and ``L + G <= S * (1 - rho)``, so that the work has stopped before a rival is let in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

SHORTEST = 2.0
LONGEST = 3600.0

_TRANSACTION_TIMEOUT = 170000  # the first server that knows it

DRIFT = 0.001
"""By how much the two clocks may differ in speed: two that NTP slews at its limit, 500 ppm, in opposite directions.

A server whose clock is *set* forward ends idle sessions too early, since its timers follow the time of day. That end
shows at once, as any other; it matters only where the network is cut at the same time.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTiming:
    """What follows from the one knob, ``lease``; all in seconds."""

    lease: float
    """After so long without a word from us the server ends the session and frees its locks."""
    beat: float
    """After so long without a statement one is sent: a fifth of the lease."""
    reply: float
    """So long a statement may take to be answered, or the session is given up: a third of the lease."""
    cancel_after: float
    """So long after the sending of the last answered statement the work is cancelled: just below two thirds."""
    cleanup: float
    """So long the work then has to stop before the server may let a rival in: a third of the lease."""


def lease_timing(lease: float) -> LeaseTiming:
    """Derive everything from the lease, in seconds.

    Raises:
        TypeError: it is not a number.
        ValueError: it is not between 2 and 3,600.
    """
    if isinstance(lease, bool) or not isinstance(lease, int | float):
        raise TypeError(f"lease must be a number of seconds, got {lease!r}: write it as lease=15.0")
    if not SHORTEST <= lease <= LONGEST:  # refuses nan too
        raise ValueError(
            f"lease must be from {SHORTEST:g} to {LONGEST:g} seconds, got {lease!r}: a shorter one would end with each "
            "hiccup of the network, a longer one would keep the locks of a vanished process for too long"
        )
    seconds = float(lease)
    cleanup = seconds / 3
    return LeaseTiming(
        lease=seconds,
        beat=seconds / 5,
        reply=seconds / 3,
        cancel_after=seconds * (1 - DRIFT) - cleanup,
        cleanup=cleanup,
    )


def server_settings(timing: LeaseTiming, *, server_version: int) -> dict[str, str]:
    """Return the settings of the session that make the server keep its side, by name.

    A statement comes in several messages, of which a network may deliver the first ones only. A server that waits for
    the last one is in a transaction, so not idle, and no longer in a statement: that has a timeout from PostgreSQL 17
    on. Before, only TCP notices, which a proxy in between keeps up for as long as it likes.

    The settings of TCP stay a second above the lease, so that neither they nor a role's defaults shorten it; they free
    the locks where the server's own words to us get lost. Over a Unix socket they do nothing.
    """
    beyond = timing.lease + 1.0
    lease = str(math.ceil(timing.lease * 1000))  # milliseconds
    return {
        "idle_session_timeout": lease,
        **({"transaction_timeout": lease} if server_version >= _TRANSACTION_TIMEOUT else {}),
        "statement_timeout": str(math.floor(timing.reply * 1000)),
        "lock_timeout": "0",
        "default_transaction_isolation": "read committed",
        "synchronous_commit": "local",  # a commit that waits for an absent standby would keep the session busy
        "tcp_user_timeout": str(math.ceil(beyond * 1000)),
        # The first probe after half of it, then three more, which the other half is for.
        "tcp_keepalives_idle": str(math.ceil(beyond / 2)),
        "tcp_keepalives_interval": str(math.ceil(beyond / 6)),
        "tcp_keepalives_count": "3",
    }
