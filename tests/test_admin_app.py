"""The admin application over a real server: what it answers to whom, and what it never does."""

from __future__ import annotations

import itertools
import json
import logging
import random
import threading
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import trio
from admin_client import TOKEN, Answer, ask, events, exchange, parsed, request, running, served
from postgres_view import until
from starlette.applications import Starlette
from starlette.routing import Mount

from tickrunner_trio import Config, DatabaseUnavailableError, MemoryLocker, Outcome, Service, Supervisor, WorkerHealth
from tickrunner_trio.admin import _exchange, _stream, admin_app, serve_admin
from tickrunner_trio.admin._board import Board

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tickrunner_trio import Tick


@pytest.fixture(autouse=True)
def late_first_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tick comes by itself while a test runs: the first slots are 54 seconds away."""
    monkeypatch.setattr(random, "random", lambda: 0.9)


async def succeed(tick: Tick) -> None:
    await trio.lowlevel.checkpoint()


async def fail(tick: Tick) -> None:
    raise OSError("the disk is full")


def a_service(name: str = "sweep", work: Callable[[Tick], Awaitable[None]] = succeed, **more: Any) -> Service:
    return Service(Config(name=name, work=work, **{"interval": 3600, "locker": MemoryLocker(), **more}))


def errors_of(answer: Answer) -> str:
    text: str = answer.json["error"]
    return text


# -- Probes ------------------------------------------------------------------------------------------------------------


async def test_readyz_says_503_before_the_start_and_from_the_drain_on_and_healthz_says_200_all_along() -> None:
    at_work, finish = trio.Event(), trio.Event()

    async def work(tick: Tick) -> None:
        at_work.set()
        await finish.wait()

    supervisor = Supervisor([a_service(work=work, startup=work)])

    async def probed(port: int) -> tuple[int, int, str]:
        alive, ready = [await ask(port, "GET", path, token=None) for path in ("/healthz", "/readyz")]
        return alive.status, ready.status, ready.json["supervisor"]

    async with served(admin_app(supervisor)) as port, trio.open_nursery() as nursery:
        assert await probed(port) == (200, 503, "idle")
        await nursery.start(supervisor.run)
        assert await probed(port) == (200, 200, "running")
        await at_work.wait()
        supervisor.drain()
        assert await probed(port) == (200, 503, "draining")
        finish.set()
        while supervisor.state != "drained":
            await trio.lowlevel.checkpoint()
        assert await probed(port) == (200, 503, "drained")


async def test_an_outage_of_the_lock_database_leaves_a_replica_ready() -> None:
    class Away:
        async def with_advisory_lock(self, lock_id: int, fn: Any) -> bool:
            raise DatabaseUnavailableError("connection refused")

        async def holders(self) -> tuple[()]:
            raise DatabaseUnavailableError("connection refused")

    async with running(Supervisor([a_service(locker=Away())])) as port:
        forced = await ask(port, "POST", "/api/services/sweep/tick")
        assert (forced.status, forced.json["outcome"]) == (200, "unavailable")
        shown = (await ask(port, "GET", "/api/services/sweep")).json
        assert (shown["state"], shown["lock"], shown["holder"]) == ("unavailable", "unknown", None)
        assert (await ask(port, "GET", "/readyz", token=None)).status == 200


@pytest.mark.parametrize("host", ["10.1.2.3:8080", "any-service.namespace.svc", "evil.example"])
async def test_probes_answer_whatever_the_host(host: str) -> None:
    async with running(Supervisor([]), token=None) as port:
        for path in ("/healthz", "/readyz"):
            assert (await ask(port, "GET", path, {"Host": host}, token=None)).status == 200


async def test_probes_answer_head_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    async with running(Supervisor([])) as port:
        head = await ask(port, "HEAD", "/readyz", token=None)
        assert (head.status, head.body, caplog.messages) == (200, b"", [])
        assert (await ask(port, "POST", "/readyz", token=None)).status == 401
        assert (await ask(port, "POST", "/readyz")).status == 404


# -- What is shown -----------------------------------------------------------------------------------------------------


async def test_a_service_is_shown_with_its_health_its_statistics_its_next_slot_and_its_lock() -> None:
    sweep = a_service(tick_timeout=30, lock_id=2**63 - 1)
    async with running(Supervisor([sweep])) as port:
        await ask(port, "POST", "/api/services/sweep/tick")
        shown = (await ask(port, "GET", "/api/services/sweep")).json
    health = sweep.health()
    assert health.last_success is not None
    for field in WorkerHealth.__dataclass_fields__:
        value = getattr(health, field)
        expected = value.isoformat(timespec="milliseconds") if isinstance(value, datetime) else value
        assert shown[field] == expected, field
    assert datetime.now(UTC) < datetime.fromisoformat(shown["next_slot"]) < datetime.now(UTC) + timedelta(seconds=3600)
    assert shown["lock_id"] == "9223372036854775807"
    assert (shown["interval"], shown["tick_timeout"], shown["cadence"]) == (3600, 30, "cluster")
    assert (shown["lock"], shown["holder"]) == ("unknown", None)  # a MemoryLocker cannot tell
    assert shown["statistics"]["ticks"] == {str(each): int(each is Outcome.SUCCESS) for each in Outcome}
    assert shown["statistics"]["last_duration"] >= 0
    assert shown["statistics"]["working_since"] is None


async def test_all_services_are_shown_in_the_order_of_registration() -> None:
    services = [a_service(name) for name in ("zebra", "ant", "moose")]
    async with running(Supervisor(services)) as port:
        shown = (await ask(port, "GET", "/api/services")).json
    assert [each["name"] for each in shown["services"]] == ["zebra", "ant", "moose"]
    assert shown["supervisor"] == "running"
    assert abs(datetime.fromisoformat(shown["now"]) - datetime.now(UTC)) < timedelta(minutes=1)


async def test_work_under_way_is_shown_with_the_lock_that_this_replica_holds() -> None:
    at_work = trio.Event()

    async def work(tick: Tick) -> None:
        at_work.set()
        await trio.sleep_forever()

    async with running(Supervisor([a_service(work=work, startup=work)])) as port:
        await at_work.wait()
        shown = (await ask(port, "GET", "/api/services/sweep")).json
    assert shown["lock"] == "held_here"
    assert shown["statistics"]["working_since"] is not None


async def test_an_error_is_data_and_no_markup_and_is_cut_when_it_is_long() -> None:
    evil = "<script>alert('&amp;')</script>"

    async def work(tick: Tick) -> None:
        raise OSError(evil + "x" * 100_000)

    async with running(Supervisor([a_service(work=work)])) as port:
        forced = await ask(port, "POST", "/api/services/sweep/tick")
        shown = await ask(port, "GET", "/api/services")
    for answer, error in ((forced, forced.json["error"]), (shown, shown.json["services"][0]["last_error"])):
        assert b"<" not in answer.body
        assert b"&" not in answer.body
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert error.startswith(f"OSError: {evil}xxx")
        assert error.endswith("... (99,540 more characters)")
        assert len(error) < 600


async def test_an_error_that_is_no_sound_text_is_shown_all_the_same() -> None:
    async def work(tick: Tick) -> None:
        raise OSError("\ud800 \x00 \u202e")

    # Its log record would be more than pytest can pass on.
    async with running(Supervisor([a_service(work=work, on_error=lambda _: None)])) as port:
        assert (await ask(port, "POST", "/api/services/sweep/tick")).json["error"] == "OSError: \ud800 \x00 \u202e"


async def test_a_service_that_is_not_there_is_said_to_be_not_there() -> None:
    async with running(Supervisor([a_service()])) as port:
        for method, path in (("GET", "/api/services/nope"), ("POST", "/api/services/nope/tick")):
            answer = await ask(port, method, path)
            assert (answer.status, errors_of(answer)) == (
                404,
                "there is no service of this name: /api/services lists them",
            )


# -- Forced ticks ------------------------------------------------------------------------------------------------------


async def test_a_forced_tick_is_run_and_reported() -> None:
    ticks: list[Tick] = []

    async def work(tick: Tick) -> None:
        ticks.append(tick)

    async with running(Supervisor([a_service(work=work)])) as port:
        answer = await ask(port, "POST", "/api/services/sweep/tick", body=b"{}")
    (tick,) = ticks
    assert tick.forced
    assert answer.status == 200
    report = answer.json
    assert (report["service"], report["number"], report["request_id"]) == ("sweep", 1, tick.request_id)
    assert (report["outcome"], report["result"], report["error"], report["forced"]) == ("success", "success", "", True)
    assert report["scheduled_at"] <= report["started_at"]
    assert report["duration"] >= 0
    assert report["lateness"] >= 0


async def test_a_forced_tick_that_fails_is_an_answer_and_no_error_of_the_application() -> None:
    async with running(Supervisor([a_service(work=fail)])) as port:
        answer = await ask(port, "POST", "/api/services/sweep/tick")
    assert (answer.status, answer.json["outcome"], answer.json["error"]) == (200, "failed", "OSError: the disk is full")


async def test_a_second_forced_tick_of_a_service_is_refused_while_the_first_is_under_way() -> None:
    at_work, finish = trio.Event(), trio.Event()
    began = []

    async def work(tick: Tick) -> None:
        began.append(tick.number)
        at_work.set()
        await finish.wait()

    async with running(Supervisor([a_service(work=work), a_service("other")])) as port, trio.open_nursery() as nursery:
        first: list[Answer] = []

        async def force() -> None:
            first.append(await ask(port, "POST", "/api/services/sweep/tick"))

        nursery.start_soon(force)
        await at_work.wait()
        second = await ask(port, "POST", "/api/services/sweep/tick")
        assert (second.status, "already" in errors_of(second)) == (409, True)
        assert (await ask(port, "POST", "/api/services/other/tick")).status == 200
        finish.set()
        while not first:
            await trio.lowlevel.checkpoint()
        assert (first[0].status, began) == (200, [1])
        assert (await ask(port, "POST", "/api/services/sweep/tick")).status == 200


async def test_a_forced_tick_goes_on_when_its_client_leaves() -> None:
    at_work, finish, done = trio.Event(), trio.Event(), trio.Event()

    async def work(tick: Tick) -> None:
        at_work.set()
        await finish.wait()
        done.set()

    sweep = a_service(work=work)
    async with running(Supervisor([sweep])) as port:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(request("POST", "/api/services/sweep/tick"))
            await at_work.wait()
        finish.set()
        await done.wait()
        await until(lambda: sweep.health().last_outcome is not None)
        assert sweep.health().last_outcome is Outcome.SUCCESS


@pytest.mark.parametrize("state", ["idle", "draining"])
async def test_no_tick_is_forced_before_the_start_and_during_the_drain(state: str) -> None:
    sweep = a_service()
    supervisor = Supervisor([sweep])
    if state == "draining":
        supervisor.drain()
        state = "drained"  # it never ran
    async with served(admin_app(supervisor, token=TOKEN)) as port:
        answer = await ask(port, "POST", "/api/services/sweep/tick")
    assert (answer.status, errors_of(answer)) == (503, f"the supervisor is {state}: no tick begins")
    assert sum(sweep.statistics().ticks.values()) == 0


async def test_no_tick_is_forced_of_a_service_that_has_crashed_for_no_drain_would_wait_for_it() -> None:
    crashed = trio.Event()

    class Crashing(Service):
        async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            await trio.lowlevel.checkpoint()
            crashed.set()
            raise KeyError("a bug")

    sweep = Crashing(Config(name="sweep", work=succeed, interval=3600, locker=MemoryLocker()))
    async with running(Supervisor([sweep])) as port:
        await crashed.wait()
        answer = await ask(port, "POST", "/api/services/sweep/tick")
    assert (answer.status, "is not run now" in errors_of(answer)) == (503, True)
    assert sum(sweep.statistics().ticks.values()) == 0


async def test_who_forces_a_tick_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "tickrunner_trio.admin"):
        async with running(Supervisor([a_service()])) as port:
            await ask(port, "POST", "/api/services/sweep/tick")
    assert "tick of sweep forced from 127.0.0.1" in caplog.messages
    assert TOKEN not in caplog.text


async def test_get_forces_nothing() -> None:
    sweep = a_service()
    async with running(Supervisor([sweep])) as port:
        assert (await ask(port, "GET", "/api/services/sweep/tick")).status == 405
    assert sweep.statistics().ticks[Outcome.SUCCESS] == 0


# -- Who may ask -------------------------------------------------------------------------------------------------------

GUARDED = [
    ("GET", "/api/services"),
    ("GET", "/api/services/sweep"),
    ("GET", "/api/events"),
    ("POST", "/api/services/sweep/tick"),
    ("GET", "/api/nothing"),
    *(
        ("POST", path)
        for path in ("/", "/api", "/api/", "/healthz", "/readyz", "/api/services", "//api/services/sweep/tick")
    ),
    ("GET", "/healthz/"),
    ("PUT", "/"),
    ("DELETE", "/api/services/sweep"),
]


@asynccontextmanager
async def guarded(**more: Any) -> AsyncIterator[tuple[int, Service]]:
    """A service that has failed, so that there is something to hide, behind the application."""
    sweep = a_service(work=fail)
    async with running(Supervisor([sweep]), **more) as port:
        await sweep.tick()
        yield port, sweep


@pytest.mark.parametrize(("method", "path"), GUARDED)
@pytest.mark.parametrize("token", [None, "wrong", TOKEN[:-1], TOKEN + "x", ""])
async def test_all_but_the_probes_and_the_page_need_the_token(method: str, path: str, token: str | None) -> None:
    async with guarded() as (port, sweep):
        answer = await ask(port, method, path, token=token)
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert b"disk" not in answer.body
        assert sum(sweep.statistics().ticks.values()) == 1


@pytest.mark.parametrize(
    "sent",
    [
        request("GET", f"/api/services?token={TOKEN}", token=None),
        request("GET", "/api/services", {"Cookie": f"token={TOKEN}"}, token=None),
        request("GET", "/api/services", {"Authorization": TOKEN}),
        request("GET", "/api/services", {"Authorization": f"Basic {TOKEN}"}),
        request("GET", "/api/services").replace(b"\r\n\r\n", b"\r\nAuthorization: Bearer wrong\r\n\r\n"),
    ],
)
async def test_the_token_counts_in_its_header_only_and_once(sent: bytes) -> None:
    async with guarded() as (port, _):
        assert (await exchange(port, sent)).status == 401


@pytest.mark.parametrize(("method", "path"), GUARDED)
@pytest.mark.parametrize("token", [None, "", "None", TOKEN])
async def test_without_a_token_configured_only_the_probes_and_the_page_answer(
    method: str, path: str, token: str | None
) -> None:
    async with guarded(token=None) as (port, sweep):
        answer = await ask(port, method, path, token=token)
        assert (answer.status, "admin_app(..., token=...)" in errors_of(answer)) == (403, True)
        assert b"disk" not in answer.body
        assert sum(sweep.statistics().ticks.values()) == 1


@pytest.mark.parametrize("path", ["/", "/api/services"])
async def test_a_host_that_is_not_known_is_refused(path: str) -> None:
    async with guarded(hosts=("ops.example.com",)) as (port, _):
        for host, status in (
            ("evil.example", 400),
            ("ops.example.com:8443", 200),
            ("localhost:1", 200),
            ("10.0.0.1", 200),
        ):
            assert (await ask(port, "GET", path, {"Host": host})).status == status, host


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://localhost"}, 200),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
async def test_a_post_of_another_origin_is_refused_even_with_the_token(headers: dict[str, str], status: int) -> None:
    async with guarded() as (port, sweep):
        before = sum(sweep.statistics().ticks.values())
        answer = await ask(port, "POST", "/api/services/sweep/tick", headers)
        assert answer.status == status
        assert sum(sweep.statistics().ticks.values()) - before == (status == 200)


async def test_no_answer_allows_another_origin_to_read_it() -> None:
    async with guarded() as (port, _):
        for method in ("GET", "OPTIONS"):
            headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
            answer = await ask(port, method, "/api/services", headers)
            assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_a_body_that_is_too_long_is_refused() -> None:
    async with guarded() as (port, sweep):
        answer = await ask(port, "POST", "/api/services/sweep/tick", body=b"x" * 1025)
        assert answer.status == 413
        assert sum(sweep.statistics().ticks.values()) == 1


# -- The page ----------------------------------------------------------------------------------------------------------


async def test_the_page_needs_no_token_and_holds_no_data() -> None:
    async with guarded() as (port, _):
        page = await ask(port, "GET", "/", token=None)
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"sweep" not in page.body
    assert TOKEN.encode() not in page.body


async def test_the_policy_of_the_page_lets_nothing_run_but_its_own_script() -> None:
    async with guarded() as (port, _):
        policy = (await ask(port, "GET", "/", token=None)).headers["content-security-policy"]
    directives = dict(each.split(" ", 1) for each in policy.split("; "))
    assert directives["default-src"] == "'none'"
    assert directives["script-src"].startswith("'sha256-")
    assert directives["style-src"].startswith("'sha256-")
    assert directives["connect-src"] == "'self'"
    assert directives["frame-ancestors"] == directives["base-uri"] == directives["form-action"] == "'none'"
    assert directives["require-trusted-types-for"] == "'script'"
    assert directives["trusted-types"] == "'none'"
    assert "unsafe" not in policy
    assert "*" not in policy


@pytest.mark.parametrize("path", ["/", "/healthz", "/api/services", "/api/nothing", "/healthz/"])
async def test_every_answer_carries_the_headers_that_keep_browsers_from_mischief(path: str) -> None:
    async with guarded() as (port, _):
        headers = (await ask(port, "GET", path)).headers
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "location" not in headers


# -- Events ------------------------------------------------------------------------------------------------------------


async def test_a_reader_sees_the_services_at_once_and_each_change_after_that() -> None:
    async with guarded() as (port, sweep), events(port) as reader:
        first = await reader.next_board()
        assert [each["name"] for each in first["services"]] == ["sweep"]
        await sweep.tick()
        seen = await reader.board_where(lambda board: board["services"][0]["consecutive_failures"] == 2)
        assert seen["services"][0]["state"] == "failing"


async def test_all_readers_see_the_same_board_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    sweep = a_service()
    health = sweep.health

    def counting() -> WorkerHealth:
        made.append(trio.current_time())
        return health()

    monkeypatch.setattr(sweep, "health", counting)
    async with running(Supervisor([sweep])) as port, trio.open_nursery() as nursery:

        async def read(*, task_status: Any) -> None:
            async with events(port) as reader:
                await reader.next_board()
                task_status.started()
                await reader.next_board()

        for _ in range(20):
            await nursery.start(read)
        began_at = trio.current_time()
        await trio.sleep(2.0)
        nursery.cancel_scope.cancel()
    seconds = trio.current_time() - began_at
    recent = [at for at in made if at >= began_at]
    assert 1 <= len(recent) <= seconds / 0.5 + 1


async def test_the_stream_ends_with_the_drain_and_its_last_board_shows_it() -> None:
    finish = trio.Event()

    async def work(tick: Tick) -> None:
        await finish.wait()

    supervisor = Supervisor([a_service(work=work, startup=work)])
    async with running(supervisor) as port, events(port) as reader:
        await reader.next_board()
        supervisor.drain()
        boards = []
        while (board := await reader.next_board()) is not None:
            boards.append(board["supervisor"])
        assert boards == ["draining"]
        assert supervisor.state == "draining"
        finish.set()


async def test_more_readers_than_there_may_be_are_told_to_come_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_stream, "MOST_STREAMS", 2)
    async with guarded() as (port, _):
        async with events(port) as one, events(port) as two:
            await one.next_board()
            await two.next_board()
            third = await ask(port, "GET", "/api/events")
            assert (third.status, third.headers["retry-after"]) == (503, "5")
        with trio.fail_after(30):
            status = 503
            while status != 200:  # until both are known to have left
                status = (await ask(port, "HEAD", "/api/events")).status


async def test_a_quiet_stream_still_says_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_stream, "HEARTBEAT", 0.0)
    async with guarded() as (port, _), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(request("GET", "/api/events"))
        received = b""
        with trio.fail_after(30):
            while received.count(b"event: clock") < 3:
                received += await stream.receive_some()
    assert received.count(b"event: board") == 1
    headers = parsed(received).headers
    assert headers["content-type"] == "text/event-stream"
    assert headers["x-accel-buffering"] == "no", "nginx would keep events back"


async def test_a_reader_that_does_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_stream, "SEND_PATIENCE", 0.05)
    left = trio.Event()

    async def receive() -> dict[str, Any]:
        await trio.sleep_forever()
        raise AssertionError

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await trio.sleep_forever()

    async def read() -> None:
        supervisor = Supervisor([a_service()])
        app = admin_app(supervisor, token=TOKEN)
        headers = [(b"host", b"localhost"), (b"authorization", f"Bearer {TOKEN}".encode())]
        scope = {"type": "http", "method": "GET", "path": "/api/events", "root_path": "", "headers": headers}
        with pytest.raises(OSError, match="does not take"):
            await app({**scope, "query_string": b"", "raw_path": b"/api/events"}, receive, send)
        left.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        with trio.fail_after(30):
            await left.wait()


@pytest.mark.parametrize("first", ["the stream", "the server"])
async def test_a_reader_that_does_not_read_makes_no_error_of_the_application(
    first: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_stream, "SEND_PATIENCE", 0.05 if first == "the stream" else 30.0)
    monkeypatch.setattr(_exchange, "SEND_TIMEOUT", 30.0 if first == "the stream" else 0.05)
    monkeypatch.setattr(_stream, "PERIOD", 0.0)
    monkeypatch.setattr(Board, "shown", lambda _: b"%d" % next(boards) * 100_000)
    boards = itertools.count()
    supervisor = Supervisor([a_service()])
    app = admin_app(supervisor, token=TOKEN)
    ended = trio.Event()

    async def watched(*args: Any) -> None:
        try:
            await app(*args)
        finally:
            ended.set()

    with caplog.at_level(logging.WARNING):
        async with trio.open_nursery() as nursery, served(watched) as port, events(port):
            await nursery.start(supervisor.run)
            with trio.fail_after(30):
                await ended.wait()
            nursery.cancel_scope.cancel()
    assert caplog.messages == []


# -- Mounting ----------------------------------------------------------------------------------------------------------


async def test_it_can_be_mounted_under_a_path_of_another_application() -> None:
    supervisor = Supervisor([a_service()])
    outer = Starlette(routes=[Mount("/ops/admin", admin_app(supervisor, token=TOKEN))])
    async with trio.open_nursery() as nursery, served(outer) as port:
        await nursery.start(supervisor.run)
        assert (await ask(port, "GET", "/ops/admin/readyz", token=None)).status == 200
        assert (await ask(port, "GET", "/ops/admin/", token=None)).status == 200
        assert (await ask(port, "GET", "/ops/admin/api/services", token=None)).status == 401
        assert (await ask(port, "GET", "/ops/admin/api/services")).status == 200
        assert (await ask(port, "POST", "/ops/admin/api/services/sweep/tick")).json["outcome"] == "success"
        nursery.cancel_scope.cancel()


def test_in_an_asyncio_loop_it_asks_the_supervisor_in_its_own_thread() -> None:
    """As in an asyncio web application beside which Trio runs in a thread."""
    supervisor = Supervisor([a_service()])
    answers: list[tuple[int, Any]] = []
    up: list[trio.lowlevel.TrioToken] = []
    is_up = threading.Event()

    async def trio_main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            up.append(trio.lowlevel.current_trio_token())
            is_up.set()

    async def asyncio_main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, trio.run, trio_main)
            await anyio.to_thread.run_sync(is_up.wait)
            app = admin_app(supervisor, token=TOKEN)
            for method, path in (("GET", "/api/services"), ("POST", "/api/services/sweep/tick")):
                answers.append(await _called(app, method, path))
            await anyio.to_thread.run_sync(partial(trio.from_thread.run_sync, supervisor.drain, trio_token=up[0]))
        answers.append(await _called(app, "POST", "/api/services/sweep/tick"))

        (listed, body), (forced, report), (late, refused) = answers
        assert (listed, body["supervisor"]) == (200, "running")
        assert (forced, report["outcome"]) == (200, "success")
        assert (late, refused["error"]) == (503, "the supervisor is drained: no tick begins")

    anyio.run(asyncio_main, backend="asyncio")


@pytest.mark.parametrize("ending", ["while the tick is under way", "before it begins"])
def test_in_an_asyncio_loop_a_tick_whose_supervisor_goes_away_is_answered(ending: str) -> None:
    up = threading.Event()
    at_work = threading.Event()

    async def work(tick: Tick) -> None:
        at_work.set()
        await trio.sleep_forever()

    supervisor = Supervisor([a_service(work=work)])
    token: list[trio.lowlevel.TrioToken] = []
    scope = trio.CancelScope()

    async def trio_main() -> None:
        token.append(trio.lowlevel.current_trio_token())
        with scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(supervisor.run)
                up.set()

    async def end() -> None:
        await anyio.to_thread.run_sync(at_work.wait)
        await anyio.to_thread.run_sync(partial(trio.from_thread.run_sync, scope.cancel, trio_token=token[0]))

    async def asyncio_main() -> tuple[int, Any]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, trio.run, trio_main)
            await anyio.to_thread.run_sync(up.wait)
            app = admin_app(supervisor, token=TOKEN)
            if ending == "while the tick is under way":
                tasks.start_soon(end)
                return await _called(app, "POST", "/api/services/sweep/tick")
            at_work.set()
            await end()
        supervisor.__class__ = _StillRunning  # the moment between the question and the crossing
        supervisor._token = token[0]
        return await _called(app, "POST", "/api/services/sweep/tick")

    status, answer = anyio.run(asyncio_main, backend="asyncio")
    if ending == "while the tick is under way":
        assert (status, answer["outcome"], answer["error"]) == (200, "cancelled", "")
    else:
        assert (status, answer["error"]) == (503, "the supervisor stopped before the tick was done")


def test_in_an_asyncio_loop_a_tick_outlasts_its_request_and_the_next_one_is_refused_meanwhile() -> None:
    up, at_work = threading.Event(), threading.Event()
    began: list[int] = []
    finish: list[trio.Event] = []
    tokens: list[trio.lowlevel.TrioToken] = []

    async def work(tick: Tick) -> None:
        began.append(tick.number)
        at_work.set()
        await finish[0].wait()

    supervisor = Supervisor([a_service(work=work)])

    async def trio_main() -> None:
        tokens.append(trio.lowlevel.current_trio_token())
        finish.append(trio.Event())
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            up.set()

    async def asyncio_main() -> None:
        app = admin_app(supervisor, token=TOKEN)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, trio.run, trio_main)
            await anyio.to_thread.run_sync(up.wait)
            in_trio = partial(trio.from_thread.run_sync, trio_token=tokens[0])
            async with anyio.create_task_group() as requests:
                requests.start_soon(_called, app, "POST", "/api/services/sweep/tick")
                await anyio.to_thread.run_sync(at_work.wait)
                requests.cancel_scope.cancel()
            while_it_works = [(await _called(app, "POST", "/api/services/sweep/tick"))[0] for _ in range(5)]
            await anyio.to_thread.run_sync(in_trio, finish[0].set)
            status = 409
            with anyio.fail_after(30):
                while status == 409:
                    status, _ = await _called(app, "POST", "/api/services/sweep/tick")
            await anyio.to_thread.run_sync(in_trio, supervisor.drain)
        assert while_it_works == [409] * 5
        assert began == [1, 2]

    anyio.run(asyncio_main, backend="asyncio")


def test_in_an_asyncio_loop_ticks_that_are_waited_for_leave_the_hosts_threads_alone() -> None:
    """AnyIO has 40 of them by default, for everything that the host does in threads."""
    up, all_at_work = threading.Event(), threading.Event()
    at_work: list[int] = []
    tokens: list[trio.lowlevel.TrioToken] = []

    async def work(tick: Tick) -> None:
        at_work.append(tick.number)
        if len(at_work) == 50:
            all_at_work.set()
        await trio.sleep_forever()

    supervisor = Supervisor([a_service(f"sweep_{number}", work=work) for number in range(50)], drain_timeout=0)

    async def trio_main() -> None:
        tokens.append(trio.lowlevel.current_trio_token())
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            up.set()

    async def asyncio_main() -> int:
        app = admin_app(supervisor, token=TOKEN)
        threads = anyio.to_thread.current_default_thread_limiter()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, trio.run, trio_main)
            await anyio.to_thread.run_sync(up.wait)
            for service in supervisor.services:
                tasks.start_soon(_called, app, "POST", f"/api/services/{service.name}/tick")
            with anyio.move_on_after(10):
                await anyio.to_thread.run_sync(all_at_work.wait, 10)
            borrowed = threads.borrowed_tokens
            tokens[0].run_sync_soon(supervisor.drain)
        return int(borrowed)

    assert anyio.run(asyncio_main, backend="asyncio") == 1, "the one in which Trio runs"


class _StillRunning(Supervisor):
    @property
    def state(self) -> Any:
        return "running"


async def _called(app: Any, method: str, path: str) -> tuple[int, Any]:
    headers = [(b"host", b"localhost"), (b"authorization", f"Bearer {TOKEN}".encode())]
    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "root_path": ""}
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        raise AssertionError("no request of ours has a body that somebody reads")

    async def send(message: Any) -> None:
        sent.append(message)

    await app({**scope, "query_string": b"", "headers": headers}, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


# -- Refusals ----------------------------------------------------------------------------------------------------------


def test_what_is_no_supervisor_is_refused() -> None:
    sweep: Any = a_service()
    with pytest.raises(TypeError, match=r"supervisor must be a Supervisor, got <Service 'sweep'.*: use Supervisor\(\["):
        admin_app(sweep)


async def test_a_port_that_is_taken_is_an_error_of_the_system() -> None:
    app = admin_app(Supervisor([]))
    async with served(app) as port:
        with pytest.raises(OSError, match="in use"):
            await serve_admin(app, port=port)
