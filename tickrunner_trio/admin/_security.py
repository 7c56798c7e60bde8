"""What may come in: decisions about hosts, origins and tokens. Values in, answers out.

=================  ====================================================================================================
threat             answer
=================  ====================================================================================================
DNS rebinding      a page of ``evil.example`` that lets its own name lead here sends its name as Host: refused, unless
                   listed. An address as Host is no name that somebody could turn, so it is let through.
a foreign page     cannot send the header with the token, since no CORS answer of ours allows it; ``Sec-Fetch-Site``,
                   which pages cannot forge, and ``Origin`` say the same a second time for each POST.
guessing           tokens are compared in constant time; the ones made here have 256 bits.
=================  ====================================================================================================
"""

from __future__ import annotations

import ipaddress
import re
import secrets
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable

#: What a Host header may be. Nothing is cut off in search of a name: what a lenient parser skips, a browser may not.
_HOST = re.compile(
    r"((?P<name>[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*)|\[(?P<address>[A-Fa-f0-9]*:[A-Fa-f0-9:.]+)\])(:(?P<port>[0-9]{1,5}))?"
)

_DEFAULT_PORTS = {"http": 80, "https": 443}


def random_token() -> str:
    """Return a fresh token of 256 bits, which needs no escaping in a URL."""
    return secrets.token_urlsafe(32)


def checked_token(token: object) -> str | None:
    """Return the token, or None for none.

    Raises:
        TypeError: it is no str.
        ValueError: it is empty, or holds what a header cannot carry.
    """
    if token is None:
        return None
    if not isinstance(token, str):  # its value stays out of the message, and out of logs
        raise TypeError(f"token must be a str or None, got a {type(token).__name__}: use secrets.token_urlsafe(32)")
    if not token or not all("!" <= each <= "~" for each in token):
        raise ValueError(
            "token must be printable ASCII without spaces, and not empty (its value is not shown): "
            "use secrets.token_urlsafe(32)"
        )
    return token


def checked_hosts(hosts: Iterable[str]) -> frozenset[str]:
    """Return the names that may stand in a Host header, in lower case.

    Raises:
        TypeError: it is one str, or holds what is no str.
        ValueError: one of them is no host name, because it has a port or a scheme for example.
    """
    if isinstance(hosts, str):
        raise TypeError(f"hosts must be a list of names, got {hosts!r}: write [{hosts!r}]")
    checked: set[str] = set()
    for host in hosts:
        if not isinstance(host, str):
            raise TypeError(f"hosts must hold names, got {host!r}: write such as 'ops.example.com'")
        name = host_name(host)
        if name is None or name != host.lower():
            raise ValueError(
                f"hosts must hold bare names, got {host!r}: write each one out, such as 'ops.example.com', without "
                "wildcard, port or final dot"
            )
        checked.add(name)
    return frozenset(checked)


def host_name(host: str) -> str | None:
    """Return the name or address in a Host header, in lower case and without the port; None if it is malformed."""
    found = _HOST.fullmatch(host)
    if found is None or int(found["port"] or 0) > 65535:
        return None
    if found["address"] is not None and not is_address(found["address"]):
        return None
    return (found["name"] or found["address"]).lower()


def is_host_allowed(host: str | None, names: frozenset[str]) -> bool:
    """Whether a request with this Host header may be answered.

    Args:
        host: the header; None if there is none, or more than one.
        names: allowed beside ``localhost``, what ends in ``.localhost``, and addresses.
    """
    name = None if host is None else host_name(host)
    if name is None:
        return False
    return name == "localhost" or name.endswith(".localhost") or name in names or is_address(name)


def is_address(name: str) -> bool:
    """Whether it is an IP address rather than a name."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_same_origin(*, host: str | None, origin: str | None, fetch_site: str | None) -> bool:
    """Whether a request that changes something comes from a page of this very origin, or from no page at all.

    What a browser says of it (``Sec-Fetch-Site``) counts most; older browsers send the ``Origin`` alone, which is then
    compared with the Host; what sends neither is no browser.
    """
    if fetch_site is not None:
        return fetch_site == "same-origin"
    if origin is None:
        return True
    theirs = _parts(origin)
    if theirs is None or host is None:
        return False
    scheme = origin.partition(":")[0].lower()
    return scheme in _DEFAULT_PORTS and theirs == _parts(f"{scheme}://{host}")


def is_authorized(authorization: str | None, token: str) -> bool:
    """Whether an Authorization header carries the token as a Bearer; how long it takes tells nothing of the token."""
    scheme, _, given = (authorization or "").partition(" ")
    # Latin-1, as headers are read: compare_digest takes no other text than ASCII.
    return secrets.compare_digest(given.strip().encode("latin-1", "replace"), token.encode()) and (
        scheme.lower() == "bearer"
    )


def _parts(url: str) -> tuple[str, int | None] | None:
    """Return the name and the port of a URL, with the default port of its scheme; None if it is malformed."""
    try:
        split = urlsplit(url)
        name, port = split.hostname, split.port
    except ValueError:
        return None
    if not name or split.path or split.query or split.fragment or "@" in split.netloc or not name.isascii():
        return None
    if any(each.isspace() or not each.isprintable() for each in url):
        return None
    return name, port or _DEFAULT_PORTS.get(split.scheme)
