"""One lock of one caller: what the work under it sees, and who waits for it. `_lock_book` draws its states."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import outcome
import trio

if TYPE_CHECKING:
    from ._lock_book import LockBook


class LeaseState(enum.Enum):
    FREE = enum.auto()
    WANTED = enum.auto()
    ASKED = enum.auto()
    HELD = enum.auto()
    LEAVING = enum.auto()
    LOST = enum.auto()


class PostgresLease:
    """A lock that is asked for, held or lost. `lost` and `let_go_after` may be called from any thread."""

    __slots__ = ("_book", "abandoned", "lock_id", "marked_lost", "own_end", "scope", "state", "waiting_task")

    def __init__(self, book: LockBook, lock_id: int) -> None:
        self._book = book
        self.lock_id = lock_id
        self.scope = trio.CancelScope()  #: Around the work; cancelled in Trio's thread after the loss.
        self.waiting_task: trio.lowlevel.Task | None = None  #: Who waits for an answer; Trio's thread alone uses it.
        # The book's, under its mutex:
        self.state = LeaseState.FREE
        self.abandoned = False  #: The caller was cancelled while the server was asked.
        self.own_end = False  #: Its hold ended by itself, in the thread.
        self.marked_lost: str | None = None  #: Why its session was lost.

    @property
    def epoch(self) -> int | None:
        """Advisory locks have no fencing token of their own."""
        return None

    @property
    def lost(self) -> bool:
        """Whether the lock is gone, also when nobody has told the Trio loop yet."""
        return self._book.is_gone(self)

    @property
    def loss(self) -> str | None:
        """Why it was lost; None also when a hold ended by itself."""
        return self._book.loss_of(self)

    def let_go_after(self, seconds: float) -> bool:
        """Have the lock let go of in so many seconds, even while the Trio loop is blocked. See `abc.TimedLease`."""
        return self._book.let_go_after(self, seconds)

    def answer(self, answer: bool | Exception) -> None:  # noqa: FBT001  # what the server said
        """Let whoever waits go on; in Trio's thread. Nobody waits any more: nothing happens."""
        task, self.waiting_task = self.waiting_task, None
        if task is not None:
            answered = outcome.Error(answer) if isinstance(answer, Exception) else outcome.Value(answer)
            trio.lowlevel.reschedule(task, answered)
