"""A promise: one sentence, and the function that puts a locker to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ._trial import Trial


@dataclass(frozen=True, slots=True)
class Promise:
    sentence: str
    check: Callable[[Trial], Awaitable[None]]  #: Raises `UnkeptError`.
    needs_loss: bool = False


def promise(sentence: str, *, needs_loss: bool = False) -> Callable[[Callable[[Trial], Awaitable[None]]], Promise]:
    """Make a promise of the function that checks it."""
    return lambda check: Promise(sentence, check, needs_loss)
