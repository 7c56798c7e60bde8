"""Whether the session's thread has to be woken, by whom, and how soon. How it sleeps and is woken is `_sleeper`.

::

      somebody has something for it, and few came at once lately
    ASLEEP ------------------------------------------------> AWAKE
      |  ^                                                   ^  |
      |  '------------ it looked, and found nothing ---------|--'
      | many did                                             |
      '----------> WOKEN_SOON -------------------------------'
                              it looks, or a hold is to end before it would look by itself

Of many who come at once all go in one statement if the thread is woken when Trio has run whatever is ready, and not by
the first of them. It must not know what there is to do.

Invariants, where whoever changes what the thread looks at asks under the mutex under which that looks:

1. The thread sleeps only after it has looked and found nothing. What comes later wakes it, or is for a time at which
   it looks by itself.
2. Of all who find it asleep, one wakes it.
"""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:

    class Rouse(Protocol):
        def __call__(self, *, at_once: bool) -> None: ...


# For 100 tasks, waiting for each other before the thread is woken gave half as many pairs again; a task that is alone
# would wait for nothing.
_COMPANY = 8


class _Thread(enum.Enum):
    ASLEEP = enum.auto()
    WOKEN_SOON = enum.auto()  # it sleeps, and Trio wakes it when it has run whatever is ready
    AWAKE = enum.auto()  # or as good as: it will look before it sleeps


class Waker:
    """See the module. All but `wake` is for those who have the mutex.

    Args:
        rouse: wakes the thread. ``at_once``: it must not wait until Trio has run whatever is ready.
    """

    __slots__ = ("_is_alone", "_rouse", "_thread_is", "looks_at")

    def __init__(self, rouse: Rouse) -> None:
        self._rouse = rouse
        self._thread_is = _Thread.ASLEEP
        self._is_alone = True  # few came at once lately, so there is nobody to wait for
        self.looks_at = math.inf  #: When the thread, which sleeps, looks by itself, at the latest.

    # For whoever has something for the thread.

    def is_needed(self) -> bool:
        """Whether the thread sleeps and nobody has woken it yet; who asks does it, without the mutex."""
        if self._thread_is is not _Thread.ASLEEP:
            return False
        self._thread_is = _Thread.AWAKE if self._is_alone else _Thread.WOKEN_SOON
        return True

    def is_needed_by(self, at: float) -> bool:
        """Whether the thread might sleep beyond then; who asks wakes it at once, without the mutex."""
        if self._thread_is is _Thread.AWAKE or at >= self.looks_at:
            return False
        self._thread_is = _Thread.AWAKE
        return True

    def wake(self, *, at_once: bool = False) -> None:
        """Do what one of these said."""
        self._rouse(at_once=at_once or self._is_alone)

    # For the thread.

    def looked(self, found: int) -> None:
        """It has looked, and found so many locks that something is to be asked about; without one it sleeps."""
        if not found:
            self._thread_is = _Thread.ASLEEP
            return
        self._thread_is = _Thread.AWAKE
        self._is_alone = found < _COMPANY

    def sleeps(self) -> None:
        """It is about to sleep, whatever there is."""
        self._thread_is = _Thread.ASLEEP
