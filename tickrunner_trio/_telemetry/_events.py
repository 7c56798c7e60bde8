"""A word on the span under which this code runs: that of the tick, or one that its work has opened."""

from __future__ import annotations

from opentelemetry.trace import get_current_span

from ._guard import Guard
from ._names import STOPPED_AFTER, THREAD_STOPPED

_guard = Guard("work in a thread")


def thread_stopped(seconds: float) -> None:
    """Say on the current span that a thread has stopped, and how long that took from its cancellation."""
    try:
        get_current_span().add_event(THREAD_STOPPED, {STOPPED_AFTER: seconds})
    except Exception as error:  # a span may be anybody's
        _guard.failed("adding an event to a span", error)
