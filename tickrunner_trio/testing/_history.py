"""A history: what came of the ticks of one service, one after the other. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from .._outcome import Outcome


@dataclass(frozen=True, slots=True)
class Judged:
    """One tick of a history: the arguments of `tickrunner_trio.WorkerHealth.after`, in its order."""

    outcome: Outcome
    at: datetime  #: When it was judged. Aware.
    error: BaseException | None = None  #: What an outcome whose result is ``error`` is put down to.
