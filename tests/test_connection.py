"""A connection on a real server: what it does when statements are large, not taken, not answered, or not there."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from typing import TYPE_CHECKING

import pytest
from postgres_view import stopped

from tickrunner_trio import DatabaseUnavailableError
from tickrunner_trio.lockers._clock import boot_seconds
from tickrunner_trio.lockers._connection import Connection
from tickrunner_trio.lockers._conninfo import parameters_of
from tickrunner_trio.lockers._losses import Loss
from tickrunner_trio.lockers._short import _wait

if TYPE_CHECKING:
    from collections.abc import Iterator

#: More than the sockets on the way hold.
LARGE = b"SELECT length('" + 20_000_000 * b"x" + b"')"


@pytest.fixture
def connection(dsn: str) -> Iterator[Connection]:
    with contextlib.closing(Connection(dsn, _wait)) as one:
        yield one


def one_second() -> float:
    return boot_seconds() + 1


def test_a_statement_larger_than_the_sockets_is_sent_piece_by_piece(connection: Connection) -> None:
    os.kill(connection.backend_pid, signal.SIGSTOP)
    threading.Timer(0.05, os.kill, (connection.backend_pid, signal.SIGCONT)).start()
    assert connection.ask_row(LARGE, columns=1, deadline=boot_seconds() + 30) == ["20000000"]


def test_a_statement_that_the_server_does_not_take_in_time_is_given_up(connection: Connection) -> None:
    with (
        stopped(connection.backend_pid),
        pytest.raises(DatabaseUnavailableError, match="did not take a statement in time"),
    ):
        connection.begin(LARGE, deadline=boot_seconds() + 0.05)


def test_a_server_that_is_cut_off_before_its_answer_says_so(connection: Connection) -> None:
    connection.begin(b"SELECT pg_sleep(0.1)", deadline=one_second())
    with socket.socket(fileno=os.dup(connection.fd)) as line:
        line.shutdown(socket.SHUT_RDWR)
    with pytest.raises(DatabaseUnavailableError, match="server closed the connection"):
        connection.row_if_answered(columns=1, deadline=one_second())
    assert connection.loss is Loss.ENDED


def test_what_nobody_has_asked_for_is_no_answer(connection: Connection) -> None:
    with pytest.raises(DatabaseUnavailableError, match="did not answer a statement"):
        connection.row_if_answered(columns=1, deadline=one_second())
    assert connection.loss is Loss.STATEMENT


def test_a_server_that_has_said_nothing_unasked_still_answers(connection: Connection) -> None:
    connection.read_unasked()
    assert connection.ask_row(b"SELECT 1", columns=1, deadline=one_second()) == ["1"]


def test_a_connection_that_is_closed_says_so_whatever_is_asked_of_it(connection: Connection) -> None:
    connection.begin(b"SELECT 1", deadline=one_second())
    connection.close()
    with pytest.raises(DatabaseUnavailableError):
        connection.row_if_answered(columns=1, deadline=one_second())
    with pytest.raises(DatabaseUnavailableError):
        connection.ask(b"SELECT 1", deadline=one_second())
    with pytest.raises(DatabaseUnavailableError):
        _ = connection.fd


@pytest.mark.parametrize(
    ("name", "variable", "value"),
    [("connect_timeout", "PGCONNECT_TIMEOUT", "5"), ("target_session_attrs", "PGTARGETSESSIONATTRS", "any")],
)
def test_a_variable_of_libpq_stands_where_the_string_says_nothing(
    name: str, variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert name in parameters_of("")
    monkeypatch.setenv(variable, value)
    assert name not in parameters_of("")
