"""Who did this: request ids follow the work, component loggers and the filter carry them, observers break nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import trio
from scripted import service, virtually

from tickrunner_trio import MemoryLocker, Outcome, Tick, TickContextFilter, component_logger, request_id
from tickrunner_trio._audit import current_request_id, log_safely, new_request_id

if TYPE_CHECKING:
    from collections.abc import Iterator


class Kept(logging.Handler):
    """Keeps the records; `formatted` as a user's formatter shows them."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.setFormatter(logging.Formatter("%(component)s %(request_id)s %(message)s"))
        self.formatted: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.formatted.append(self.format(record))


@pytest.fixture
def kept() -> Any:
    handler = Kept()
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


@contextlib.contextmanager
def request_id_set_to(value: str) -> Iterator[None]:
    before = request_id()
    current_request_id.set(value)
    yield
    current_request_id.set(before)


# The request id.


def test_outside_of_a_tick_there_is_no_request_id() -> None:
    assert request_id() is None


def test_a_request_id_is_32_hex_digits_and_fresh() -> None:
    ids = {new_request_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in ids)


def test_the_request_id_of_a_tick_follows_its_nurseries_and_threads_and_is_gone_after_it() -> None:
    seen: dict[str, str | None] = {}

    async def look(where: str) -> None:
        await trio.lowlevel.checkpoint()
        seen[where] = request_id()

    async def in_asyncio() -> None:
        seen["asyncio"] = request_id()
        seen["asyncio.to_thread"] = await asyncio.to_thread(request_id)

    def in_thread() -> None:
        seen["trio.to_thread"] = request_id()
        asyncio.run(in_asyncio())
        trio.from_thread.run(look, "trio.from_thread")

    async def work(tick: Tick) -> None:
        seen["Tick.request_id"] = tick.request_id
        seen["the work"] = request_id()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look, "a nursery")
            async with trio.open_nursery() as inner:
                inner.start_soon(look, "a nursery in a nursery")
        await trio.to_thread.run_sync(in_thread)

    async def main() -> str:
        report = await service(work, MemoryLocker()).tick()
        assert request_id() is None
        return report.request_id

    reported = trio.run(main)
    assert re.fullmatch("[0-9a-f]{32}", reported)
    assert seen == dict.fromkeys(
        [
            "Tick.request_id",
            "the work",
            "a nursery",
            "a nursery in a nursery",
            "trio.to_thread",
            "asyncio",
            "asyncio.to_thread",
            "trio.from_thread",
        ],
        reported,
    )


def test_a_bare_executor_does_not_know_the_request_id() -> None:
    with ThreadPoolExecutor(1) as executor, request_id_set_to("a"):
        assert executor.submit(request_id).result() is None


def test_services_side_by_side_see_their_own_request_ids() -> None:
    seen: list[tuple[str, str | None]] = []

    async def work(tick: Tick) -> None:
        for _ in range(3):
            await trio.sleep(1)
            seen.append((tick.request_id, request_id()))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for name in ("one", "other"):
                nursery.start_soon(service(work, MemoryLocker(), name=name).tick)

    virtually(main)
    assert len(seen) == 6
    assert len({told for told, _ in seen}) == 2
    assert all(told == found for told, found in seen)


def test_work_that_forces_a_tick_of_another_service_has_its_own_id_again_after_it() -> None:
    seen: list[str | None] = []

    async def inner(tick: Tick) -> None:
        seen.append(request_id())

    async def outer(tick: Tick) -> None:
        await service(inner, MemoryLocker(), name="inner").tick()
        seen.extend([tick.request_id, request_id()])

    virtually(service(outer, MemoryLocker()).tick)
    within, own, after = seen
    assert own == after != within
    assert request_id() is None


# Component loggers.


def test_a_component_logger_gives_component_and_request_id_beside_the_callers_extra(kept: Kept) -> None:
    log = component_logger("sweep")
    with request_id_set_to("a" * 32):
        log.info("moved %d", 3, extra={"objects": 3})
    log.info("idle")
    moved, idle = (vars(record) for record in kept.records)
    assert (moved["component"], moved["request_id"], moved["objects"]) == ("sweep", "a" * 32, 3)
    assert (idle["component"], idle["request_id"]) == ("sweep", None)
    assert "objects" not in idle
    assert kept.formatted == [f"sweep {'a' * 32} moved 3", "sweep None idle"]


def test_the_callers_extra_wins_and_is_not_written_to(kept: Kept) -> None:
    extra = {"component": "own", "request_id": "own id"}
    component_logger("sweep").info("x", extra=extra)
    assert kept.formatted == ["own own id x"]
    assert extra == {"component": "own", "request_id": "own id"}


def test_an_extra_does_not_stay_for_the_next_record(kept: Kept) -> None:
    log = component_logger("sweep")
    log.info("one", extra={"objects": 3})
    log.info("two", extra=None)
    assert not hasattr(kept.records[1], "objects")


def test_records_go_to_a_logger_of_the_component_and_name_the_callers_line(kept: Kept) -> None:
    component_logger("sweep").warning("x")
    assert kept.records[0].name == "tickrunner_trio.component.sweep"
    assert kept.records[0].funcName == "test_records_go_to_a_logger_of_the_component_and_name_the_callers_line"


def loggers_of(slug: str) -> list[str]:
    return [name for name in logging.Logger.manager.loggerDict if name.startswith(f"tickrunner_trio.component.{slug}")]


def test_a_component_that_logs_nothing_has_no_logger(kept: Kept) -> None:
    """10,000 services have 10,000 component loggers, and a logger takes 1 KiB."""
    log = component_logger("silent")
    assert not log.isEnabledFor(logging.DEBUG)
    log.debug("x")
    assert loggers_of("silent") == []
    log.warning("x")
    assert loggers_of("silent") == ["tickrunner_trio.component.silent"]
    assert kept.formatted == ["silent None x"]


def test_a_component_logger_has_what_an_adapter_has() -> None:
    assert component_logger("first").name == "tickrunner_trio.component.first"
    assert component_logger("second").extra == {"component": "second"}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = component_logger("third").nothing  # type: ignore[attr-defined]


@pytest.mark.parametrize("owner", ["", ".levelled", ".levelled.below"])
def test_the_level_of_a_component_is_that_of_its_logger_also_before_it_logs(owner: str) -> None:
    log, levelled = component_logger("levelled"), logging.getLogger(f"tickrunner_trio.component{owner}")
    before = levelled.level
    levelled.setLevel(logging.DEBUG)
    try:
        assert log.isEnabledFor(logging.DEBUG) == (owner != ".levelled.below")
    finally:
        levelled.setLevel(before)
        for name in loggers_of("levelled"):
            del logging.Logger.manager.loggerDict[name]


def test_the_level_of_a_slug_with_dots_is_that_of_the_loggers_in_between() -> None:
    between = logging.getLogger("tickrunner_trio.component.dotted")
    between.setLevel(logging.DEBUG)
    try:
        assert component_logger("dotted.below").isEnabledFor(logging.DEBUG)
    finally:
        between.setLevel(logging.NOTSET)
        for name in loggers_of("dotted"):
            del logging.Logger.manager.loggerDict[name]


def test_a_parent_that_was_disabled_disables_no_component(kept: Kept) -> None:
    """As `logging.config` does to loggers that it does not know: theirs were never disabled with it."""
    parent = logging.getLogger("tickrunner_trio.component")
    parent.disabled = True
    try:
        log = component_logger("unheard_of")
        assert (log.isEnabledFor(logging.INFO), log.isEnabledFor(logging.DEBUG)) == (True, False)
        logging.disable(logging.INFO)
        assert (log.isEnabledFor(logging.WARNING), log.isEnabledFor(logging.INFO)) == (True, False)
    finally:
        logging.disable(logging.NOTSET)
        parent.disabled = False


@pytest.mark.parametrize(
    ("slug", "kind", "message"),
    [
        ("", ValueError, "^slug must not be empty, got '': use the name of the service$"),
        (None, TypeError, "^slug must be a str, got None"),
        (b"sweep", TypeError, "^slug must be a str, got b'sweep'"),
    ],
)
def test_a_slug_is_text_and_not_empty(slug: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        component_logger(slug)


def test_the_library_never_configures_logging() -> None:
    program = """
import logging, tickrunner_trio
tickrunner_trio.component_logger("sweep")
loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
ours = [each for each in loggers if isinstance(each, logging.Logger)]
assert not any(each.handlers or each.filters or not each.propagate for each in ours), ours
assert {each.level for each in ours[1:] if each.name.startswith("tickrunner_trio")} == {logging.NOTSET}
assert logging.getLogger().level == logging.WARNING
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)


# The filter.


def test_the_filter_on_a_handler_gives_the_context_to_records_of_any_logger(kept: Kept) -> None:
    kept.addFilter(TickContextFilter())
    with request_id_set_to("b" * 32):
        logging.getLogger("somebody.else").warning("x")
    logging.getLogger("somebody.else").warning("y")
    assert kept.formatted == [f"somebody.else {'b' * 32} x", "somebody.else None y"]


def test_the_filter_leaves_what_a_record_has_already(kept: Kept) -> None:
    kept.addFilter(TickContextFilter())
    with request_id_set_to("b" * 32):
        logging.getLogger("other").warning("x", extra={"component": "mine"})
        logging.getLogger("other").warning("y", extra={"request_id": None})
    component_logger("sweep").warning("z")
    assert kept.formatted == [f"mine {'b' * 32} x", "other None y", "sweep None z"]


# Loggers that raise.


class Raising(logging.Filter):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def filter(self, record: logging.LogRecord) -> bool:
        raise self.error


def test_a_logger_that_raises_disturbs_nobody_and_is_reported_to_the_librarys_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = logging.Logger("broken")
    log.addFilter(Raising(OSError("disk full")))
    log_safely(log, logging.ERROR, "moved %d", 3)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("tickrunner_trio", logging.ERROR)
    assert record.getMessage() == f"the logger {log!r} raised; its record was: moved %d"
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "disk full"


def test_an_extra_that_logging_refuses_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    log_safely(logging.getLogger("x"), logging.ERROR, "moved", extra={"message": "taken"})
    assert [record.name for record in caplog.records] == ["tickrunner_trio"]


def test_when_the_librarys_own_logger_raises_too_nobody_is_disturbed() -> None:
    log, own, raising = logging.Logger("broken"), logging.getLogger("tickrunner_trio"), Raising(OSError())
    log.addFilter(raising)
    own.addFilter(raising)
    try:
        log_safely(log, logging.ERROR, "x")
    finally:
        own.removeFilter(raising)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_passes_through_a_logger(kind: type[BaseException]) -> None:
    log = logging.Logger("interrupted")
    log.addFilter(Raising(kind()))
    with pytest.raises(kind):
        log_safely(log, logging.ERROR, "x")


def test_level_arguments_extra_and_traceback_reach_the_logger(kept: Kept) -> None:
    error = OSError("away")
    log_safely(component_logger("sweep"), logging.WARNING, "moved %d of %d", 3, 4, extra={"objects": 3}, exc_info=error)
    log_safely(component_logger("sweep"), logging.DEBUG, "below the level")
    (record,) = kept.records
    assert (record.levelno, record.getMessage(), vars(record)["objects"]) == (logging.WARNING, "moved 3 of 4", 3)
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_a_logger_that_does_not_say_its_level_is_reported_and_breaks_nothing(kept: Kept) -> None:
    class Mute(logging.LoggerAdapter[logging.Logger]):
        def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - as logging calls it
            raise OSError(f"who asks for {level}?")

    async def work(tick: Tick) -> None: ...

    report = virtually(service(work, log=Mute(logging.getLogger("mute"), {})).tick)
    assert report.outcome is Outcome.SUCCESS
    (record,) = kept.records
    assert record.getMessage().endswith("raised; its record was: tick succeeded")
