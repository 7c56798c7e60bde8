"""The strategy for what goes wrong in a simulated cluster. A failing plan shrinks to few, early, short, on r1."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from ._faults import (
    KINDS,
    ClockOffset,
    DatabaseAway,
    Drain,
    DropSession,
    Freeze,
    Kill,
    Partition,
    Start,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from hypothesis.strategies import SearchStrategy

    from ._faults import Fault

_LARGEST_OFFSET = 86_400


def fault_plans(
    *,
    replicas: int = 3,
    until: float = 3600.0,
    most: int = 5,
    longest: float = 120.0,
    kinds: Collection[type[Fault]] = KINDS,
    may_kill_all: bool = False,
) -> SearchStrategy[list[Fault]]:
    """Generate the ``faults`` of a `Cluster`: lists in order of time, at whole or tenth seconds.

    Args:
        replicas: as of the cluster.
        until: all begin before so many seconds.
        most: so many at most.
        longest: those that last do so for this many seconds at most; 1 or more.
        kinds: which there may be; all, unless told otherwise.
        may_kill_all: whether there may be a time in which no replica is left.

    Raises:
        ValueError: one of the numbers is out of its bounds, or ``kinds`` is empty.
    """
    if replicas < 1 or until < 1 or most < 0 or longest < 1 or not kinds:
        raise ValueError(
            "fault_plans needs a replica, a second of time, a fault that lasts a second, and a kind of fault, got "
            f"{replicas=}, {until=}, {most=}, {longest=}, {kinds=}: raise what is too small"
        )
    names = [f"r{number}" for number in range(1, replicas + 1)]
    faults = st.one_of([_of_kind(kind, names, until, longest) for kind in KINDS if kind in kinds])
    return st.lists(faults, max_size=most).map(lambda plan: _possible(plan, names, may_kill_all=may_kill_all))


def _of_kind(kind: type[Fault], names: list[str], until: float, longest: float) -> SearchStrategy[Fault]:
    at = _seconds(0, until - 0.1)
    lasting = _seconds(1, longest)
    replica = st.sampled_from(names)
    if kind is DatabaseAway:
        return st.builds(DatabaseAway, at=at, seconds=lasting)
    if kind is Freeze or kind is Partition:
        return st.builds(kind, replica, at=at, seconds=lasting)
    if kind is ClockOffset:
        return st.builds(kind, replica, at=at, seconds=st.integers(-_LARGEST_OFFSET, _LARGEST_OFFSET))
    return st.builds(kind, replica, at=at)


def _seconds(least: float, most: float) -> SearchStrategy[float]:
    whole = st.integers(math.ceil(least), math.floor(most))
    tenths = st.integers(math.ceil(least * 10), math.floor(most * 10)).map(lambda tenths: tenths / 10)
    return whole | tenths


def _possible(plan: Sequence[Fault], names: list[str], *, may_kill_all: bool) -> list[Fault]:
    """Leave out what cannot be: to start a replica that is there, and to take away the last one."""
    there = set(names)
    kept: list[Fault] = []
    for fault in sorted(plan, key=lambda fault: fault.at):
        match fault:
            case Start() if fault.replica in there:
                continue
            case Start():
                there.add(fault.replica)
            case Kill() | Drain() if there == {fault.replica} and not may_kill_all:
                continue
            case Kill() | Drain():
                there.discard(fault.replica)
            case DropSession() | _:
                pass
        kept.append(fault)
    return kept
