"""What OpenTelemetry adds to a tick at saturation, beside the least that somebody would write by hand.

Three states:

* *no SDK*: as a library is used where nobody looks.
* *unsampled*: metrics are recorded by an SDK, and the sampler takes no span.
* *exported*: every span goes through a batch processor to an exporter that does nothing.

In each, *ours* is a service as it is, and *by hand* is one whose telemetry has been taken out and whose work is wrapped
in a cancel scope, a span that is attached the cheapest way, and one histogram; what else there is to tell is a plain
integer that an observable counter reads. *The same by hand* is what ours tells, told by hand: the floor that the SDK
sets to this much information. All are held against *without*, the service with its telemetry taken out. It is the same
service each time because code that runs between other code, with cold caches, takes twice as long as in a loop of its
own.

These are differences between figures that are larger, so the ten take many short turns within one process, and of
each the lower quartile is taken, since whatever else the machine does only adds. Processor time is that of all threads,
the batch processor's included, and what is not yet exported at the end, or waits to be recorded, is so before the clock
is read.
"""

from __future__ import annotations

import contextlib
import gc
import statistics
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any
from unittest import mock

import trio
from opentelemetry import context, metrics, trace
from opentelemetry.context import Context
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

import tickrunner_trio._service
from tickrunner_trio import Config, MemoryLocker, Service, Tick
from tickrunner_trio._telemetry import _names as names
from tickrunner_trio._telemetry._registry import registry_of
from tickrunner_trio._telemetry._times import MOST_WAITING

from ..loops import BUSY_INTERVAL, SERVICES
from ..question import OURS, Comparison, Difference, Figure, Measurement, Question, Quotient, Value

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    Work = Callable[[Tick], Awaitable[None]]

STATES = ("no SDK", "unsampled", "exported")
WITHOUT = f"{OURS} without telemetry"
HAND = "by hand"
SAME = "the same by hand"
WARM_UP = 300


def added(state: str, by: str) -> Difference:
    """Return what takes from a round the microseconds that telemetry adds in that state."""
    return Difference(Value(f"{by}, {state}", "us"), Value(WITHOUT, "us"))


def question(*, quick: bool) -> Question:
    """Ask it."""
    return Question(
        key="telemetry",
        title="What OpenTelemetry adds to a tick at saturation",
        figures=(Figure("us", 1),),
        measurements=(
            Measurement(
                way=OURS,
                function=f"{__name__}:measure",
                arguments={"turns": 3 if quick else 6, "ticks": 700},
                several=True,
            ),
        ),
        comparisons=(
            *(
                Comparison(
                    name=f"added over by hand, {state}",
                    of=Quotient(added(state, OURS), added(state, HAND)),
                    at_most=1.3,
                )
                for state in STATES
            ),
            *(
                Comparison(
                    name=f"added over telling the same by hand, {state}",
                    of=Quotient(added(state, OURS), added(state, SAME)),
                )
                for state in STATES
            ),
            *(
                Comparison(name=f"us added {by}, {state}", of=added(state, way), places=1, guarded=False)
                for state in STATES
                for by, way in (("by ours", OURS), ("by hand", HAND), ("by the same by hand", SAME))
            ),
        ),
        rounds=1 if quick else 5,
        notes=(
            "`us`: microseconds of processor time per tick at saturation, of which the ratio takes what is beyond "
            "*without telemetry*. *By hand* is the least that one would write around the same work in the same "
            "service: a cancel scope, a span attached the cheapest way, one histogram, and plain integers that an "
            "observable reads. A tick of ours tells more: two more histograms, and eight attributes and a link on its "
            "span. *The same by hand* tells all of that, as cheaply as we know, so that what is beyond it is our own "
            "code, and what it is beyond *by hand* is what the SDK takes for more information. Nobody reads the "
            "metrics meanwhile: that comes once a minute. The SDK keeps at most 2,000 series per instrument, and "
            "drops what is beyond: where services are counted in thousands, give its views a higher limit."
        ),
    )


class NullExporter(SpanExporter):
    """Throws spans away."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Say that it went well."""
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Nothing is open."""


@contextlib.contextmanager
def providers(state: str) -> Iterator[dict[str, Any]]:
    """Give providers of that state; at the end, export what is left."""
    if state == "no SDK":
        yield {}
        return
    traces = TracerProvider(sampler=ALWAYS_ON if state == "exported" else ALWAYS_OFF, shutdown_on_exit=False)
    traces.add_span_processor(BatchSpanProcessor(NullExporter(), max_queue_size=100_000))
    meters = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    try:
        yield {"tracer_provider": traces, "meter_provider": meters}
    finally:
        traces.shutdown()
        meters.shutdown()


def nothing(*_: object, **__: object) -> None:
    """Do nothing."""


def doing_nothing(observer: type) -> type:
    """Return a class with the same methods, none of which does anything."""
    methods = {name: nothing for name, each in vars(observer).items() if callable(each)}
    return type(f"No{observer.__name__}", (), methods)


@contextlib.contextmanager
def without_telemetry() -> Iterator[None]:
    """Take telemetry out of the services that are made within the block."""
    with contextlib.ExitStack() as stack:
        for name in ("ServiceMeter", "ServiceTracer"):
            observer = doing_nothing(getattr(tickrunner_trio._service, name))
            stack.enter_context(mock.patch.object(tickrunner_trio._service, name, observer))
        yield


def by_hand(tracer_provider: Any = None, meter_provider: Any = None) -> Callable[[Work], Work]:
    """Return what wraps work into telemetry as somebody would write it who counts microseconds."""
    tracer = trace.get_tracer("by hand", tracer_provider=tracer_provider)
    meter = metrics.get_meter("by hand", meter_provider=meter_provider)
    histogram = meter.create_histogram("duration", explicit_bucket_boundaries_advisory=names.TICK_BOUNDARIES)
    attributes = {"service": "bench", "outcome": "success"}
    ticks = 0
    meter.create_observable_counter("ticks", [lambda options: [Observation(ticks, attributes)]])

    def around(work: Work) -> Work:
        async def traced(tick: Tick) -> None:
            nonlocal ticks
            started_at = perf_counter()
            span = tracer.start_span("tick bench")
            token = context.attach(trace.set_span_in_context(span))
            try:
                with trio.CancelScope():
                    await work(tick)
            finally:
                context.detach(token)
                span.end()
            histogram.record(perf_counter() - started_at, attributes)
            ticks += 1

        return traced

    return around


NO_PARENT = Context()
NO_SPAN = context.set_value(context.create_key("bench"), "no span", Context())  # or the SDK looks for exemplars


def telling_the_same(
    tracer_provider: Any = None, meter_provider: Any = None
) -> tuple[Callable[[Work], Work], Callable[[], None]]:
    """Return what wraps work into the telemetry that a tick of ours has if it succeeds, and what ends that.

    Without a scope, which is no telemetry. How long the lock took the work does not know; the value costs alike.
    """
    tracer = trace.get_tracer("by hand", tracer_provider=tracer_provider)
    meter = metrics.get_meter("by hand", meter_provider=meter_provider)
    acquire, duration, late = (
        meter.create_histogram(each.name, each.unit, explicit_bucket_boundaries_advisory=each.boundaries)
        for each in (names.ACQUIRE, names.DURATION, names.LATE)
    )
    links: dict[str, tuple[trace.Link, ...]] = {}
    counts: dict[str, int] = {}
    waiting: list[tuple[float, float, dict[str, str]]] = []
    meter.create_observable_counter(
        "ticks", [lambda options: [Observation(count, {names.SERVICE: name}) for name, count in counts.items()]]
    )

    def record() -> None:
        for lasted, lateness, service in waiting:
            acquire.record(lateness, service, NO_SPAN)
            duration.record(lasted, {**service, names.OUTCOME: "success"}, NO_SPAN)
            late.record(lateness, service, NO_SPAN)
        waiting.clear()

    def around(work: Work) -> Work:
        async def traced(tick: Tick) -> None:
            name, started_at = tick.service, perf_counter()
            lateness = (tick.started_at - tick.scheduled_at).total_seconds()
            span = tracer.start_span(
                f"tick {name}",
                NO_PARENT,
                attributes={
                    names.SERVICE: name,
                    names.LOCK_ID: tick.lock_id,
                    names.FUNCTION: "bench.work",
                    names.REQUEST_ID: tick.request_id,
                    names.NUMBER: tick.number,
                    names.LATENESS: lateness,
                    names.EPOCH: tick.epoch or 0,
                },
                links=links.get(name, ()),
            )
            token = context.attach(trace.set_span_in_context(span))
            try:
                await work(tick)
            finally:
                if span.is_recording():
                    span.set_attribute(names.OUTCOME, "success")
                    span.end()
                    links[name] = (trace.Link(span.get_span_context()),)
                context.detach(token)
            counts[name] = counts.get(name, 0) + 1
            waiting.append((perf_counter() - started_at, lateness, {names.SERVICE: name}))
            if len(waiting) >= MOST_WAITING:
                record()

        return traced

    return around, record


def cost(ticks: int, *, around: Callable[[Work], Work] = lambda work: work, **telemetry: Any) -> Callable[[], float]:
    """Run services that are due all the time for so many ticks.

    Return what reads the clock, to be called when everything is exported, and gives the microseconds per tick.
    """
    count = 0
    began = 0.0

    async def work(tick: Tick) -> None:
        nonlocal count, began
        count += 1
        if count == WARM_UP:
            began = process_time()
        elif count == WARM_UP + ticks:
            for service in services:
                service.drain()

    async def main() -> None:
        async with trio.open_nursery() as nursery:  # no Supervisor: it would start again what a mistake here breaks
            for service in services:
                nursery.start_soon(service.run)

    locker = MemoryLocker()
    work_of_all = around(work)
    services = [
        Service(
            Config(name=f"s{number}", interval=BUSY_INTERVAL, locker=locker, work=work_of_all, cadence="replica"),
            **telemetry,
        )
        for number in range(SERVICES)
    ]
    trio.run(main)
    return lambda: (process_time() - began) / (count - WARM_UP) * 1e6


def measure_without(ticks: int) -> float:
    """Measure services whose telemetry is taken out."""
    with without_telemetry():
        return cost(ticks)()


def measure_ours(state: str, ticks: int) -> float:
    """Measure services as they are."""
    with providers(state) as telemetry:
        read = cost(ticks, **telemetry)
        registry_of(telemetry.get("meter_provider")).times.record()
    return read()


def measure_by_hand(state: str, ticks: int) -> float:
    """Measure services whose telemetry is taken out, and written into the work by hand."""
    with providers(state) as telemetry, without_telemetry():
        read = cost(ticks, around=by_hand(**telemetry))
    return read()


def measure_the_same(state: str, ticks: int) -> float:
    """Measure services whose telemetry is taken out, and told by hand."""
    with providers(state) as telemetry, without_telemetry():
        around, record = telling_the_same(**telemetry)
        read = cost(ticks, around=around)
        record()
    return read()


def measure(turns: int, ticks: int) -> dict[str, dict[str, float]]:
    """Measure all in turns."""
    samples: dict[str, list[float]] = {}
    for _ in range(turns):
        gc.collect()
        samples.setdefault(WITHOUT, []).append(measure_without(ticks))
        for state in STATES:
            gc.collect()
            samples.setdefault(f"{OURS}, {state}", []).append(measure_ours(state, ticks))
            gc.collect()
            samples.setdefault(f"{HAND}, {state}", []).append(measure_by_hand(state, ticks))
            gc.collect()
            samples.setdefault(f"{SAME}, {state}", []).append(measure_the_same(state, ticks))
    return {way: {"us": statistics.quantiles(values, n=4)[0]} for way, values in samples.items()}
