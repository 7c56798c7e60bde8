"""One lock of one caller: what the work under it sees, and who waits for it. `_lock_book` draws its states.

It must not know what its states mean to the server: all but who waits is the book's, under the book's mutex.
"""

from __future__ import annotations

import contextlib
import enum
import math
from typing import TYPE_CHECKING

import outcome
import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._lock_book import LockBook


class LeaseState(enum.Enum):
    FREE = enum.auto()
    WANTED = enum.auto()
    ASKED = enum.auto()
    HELD = enum.auto()
    LEAVING = enum.auto()
    LOST = enum.auto()


class PostgresLease:
    """A lock that is asked for, held or lost. `lost`, `lost_for`, `let_go_after` may be called from any thread."""

    __slots__ = (
        *("_tell_overstay", "abandoned", "book", "lock_id", "lost_at", "marked_lost", "own_end", "scope", "state"),
        "waiting_task",
    )

    def __init__(self, book: LockBook, lock_id: int) -> None:
        self.book = book
        self.lock_id = lock_id
        self.scope = trio.CancelScope()  #: Around the work; cancelled in Trio's thread after the loss.
        self.waiting_task: trio.lowlevel.Task | None = None  #: Who waits for an answer; Trio's thread alone uses it.
        self._tell_overstay: Callable[[], object] | None = None
        # The book's, under its mutex:
        self.state = LeaseState.FREE
        self.abandoned = False  #: The caller was cancelled while the server was asked.
        self.own_end = False  #: Its hold ended by itself, in the thread.
        self.marked_lost: str | None = None  #: Why its session was lost.
        self.lost_at = math.inf  #: When it was.

    @property
    def epoch(self) -> int | None:
        """Advisory locks have no fencing token of their own."""
        return None

    @property
    def lost(self) -> bool:
        """Whether the lock is gone, also when nobody has told the Trio loop yet."""
        return self.book.loss_of(self) is not None or self.own_end

    @property
    def loss(self) -> str | None:
        """Why it was lost; None also when a hold ended by itself."""
        return self.book.loss_of(self)

    def let_go_after(self, seconds: float) -> bool:
        """Have the lock let go of in so many seconds, even while the Trio loop is blocked. See `abc.TimedLease`."""
        return self.book.let_go_after(self, seconds)

    def lost_for(self) -> float:
        """Return for how many seconds it has been lost; 0 while it is not. See `abc.WatchedLease`."""
        return self.book.lost_for(self)

    def tell_if_overstayed(self, tell: Callable[[], object]) -> None:
        """Have it told if the work under the lock outlives its time to stop. See `abc.WatchedLease`."""
        self._tell_overstay = tell

    def overstays(self) -> None:
        """Tell whoever wanted to know. In the session's thread, which nothing that it calls may end."""
        if self._tell_overstay is not None:
            with contextlib.suppress(Exception):
                self._tell_overstay()

    def hurry(self) -> None:
        """Whoever waits for the release is cancelled. A release waits for nothing but its own answer."""

    def wait_cancelled(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        """Who waits for the lock goes on without it; to be passed to Trio."""
        self.waiting_task = None
        self.book.abandon(self)
        return trio.lowlevel.Abort.SUCCEEDED

    def release_cancelled(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        """Who waits for the release waits on; to be passed to Trio."""
        self.hurry()
        return trio.lowlevel.Abort.FAILED

    def answer(self, answer: bool | Exception) -> None:  # noqa: FBT001  # what the server said
        """Let whoever waits go on; in Trio's thread. Nobody waits any more: nothing happens."""
        task, self.waiting_task = self.waiting_task, None
        if task is not None:
            answered = outcome.Error(answer) if isinstance(answer, Exception) else outcome.Value(answer)
            trio.lowlevel.reschedule(task, answered)
