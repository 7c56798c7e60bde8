"""The callables of a `Config` as values: each says in its ``repr`` what it does, and two that do the same are equal.

A function prints as ``<function work at 0x7f...>``, of which nobody can tell what it did in the failing example.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from .._outcome import Tick


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedWork:
    """Work, or a startup, that takes its time on Trio's clock and then returns or raises.

    Cancellation handling: a cancellation ends it at once, also when it takes no time.
    """

    seconds: float = 0.0  #: How long it takes: finite, at least 0.
    error: BaseException | None = None  #: What it raises then; None: it returns.

    async def __call__(self, tick: Tick) -> None:  # noqa: ARG002 - it does the same at each tick
        """Do as it says."""
        await trio.sleep(self.seconds)
        _raise(self.error)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedGate:
    """A ``should_run`` with one answer."""

    answer: bool = True
    error: BaseException | None = None  #: What it raises in place of the answer.

    def __call__(self) -> bool:
        """Do as it says."""
        _raise(self.error)
        return self.answer


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedHook:
    """An ``on_error`` that takes no notice, or raises itself."""

    error: BaseException | None = None

    def __call__(self, exc: BaseException) -> None:  # noqa: ARG002 - it takes no notice
        """Do as it says."""
        _raise(self.error)


def _raise(error: BaseException | None) -> None:
    if error is not None:
        # One exception for many ticks: each raise would put its frames on top of those of all the others.
        raise error.with_traceback(None)
