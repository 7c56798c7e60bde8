"""Until when the locks of a session may be relied upon: worked out from the last statement that was answered. Pure.

::

    c                          c + cancel_after           c + lease
    |-------------|------------------|------------------------|----> seconds
    that one      the next one       from here on they        the server has ended the session, if it lives and
    is sent       is sent            are lost                 hears nothing more
                  |--- reply ---|    (or here, if that is earlier: its answer is too late)

`_timing` says why that is safe. It must not know what is locked, nor who looks; who writes it sees to it that nobody
else does at the same time.

Invariants:

1. Once anybody has seen that it has passed, it is over until something is answered in a later session: whatever the
   clock says, no answer that is still on its way takes it back.
2. When it has passed is known to the moment, however late anybody looked.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._timing import LeaseTiming


class Deadline:
    """One for all locks of a session. Times are seconds of one clock, which goes on during suspend.

    Args:
        timing: of the lease.
    """

    __slots__ = ("_answered_at", "_timing", "at", "passed_at")

    def __init__(self, timing: LeaseTiming) -> None:
        self._timing = timing
        self._answered_at = -math.inf
        self.at = -math.inf  #: -inf: there is no session, or somebody has seen that it has passed.
        self.passed_at = -math.inf  #: When it last did so by itself.

    def put_off(self, sent_at: float) -> None:
        """What was sent then has been answered."""
        self._answered_at = sent_at
        self.at = sent_at + self._timing.cancel_after

    def end(self) -> None:
        """The session is lost: there is nothing to rely upon."""
        self.at = -math.inf

    def has_passed(self, now: float) -> bool:
        """Whether what was held until now is lost; if so, this is remembered."""
        if now < self.at:
            return False
        self.passed_at = max(self.passed_at, self.at)
        self.at = -math.inf
        return True

    def seconds_left(self, now: float) -> float:
        """Return how long the locks may be relied upon if nothing more is answered; 0 once they may not."""
        return max(0.0, self.at - now)

    def reply_by(self, sent_at: float) -> float:
        """Return until when a statement that is sent then must be answered; also when it was sent late."""
        return min(sent_at + self._timing.reply, self.at)

    def server_ends_at(self) -> float:
        """Return when the server will have ended the session by itself, if it lives and hears nothing more."""
        return self._answered_at + self._timing.lease
