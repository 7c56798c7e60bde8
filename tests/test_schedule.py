"""The slots against a model that enumerates them, one by one, and says of each what became of it."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tickrunner_trio import Outcome
from tickrunner_trio._schedule import (
    Schedule,
    hold_until,
    jitter,
    part_of,
    slot_when_busy,
    slot_when_due,
    stalled_after,
)


class Model:
    """All slots up to a horizon as a list. Quadratic, and plain to see."""

    def __init__(self, first: float, interval: float, slots: int) -> None:
        self.slots = [first + k * interval for k in range(slots)]
        self.fate: dict[int, Literal["taken", "missed"]] = {}

    @property
    def open(self) -> list[int]:
        return [k for k in range(len(self.slots)) if k not in self.fate]

    def take(self, now: float) -> float:
        due = [k for k in self.open if self.slots[k] <= now] or [min(self.open)]
        self.fate.update(dict.fromkeys(due, "missed"))
        self.fate[due[-1]] = "taken"
        return self.slots[due[-1]]

    def skip_held(self, held_from: float, held_until: float) -> None:
        if not any(self.slots[k] <= held_from for k in self.open):
            inside = [k for k in self.open if self.slots[k] < held_until]
            self.fate.update(dict.fromkeys(inside, "missed"))

    @property
    def next_at(self) -> float:
        return self.slots[min(self.open)]

    @property
    def missed(self) -> int:
        return list(self.fate.values()).count("missed")


#: Lengths in intervals, with a liking for those that end exactly on a slot, where `<` and `<=` differ.
LENGTHS = st.just(0.0) | st.integers(0, 20).map(float) | st.floats(0, 20)


@given(
    first=st.sampled_from([0.0, 0.1, 1e6 / 3]) | st.floats(0, 1e6),
    interval=st.sampled_from([10.0, 0.1, 1 / 3, 1e-9, 1e-12, 5e-324, 366 * 86400.0]) | st.floats(1e-9, 1e8),
    ticks=st.lists(st.tuples(LENGTHS, LENGTHS, LENGTHS), min_size=1, max_size=8),
)
@example(first=0.1, interval=0.1, ticks=[(2.0, 0.0, 0.0), (0.0, 3.0, 1.0)])
def test_each_slot_is_taken_or_missed_as_the_model_says(
    first: float, interval: float, ticks: list[tuple[float, float, float]]
) -> None:
    """Each tick begins late, works and holds for some intervals; then the next one comes when its slot does."""
    spacing = max(interval, 1e-9)
    schedule, model = Schedule(first, interval), Model(first, spacing, slots=620)
    now, taken = first, list[float]()
    for late, works, holds in ticks:
        now = max(now, schedule.next_at) + late * spacing
        taken.append(schedule.take(now))
        assert taken[-1] == model.take(now)
        assert taken[-1] <= now < schedule.next_at, "never a burst"
        held_from = now + works * spacing
        now = held_from + holds * spacing
        due = schedule.next_at <= held_from
        due_then = schedule.due_after_hold(held_from, now)
        schedule.skip_held(held_from, now)
        assert due_then == max(now, schedule.next_at), "who sleeps until then comes neither early nor late"
        model.skip_held(held_from, now)
        assert schedule.next_at == model.next_at
        assert schedule.missed == model.missed
        assert due or schedule.next_at >= now, "no slot of the hold is caught up"
    assert all(one < other for one, other in pairwise(taken))
    schedule.take(schedule.next_at)
    assert schedule.missed + len(taken) == model.slots.index(model.next_at), "each slot has one fate"


@given(
    first=st.floats(0, 1e6),
    interval=st.floats(0, 1e7, exclude_min=True),
    latenesses=st.lists(st.floats(0, 1e9), min_size=1, max_size=5),
)
@example(first=0.0, interval=5e-324, latenesses=[1e9, 1e9])
@example(first=1.96379965468077, interval=4194302.933775673, latenesses=[0.0])
def test_however_late_it_gets_one_tick_is_due_and_it_is_for_the_latest_slot_passed(
    first: float, interval: float, latenesses: list[float]
) -> None:
    schedule = Schedule(first, interval)
    now = first
    for lateness in latenesses:
        now = max(now, schedule.next_at) + lateness
        at = schedule.take(now)
        assert at <= now < schedule.next_at
        # One interval and what rounding adds to it, which is as coarse as the later of the two slots is far.
        assert schedule.next_at - at <= max(interval, 1e-9) + 2 * math.ulp(schedule.next_at)


def test_an_outage_of_a_million_million_slots_is_one_tick_and_counts_the_others() -> None:
    schedule = Schedule(5.0, 1.0)
    assert schedule.take(1e12 + 5.5) == 1e12 + 5
    assert schedule.missed == 10**12
    assert schedule.next_at == 1e12 + 6


def test_slots_do_not_drift_over_a_million_of_them() -> None:
    schedule = Schedule(0.1, 0.1)
    for _ in range(100_000):
        schedule.take(schedule.next_at)
    for _ in range(90_000):
        schedule.take(schedule.next_at + 0.95)
    assert schedule.missed == 810_000
    exact = Fraction(0.1) + 1_000_000 * Fraction(0.1)
    assert abs(Fraction(schedule.next_at) - exact) <= 2 * Fraction(math.ulp(schedule.next_at))


def test_the_first_slot_is_where_the_schedule_was_told() -> None:
    schedule = Schedule(2.5, 10)
    assert (schedule.next_at, schedule.missed) == (2.5, 0)


def test_a_timer_that_fires_a_little_early_takes_its_slot_all_the_same() -> None:
    schedule = Schedule(10, 10)
    assert schedule.take(math.nextafter(10, 0)) == 10
    assert schedule.next_at == 20


@pytest.mark.parametrize(
    ("now", "taken", "missed"), [(10, 10, 0), (19.9, 10, 0), (20, 20, 1), (29.9, 20, 1), (60, 60, 5)]
)
def test_earlier_slots_that_were_not_run_count_as_missed(now: float, taken: float, missed: int) -> None:
    schedule = Schedule(10, 10)
    assert schedule.take(now) == taken
    assert schedule.missed == missed
    assert schedule.next_at == taken + 10


@pytest.mark.parametrize(
    ("held_from", "held_until", "next_at", "missed"),
    [
        (1, 9, 10, 0),  # ends before the slot
        (1, 10, 10, 0),  # ends with the slot, which is on time
        (1, 10.5, 20, 1),  # the slot fell into it
        (1, 20, 20, 1),
        (1, 20.5, 30, 2),
        (10, 19, 10, 0),  # the slot came before it: an overrun, still due
        (10.5, 25, 10, 0),
        (9.5, 9.5, 10, 0),
    ],
)
def test_a_slot_within_the_own_hold_is_missed_and_one_before_it_is_still_due(
    held_from: float, held_until: float, next_at: float, missed: int
) -> None:
    schedule = Schedule(0, 10)
    schedule.take(0)
    schedule.skip_held(held_from, held_until)
    assert (schedule.next_at, schedule.missed) == (next_at, missed)


@pytest.mark.parametrize(
    ("interval", "upper"), [(10, 5), (119, 59.5), (120, 60), (121, 60), (86400, 60), (0.001, 0.0005)]
)
def test_the_jitter_is_below_half_the_interval_and_below_a_minute(interval: float, upper: float) -> None:
    assert jitter(interval, lambda: 0.0) == 0
    assert jitter(interval, lambda: 0.5) == upper / 2
    assert jitter(interval, lambda: math.nextafter(1, 0)) < upper


@given(st.floats(1e-9, 366 * 86400), st.floats(0, 1, exclude_max=True))
def test_the_jitter_is_within_its_bounds_for_every_interval(interval: float, drawn: float) -> None:
    assert 0 <= jitter(interval, lambda: drawn) < min(interval / 2, 60)


#: The part of the interval, from the tick's start, at the lowest and the highest draw.
HOLDS = {
    Outcome.SUCCESS: (0.9, 0.9),
    Outcome.FAILED: (0.0, 0.25),
    Outcome.TIMED_OUT: (0.0, 0.25),
    Outcome.UNAVAILABLE: (0.0, 0.25),
}


@pytest.mark.parametrize("outcome", Outcome)
def test_with_the_cadence_cluster_a_hold_ends_at_a_part_of_the_interval_from_the_start(outcome: Outcome) -> None:
    def until(drawn: float) -> float:
        return hold_until(outcome, cadence="cluster", started_at=100.0, interval=40.0, random=lambda: drawn)

    low, high = HOLDS.get(outcome, (0.0, 0.0))
    assert until(0.0) == 100 + low * 40
    assert until(1.0) == 100 + high * 40
    assert until(0.5) == 100 + (low + high) / 2 * 40


@pytest.mark.parametrize("outcome", Outcome)
def test_with_the_cadence_replica_nothing_is_held(outcome: Outcome) -> None:
    assert hold_until(outcome, cadence="replica", started_at=100.0, interval=40.0, random=lambda: 0.5) == 100


@given(st.floats(0, 1e6), st.floats(1e-3, 1e7), st.sampled_from(Outcome), st.floats(0, 1, exclude_max=True))
def test_a_hold_ends_before_the_next_slot_of_a_tick_that_began_in_time(
    started_at: float, interval: float, outcome: Outcome, drawn: float
) -> None:
    until = hold_until(outcome, cadence="cluster", started_at=started_at, interval=interval, random=lambda: drawn)
    assert started_at <= until < started_at + interval


def test_a_service_is_stalled_after_four_intervals_and_the_timeout() -> None:
    assert stalled_after(10, None) == 40
    assert stalled_after(10, 7.5) == 47.5


# -- With a ledger -----------------------------------------------------------------------------------------------------


@given(
    first=st.floats(0, 1e6),
    interval=st.floats(0.01, 1e5),
    moves=st.lists(st.tuples(st.floats(0, 3), st.floats(0, 3)), min_size=1, max_size=10),
)
def test_after_a_move_the_slots_follow_from_there_and_the_move_itself_misses_none(
    first: float, interval: float, moves: list[tuple[float, float]]
) -> None:
    schedule = Schedule(first, interval)
    for by, late in moves:
        schedule.take(schedule.next_at)
        missed, at = schedule.missed, schedule.next_at + by * interval
        schedule.move_to(at)
        assert (schedule.next_at, schedule.missed) == (at, missed)
        taken_at = schedule.take(at + late * interval)
        passed = schedule.missed - missed
        assert -1e-6 < late - passed < 1 + 1e-6, "the latest slot that has passed, but for the rounding of the times"
        assert taken_at == pytest.approx(at + passed * interval)


@pytest.mark.parametrize(("interval", "part"), [(1.0, 0.1), (300.0, 30.0), (86400.0, 30.0)])
def test_replicas_ask_within_a_tenth_of_the_interval_and_30_seconds_at_most(interval: float, part: float) -> None:
    assert part_of(interval) == part


@pytest.mark.parametrize(("due_in", "wait"), [(50.0, 50.0), (0.0, 0.0), (-1e6, 0.0)])
def test_the_slot_is_when_it_is_due_or_now_if_it_is_overdue_and_a_random_part(due_in: float, wait: float) -> None:
    for random in (0.0, 0.25, 1.0):
        assert slot_when_due(1000.0, due_in, 100.0, lambda random=random: random) == 1000 + wait + 10 * random


def test_where_somebody_else_is_at_work_it_asks_again_soon_but_not_at_once() -> None:
    assert [slot_when_busy(1000.0, 100.0, lambda part=part: part) for part in (0.0, 0.5, 1.0)] == [1005, 1007.5, 1010]
