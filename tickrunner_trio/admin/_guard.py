"""The checks at the door, as ASGI middleware: for everything a set of headers, for what is not for everybody a guard.

A refusal says in JSON what was wrong and how to mend it, and nothing of what is inside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response

from ._security import is_authorized, is_host_allowed, is_same_origin
from ._views import as_json

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Bytes of a request's body: a reason and a name, in JSON. Most requests have none; some clients send "{}".
LONGEST_BODY = 1024

#: What all answers carry. The page has a policy of its own, which is set before these.
_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


def refusal(status: int, error: str, **headers: str) -> Response:
    """Return an answer that says what was wrong."""
    return json_response({"error": error}, status, **headers)


def json_response(value: object, status: int = 200, **headers: str) -> Response:
    """Return an answer of JSON."""
    written = {name.replace("_", "-"): text for name, text in headers.items()}
    return Response(as_json(value), status, written, media_type="application/json")


class SafeHeaders:
    """Gives each answer the headers that keep a browser from doing anything with it that it should not."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_safely if scope["type"] == "http" else send)


class KnownHost:
    """Answers only requests for a host that is known."""

    def __init__(self, app: ASGIApp, *, hosts: frozenset[str]) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not is_host_allowed(_only("host", scope), self._hosts):
            refused = refusal(
                400, "the Host header names no host of this application: allow it with hosts=[...] or --admin-host"
            )
            await refused(scope, receive, send)
            return
        await self._app(scope, receive, send)


class TokenNeeded:
    """Answers only requests with the token; of those that change something, only such as come from our own page."""

    def __init__(self, app: ASGIApp, *, token: str | None) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._refusal(scope) if scope["type"] == "http" else None
        await (self._app if refused is None else refused)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        if self._token is None:
            return refusal(
                403, "this application has no token, so it shows and does nothing: give admin_app(..., token=...) one"
            )
        if scope["method"] not in ("GET", "HEAD"):
            host, origin, fetch_site = (_only(name, scope) for name in ("host", "origin", "sec-fetch-site"))
            if not is_same_origin(host=host, origin=origin, fetch_site=fetch_site):
                return refusal(403, "this request comes from a page of another origin")
        if not is_authorized(_only("authorization", scope), self._token):
            return refusal(
                401, "the token is missing or wrong: send it as 'Authorization: Bearer ...'", www_authenticate="Bearer"
            )
        length = _only("content-length", scope) or "0"
        if not length.isdecimal() or int(length) > LONGEST_BODY:
            return refusal(413, f"the body is longer than {LONGEST_BODY} bytes: shorten it, or leave it out")
        return None


def _only(name: str, scope: Scope) -> str | None:
    """Return the value of a header; None if there is none, and what nothing matches if there are several."""
    values = Headers(scope=scope).getlist(name)
    return values[0] if len(values) == 1 else (None if not values else "\0")
