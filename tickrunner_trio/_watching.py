"""What a lease offers beside what every lease does: to end by itself, to be watched.

Whatever a lease does when it is watched, observers never break the work.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from ._audit import log_safely
from .abc import TimedLease, WatchedLease

if TYPE_CHECKING:
    from collections.abc import Callable

    from .abc import Lease

_log = logging.getLogger("tickrunner_trio.telemetry")


def watch(lease: Lease, tell: Callable[[], object]) -> None:
    """Have it told if the work overstays, where the lease can be watched."""
    if _is_of(type(lease), WatchedLease):
        try:
            cast("WatchedLease", lease).tell_if_overstayed(tell)
        except Exception as error:
            log_safely(_log, logging.ERROR, "the lease's tell_if_overstayed raised", exc_info=error)


def lost_for(lease: Lease) -> float:
    """Return for how many seconds it has been lost; 0 also if it cannot say, or will not."""
    if not _is_of(type(lease), WatchedLease):
        return 0.0
    try:
        return cast("WatchedLease", lease).lost_for()
    except Exception as error:
        log_safely(_log, logging.ERROR, "the lease's lost_for raised", exc_info=error)
        return 0.0


def timed_lease(lease: Lease) -> TimedLease | None:
    """Return the lease if it can end by itself."""
    timed: Any = lease  # a cast is a call, and this is asked at each tick
    return timed if _is_of(type(lease), TimedLease) else None


@lru_cache(maxsize=128)
def _is_of(kind: type, protocol: type) -> bool:
    return issubclass(kind, protocol)  # of an instance, Python 3.11 takes 8 us to tell, more than all telemetry
