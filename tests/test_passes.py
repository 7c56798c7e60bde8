"""How a pass ends: its error is raised again, its count logged and published, and publishing breaks nothing."""

from __future__ import annotations

import logging
from typing import Any

import outcome
import pytest
import trio
from scripted import service, virtually
from trio.testing import assert_checkpoints

import tickrunner_trio
from tickrunner_trio import (
    MSG_PASS_COMPLETED,
    MSG_PASS_FAILED,
    DatabaseUnavailableError,
    MemoryLocker,
    Outcome,
    QuotaMetricsRefresher,
    Tick,
    component_logger,
    handle_pass_result,
)

LOG = logging.getLogger("tests.passes")


class Quotas:
    """A refresher that writes down its calls, and what it raises."""

    def __init__(self, raises: BaseException | None = None, takes: float | None = None) -> None:
        self.raises = raises
        self.takes = takes
        self.calls = 0

    async def update_quota_metrics(self) -> None:
        self.calls += 1
        if self.takes is not None:
            await trio.sleep(self.takes)
        if self.raises is not None:
            raise self.raises


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "tests.passes")
    caplog.set_level(logging.DEBUG, "tickrunner_trio")


def finish(quotas: Quotas, result: outcome.Outcome[int]) -> None:
    virtually(handle_pass_result, LOG, quotas, result, "objects_moved")


def test_the_three_messages_are_those_of_the_go_package() -> None:
    assert tickrunner_trio.MSG_PASS_FAILED == "pass failed"
    assert tickrunner_trio.MSG_PASS_COMPLETED == "pass completed"
    assert tickrunner_trio.MSG_QUOTA_METRICS_REFRESH_FAILED == "quota metrics refresh failed after pass"


def test_a_refresher_is_anything_with_the_one_method() -> None:
    assert isinstance(Quotas(), QuotaMetricsRefresher)
    assert not isinstance(object(), QuotaMetricsRefresher)


@pytest.mark.parametrize(
    "error", [OSError("disk"), DatabaseUnavailableError(), ExceptionGroup("", [OSError()]), SystemExit()]
)
def test_a_captured_error_is_raised_again_as_it_is_and_unlogged(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    quotas = Quotas()
    with pytest.raises(type(error)) as caught:
        finish(quotas, outcome.Error(error))
    assert caught.value is error
    assert caught.value.__cause__ is None
    assert caplog.records == []
    assert quotas.calls == 0


@pytest.mark.parametrize("count", [None, 2.5, True])
def test_a_pass_that_gives_no_count_is_told_so(count: Any) -> None:
    with pytest.raises(TypeError, match=f"result must hold how many things the pass changed, got {count}"):
        finish(Quotas(), outcome.Value(count))


@pytest.mark.parametrize("count", [0, -1])
def test_a_pass_that_changed_nothing_logs_nothing_and_refreshes_nothing(
    count: int, caplog: pytest.LogCaptureFixture
) -> None:
    quotas = Quotas()
    finish(quotas, outcome.Value(count))
    assert caplog.records == []
    assert quotas.calls == 0


@pytest.mark.parametrize("count", [1, 42])
def test_a_count_above_zero_is_logged_then_the_metrics_are_refreshed_once(
    count: int, caplog: pytest.LogCaptureFixture
) -> None:
    logged_before: list[int] = []

    class Looking(Quotas):
        async def update_quota_metrics(self) -> None:
            logged_before.append(len(caplog.records))

    finish(Looking(), outcome.Value(count))
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.INFO, MSG_PASS_COMPLETED)
    assert vars(record)["objects_moved"] == count
    assert logged_before == [1]


@pytest.mark.parametrize("error", [OSError("away"), DatabaseUnavailableError(), ExceptionGroup("", [OSError()])])
def test_a_refresh_that_raises_is_a_warning_only(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    finish(Quotas(raises=error), outcome.Value(3))
    completed, warning = caplog.records
    assert completed.getMessage() == "pass completed"
    assert (warning.levelno, warning.getMessage()) == (logging.WARNING, "quota metrics refresh failed after pass")
    assert warning.exc_info is not None
    assert warning.exc_info[1] is error


def test_what_ends_the_program_passes_through_the_refresh(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        with pytest.raises(KeyboardInterrupt):
            await handle_pass_result(LOG, Quotas(raises=KeyboardInterrupt()), outcome.Value(3), "objects_moved")

    virtually(main)
    assert [record.levelno for record in caplog.records] == [logging.INFO]


def test_a_cancellation_reaches_the_refresh_and_passes_through(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        with trio.move_on_after(5) as scope:
            await handle_pass_result(LOG, Quotas(takes=60), outcome.Value(3), "objects_moved")
        assert scope.cancelled_caught
        assert trio.current_time() == 5

    virtually(main)
    assert [record.levelno for record in caplog.records] == [logging.INFO]


def test_a_captured_cancellation_is_raised_again() -> None:
    async def main() -> None:
        with trio.move_on_after(5) as scope:
            result = await outcome.acapture(trio.sleep, 60)
            await handle_pass_result(LOG, Quotas(), result, "objects_moved")
        assert scope.cancelled_caught

    virtually(main)


@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize("raises", [None, OSError()])
def test_it_is_always_a_checkpoint_also_when_the_refresh_is_none(count: int, raises: Exception | None) -> None:
    async def main() -> None:
        with assert_checkpoints():
            await handle_pass_result(LOG, Quotas(raises), outcome.Value(count), "objects_moved")

    virtually(main)


def test_a_logger_that_raises_does_not_keep_the_metrics_from_being_refreshed() -> None:
    log = logging.Logger("broken")

    def broken(record: logging.LogRecord) -> bool:
        raise OSError("disk full")

    log.addFilter(broken)
    quotas = Quotas(raises=ValueError())
    virtually(handle_pass_result, log, quotas, outcome.Value(3), "objects_moved")
    assert quotas.calls == 1


@pytest.mark.parametrize(
    ("error", "expected", "logged"),
    [(OSError("disk"), Outcome.FAILED, [MSG_PASS_FAILED]), (DatabaseUnavailableError("away"), Outcome.UNAVAILABLE, [])],
)
def test_in_a_tick_an_error_is_logged_once_and_an_outage_is_no_failure(
    error: Exception, expected: Outcome, logged: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    async def rebalance() -> int:
        raise error

    async def work(tick: Tick) -> None:
        await handle_pass_result(tick.log, Quotas(), await outcome.acapture(rebalance), "objects_moved")

    async def main() -> Any:
        return await service(work, MemoryLocker(), log=component_logger("sweep")).tick()

    report = virtually(main)
    assert (report.outcome, report.error) == (expected, error)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == logged
