"""Who is to be told what operators do to the services of a ledger, and when to look at these.

Callers register in Trio's thread what they watch; the session's thread reads the names, and what the rows said goes
back to Trio's thread. It must not know how anybody looks.
"""

from __future__ import annotations

import logging
import math
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from .._audit import log_safely
from ._ledger_schema import escaped

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from ._timing import LeaseTiming

_log = logging.getLogger("tickrunner_trio.lockers.postgres")

#: Seconds from look to look at the watched services: a trigger is run within five.
LOOK_SECONDS = 4.0


class Seen(NamedTuple):
    """What somebody has done to a service."""

    service: str
    is_triggered: bool
    is_paused: bool


class LedgerWatch:
    """Those of one locker. See the module.

    Args:
        timing: of the lease.
    """

    def __init__(self, timing: LeaseTiming) -> None:
        self._every = min(timing.beat, LOOK_SECONDS)
        self._looked_at = -math.inf
        self._mutex = threading.Lock()  # guards what follows
        self._wakes: dict[str, list[Callable[[], object]]] = {}
        self._paused = set[str]()

    # For callers, in Trio's thread.

    @contextmanager
    def watching(self, service: str, wake: Callable[[], object]) -> Generator[None]:
        """See `abc.LedgerLocker.watching`."""
        service = escaped(service)  # as its row has it
        with self._mutex:
            self._wakes.setdefault(service, []).append(wake)
        try:
            yield
        finally:
            with self._mutex:
                self._wakes[service].remove(wake)
                if not self._wakes[service]:
                    del self._wakes[service]

    def found_paused(self, service: str) -> None:
        """A tick found it paused: whoever watches is woken when it is so no more."""
        with self._mutex:
            self._paused.add(escaped(service))

    # For the session's thread.

    def look_at(self) -> float:
        """Return when the watched services are to be looked at; inf: there are none."""
        return self._looked_at + self._every if self._wakes else math.inf

    def watched(self, now: float) -> Sequence[str] | None:
        """Return whom to look at now, if anybody."""
        if now < self.look_at():
            return None
        self._looked_at = now
        with self._mutex:
            return tuple(self._wakes)

    def woken_by(self, seen: Sequence[Seen]) -> list[Callable[[], object]]:
        """Take what was seen; return what is to be called in Trio's thread."""
        with self._mutex:
            paused = {each.service for each in seen if each.is_paused}
            resumed = self._paused - paused
            woken = resumed | {each.service for each in seen if each.is_triggered and not each.is_paused}
            self._paused = paused
            return [_safely(wake) for service in sorted(woken) for wake in self._wakes.get(service, ())]


def _safely(wake: Callable[[], object]) -> Callable[[], object]:
    def call() -> None:
        try:
            wake()
        except Exception as error:
            log_safely(_log, logging.ERROR, "what was to wake a service raised", exc_info=error)

    return call
