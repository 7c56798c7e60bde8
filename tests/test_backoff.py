"""How long is waited between attempts to connect, by an arithmetic that chance does not touch."""

from __future__ import annotations

from tickrunner_trio.lockers._backoff import LONGEST_SECONDS, Backoff


def backoff() -> tuple[Backoff, list[tuple[float, float]]]:
    """Return one, and the ranges that it lets chance decide within."""
    ranges: list[tuple[float, float]] = []

    def longest(least: float, most: float) -> float:
        ranges.append((least, most))
        return most

    return Backoff(longest), ranges


def test_each_wait_is_up_to_twice_as_long_as_the_one_before_and_ten_seconds_at_most() -> None:
    waits, ranges = backoff()
    longest = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 10.0]
    assert [waits.next_seconds() for _ in longest] == longest
    assert ranges == [(each / 2, each) for each in longest]


def test_however_often_it_fails_the_wait_is_a_number() -> None:
    waits, _ = backoff()
    assert {waits.next_seconds() for _ in range(2000)} >= {LONGEST_SECONDS}


def test_only_a_session_that_lived_for_longer_than_the_longest_wait_begins_anew() -> None:
    waits, _ = backoff()
    assert [waits.next_seconds(), waits.next_seconds()] == [0.1, 0.2]
    waits.session_lived(10.0)
    assert waits.next_seconds() == 0.4
    waits.session_lived(10.25)
    assert [waits.next_seconds(), waits.next_seconds()] == [0.1, 0.2]
