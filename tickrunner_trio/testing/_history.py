"""A history: what came of the ticks of one service, one after the other. Values only, and an error that is awkward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from datetime import datetime

    from .._outcome import Outcome


class _Printer(Protocol):
    def text(self, obj: str) -> object: ...


@dataclass(frozen=True, slots=True, repr=False)
class Judged:
    """One tick of a history: the arguments of `tickrunner_trio.WorkerHealth.after`, in its order."""

    outcome: Outcome
    at: datetime  #: When it was judged. Aware.
    error: BaseException | None = None  #: What an outcome whose result is ``error`` is put down to.

    def __repr__(self) -> str:
        error = "" if self.error is None else f", {self.error!r}"
        return f"Judged({self.outcome!r}, {self.at!r}{error})"

    # Hypothesis asks for this, and would else write a field a line: a history fills the screen soon enough.
    def _repr_pretty_(self, printer: _Printer, cycle: bool) -> None:  # noqa: ARG002, FBT001 - IPython's protocol
        printer.text(repr(self))


class TextlessError(Exception):
    """An error whose text cannot be had: ``str`` of it raises, as of some that are made in a hurry."""

    def __str__(self) -> str:
        raise ValueError("the text of this error cannot be made")
