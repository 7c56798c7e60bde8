"""Telemetry that stays in memory: real providers of the OpenTelemetry SDK, and what a backend would have got from them.

The extra ``otel`` brings the SDK; whoever does not ask for telemetry needs none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.sampling import Sampler

_PREFIX = "tickrunner."

#: The attributes of a point, without the prefix ``tickrunner.`` of their names.
Key = frozenset[tuple[str, Any]]


def key(attributes: Mapping[str, Any]) -> Key:
    """Return the key of a point in `MemoryMetrics.read`."""
    return frozenset((name.removeprefix(_PREFIX), value) for name, value in attributes.items())


class MemoryMetrics:
    """A meter provider, and what a reader of it sees.

    Args:
        others: more readers of the same provider.
        reader: the one to read by, if not one with the SDK's defaults.
    """

    def __init__(self, *others: MetricReader, reader: InMemoryMetricReader | None = None) -> None:
        self.reader: InMemoryMetricReader = InMemoryMetricReader() if reader is None else reader
        self.provider: MeterProvider = MeterProvider([*others, self.reader], shutdown_on_exit=False)
        #: What a `Service` takes: ``Service(config, **providers)``.
        self.providers: dict[str, Any] = {"meter_provider": self.provider}

    def read(self) -> dict[str, dict[Key, Any]]:
        """Collect, and return the points of each instrument of this library: ``read()["ticks"][key({...})]``.

        Names of instruments and attributes come without the prefix ``tickrunner.``. A point is a number; that of a
        histogram is its count and its sum.
        """
        read: dict[str, dict[Key, Any]] = {}
        for metric in self._instruments():
            points = read.setdefault(metric.name.removeprefix(_PREFIX), {})
            for point in metric.data.data_points:
                attributes = key(point.attributes or {})
                assert attributes not in points, f"two points of {metric.name} have the attributes {attributes}"
                if isinstance(point, NumberDataPoint):
                    points[attributes] = point.value
                else:
                    assert isinstance(point, HistogramDataPoint)
                    points[attributes] = (point.count, point.sum)
        return read

    def _instruments(self) -> Iterator[Any]:  # the SDK leaves the kinds of its points half untyped
        data: Any = self.reader.get_metrics_data()
        if data is not None:
            for resource in data.resource_metrics:
                for scope in resource.scope_metrics:
                    if scope.scope.name == "tickrunner_trio":  # else of the application's own
                        yield from scope.metrics

    def of(self, service: str) -> dict[str, Any]:
        """Collect, and return the points of one service.

        One per instrument, or one per outcome where there are several:
        ``of("sweep")["consecutive_failures"]``, ``of("sweep")["ticks"]["success"]``.
        """
        read: dict[str, Any] = {}
        for name, points in self.read().items():
            for attributes, value in points.items():
                own = dict(attributes)
                if own.pop("service", None) != service:
                    continue
                if own:
                    read.setdefault(name, {})[own["outcome"]] = value
                else:
                    read[name] = value
        return read


class MemorySpans:
    """A tracer provider, and the spans that it exported.

    Args:
        sampler: of the provider, if not the SDK's default.
    """

    def __init__(self, sampler: Sampler | None = None) -> None:
        self.exporter: InMemorySpanExporter = InMemorySpanExporter()
        self.provider: TracerProvider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        #: What a `Service` takes: ``Service(config, **providers)``.
        self.providers: dict[str, Any] = {"tracer_provider": self.provider}

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """All that have ended, in the order in which they did."""
        return self.exporter.get_finished_spans()


class MemoryTelemetry:
    """Spans and metrics in memory: ``Service(config, **telemetry.providers)``, then `spans` and `metrics` tell.

    Real providers of the OpenTelemetry SDK, and none of them the global one: tests do not see one another's.
    """

    def __init__(self) -> None:
        self.traces: MemorySpans = MemorySpans()
        self.meters: MemoryMetrics = MemoryMetrics()
        self.providers: dict[str, Any] = {**self.traces.providers, **self.meters.providers}

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """All spans that have ended, in the order in which they did."""
        return self.traces.spans

    def metrics(self, service: str) -> dict[str, Any]:
        """Collect, and return what is measured of one service.

        By the names of the instruments without their prefix: ``metrics("sweep")["consecutive_failures"]`` is a
        number, ``metrics("sweep")["ticks"]["success"]`` is that of one outcome, and a histogram is its count and sum.
        """
        return self.meters.of(service)

    def shutdown(self) -> None:
        """Shut both providers down."""
        self.traces.provider.shutdown()
        self.meters.provider.shutdown()
