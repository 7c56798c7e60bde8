"""Spans: for each outcome exactly the right one, children that follow, links that hold, and nobody disturbed."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import re
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pytest
import trio
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision, Sampler, SamplingResult
from opentelemetry.trace import SpanKind, StatusCode
from postgres_view import terminate
from scripted import always, names, run_for, service, virtually

import tickrunner_trio._service
from tickrunner_trio import (
    DatabaseUnavailableError,
    LockerConfigurationError,
    MemoryLocker,
    Outcome,
    PostgresLocker,
    Tick,
    TickContextFilter,
    component_logger,
)
from tickrunner_trio._telemetry._times import MOST_WAITING
from tickrunner_trio.testing import Busy, Fails, Grant, ScriptedLocker
from tickrunner_trio.testing._memory_telemetry import MemoryMetrics, MemorySpans

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.trace import ReadableSpan

    from tickrunner_trio import TickReport

LOCK_ID = 42


@pytest.fixture
def traces() -> MemorySpans:
    return MemorySpans()


@pytest.fixture(autouse=True)
def _no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickrunner_trio._service, "jitter", lambda *_: 0.0)


async def works(tick: Tick) -> None:
    await trio.sleep(1)


async def fails(tick: Tick) -> None:
    await trio.sleep(1)
    raise ValueError("no  such\nthing")


async def hangs(tick: Tick) -> None:
    await trio.sleep_forever()


async def finds_no_database(tick: Tick) -> None:
    raise DatabaseUnavailableError("the work's own")


def traced(traces: MemorySpans, work: Any, locker: Any = None, **fields: Any) -> Any:
    return service(work, locker, telemetry=traces.providers, **{"lock_id": LOCK_ID, **fields})


def parts(span: ReadableSpan) -> dict[str, Any]:
    """The attributes, without what differs from run to run."""
    attributes = dict(span.attributes or {})
    assert re.fullmatch("[0-9a-f]{32}", str(attributes.pop("tickrunner.request_id")))
    return attributes


def module_of(function: Callable[..., object]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


RAN = {"tick.lateness": 0.0, "epoch": 7}
DID_NOT_RUN = {"tick.lateness": 0.0}
SPANS = [
    # The outcome, the service, what else its span says, and of an error its type and the status's description.
    ("success", {"work": works}, RAN, None),
    ("failed", {"work": fails}, RAN, ("ValueError", "ValueError: no such thing")),
    (
        "timed_out",
        {"work": hangs, "tick_timeout": 3},
        RAN,
        ("trio.TooSlowError", "TooSlowError: the work of sweep took longer than tick_timeout=3 seconds"),
    ),
    (
        "lock_lost",
        {"work": hangs, "locker": always(Grant(answers_after=0.5, lost_after=2))},
        {**RAN, "tick.lateness": 0.5},
        ("tickrunner_trio.LockLostError", "LockLostError: the lock 42 of sweep was lost while its work ran"),
    ),
    ("unavailable", {"work": finds_no_database}, RAN, None),
    ("cancelled", {"work": hangs}, RAN, None),
    # The work did not run, and yet it is an error:
    (
        "locker_error",
        {"work": works, "locker": always(Fails(LockerConfigurationError("mend it")))},
        DID_NOT_RUN,
        ("tickrunner_trio.LockerConfigurationError", "LockerConfigurationError: mend it"),
    ),
    (
        "failed",
        {"work": works, "should_run": lambda: 1 / 0},
        DID_NOT_RUN,
        ("ZeroDivisionError", "ZeroDivisionError: division by zero"),
    ),
]
SKIPS = [
    ("gated", {"work": works, "should_run": lambda: False}),
    ("busy", {"work": works, "locker": always(Busy(answers_after=0.5))}),
    ("unavailable", {"work": works, "locker": always(Fails(DatabaseUnavailableError()))}),
    ("cancelled", {"work": works, "locker": always(Grant(answers_after=60))}),
]


@pytest.mark.parametrize(("outcome", "fields", "known", "error"), SPANS)
def test_each_outcome_has_exactly_its_span(
    traces: MemorySpans,
    outcome: str,
    fields: dict[str, Any],
    known: dict[str, Any],
    error: tuple[str, str] | None,
) -> None:
    virtually(run_for, 5, traced(traces, **fields))
    [span] = traces.spans
    assert span.name == "tick sweep"
    assert span.kind is SpanKind.INTERNAL
    assert span.parent is None
    assert span.links == ()
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name == "tickrunner_trio"
    assert span.instrumentation_scope.version == version("tickrunner-trio")
    assert parts(span) == {
        "tickrunner.service": "sweep",
        "tickrunner.lock_id": LOCK_ID,
        "tickrunner.tick.number": 1,
        "code.function.name": module_of(fields["work"]),
        "tickrunner.outcome": outcome,
        **{f"tickrunner.{name}": value for name, value in known.items()},
        **({} if error is None else {"error.type": error[0]}),
    }
    if error is None:
        assert (span.status.status_code, span.status.description, list(span.events)) == (StatusCode.UNSET, None, [])
    else:
        assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, error[1])
        events = [event.name for event in span.events]
        assert events == (["tickrunner.lock.lost"] if outcome == "lock_lost" else []) + ["exception"]
        assert (span.events[-1].attributes or {})["exception.type"] is not None


@pytest.mark.parametrize(("outcome", "fields"), SKIPS)
def test_a_skipped_tick_has_no_span(traces: MemorySpans, outcome: str, fields: dict[str, Any]) -> None:
    virtually(run_for, 5, traced(traces, **fields))
    assert traces.spans == ()


@pytest.mark.parametrize("how", ["argument", "1", " True"])
@pytest.mark.parametrize(("outcome", "fields"), SKIPS)
def test_a_skipped_tick_has_a_span_if_somebody_asks(
    traces: MemorySpans, monkeypatch: pytest.MonkeyPatch, outcome: str, fields: dict[str, Any], how: str
) -> None:
    if how == "argument":
        traces.providers["trace_skipped"] = True
    else:
        monkeypatch.setenv("TICKRUNNER_TRACE_SKIPPED", how)
    before = time.time_ns()
    virtually(run_for, 5, traced(traces, **fields))
    [span] = traces.spans
    assert (span.attributes or {})["tickrunner.outcome"] == outcome
    assert span.status.status_code is StatusCode.UNSET
    assert span.start_time is not None
    assert span.end_time is not None
    took = {"busy": 0.5, "cancelled": 5.0}.get(outcome, 0.0)
    # Dated back by what the tick took, on the virtual clock.
    assert took <= (span.end_time - span.start_time) / 1e9 < took + (time.time_ns() - before) / 1e9


@pytest.mark.parametrize("environment", ["0", "no", "", None])
def test_the_argument_says_more_than_the_environment(
    traces: MemorySpans, monkeypatch: pytest.MonkeyPatch, environment: str | None
) -> None:
    busy = {"work": works, "locker": always(Busy())}
    monkeypatch.delenv("TICKRUNNER_TRACE_SKIPPED", raising=False)
    if environment is not None:
        monkeypatch.setenv("TICKRUNNER_TRACE_SKIPPED", environment)
    virtually(run_for, 5, traced(traces, **busy))
    assert traces.spans == ()
    monkeypatch.setenv("TICKRUNNER_TRACE_SKIPPED", "1")
    traces.providers["trace_skipped"] = False
    virtually(run_for, 5, traced(traces, **busy))
    assert traces.spans == ()


def test_wrong_arguments_are_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TypeError, match=r"tracer_provider must be .*TracerProvider, got 'otlp': leave it out"):
        service(works, telemetry={"tracer_provider": "otlp"})
    with pytest.raises(TypeError, match="trace_skipped must be a bool, got 1: use True"):
        service(works, telemetry={"trace_skipped": 1})
    monkeypatch.setenv("TICKRUNNER_TRACE_SKIPPED", "maybe")
    with pytest.raises(ValueError, match="TICKRUNNER_TRACE_SKIPPED must be 1 or 0, got 'maybe': unset it"):
        service(works)


def test_a_tick_links_to_the_one_before_and_begins_a_trace_of_its_own(traces: MemorySpans) -> None:
    sweep = traced(traces, works)
    virtually(run_for, 25, sweep)
    first, second, third = traces.spans
    assert [link.context for span in (first, second, third) for link in span.links] == [first.context, second.context]
    assert len({span.context.trace_id for span in (first, second, third)}) == 3


def test_ticks_of_different_services_do_not_link(traces: MemorySpans) -> None:
    virtually(run_for, 5, traced(traces, works, name="one"), traced(traces, works, name="two", lock_id=43))
    assert [list(span.links) for span in traces.spans] == [[], []]


class EverySecond(Sampler):
    """Takes every second span, by the number of the tick: it is there for samplers to see."""

    def __init__(self, otherwise: Decision) -> None:
        self._otherwise = otherwise

    def should_sample(self, parent_context: Any, trace_id: int, name: str, *rest: Any, **more: Any) -> SamplingResult:
        attributes = more.get("attributes") or rest[1]
        assert attributes.keys() >= {
            *("tickrunner.service", "tickrunner.lock_id", "tickrunner.request_id", "tickrunner.tick.number"),
            "code.function.name",
        }
        taken = attributes["tickrunner.tick.number"] % 2
        return SamplingResult(Decision.RECORD_AND_SAMPLE if taken else self._otherwise, attributes)

    get_description = ALWAYS_OFF.get_description  # nobody asks for it


@pytest.mark.parametrize("otherwise", [Decision.DROP, Decision.RECORD_ONLY])
def test_a_tick_links_to_the_last_one_that_was_sampled(otherwise: Decision) -> None:
    traces = MemorySpans(EverySecond(otherwise))
    virtually(run_for, 25, traced(traces, works))
    first, third = traces.spans
    assert [link.context for link in third.links] == [first.context]


def test_the_span_is_a_root_also_where_the_application_has_one(traces: MemorySpans) -> None:
    async def main() -> None:
        with traces.provider.get_tracer("app").start_as_current_span("main"):
            await sweep.tick()

    sweep = traced(traces, works)
    virtually(main)
    tick, main_span = traces.spans
    assert main_span.name == "main"
    assert tick.parent is None
    assert tick.context.trace_id != main_span.context.trace_id


def test_the_span_ends_with_the_work_and_not_with_the_hold(traces: MemorySpans) -> None:
    seen: list[Any] = []

    class Gate:
        def __call__(self) -> bool:
            seen.append(trace.get_current_span().get_span_context().is_valid)
            return True

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sweep.run)
            await trio.sleep(2)  # it holds
            assert len(traces.spans) == 1
            await sweep.tick()  # under the hold
            assert len(traces.spans) == 2
            nursery.cancel_scope.cancel()
        assert not trace.get_current_span().get_span_context().is_valid

    sweep = traced(traces, works, should_run=Gate())
    virtually(main)
    assert seen == [False, False]


def test_the_startup_pass_says_whose_code_it_is(traces: MemorySpans) -> None:
    virtually(run_for, 15, traced(traces, works, startup=finds_nothing))
    assert [(span.attributes or {})["code.function.name"] for span in traces.spans] == [
        module_of(finds_nothing),
        module_of(works),
    ]


async def finds_nothing(tick: Tick) -> None:
    pass


class Sweeper:
    async def __call__(self, tick: Tick) -> None:
        pass

    async def sweep(self, tick: Tick) -> None:
        pass


@pytest.mark.parametrize(
    ("work", "name"),
    [
        (functools.partial(functools.partial(finds_nothing)), module_of(finds_nothing)),
        (Sweeper(), f"{__name__}.Sweeper.__call__"),
        (Sweeper().sweep, f"{__name__}.Sweeper.sweep"),
    ],
)
def test_the_code_has_a_name_whatever_kind_of_function_it_is(traces: MemorySpans, work: Any, name: str) -> None:
    virtually(traced(traces, work).tick)
    assert (traces.spans[0].attributes or {})["code.function.name"] == name


# -- Context -----------------------------------------------------------------------------------------------------------


def test_spans_of_the_work_are_children_in_nurseries_and_threads(traces: MemorySpans) -> None:
    tracer = traces.provider.get_tracer("app")

    def in_a_thread() -> None:
        with tracer.start_as_current_span("thread"):
            trio.from_thread.run(in_trio_again)

    async def in_trio_again() -> None:
        with tracer.start_as_current_span("trio again"):
            await trio.lowlevel.checkpoint()

    async def child(name: str) -> None:
        with tracer.start_as_current_span(name):
            await trio.lowlevel.checkpoint()

    async def work(tick: Tick) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child, "nursery")
        await trio.to_thread.run_sync(in_a_thread)
        await child("own")

    trio.run(traced(traces, work).tick)  # a real clock: there is a thread
    by_name = {span.name: span for span in traces.spans}
    parents = {name: span.parent.span_id if span.parent else None for name, span in by_name.items()}
    tick = by_name["tick sweep"].context.span_id
    thread = by_name["thread"].context.span_id
    assert parents == {"tick sweep": None, "nursery": tick, "thread": tick, "trio again": thread, "own": tick}


def test_the_context_follows_into_asyncio(traces: MemorySpans) -> None:
    tracer = traces.provider.get_tracer("app")

    async def on_asyncio() -> None:
        def in_its_thread() -> None:
            with tracer.start_as_current_span("asyncio's thread"):
                pass

        await asyncio.to_thread(in_its_thread)

    async def work(tick: Tick) -> None:
        await trio.to_thread.run_sync(asyncio.run, on_asyncio())

    trio.run(traced(traces, work).tick)
    inner, tick = traces.spans
    assert inner.parent == tick.context


def test_an_unsampled_tick_keeps_its_children_unsampled() -> None:
    traces = MemorySpans(ALWAYS_OFF)
    seen: list[bool] = []

    async def work(tick: Tick) -> None:
        current = trace.get_current_span().get_span_context()
        seen.append(current.is_valid and not current.trace_flags.sampled)

    virtually(traced(traces, work).tick)
    assert seen == [True]


def test_baggage_of_the_application_reaches_the_work(traces: MemorySpans) -> None:
    seen: list[object] = []

    async def work(tick: Tick) -> None:
        seen.append(baggage.get_baggage("tenant"))

    async def main() -> None:
        token = context.attach(baggage.set_baggage("tenant", "blue"))
        await sweep.tick()
        context.detach(token)

    sweep = traced(traces, work)
    virtually(main)
    assert seen == ["blue"]


# -- Exceptions, losses, logs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("opt_in", "recorded"), [(None, True), ("", True), ("logs/dup", True), ("logs", False), ("http, logs", False)]
)
def test_one_switch_turns_exceptions_on_spans_off(
    traces: MemorySpans, monkeypatch: pytest.MonkeyPatch, opt_in: str | None, recorded: bool
) -> None:
    monkeypatch.delenv("OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN", raising=False)
    if opt_in is not None:
        monkeypatch.setenv("OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN", opt_in)
    virtually(traced(traces, fails).tick)
    [span] = traces.spans
    assert [event.name for event in span.events] == (["exception"] if recorded else [])
    assert span.status.status_code is StatusCode.ERROR
    if recorded:
        attributes = span.events[0].attributes or {}
        assert attributes["exception.type"] == "ValueError"
        assert "in fails" in str(attributes["exception.stacktrace"])


async def test_the_loss_of_a_lock_is_an_event_at_its_moment(dsn: str, traces: MemorySpans) -> None:
    seen: list[int] = []

    async def work(tick: Tick) -> None:
        seen.append(time.time_ns())
        terminate(dsn)
        with trio.CancelScope(shield=True):
            await trio.sleep(0.5)  # and it stops only then
        seen.append(time.time_ns())

    async with PostgresLocker(dsn) as locker:
        report = await traced(traces, work, locker).tick()
    assert report.outcome is Outcome.LOCK_LOST
    [span] = traces.spans
    lost = span.events[0]
    assert lost.name == "tickrunner.lock.lost"
    began, stopped = seen
    assert began <= lost.timestamp <= stopped - 300_000_000


@pytest.mark.parametrize("hook", [True, False])
def test_log_and_hook_of_an_error_stand_inside_the_span(traces: MemorySpans, hook: bool) -> None:
    records: list[logging.LogRecord] = []
    seen: list[int] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    def on_error(error: BaseException) -> None:
        seen.append(trace.get_current_span().get_span_context().span_id)

    logger, handler = logging.getLogger("tickrunner_trio"), Handler()
    logger.addHandler(handler)
    try:
        virtually(traced(traces, fails, on_error=on_error if hook else None).tick)
    finally:
        logger.removeHandler(handler)
    [span] = traces.spans
    if hook:
        assert seen == [span.context.span_id]
    else:
        [record] = records
        assert (record.getMessage(), record.exc_info is not None) == ("pass failed", True)
        assert record.__dict__["trace_id"] == trace.format_trace_id(span.context.trace_id)
        assert record.__dict__["span_id"] == trace.format_span_id(span.context.span_id)
        assert record.__dict__["request_id"] == (span.attributes or {})["tickrunner.request_id"]


def test_an_error_without_work_is_logged_inside_its_span_too(
    traces: MemorySpans, caplog: pytest.LogCaptureFixture
) -> None:
    virtually(traced(traces, works, always(Fails(LockerConfigurationError()))).tick)
    [span] = traces.spans
    [record] = [record for record in caplog.records if record.getMessage() == "pass failed"]
    assert record.__dict__["span_id"] == trace.format_span_id(span.context.span_id)


def test_records_carry_the_ids_of_the_span_or_none(traces: MemorySpans) -> None:
    log = component_logger("sweep")
    with traces.provider.get_tracer("app").start_as_current_span("app") as span:
        ids = (
            trace.format_trace_id(span.get_span_context().trace_id),
            trace.format_span_id(span.get_span_context().span_id),
        )
        _, kwargs = log.process("", {})
        assert (kwargs["extra"]["trace_id"], kwargs["extra"]["span_id"]) == ids
        _, kwargs = log.process("", {"extra": {"trace_id": "the caller's"}})
        assert kwargs["extra"]["trace_id"] == "the caller's"
        record = logging.makeLogRecord({})
        assert TickContextFilter().filter(record)
        assert (record.__dict__["trace_id"], record.__dict__["span_id"]) == ids
        carried = logging.makeLogRecord({"trace_id": "its own", "span_id": "too"})
        assert TickContextFilter().filter(carried)
        assert (carried.__dict__["trace_id"], carried.__dict__["span_id"]) == ("its own", "too")
    record = logging.makeLogRecord({})
    TickContextFilter().filter(record)
    assert (record.__dict__["trace_id"], record.__dict__["span_id"]) == (None, None)


def test_a_span_of_somebody_that_cannot_say_who_it_is_costs_no_record() -> None:
    class NamelessSpan(trace.NonRecordingSpan):
        def get_span_context(self) -> trace.SpanContext:
            raise ZeroDivisionError

    record = logging.makeLogRecord({})
    token = context.attach(trace.set_span_in_context(NamelessSpan(trace.INVALID_SPAN_CONTEXT)))
    try:
        assert TickContextFilter().filter(record)
    finally:
        context.detach(token)
    assert (record.__dict__["trace_id"], record.__dict__["span_id"]) == (None, None)


# -- Nobody is disturbed -----------------------------------------------------------------------------------------------


class Broken(SpanProcessor):
    """Raises where it is told to."""

    def __init__(self, method: str, error: BaseException) -> None:
        self._method, self._error = method, error

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        if self._method == "on_start":
            raise self._error

    def on_end(self, span: Any) -> None:
        raise self._error


class BrokenSampler(Sampler):
    def should_sample(self, *_: Any, **__: Any) -> SamplingResult:
        raise ZeroDivisionError("sampler")

    get_description = ALWAYS_OFF.get_description


class BrokenTracers(trace.TracerProvider):
    def get_tracer(self, *_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("provider")


class BrokenTracer(trace.TracerProvider):
    """Its spans raise from everything, or do not even say whether they record."""

    def __init__(self, *, says_whether_it_records: bool = True) -> None:
        self._says_whether_it_records = says_whether_it_records

    def get_tracer(self, *_: Any, **__: Any) -> Any:
        says_whether_it_records = self._says_whether_it_records

        class Tracer(trace.NoOpTracer):
            def start_span(self, *_: Any, **__: Any) -> Any:
                return BrokenSpan(says_whether_it_records=says_whether_it_records)

        return Tracer()


class BrokenSpan(trace.NonRecordingSpan):
    def __init__(self, *, says_whether_it_records: bool) -> None:
        super().__init__(trace.SpanContext(1, 2, is_remote=False))
        self._says_whether_it_records = says_whether_it_records

    def is_recording(self) -> bool:
        if not self._says_whether_it_records:
            raise ZeroDivisionError("is_recording")
        return True

    def set_attribute(self, *_: Any, **__: Any) -> None:
        raise ZeroDivisionError("attribute")

    def end(self, *_: Any, **__: Any) -> None:
        raise ZeroDivisionError("end")


class BrokenMeters(MeterProvider):
    def get_meter(self, *_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("provider")


class BrokenInstruments(MeterProvider):
    """Its meter raises when it makes an instrument."""

    def get_meter(self, *arguments: Any, **more: Any) -> Any:
        meter = super().get_meter(*arguments, **more)

        def broken(*_: Any, **__: Any) -> Any:
            raise ZeroDivisionError("instrument")

        for kind in ("create_histogram", "create_observable_counter", "create_observable_gauge"):
            setattr(meter, kind, broken)
        return meter


class BrokenRecording(MeterProvider):
    """Its histograms raise when they record."""

    def get_meter(self, *arguments: Any, **more: Any) -> Any:
        meter = super().get_meter(*arguments, **more)
        create = meter.create_histogram

        def broken(*_: Any, **__: Any) -> Any:
            raise ZeroDivisionError("record")

        def create_broken(*arguments: Any, **more: Any) -> Any:
            histogram = create(*arguments, **more)
            histogram.record = broken  # type: ignore[method-assign]
            return histogram

        meter.create_histogram = create_broken  # type: ignore[method-assign]
        return meter


def with_processor(method: str, error: BaseException) -> TracerProvider:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Broken(method, error))
    return provider


@pytest.mark.parametrize(
    ("telemetry", "kinds"),
    [
        (lambda: {"tracer_provider": with_processor("on_start", ZeroDivisionError())}, {"beginning a span"}),
        (lambda: {"tracer_provider": with_processor("on_end", ZeroDivisionError())}, {"ending a span"}),
        (lambda: {"tracer_provider": TracerProvider(BrokenSampler(), shutdown_on_exit=False)}, {"beginning a span"}),
        (lambda: {"tracer_provider": BrokenTracers()}, {"making a tracer"}),
        (lambda: {"tracer_provider": BrokenTracer()}, {"writing to a span", "ending a span"}),
        (
            lambda: {"tracer_provider": BrokenTracer(says_whether_it_records=False)},
            {"writing to a span", "ending a span"},
        ),
        (lambda: {"meter_provider": BrokenMeters(shutdown_on_exit=False)}, {"making a meter"}),
        (
            lambda: {"meter_provider": BrokenInstruments(shutdown_on_exit=False)},
            {"making a histogram", "making an observable instrument"},
        ),
        (lambda: {"meter_provider": BrokenRecording(shutdown_on_exit=False)}, {"recording a histogram"}),
    ],
)
def test_what_telemetry_raises_disturbs_no_tick_and_is_logged_once(
    caplog: pytest.LogCaptureFixture, telemetry: Callable[[], dict[str, Any]], kinds: set[str]
) -> None:
    ran: list[int] = []

    async def work(tick: Tick) -> None:
        ran.append(tick.number)

    async def main() -> None:
        reports.extend([await sweep.tick() for _ in range(ticks)])

    ticks = 3 * MOST_WAITING  # so many are recorded at once
    reports: list[TickReport] = []
    sweep = service(work, MemoryLocker(), telemetry=telemetry())
    virtually(main)
    assert ran == list(range(1, ticks + 1))
    assert [report.outcome for report in reports] == [Outcome.SUCCESS] * ticks
    said = [record.getMessage() for record in caplog.records if record.name == "tickrunner_trio.telemetry"]
    assert len(said) == len(kinds)
    assert {re.findall(": (.*) raised; the work goes on", text)[0] for text in said} == kinds
    assert not trace.get_current_span().get_span_context().is_valid


class Interrupted(trace.TracerProvider):
    """Raises KeyboardInterrupt when its spans are written to."""

    def get_tracer(self, *_: Any, **__: Any) -> Any:
        class Span(trace.NonRecordingSpan):
            def is_recording(self) -> bool:
                return True

            def set_attribute(self, *_: Any, **__: Any) -> None:
                raise KeyboardInterrupt

        class Tracer(trace.NoOpTracer):
            def start_span(self, *_: Any, **__: Any) -> Any:
                return Span(trace.SpanContext(1, 2, is_remote=False))

        return Tracer()


@pytest.mark.parametrize(
    ("provider", "outcome"),
    [
        # At each start, so also at that of a span that is dated back; and the work does not run.
        (with_processor("on_start", KeyboardInterrupt()), Outcome.FAILED),
        (with_processor("on_end", KeyboardInterrupt()), Outcome.SUCCESS),
        (Interrupted(), Outcome.SUCCESS),
    ],
)
def test_a_ctrl_c_in_a_processor_passes_through_after_the_report_and_the_lock(
    provider: trace.TracerProvider, outcome: Outcome
) -> None:
    locker, meters = ScriptedLocker(), MemoryMetrics()
    sweep = service(works, locker, telemetry={"tracer_provider": provider, **meters.providers})
    with pytest.raises(KeyboardInterrupt):
        virtually(sweep.tick)
    assert names(locker) == ["locked", "unlocked"]
    assert {name: count for name, count in meters.of("sweep")["ticks"].items() if count} == {outcome.value: 1}
    assert sweep.health().last_outcome is outcome


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({"should_run": lambda: 1 / 0}, Outcome.FAILED),
        ({"locker": always(Fails(LockerConfigurationError()))}, Outcome.LOCKER_ERROR),
    ],
)
def test_a_ctrl_c_in_a_processor_costs_no_report_of_a_tick_without_work(
    fields: dict[str, Any], outcome: Outcome
) -> None:
    telemetry = {"tracer_provider": with_processor("on_start", KeyboardInterrupt())}
    sweep = service(works, telemetry=telemetry, **fields)
    with pytest.raises(KeyboardInterrupt):
        virtually(sweep.tick)
    assert sweep.health().last_outcome is outcome


class RaisingSpans(SpanExporter):
    asked = 0

    def export(self, spans: Any) -> Any:
        self.asked += 1
        raise ZeroDivisionError("export")

    def shutdown(self) -> None:
        raise ZeroDivisionError("shutdown")


@pytest.mark.parametrize("processor", [SimpleSpanProcessor, BatchSpanProcessor])
def test_an_exporter_of_spans_that_raises_disturbs_no_tick_and_no_other_exporter(processor: Any) -> None:
    traces, exporter = MemorySpans(), RaisingSpans()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor(exporter))
    provider.add_span_processor(SimpleSpanProcessor(traces.exporter))
    sweep = service(works, telemetry={"tracer_provider": provider})
    for number in (1, 2, 3):
        assert virtually(sweep.tick).outcome is Outcome.SUCCESS
        provider.force_flush()
        assert exporter.asked == number
    assert [(span.attributes or {})["tickrunner.outcome"] for span in traces.spans] == ["success"] * 3
    with contextlib.suppress(ZeroDivisionError):
        provider.shutdown()


class RaisingMetrics(MetricExporter):
    asked = 0

    def export(self, metrics_data: Any, timeout_millis: float = 0, **_: Any) -> Any:
        self.asked += 1
        raise ZeroDivisionError("export")

    def force_flush(self, timeout_millis: float = 0) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 0, **_: Any) -> None:
        raise ZeroDivisionError("shutdown")


class RaisingReader(MetricReader):
    asked = 0

    def _receive_metrics(self, *_: Any, **__: Any) -> None:
        self.asked += 1
        raise ZeroDivisionError("read")

    def shutdown(self, timeout_millis: float = 0, **_: Any) -> None:
        raise ZeroDivisionError("shutdown")


@pytest.mark.parametrize("kind", ["exporter", "reader"])
def test_a_reader_of_metrics_that_raises_disturbs_no_tick_and_no_other_reader(kind: str) -> None:
    exporter, raising = RaisingMetrics(), RaisingReader()
    asked_one: Any = exporter if kind == "exporter" else raising
    reader = PeriodicExportingMetricReader(exporter, math.inf) if kind == "exporter" else raising
    meters = MemoryMetrics(reader)
    sweep = service(works, telemetry=meters.providers)
    for number in (1, 2, 3):
        assert virtually(sweep.tick).outcome is Outcome.SUCCESS
        with contextlib.suppress(ZeroDivisionError):
            reader.force_flush()
        assert asked_one.asked == number
        assert meters.of("sweep")["ticks"]["success"] == number
    with contextlib.suppress(Exception):
        meters.provider.shutdown()


def test_a_provider_that_counts_as_false_is_used_all_the_same() -> None:
    class EmptyProvider(TracerProvider):
        def __len__(self) -> int:
            return 0

    traces = MemorySpans()
    provider = EmptyProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(traces.exporter))
    virtually(service(works, telemetry={"tracer_provider": provider}).tick)
    assert [span.name for span in traces.spans] == ["tick sweep"]
    assert not provider


def test_an_error_that_cannot_be_shown_still_makes_an_error_of_the_span(
    traces: MemorySpans, caplog: pytest.LogCaptureFixture
) -> None:
    class ShyError(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

    async def work(tick: Tick) -> None:
        raise ShyError

    virtually(traced(traces, work).tick)
    [span] = traces.spans
    assert span.status.status_code is StatusCode.ERROR
    assert "its text cannot be had" in str(span.status.description)
    assert (span.attributes or {})["error.type"] == f"{__name__}.{ShyError.__qualname__}"


class BrokenLease:
    """A lease of somebody's, lost from the first, whose offers raise."""

    lock_id, epoch = 1, None

    def __init__(self, *, offers_to_tell: bool) -> None:
        self.lost = False
        self._offers_to_tell = offers_to_tell

    def lost_for(self) -> float:
        raise ZeroDivisionError("lost_for")

    def tell_if_overstayed(self, tell: object) -> None:
        if not self._offers_to_tell:
            raise ZeroDivisionError("tell_if_overstayed")


@pytest.mark.parametrize(
    ("offers_to_tell", "said"),
    [(False, "the lease's tell_if_overstayed raised"), (True, "the lease's lost_for raised")],
)
def test_what_a_lease_of_somebody_raises_when_it_is_watched_disturbs_no_tick(
    traces: MemorySpans, caplog: pytest.LogCaptureFixture, offers_to_tell: bool, said: str
) -> None:
    lease = BrokenLease(offers_to_tell=offers_to_tell)

    class Locker:
        async def with_advisory_lock(self, lock_id: int, fn: Callable[[Any], Any]) -> bool:
            await fn(lease)
            return True

    async def work(tick: Tick) -> None:
        lease.lost = True

    report = virtually(traced(traces, work, Locker()).tick)
    assert report.outcome is Outcome.LOCK_LOST
    assert [event.name for event in traces.spans[0].events] == ["tickrunner.lock.lost", "exception"]
    assert said in caplog.messages


def test_the_duration_of_an_error_leads_to_its_trace(traces: MemorySpans) -> None:
    meters = MemoryMetrics()
    virtually(service(fails, telemetry={**traces.providers, **meters.providers}).tick)
    virtually(service(works, telemetry={**traces.providers, **meters.providers}).tick)  # a success has none
    data = meters.reader.get_metrics_data()
    assert data is not None
    exemplars = {
        metric.name: [exemplar.span_id for point in metric.data.data_points for exemplar in point.exemplars]
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
    }
    assert exemplars.pop("tickrunner.tick.duration") == [traces.spans[0].context.span_id]
    assert not any(exemplars.values())
