"""What the ledger's rows say of a service, as values."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickrunner_trio import ClusterHealth, HealthState, Outcome, PastRun
from tickrunner_trio._cluster_health import STALLED_AFTER, cluster_state, outcome_of

WELL = {"paused": False, "working_for": None, "overdue": -1.0, "interval": 10.0, "failures": 0, "has_ended": True}


@pytest.mark.parametrize(
    ("differs", "state"),
    [
        ({}, HealthState.OK),
        ({"working_for": 40.0}, HealthState.OK),
        ({"working_for": 40.1}, HealthState.STALLED),
        ({"working_for": 40.1, "failures": 3}, HealthState.STALLED),
        ({"working_for": 40.1, "paused": True}, HealthState.DISABLED),
        ({"has_ended": False}, HealthState.STARTING),
        ({"has_ended": False, "overdue": None}, HealthState.STARTING),
        ({"failures": 1}, HealthState.FAILING),
        ({"failures": 1, "has_ended": False}, HealthState.FAILING),
        ({"paused": True}, HealthState.DISABLED),
        ({"paused": True, "failures": 1, "overdue": 1e9}, HealthState.DISABLED),
        ({"overdue": 30.0}, HealthState.OK),
        ({"overdue": 30.1}, HealthState.STALLED),
        ({"overdue": 30.1, "failures": 3}, HealthState.STALLED),
        ({"overdue": 30.1, "has_ended": False}, HealthState.STALLED),
        ({"overdue": 30.1, "working_for": 1.0}, HealthState.OK),
        ({"overdue": 30.1, "working_for": 1.0, "failures": 1}, HealthState.FAILING),
    ],
)
def test_the_state_of_a_service_over_all_replicas(differs: dict[str, object], state: HealthState) -> None:
    assert cluster_state(**{**WELL, **differs}) is state  # type: ignore[arg-type]


@given(st.booleans(), st.booleans(), st.none() | st.floats(0, 10))
def test_only_a_service_that_is_paused_is_disabled(paused: bool, has_ended: bool, working_for: float | None) -> None:
    state = cluster_state(
        overdue=None, interval=1.0, failures=0, paused=paused, has_ended=has_ended, working_for=working_for
    )
    assert (state is HealthState.DISABLED) == paused
    assert state not in (HealthState.STANDBY, HealthState.UNAVAILABLE)


def test_it_stalls_after_as_many_intervals_without_a_run_as_a_replica_does() -> None:
    assert STALLED_AFTER + 1 == 4.0  # a success makes it due an interval later


@pytest.mark.parametrize("outcome", Outcome)
def test_the_outcome_of_a_row_is_that_of_its_value(outcome: Outcome) -> None:
    assert outcome_of(outcome.value) is outcome


def test_an_outcome_that_only_a_newer_release_knows_is_none() -> None:
    assert outcome_of("postponed") is None
    assert outcome_of(None) is None


def test_a_service_that_never_ran_is_known_by_its_name_lock_and_interval() -> None:
    health = ClusterHealth(name="sweep", state=HealthState.STARTING, lock_id=7, interval=60.0)
    others = {field.name: getattr(health, field.name) for field in dataclasses.fields(health)[4:]}
    assert {name for name, value in others.items() if value} == set()
    assert not health.paused
    assert dataclasses.replace(health, paused_at=datetime(2026, 1, 1, tzinfo=UTC)).paused


def test_a_trigger_waits_until_a_run_begins_after_it() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    health = ClusterHealth(name="sweep", state=HealthState.OK, lock_id=7, interval=60.0, triggered_at=at)
    assert health.triggered
    assert dataclasses.replace(health, working_since=at - timedelta(seconds=1)).triggered
    assert not dataclasses.replace(health, working_since=at).triggered
    assert not dataclasses.replace(health, triggered_at=None).triggered


@pytest.mark.parametrize("kind", [ClusterHealth, PastRun])
def test_both_are_frozen_and_say_what_each_field_is(kind: type) -> None:
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert kind.__slots__  # type: ignore[attr-defined]
