"""What is due comes out in the order of its time, whatever part of the time it lay in meanwhile."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tickrunner_trio._due_queue import _PART, DueQueue

#: Within a part, in neighbours, on their edges, far away, and before the epoch of the clock.
times = st.one_of(
    st.integers(-3, 12).map(lambda part: part * _PART),
    st.floats(-3 * _PART, 12 * _PART),
    st.floats(-1e12, 1e12),
    st.floats(allow_nan=False, allow_infinity=False),  # the longest interval there is ends at one of these
)


def taken(queue: DueQueue[int], now: float, at_most: int) -> list[tuple[float, int]]:
    return [(at, item) for at, _, item in queue.take_due(now, at_most)]


class Queues(RuleBasedStateMachine):
    """A queue, and a plain list that is searched from end to end."""

    @initialize()
    def begin(self) -> None:
        self.queue: DueQueue[int] = DueQueue()
        self.model: list[tuple[float, int]] = []
        self.number = 0

    @rule(at=times)
    def put(self, at: float) -> None:
        self.number += 1
        self.queue.put(at, self.number)
        self.model.append((at, self.number))

    @rule(now=times, at_most=st.integers(1, 9))
    def take_due(self, now: float, at_most: int) -> None:
        due = sorted(entry for entry in self.model if entry[0] <= now)[:at_most]
        assert taken(self.queue, now, at_most) == due
        self.model = [entry for entry in self.model if entry not in due]

    @rule(divisor=st.integers(1, 4))
    def keep(self, divisor: int) -> None:
        self.queue.keep(lambda at, number: number % divisor == 0 or at < 0)
        self.model = [entry for entry in self.model if entry[1] % divisor == 0 or entry[0] < 0]

    @invariant()
    def it_knows_how_many_there_are_and_when_the_first_is_due(self) -> None:
        assert self.queue.size == len(self.model)
        assert self.queue.first_at() == min((at for at, _ in self.model), default=math.inf)

    @invariant()
    def the_heap_holds_the_first_part_and_nothing_else(self) -> None:
        queue = self.queue
        parts = [{at // _PART for at, _, _ in entries} for entries in (queue._heap, *queue._parts.values())]
        assert parts == [{key} for key in (queue._heap_key, *queue._parts)] if queue.size else parts == [set()]
        assert sorted(queue._keys) == sorted(queue._parts)
        assert all(queue._heap_key < key for key in queue._keys)


TestQueues = Queues.TestCase


@given(st.lists(st.sampled_from([0.0, _PART, 0.5]), max_size=50))
def test_what_is_due_at_one_time_comes_out_in_the_order_in_which_it_was_put(at: list[float]) -> None:
    queue: DueQueue[int] = DueQueue()
    for number, each in enumerate(at):
        queue.put(each, number)
    assert taken(queue, 1, 50) == sorted(zip(at, range(len(at)), strict=True))


@given(times, times)
@example(0.1 + 0.2, 0.3)
@example(2**53 * _PART, (2**53 + 2) * _PART)
def test_a_later_time_never_lies_in_an_earlier_part(earlier: float, later: float) -> None:
    assume(earlier < later)
    assert earlier // _PART <= later // _PART


def test_so_many_are_taken_and_no_more_from_whatever_parts() -> None:
    queue: DueQueue[int] = DueQueue()
    for number in range(6):
        queue.put(number * _PART / 2, number)
    assert [[number for _, number in taken(queue, 1, 4)] for _ in range(3)] == [[0, 1, 2, 3], [4, 5], []]


def test_a_queue_of_ten_thousand_keeps_few_in_its_heap() -> None:
    """Which is what it is for."""
    queue: DueQueue[int] = DueQueue()
    for number in range(10_000):
        queue.put(number / 10_000, number)
    for step in range(1, 1001):
        for at, number in taken(queue, step / 1000, 100):
            queue.put(at + 1, number)
        assert len(queue._heap) <= 10_000 * _PART + 1
    assert queue.size == 10_000


@pytest.mark.parametrize("far", [86_400.0, 1e9])
def test_one_that_is_due_much_later_does_not_draw_all_others_into_the_heap(far: float) -> None:
    """As it would, were its part made the heap whenever nobody else is there."""
    queue: DueQueue[int] = DueQueue()
    queue.put(far, -1)
    for number in range(1000):
        queue.put(number / 100, number)
        assert len(queue._heap) <= 4
    assert [number for _, number in taken(queue, far, 2000)] == [*range(1000), -1]
