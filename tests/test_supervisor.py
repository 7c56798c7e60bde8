"""Many services in one nursery: restarts, drains, refusals. Times are virtual and exact."""

from __future__ import annotations

import logging
import math
import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from scripted import service, virtually
from trio.testing import assert_checkpoints

from tickrunner_trio import Config, HealthState, MemoryLocker, Outcome, Service, Supervisor, Tick, lock_id_for
from tickrunner_trio.testing import ScriptedLocker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slot 0 is at the entry of `run`."""
    monkeypatch.setattr(random, "random", lambda: 0.0)


async def nothing(tick: Tick) -> None:
    """Work that is done at once."""


class Work:
    """Work that takes so many seconds; it writes down when it began and when it was done."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.starts: list[float] = []
        self.ends: list[float] = []

    async def __call__(self, tick: Tick) -> None:
        self.starts.append(trio.current_time())
        await trio.sleep(self.seconds)
        self.ends.append(trio.current_time())


class Crashing(Service):
    """Each run lasts for some seconds and then raises, as scripted; the runs after these are those of a `Service`."""

    def __init__(self, name: str, *script: tuple[float, BaseException]) -> None:
        super().__init__(Config(name=name, interval=10, locker=MemoryLocker(), work=nothing))
        self.script = list(script)
        self.entered: list[float] = []

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self.entered.append(trio.current_time())
        if not self.script:
            return await super().run(task_status=task_status)
        seconds, error = self.script.pop(0)
        await trio.sleep(seconds)
        raise error


def crashing(*seconds: float, name: str = "crashing") -> Crashing:
    return Crashing(name, *((each, ValueError("a bug")) for each in seconds))


async def drained_at(seconds: float, supervisor: Supervisor) -> float:
    """Run it, drain it after so many seconds, and return when `run` returned."""

    async def drain() -> None:
        await trio.sleep(seconds)
        supervisor.drain()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain)
        await supervisor.run()
        return trio.current_time()


async def run_supervisor_for(seconds: float, supervisor: Supervisor) -> None:
    with trio.move_on_after(seconds) as scope:
        await supervisor.run()
    assert scope.cancelled_caught, "run returns only after a drain"


# Restarts.


def test_a_service_that_crashes_is_restarted_after_1_2_4_and_so_on_to_30_seconds() -> None:
    subject = crashing(*[0] * 9)
    virtually(run_supervisor_for, 200, Supervisor([subject]))
    waits = [1, 2, 4, 8, 16, 30, 30, 30, 30]
    assert subject.entered == [sum(waits[:k]) for k in range(10)]


@pytest.mark.parametrize(
    ("healthy", "entered"),
    [
        (59.5, [0, 1, 3, 7, 7 + 59.5 + 8, 7 + 59.5 + 8 + 16]),
        (60, [0, 1, 3, 7, 7 + 60 + 1, 7 + 60 + 1 + 2]),
        (3600, [0, 1, 3, 7, 7 + 3600 + 1, 7 + 3600 + 1 + 2]),
    ],
)
def test_sixty_healthy_seconds_reset_the_backoff(healthy: float, entered: list[float]) -> None:
    subject = crashing(0, 0, 0, healthy, 0)
    virtually(run_supervisor_for, 4000, Supervisor([subject]))
    assert subject.entered == entered


def test_the_backoff_begins_when_the_service_has_crashed() -> None:
    subject = crashing(5, 7)
    virtually(run_supervisor_for, 100, Supervisor([subject]))
    assert subject.entered == [0, 5 + 1, 5 + 1 + 7 + 2]


def test_each_service_has_a_backoff_of_its_own() -> None:
    one, other = crashing(0, 0, 0, name="one"), crashing(0, name="other")
    virtually(run_supervisor_for, 100, Supervisor([one, other]))
    assert (one.entered, other.entered) == ([0, 1, 3, 7], [0, 1])


def test_siblings_never_notice_a_crash() -> None:
    work = Work(5)
    sibling = service(work, cadence="replica")
    virtually(
        run_supervisor_for, 49, Supervisor([crashing(*[1] * 20, name="a"), sibling, crashing(*[0] * 20, name="z")])
    )
    assert work.starts == [0, 10, 20, 30, 40]
    assert work.ends == [5, 15, 25, 35, 45]
    assert sibling.health().consecutive_failures == 0


def test_a_group_of_exceptions_out_of_run_is_a_crash_like_any_other() -> None:
    subject = Crashing("crashing", (0, ExceptionGroup("", [ValueError()])))
    virtually(run_supervisor_for, 10, Supervisor([subject]))
    assert subject.entered == [0, 1]


@pytest.mark.parametrize("drained", [False, True])
@pytest.mark.parametrize("as_group", [False, True])
def test_a_cancel_scope_that_work_leaves_open_ends_neither_its_service_nor_its_siblings(
    caplog: pytest.LogCaptureFixture, *, drained: bool, as_group: bool
) -> None:
    """The nursery would take it for a cancellation of everything, and `run` return as if it had been drained."""

    async def pages() -> AsyncIterator[int]:
        with trio.move_on_after(15):
            for page in range(10):  # pragma: no branch - nobody takes the second one
                yield page

    async def careless(tick: Tick) -> None:
        starts.append(trio.current_time())
        if not left_open:
            left_open.append(pages())
            async for _ in left_open[0]:  # pragma: no branch - as above
                break
        elif as_group and len(starts) == 2:  # the scope cancels all that is in this nursery
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep, 6)
                await trio.sleep(6)

    left_open: list[AsyncIterator[int]] = []
    starts: list[float] = []
    sibling = Work()
    services = [
        service(each, MemoryLocker(), name=name) for name, each in (("careless", careless), ("sibling", sibling))
    ]
    supervisor = Supervisor(services, drain_timeout=3)
    if drained:
        assert virtually(drained_at, 95, supervisor) == 95
    else:
        virtually(run_supervisor_for, 95, supervisor)
    assert starts == [0, 10, *range(16, 95, 10)]
    assert sibling.starts == [*range(0, 95, 10)]
    [record] = caplog.records
    assert record.getMessage() == "service careless crashed; it is run again in 1 seconds"
    assert record.exc_info is not None
    assert "has left a cancel scope open" in str(record.exc_info[1])


def test_a_crash_is_logged_with_its_traceback_its_service_and_its_backoff(caplog: pytest.LogCaptureFixture) -> None:
    error = ValueError("a bug")
    subject = Crashing("sweep", (0, error), (0, error))
    virtually(run_supervisor_for, 10, Supervisor([subject]))
    assert [(record.name, record.levelname, record.getMessage()) for record in caplog.records] == [
        ("tickrunner_trio.supervisor", "ERROR", "service sweep crashed; it is run again in 1 seconds"),
        ("tickrunner_trio.supervisor", "ERROR", "service sweep crashed; it is run again in 2 seconds"),
    ]
    for record in caplog.records:
        assert vars(record)["service"] == "sweep"
        assert record.exc_info is not None
        assert record.exc_info[1] is error
        assert record.exc_info[2] is not None


@contextmanager
def supervisor_log_broken() -> Iterator[list[str]]:
    """A filter of the application's raises for each record of the supervisor."""
    seen: list[str] = []

    def broken(record: logging.LogRecord) -> bool:
        seen.append(record.getMessage())
        raise OSError("disk full")

    log = logging.getLogger("tickrunner_trio.supervisor")
    log.addFilter(broken)
    try:
        yield seen
    finally:
        log.removeFilter(broken)


def test_a_logger_that_raises_ends_neither_the_restarts_nor_the_siblings_nor_the_drain() -> None:
    subject, work = crashing(0, 0), Work(100)
    supervisor = Supervisor([subject, service(work)], drain_timeout=5)
    with supervisor_log_broken() as seen:
        assert virtually(drained_at, 10, supervisor) == 15
    assert subject.entered == [0, 1, 3]
    assert len(seen) == 3


# What ends the supervisor.


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_another_base_exception_ends_the_supervisor_as_it_is(error: BaseException) -> None:
    locker = ScriptedLocker()

    async def main() -> None:
        with pytest.raises(type(error)) as caught:
            await Supervisor([service(Work(100), locker), Crashing("dying", (3, error))]).run()
        assert caught.value is error
        assert trio.current_time() == 3
        assert locker.events == [("locked", 0), ("unlocked", 3)], "the sibling was cancelled"

    virtually(main)


def test_what_ends_the_program_comes_out_of_the_work_unwrapped() -> None:
    async def work(tick: Tick) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        virtually(Supervisor([service(work), service(Work(100), name="other")]).run)


def test_a_group_of_the_works_own_keeps_its_shape_and_its_context() -> None:
    interrupt = KeyboardInterrupt()
    error = BaseExceptionGroup("the work's own", [interrupt])
    with pytest.raises(BaseExceptionGroup) as caught:
        virtually(Supervisor([Crashing("dying", (3, error))]).run)
    # Trio's nurseries rebuild the groups in theirs, so it is the same shape and not the same object.
    assert (caught.value.message, caught.value.exceptions) == ("the work's own", (interrupt,))
    assert caught.value.__context__ is None


def test_several_base_exceptions_at_once_come_as_a_group() -> None:
    first, second = KeyboardInterrupt("first"), SystemExit("second")

    async def dies_of_its_cancellation(tick: Tick) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise second

    with pytest.raises(BaseExceptionGroup) as caught:
        virtually(Supervisor([Crashing("dying", (3, first)), service(dies_of_its_cancellation)]).run)
    assert set(caught.value.exceptions) == {first, second}


def test_a_cancellation_passes_through_after_all_locks_were_let_go() -> None:
    locker, other = ScriptedLocker(), ScriptedLocker()

    async def main() -> None:
        await run_supervisor_for(5, Supervisor([service(Work(100), locker), service(Work(100), other, name="other")]))
        assert trio.current_time() == 5
        assert not locker.held
        assert not other.held

    virtually(main)


# Drains.


def test_a_drain_lets_work_in_flight_finish_and_ends_holds_and_waits() -> None:
    working, holding, waiting = Work(8), Work(1), Work(0)
    services = [
        service(working, name="working"),
        service(holding, name="holding"),
        service(waiting, name="waiting", cadence="replica"),
    ]
    assert virtually(drained_at, 5, Supervisor(services)) == 8
    assert (working.ends, holding.ends, waiting.ends) == ([8], [1], [0])


def test_idle_services_are_drained_at_once() -> None:
    assert virtually(drained_at, 5, Supervisor([service(nothing), service(nothing, name="other")])) == 5


def test_after_the_drain_timeout_what_still_works_is_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    locker, quick = ScriptedLocker(), Work(6)
    stuck = service(Work(100), locker)
    supervisor = Supervisor([stuck, service(quick, name="quick")], drain_timeout=3)
    assert virtually(drained_at, 5, supervisor) == 8
    assert stuck.health().last_outcome is Outcome.CANCELLED
    assert locker.events == [("locked", 0), ("unlocked", 8)]
    assert quick.ends == [6], "what ends in time is not cancelled"
    (record,) = [record for record in caplog.records if record.name == "tickrunner_trio.supervisor"]
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "drained: what still worked after 3 seconds was cancelled"


def test_work_that_resists_its_cancellation_is_waited_for() -> None:
    async def resists(tick: Tick) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(20)

    assert virtually(drained_at, 5, Supervisor([service(resists)], drain_timeout=3)) == 20


@pytest.mark.parametrize(("timeout", "ended_at"), [(0, 5), (2.5, 7.5), (30.0, 35), (math.inf, 1e6)])
def test_the_drain_timeout_is_in_seconds_from_the_drain(timeout: float, ended_at: float) -> None:
    assert virtually(drained_at, 5, Supervisor([service(Work(1e6))], drain_timeout=timeout)) == ended_at


def test_the_drain_timeout_is_30_seconds_unless_given() -> None:
    assert virtually(drained_at, 5, Supervisor([service(Work(1e6))])) == 35


def test_a_drain_that_ends_in_time_warns_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    virtually(drained_at, 5, Supervisor([service(Work(8))]))
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_second_drain_does_not_move_the_deadline() -> None:
    supervisor = Supervisor([service(Work(100))], drain_timeout=3)

    async def drain_again(seconds: float) -> None:
        await trio.sleep(seconds)
        supervisor.drain()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for seconds in (6, 7.5, 20):
                nursery.start_soon(drain_again, seconds)
            assert await drained_at(5, supervisor) == 8

    virtually(main)


def test_a_drain_before_run_lets_no_service_begin() -> None:
    work, subject = Work(), crashing()

    async def main() -> None:
        supervisor = Supervisor([service(work), subject], drain_timeout=3)
        supervisor.drain()
        await trio.sleep(100)
        with assert_checkpoints():
            await supervisor.run()
        assert trio.current_time() == 100

    virtually(main)
    assert (work.starts, subject.entered) == ([], [])


def test_a_drain_long_before_run_is_timed_from_run(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = crashing()
    supervisor = Supervisor([subject], drain_timeout=3)

    async def stuck(service: Service) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(supervisor, "_keep_running", stuck)

    async def main() -> None:
        supervisor.drain()
        await trio.sleep(100)
        await supervisor.run()
        assert trio.current_time() == 103

    virtually(main)


def test_a_drain_in_the_backoff_ends_it() -> None:
    subject = crashing(0, 0, 0)
    assert virtually(drained_at, 5, Supervisor([subject])) == 5
    assert subject.entered == [0, 1, 3]


def test_a_crash_after_a_drain_is_logged_and_not_restarted(caplog: pytest.LogCaptureFixture) -> None:
    subject = crashing(6)
    assert virtually(drained_at, 5, Supervisor([subject])) == 6
    assert subject.entered == [0]
    assert [record.message for record in caplog.records] == ["service crashing crashed; it was being drained"]


def test_a_service_that_was_drained_by_itself_is_not_restarted_and_the_others_go_on() -> None:
    work, subject = Work(), crashing()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_supervisor_for, 39, Supervisor([subject, service(work, cadence="replica")]))
            await trio.sleep(5)
            subject.drain()

    virtually(main)
    assert subject.entered == [0]
    assert work.starts == [0, 10, 20, 30]


def test_run_returns_only_after_a_drain_also_without_services() -> None:
    virtually(run_supervisor_for, 1e6, Supervisor([]))
    assert virtually(drained_at, 5, Supervisor([])) == 5


# Running.


@pytest.mark.parametrize("_again", range(10))  # Trio shuffles what is ready at once
def test_started_comes_before_any_service_has_done_anything(_again: int) -> None:
    work, subject = Work(), crashing()

    told: list[float] = []

    class Status:
        def started(self, value: None = None) -> None:
            assert (subject.entered, work.starts) == ([], [])
            told.append(trio.current_time())

    async def main() -> None:
        with trio.move_on_after(1):
            await Supervisor([subject, service(work)]).run(task_status=Status())

    virtually(main)
    assert (told, subject.entered, work.starts) == ([0], [0], [0])


def test_two_tasks_cannot_run_one_supervisor_and_the_first_does_not_notice() -> None:
    work = Work()

    async def main() -> None:
        supervisor = Supervisor([service(work, cadence="replica")])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_supervisor_for, 25, supervisor)
            await trio.sleep(5)
            for _ in range(2):
                with pytest.raises(
                    trio.BusyResourceError, match="another task runs this supervisor already: run it once"
                ):
                    await supervisor.run()

    virtually(main)
    assert work.starts == [0, 10, 20]


def test_a_supervisor_can_be_run_again_after_it_was_cancelled() -> None:
    subject = crashing()

    async def main() -> None:
        supervisor = Supervisor([subject])
        await run_supervisor_for(5, supervisor)
        assert await drained_at(5, supervisor) == 10

    virtually(main)
    assert subject.entered == [0, 5]


def test_health_comes_in_order_of_registration() -> None:
    async def fails(tick: Tick) -> None:
        raise OSError("disk full")

    supervisor = Supervisor(iter([service(nothing, name="z"), service(fails, name="a"), service(nothing, name="m")]))
    assert [(each.name, each.state) for each in supervisor.health()] == [
        ("z", HealthState.STARTING),
        ("a", HealthState.STARTING),
        ("m", HealthState.STARTING),
    ]
    virtually(run_supervisor_for, 1, supervisor)
    assert [(each.name, each.state) for each in supervisor.health()] == [
        ("z", HealthState.OK),
        ("a", HealthState.FAILING),
        ("m", HealthState.OK),
    ]
    assert isinstance(supervisor.health(), tuple)
    assert [each.name for each in supervisor.services] == ["z", "a", "m"]


def test_a_tick_is_forced_by_the_name_of_its_service_also_while_run_is_active() -> None:
    one, other = Work(), Work()

    async def main() -> None:
        supervisor = Supervisor([service(one, name="one"), service(other, name="other")])
        report = await supervisor.tick("other")
        assert (report.service, report.outcome, report.forced) == ("other", Outcome.SUCCESS, True)
        await trio.sleep(5)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_supervisor_for, 5, supervisor)
            await trio.sleep(2)
            assert (await supervisor.tick("one")).service == "one"

    virtually(main)
    assert (one.starts, other.starts) == ([5, 7], [0, 5])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["one", "other"], "^name must be that of a service, got 'third': use one of one, other$"),
        ([], "^name must be that of a service, got 'third': use one of none$"),
    ],
)
def test_a_tick_of_an_unknown_name_is_refused_with_the_known_ones(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        virtually(Supervisor([service(nothing, name=name) for name in names]).tick, "third")
    assert caught.value.__suppress_context__


# Refusals.


def test_duplicate_names_are_refused_naming_both_services() -> None:
    services = [
        service(nothing, name="a"),
        service(nothing, name="b", lock_id=1),
        service(nothing, name="b", lock_id=2),
    ]
    message = r"^services must have unique names, got 'b' for services\[1\] and services\[2\]: rename one$"
    with pytest.raises(ValueError, match=message):
        Supervisor(services)


@pytest.mark.parametrize("lock_id", [7, lock_id_for("a")])
def test_duplicate_lock_ids_are_refused_naming_both_services(lock_id: int) -> None:
    services = [
        service(nothing, name="a", lock_id=None if lock_id == lock_id_for("a") else lock_id),
        service(nothing, name="b"),
        service(nothing, name="c", lock_id=lock_id),
    ]
    message = f"^services must have unique lock ids, got {lock_id} for 'a' and 'c': give one of them another lock_id$"
    with pytest.raises(ValueError, match=message):
        Supervisor(services)


def test_the_same_service_twice_is_refused() -> None:
    subject = service(nothing)
    with pytest.raises(ValueError, match=r"got 'sweep' for services\[0\] and services\[1\]"):
        Supervisor([subject, subject])


def test_one_service_without_its_list_is_refused() -> None:
    with pytest.raises(TypeError, match="services must be an iterable of Service, got <Service 'sweep'"):
        Supervisor(service(nothing))  # type: ignore[arg-type]


def test_what_is_no_service_is_refused() -> None:
    subject = service(nothing)
    with pytest.raises(
        TypeError, match=r"^services\[1\] must be a Service, got Config\(.*: use Service\(Config\(...\)\)$"
    ):
        Supervisor([subject, subject.config])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (-1, ValueError, "must be 0 or more seconds, got -1: math.inf waits for ever"),
        (math.nan, ValueError, "must be 0 or more seconds, got nan: math.inf waits for ever"),
        (-math.inf, ValueError, "must be 0 or more seconds, got -inf: math.inf waits for ever"),
        (True, TypeError, r"must be a number of seconds \(an int or a float\), got True"),
        ("30", TypeError, r"must be a number of seconds \(an int or a float\), got '30'"),
        (None, TypeError, r"must be a number of seconds \(an int or a float\), got None"),
    ],
)
def test_a_bad_drain_timeout_is_refused(value: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"^drain_timeout {message}"):
        Supervisor([], drain_timeout=value)
