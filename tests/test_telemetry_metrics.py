"""Metrics: exact points for each outcome under virtual time, one series per name, and nothing kept of what is gone."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import weakref
from functools import partial
from importlib.metadata import version
from typing import Any

import pytest
import trio
import trio.lowlevel
from opentelemetry.sdk.metrics import Histogram, MeterProvider, ObservableCounter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    HistogramDataPoint,
    InMemoryMetricReader,
    MetricExporter,
    MetricExportResult,
    PeriodicExportingMetricReader,
)
from scripted import always, run_for, service, virtually

import tickrunner_trio._service
from tickrunner_trio import DatabaseUnavailableError, LockerConfigurationError, Outcome, PostgresLocker, Tick
from tickrunner_trio._telemetry import _registry
from tickrunner_trio._telemetry._names import INSTRUMENTS
from tickrunner_trio._telemetry._times import MOST_WAITING
from tickrunner_trio.testing import Busy, Fails, Grant, ScriptedLocker
from tickrunner_trio.testing._memory_telemetry import MemoryMetrics

ALL = {outcome.value for outcome in Outcome}


@pytest.fixture
def meters() -> MemoryMetrics:
    return MemoryMetrics()


@pytest.fixture(autouse=True)
def _no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickrunner_trio._service, "jitter", lambda *_: 0.0)


async def one_second(tick: Tick) -> None:
    await trio.sleep(1)


async def fails(tick: Tick) -> None:
    await trio.sleep(1)
    raise ValueError("no")


async def hangs(tick: Tick) -> None:
    await trio.sleep_forever()


async def finds_no_database(tick: Tick) -> None:
    raise DatabaseUnavailableError("the work's own")


def test_a_service_shows_zeros_before_it_has_done_anything(meters: MemoryMetrics) -> None:
    made = service(one_second, telemetry=meters.providers)
    assert meters.of("sweep") == {
        "ticks": dict.fromkeys(ALL, 0),
        "ticks.missed": 0,
        "interval": 10,
        "enabled": 1,
        "consecutive_failures": 0,
        "lock.held": 0,
        "lease.overstayed": 0,
    }
    assert {dict(each)["outcome"]: dict(each)["result"] for each in meters.read()["ticks"]} == {
        outcome.value: outcome.result for outcome in Outcome
    }
    del made


@pytest.mark.parametrize(
    ("outcome", "fields", "duration", "acquired"),
    [
        ("success", {"work": one_second}, 1.0, True),
        ("failed", {"work": fails}, 1.0, True),
        ("timed_out", {"work": hangs, "tick_timeout": 3}, 3.0, True),
        ("lock_lost", {"work": hangs, "locker": always(Grant(answers_after=0.5, lost_after=2))}, 2.0, True),
        ("unavailable", {"work": finds_no_database}, 0.0, True),
        ("busy", {"work": one_second, "locker": always(Busy(answers_after=0.5))}, 0.5, True),
        ("locker_error", {"work": hangs, "locker": always(Fails(LockerConfigurationError()))}, 0.0, True),
        ("unavailable", {"work": hangs, "locker": always(Fails(DatabaseUnavailableError()))}, 0.0, True),
        ("gated", {"work": one_second, "should_run": lambda: False}, 0.0, False),
        ("failed", {"work": one_second, "should_run": lambda: 1 / 0}, 0.0, False),
        ("cancelled", {"work": hangs, "locker": always(Grant(answers_after=60))}, 5.0, False),
    ],
)
def test_each_outcome_is_counted_and_timed_exactly(
    meters: MemoryMetrics, outcome: str, fields: dict[str, Any], duration: float, acquired: bool
) -> None:
    sweep = service(telemetry=meters.providers, **fields)
    virtually(run_for, 5, sweep)
    seen = meters.of("sweep")
    waited = fields["locker"].otherwise.answers_after if acquired and "locker" in fields else 0.0
    started_late = waited if outcome == "lock_lost" else 0.0  # of the others here, the lateness is that of the gate
    assert seen["ticks"] == {**dict.fromkeys(ALL, 0), outcome: 1}
    assert seen["tick.duration"] == {outcome: (1, duration)}
    assert seen["tick.lateness"] == (1, started_late)
    assert seen.get("lock.acquire.duration") == ((1, waited) if acquired else None)
    assert seen["consecutive_failures"] == (1 if Outcome(outcome).result == "error" else 0)
    assert ("last_success.timestamp" in seen) == (outcome == "success")
    assert seen["enabled"] == (0 if outcome == "gated" else 1)
    assert seen["lock.held"] == 0


def test_times_are_unix_times_and_those_of_run_end_with_it(meters: MemoryMetrics) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            sweep = service(one_second, telemetry=meters.providers)
            nursery.start_soon(sweep.run)
            await trio.sleep(0.5)
            running = meters.of("sweep")
            await trio.sleep(1)
            ticked = meters.of("sweep")
            sweep.drain()
            await trio.lowlevel.checkpoint()
        assert abs(running["service.start.timestamp"] - time.time()) < 60
        assert "last_tick.timestamp" not in running
        assert running["lock.held"] == 1
        assert ticked["last_tick.timestamp"] == pytest.approx(running["service.start.timestamp"] + 1, abs=1e-5)
        assert ticked["last_success.timestamp"] == ticked["last_tick.timestamp"]
        assert ticked["lock.held"] == 1  # it holds on
        drained = meters.of("sweep")
        assert "service.start.timestamp" not in drained
        assert drained["lock.held"] == 0
        assert drained["last_success.timestamp"] == ticked["last_success.timestamp"]

    virtually(main)


def test_a_service_that_crashed_still_shows_when_it_was_started(
    meters: MemoryMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> float:
        raise ZeroDivisionError

    monkeypatch.setattr(tickrunner_trio._service, "jitter", crash)
    sweep = service(one_second, telemetry=meters.providers)
    with pytest.raises(ZeroDivisionError):
        virtually(sweep.run)
    assert "service.start.timestamp" in meters.of("sweep")


def test_missed_slots_are_counted(meters: MemoryMetrics) -> None:
    async def work(tick: Tick) -> None:
        if tick.number == 1:
            await trio.sleep(35)

    sweep = service(work, telemetry=meters.providers, cadence="replica")
    virtually(run_for, 36, sweep)
    # 1 and 2 are missed, since the tick of slot 0 was under way; slot 3 is caught up.
    assert meters.of("sweep")["ticks.missed"] == 2


def test_a_gate_shows_what_it_last_said_and_nothing_before_it_was_asked(meters: MemoryMetrics) -> None:
    answers = iter([False, True])
    sweep = service(one_second, telemetry=meters.providers, should_run=lambda: next(answers))
    seen = [meters.of("sweep").get("enabled")]
    for _ in range(2):
        virtually(sweep.tick)
        seen.append(meters.of("sweep")["enabled"])
    assert seen == [None, 0, 1]


def test_a_hook_finds_its_tick_counted_and_timed(meters: MemoryMetrics) -> None:
    seen: list[tuple[Any, Any]] = []

    def on_error(_error: BaseException) -> None:
        shown = meters.of("sweep")
        seen.append((shown["ticks"]["failed"], shown["tick.duration"]))

    virtually(service(fails, telemetry=meters.providers, on_error=on_error).tick)
    assert seen == [(1, {"failed": (1, 1.0)})]


def test_a_forced_tick_counts_and_has_no_lateness(meters: MemoryMetrics) -> None:
    sweep = service(one_second, telemetry=meters.providers)
    virtually(sweep.tick)
    seen = meters.of("sweep")
    assert seen["ticks"]["success"] == 1
    assert "tick.lateness" not in seen


def successes_timed(data: Any) -> int:
    """How many durations of successes have been collected."""
    return sum(
        point.count
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
        if metric.name == "tickrunner.tick.duration"
        for point in metric.data.data_points
        if point.attributes["tickrunner.outcome"] == "success"
    )


@pytest.mark.parametrize("temporality", [AggregationTemporality.DELTA, AggregationTemporality.CUMULATIVE])
def test_each_reader_sees_the_times_of_every_tick_that_was_over(temporality: AggregationTemporality) -> None:
    often, rarely = (InMemoryMetricReader(preferred_temporality={Histogram: temporality}) for _ in range(2))
    provider = MeterProvider([often, rarely], shutdown_on_exit=False)
    sweep = service(one_second, telemetry={"meter_provider": provider})
    unseen = {often: 0, rarely: 0}
    for number in range(1, 61):
        virtually(sweep.tick)
        for reader, every in ((often, 3), (rarely, 20)):  # some ticks are recorded when there are enough of them
            unseen[reader] += 1
            if number % every == 0:
                assert successes_timed(reader.get_metrics_data()) == unseen[reader]
                if temporality is AggregationTemporality.DELTA:
                    unseen[reader] = 0


def test_the_last_export_has_the_times_of_all_ticks() -> None:
    exported: list[int] = []

    class Exporter(MetricExporter):
        def export(self, metrics_data: Any, *_: Any, **__: Any) -> MetricExportResult:
            exported.append(successes_timed(metrics_data))
            return MetricExportResult.SUCCESS

        def force_flush(self, timeout_millis: float = 0) -> bool:
            raise AssertionError("nobody flushes")

        def shutdown(self, *_: Any, **__: Any) -> None:
            pass

    reader = PeriodicExportingMetricReader(Exporter(), export_interval_millis=3_600_000)
    provider = MeterProvider([reader], shutdown_on_exit=False)
    sweep = service(one_second, telemetry={"meter_provider": provider})
    for _ in range(3):
        virtually(sweep.tick)
    provider.shutdown()
    assert exported == [3]


def test_two_services_of_one_name_make_one_series_of_each(meters: MemoryMetrics) -> None:
    async def main() -> None:
        locker = ScriptedLocker()
        first = service(one_second, locker, telemetry=meters.providers, cadence="replica", interval=20)
        # With a hook, because a logged traceback would keep the service alive.
        second = service(fails, locker, telemetry=meters.providers, cadence="replica", on_error=lambda _: None)
        await first.tick()
        await second.tick()
        await second.tick()
        seen.update(meters.of("sweep"))
        del second
        await trio.lowlevel.checkpoint()  # since Python 3.12 a task keeps an exception that was handled until then
        gc.collect()
        without.update(meters.of("sweep"))

    seen: dict[str, Any] = {}
    without: dict[str, Any] = {}
    virtually(main)
    # Counters add up, also those of a service that is gone; gauges show the greatest.
    assert seen["ticks"] == {**dict.fromkeys(ALL, 0), "success": 1, "failed": 2}
    assert (seen["interval"], seen["consecutive_failures"]) == (20, 2)
    assert without["ticks"] == seen["ticks"]
    assert (without["interval"], without["consecutive_failures"]) == (20, 0)


def test_a_service_that_is_gone_leaves_no_series_and_no_object(meters: MemoryMetrics) -> None:
    sweep, other = (service(one_second, telemetry=meters.providers, name=name) for name in ("sweep", "other"))
    virtually(sweep.tick)
    gone = weakref.ref(sweep)
    del sweep
    gc.collect()
    assert gone() is None
    histograms = {"tick.duration", "lock.acquire.duration"}  # the SDK keeps what was recorded
    assert meters.of("sweep").keys() == histograms
    assert meters.of("other")["ticks"]["success"] == 0
    again = service(one_second, telemetry=meters.providers)
    virtually(again.tick)
    assert meters.of("sweep")["ticks"] == {**dict.fromkeys(ALL, 0), "success": 2}, "its counters go on"
    del other, again


@pytest.mark.parametrize("read_between", [True, False])
@pytest.mark.parametrize(
    ("temporality", "first", "then"),
    [(AggregationTemporality.DELTA, 5, 1), (AggregationTemporality.CUMULATIVE, 5, 6)],
)
def test_counters_never_fall_when_a_service_is_made_again(
    temporality: AggregationTemporality, first: int, then: int, *, read_between: bool
) -> None:
    meters = MemoryMetrics(reader=InMemoryMetricReader(preferred_temporality={ObservableCounter: temporality}))
    sweep = service(one_second, telemetry=meters.providers)
    for _ in range(5):
        virtually(sweep.tick)
    assert meters.of("sweep")["ticks"]["success"] == first
    del sweep
    gc.collect()
    if read_between:
        assert "ticks" not in meters.of("sweep")
    again = service(one_second, telemetry=meters.providers)
    virtually(again.tick)
    assert meters.of("sweep")["ticks"]["success"] == then


def test_the_time_of_the_last_success_does_not_move_back_when_its_service_goes(meters: MemoryMetrics) -> None:
    async def main() -> None:
        first, second = (service(one_second, telemetry=meters.providers) for _ in range(2))
        await first.tick()
        await trio.sleep(100)
        await second.tick()
        before = meters.of("sweep")
        del second
        await trio.lowlevel.checkpoint()
        gc.collect()
        after = meters.of("sweep")
        for name in ("last_success.timestamp", "last_tick.timestamp"):
            assert after[name] == before[name], name
        await trio.sleep(100)
        await first.tick()
        assert meters.of("sweep")["last_success.timestamp"] == pytest.approx(before["last_success.timestamp"] + 101)

    virtually(main)


def test_what_names_leave_is_kept_of_so_many_only(meters: MemoryMetrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_registry, "_MOST_NAMES", 2)
    for name in ("one", "two", "three"):
        virtually(service(one_second, telemetry=meters.providers, name=name).tick)
        gc.collect()
        meters.read()
    again = [service(one_second, telemetry=meters.providers, name=name) for name in ("one", "two", "three")]
    assert [meters.of(each.name)["ticks"]["success"] for each in again] == [1, 1, 0]


def test_without_a_reader_nothing_of_a_dropped_service_is_kept(meters: MemoryMetrics) -> None:
    def tallies() -> int:
        gc.collect()
        return sum(type(each).__name__ == "_ServiceTally" for each in gc.get_objects())

    service(one_second, telemetry=meters.providers)
    before = tallies()
    for number in range(100):
        service(one_second, telemetry=meters.providers, name=f"sweep_{number}")
    assert tallies() <= before + 1  # each registration lets go of those before it


class Recorded(MeterProvider):
    """Knows what its histograms were told, by their names."""

    def __init__(self) -> None:
        super().__init__(shutdown_on_exit=False)
        self.values: dict[str, list[float]] = {}

    def get_meter(self, *arguments: Any, **more: Any) -> Any:
        meter = super().get_meter(*arguments, **more)
        create = meter.create_histogram

        def create_recorded(name: str, *arguments: Any, **more: Any) -> Any:
            histogram = create(name, *arguments, **more)
            values = self.values.setdefault(name, [])
            histogram.record = lambda value, *_: values.append(value)  # type: ignore[method-assign, misc, assignment]
            return histogram

        meter.create_histogram = create_recorded  # type: ignore[method-assign]
        return meter


def test_without_a_reader_the_times_of_so_many_ticks_wait_and_of_no_error() -> None:
    provider = Recorded()
    sweep = service(one_second, telemetry={"meter_provider": provider})
    durations = provider.values["tickrunner.tick.duration"]
    for _ in range(MOST_WAITING - 1):
        virtually(sweep.tick)
    assert durations == []
    virtually(service(fails, telemetry={"meter_provider": provider}, name="other").tick)
    assert len(durations) == 1
    virtually(sweep.tick)
    assert len(durations) == MOST_WAITING + 1
    for _ in range(MOST_WAITING):
        virtually(sweep.tick)
    assert len(durations) == 2 * MOST_WAITING + 1


def test_services_come_and_go_while_an_exporter_reads(meters: MemoryMetrics) -> None:
    stop = threading.Event()

    def export() -> None:
        while not stop.is_set():
            meters.read()  # what it raises fails the test: pytest sees to that

    exporter = threading.Thread(target=export)
    exporter.start()
    try:
        for number in range(300):
            sweep = service(one_second, telemetry=meters.providers, name=f"sweep_{number % 7}")
            virtually(sweep.tick)
    finally:
        stop.set()
        exporter.join()
    assert (
        sum(meters.of(f"sweep_{number}").get("tick.duration", {}).get("success", (0,))[0] for number in range(7)) == 300
    )


def test_who_comes_waits_until_a_read_is_over(meters: MemoryMetrics) -> None:
    class Tally:
        group = "slow"

        def read(self, instrument: object) -> Any:
            if not waited:
                maker.start()
                maker.join(0.2)
                waited.append(maker.is_alive())
            return iter(())

    waited: list[bool] = []
    made: list[object] = []
    maker = threading.Thread(target=lambda: made.append(service(one_second, telemetry=meters.providers)))
    registry, owner = _registry.registry_of(meters.provider), MemoryMetrics()
    registry.add(owner, Tally())
    registry.readings(INSTRUMENTS[0])
    maker.join()
    assert waited == [True]
    assert meters.of("sweep")["ticks"] == dict.fromkeys(ALL, 0)


GLOBAL = """
import gc, trio
from opentelemetry import metrics
from tickrunner_trio.testing._memory_telemetry import MemoryMetrics
from scripted import service, virtually

async def work(tick): pass

meters = MemoryMetrics()
{}
for each in (first, second):
    virtually(each.tick)
for name in ("first", "second"):
    seen = meters.of(name)
    assert seen["ticks"]["success"] == 1, seen
    assert seen["tick.duration"]["success"][0] == 1, seen
"""


@pytest.mark.parametrize(
    "program",
    [
        # The SDK comes after the services: proxies pass on to it.
        """
first, second = service(work, name="first"), service(work, name="second")
metrics.set_meter_provider(meters.provider)
""",
        # Between two, and one of them names it.
        """
first = service(work, name="first")
metrics.set_meter_provider(meters.provider)
second = service(work, name="second", telemetry=meters.providers)
""",
        # The named one got the instruments before the provider became the global one.
        """
first = service(work, name="first", telemetry=meters.providers)
second = service(work, name="second")
metrics.set_meter_provider(meters.provider)
""",
        # Somebody passes what is the global one at that time: the API's proxy.
        """
first = service(work, name="first")
second = service(work, name="second", telemetry={"meter_provider": metrics.get_meter_provider()})
metrics.set_meter_provider(meters.provider)
""",
        # And passes it still when another one has been set.
        """
proxy = metrics.get_meter_provider()
first = service(work, name="first")
metrics.set_meter_provider(meters.provider)
second = service(work, name="second", telemetry={"meter_provider": proxy})
""",
    ],
)
def test_the_global_provider_serves_whenever_it_is_set(program: str) -> None:
    assert run_alone(GLOBAL.format(program)) == (0, "")


WITHOUT_SDK = """
from opentelemetry import metrics
from tickrunner_trio._telemetry._times import MOST_WAITING, Times
from tickrunner_trio.testing._memory_telemetry import MemoryMetrics
from scripted import service, virtually

async def work(tick): pass

def counted(self, *arguments):
    global recorded
    recorded += 1
    record(self, *arguments)

record, Times._record, recorded = Times._record, counted, 0
sweep = service(work)
for _ in range(3 * MOST_WAITING):
    virtually(sweep.tick)
assert recorded == 0, recorded
meters = MemoryMetrics()
metrics.set_meter_provider(meters.provider)
for _ in range(MOST_WAITING):
    virtually(sweep.tick)
assert recorded == MOST_WAITING, recorded
assert meters.of("sweep")["tick.duration"]["success"][0] == MOST_WAITING
"""


def test_without_an_sdk_no_time_is_recorded_and_each_is_once_there_is_one() -> None:
    assert run_alone(WITHOUT_SDK) == (0, "")


INTERRUPTED = """
import gc, signal
from tickrunner_trio.testing._memory_telemetry import MemoryMetrics
from scripted import service, virtually
from tickrunner_trio._telemetry import _registry

async def work(tick): pass

def flush(*_):
    seen.append(meters.of("sweep")["ticks"]["success"])

def interrupted(*arguments):
    _registry._merge = merge
    signal.raise_signal(signal.SIGTERM)
    merge(*arguments)

seen = []
merge = _registry._merge
meters = MemoryMetrics()
sweep, *others = [service(work, telemetry=meters.providers, interval=interval) for interval in (10, 20, 30)]
for each in (sweep, *others):
    virtually(each.tick)
del each, others
gc.collect()
signal.signal(signal.SIGTERM, flush)
_registry._merge = interrupted
other = service(work, telemetry=meters.providers, name="other")  # it is now that the two are let go
assert seen == [3], seen
after = meters.of("sweep")
assert (after["ticks"]["success"], after["interval"]) == (3, 10), after
"""


def test_a_signal_handler_may_flush_while_its_thread_registers_a_service() -> None:
    assert run_alone(INTERRUPTED) == (0, "")


def run_alone(program: str) -> tuple[int, str]:
    """Run it in a process of its own; return its status and what it wrote on the standard error."""
    path = [each for each in sys.path if each]
    program = f"import sys; sys.path[:0] = {path!r}\n" + program
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=30)
    return done.returncode, done.stderr


def test_a_global_provider_that_cannot_be_found_disturbs_nobody_and_is_logged_once(
    meters: MemoryMetrics, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_registry, "_of_providers", weakref.WeakKeyDictionary())
    monkeypatch.setenv("OTEL_PYTHON_METER_PROVIDER", "nosuch")
    without = [service(one_second), service(one_second)]
    given = service(one_second, telemetry=meters.providers)
    for each in (*without, given):
        assert virtually(each.tick).outcome is Outcome.SUCCESS
    for _ in range(2):
        assert meters.of("sweep")["ticks"]["success"] == 1
    said = [record.getMessage() for record in caplog.records if record.name == "tickrunner_trio.telemetry"]
    assert len(said) == 2, "once for each provider"
    assert all("finding the global meter provider raised" in each for each in said)
    looked: list[bool] = []
    monkeypatch.setattr(_registry, "get_meter_provider", lambda: looked.append(True))
    for _ in range(2 * MOST_WAITING):
        virtually(without[0].tick)
    assert looked == [], "ticks look for it again, which takes as long as three of them"


def test_what_is_no_provider_is_refused_with_the_remedy() -> None:
    for make in (
        partial(service, one_second, telemetry={"meter_provider": "otlp"}),
        partial(PostgresLocker, "", meter_provider="otlp"),
    ):
        with pytest.raises(TypeError, match=r"meter_provider must be .*MeterProvider, got 'otlp'"):
            make()


def test_every_instrument_is_seen_with_its_unit_and_attributes(meters: MemoryMetrics) -> None:
    async def main() -> Any:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_for, 5, sweep)
            await trio.sleep(3)
            return meters.reader.get_metrics_data()

    locker = PostgresLocker("", meter_provider=meters.provider)
    sweep = service(one_second, telemetry=meters.providers)
    data = virtually(main)
    metrics = {
        metric.name: (metric.unit, metric.description, set(metric.data.data_points[0].attributes or {}))
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
    }
    assert metrics == {each.name: (each.unit, each.description, set(each.attributes)) for each in INSTRUMENTS}
    bounds = {
        metric.name: tuple(point.explicit_bounds)
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
        for point in metric.data.data_points
        if isinstance(point, HistogramDataPoint)
    }
    assert bounds == {each.name: each.boundaries for each in INSTRUMENTS if each.kind == "histogram"}
    assert {len(each) for each in bounds.values()} == {20, 16}
    del locker


def test_the_meter_bears_the_name_and_the_version_of_the_package(meters: MemoryMetrics) -> None:
    virtually(service(one_second, telemetry=meters.providers).tick)
    data = meters.reader.get_metrics_data()
    assert data is not None
    scopes = [scope.scope for resource in data.resource_metrics for scope in resource.scope_metrics]
    assert [(scope.name, scope.version) for scope in scopes] == [("tickrunner_trio", version("tickrunner-trio"))]
