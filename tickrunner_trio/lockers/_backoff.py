"""How long to wait before the next attempt to connect: ever longer, and never all replicas for the same time. Pure.

Of n failures in a row the last is followed by a wait of 0.1 s x 2**(n - 1), ten seconds at most, or of any time down to
half of that. A session that has lived for long ends the row; one that has not is a failure itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_SECONDS = 0.1
LONGEST_SECONDS = 10.0

_ENOUGH = 10  # doublings; a float would overflow at the thousandth or so


class Backoff:
    """Of one who connects.

    Args:
        uniform: `random.uniform`, or one that can be repeated.
    """

    def __init__(self, uniform: Callable[[float, float], float]) -> None:
        self._uniform = uniform
        self._failures = 0

    def next_seconds(self) -> float:
        """Count a failure; return how long to wait after it."""
        longest = min(FIRST_SECONDS * 2.0**self._failures, LONGEST_SECONDS)
        self._failures = min(self._failures + 1, _ENOUGH)
        return self._uniform(longest / 2, longest)

    def session_lived(self, seconds: float) -> None:
        """Begin anew, if that was long enough."""
        if seconds > LONGEST_SECONDS:
            self._failures = 0
