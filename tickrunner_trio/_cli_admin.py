"""``tickrunner run --admin``: where the admin application listens, and who may ask it.

The token comes from a file or from the environment, never from the command line, which every process of the machine
can read; where neither names one, it is made at random and printed once. Of the libraries that it needs nothing is
imported unless it is asked for.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from ._cli_errors import CommandError, UsageError, command_error_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from . import Supervisor

#: The environment variable that holds the token.
TOKEN_VARIABLE = "TICKRUNNER_ADMIN_TOKEN"

_EXAMPLE = "write it as HOST:PORT, such as 127.0.0.1:8080, [::1]:8080, or 0.0.0.0:8080 to be reached from outside"

#: Characters of a token that others may try to guess.
_SHORTEST_TOKEN = 16

#: What to listen on is no address to open.
_OPENED_AS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not listened on

_log = logging.getLogger("tickrunner_trio.cli")


@dataclass(frozen=True)
class AdminOptions:
    """What ``tickrunner run`` was told of its admin application."""

    host: str
    port: int
    names: tuple[str, ...]  #: Of this machine, beside ``host``, as they stand in the addresses of browsers.
    token: str = field(repr=False)
    is_random: bool  #: Whether nobody knows the token yet.
    as_json: bool  #: Whether it is printed as a JSON line, as the logs are.


def admin_options(address: str, *, token_file: str | None, names: Sequence[str], as_json: bool) -> AdminOptions:
    """Return what the command line and the environment ask for.

    Raises:
        UsageError: the address, a name or the token is wrong, or the packages for it are not installed.
    """
    try:
        from .admin import _security as security  # noqa: PLC0415 - of the extra "admin"
    except ImportError as error:
        raise UsageError(
            f"--admin needs packages that are not there ({error}): run python -m pip install 'tickrunner-trio[admin]'"
        ) from error
    host, port = _parsed(address)
    named = [*names, *([] if security.is_address(host) else [host])]
    given = _given_token(token_file)
    try:
        security.checked_hosts(named)
        security.checked_token(given)
    except ValueError as error:
        raise UsageError(f"{error} (of --admin-host, --admin-token-file or {TOKEN_VARIABLE})") from error
    return AdminOptions(
        host=host,
        port=port,
        names=tuple(named),
        token=security.random_token() if given is None else given,
        is_random=given is None,
        as_json=as_json,
    )


async def serve(  # noqa: ASYNC128 - `_Started` calls it
    options: AdminOptions, supervisor: Supervisor, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve the admin application of the supervisor until cancelled; started once it listens.

    Raises:
        UsageError: others can reach it, and the token is short. In groups, perhaps, as the next one.
        CommandError: it cannot listen there, or its random token cannot be printed.

    Error handling: what ends it later is logged at ERROR, and the services go on.
    """
    from .admin import admin_app, serve_admin  # noqa: PLC0415 - see the docstring of the module

    app = admin_app(supervisor, token=options.token, hosts=options.names)
    started = _Started(options, task_status)
    try:
        await serve_admin(app, host=options.host, port=options.port, task_status=started)
    except Exception as error:
        if command_error_in(error) is not None:
            raise
        if not started.is_so:
            where = f"{options.host}:{options.port}"
            raise CommandError(
                f"the admin application cannot listen on {where}: {error}: give another --admin", status=1
            ) from error
        _log.exception("the admin application ended; the services go on")


class _Started(trio.TaskStatus["list[trio.SocketListener]"]):
    """Says where the application listens, then that it has started."""

    def __init__(self, options: AdminOptions, task_status: trio.TaskStatus[None]) -> None:
        self.is_so = False
        self._options = options
        self._task_status = task_status

    def started(self, value: list[trio.SocketListener] | None = None) -> None:
        assert value  # `serve_admin` listens somewhere
        places = [listener.socket.getsockname() for listener in value]
        _judge(self._options, [place[0] for place in places])
        _tell(self._options, places[0][1])
        self.is_so = True
        self._task_status.started()


def _judge(options: AdminOptions, addresses: Sequence[str]) -> None:
    """Warn if others can reach one of the addresses that it listens on, and refuse a token that they could guess."""
    if all(ipaddress.ip_address(address).is_loopback for address in addresses):
        return
    if len(options.token) < _SHORTEST_TOKEN:
        raise UsageError(
            f"the token of --admin has {len(options.token)} characters, and other machines can reach {options.host}: "
            f"give one of {_SHORTEST_TOKEN} or more, such as secrets.token_urlsafe(32) makes, or listen on 127.0.0.1"
        )
    _log.warning("the admin application can be reached from other machines, and there is no TLS in front of it")


def _tell(options: AdminOptions, port: int) -> None:
    address = _url(options.host, port)
    _log.info("admin application on %s", address, extra={"admin_address": address})
    if options.is_random:
        link = f"{_url(_OPENED_AS.get(options.host, options.host), port)}#token={options.token}"
        # No record, which a handler of the user's may send anywhere; it stands on stdout, as the log's lines do.
        line = json.dumps({"message": "admin token", "admin_link": link}) if options.as_json else f"admin: {link}"
        try:
            if sys.stdout is None:  # closed from the start: `print` would say nothing of it
                raise OSError("it is closed")
            print(line, flush=True)
        except (OSError, ValueError) as error:
            raise CommandError(
                f"the random token of the admin application cannot be printed on stdout: {error}: give one with "
                f"--admin-token-file or {TOKEN_VARIABLE}",
                status=1,
            ) from error


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _parsed(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon:
        host, port = "127.0.0.1", address
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise UsageError(f"{address!r} is no address for --admin: {_EXAMPLE}")
    if not (host and port.isascii() and port.isdecimal() and int(port) <= 65535):
        raise UsageError(f"{address!r} is no address for --admin: {_EXAMPLE}")
    if host == "*":
        raise UsageError(f"{address!r} is no address for --admin: write 0.0.0.0:{port} to be reached from outside")
    return host, int(port)


def _given_token(token_file: str | None) -> str | None:
    if token_file is None:
        token = os.environ.get(TOKEN_VARIABLE)
        return None if token is None else token.strip()
    try:
        return Path(token_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--admin-token-file {token_file!r} cannot be read: {error}") from error
