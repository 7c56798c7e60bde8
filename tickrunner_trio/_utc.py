"""Trio's clock read as UTC, so that reports under a virtual clock show virtual hours."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import trio

from ._surroundings import simulated

if TYPE_CHECKING:
    from trio.abc import Clock

#: The offset of a clock that is not the real one, taken once in a Trio run: all services of the run share it.
_virtual_offset: trio.lowlevel.RunVar[float] = trio.lowlevel.RunVar("tickrunner_trio.utc_offset")


def utc_offset(clock: Clock) -> float:
    """Return the seconds to add to the time of the Trio run's clock to get Unix time.

    On the real clock it is taken afresh at each call, so that a clock that was set or a machine that was suspended
    shows in the next tick; on any other clock it is taken once in a Trio run, so that only virtual time passes. A
    simulated replica has a clock of its own on the wall.
    """
    surroundings = simulated.get()
    if surroundings is not None:
        return surroundings.utc_offset()
    # Trio exports no name for its default clock.
    if type(clock).__name__ == "SystemClock":
        return time.time() - clock.current_time()
    try:
        return _virtual_offset.get()
    except LookupError:
        offset = time.time() - clock.current_time()
        _virtual_offset.set(offset)
        return offset


def utc_at(trio_time: float, offset: float) -> datetime:
    """Return Trio's ``trio_time`` as an aware datetime in UTC, given the `utc_offset`."""
    return datetime.fromtimestamp(trio_time + offset, UTC)
