"""The server of the admin application against clients that are slow, idle, broken or hostile; on real sockets."""

from __future__ import annotations

import contextlib
import logging
import math
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from admin_client import Answer, ask, exchange, parsed, request, running, served
from starlette.responses import PlainTextResponse

from tickrunner_trio import Config, MemoryLocker, Service, Supervisor
from tickrunner_trio.admin import _exchange, _serving, serve_admin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tickrunner_trio import Tick

PATIENCE = 30.0


class Echo:
    """An ASGI application that keeps what it was asked, and says so."""

    def __init__(self) -> None:
        self.scopes: list[Any] = []
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        self.bodies.append((await receive())["body"])
        await PlainTextResponse("hello")(scope, receive, send)


@contextlib.asynccontextmanager
async def connected(port: int, sent: bytes = b"") -> AsyncIterator[trio.SocketStream]:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        if sent:
            await stream.send_all(sent)
        yield stream


async def rest_of(stream: trio.SocketStream) -> bytes:
    """What the server still says until it closes; a reset counts as closing."""
    received = b""
    with trio.fail_after(PATIENCE), contextlib.suppress(trio.BrokenResourceError):
        async for chunk in stream:
            received += chunk
    return received


# -- HTTP --------------------------------------------------------------------------------------------------------------


async def test_the_application_gets_the_request_as_asgi_has_it() -> None:
    echo = Echo()
    async with served(echo) as port:
        answer = await ask(port, "POST", "/a%20b/%C3%A9?x=1&y=%2F", {"X-Thing": "1"}, body=b"body")
    assert (answer.status, answer.body) == (200, b"hello")
    (scope,) = echo.scopes
    assert (scope["method"], scope["path"], scope["raw_path"]) == ("POST", "/a b/\u00e9", b"/a%20b/%C3%A9")
    assert scope["query_string"] == b"x=1&y=%2F"
    assert (b"x-thing", b"1") in scope["headers"]
    assert scope["client"][0] == "127.0.0.1"
    assert scope["server"] == ("127.0.0.1", port)
    assert echo.bodies == [b"body"]


async def test_an_answer_closes_the_connection_and_says_so() -> None:
    async with served(Echo()) as port, connected(port, request("GET", "/") + request("GET", "/second")) as stream:
        answer = parsed(await rest_of(stream))
    assert answer.headers["connection"] == "close"
    assert answer.headers["date"].endswith("GMT")
    assert answer.body == b"hello", "the second request was answered, or the first one twice"


async def test_a_body_in_chunks_and_one_that_waits_to_be_asked_for_arrive() -> None:
    echo = Echo()
    async with served(echo) as port:
        head = {"Transfer-Encoding": "chunked"}
        await exchange(port, request("POST", "/", head) + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        async with connected(port, request("POST", "/", {"Expect": "100-continue", "Content-Length": "3"})) as stream:
            with trio.fail_after(PATIENCE):
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 100 ")
            await stream.send_all(b"xyz")
            assert b"hello" in await rest_of(stream)
    assert echo.bodies == [b"abcde", b"xyz"]


async def test_a_client_of_http_1_0_is_answered() -> None:
    async with served(Echo()) as port:
        answer = await exchange(port, b"GET / HTTP/1.0\r\n\r\n")
    assert (answer.status, answer.body) == (200, b"hello")


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # TLS
        b"GET / HTTP/1.1\r\n\r\n",  # no Host
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nBad Header: 1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HEAD / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",  # no answer to HEAD has a body
        b"HEAD * HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_refused_before_the_application_hears_of_it(
    sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    echo = Echo()
    async with served(echo) as port:
        answer = await exchange(port, sent)
        assert 400 <= answer.status < 506
        assert answer.headers["connection"] == "close"
        assert (await ask(port, "GET", "/")).status == 200
    assert len(echo.scopes) == 1
    assert caplog.records == []


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request("GET", "/" + "x" * 40_000), 431),
        (request("GET", "/", {"X-Long": "x" * 40_000}), 431),
        (request("POST", "/", body=b"x" * 5_000), 413),
        (request("POST", "/", {"Transfer-Encoding": "chunked"}) + b"1388\r\n" + b"x" * 5_000 + b"\r\n0\r\n\r\n", 413),
    ],
)
async def test_what_is_too_long_is_refused_and_the_client_can_read_why(sent: bytes, status: int) -> None:
    echo = Echo()
    async with served(echo) as port:
        assert (await exchange(port, sent)).status == status
    assert echo.scopes == []


def with_headers(lines: int) -> bytes:
    return request("GET", "/", {f"X-{number}": "" for number in range(lines - request("GET", "/").count(b"\n"))})


def with_chunks(lines: int) -> bytes:
    head = request("POST", "/", {"Transfer-Encoding": "chunked"})
    return head + b"1\r\nx\r\n" * ((lines - head.count(b"\n")) // 2 - 1) + b"0\r\n\r\n"


def with_trailers(lines: int) -> bytes:
    head = request("POST", "/", {"Transfer-Encoding": "chunked"}) + b"0\r\n"
    return head + b"a:\r\n" * (lines - head.count(b"\n") - 1) + b"\r\n"


@pytest.mark.parametrize("made", [with_headers, with_chunks, with_trailers])
async def test_a_request_of_more_lines_than_anybody_needs_is_refused_for_each_takes_time(
    made: Callable[[int], bytes],
) -> None:
    most, more = made(_exchange.MOST_LINES), made(_exchange.MOST_LINES + 2)
    assert _exchange.MOST_LINES - 1 <= most.count(b"\n") <= _exchange.MOST_LINES
    echo = Echo()
    async with served(echo) as port:
        assert (await exchange(port, most)).status == 200
        assert (await exchange(port, more)).status == 431
    assert len(echo.scopes) == 1


# -- Slow and idle clients ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HTTP/1.1\r\nHost: lo", request("POST", "/", {"Content-Length": "9"}) + b"x"]
)
async def test_a_request_that_does_not_get_complete_is_dropped_in_time(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_serving, "READ_TIMEOUT", 0.1)
    echo = Echo()
    async with served(echo) as port, connected(port, sent) as stream:
        assert await rest_of(stream) == b""
    assert echo.scopes == []


async def test_a_client_that_sends_a_byte_now_and_then_gains_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_serving, "READ_TIMEOUT", 0.3)
    async with served(Echo()) as port, connected(port) as stream:
        with trio.fail_after(PATIENCE), pytest.raises(trio.BrokenResourceError):
            while True:
                await stream.send_all(b"G")
                await trio.sleep(0.02)


async def test_a_client_that_does_not_take_its_answer_is_dropped(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_exchange, "SEND_TIMEOUT", 0.1)
    raised = trio.Event()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
        except OSError:
            raised.set()
            raise

    with caplog.at_level(logging.WARNING):
        async with served(endless) as port, connected(port, request("GET", "/")):
            with trio.fail_after(PATIENCE):
                await raised.wait()
    assert caplog.messages == []


async def test_a_client_that_does_not_take_its_answer_does_not_hold_up_the_end() -> None:
    """As Hypercorn's would, which sends under a shield."""
    stuck = trio.Event()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        more_than_sockets_hold = b"x" * 20_000_000
        while True:
            with trio.move_on_after(0.2) as attempt:
                await send({"type": "http.response.body", "body": more_than_sockets_hold, "more_body": True})
            assert attempt.cancelled_caught
            stuck.set()

    with trio.fail_after(PATIENCE):
        async with served(endless) as port, connected(port, request("GET", "/")):
            await stuck.wait()


async def test_a_client_that_does_not_close_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_serving, "LINGER", 0.1)
    async with served(Echo()) as port, connected(port, request("GET", "/")) as stream:
        await rest_of(stream)
        with trio.fail_after(PATIENCE), pytest.raises(trio.BrokenResourceError):
            while True:
                await stream.send_all(b"x")
                await trio.sleep(0.01)


async def test_a_client_that_goes_on_sending_after_its_answer_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_serving, "LINGER", math.inf)
    async with served(Echo()) as port, connected(port, request("GET", "/")) as stream:
        await rest_of(stream)
        with trio.fail_after(PATIENCE), pytest.raises(trio.BrokenResourceError):
            while True:
                await stream.send_all(b"x" * 1000)
                await trio.sleep(0.001)


async def test_a_refusal_that_is_not_taken_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_exchange, "SEND_TIMEOUT", 0.05)

    class Full:
        async def send_all(self, data: bytes) -> None:
            await trio.sleep_forever()

    full: Any = Full()
    with trio.fail_after(PATIENCE):
        await _exchange.Exchange(full, trio.move_on_after).refuse(400, "no")


@pytest.mark.parametrize("sent", [b"", b"GET / HTT", request("GET", "/")], ids=["idle", "slow", "lingering"])
async def test_clients_that_only_wait_cannot_lock_others_out(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_serving, "MOST_CONNECTIONS", 8)
    monkeypatch.setattr(_serving, "READ_TIMEOUT", math.inf)
    monkeypatch.setattr(_serving, "LINGER", math.inf)
    async with served(Echo()) as port, contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(connected(port, sent)) for _ in range(8)]
        for _ in range(8):
            assert (await ask(port, "GET", "/")).status == 200
        await rest_of(streams[0])  # the oldest went first


async def test_clients_that_take_no_answer_cannot_lock_the_probes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their windows are tiny, so that an answer of the page's size does not fit into what the system keeps for them."""
    monkeypatch.setattr(_exchange, "SEND_TIMEOUT", math.inf)
    async with running(Supervisor([])) as port, contextlib.AsyncExitStack() as stack:
        for _ in range(_serving.MOST_CONNECTIONS):
            client = trio.socket.socket()
            client.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 1)
            client.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_MAXSEG, 88)
            stream = await stack.enter_async_context(trio.SocketStream(client))
            await client.connect(("127.0.0.1", port))
            await stream.send_all(request("GET", "/"))
        for _ in range(3):
            assert (await ask(port, "GET", "/readyz", token=None)).status == 200


async def test_when_all_connections_are_being_answered_one_more_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_serving, "MOST_CONNECTIONS", 3)
    asked, finish = [], trio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope["path"])
        await finish.wait()
        await PlainTextResponse("done")(scope, receive, send)

    async with served(slow) as port, trio.open_nursery() as nursery:
        answers: list[Answer] = []

        async def one() -> None:
            answers.append(await ask(port, "GET", "/slow"))

        for _ in range(3):
            nursery.start_soon(one)
        while len(asked) < 3:
            await trio.lowlevel.checkpoint()
        assert (await ask(port, "GET", "/more")).status == 503
        finish.set()
    assert [answer.body for answer in answers] == [b"done"] * 3
    assert asked == ["/slow"] * 3


# -- The end -----------------------------------------------------------------------------------------------------------


async def test_an_answer_that_is_being_given_outlasts_the_cancellation_for_a_moment() -> None:
    asked, finish = trio.Event(), trio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        asked.set()
        await finish.wait()
        await PlainTextResponse("done")(scope, receive, send)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(serve_admin, slow, port=0))
        port = listeners[0].socket.getsockname()[1]
        async with connected(port, request("GET", "/")) as stream, connected(port) as idle:
            await asked.wait()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                from_idle = await rest_of(idle)
                finish.set()
                answer = await rest_of(stream)
    assert from_idle == b"", "only answers are given the time"
    assert parsed(answer).body == b"done"
    with pytest.raises(OSError, match="connect"):
        await trio.open_tcp_stream("127.0.0.1", port)


async def test_an_answer_that_is_never_done_is_cut_off_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_serving, "END_GRACE", 0.05)
    asked, cancelled = trio.Event(), trio.Event()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        asked.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    with trio.fail_after(PATIENCE):
        async with served(endless) as port, connected(port, request("GET", "/")):
            await asked.wait()
    assert cancelled.is_set()


# -- Applications that fail --------------------------------------------------------------------------------------------


async def test_an_application_that_raises_gets_its_client_a_500_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError("secret")

    async with served(broken) as port:
        answer = await ask(port, "GET", "/")
        assert (answer.status, b"secret" in answer.body) == (500, False)
        assert (await ask(port, "GET", "/")).status == 500
    assert caplog.messages == ["the ASGI application raised"] * 2


async def test_an_application_that_raises_in_its_answer_breaks_it_off(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        raise KeyError("secret")

    async with served(broken) as port, connected(port, request("GET", "/")) as stream:
        received = await rest_of(stream)
    assert received.endswith(b"begun\r\n"), "there is an end, so the client takes the part for the whole"
    assert caplog.messages == ["the ASGI application raised"]


async def test_an_application_that_returns_too_early_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    async def silent(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async with served(silent) as port:
        assert (await ask(port, "GET", "/")).status == 500
    assert caplog.messages == ["the ASGI application raised"]


async def test_an_error_of_the_server_itself_costs_one_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def linger(exchange: object) -> None:
        raise KeyError("a bug")

    async with served(Echo()) as port:
        with monkeypatch.context() as broken:
            broken.setattr(_exchange.Exchange, "linger", linger)
            assert (await ask(port, "GET", "/")).status == 200
        assert (await ask(port, "GET", "/")).status == 200
    assert caplog.messages == ["the admin application's server failed on a connection"]


async def test_an_application_hears_that_its_client_left() -> None:
    heard = trio.Event()

    async def listening(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        assert (await receive())["type"] == "http.request"
        assert (await receive())["type"] == "http.disconnect"
        heard.set()

    async with served(listening) as port:
        async with connected(port, request("GET", "/")):
            pass
        with trio.fail_after(PATIENCE):
            await heard.wait()


async def test_what_comes_after_the_request_does_not_end_the_answer() -> None:
    async def listening(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "http.request"
        with trio.move_on_after(0.2) as waiting:
            await receive()
        await PlainTextResponse("is there" if waiting.cancelled_caught else "has left")(scope, receive, send)

    async with served(listening) as port, connected(port, request("GET", "/") + b"\n") as stream:
        await stream.send_all(b"\n")
        assert parsed(await rest_of(stream)).body == b"is there"


async def test_one_who_sends_much_after_the_request_is_taken_to_have_left() -> None:
    left = trio.Event()

    async def listening(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "http.request"
        assert (await receive())["type"] == "http.disconnect"
        left.set()

    async with served(listening) as port, connected(port, request("GET", "/")) as stream:
        await stream.send_all(b"x" * 2 * _exchange.LONGEST_HEAD)
        with trio.fail_after(PATIENCE):
            await left.wait()


async def test_a_client_that_has_said_that_it_sends_no_more_gets_its_answer() -> None:
    async with served(Echo()) as port, connected(port, request("GET", "/")) as stream:
        await stream.send_eof()
        assert parsed(await rest_of(stream)).body == b"hello"


# -- All of it at once -------------------------------------------------------------------------------------------------


async def test_hundreds_of_idle_and_slow_connections_hold_up_no_tick(capsys: pytest.CaptureFixture[str]) -> None:
    """The lateness of ticks is printed, not bounded: what is asserted is that no slot passed without its tick."""
    lateness: list[float] = []
    began = trio.Event()

    async def work(tick: Tick) -> None:
        lateness.append((tick.started_at - tick.scheduled_at).total_seconds())
        began.set()

    async def measured(ticks: int) -> str:
        lateness.clear()
        while len(lateness) < ticks:  # noqa: ASYNC110 - the waiting is the measurement
            await trio.sleep(0.1)
        return f"median {statistics.median(lateness) * 1e3:.1f} ms, most {max(lateness) * 1e3:.1f} ms"

    sweep = Service(Config(name="sweep", interval=0.5, locker=MemoryLocker(), work=work, cadence="replica"))
    async with running(Supervisor([sweep])) as port, trio.open_nursery() as nursery:
        await began.wait()
        alone = await measured(6)
        command = [sys.executable, "-I", str(Path(__file__).with_name("bad_clients.py")), str(port), "400"]
        clients = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert clients.stdin is not None
        assert clients.stdout is not None
        try:
            with trio.fail_after(PATIENCE):
                assert await clients.stdout.receive_some() == b"here\n"
            beset = await measured(12)
            for _ in range(3):
                assert (await ask(port, "GET", "/healthz", token=None)).status == 200
            assert clients.returncode is None
        finally:
            await clients.stdin.aclose()
            await clients.stdout.aclose()
            with trio.fail_after(PATIENCE):
                await clients.wait()
        nursery.cancel_scope.cancel()
    with capsys.disabled():
        print(f"\nlateness of ticks: alone {alone}; with 400 bad clients {beset}")
    assert clients.returncode == 0
    assert sweep.statistics().missed_slots == 0
