"""The SDK of OpenTelemetry for the command line: providers, exporters by their entry points, a bounded end.

The SDK has a configurator of its own for the same variables. It is private, ends each provider at exit with a wait of
half a minute behind a collector that hangs, and puts a handler on the root logger that other programs are told not to
use; what there is to do is short with the public classes. Samplers, limits, intervals, endpoints and headers come out
of the environment all the same, because the classes read it themselves. ``opentelemetry-instrument tickrunner run ...``
is the way to whatever is not done here, such as declarative configuration.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import threading
import time
import uuid
import warnings
from functools import partial
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, trace
from opentelemetry._logs import get_logger_provider, set_logger_provider
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from . import TickContextFilter
from ._cli_errors import CommandError, UsageError, told
from ._cli_logging import STANDARD_ATTRIBUTES, message_of
from ._cli_text import safely

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

_log = logging.getLogger("tickrunner_trio.cli")

_CONTEXT = TickContextFilter()

_OTLP = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
_HINTS = {
    "prometheus": ": set OTEL_EXPORTER_PROMETHEUS_PORT to a port that is free, "
    "and OTEL_EXPORTER_PROMETHEUS_HOST to an address of this machine"
}


def signals_set_already() -> frozenset[str]:
    """Return the signals whose global provider somebody has set: the program, or ``opentelemetry-instrument``.

    Raises:
        StopIteration: a variable such as ``OTEL_PYTHON_METER_PROVIDER`` names a provider that is not installed.
    """
    providers = {
        "traces": trace.get_tracer_provider(),
        "metrics": metrics.get_meter_provider(),
        "logs": get_logger_provider(),
    }
    # Until then, the API gives a stand-in. Only that of traces has a public name.
    return frozenset(signal for signal, each in providers.items() if "Proxy" not in type(each).__name__)


class Sdk:
    """The providers that the environment asks for, set as the global ones.

    Args:
        name: the ``service.name`` if the environment gives none.
        exporters: by signal, the names of exporters.

    Raises:
        UsageError: there is no such exporter, or one of its variables has a value that it cannot take.
        CommandError: an exporter cannot be made here and now.
        ValueError, TypeError: likewise a variable of the SDK itself. No provider is set then, as above.
    """

    def __init__(self, name: str, exporters: Mapping[str, Sequence[str]]) -> None:
        # The SDK quotes headers that it cannot read, of which the usual one is a key: `authorization: Bearer ...`.
        logging.getLogger("opentelemetry.util.re").addFilter(_without_values)
        made = {signal: [_exporter(signal, each) for each in names] for signal, names in exporters.items()}
        resource = _resource(name)
        set_as_global: list[Callable[[], None]] = []
        self._shutdowns: list[Callable[[], object]] = []
        self._handler: logging.Handler | None = None
        # None of them ends at exit by itself: `exporting` sees to that, in a bounded time.
        if "traces" in made:
            tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
            for exporter in made["traces"]:
                tracers.add_span_processor(BatchSpanProcessor(exporter))
            set_as_global.append(partial(trace.set_tracer_provider, tracers))
            self._shutdowns.append(tracers.shutdown)
        if "metrics" in made:
            readers = [
                each if isinstance(each, MetricReader) else PeriodicExportingMetricReader(each)
                for each in made["metrics"]
            ]
            meters = MeterProvider(readers, resource, shutdown_on_exit=False)
            set_as_global.append(partial(metrics.set_meter_provider, meters))
            self._shutdowns.append(meters.shutdown)
        if "logs" in made:
            loggers = LoggerProvider(resource, shutdown_on_exit=False)
            for exporter in made["logs"]:
                loggers.add_log_record_processor(BatchLogRecordProcessor(exporter))
            set_as_global.append(partial(set_logger_provider, loggers))
            self._shutdowns.append(loggers.shutdown)
            with warnings.catch_warnings():
                # The one that is to replace it, of a package of its own, brings a monkey-patching framework along.
                warnings.simplefilter("ignore", DeprecationWarning)
                self._handler = _OtlpHandler(logger_provider=loggers)
        # None before all are made, since the next one may refuse its variables, and a global one is set for good.
        for each in set_as_global:
            each()

    @contextlib.contextmanager
    def exporting(self, flush_seconds: float) -> Generator[None]:
        """Export the log records of the block, and on the way out send all that is left, for so long at most."""
        root = logging.getLogger()
        if self._handler is not None:
            root.addHandler(self._handler)
        try:
            yield
        finally:
            if self._handler is not None:
                root.removeHandler(self._handler)
            self._shut_down(flush_seconds)

    def _shut_down(self, seconds: float) -> None:
        # In daemon threads, side by side: each may hang for as long as a collector does, and is then left behind.
        deadline = time.monotonic() + seconds
        threads = [threading.Thread(target=_quietly, args=(each,), daemon=True) for each in self._shutdowns]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in threads):
            _log.warning("telemetry: not everything was sent within %g seconds; the rest is dropped", seconds)


class _OtlpHandler(LoggingHandler):
    """Sends what other handlers write, with values that every backend can take."""

    def emit(self, record: logging.LogRecord) -> None:
        # What exporters say of their own failures would be exported too, and fail, and be said again.
        if record.name.startswith("opentelemetry.") or (record.threadName or "").startswith("Otel"):
            return
        try:
            plain = _plain(record)
            try:
                super().emit(plain)
            except Exception:  # the exception that it holds cannot be shown; the rest can
                plain.exc_info = None
                super().emit(plain)
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Do nothing: the provider is flushed when it is shut down, and not by a thread that logging starts at exit."""


def _without_values(record: logging.LogRecord) -> bool:
    """Blot out the values in the text of a record: a filter that lets all pass."""
    record.args = ("***",) * len(record.args or ())
    return True


def _plain(record: logging.LogRecord) -> logging.LogRecord:
    """Return a copy with the ids of the tick, which may be on no other handler, and with text for what is no value.

    It is without what is unknown, or has a field of its own in OTLP.
    """
    plain = copy.copy(record)
    _CONTEXT.filter(plain)
    plain.msg, plain.args = message_of(record), None
    for key, value in list(vars(plain).items()):
        if key in STANDARD_ATTRIBUTES:
            continue
        if value is None or key in ("trace_id", "span_id"):
            delattr(plain, key)
        elif not isinstance(value, str | bool | int | float):
            setattr(plain, key, safely(repr, value))
    return plain


def _quietly(shut_down: Callable[[], object]) -> None:
    try:
        shut_down()
    except Exception:
        _log.warning("telemetry: a provider could not be shut down", exc_info=True)


def _resource(name: str) -> Resource:
    resource = Resource.create()  # OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES
    missing: dict[str, str] = {}
    if str(resource.attributes.get("service.name", "")).partition(":")[0] in ("", "unknown_service"):
        missing["service.name"] = name
    if "service.instance.id" not in resource.attributes:  # newer SDKs add one by themselves
        missing["service.instance.id"] = str(uuid.uuid4())  # pragma: no cover - see nox -s tests_lowest
    return resource.merge(Resource(missing))


def _exporter(signal: str, name: str) -> Any:
    """Make an exporter, or a metric reader, which the SDK finds under the same name."""
    variable = f"OTEL_{signal.upper()}_EXPORTER"
    entry = _otlp_entry(signal) if name == "otlp" else name
    group = f"opentelemetry_{signal}_exporter"
    for found in entry_points(group=group, name=entry):
        try:
            return found.load()()
        except (ValueError, TypeError, OverflowError) as error:  # the last of a port beyond 65535
            raise UsageError(
                f"the exporter {name!r} of {variable} cannot be made: {told(error)}: "
                "correct the OTEL_EXPORTER_... variables"
            ) from error
        except Exception as error:
            raise CommandError(
                f"the exporter {name!r} of {variable} cannot be made: {told(error)}{_HINTS.get(name, '')}", status=1
            ) from error
    known = sorted({each.name for each in entry_points(group=group)} | {"otlp", "none"})
    if name == "otlp":
        raise UsageError(
            "OTEL_EXPORTER_OTLP_PROTOCOL=grpc needs a package of its own: run 'python -m pip install "
            "opentelemetry-exporter-otlp-proto-grpc', or set http/protobuf"
        )
    raise UsageError(f"{variable} names {name!r}, which is not installed: use one of {', '.join(known)}")


def _otlp_entry(signal: str) -> str:
    """Return which OTLP exporter it is; the specification's default is HTTP."""
    variables = (f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    for variable in variables:
        if protocol := os.environ.get(variable, "").strip():
            if protocol not in _OTLP:
                raise UsageError(f"{variable} must be one of {', '.join(_OTLP)}, got {protocol!r}: unset it")
            return _OTLP[protocol]
    return _OTLP["http/protobuf"]
