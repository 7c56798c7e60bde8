"""Nothing that a provider raises reaches a tick: a processor, a sampler, a reader may be anybody's code."""

from __future__ import annotations

import logging

from .._audit import log_safely

_log = logging.getLogger("tickrunner_trio.telemetry")


class Guard:
    """Logs what went wrong with telemetry, each kind once: a broken exporter would say it at every tick.

    Args:
        of: whose telemetry it is.
    """

    __slots__ = ("_of", "_said")

    def __init__(self, of: str) -> None:
        self._of = of
        self._said: tuple[str, ...] = ()  # a set takes 216 bytes, and there are as many of these as services

    def failed(self, doing: str, error: Exception) -> None:
        """Log at WARNING that ``doing`` raised, unless that was said before."""
        if doing not in self._said:
            self._said += (doing,)
            log_safely(
                _log,
                logging.WARNING,
                "telemetry of %s: %s raised; the work goes on, and this is not said again",
                self._of,
                doing,
                exc_info=error,
            )
