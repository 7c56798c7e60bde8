"""The routes of the admin application: who may ask for what, and what is answered.

=====================================  =========  ======================================================================
``GET /healthz``                       everybody  200: the process is alive, and its loop turns
``GET /readyz``                        everybody  200, or 503 before the supervisor runs and while it drains
``GET /``                              everybody  the page, which holds nothing and asks for the token
``GET /api/services``                  token      all services
``GET /api/services/{name}``           token      one of them
``GET /api/services/{name}/history``   token      its last runs over all replicas; 409 without a ledger
``POST /api/services/{name}/tick``     token      forces a tick here and tells what came of it
``POST /api/services/{name}/pause``    token      lets no replica run it; 409 without a ledger
``POST /api/services/{name}/resume``   token      lets it run again; 409 without a ledger
``POST /api/services/{name}/trigger``  token      has the next free replica run it; 409 without a ledger
``GET /api/cluster``                   token      all services as the ledger knows them; 409 without one
``GET /api/events``                    token      all services, again whenever something has changed
=====================================  =========  ======================================================================
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.routing import Mount, Route, Router

from .. import Outcome, Supervisor
from ._board import Board, utc_now
from ._crossing import NotRunningError, in_trio
from ._guard import KnownHost, SafeHeaders, TokenNeeded, json_response, refusal
from ._operating import Operating, client_of, named
from ._page import PAGE, POLICY
from ._security import checked_hosts, checked_token
from ._stream import Streams
from ._views import report_view

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.requests import Request

    from .. import Service, TickReport

_log = logging.getLogger("tickrunner_trio.admin")


def admin_app(supervisor: Supervisor, *, token: str | None = None, hosts: Iterable[str] = ()) -> Starlette:
    """Return an ASGI application that shows the supervisor's services, and by which they are operated.

    ``/healthz`` and ``/readyz`` answer everybody and tell nothing. ``/`` is a page without data, which asks its reader
    for the token. All else needs the header ``Authorization: Bearer <token>``: errors and holders of locks are not for
    everybody. Without a token, all else answers 403.

    ``/readyz`` answers 503 before `tickrunner_trio.Supervisor.run` and from its drain on, never because of a service or
    the database: an outage of the lock database must not pull every replica out of its load balancer.

    It may be mounted under any path, and needs no lifespan. It may run in the supervisor's own Trio loop, or in a loop
    of another thread, asyncio's too, or in several loops; reading never waits for a tick.

    Args:
        supervisor: whose services are shown; it need not run yet.
        token: printable ASCII without spaces; None: only the probes answer. It is compared in constant time.
        hosts: names, without ports, under which browsers reach the application, beside ``localhost``,
            ``*.localhost`` and addresses; requests for other names are refused (DNS rebinding). The probes answer
            whatever the name.

    Raises:
        TypeError: ``supervisor`` is no `tickrunner_trio.Supervisor`, ``token`` no str, or ``hosts`` no iterable of str.
        ValueError: ``token`` is empty or no printable ASCII, or one of ``hosts`` is no bare name.

    Cancellation handling: a forced tick goes on when its client leaves. If the server cancels the request, the tick is
    cancelled with it in the supervisor's own loop; across threads it goes on. Either way the next one is refused (409)
    until it has ended.

    Error handling: logger ``tickrunner_trio.admin``. INFO: a tick was forced, or a pause, a resume or a trigger asked
    for, with the client's address.

    ::

        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            await nursery.start(partial(serve_admin, admin_app(supervisor, token=token), port=8080))
    """
    if not isinstance(supervisor, Supervisor):
        raise TypeError(f"supervisor must be a Supervisor, got {supervisor!r}: use Supervisor([service, ...])")
    board = Board(supervisor)
    routes, operating = _Routes(board), Operating(board)
    guard = [
        Middleware(KnownHost, hosts=checked_hosts(hosts)),
        Middleware(TokenNeeded, token=checked_token(token)),
    ]
    # No redirects from /healthz/ to /healthz and the like: they would repeat whatever the Host header says.
    guarded = Router(
        [
            Route("/api/services", routes.services),
            Route("/api/services/{name}", routes.service),
            Route("/api/services/{name}/tick", routes.tick, methods=["POST"]),
            Route("/api/services/{name}/history", operating.history),
            Route("/api/services/{name}/pause", operating.pause, methods=["POST"]),
            Route("/api/services/{name}/resume", operating.resume, methods=["POST"]),
            Route("/api/services/{name}/trigger", operating.trigger, methods=["POST"]),
            Route("/api/cluster", operating.cluster),
            Route("/api/events", routes.events),
        ],
        redirect_slashes=False,
    )
    return Starlette(
        routes=[
            Route("/healthz", routes.healthz),
            Route("/readyz", routes.readyz),
            Route("/", routes.page, middleware=guard[:1]),
            Mount("", guarded, middleware=guard),  # whatever is no GET of these three, known or not
        ],
        middleware=[Middleware(SafeHeaders)],
        exception_handlers={HTTPException: _http_error},
    )


class _Routes:
    """The endpoints, and what they share."""

    def __init__(self, board: Board) -> None:
        self._supervisor = board.supervisor
        self._board = board
        self._streams = Streams(board)
        self._forcing: set[str] = set()

    async def healthz(self, _request: Request) -> Response:
        return json_response({"alive": True})

    async def readyz(self, _request: Request) -> Response:
        state = self._supervisor.state
        return json_response({"ready": state == "running", "supervisor": state}, 200 if state == "running" else 503)

    async def page(self, _request: Request) -> Response:
        return Response(PAGE, headers={"content-security-policy": POLICY}, media_type="text/html")

    async def services(self, _request: Request) -> Response:
        await self._board.refresh()
        return json_response({"now": utc_now(), **self._board.view()})

    async def service(self, request: Request) -> Response:
        service = named(self._board, request)
        await self._board.refresh()
        return json_response({"now": utc_now(), **self._board.view_of(service)})

    async def events(self, request: Request) -> Response | Streams:
        if self._streams.is_full:
            return refusal(503, "as many readers as may be are there already: close another page", retry_after="5")
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        return self._streams

    async def tick(self, request: Request) -> Response:
        service = named(self._board, request)
        client = client_of(request)
        if self._supervisor.state != "running":
            return refusal(503, f"the supervisor is {self._supervisor.state}: no tick begins")
        if service.name in self._forcing:  # or an impatient finger would queue up a minute's work
            return refusal(409, f"somebody forces a tick of {service.name} already: wait for what comes of it")
        _log.info("tick of %s forced from %s", service.name, client, extra={"service": service.name, "client": client})
        self._forcing.add(service.name)
        try:
            report = await in_trio(
                self._supervisor, _forced, service, then=partial(self._forcing.discard, service.name)
            )
        except _NotRunError:
            return refusal(
                503,
                f"{service.name} is not run now, so no tick begins: if it crashed, it is run again within 30 s",
            )
        except NotRunningError:
            return refusal(503, "the supervisor stopped before the tick was done")
        answer: dict[str, Any] = report_view(report)
        if report.outcome is Outcome.BUSY:
            await self._board.locks.refresh(max_age=0.0)
            answer["holder"] = self._board.view_of(service)["holder"]
        return json_response(answer)


class _NotRunError(Exception):
    """Nobody runs the service, though the supervisor runs."""


async def _forced(service: Service) -> TickReport:
    """Force a tick of a service that is run; in its Trio run.

    Of one that is not, because it crashed for example, the tick would run in a task that no drain waits for, while the
    application closes what the work needs.

    Raises:
        _NotRunError: the service is not run.
    """
    if service.statistics().next_slot is None:
        raise _NotRunError
    return await service.tick()


async def _http_error(_request: Request, error: Exception) -> Response:  # noqa: ASYNC124 - a plain one gets a thread
    assert isinstance(error, HTTPException)  # what it is registered for
    return json_response({"error": error.detail}, error.status_code, **dict(error.headers or {}))
