"""``tickrunner run --admin`` as a real process: where it listens, who may ask it, and that it changes nothing else."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from cli_processes import run_to_end, started

from tickrunner_trio import Supervisor, _cli_admin
from tickrunner_trio._cli import main
from tickrunner_trio._cli_admin import AdminOptions, admin_options, serve
from tickrunner_trio._cli_errors import CommandError, UsageError

TOKEN = "sesame-open-yourself"


def ask(address: str, path: str, token: str | None = None, *, method: str = "GET") -> tuple[int, Any]:
    """Make a request to what a line says it listens on."""
    found = re.search(r"http://(\[[^\]]+\]|[^:/]+):(\d+)/", address)
    assert found is not None, address
    connection = http.client.HTTPConnection(found[1].strip("[]"), int(found[2]), timeout=30)
    try:
        connection.request(method, path, headers={"Authorization": f"Bearer {token}"} if token else {})
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()


def test_without_a_token_it_makes_one_prints_it_once_in_a_link_and_logs_none() -> None:
    with started("run", "ticking:quick", "--admin", "127.0.0.1:0") as process:
        logged = process.wait_for("admin application on http://127.0.0.1:")
        link = process.wait_for("admin: http://127.0.0.1:")
        token = link.partition("#token=")[2]
        assert len(token) >= 43
        assert ask(logged, "/api/services", token)[1]["services"][0]["name"] == "quick"
        assert ask(logged, "/api/services")[0] == 401
        process.signal(signal.SIGTERM)
        status, output, errors = process.end()
    assert (status, errors) == (0, "")
    assert output.count(token) == 1
    assert output.endswith("services drained")


def test_with_json_logs_the_link_is_a_json_line_too() -> None:
    with started("run", "ticking:quick", "--admin", "0", "--log-format", "json") as process:
        link = json.loads(process.wait_for("admin_link"))["admin_link"]
        address, _, token = link.partition("#token=")
        assert ask(address, "/api/services", token)[0] == 200
        process.signal(signal.SIGTERM)
        lines = process.end()[1].splitlines()
    assert {"http://127.0.0.1"} == {json.loads(line).get("admin_address", address).rpartition(":")[0] for line in lines}


def test_a_token_of_the_environment_is_taken_and_not_printed() -> None:
    with started("run", "ticking:quick", "--admin", "127.0.0.1:0", TICKRUNNER_ADMIN_TOKEN=TOKEN) as process:
        address = process.wait_for("admin application on ")
        assert ask(address, "/api/services", TOKEN)[0] == 200
        process.signal(signal.SIGTERM)
        _, output, errors = process.end()
    assert TOKEN not in output + errors


def test_a_token_of_a_file_is_taken_before_that_of_the_environment(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    arguments = ("--admin", "127.0.0.1:0", "--admin-token-file", str(tmp_path / "token"))
    with started("run", "ticking:quick", *arguments, TICKRUNNER_ADMIN_TOKEN="another") as process:
        address = process.wait_for("admin application on ")
        assert ask(address, "/api/services", TOKEN)[0] == 200
        assert ask(address, "/api/services", "another")[0] == 401
        process.signal(signal.SIGTERM)
        assert TOKEN not in process.end()[1]


def test_it_listens_before_the_services_start_and_is_not_ready_while_they_drain() -> None:
    with started("run", "ticking:opened", "--admin", "127.0.0.1:0", TICKRUNNER_ADMIN_TOKEN=TOKEN) as process:
        address = process.wait_for("admin application on ")
        process.wait_for("services started")
        process.wait_for("begun")
        assert ask(address, "/readyz") == (200, {"ready": True, "supervisor": "running"})
        process.signal(signal.SIGTERM)
        process.wait_for("SIGTERM: draining")
        assert ask(address, "/readyz") == (503, {"ready": False, "supervisor": "draining"})
        assert ask(address, "/healthz")[0] == 200
        status, output, _ = process.end()
    assert status == 0
    assert "finished" in output


def test_a_page_that_is_open_does_not_hold_up_the_end() -> None:
    with started("run", "ticking:quick", "--admin", "127.0.0.1:0", TICKRUNNER_ADMIN_TOKEN=TOKEN) as process:
        address = process.wait_for("admin application on ")
        there = ("127.0.0.1", int(re.findall(r"http://127.0.0.1:(\d+)/", address)[0]))
        with socket.create_connection(there, timeout=30) as reader, socket.create_connection(there):
            head = f"GET /api/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
            reader.sendall(head.encode())
            assert b"200 OK" in reader.recv(1000)
            process.signal(signal.SIGTERM)
            status, _, errors = process.end()
    assert (status, errors) == (0, "")


def test_a_forced_tick_runs_in_the_process() -> None:
    with started("run", "ticking:failing", "--admin", "127.0.0.1:0", TICKRUNNER_ADMIN_TOKEN=TOKEN) as process:
        address = process.wait_for("admin application on ")
        status, report = ask(address, "/api/services/failing/tick", TOKEN, method="POST")
        assert (status, report["outcome"], report["error"]) == (200, "failed", "OSError: the disk is full")
        process.signal(signal.SIGTERM)
        assert "tick of failing forced from 127.0.0.1" in process.end()[1]


def test_who_forced_a_tick_that_ends_during_the_drain_hears_of_it() -> None:
    with started("run", "ticking:half", "--admin", "127.0.0.1:0", TICKRUNNER_ADMIN_TOKEN=TOKEN) as process:
        address = process.wait_for("admin application on ")
        answers: list[tuple[int, Any]] = []

        def force() -> None:
            answers.append(ask(address, "/api/services/half/tick", TOKEN, method="POST"))

        forcing = threading.Thread(target=force)
        forcing.start()
        process.wait_for("begun")
        process.signal(signal.SIGTERM)
        forcing.join()
        status, _, errors = process.end()
    assert (status, errors) == (0, "")
    ((code, report),) = answers
    assert (code, report["outcome"]) == (200, "success")


def test_a_port_that_is_taken_ends_it_with_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, _, errors = run_to_end("run", "ticking:quick", "--admin", f"127.0.0.1:{port}")
    assert status == 1
    assert errors.startswith(f"tickrunner: the admin application cannot listen on 127.0.0.1:{port}: ")
    assert errors.endswith(": give another --admin\n")
    assert errors.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device here that is always full")
def test_a_random_token_that_cannot_be_printed_ends_it_with_one_line_and_a_given_one_does_not_matter() -> None:
    with Path("/dev/full").open("wb") as full:
        status, _, errors = run_to_end("run", "ticking:quick", "--admin", "127.0.0.1:0", stdout=full.fileno())
        assert (status, "cannot be printed on stdout" in errors) == (1, True)
        assert errors.splitlines()[-1].endswith(": give one with --admin-token-file or TICKRUNNER_ADMIN_TOKEN")
        assert "Traceback" not in errors
        arguments = ("run", "ticking:brief", "--admin", "127.0.0.1:0")
        status, _, errors = run_to_end(*arguments, stdout=full.fileno(), TICKRUNNER_ADMIN_TOKEN=TOKEN)
        assert (status, "printed" in errors) == (0, False)


async def test_a_random_token_is_not_printed_where_stdout_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.RaisesGroup(
        pytest.RaisesExc(CommandError, match="cannot be printed on stdout: it is closed"), flatten_subgroups=True
    ):
        await serve(replace(OPTIONS, is_random=True), Supervisor([]))


@pytest.mark.parametrize(
    "address", ["", ":8080", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:65536", "::1:8080", "a:-1", "[]:1"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match=r"is no address for --admin: write it as HOST:PORT") as refused:
        admin_options(address, token_file=None, names=(), as_json=False)
    assert repr(address) in str(refused.value)


@pytest.mark.parametrize(
    ("address", "host", "port", "names"),
    [
        ("8080", "127.0.0.1", 8080, ()),
        ("[::1]:8080", "::1", 8080, ()),
        ("localhost:8080", "localhost", 8080, ("localhost",)),
        ("127.0.0.2:0", "127.0.0.2", 0, ()),
    ],
)
def test_addresses_are_of_this_machine_only_unless_told_otherwise(
    address: str, host: str, port: int, names: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    options = admin_options(address, token_file=None, names=(), as_json=False)
    assert (options.host, options.port, options.names) == (host, port, names)
    assert caplog.messages == []


EXPOSED = "the admin application can be reached from other machines, and there is no TLS in front of it"


async def listen(address: str, monkeypatch: pytest.MonkeyPatch, token: str | None = None) -> None:
    """Serve on an address until it listens."""
    monkeypatch.delenv("TICKRUNNER_ADMIN_TOKEN", raising=False)
    if token is not None:
        monkeypatch.setenv("TICKRUNNER_ADMIN_TOKEN", token)
    options = admin_options(address, token_file=None, names=["admin.example.com"], as_json=False)
    assert options.is_random is (token is None)
    assert "admin.example.com" in options.names
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, options, Supervisor([]))
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("address", "opened_as"), [("0.0.0.0:0", "127.0.0.1"), ("[::]:0", "[::1]")])
async def test_one_that_others_can_reach_is_warned_of_and_has_a_token_and_a_link_that_opens(
    address: str,
    opened_as: str,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await listen(address, monkeypatch)
    assert EXPOSED in caplog.messages
    link = capsys.readouterr().out
    assert link.startswith(f"admin: http://{opened_as}:")
    assert len(link.strip().partition("#token=")[2]) >= 43


@pytest.mark.parametrize("address", ["127.1:0", "localhost:0"])
async def test_whether_others_can_reach_it_is_judged_by_what_it_listens_on(
    address: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await listen(address, monkeypatch, "short")
    assert caplog.messages == []


async def test_a_short_token_is_refused_where_others_can_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.RaisesGroup(
        pytest.RaisesExc(
            UsageError, match=r"has 15 characters, and other machines can reach 0\.0\.0\.0: give one of 16"
        ),
        flatten_subgroups=True,
    ):
        await listen("0.0.0.0:0", monkeypatch, "x" * 15)
    await listen("0.0.0.0:0", monkeypatch, "x" * 16)


def test_a_star_is_no_address_and_what_to_write_instead_is_said() -> None:
    with pytest.raises(UsageError, match=r"'\*:8080' is no address for --admin: write 0\.0\.0\.0:8080"):
        admin_options("*:8080", token_file=None, names=(), as_json=False)


def test_a_token_of_the_environment_may_end_in_a_newline_as_secrets_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKRUNNER_ADMIN_TOKEN", f"{TOKEN}\n")
    options = admin_options("8080", token_file=None, names=(), as_json=False)
    assert options.token == TOKEN


@pytest.mark.parametrize("token", ["", "\n"])
def test_an_empty_token_of_the_environment_is_refused_and_not_replaced(
    token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TICKRUNNER_ADMIN_TOKEN", token)
    with pytest.raises(UsageError, match="token must be"):
        admin_options("8080", token_file=None, names=(), as_json=False)


@pytest.mark.parametrize("option", ["--admin-token-file=token", "--admin-host=ops.example.com"])
def test_its_other_options_are_refused_without_it(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "nowhere:services", option]) == 2
    assert "with --admin HOST:PORT only" in capsys.readouterr().err


def test_a_token_that_cannot_be_one_is_refused_without_being_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    monkeypatch.setenv("TICKRUNNER_ADMIN_TOKEN", "not good")
    for file, said in (
        ("empty", "token must be"),
        ("binary", "cannot be read"),
        ("nowhere", "cannot be read"),
        (None, "token must be"),
    ):
        path = None if file is None else str(tmp_path / file)
        with pytest.raises(UsageError, match=said) as refused:
            admin_options("8080", token_file=path, names=(), as_json=False)
        assert "not good" not in str(refused.value)


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match=r"hosts must hold bare names, got 'http://a'.*--admin-host"):
        admin_options("8080", token_file=None, names=["http://a"], as_json=False)


def test_without_its_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("tickrunner_trio.admin")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    with pytest.raises(UsageError, match=r"pip install 'tickrunner-trio\[admin\]'"):
        admin_options("8080", token_file=None, names=(), as_json=False)


OPTIONS = AdminOptions(host="127.0.0.1", port=0, names=(), token=TOKEN, is_random=False, as_json=False)


async def test_what_ends_the_server_later_is_logged_and_ends_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def break_down(*args: Any, **more: Any) -> None:
        await trio.lowlevel.checkpoint()
        raise KeyError("a bug")

    monkeypatch.setattr(trio, "serve_listeners", _starts_then(break_down))
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, OPTIONS, Supervisor([]))
    assert "the admin application ended; the services go on" in caplog.messages


def _starts_then(end: Any) -> Any:
    async def serve_listeners(handler: Any, listeners: Any, *, task_status: Any, **more: Any) -> None:
        task_status.started(listeners)
        try:
            await end()
        finally:
            for listener in listeners:
                listener.socket.close()

    return serve_listeners


async def test_an_error_before_it_listens_ends_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*args: Any, **more: Any) -> None:
        raise OSError("no such host")

    monkeypatch.setattr(trio, "open_tcp_listeners", refuse)
    with pytest.raises(CommandError, match=r"cannot listen on 127\.0\.0\.1:0: no such host: give another --admin"):
        await serve(OPTIONS, Supervisor([]))


def test_the_name_of_the_variable_is_what_the_help_says() -> None:
    status, output, _ = run_to_end("run", "--help")
    assert status == 0
    assert _cli_admin.TOKEN_VARIABLE in output
