"""`thread_work`: a plain function in a real thread, whose lock stays until it has stopped, and what is told of that."""

from __future__ import annotations

import functools
import logging
import re
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import trio
from opentelemetry.trace import INVALID_SPAN_CONTEXT, NonRecordingSpan, use_span
from postgres_view import locks, terminate
from scripted import always, names, service

from tickrunner_trio import (
    Config,
    DatabaseUnavailableError,
    LockLostError,
    MemoryLocker,
    Outcome,
    PostgresLocker,
    Tick,
    request_id,
)
from tickrunner_trio import _thread_work as module
from tickrunner_trio._telemetry import _events
from tickrunner_trio.bridges import thread_work
from tickrunner_trio.testing import Grant, ScriptedLocker
from tickrunner_trio.testing._memory_telemetry import MemorySpans

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from tickrunner_trio import Lease, TickReport

#: Seconds until a test gives up on a thread that should have been told, or let go on.
PATIENCE = 60.0

#: Seconds after which something ends that has begun by then.
SOON = 0.2


def ask_until_cancelled() -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:  # pragma: no branch - it is cancelled before
        trio.from_thread.check_cancelled()
        time.sleep(0.001)


class Stubborn:
    """Work that notices its cancellation and goes on all the same, until it is let go."""

    def __init__(self) -> None:
        self.began = trio.Event()
        self.told = trio.Event()
        self.let_go = threading.Event()
        self.stopped = False
        self._token = trio.lowlevel.current_trio_token()

    def work(self, tick: Tick) -> None:
        self._token.run_sync_soon(self.began.set)
        try:
            ask_until_cancelled()
        except trio.Cancelled:
            self._token.run_sync_soon(self.told.set)
            assert self.let_go.wait(PATIENCE)
            self.stopped = True
            raise


def stopped_after(records: list[logging.LogRecord]) -> list[float]:
    return [record.stopped_after for record in records if hasattr(record, "stopped_after")]


# The thread.


async def test_it_runs_in_a_thread_and_the_trio_loop_goes_on() -> None:
    seen: list[Any] = []
    go_on = threading.Event()

    def work(tick: Tick) -> str:
        seen.extend([tick, threading.current_thread().name, threading.get_ident()])
        assert go_on.wait(PATIENCE)
        return "dropped"

    async with trio.open_nursery() as nursery:
        subject = service(thread_work(work))
        reports: list[TickReport] = []

        @nursery.start_soon
        async def ticking() -> None:
            reports.append(await subject.tick())

        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
    [report] = reports
    assert (report.outcome, report.error) == (Outcome.SUCCESS, None)
    tick, name, ident = seen
    assert (tick.service, tick.request_id) == ("sweep", report.request_id)
    assert name == "sweep: work"
    assert ident != threading.get_ident()


async def test_request_id_and_span_are_there_in_the_thread() -> None:
    traces, seen = MemorySpans(), list[str | None]()
    tracer = traces.provider.get_tracer("test")

    def work(tick: Tick) -> None:
        seen.append(request_id())
        with tracer.start_as_current_span("inside"):
            pass

    report = await service(thread_work(work), telemetry=traces.providers).tick()
    assert seen == [report.request_id]
    inside, tick = traces.spans
    assert tick.context is not None
    assert inside.parent is not None
    assert inside.parent.span_id == tick.context.span_id
    assert tick.events == ()


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (OSError("disk full"), Outcome.FAILED),
        (ExceptionGroup("two", [OSError("a"), ValueError("b")]), Outcome.FAILED),
        (DatabaseUnavailableError("away"), Outcome.UNAVAILABLE),
    ],
)
async def test_its_errors_come_back_as_they_are(error: Exception, outcome: Outcome) -> None:
    def work(tick: Tick) -> None:
        raise error

    report = await service(thread_work(work)).tick()
    assert report.outcome is outcome
    assert report.error is error
    assert not hasattr(error, "__notes__")


async def test_what_ends_the_program_passes_through_in_no_group() -> None:
    def work(tick: Tick) -> None:
        raise SystemExit(3)

    locker = ScriptedLocker()
    with pytest.raises(SystemExit):
        await service(thread_work(work), locker).tick()
    assert names(locker) == ["locked", "unlocked"]


def interrupted(work: Callable[[Callable[[], None]], object]) -> TickReport:
    """Have one tick of it, given what sends Ctrl-C and returns when Trio has it; return the report all the same."""
    published: list[TickReport] = []
    locker = ScriptedLocker()

    async def main() -> None:
        token = trio.lowlevel.current_trio_token()

        def interrupt() -> None:
            trio_has_it = threading.Event()
            signal.raise_signal(signal.SIGINT)
            token.run_sync_soon(token.run_sync_soon, trio_has_it.set)
            assert trio_has_it.wait(PATIENCE)

        subject = service(thread_work(lambda tick: work(interrupt)), locker)
        publish = subject._publish
        subject._publish = lambda report, at: (published.append(report), publish(report, at))  # type: ignore[method-assign]
        await subject.tick()
        await trio.sleep_forever()  # it comes at the next wait, at the latest

    with pytest.raises(KeyboardInterrupt):  # plain, in no group
        trio.run(main)
    assert names(locker) == ["locked", "unlocked"]
    [report] = published
    return report


def test_ctrl_c_is_no_failure_of_a_function_that_succeeds() -> None:
    report = interrupted(lambda interrupt: interrupt())
    assert (report.outcome, report.error) == (Outcome.SUCCESS, None)


def test_ctrl_c_reaches_a_function_that_asks_and_comes_out_in_no_group() -> None:
    def work(interrupt: Callable[[], None]) -> None:
        interrupt()
        ask_until_cancelled()

    report = interrupted(work)
    assert isinstance(report.error, KeyboardInterrupt)


# Cancellation.


async def test_a_timeout_reaches_a_thread_that_asks(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    traces, cleaned_up = MemorySpans(), list[str]()

    def work(tick: Tick) -> None:
        try:
            ask_until_cancelled()
        finally:
            cleaned_up.append("yes")

    report = await service(thread_work(work), tick_timeout=SOON, telemetry=traces.providers).tick()
    assert report.outcome is Outcome.TIMED_OUT
    assert cleaned_up == ["yes"]
    assert report.duration >= SOON
    # Report, log and span say how long it took to stop, each within the tick.
    [seconds] = stopped_after(caplog.records)
    assert 0 <= seconds <= report.duration - SOON + 0.001  # the deadline is noticed a little late, never early
    [note] = report.error.__notes__ if report.error else []
    told = re.fullmatch(r"the work stopped (\d\.\d{3}) s later", note)
    assert told is not None
    assert 0 <= float(told[1]) <= report.duration - SOON + 0.001
    [tick] = traces.spans
    [attributes] = [event.attributes for event in tick.events if event.name == "tickrunner.thread.stopped"]
    assert attributes == {"tickrunner.stopped_after": seconds}
    assert "has not stopped" not in caplog.text


async def test_a_cancelled_service_stops_a_thread_that_asks_and_the_report_says_how_long_it_took() -> None:
    published: list[TickReport] = []
    locker = ScriptedLocker()
    subject = service(thread_work(lambda tick: ask_until_cancelled()), locker)
    publish = subject._publish
    subject._publish = lambda report, at: (published.append(report), publish(report, at))  # type: ignore[method-assign]
    # Plain, as of any other work: in a group it would surprise whoever catches it between here and the scope.
    with trio.move_on_after(SOON) as scope, pytest.raises(trio.Cancelled):
        await subject.tick()
    assert scope.cancel_called
    [report] = published
    assert report.outcome is Outcome.CANCELLED
    assert isinstance(report.error, trio.Cancelled)
    [note] = report.error.__notes__
    assert note.startswith("the thread of the work stopped 0.")
    assert names(locker) == ["locked", "unlocked"]


async def test_a_function_that_does_not_ask_runs_to_its_end_and_has_timed_out_all_the_same() -> None:
    finished: list[str] = []

    def work(tick: Tick) -> None:
        time.sleep(4 * SOON)
        finished.append("yes")

    report = await service(thread_work(work), tick_timeout=SOON).tick()
    assert report.outcome is Outcome.TIMED_OUT
    assert finished == ["yes"]
    assert report.duration >= 4 * SOON


async def test_a_lost_lock_reaches_a_thread_that_asks() -> None:
    report = await service(thread_work(lambda tick: ask_until_cancelled()), always(Grant(lost_after=SOON))).tick()
    assert report.outcome is Outcome.LOCK_LOST


async def test_cancelled_before_it_begins_it_starts_no_thread_and_says_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    ran: list[Tick] = []
    limiter = trio.CapacityLimiter(1)
    busy: object = object()
    limiter.acquire_on_behalf_of_nowait(busy)
    subject = service(thread_work(ran.append, limiter=limiter), tick_timeout=SOON)
    report = await subject.tick()
    limiter.release_on_behalf_of(busy)
    assert report.outcome is Outcome.TIMED_OUT
    work, tick = subject.config.work, Tick.__new__(Tick)
    object.__setattr__(tick, "service", "sweep")
    with trio.CancelScope() as scope:
        scope.cancel()
        await work(tick)
    assert scope.cancelled_caught
    assert ran == []
    assert stopped_after(caplog.records) == []
    assert (await subject.tick()).outcome is Outcome.SUCCESS


async def test_an_error_that_is_raised_again_and_again_bears_one_note_of_it() -> None:
    error = OSError("in clean-up")
    error.add_note("of the function's own")

    def work(tick: Tick) -> None:
        try:
            ask_until_cancelled()
        finally:
            raise error

    subject = service(thread_work(work), tick_timeout=SOON)
    for _ in range(3):
        assert (await subject.tick()).outcome is Outcome.TIMED_OUT
    own, note = error.__notes__
    assert own == "of the function's own"
    assert note.startswith("the thread of the work stopped ")


async def test_one_that_does_not_stop_is_a_warning_while_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", SOON)
    warned = threading.Event()
    records: list[logging.LogRecord] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)
            if record.levelno == logging.WARNING:
                warned.set()

    log = logging.Logger("test")
    log.addHandler(Listener())
    in_time: list[bool] = []
    await service(thread_work(lambda tick: in_time.append(warned.wait(PATIENCE))), tick_timeout=SOON, log=log).tick()
    assert in_time == [True]
    messages = [record.getMessage() for record in records]
    assert messages[0].startswith("the thread of the work has not stopped 0.2 s after its cancellation")
    [seconds] = stopped_after(records)
    assert seconds >= SOON


def test_a_span_that_raises_at_that_disturbs_nobody_and_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    class BrokenSpan(NonRecordingSpan):
        def add_event(self, *args: Any, **kwargs: Any) -> None:
            raise ZeroDivisionError

    with use_span(BrokenSpan(INVALID_SPAN_CONTEXT)):
        _events.thread_stopped(1.0)
        _events.thread_stopped(1.0)
    assert [record.name for record in caplog.records] == ["tickrunner_trio.telemetry"]
    assert "adding an event to a span raised" in caplog.text


# Under real locks.


@pytest.fixture(params=["memory", "postgres"])
async def two_lockers(request: pytest.FixtureRequest, dsn: str) -> AsyncGenerator[tuple[Any, Any]]:
    """The locker of the service, and a rival's."""
    if request.param == "memory":
        one = MemoryLocker()
        yield one, one
    else:
        async with PostgresLocker(dsn) as mine, PostgresLocker(dsn) as rivals:
            yield mine, rivals


async def is_free(locker: Any, lock_id: int) -> bool:
    async def nothing(lease: Lease) -> None:
        """Hold it for a moment."""

    return bool(await locker.with_advisory_lock(lock_id, nothing))


@pytest.mark.parametrize("end", ["timeout", "cancellation"])
async def test_the_lock_is_not_let_go_before_the_thread_has_stopped(two_lockers: tuple[Any, Any], end: str) -> None:
    mine, rivals = two_lockers
    stubborn = Stubborn()
    subject = service(thread_work(stubborn.work), mine, tick_timeout=SOON if end == "timeout" else None)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery, trio.open_nursery() as services:
            services.start_soon(subject.tick)
            if end == "cancellation":
                await stubborn.began.wait()
                services.cancel_scope.cancel()

            @nursery.start_soon
            async def rival() -> None:
                await stubborn.told.wait()
                for _ in range(20):
                    assert not await is_free(rivals, subject.lock_id)
                assert not stubborn.stopped
                stubborn.let_go.set()

    assert stubborn.stopped
    assert await is_free(rivals, subject.lock_id)
    assert subject.health().last_outcome is (Outcome.TIMED_OUT if end == "timeout" else Outcome.CANCELLED)


async def test_a_lease_that_the_server_ends_reaches_a_thread_that_asks(dsn: str) -> None:
    began = threading.Event()

    def work(tick: Tick) -> None:
        began.set()
        ask_until_cancelled()

    reports: list[TickReport] = []
    async with PostgresLocker(dsn) as locker:
        subject = service(thread_work(work), locker)
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def ticking() -> None:
                    reports.append(await subject.tick())

                await trio.to_thread.run_sync(began.wait)
                terminate(dsn)
    [report] = reports
    assert report.outcome is Outcome.LOCK_LOST
    assert isinstance(report.error, LockLostError)
    [note] = report.error.__notes__
    assert note.startswith("the work stopped 0.")
    assert locks(dsn) == []


# What it takes.


def plain(tick: Tick) -> None:
    """Work."""


class Worker:
    def method(self, tick: Tick) -> None:
        """Work."""

    def __call__(self, tick: Tick) -> None:
        """Work."""


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (plain, "plain"),
        (functools.partial(functools.partial(plain)), "plain"),
        (Worker().method, "Worker.method"),
        (Worker(), "Worker.__call__"),
    ],
)
async def test_it_goes_by_the_name_of_the_function(function: Callable[[Tick], None], name: str) -> None:
    traces = MemorySpans()
    work = thread_work(function)
    assert repr(work) == f"<thread_work of {__name__}.{name}>"
    Config(name="sweep", interval=60, locker=MemoryLocker(), work=work, startup=work)
    await service(work, telemetry=traces.providers).tick()
    [tick] = traces.spans
    assert (tick.attributes or {})["code.function.name"] == f"{__name__}.{name}"


async def coroutine(tick: Tick) -> None:
    """Async work."""


def generator(tick: Tick) -> Generator[None]:
    yield  # pragma: no cover - it is refused


class AsyncWorker:
    async def __call__(self, tick: Tick) -> None:
        """Async work."""


@pytest.mark.parametrize("function", [coroutine, functools.partial(coroutine), AsyncWorker()])
def test_an_async_function_is_refused_with_the_remedy(function: Any) -> None:
    with pytest.raises(TypeError, match=r"fn must be a plain function, got the async .*: give it to Config"):
        thread_work(function)


@pytest.mark.parametrize("function", [None, 3, generator])
def test_what_is_no_function_is_refused_with_the_remedy(function: Any) -> None:
    with pytest.raises(TypeError, match=r"fn must be a plain function .*, got .*: write 'def work"):
        thread_work(function)


def test_a_function_that_takes_no_tick_is_refused_with_the_remedy() -> None:
    with pytest.raises(TypeError, match=r"^fn must take the arguments of fn\(tick\), got <.*>: have it take these"):
        thread_work(lambda: None)  # type: ignore[arg-type,misc]


def test_a_limiter_of_the_wrong_kind_is_refused_with_the_remedy() -> None:
    with pytest.raises(TypeError, match=r"limiter must be a trio.CapacityLimiter, got 3: make one"):
        thread_work(plain, limiter=3)  # type: ignore[arg-type]


async def test_an_async_function_in_disguise_fails_its_tick() -> None:
    report = await service(thread_work(lambda tick: coroutine(tick))).tick()
    assert report.outcome is Outcome.FAILED
    assert isinstance(report.error, TypeError)


async def test_without_a_limiter_each_has_one_thread_of_its_own() -> None:
    """Full limiters of Trio's do not hold it up, and it takes nothing from them."""
    default = trio.to_thread.current_default_thread_limiter()
    seen: list[int] = []
    holders = [object() for _ in range(int(default.total_tokens))]
    for holder in holders:
        default.acquire_on_behalf_of_nowait(holder)
    try:
        with trio.fail_after(PATIENCE):
            await service(thread_work(lambda tick: seen.append(tick.number))).tick()
    finally:
        for holder in holders:
            default.release_on_behalf_of(holder)
    assert seen == [1]


async def test_without_a_limiter_ticks_of_two_services_that_share_it_take_turns() -> None:
    go_on = threading.Event()
    began: list[str] = []

    def work(tick: Tick) -> None:
        began.append(tick.service)
        assert go_on.wait(PATIENCE)

    work_of_both = thread_work(work)
    limiter = work_of_both._limiter  # type: ignore[attr-defined]
    async with trio.open_nursery() as nursery:
        for name in ("one", "two"):
            nursery.start_soon(service(work_of_both, name=name).tick)
        await trio.testing.wait_all_tasks_blocked()
        statistics = limiter.statistics()
        go_on.set()
    assert (statistics.borrowed_tokens, statistics.tasks_waiting) == (1, 1)
    assert sorted(began) == ["one", "two"]
