"""Who did this: the request id of the tick that is under way, and loggers whose records carry it and its trace.

The id lives in a context variable, which nurseries, ``trio.to_thread`` and ``asyncio.to_thread`` copy into the tasks
and threads that they start; a bare executor does not. A task that a tick starts in a nursery that outlives it keeps
the id, which is what its log lines should say.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from ._telemetry._ids import trace_ids

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

    from ._config import Logger

_log = logging.getLogger("tickrunner_trio")

#: What `request_id` returns. Who sets it sets it back, by its value: a token would take 70 bytes of each hold.
current_request_id: ContextVar[str | None] = ContextVar("tickrunner_trio.request_id", default=None)


def request_id() -> str | None:
    """Return the id of the tick under which this code runs, 32 hex digits; None outside of a tick."""
    return current_request_id.get()


def new_request_id() -> str:
    """Return a fresh id: 32 hex digits, as long as a trace id."""
    return os.urandom(16).hex()


#: The parent of all component loggers.
_components = logging.getLogger("tickrunner_trio.component")


class _ComponentLogger(logging.LoggerAdapter[logging.Logger]):
    """Adds the component and the ids to each record, beside the caller's ``extra``, which wins.

    ``trace_id`` and ``span_id`` are what OpenTelemetry calls them in logs that are not sent by its own protocol.

    Its logger is made when something is logged: until then there is none of that name, and its parent says what is
    enabled. A logger takes 1 KiB, of the 8 that a service has, and most services log nothing.
    """

    _is_made = False  #: Whether its logger is.
    merge_extra = True  # as each `logging.LoggerAdapter` says since Python 3.13, and as `process` does

    def __init__(self, slug: str) -> None:
        self._slug = slug  # and neither `logger` nor `extra`: see `__getattr__`
        if "." in slug:  # loggers in between have levels of their own; few slugs are like that, and no service's name
            self._make_logger()

    def __getattr__(self, name: str) -> Any:
        """Make what `logging.LoggerAdapter` has from the start, when it is asked for first."""
        if name == "logger":
            self._make_logger()
            return self.logger
        if name == "extra":
            self.extra = {"component": self._slug}
            return self.extra
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

    def _make_logger(self) -> None:
        self.logger = logging.getLogger(f"{_components.name}.{self._slug}")
        self._is_made = True

    def isEnabledFor(self, level: int) -> bool:
        """Whether records of that level are taken; asked at each tick."""
        parent = _components
        if self._is_made or f"{parent.name}.{self._slug}" in parent.manager.loggerDict:
            return self.logger.isEnabledFor(level)
        if not parent.disabled:
            return parent.isEnabledFor(level)
        # A logger that `logging.config` has disabled disables none of its children.
        return level > parent.manager.disable and level >= parent.getEffectiveLevel()

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        trace_id, span_id = trace_ids()
        kwargs["extra"] = {
            **(self.extra or {}),
            "request_id": request_id(),
            "trace_id": trace_id,
            "span_id": span_id,
            **(kwargs.get("extra") or {}),
        }
        return msg, kwargs


def component_logger(slug: str) -> logging.LoggerAdapter[logging.Logger]:
    """Return a logger whose records carry ``component``, ``request_id``, and the ids of OpenTelemetry's current span.

    These are ``trace_id`` and ``span_id`` in hexadecimal digits; None where there is no span. The caller's ``extra``
    is merged with all of them.

    The records go to the logger ``tickrunner_trio.component.<slug>``; handlers and levels are the application's.

    Args:
        slug: what does the logging, in snake_case; for a service, its name.

    Raises:
        TypeError: ``slug`` is not a str.
        ValueError: ``slug`` is empty.
    """
    if not isinstance(slug, str):
        raise TypeError(f"slug must be a str, got {slug!r}: use the name of the service")
    if not slug:
        raise ValueError("slug must not be empty, got '': use the name of the service")
    return _ComponentLogger(slug)


class TickContextFilter(logging.Filter):
    """Gives ``component``, ``request_id``, ``trace_id`` and ``span_id`` to the records of any logger.

    Put it on the handlers.

    A filter on a handler sees the records of all loggers; one on a logger does not see those of its children. Records
    that have the attributes keep them; on others ``component`` is the name of the logger.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if not hasattr(record, "component"):
            record.component = record.name
        if not hasattr(record, "request_id"):
            record.request_id = request_id()
        if not hasattr(record, "trace_id"):
            record.trace_id, record.span_id = trace_ids()
        return True


def log_safely(
    log: Logger,
    level: int,
    message: str,
    *args: object,
    extra: Mapping[str, object] | None = None,
    exc_info: BaseException | tuple[type[BaseException], BaseException, None] | None = None,
) -> None:
    """Log to a logger of the application's; one that raises is reported to the library's own and disturbs nobody.

    Observers never break the work, and a logger, an adapter, a filter or a handler may be anybody's code.
    """
    try:
        log.log(level, message, *args, extra=extra, exc_info=exc_info)
    except Exception:
        with suppress(Exception):
            _log.exception("the logger %r raised; its record was: %s", log, message)
