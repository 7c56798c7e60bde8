"""`asyncio_work`: a coroutine of asyncio's as work, on each loop that it may run on, and with real libraries."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import aiohttp
import outcome
import psycopg
import pytest
import trio
from postgres_view import asked
from scripted import always, names, run_for, service, virtually

from tickrunner_trio import Config, DatabaseUnavailableError, LockLostError, MemoryLocker, Outcome, Tick, request_id
from tickrunner_trio import _asyncio_work as module
from tickrunner_trio.bridges import asyncio_work, thread_work
from tickrunner_trio.testing import Grant, ScriptedLocker
from tickrunner_trio.testing._memory_telemetry import MemorySpans

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator

    from tickrunner_trio import TickReport

#: Imported as the library does it, without the warnings of Python 3.12 and newer.
trio_asyncio: Any = module._import_trio_asyncio() if sys.version_info < module.TOO_NEW else None

#: Seconds: soon, where it does not matter how soon; and after which something ends that has begun by then.
SOON, LATER = 0.05, 0.3

#: Seconds until a program that hangs is killed, which fails its test.
PATIENCE = 60.0

pytestmark = pytest.mark.skipif(sys.version_info >= module.TOO_NEW, reason="trio-asyncio does not work there")


# The loops that the work may run on. Each of these has one tick of it and returns the report.


def on_a_new_loop(function: Any, *args: Any, **fields: Any) -> TickReport:
    return trio.run(service(asyncio_work(function), *args, **fields).tick)


def on_an_open_loop(function: Any, *args: Any, **fields: Any) -> TickReport:
    async def main() -> TickReport:
        async with trio_asyncio.open_loop():  # its nursery groups what comes out of it
            result = await outcome.acapture(service(asyncio_work(function), *args, **fields).tick)
        return result.unwrap()

    return trio.run(main)


def as_application(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """`asyncio.run`, which in this process would run on Trio: trio-asyncio sees to that as soon as it is imported."""
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(main())


def on_the_loop_of_another_thread(function: Any, *args: Any, **fields: Any) -> TickReport:
    async def application() -> TickReport:
        subject = service(asyncio_work(function, loop=asyncio.get_running_loop()), *args, **fields)
        return await asyncio.to_thread(trio.run, subject.tick)

    return as_application(application)


def as_a_guest(function: Any, *args: Any, **fields: Any) -> TickReport:
    async def application() -> TickReport:
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        trio.lowlevel.start_guest_run(
            service(asyncio_work(function, loop=loop), *args, **fields).tick,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=ended.set_result,
            host_uses_signal_set_wakeup_fd=True,
        )
        report: TickReport = (await ended).unwrap()
        return report

    return as_application(application)


PLACES = [on_a_new_loop, on_an_open_loop, on_the_loop_of_another_thread, as_a_guest]
on_each_loop = pytest.mark.parametrize("tick_of", PLACES)


class ExitingError(BaseException):
    """Ends a program, as `SystemExit` does, which asyncio looks at for itself."""


async def note(ran: list[Tick], tick: Tick) -> None:
    ran.append(tick)


@on_each_loop
def test_it_is_a_task_of_asyncio_and_gets_the_tick(tick_of: Any) -> None:
    seen: list[Tick] = []

    async def work(tick: Tick) -> str:
        assert asyncio.current_task() is not None
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            group.create_task(note(seen, tick))
        return "dropped"

    report = tick_of(work)
    assert (report.outcome, report.error) == (Outcome.SUCCESS, None)
    assert [tick.request_id for tick in seen] == [report.request_id]


@on_each_loop
def test_request_id_and_span_are_there_in_all_its_tasks(tick_of: Any) -> None:
    traces, seen = MemorySpans(), list[str | None]()
    tracer = traces.provider.get_tracer("test")

    async def child() -> None:
        await asyncio.sleep(0)
        seen.append(request_id())
        with tracer.start_as_current_span("child"):
            await asyncio.to_thread(lambda: seen.append(request_id()))

    async def work(tick: Tick) -> None:
        seen.append(request_id())
        await asyncio.create_task(child())

    report = tick_of(work, telemetry=traces.providers)
    assert seen == [report.request_id] * 3
    inside, tick = traces.spans
    assert tick.context is not None
    assert inside.parent is not None
    assert inside.parent.span_id == tick.context.span_id


@on_each_loop
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError("disk full"), Outcome.FAILED),
        (TimeoutError("of its own"), Outcome.FAILED),
        (ExceptionGroup("two", [OSError("a"), ValueError("b")]), Outcome.FAILED),
        (DatabaseUnavailableError("away"), Outcome.UNAVAILABLE),
    ],
)
def test_its_errors_come_back_as_they_are(tick_of: Any, error: Exception, expected: Outcome) -> None:
    async def work(tick: Tick) -> None:
        await asyncio.sleep(0)
        raise error

    report = tick_of(work)
    assert report.outcome is expected
    assert report.error is error


@on_each_loop
@pytest.mark.parametrize("end", ["timeout", "loss"])
def test_a_timeout_and_a_lost_lock_reach_it_as_one_cancelled_error(tick_of: Any, end: str) -> None:
    locker = always(Grant(lost_after=LATER)) if end == "loss" else ScriptedLocker()
    seen: list[str] = []

    async def work(tick: Tick) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            await asyncio.sleep(SOON)  # asyncio does not say it again
            seen.extend(["cleaned up", *names(locker)])
            raise

    report = tick_of(work, locker, tick_timeout=LATER if end == "timeout" else None)
    assert report.outcome is (Outcome.TIMED_OUT if end == "timeout" else Outcome.LOCK_LOST)
    assert isinstance(report.error, trio.TooSlowError if end == "timeout" else LockLostError)
    assert seen == ["cancelled", "cleaned up", "locked"]
    assert names(locker) == ["locked", "unlocked"]


@on_each_loop
def test_what_it_raises_in_answer_is_the_cause(tick_of: Any) -> None:
    error = OSError("in clean-up")

    async def work(tick: Tick) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise error

    report = tick_of(work, tick_timeout=LATER)
    assert report.outcome is Outcome.TIMED_OUT
    assert report.error is not None
    assert report.error.__cause__ is error


@on_each_loop
def test_a_cancellation_of_asyncios_own_is_a_failure_and_ends_nothing_else(tick_of: Any) -> None:
    async def work(tick: Tick) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    report = tick_of(work)
    assert report.outcome is Outcome.FAILED
    assert isinstance(report.error, RuntimeError)
    assert "asyncio cancelled the work" in str(report.error)
    assert isinstance(report.error.__cause__, asyncio.CancelledError)


@on_each_loop
@pytest.mark.parametrize("others", [[], [OSError("disk full")]])
def test_a_cancellation_in_a_group_is_a_failure_and_ends_nothing_else(tick_of: Any, others: list[Exception]) -> None:
    inner = BaseExceptionGroup("inner", [asyncio.CancelledError()])
    group = BaseExceptionGroup("of gather's results", [inner, *others])

    async def work(tick: Tick) -> None:
        await asyncio.sleep(0)
        raise group

    report = tick_of(work)
    assert report.outcome is Outcome.FAILED
    assert isinstance(report.error, RuntimeError)
    assert "a group with a cancellation of asyncio's" in str(report.error)
    assert report.error.__cause__ is group


@on_each_loop
def test_what_ends_the_program_leaves_the_cancellations_of_its_group_behind(tick_of: Any) -> None:
    async def work(tick: Tick) -> None:
        raise BaseExceptionGroup("all", [asyncio.CancelledError(), ExitingError(), OSError("disk full")])

    with pytest.raises(BaseExceptionGroup) as caught:
        tick_of(work)
    [error] = caught.value.exceptions
    assert isinstance(error, ExitingError)


@on_each_loop
def test_what_ends_the_program_passes_through_in_no_group(tick_of: Any) -> None:
    async def work(tick: Tick) -> None:
        await asyncio.sleep(0)
        raise SystemExit(3)

    locker = ScriptedLocker()
    with pytest.raises(SystemExit):
        tick_of(work, locker)
    assert names(locker) == ["locked", "unlocked"]


async def cancelled_plainly(work: Any) -> TickReport | None:
    """Cancel a tick of it from outside; what comes out must be Trio's own cancellation, in no group."""
    subject = service(work)
    with trio.move_on_after(SOON) as scope, pytest.raises(trio.Cancelled):
        await subject.tick()
    assert scope.cancel_called
    assert subject.health().last_outcome is Outcome.CANCELLED
    return None


async def forever(tick: Tick) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("is_open", [False, True])
async def test_a_cancellation_from_outside_comes_back_plain(is_open: bool) -> None:
    if is_open:
        async with trio_asyncio.open_loop():
            await cancelled_plainly(asyncio_work(forever))
    else:
        await cancelled_plainly(asyncio_work(forever))


def test_a_cancellation_from_outside_comes_back_plain_from_an_application() -> None:
    async def application() -> None:
        work = asyncio_work(forever, loop=asyncio.get_running_loop())
        await asyncio.to_thread(trio.run, cancelled_plainly, work)

    as_application(application)


def wait_for_unlocked(locker: ScriptedLocker, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while "unlocked" not in names(locker) and time.monotonic() < deadline:
        time.sleep(0.001)
    return "unlocked" in names(locker)


@pytest.mark.parametrize(
    ("tick_of", "is_left"),
    [(on_a_new_loop, False), (on_an_open_loop, False), (on_the_loop_of_another_thread, True), (as_a_guest, True)],
)
def test_only_on_an_applications_loop_the_lock_does_not_wait_for_a_thread(tick_of: Any, is_left: bool) -> None:
    """An asyncio loop leaves the thread of a cancelled ``to_thread`` alone, trio-asyncio waits for it."""
    locker = ScriptedLocker()
    free: list[bool] = []

    async def work(tick: Tick) -> None:
        seconds = PATIENCE if is_left else 2 * LATER
        await asyncio.to_thread(lambda: free.append(wait_for_unlocked(locker, seconds)))

    assert tick_of(work, locker, tick_timeout=LATER).outcome is Outcome.TIMED_OUT
    assert free == [is_left]


@pytest.mark.parametrize(
    ("tick_of", "is_left"),
    [(on_a_new_loop, False), (on_an_open_loop, True), (on_the_loop_of_another_thread, True), (as_a_guest, True)],
)
def test_only_on_a_loop_of_its_own_the_lock_waits_for_what_is_shielded(tick_of: Any, is_left: bool) -> None:
    locker = ScriptedLocker()
    free: list[bool] = []

    async def child() -> None:
        try:
            await asyncio.Event().wait()
        finally:  # at the end of the loop
            free.append("unlocked" in names(locker))

    kept: list[Any] = []

    async def work(tick: Tick) -> None:
        kept.append(asyncio.create_task(child()))
        await asyncio.shield(kept[0])

    assert tick_of(work, locker, tick_timeout=LATER).outcome is Outcome.TIMED_OUT
    assert free == [is_left]


# A loop of the tick's own.


def test_what_the_work_leaves_behind_has_stopped_before_the_lock_is_let_go() -> None:
    locker = ScriptedLocker()
    kept: list[Any] = []

    async def left_behind() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(SOON)
            locker.note("task stopped")

    async def generator() -> AsyncGenerator[None]:
        try:
            yield
        finally:
            await asyncio.sleep(0)
            locker.note("generator stopped")

    async def work(tick: Tick) -> None:
        kept.extend([asyncio.create_task(left_behind()), generator()])
        await anext(kept[1])

    assert on_a_new_loop(work, locker).outcome is Outcome.SUCCESS
    assert names(locker) == ["locked", "task stopped", "generator stopped", "unlocked"]


@pytest.mark.parametrize("how", ["socket", "thread", "database", "new task"])
def test_what_the_work_leaves_behind_may_clean_up_with_all_that_asyncio_has(how: str, dsn: str) -> None:
    locker = ScriptedLocker()
    tasks: list[Any] = []

    async def clean_up() -> object:
        if how == "socket":
            async with aiohttp.ClientSession() as session, session.get(url) as response:
                return await response.text()
        if how == "thread":
            return await asyncio.to_thread(lambda: "42")
        if how == "database":
            async with await psycopg.AsyncConnection.connect(dsn) as connection:
                return await (await connection.execute("SELECT 42")).fetchone()
        tasks.append(asyncio.create_task(left_behind("task of a task")))
        return None

    async def left_behind(name: str = "task") -> None:
        try:
            await asyncio.Event().wait()
        finally:
            if name == "task":
                answer = await clean_up()
                assert how == "new task" or "42" in str(answer)
            await asyncio.sleep(SOON)
            locker.note(f"{name} stopped")

    async def work(tick: Tick) -> None:
        tasks.append(asyncio.create_task(left_behind()))
        await asyncio.sleep(0)

    async def main() -> TickReport:
        with trio.fail_after(PATIENCE):
            return await service(asyncio_work(work), locker).tick()

    with local_server() as url:
        assert trio.run(main).outcome is Outcome.SUCCESS
    stopped = ["task stopped", "task of a task stopped"] if how == "new task" else ["task stopped"]
    assert names(locker) == ["locked", *stopped, "unlocked"]


def test_what_the_rest_raises_at_its_end_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    error = OSError("in clean-up")
    tasks: list[Any] = []

    async def left_behind() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise error

    async def work(tick: Tick) -> None:
        tasks.append(asyncio.create_task(left_behind()))
        await asyncio.sleep(0)

    assert on_a_new_loop(work).outcome is Outcome.SUCCESS
    [record] = [record for record in caplog.records if record.name == "asyncio"]
    assert "a task that the work has left behind raised" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_each_tick_has_a_loop_of_its_own_and_all_share_one_that_is_open() -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    async def work(tick: Tick) -> None:
        loops.append(asyncio.get_running_loop())

    async def main() -> None:
        subject = service(asyncio_work(work))
        await run_for(25, subject)
        assert len(set(loops)) == len(loops) >= 2
        loops.clear()
        subject = service(asyncio_work(work))
        async with trio_asyncio.open_loop() as loop:
            await run_for(25, subject)
        assert set(loops) == {loop}
        assert len(loops) >= 2

    virtually(main)


def test_a_loop_that_was_open_once_is_not_taken_for_one() -> None:
    """A task that was started under it inherits it, and may outlive it."""

    async def work(tick: Tick) -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            go_on = trio.Event()

            async def later() -> None:
                await go_on.wait()
                assert trio_asyncio.current_loop.get() is not None
                assert (await service(asyncio_work(work)).tick()).outcome is Outcome.SUCCESS

            async with trio_asyncio.open_loop():
                nursery.start_soon(later)
                await trio.testing.wait_all_tasks_blocked()
            go_on.set()

    trio.run(main)


def test_its_time_is_trios() -> None:
    async def work(tick: Tick) -> None:
        await asyncio.sleep(3600)

    report = virtually(service(asyncio_work(work)).tick)
    assert (report.outcome, report.duration) == (Outcome.SUCCESS, 3600)


@pytest.mark.parametrize("ended", ["awaited", "left behind", "cancelled"])
def test_a_task_that_exits_ends_the_program_and_not_the_loop(ended: str) -> None:
    """A loop of trio-asyncio's that a SystemExit has stopped would hang, and keep the lock."""
    stopped: list[str] = []

    async def child() -> None:
        if ended == "cancelled":
            with pytest.raises(asyncio.CancelledError):
                await asyncio.Event().wait()
        raise SystemExit(4)

    async def work(tick: Tick) -> None:
        task = asyncio.create_task(child(), name="child")
        assert "child" in repr(task)
        try:
            if ended == "awaited":
                await asyncio.Event().wait()
            await asyncio.sleep(0)
        finally:
            stopped.append("work")

    locker = ScriptedLocker()
    with pytest.raises(SystemExit) as caught:
        on_a_new_loop(work, locker)
    assert caught.value.code == 4
    assert stopped == ["work"]
    assert names(locker) == ["locked", "unlocked"]


def test_a_task_that_is_cancelled_before_it_begins_is_no_coroutine_that_nobody_awaited() -> None:
    async def work(tick: Tick) -> None:
        task = asyncio.create_task(asyncio.sleep(0))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert on_a_new_loop(work).outcome is Outcome.SUCCESS


def test_a_task_of_its_loop_is_a_coroutine_like_any_other() -> None:
    """What libraries and debuggers do with coroutines works on what stands around them."""

    async def child() -> int:
        await asyncio.sleep(0)
        return 42

    async def work(tick: Tick) -> None:
        task = asyncio.create_task(child())
        coroutine: Any = task.get_coro()
        assert coroutine.cr_frame is not None
        assert child.__qualname__ in repr(task)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await type(coroutine)(child(), asyncio.get_running_loop(), exit) == 42
        inner = child()
        type(coroutine)(inner, asyncio.get_running_loop(), exit).close()
        assert inspect.getcoroutinestate(inner) == inspect.CORO_CLOSED

    assert on_a_new_loop(work).outcome is Outcome.SUCCESS


@on_each_loop
def test_what_is_no_coroutine_becomes_no_task(tick_of: Any) -> None:
    refused: list[str] = []

    async def work(tick: Tick) -> None:
        future: Any = asyncio.get_running_loop().create_future()
        for each in (future, None):
            with pytest.raises(TypeError, match="a coroutine was expected, got") as caught:
                refused.append(repr(asyncio.create_task(each)))
            refused.append(str(caught.value))

    assert tick_of(work).outcome is Outcome.SUCCESS
    assert len(refused) == 2


def test_what_a_callback_raises_is_logged_and_the_work_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    def callback() -> None:
        raise OSError("in a callback")

    async def work(tick: Tick) -> None:
        asyncio.get_running_loop().call_soon(callback)
        await asyncio.sleep(SOON)

    assert on_a_new_loop(work).outcome is Outcome.SUCCESS
    [record] = [record for record in caplog.records if record.name == "asyncio"]
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], OSError)


# Ctrl-C, and what else stops a loop.

INTERRUPTED = """
import asyncio, signal, sys, trio
from contextlib import nullcontext, suppress
from tickrunner_trio import Config, Service
from tickrunner_trio.bridges import asyncio_work
from tickrunner_trio.testing import ScriptedLocker

async def work(tick):
    if sys.argv[2] != "without":
        # In the middle of the loop's own code, since a callback is called from there.
        asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGINT)
    else:
        print("begun", flush=True)
    try:
        while True:
            await asyncio.sleep(0)
    finally:
        if sys.argv[2] == "twice":
            asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGINT)
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(600)
        await asyncio.sleep(0.01)
        print("stopped", [event for event, _ in locker.events], flush=True)

locker = ScriptedLocker()
subject = Service(Config(name="busy", interval=60, locker=locker, work=asyncio_work(work)))

async def main():
    import trio_asyncio
    async with trio_asyncio.open_loop() if sys.argv[1] == "open" else nullcontext():
        await subject.tick()

try:
    trio.run(main)
except* KeyboardInterrupt:
    print("interrupted", [event for event, _ in locker.events])
"""


@pytest.mark.parametrize("where", ["new", "open"])
@pytest.mark.parametrize("how", ["within", "without", "twice"])
def test_ctrl_c_stops_busy_work_wherever_it_comes_upon_the_loop(where: str, how: str) -> None:
    arguments = [sys.executable, "-W", "ignore", "-c", INTERRUPTED, where, how]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as program:
        watchdog = threading.Timer(PATIENCE, program.kill)
        watchdog.start()
        try:
            assert program.stdout is not None
            if how == "without":
                assert program.stdout.readline() == "begun\n"
                program.send_signal(signal.SIGINT)
            said = program.stdout.read().splitlines()
        finally:
            watchdog.cancel()
    assert said == ["stopped ['locked']", "interrupted ['locked', 'unlocked']"]
    assert program.returncode == 0


INTERRUPTED_BESIDE = """
import asyncio, signal, sys, trio
from tickrunner_trio import Config, Service
from tickrunner_trio.bridges import asyncio_work
from tickrunner_trio.testing import ScriptedLocker

name, event, nth = sys.argv[1], sys.argv[2], int(sys.argv[3])
seen = 0

def is_in_the_watch(frame):
    while frame is not None and frame.f_code.co_name != "watch_the_loop":
        frame = frame.f_back
    return frame is not None

def profile(frame, what, arg):
    global seen
    if what == event and frame.f_code.co_name == name and is_in_the_watch(frame):
        seen += 1
        if seen == nth:
            sys.setprofile(None)
            signal.raise_signal(signal.SIGINT)

async def work(tick):
    for _ in range(50):
        await asyncio.sleep(0)

locker = ScriptedLocker()
subject = Service(Config(name="busy", interval=60, locker=locker, work=asyncio_work(work)))

async def main():
    sys.setprofile(profile)
    await subject.tick()

try:
    trio.run(main)
except* KeyboardInterrupt:
    print("interrupted", [event for event, _ in locker.events])
"""


@pytest.mark.parametrize(
    ("name", "event", "nth"),
    [
        ("wait_task_rescheduled", "call", 1),
        ("watch_the_loop", "return", 1),
        ("watch_the_loop", "call", 2),  # while the rest of the loop is ended: the work is over
        ("wait_task_rescheduled", "call", 2),
    ],
)
def test_ctrl_c_upon_the_watch_of_a_loop_leaves_trio_whole_and_is_not_lost(name: str, event: str, nth: int) -> None:
    arguments = [sys.executable, "-W", "ignore", "-c", INTERRUPTED_BESIDE, name, event, str(nth)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.stdout == "interrupted ['locked', 'unlocked']\n", done.stderr


STOPPED = """
import asyncio, sys, trio
from contextlib import nullcontext
from tickrunner_trio import Config, Service
from tickrunner_trio.bridges import asyncio_work
from tickrunner_trio.testing import ScriptedLocker

kept = []

async def work(tick):
    loop = asyncio.get_running_loop()
    kept.append(loop.create_task(asyncio.sleep(600)))
    loop.stop() if sys.argv[2] == "stop" else loop.call_soon(sys.exit, 3)
    await asyncio.sleep(600)

locker = ScriptedLocker()
subject = Service(Config(name="stopped", interval=60, locker=locker, work=asyncio_work(work)))

async def main():
    import trio_asyncio
    async with trio_asyncio.open_loop() if sys.argv[1] == "open" else nullcontext():
        report = await subject.tick()
        print(report.outcome, report.error)

try:
    trio.run(main)
except* SystemExit as group:
    print([error.code for error in group.exceptions])
print([event for event, _ in locker.events])
"""


@pytest.mark.parametrize("where", ["new", "open"])
@pytest.mark.parametrize("how", ["stop", "exit"])
def test_a_loop_that_is_stopped_under_the_work_does_not_keep_the_lock(where: str, how: str) -> None:
    arguments = [sys.executable, "-W", "ignore", "-c", STOPPED, where, how]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE, check=True)
    *before, last = done.stdout.splitlines()
    assert last == "['locked', 'unlocked']"
    if how == "stop":
        assert before == ["failed the loop was stopped while the work ran"]
    else:
        assert before[-1] == "[3]"


def test_what_a_task_of_trios_on_its_loop_ends_the_program_with_comes_out() -> None:
    locker = ScriptedLocker()

    async def in_trio() -> None:
        raise ExitingError

    async def work(tick: Tick) -> None:
        loop: Any = asyncio.get_running_loop()
        loop.run_trio_task(in_trio)
        await forever(tick)

    with pytest.raises(BaseExceptionGroup) as caught:
        on_a_new_loop(work, locker)
    assert caught.group_contains(ExitingError)
    assert names(locker) == ["locked", "unlocked"]


# The loop of an application.


async def nothing(tick: Tick) -> None:
    """Work that is done at once."""


async def test_a_loop_that_is_closed_is_a_failure_with_the_remedy() -> None:
    loop = asyncio.SelectorEventLoop()
    loop.close()
    report = await service(asyncio_work(nothing, loop=loop)).tick()
    assert report.outcome is Outcome.FAILED
    assert "the loop of asyncio_work is closed" in str(report.error)
    assert "drain the services before" in str(report.error)


async def test_work_whose_loop_was_closed_under_it_can_still_be_cancelled() -> None:
    loop = asyncio.SelectorEventLoop()
    subject = service(asyncio_work(nothing, loop=loop))  # nobody runs it
    async with trio.open_nursery() as nursery:
        nursery.start_soon(subject.tick)
        await trio.testing.wait_all_tasks_blocked()
        loop.close()
        nursery.cancel_scope.cancel()
    assert subject.health().last_outcome is Outcome.CANCELLED


async def test_work_that_is_cancelled_before_its_loop_gets_to_it_never_begins() -> None:
    loop = asyncio.SelectorEventLoop()
    ran: list[Tick] = []
    subject = service(asyncio_work(functools.partial(note, ran), loop=loop), tick_timeout=SOON)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(subject.tick)
            await trio.sleep(2 * SOON)
            await trio.testing.wait_all_tasks_blocked()
            loop.call_later(SOON, loop.stop)
            await trio.to_thread.run_sync(loop.run_forever)
    loop.close()
    assert ran == []
    assert subject.health().last_outcome is Outcome.TIMED_OUT


async def test_work_that_ended_when_its_loop_was_closed_may_be_cancelled_before_it_is_known() -> None:
    loop = asyncio.SelectorEventLoop()
    subject = service(asyncio_work(nothing, loop=loop))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(subject.tick)
        await trio.testing.wait_all_tasks_blocked()
        loop.call_soon(loop.call_soon, loop.call_soon, loop.stop)
        loop.run_forever()  # without a look at what Trio is told from there
        loop.close()
        nursery.cancel_scope.cancel()
    assert subject.health().last_outcome is Outcome.CANCELLED
    assert (await subject.tick()).outcome is Outcome.FAILED


async def test_an_error_of_the_loop_itself_comes_back_to_work_that_is_cancelled_too() -> None:
    loop, error = asyncio.SelectorEventLoop(), OSError("no tasks here")

    def factory(*args: Any, **kwargs: Any) -> Any:
        raise error

    loop.set_task_factory(factory)
    reports: list[TickReport] = []
    subject = service(asyncio_work(nothing, loop=loop), always(Grant(lost_after=SOON)))
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def ticking() -> None:
            reports.append(await subject.tick())

        await trio.sleep(2 * SOON)
        await trio.testing.wait_all_tasks_blocked()
        loop.call_soon(loop.stop)
        loop.run_forever()
    loop.close()
    [report] = reports
    assert report.outcome is Outcome.LOCK_LOST
    assert report.error is not None
    assert report.error.__cause__ is error


def test_an_error_of_the_loop_itself_is_the_works() -> None:
    error = OSError("no tasks here")

    async def application() -> TickReport:
        loop = asyncio.get_running_loop()

        def factory(*args: Any, **kwargs: Any) -> Any:
            raise error

        subject = service(asyncio_work(nothing, loop=loop))
        running = asyncio.ensure_future(asyncio.to_thread(trio.run, subject.tick))
        await asyncio.sleep(0)
        loop.set_task_factory(factory)
        report = await running
        loop.set_task_factory(None)
        return report

    assert as_application(application).error is error


# asyncio libraries for real.


class OneAnswer(BaseHTTPRequestHandler):
    """Answers at once, or never on /never."""

    def do_GET(self) -> None:
        if self.path == "/never":
            self.rfile.read(1)  # until the client is gone
            return
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"42")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the base has it
        """Say nothing."""


@contextmanager
def local_server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), OneAnswer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@on_each_loop
def test_an_http_client_of_asyncio_works_and_is_cancelled(tick_of: Any) -> None:
    answers: list[str] = []

    async def work(tick: Tick, path: str) -> None:
        async with aiohttp.ClientSession() as session, session.get(url + path) as response:
            answers.append(await response.text())

    with local_server() as url:
        assert tick_of(functools.partial(work, path="/")).outcome is Outcome.SUCCESS
        assert tick_of(functools.partial(work, path="/never"), tick_timeout=SOON).outcome is Outcome.TIMED_OUT
    assert answers == ["42"]


@on_each_loop
def test_a_database_client_of_asyncio_works_and_is_cancelled(tick_of: Any, dsn: str) -> None:
    answers: list[Any] = []

    async def work(tick: Tick, query: str) -> None:
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            answers.append(await (await connection.execute(query)).fetchone())

    assert tick_of(functools.partial(work, query="SELECT 42")).outcome is Outcome.SUCCESS
    assert tick_of(functools.partial(work, query="SELECT pg_sleep(600)"), tick_timeout=0.5).outcome is Outcome.TIMED_OUT
    assert answers == [(42,)]
    asleep = "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep%'"
    assert asked(dsn, asleep) == []  # psycopg cancels its statement when its task is cancelled


EARLY_IMPORT = """
import asyncio, sys, trio
{imports}
from tickrunner_trio import Config, MemoryLocker, Service
from tickrunner_trio.bridges import asyncio_work

async def connect():
    async with await psycopg.AsyncConnection.connect(sys.argv[1]) as connection:
        await connection.execute("SELECT 1")

async def itself(tick):
    await connect()

async def in_tasks(tick):
    await asyncio.gather(connect())

async def main():
    for work in (itself, in_tasks):
        service = Service(Config(name="sweep", interval=60, locker=MemoryLocker(), work=asyncio_work(work)))
        print("new:", (await service.tick()).error)
        async with sys.modules["trio_asyncio"].open_loop():
            print("open:", (await service.tick()).error)

trio.run(main)
"""


@pytest.mark.parametrize("early", ["psycopg", "trio_asyncio"])
def test_only_in_tasks_on_an_open_loop_it_matters_what_was_imported_first(early: str, dsn: str) -> None:
    """As the docstring says, with the text of the error."""
    imports = "import psycopg, trio_asyncio" if early == "psycopg" else "import trio_asyncio, psycopg"
    arguments = [sys.executable, "-W", "ignore", "-c", EARLY_IMPORT.format(imports=imports), dsn]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE, check=True)
    # psycopg 3.2.3, the oldest that is allowed, looks anew for where the loop is; 3.3 does not.
    is_missed = early == "psycopg" and not psycopg.__version__.startswith("3.2.")
    last = "no running event loop" if is_missed else "None"
    assert done.stdout.splitlines() == ["new: None", "open: None", "new: None", f"open: {last}"]


# What it takes, and what it needs.


class Worker:
    async def method(self, tick: Tick) -> None:
        """Work."""

    async def __call__(self, tick: Tick) -> None:
        """Work."""


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (nothing, "nothing"),
        (functools.partial(functools.partial(nothing)), "nothing"),
        (Worker().method, "Worker.method"),
        (Worker(), "Worker.__call__"),
    ],
)
async def test_it_goes_by_the_name_of_the_function(function: Callable[[Tick], Awaitable[None]], name: str) -> None:
    traces = MemorySpans()
    work = asyncio_work(function)
    assert repr(work) == f"<asyncio_work of {__name__}.{name}>"
    Config(name="sweep", interval=60, locker=MemoryLocker(), work=work, startup=work)
    await service(work, telemetry=traces.providers).tick()
    [tick] = traces.spans
    assert (tick.attributes or {})["code.function.name"] == f"{__name__}.{name}"


@pytest.mark.parametrize("function", [None, 3, lambda tick: None, print, Worker])
def test_what_is_no_async_function_is_refused_with_the_remedy(function: Any) -> None:
    with pytest.raises(TypeError, match=r"fn must be an async function .*, got .* to thread_work"):
        asyncio_work(function)


def test_a_function_that_takes_no_tick_is_refused_with_the_remedy() -> None:
    async def without_tick() -> None: ...

    with pytest.raises(TypeError, match=r"^fn must take the arguments of fn\(tick\), got <.*>: have it take these"):
        asyncio_work(without_tick)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "work",
    [
        lambda: asyncio_work(nothing),
        lambda: thread_work(print),
        lambda: functools.partial(asyncio_work(nothing)),
        lambda: functools.partial(thread_work(print)),
    ],
)
@pytest.mark.parametrize("bridge", [asyncio_work, thread_work])
def test_what_is_work_already_is_refused_with_the_remedy(bridge: Any, work: Callable[[], Any]) -> None:
    with pytest.raises(TypeError, match=r"fn must .*, got .*<\w+_work of .*, which is work already: give it to Config"):
        bridge(work())


def test_a_loop_of_the_wrong_kind_is_refused_with_the_remedy() -> None:
    with pytest.raises(TypeError, match=r"loop must be a loop of asyncio, got 3: use asyncio.get_running_loop\(\)"):
        asyncio_work(nothing, loop=3)  # type: ignore[arg-type]


@pytest.fixture
def application_loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.SelectorEventLoop()
    yield loop
    loop.close()


def test_on_python_3_14_it_says_what_to_do_instead(
    monkeypatch: pytest.MonkeyPatch, application_loop: asyncio.AbstractEventLoop
) -> None:
    monkeypatch.setattr(module, "TOO_NEW", sys.version_info[:2])
    with pytest.raises(RuntimeError, match=r"needs a Python below 3.14, got 3\.\d+: .*loop=.*thread_work"):
        asyncio_work(nothing)
    asyncio_work(nothing, loop=application_loop)


def test_without_trio_asyncio_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, application_loop: asyncio.AbstractEventLoop
) -> None:
    monkeypatch.setitem(sys.modules, "trio_asyncio", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'tickrunner-trio\[asyncio\]'.*loop=.*thread_work"):
        asyncio_work(nothing)
    asyncio_work(nothing, loop=application_loop)


def test_a_module_that_trio_asyncio_misses_is_not_taken_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "trio_asyncio")
    monkeypatch.setitem(sys.modules, "trio_asyncio._version", None)
    with pytest.raises(ModuleNotFoundError, match=r"trio_asyncio\._version"):
        asyncio_work(nothing)


PROGRAM = """
import sys
import asyncio
from tickrunner_trio.bridges import asyncio_work, thread_work

async def work(tick):
    pass

assert "trio_asyncio" not in sys.modules
asyncio_work(work, loop=asyncio.new_event_loop())
assert "trio_asyncio" not in sys.modules
asyncio_work(work)
assert "trio_asyncio" in sys.modules
"""


def test_only_work_that_needs_trio_asyncio_imports_it_and_warnings_may_be_errors() -> None:
    options = ["-W", "error", "-W", "ignore::ResourceWarning"]  # the loop of the program is closed by nobody
    subprocess.run([sys.executable, *options, "-c", PROGRAM], check=True)
