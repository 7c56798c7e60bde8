"""The routes that ask the ledger: the services over all replicas, their history, pause, resume and trigger.

Without a ledger they answer 409 and say how to get one; while the database cannot tell, 503.
"""

from __future__ import annotations

import json
import logging
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from starlette.exceptions import HTTPException

from .. import DatabaseUnavailableError, LockerConfigurationError
from ._board import utc_now
from ._crossing import NotRunningError, in_trio
from ._guard import LONGEST_BODY, json_response
from ._views import cluster_view, cut, run_view

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from .. import ClusterHealth, Service
    from ._board import Board

_T = TypeVar("_T")

_log = logging.getLogger("tickrunner_trio.admin")


class Operating:
    """The endpoints, and what they share."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._supervisor = board.supervisor

    async def cluster(self, _request: Request) -> Response:
        rows = await self._asked(self._supervisor.cluster_health)
        return json_response({"now": utc_now(), "services": [cluster_view(row) for row in rows]})

    async def history(self, request: Request) -> Response:
        service = named(self._board, request)
        runs = await self._asked(partial(self._supervisor.history, service.name))
        return json_response({"now": utc_now(), "service": service.name, "runs": [run_view(run) for run in runs]})

    async def pause(self, request: Request) -> Response:
        said = await _said(request)
        return await self._changed(
            request, "pause", lambda name: self._supervisor.pause(name, reason=said["reason"], by=said["by"])
        )

    async def resume(self, request: Request) -> Response:
        return await self._changed(request, "resume", self._supervisor.resume)

    async def trigger(self, request: Request) -> Response:
        said = await _said(request)
        return await self._changed(request, "trigger", lambda name: self._supervisor.trigger(name, by=said["by"]))

    async def _changed(
        self, request: Request, what: str, change: Callable[[str], Awaitable[ClusterHealth]]
    ) -> Response:
        service = named(self._board, request)
        extra = {"service": service.name, "client": client_of(request)}
        _log.info("%s of %s asked for from %s", what, service.name, extra["client"], extra=extra)
        row = await self._asked(partial(change, service.name))
        await self._board.cluster.refresh(max_age=0.0)
        return json_response({"now": utc_now(), **cluster_view(row)})

    async def _asked(self, question: Callable[[], Awaitable[_T]]) -> _T:
        try:
            return await in_trio(self._supervisor, question)
        except NotRunningError:
            raise HTTPException(503, f"the supervisor is {self._supervisor.state}: it asks nobody") from None
        except LockerConfigurationError as error:
            raise HTTPException(409, cut(str(error))) from None
        except DatabaseUnavailableError as error:
            raise HTTPException(503, cut(str(error))) from None


def named(board: Board, request: Request) -> Service:
    """Return the service that the path of a request names.

    Raises:
        HTTPException: 404, there is none.
    """
    try:
        return board.services[request.path_params["name"]]
    except KeyError:
        raise HTTPException(404, "there is no service of this name: /api/services lists them") from None


def client_of(request: Request) -> str:
    """Return the address that a request came from."""
    return request.client.host if request.client else "an unknown address"


async def _said(request: Request) -> dict[str, str]:
    """Return ``reason`` and ``by`` out of the body of a request, which may be empty.

    Raises:
        HTTPException: 413 or 400, the body is too long, or no JSON object of texts.
    """
    body = b""
    async with aclosing(request.stream()) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > LONGEST_BODY:
                raise HTTPException(413, f"the body is longer than {LONGEST_BODY} bytes: shorten it, or leave it out")
    try:
        given: Any = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        given = None
    if isinstance(given, dict):
        said = {"reason": "", "by": f"somebody at {client_of(request)}"} | cast("dict[str, Any]", given)
        if len(said) == 2 and all(isinstance(each, str) for each in said.values()):  # a typo is no reason
            return said
    raise HTTPException(400, 'the body is no JSON such as {"reason": "...", "by": "..."}: mend it, or leave it out')
