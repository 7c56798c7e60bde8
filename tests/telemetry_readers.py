"""What an exporter would see: real providers of the SDK that export into memory, and their points in a short form."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.sampling import Sampler

#: A point's attributes, without the prefix of their names.
Key = frozenset[tuple[str, Any]]


def key(attributes: Mapping[str, Any]) -> Key:
    return frozenset((name.removeprefix("tickrunner."), value) for name, value in attributes.items())


class Meters:
    """A meter provider and what a reader of it sees, beside others that it may have."""

    def __init__(self, *others: MetricReader, reader: InMemoryMetricReader | None = None) -> None:
        self.reader = InMemoryMetricReader() if reader is None else reader
        self.provider = MeterProvider([*others, self.reader], shutdown_on_exit=False)
        self.given = {"meter_provider": self.provider}  #: To a `Service`.

    def read(self) -> dict[str, dict[Key, Any]]:
        """Each instrument's points: a number, or of a histogram the count and the sum."""
        data = self.reader.get_metrics_data()
        read: dict[str, dict[Key, Any]] = {}
        for resource in [] if data is None else data.resource_metrics:
            for scope in resource.scope_metrics:
                assert (scope.scope.name, scope.scope.version) == ("tickrunner_trio", version("tickrunner-trio"))
                for metric in scope.metrics:
                    points = read.setdefault(metric.name.removeprefix("tickrunner."), {})
                    for point in metric.data.data_points:
                        assert key(point.attributes or {}) not in points, "two points of the same attributes"
                        if isinstance(point, NumberDataPoint):
                            points[key(point.attributes or {})] = point.value
                        else:
                            assert isinstance(point, HistogramDataPoint)
                            points[key(point.attributes or {})] = (point.count, point.sum)
        return read

    def of(self, service: str) -> dict[str, Any]:
        """The points of one service: the one of each instrument, and by outcome where there are several."""
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


class Traces:
    """A tracer provider and the spans that it exported."""

    def __init__(self, sampler: Sampler | None = None) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.given = {"tracer_provider": self.provider}  #: To a `Service`.

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """In the order in which they ended."""
        return self.exporter.get_finished_spans()
