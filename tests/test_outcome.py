"""The vocabulary of a tick, and the order in which its causes are judged."""

from __future__ import annotations

import copy
import logging
import pickle
import threading
import weakref
from dataclasses import FrozenInstanceError, asdict, fields, replace
from datetime import UTC, datetime
from itertools import product
from typing import Any

import pytest
import trio

from tickrunner_trio import DatabaseUnavailableError, LockerConfigurationError, LockLostError, Outcome, Tick, TickReport
from tickrunner_trio._outcome import judge, late_tick


class OwnDatabaseAwayError(DatabaseUnavailableError):
    """A user's own kind."""


away = DatabaseUnavailableError("away")

#: What the work raised, and what it comes to when nothing else happened.
RAISED: list[tuple[BaseException | None, Outcome]] = [
    (None, Outcome.SUCCESS),
    (ValueError(), Outcome.FAILED),
    (away, Outcome.UNAVAILABLE),
    (OwnDatabaseAwayError(), Outcome.UNAVAILABLE),
    (ExceptionGroup("", [away]), Outcome.UNAVAILABLE),
    (ExceptionGroup("", [away, OwnDatabaseAwayError()]), Outcome.UNAVAILABLE),
    (ExceptionGroup("", [away, ExceptionGroup("", [ExceptionGroup("", [away])])]), Outcome.UNAVAILABLE),
    (ExceptionGroup("", [away, ValueError()]), Outcome.FAILED),
    (ExceptionGroup("", [ValueError(), ValueError()]), Outcome.FAILED),
    (ExceptionGroup("", [away, ExceptionGroup("", [away, ValueError()])]), Outcome.FAILED),
    (BaseExceptionGroup("", [away, KeyboardInterrupt()]), Outcome.FAILED),
    (LockLostError("of the work's own"), Outcome.FAILED),
    (LockerConfigurationError("of the work's own"), Outcome.FAILED),
    (trio.TooSlowError(), Outcome.FAILED),
    (ConnectionError(), Outcome.FAILED),
    (KeyboardInterrupt(), Outcome.FAILED),
    (SystemExit(), Outcome.FAILED),
]
#: (lost, cancelled, timed_out) -> (if the work returned, if it raised); None: what it raised decides.
TABLE: dict[tuple[bool, bool, bool], tuple[Outcome | None, Outcome | None]] = {
    (False, False, False): (Outcome.SUCCESS, None),
    (False, False, True): (Outcome.TIMED_OUT, Outcome.TIMED_OUT),
    (False, True, False): (Outcome.SUCCESS, Outcome.CANCELLED),
    (False, True, True): (Outcome.TIMED_OUT, Outcome.CANCELLED),
    (True, False, False): (Outcome.LOCK_LOST, Outcome.LOCK_LOST),
    (True, False, True): (Outcome.LOCK_LOST, Outcome.LOCK_LOST),
    (True, True, False): (Outcome.LOCK_LOST, Outcome.LOCK_LOST),
    (True, True, True): (Outcome.LOCK_LOST, Outcome.LOCK_LOST),
}


@pytest.mark.parametrize(("error", "by_itself"), RAISED)
@pytest.mark.parametrize(("lost", "cancelled", "timed_out"), list(product([False, True], repeat=3)))
def test_causes_are_judged_in_one_order_the_loss_then_the_cancellation_then_the_timeout_then_the_error(
    lost: bool, cancelled: bool, timed_out: bool, error: BaseException | None, by_itself: Outcome
) -> None:
    returned, raised = TABLE[lost, cancelled, timed_out]
    expected = returned if error is None else raised or by_itself
    assert judge(lost=lost, cancelled=cancelled, timed_out=timed_out, error=error) is expected


def test_outcomes_fold_into_the_three_results_of_the_go_dashboards() -> None:
    assert {outcome.name: outcome.result for outcome in Outcome} == {
        "SUCCESS": "success",
        "FAILED": "error",
        "TIMED_OUT": "error",
        "LOCK_LOST": "error",
        "LOCKER_ERROR": "error",
        "GATED": "skipped",
        "BUSY": "skipped",
        "UNAVAILABLE": "skipped",
        "CANCELLED": "skipped",
    }


@pytest.mark.parametrize("outcome", Outcome)
def test_an_outcome_prints_as_what_evaluates(outcome: Outcome) -> None:
    assert repr(outcome) == f"Outcome.{outcome.name}"


@pytest.mark.parametrize("outcome", Outcome)
def test_an_outcome_is_its_name_in_lower_case(outcome: Outcome) -> None:
    assert outcome.name.isupper()
    assert str(outcome) == outcome == outcome.value == outcome.name.lower()


AT = datetime(2026, 1, 2, tzinfo=UTC)
COMMON: dict[str, Any] = {
    "service": "sweep",
    "request_id": "0" * 32,
    "number": 1,
    "scheduled_at": AT,
    "started_at": AT,
    "epoch": None,
    "forced": False,
}
TICK = {**COMMON, "lock_id": 5, "log": logging.getLogger("x")}
REPORT = {**COMMON, "outcome": Outcome.BUSY, "error": None, "duration": 0.0, "lateness": 0.0}


@pytest.mark.parametrize(("kind", "values"), [(Tick, TICK), (TickReport, REPORT)])
def test_ticks_and_reports_are_frozen_and_have_the_fields_of_the_design(kind: Any, values: dict[str, Any]) -> None:
    subject = kind(**values)
    assert {field.name for field in fields(kind)} == set(values)
    for name, value in values.items():
        assert getattr(subject, name) is value
        with pytest.raises(FrozenInstanceError):
            setattr(subject, name, value)
    with pytest.raises(TypeError, match="positional"):
        kind(*values.values())


# A tick that is filled in late.

FIELDS: dict[str, object] = {
    "service": "sweep",
    "lock_id": 1,
    "request_id": "a" * 32,
    "number": 3,
    "scheduled_at": datetime(2026, 1, 2, tzinfo=UTC),
    "started_at": datetime(2026, 1, 2, 1, tzinfo=UTC),
    "epoch": 7,
    "forced": False,
    "log": None,
}


def late() -> Tick:
    return late_tick(lambda: FIELDS)


def test_a_tick_that_is_filled_in_late_is_like_any_other() -> None:
    tick = Tick(**FIELDS)  # type: ignore[arg-type]
    for field in fields(Tick):
        assert getattr(late(), field.name) == FIELDS[field.name]
    assert late() == tick
    assert tick == late()
    assert (type(late()), hash(late()), repr(late())) == (Tick, hash(tick), repr(tick))
    assert [copy.copy(late()), copy.deepcopy(late()), pickle.loads(pickle.dumps(late()))] == [tick] * 3
    assert (asdict(late()), replace(late(), number=4)) == (asdict(tick), replace(tick, number=4))
    with pytest.raises(FrozenInstanceError):
        late().number = 4  # type: ignore[misc]


def test_a_tick_is_filled_in_when_it_is_read_and_once() -> None:
    asked: list[str] = []

    def filled_in() -> dict[str, object]:
        asked.append("fields")
        return FIELDS

    tick = late_tick(filled_in)
    assert not asked
    assert (tick.number, tick.service, tick.epoch) == (3, "sweep", 7)
    assert asked == ["fields"]


def test_a_tick_that_was_read_does_not_keep_what_filled_it_in() -> None:
    """Which has the service, and the error with all of its frames."""

    class Source:
        def fields(self) -> dict[str, object]:
            return FIELDS

    source = Source()
    tick, seen = late_tick(source.fields), weakref.ref(source)
    del source
    assert tick.number == 3
    assert seen() is None
    assert tick == Tick(**FIELDS)  # type: ignore[arg-type]


def test_two_threads_that_read_a_tick_at_once_both_see_it() -> None:
    seen: list[int] = []

    def filled_in() -> dict[str, object]:
        if not seen:  # the other one comes in the middle, and is done first
            other = threading.Thread(target=lambda: seen.append(tick.number))
            seen.append(0)
            other.start()
            other.join()
        return FIELDS

    tick = late_tick(filled_in)
    assert tick.number == 3
    assert seen == [0, 3]


@pytest.mark.parametrize("name", ["nothing", "_fields"])
def test_a_tick_has_nothing_but_its_fields(name: str) -> None:
    with pytest.raises(AttributeError, match=f"^'Tick' object has no attribute '{name}'$"):
        getattr(Tick(**FIELDS), name)  # type: ignore[arg-type]
