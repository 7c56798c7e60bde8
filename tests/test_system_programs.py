"""What tests need of the system: without it they skip, and fail in CI, which else would not notice that it is gone."""

from __future__ import annotations

from pathlib import Path

import pytest
from system_programs import system_program


@pytest.fixture(autouse=True)
def _in_no_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)


def test_the_first_program_that_is_there_is_taken() -> None:
    assert Path(system_program("no-such-program", "sh", package="dash")).name == "sh"


def test_a_test_whose_program_is_not_there_skips_and_says_how_to_get_it() -> None:
    with pytest.raises(pytest.skip.Exception, match="no such-browser on this machine: apt-get install no-such"):
        system_program("such-browser", "no-such-program", package="no-such")


def test_in_ci_it_fails_unless_ci_says_that_it_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="only with TICKRUNNER_TEST_WITHOUT_NOTHING set"):
        system_program("no-such-program", package="nothing")
    monkeypatch.setenv("TICKRUNNER_TEST_WITHOUT_NOTHING", "1")
    with pytest.raises(pytest.skip.Exception):
        system_program("no-such-program", package="nothing")
