"""The decisions at the door: hosts, origins and tokens, as values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickrunner_trio.admin import _security as security

if TYPE_CHECKING:
    import ipaddress

NAMES = frozenset({"ops.example.com"})


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "localhost:8080", "LOCALHOST:8080", "admin.localhost:8080"),
        *("127.0.0.1", "127.0.0.1:8080", "10.2.3.4:80", "[::1]:8080", "[::1]", "[fd00::7]:80"),
        *("ops.example.com", "ops.example.com:443", "Ops.Example.Com"),
    ],
)
def test_hosts_that_nobody_can_rebind_and_those_that_are_listed_are_allowed(host: str) -> None:
    assert security.is_host_allowed(host, NAMES)


@pytest.mark.parametrize(
    "host",
    [
        *(None, "", " ", "evil.example", "evil.example:8080", "localhost.evil.example", "notlocalhost"),
        *("sub.ops.example.com", "ops.example.com.", "ops.example.com@evil.example", "evil.example/@localhost"),
        *("localhost/", "localhost?x", "localhost#x", "localhost:x", "localhost:99999", "[::1", "local\nhost", "\0"),
        *("127.0.0.1.evil.example", "0x7f.1", "2130706433", "loca\u017fhost"),
        *("evil.example[::1]", "[::1]evil.example", "[::1].localhost", "[localhost]", "[127.0.0.1]", "[1:2]"),
        *("<script>.localhost", "a,b.localhost", ".localhost", "a..localhost", "[::1]:", "localhost:123456"),
    ],
)
def test_other_hosts_are_not(host: str | None) -> None:
    assert not security.is_host_allowed(host, NAMES)


@given(address=st.ip_addresses(), port=st.integers(1, 65535))
def test_every_address_is_allowed_with_any_port(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    host = f"[{address}]" if address.version == 6 else str(address)
    assert security.is_host_allowed(host, frozenset())
    assert security.is_host_allowed(f"{host}:{port}", frozenset())


@pytest.mark.parametrize(
    ("origin", "fetch_site", "host"),
    [
        (None, None, "localhost:8080"),  # no browser
        (None, "same-origin", "localhost:8080"),
        ("http://localhost:8080", "same-origin", "localhost:8080"),
        ("https://ops.example.com", "same-origin", "internal:9000"),  # a proxy writes another Host: the browser knows
        ("http://localhost:8080", None, "localhost:8080"),
        ("http://LOCALHOST:8080", None, "localhost:8080"),
        ("https://ops.example.com", None, "ops.example.com"),
        ("https://ops.example.com", None, "ops.example.com:443"),
        ("http://[::1]:8080", None, "[::1]:8080"),
    ],
)
def test_requests_of_the_own_page_and_of_no_page_are_of_the_same_origin(
    origin: str | None, fetch_site: str | None, host: str
) -> None:
    assert security.is_same_origin(host=host, origin=origin, fetch_site=fetch_site)


@pytest.mark.parametrize(
    ("origin", "fetch_site", "host"),
    [
        ("http://localhost:8080", "cross-site", "localhost:8080"),
        ("http://localhost:8080", "same-site", "localhost:8080"),
        (None, "cross-site", "localhost:8080"),
        (None, "none", "localhost:8080"),
        (None, "", "localhost:8080"),
        ("http://evil.example", None, "localhost:8080"),
        ("http://localhost:8081", None, "localhost:8080"),
        ("http://localhost", None, "localhost:8080"),
        ("http://ops.example.com", None, "ops.example.com:443"),
        ("null", None, "localhost:8080"),
        ("", None, "localhost:8080"),
        ("file://", None, "localhost:8080"),
        ("app://localhost:8080", None, "localhost:8080"),
        ("http://localhost:8080/", None, "localhost:8080/"),
        ("http://[", None, "["),
        ("http://local host", None, "local host"),
        ("http://localhost:8080", None, None),
    ],
)
def test_those_of_other_pages_are_not(origin: str | None, fetch_site: str | None, host: str | None) -> None:
    assert not security.is_same_origin(host=host, origin=origin, fetch_site=fetch_site)


@pytest.mark.parametrize("header", ["Bearer abc", "bearer abc", "BEARER abc", "Bearer  abc", "Bearer abc "])
def test_the_token_is_taken_as_a_bearer(header: str) -> None:
    assert security.is_authorized(header, "abc")


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "abc",
        "Bearer",
        "Bearer ",
        "Bearer ab",
        "Bearer abcd",
        "Basic abc",
        "Bearer ABC",
        "Bearer ab\u00e7",
        "Bearer \u0100",
    ],
)
def test_anything_else_is_not_the_token(header: str | None) -> None:
    assert not security.is_authorized(header, "abc")


@given(given_token=st.text(max_size=40))
def test_no_text_but_the_token_itself_passes_for_it(given_token: str) -> None:
    token = "sesame"
    assert security.is_authorized(f"Bearer {given_token}", token) == (given_token.strip() == token)


def test_a_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare_digest(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return left == right

    monkeypatch.setattr(security.secrets, "compare_digest", compare_digest)
    assert not security.is_authorized("Bearer abd", "abc")
    assert not security.is_authorized("Basic abc", "abc")
    assert compared == [(b"abd", b"abc"), (b"abc", b"abc")]


def test_random_tokens_are_long_and_differ() -> None:
    tokens = {security.random_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(len(token) >= 43 and security.checked_token(token) == token for token in tokens)


@pytest.mark.parametrize("token", ["", " ", "with space", "tab\t", "new\nline", "\u00e9", "\x7f"])
def test_a_token_that_no_header_carries_is_refused_without_being_shown(token: str) -> None:
    with pytest.raises(ValueError, match="token must be printable ASCII") as refused:
        security.checked_token(token)
    assert "token_urlsafe" in str(refused.value)
    assert repr(token) not in str(refused.value)


@pytest.mark.parametrize("token", [b"abc", 7, True])
def test_a_token_of_the_wrong_kind_is_refused(token: Any) -> None:
    with pytest.raises(TypeError, match=r"token must be a str or None, got a \w+"):
        security.checked_token(token)


@pytest.mark.parametrize("hosts", ["ops.example.com", ["ops.example.com", 7]])
def test_hosts_of_the_wrong_kind_are_refused(hosts: Any) -> None:
    with pytest.raises(TypeError, match="hosts must"):
        security.checked_hosts(hosts)


@pytest.mark.parametrize(
    "host",
    [
        *("http://ops.example.com", "ops.example.com:443", "", "a/b", "two words", "[::1]"),
        *("*", "*.example.com", "ops.example.com.", "evil.example[::1]", "a,b.localhost"),
    ],
)
def test_a_host_that_is_no_bare_name_is_refused(host: str) -> None:
    with pytest.raises(
        ValueError, match=r"hosts must hold bare names, got .*: write each one out, .* without wildcard"
    ):
        security.checked_hosts([host])


def test_hosts_are_compared_without_case() -> None:
    assert security.checked_hosts(["Ops.Example.com"]) == {"ops.example.com"}
