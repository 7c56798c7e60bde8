"""What goes to the server at once, and what came of it.

The book makes the one and takes the other, a session says it. It must not know either of them.
"""

from __future__ import annotations

import dataclasses
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from ._lease import PostgresLease

    Answer: TypeAlias = tuple[PostgresLease, bool | Exception]  # who waits, and what it is told


_lock_id = attrgetter("lock_id")


@dataclasses.dataclass(slots=True)
class Batch:
    """The locks that one statement, or one pipeline, is about; and who is not asked for."""

    releases: list[PostgresLease]
    acquires: list[PostgresLease]
    refused: Sequence[Answer] = ()

    def __len__(self) -> int:
        return len(self.releases) + len(self.acquires)


class Done(NamedTuple):
    """What came of a batch."""

    granted: list[bool]  #: Of its acquires.
    unwritten: Collection[PostgresLease] = ()  #: Of its releases: the locks that are kept for their results.
    wakes: Sequence[Callable[[], object]] = ()  #: To be called in Trio's thread.


def lock_ids(leases: Iterable[PostgresLease]) -> list[int]:
    """Return the ids of their locks."""
    return list(map(_lock_id, leases))
