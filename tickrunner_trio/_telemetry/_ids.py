"""Under which span this code runs, as log records carry it."""

from __future__ import annotations

from opentelemetry.trace import INVALID_SPAN, format_span_id, format_trace_id, get_current_span


def trace_ids() -> tuple[str | None, str | None]:
    """Return the ids of the current trace and span in hexadecimal digits, 32 and 16; twice None outside of a span."""
    span = get_current_span()
    if span is INVALID_SPAN:
        return None, None
    try:
        context = span.get_span_context()
        return (
            (format_trace_id(context.trace_id), format_span_id(context.span_id)) if context.is_valid else (None, None)
        )
    except Exception:  # a span may be anybody's, and a log record is worth more than its ids
        return None, None
