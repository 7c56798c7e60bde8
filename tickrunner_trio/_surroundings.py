"""What a service takes from the world around it, and what a simulated replica gives it instead.

Outside of a simulation there is one world: the `random` module, the wall clock, and nobody who overhears. A simulation
puts many replicas into one process; each has its own chance, its own clock on the wall, and a record of its ticks. All
tasks of a replica find theirs through a context variable, which the tasks that they spawn inherit.
"""

from __future__ import annotations

import random
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._outcome import TickReport


class Surroundings(Protocol):
    """What surrounds a simulated replica. Nothing here raises or blocks."""

    def random_of(self, service: str) -> Callable[[], float]:
        """Return what draws the jitter and the holds of that service: numbers in [0, 1)."""
        ...

    def utc_offset(self) -> float:
        """Return the seconds to add to Trio's time to get Unix time, as this replica's clock on the wall says it."""
        ...

    def overhear(self, report: TickReport) -> None:
        """Be told of each tick, when it has been judged."""
        ...

    def drained(self, service: str) -> None:
        """Be told that the service is drained by something within the replica; perhaps not for the first time."""
        ...


#: None outside of a simulation.
simulated: ContextVar[Surroundings | None] = ContextVar("tickrunner_trio.surroundings", default=None)


def random_of(service: str) -> Callable[[], float]:
    """Return what draws the jitter and the holds of the service."""
    surroundings = simulated.get()
    return random.random if surroundings is None else surroundings.random_of(service)
