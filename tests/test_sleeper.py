"""How the session's thread sleeps: what wakes it, and what does not; with poll, and with what Windows has instead."""

from __future__ import annotations

import selectors
import socket
import threading
from contextlib import closing
from selectors import EVENT_READ, EVENT_WRITE
from typing import TYPE_CHECKING

import pytest

from tickrunner_trio.lockers import _sleeper
from tickrunner_trio.lockers._sleeper import Sleeper

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Seconds; nobody sleeps so long where the test is about being woken.
LONG = 30.0


@pytest.fixture(params=["PollSelector", "SelectSelector"])
def sleeper(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sleeper]:
    if not hasattr(selectors, request.param):
        pytest.skip("this system has no poll")
    monkeypatch.setattr(_sleeper, "_Selector", getattr(selectors, request.param))
    with closing(Sleeper()) as one:
        yield one


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_it_sleeps_until_its_time_is_over(sleeper: Sleeper) -> None:
    assert sleeper.sleep(None, 0, 0.001) is False


def test_it_is_woken_from_another_thread(sleeper: Sleeper) -> None:
    other = threading.Thread(target=sleeper.wake)
    other.start()
    assert sleeper.sleep(None, 0, LONG) is False
    other.join()


def test_what_woke_it_before_it_slept_wakes_it_once_however_often_that_was(sleeper: Sleeper) -> None:
    for _ in range(3):
        sleeper.wake()
    assert sleeper.sleep(None, 0, LONG) is False
    assert sleeper._selector.select(0) == []


def test_a_socket_that_is_ready_wakes_it(sleeper: Sleeper, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    assert sleeper.sleep(ours.fileno(), EVENT_READ, 0.001) is False
    theirs.send(b"a")
    assert sleeper.sleep(ours.fileno(), EVENT_READ, LONG) is True


def test_the_end_of_the_connection_wakes_it(sleeper: Sleeper, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.close()
    assert sleeper.sleep(ours.fileno(), EVENT_READ, LONG) is True


def test_it_looks_at_what_it_is_told_to_last(sleeper: Sleeper, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    assert sleeper.sleep(ours.fileno(), EVENT_READ, 0.001) is False
    assert sleeper.sleep(ours.fileno(), EVENT_READ | EVENT_WRITE, LONG) is True
    assert sleeper.sleep(ours.fileno(), EVENT_READ, 0.001) is False
    ours.send(b"a")
    assert sleeper.sleep(theirs.fileno(), EVENT_READ, LONG) is True
    assert sleeper.sleep(None, 0, 0.001) is False


def test_both_at_once_are_both_noticed(sleeper: Sleeper, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = pair
    sleeper.wake()
    assert sleeper.sleep(ours.fileno(), EVENT_WRITE, LONG) is True
    assert sleeper.sleep(None, 0, 0.001) is False


def test_a_socket_that_was_forgotten_may_be_closed(sleeper: Sleeper, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = pair
    sleeper.sleep(ours.fileno(), EVENT_READ, 0.001)
    sleeper.forget()
    ours.close()
    assert sleeper.sleep(None, 0, 0.001) is False


def test_whoever_wakes_it_does_not_wait_and_raises_nothing(sleeper: Sleeper) -> None:
    for _ in range(100_000):  # more than a socket takes
        sleeper.wake()
    assert sleeper.sleep(None, 0, LONG) is False
    sleeper.close()
    sleeper.wake()
