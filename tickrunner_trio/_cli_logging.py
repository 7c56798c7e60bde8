"""How the command line writes log records: a line to read, or one JSON object a line for machines.

Only here is logging ever configured: the library leaves that to the program, and this is the program. Either format
shows what the caller gave as ``extra``, and the component and request id that `TickContextFilter` puts on every record.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from . import TickContextFilter

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What every record has by itself; all other attributes came in through ``extra``.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure_logging(log_format: Literal["text", "json"], level: str) -> None:
    """Send the records of all loggers from ``level`` on to stdout, in the given format."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    handler.addFilter(TickContextFilter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _extra(record: logging.LogRecord) -> Iterator[tuple[str, object]]:
    return ((key, value) for key, value in vars(record).items() if key not in _STANDARD)


class TextFormatter(logging.Formatter):
    """``time level component message key=value ...``, and the traceback below it.

    The request id comes last, in brackets, and only its first 8 digits: enough to find the lines of one tick.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        extra = dict(_extra(record))
        component = extra.pop("component", None) or record.name
        request_id = extra.pop("request_id", None)
        words = [_time(record), f"{record.levelname:<8}", f"{component}:", record.message]
        words += (f"{key}={_readable(value)}" for key, value in extra.items() if value is not None)
        words += [f"[{str(request_id)[:8]}]"] if request_id else []
        return " ".join(words)

    def usesTime(self) -> bool:
        return False


class JsonFormatter(logging.Formatter):
    """One JSON object a line: timestamp, level, logger, message, component, request_id, each ``extra``, exception.

    It is valid JSON whatever the values are: those that JSON cannot express are given as their ``repr``. An ``extra``
    that goes by a name of ours is kept as ``extra_<name>``.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "timestamp": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "component": None,
            "request_id": None,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        for key, value in _extra(record):
            taken = key in line and key not in ("component", "request_id")
            line[f"extra_{key}" if taken else key] = value
        return "{" + ", ".join(f"{json.dumps(key)}: {_json_of(value)}" for key, value in line.items()) + "}"


def _readable(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _json_of(value: object) -> str:
    try:
        return json.dumps(value, default=repr, allow_nan=False)
    except (TypeError, ValueError, RecursionError):  # keys that are no strings, nan and inf, circles
        return json.dumps(repr(value))
