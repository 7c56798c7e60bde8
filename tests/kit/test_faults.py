"""Faults of a simulated cluster: they print as somebody would write them, and refuse what cannot be meant."""

from __future__ import annotations

import dataclasses
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickrunner_trio.testing import (
    ClockOffset,
    DatabaseAway,
    Drain,
    DropSession,
    Fault,
    Freeze,
    Kill,
    Partition,
    Start,
    strategies,
)
from tickrunner_trio.testing._faults import KINDS, lifecycle

WRITTEN = [
    "Kill('r1', at=600)",
    "Freeze('r2', at=100, seconds=30)",
    "Partition('r1', at=0, seconds=0.5)",
    "ClockOffset('r3', at=1.5, seconds=-3600)",
    "DropSession('r1', at=5)",
    "DatabaseAway(at=10, seconds=20)",
    "Drain('r1', at=7)",
    "Start('r1', at=8)",
]


@pytest.mark.parametrize("text", WRITTEN)
def test_a_fault_prints_as_it_is_written(text: str) -> None:
    kinds = {kind.__name__: kind for kind in KINDS}
    assert repr(eval(text, kinds)) == text


def test_whole_seconds_print_without_a_fraction() -> None:
    assert repr(Freeze("r1", at=100.0, seconds=2.0)) == "Freeze('r1', at=100, seconds=2)"


def test_all_kinds_are_written_here() -> None:
    assert {text.partition("(")[0] for text in WRITTEN} == {kind.__name__ for kind in KINDS}


def test_a_fault_is_a_value() -> None:
    assert Kill("r1", at=5) == Kill("r1", at=5.0)
    assert Kill("r1", at=5) != Kill("r2", at=5)
    assert len({Kill("r1", at=5), Kill("r1", at=5)}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        Kill("r1", at=5).at = 6  # type: ignore[misc]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Kill(1, at=5), TypeError, "replica of Kill must be a str, got 1: write it as 'r1'"),  # type: ignore[arg-type]
        (lambda: Kill("r1", at="5"), TypeError, "at of Kill must be a number of seconds, got '5'"),  # type: ignore[arg-type]
        (lambda: Kill("r1", at=True), TypeError, "at of Kill must be a number of seconds, got True"),
        (lambda: Kill("r1", at=-1), ValueError, "at of Kill must be 0 or more seconds after the start, got -1"),
        (lambda: Kill("r1", at=float("nan")), ValueError, "at of Kill must be a finite number"),
        (lambda: Freeze("r1", at=1, seconds=0), ValueError, "seconds of Freeze must be above 0, got 0"),
        (lambda: DatabaseAway(at=1, seconds=float("inf")), ValueError, "seconds of DatabaseAway must be a finite"),
    ],
)
def test_a_fault_refuses_what_cannot_be_meant(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_a_clock_may_be_late_or_right_again() -> None:
    assert ClockOffset("r1", at=0, seconds=-5).seconds == -5
    assert ClockOffset("r1", at=0, seconds=0).seconds == 0


# -- Plans -------------------------------------------------------------------------------------------------------------


def up_after(plan: list[Fault], replica: str) -> bool:
    changes = lifecycle(replica, plan)
    return not changes or isinstance(changes[-1], Start)


@given(strategies.fault_plans(replicas=2, until=100, most=8))
def test_a_plan_is_in_order_within_its_time_and_leaves_somebody(plan: list[Fault]) -> None:
    assert [fault.at for fault in plan] == sorted(fault.at for fault in plan)
    assert all(fault.at < 100 for fault in plan)
    assert len(plan) <= 8
    for index in range(len(plan)):
        assert any(up_after(plan[: index + 1], replica) for replica in ("r1", "r2"))


@given(strategies.fault_plans(replicas=3, kinds=[Freeze, Partition], longest=7))
def test_a_plan_keeps_to_its_kinds_and_its_longest(plan: list[Fault]) -> None:
    for fault in plan:
        assert isinstance(fault, Freeze | Partition)
        assert 1 <= fault.seconds <= 7


def find(condition: Any, **arguments: Any) -> list[Fault]:
    settings = hypothesis.settings(max_examples=5000, derandomize=True, database=None)
    return hypothesis.find(strategies.fault_plans(**arguments), condition, settings=settings)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_comes_up_and_shrinks_to_the_least(kind: type[Fault]) -> None:
    plan = find(lambda plan: any(isinstance(fault, kind) for fault in plan), most=3)
    expected = {
        Kill: "[Kill('r1', at=0)]",
        Freeze: "[Freeze('r1', at=0, seconds=1)]",
        Partition: "[Partition('r1', at=0, seconds=1)]",
        ClockOffset: "[ClockOffset('r1', at=0, seconds=0)]",
        DropSession: "[DropSession('r1', at=0)]",
        DatabaseAway: "[DatabaseAway(at=0, seconds=1)]",
        Drain: "[Drain('r1', at=0)]",
        Start: "[Kill('r1', at=0), Start('r1', at=0)]",
    }
    assert repr(plan) == expected[kind]


def test_late_faults_shrink_to_whole_seconds() -> None:
    plan = find(
        lambda plan: any(isinstance(fault, Freeze) and fault.at > 12.3 and fault.seconds > 3.4 for fault in plan)
    )
    assert repr(plan) == "[Freeze('r1', at=13, seconds=4)]"


def test_all_may_be_killed_only_when_that_is_asked_for() -> None:
    def none_left(plan: list[Fault]) -> bool:
        return not up_after(plan, "r1")

    assert repr(find(none_left, replicas=1, may_kill_all=True)) == "[Kill('r1', at=0)]"
    with pytest.raises(hypothesis.errors.NoSuchExample):
        hypothesis.find(
            strategies.fault_plans(replicas=1), none_left, settings=hypothesis.settings(max_examples=300, database=None)
        )


@pytest.mark.parametrize(
    "arguments", [{"replicas": 0}, {"until": 0.5}, {"most": -1}, {"longest": 0.5}, {"kinds": []}], ids=repr
)
def test_a_plan_of_nothing_is_refused(arguments: Any) -> None:
    with pytest.raises(ValueError, match="raise what is too small"):
        strategies.fault_plans(**arguments)


@given(st.data())
def test_no_faults_at_all_is_a_plan_too(data: st.DataObject) -> None:
    assert data.draw(strategies.fault_plans(most=0)) == []
