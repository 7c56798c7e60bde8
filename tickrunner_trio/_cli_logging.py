"""How the command line writes log records: a line to read, or one JSON object a line for machines.

Only here is logging ever configured: the library leaves that to the program, and this is the program. Either format
shows what the caller gave as ``extra``, and the component and the ids that `TickContextFilter` puts on every record.

The services' work is worth more than its log. No record is lost because of what it holds: a placeholder stands for a
value that cannot be shown. If stdout takes no more, that is said once on stderr, and the lines are dropped.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, TextIO

from . import TickContextFilter
from ._cli_text import printable, safely

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What every record has by itself; all other attributes came in through ``extra``.
STANDARD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure_logging(log_format: Literal["text", "json"], level: str) -> None:
    """Send the records of all loggers from ``level`` on to stdout, in the given format."""
    if (reconfigure := getattr(sys.stdout, "reconfigure", None)) is not None:
        reconfigure(errors="backslashreplace")  # A terminal's encoding may lack a letter.
    handler = _StdoutHandler(sys.stdout)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    handler.addFilter(TickContextFilter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def end_stdout() -> None:
    """Write out what is left for stdout. If that fails, drop it: Python would make an exit status of its own of it."""
    if sys.stdout is None or sys.stdout.closed:
        return
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


class _StdoutHandler(logging.StreamHandler[TextIO]):
    """Says once that its lines cannot be written, where others print a traceback for each."""

    _has_failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exception()
        if not (isinstance(error, OSError) or self.stream.closed):
            super().handleError(record)
        elif not self._has_failed:
            self._has_failed = True
            with contextlib.suppress(OSError):
                print(f"tickrunner: log lines are dropped, stdout takes no more: {error}", file=sys.stderr, flush=True)


def message_of(record: logging.LogRecord) -> str:
    """Return what a record says, also if its arguments do not fit its text, or cannot be shown."""
    try:
        return record.getMessage()
    except Exception:
        return f"{safely(str, record.msg)} {safely(repr, record.args)}"


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _extra(record: logging.LogRecord) -> Iterator[tuple[str, object]]:
    return ((key, value) for key, value in vars(record).items() if key not in STANDARD_ATTRIBUTES)


class TextFormatter(logging.Formatter):
    """``time level component message key=value ...``, and the traceback below it.

    Only a record begins a line: what follows a line break, in whatever text, is indented, so that the text of an error
    cannot pass itself off as a record of its own.

    The request id comes last, in brackets, and only its first 8 digits: enough to find the lines of one tick. The ids
    of trace and span are for machines, and left out.
    """

    def format(self, record: logging.LogRecord) -> str:
        extra = dict(_extra(record))
        component = extra.pop("component", None) or record.name
        request_id = extra.pop("request_id", None)
        for key in ("trace_id", "span_id"):
            extra.pop(key, None)
        words = [_time(record), f"{record.levelname:<8}", f"{component}:", message_of(record)]
        words += (f"{key}={safely(_readable, value)}" for key, value in extra.items() if value is not None)
        words += [f"[{str(request_id)[:8]}]"] if request_id else []
        lines = [" ".join(words)]
        if record.exc_info:
            lines.append(safely(self.formatException, record.exc_info))
        if record.stack_info:
            lines.append(self.formatStack(record.stack_info))
        return printable("\n".join(lines)).replace("\n", "\n  ")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: timestamp, level, logger, message, component, the ids, each ``extra``, exception.

    The ids are request_id, trace_id and span_id; null where there is no tick, or no span.

    It is valid JSON whatever the values are: those that JSON cannot express are given as their ``repr``. An ``extra``
    that goes by a name of ours is kept as ``extra_<name>``.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "timestamp": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message_of(record),
            "component": None,
            "request_id": None,
            "trace_id": None,
            "span_id": None,
        }
        if record.exc_info:
            line["exception"] = safely(self.formatException, record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        for key, value in _extra(record):
            taken = key in line and key not in ("component", "request_id", "trace_id", "span_id")
            line[f"extra_{key}" if taken else key] = value
        return "{" + ", ".join(f"{_json_of(key)}: {_json_of(value)}" for key, value in line.items()) + "}"


def _readable(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _json_of(value: object) -> str:
    import json  # noqa: PLC0415 - 1.5 ms, and the default is text

    try:
        return json.dumps(value, default=repr, allow_nan=False)
    except Exception:  # keys that are no strings, nan and inf, circles, a repr that fails
        return json.dumps(safely(repr, value))
