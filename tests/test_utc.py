"""Trio's clock as UTC: virtual hours show, and a clock that is set shows on the real clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from tickrunner_trio._utc import utc_at, utc_offset


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the wall clock."""

    def stand_at(unix: float) -> None:
        monkeypatch.setattr(time, "time", lambda: unix)

    return stand_at


def test_on_another_clock_the_offset_is_taken_once_in_a_run_so_that_only_virtual_time_passes(wall: Any) -> None:
    async def main() -> None:
        wall(1_000_000.0)
        await trio.sleep(100)
        assert utc_offset(trio.lowlevel.current_clock()) == 1_000_000 - 100
        wall(5_000_000.0)
        await trio.sleep(3600)
        assert utc_offset(trio.lowlevel.current_clock()) == 1_000_000 - 100
        assert utc_at(trio.current_time(), utc_offset(trio.lowlevel.current_clock())) == datetime.fromtimestamp(
            1_003_600, UTC
        )

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_each_run_takes_an_offset_of_its_own(wall: Any) -> None:
    async def main() -> float:
        return utc_offset(trio.lowlevel.current_clock())

    wall(1000.0)
    assert trio.run(main, clock=MockClock()) == 1000
    wall(2000.0)
    assert trio.run(main, clock=MockClock()) == 2000


def test_on_the_real_clock_the_offset_is_taken_afresh_so_that_a_clock_that_was_set_shows(wall: Any) -> None:
    async def main() -> tuple[float, float]:
        wall(1_000_000.0)
        first = utc_offset(trio.lowlevel.current_clock())
        wall(1_000_000.0 + 86400)
        return first, utc_offset(trio.lowlevel.current_clock())

    first, second = trio.run(main)
    # Some real time has passed between the two.
    assert 86000 < second - first <= 86400


def test_on_the_real_clock_utc_is_the_wall_clock() -> None:
    async def main() -> None:
        before = datetime.now(UTC)
        at = utc_at(trio.current_time(), utc_offset(trio.lowlevel.current_clock()))
        assert before - timedelta(milliseconds=1) <= at <= datetime.now(UTC) + timedelta(milliseconds=1)

    trio.run(main)


@given(st.integers(0, 10**9), st.integers(-(10**9), 10**9))
def test_a_time_is_aware_and_in_utc(trio_time: int, offset: int) -> None:
    at = utc_at(trio_time, offset)
    assert at.tzinfo is UTC
    assert at - datetime(1970, 1, 1, tzinfo=UTC) == timedelta(seconds=trio_time + offset)
