"""Telemetry: microseconds of processor time that it adds to a tick. Exit status 1 beyond a bound.

Ticks of a real `Service` whose work is nothing, on a clock that jumps from slot to slot, so that nobody waits:

* *without*: telemetry taken out. What the others cost beyond this is the price of telemetry.
* *no SDK*: as a library is used where nobody looks.
* *unsampled*: metrics are recorded by an SDK, and the sampler takes no span.
* *exported*: every span goes through a batch processor to an exporter that does nothing.

The measure is *by hand*: what somebody would write into the work, at the least, of a service that is *without*: a
cancel scope, a bare span, a counter and a histogram with two attributes each, exported just so. It is written into the
same service because code that runs between other code, with cold caches, takes twice as long as in a loop of its own.

Nobody reads the metrics meanwhile. A read is none of a tick's: it comes once a minute, in the exporter's thread, and
takes half a millisecond of processor time for the one service here.

All take turns in many short rounds, and of each the lower quartile is taken, since whatever else the machine does only
adds. Processor time is that of all threads, the batch processor's included.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import math
import os
import platform
import statistics
import sys
from importlib.metadata import version
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any
from unittest import mock

import trio
from lockers import processor, spread
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

import tickrunner_trio._service
from tickrunner_trio import Config, MemoryLocker, Service, Tick
from tickrunner_trio._telemetry._names import TICK_BOUNDARIES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.sampling import Sampler

    Work = Callable[[Tick], Awaitable[None]]

ROUNDS = 80
WARM_UP = 300

EXPORTED_BOUND = 1.3  # of what is written by hand
UNSAMPLED_BOUND = 0.65  # likewise
NO_SDK_BOUND = 7.0  # microseconds


class JumpingClock(trio.abc.Clock):
    """Time that stands still while there is something to do, and jumps to the next deadline when there is not."""

    def __init__(self) -> None:
        self._now = 0.0

    def start_clock(self) -> None:
        """Nothing is to be done."""

    def current_time(self) -> float:
        """Return the time of the latest deadline that was jumped to."""
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Jump."""
        if deadline == math.inf:
            return 999.0
        self._now = max(self._now, deadline)
        return 0.0


class NullExporter(SpanExporter):
    """Throws spans away."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Say that it went well."""
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Nothing is open."""


@contextlib.contextmanager
def providers(sampler: Sampler) -> Iterator[dict[str, Any]]:
    """Give a tracer provider with batch export, and a meter provider with a reader that does not read by itself."""
    traces = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    traces.add_span_processor(BatchSpanProcessor(NullExporter(), max_queue_size=100_000))
    meters = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    try:
        yield {"tracer_provider": traces, "meter_provider": meters}
    finally:
        traces.shutdown()
        meters.shutdown()


class _Nothing:
    """Stands for `ServiceMeter`, `ServiceTracer` and the span of a tick, and does nothing."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def nothing(self, *_: object, **__: object) -> None:
        """Do nothing."""

    run_is_under_way = gate_said = slots_missed = lock_is_held = count_overstay = nothing
    record = judged = begin = begin_late = nothing


@contextlib.contextmanager
def without_telemetry() -> Iterator[None]:
    """Take telemetry out of the services that are made within the block."""
    service = tickrunner_trio._service
    with mock.patch.object(service, "ServiceMeter", _Nothing), mock.patch.object(service, "ServiceTracer", _Nothing):
        yield


def measure_service(ticks: int, *, around: Callable[[Work], Work] = lambda work: work, **telemetry: Any) -> float:
    """Return the microseconds per tick of a service that runs under its schedule."""
    taken = began = 0.0

    async def work(tick: Tick) -> None:
        nonlocal taken, began
        if tick.number == WARM_UP:
            began = process_time()
        elif tick.number == WARM_UP + ticks:
            taken = process_time() - began
            service.drain()

    config = Config(
        name="bench", interval=1.0, locker=MemoryLocker(), work=around(work), cadence="replica", tick_timeout=0.5
    )
    service = Service(config, **telemetry)
    trio.run(service.run, clock=JumpingClock())
    return taken / ticks * 1e6


def measure_without(ticks: int) -> float:
    """Measure a service whose telemetry is taken out."""
    with without_telemetry():
        return measure_service(ticks)


def measure_no_sdk(ticks: int) -> float:
    """Measure a service as it is, where nobody has set up an SDK."""
    return measure_service(ticks)


def measure_unsampled(ticks: int) -> float:
    """Measure a service whose spans nobody wants."""
    with providers(ALWAYS_OFF) as telemetry:
        return measure_service(ticks, **telemetry)


def measure_exported(ticks: int) -> float:
    """Measure a service whose spans are exported."""
    with providers(ALWAYS_ON) as telemetry:
        return measure_service(ticks, **telemetry)


def measure_by_hand(ticks: int) -> float:
    """Measure a service whose telemetry is taken out, and written into its work by hand."""
    with providers(ALWAYS_ON) as telemetry:
        tracer = telemetry["tracer_provider"].get_tracer("by hand")
        meter = telemetry["meter_provider"].get_meter("by hand")
        counter = meter.create_counter("ticks")
        histogram = meter.create_histogram("duration", explicit_bucket_boundaries_advisory=TICK_BOUNDARIES)
        attributes = {"service": "bench", "outcome": "success"}

        def by_hand(work: Work) -> Work:
            async def traced(tick: Tick) -> None:
                started_at = perf_counter()
                with trio.CancelScope(), tracer.start_as_current_span("tick bench"):
                    await work(tick)
                counter.add(1, attributes)
                histogram.record(perf_counter() - started_at, attributes)

            return traced

        with without_telemetry():
            return measure_service(ticks, around=by_hand)


MEASURES: dict[str, Callable[[int], float]] = {
    "without": measure_without,
    "no SDK": measure_no_sdk,
    "unsampled": measure_unsampled,
    "exported": measure_exported,
    "by hand": measure_by_hand,
}


def judge(samples: dict[str, list[float]]) -> bool:
    """Print what telemetry adds, and return whether all bounds are kept."""
    quiet = {name: statistics.quantiles(rounds, n=4)[0] for name, rounds in samples.items()}
    added = {name: figure - quiet["without"] for name, figure in quiet.items()}
    by_hand = added["by hand"]
    print(f"by hand: {by_hand:.1f} us per tick")
    print(f"no SDK: {added['no SDK']:.1f} us per tick (bound {NO_SDK_BOUND:g})")
    for name, bound in (("unsampled", UNSAMPLED_BOUND), ("exported", EXPORTED_BOUND)):
        ratio = added[name] / by_hand
        print(f"{name}: {added[name]:.1f} us per tick, {ratio:.2f} times what is written by hand (bound {bound:g})")
    return (
        added["no SDK"] <= NO_SDK_BOUND
        and added["unsampled"] <= UNSAMPLED_BOUND * by_hand
        and added["exported"] <= EXPORTED_BOUND * by_hand
    )


def main() -> int:
    """Print the figures and return the exit status."""
    parser = argparse.ArgumentParser(description="Measure what telemetry adds to a tick; fail beyond a bound.")
    parser.add_argument("--ticks", type=int, default=500, help="per line and round (default: 500)")
    options = parser.parse_args()
    logging.getLogger("tickrunner_trio").setLevel(logging.CRITICAL)  # as where only trouble is logged
    versions = ", ".join(f"{each} {version(each)}" for each in ("trio", "opentelemetry-sdk"))
    print(f"Python {platform.python_version()}, {versions}; {os.cpu_count()} x {processor()}")
    samples: dict[str, list[float]] = {name: [] for name in MEASURES}
    for _ in range(ROUNDS):
        for name, measure in MEASURES.items():
            gc.collect()
            samples[name].append(measure(options.ticks))
    print(f"medians of {ROUNDS} rounds (least-greatest), microseconds of processor time per tick:")
    for name, rounds in samples.items():
        print(f"{name:10}{spread(rounds, 1)}")
    return 0 if judge(samples) else 1


if __name__ == "__main__":
    sys.exit(main())
