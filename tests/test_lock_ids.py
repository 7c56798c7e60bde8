"""Lock ids are frozen: a change of one of these figures lets replicas of two releases run the same work at once."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickrunner_trio import lock_id_for
from tickrunner_trio._lock_ids import checked_lock_id
from tickrunner_trio.testing import strategies

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)))


@pytest.mark.parametrize(
    ("name", "namespace", "lock_id"),
    [
        ("rebalance", "", -3371678497705346647),
        ("rebalance", "shop", 554372050149453694),
        ("", "", -7712737833812065720),
        ("ü", "", 3126013221933694350),
        ("a", "b", 8112439109133317251),
        ("b", "a", -17643764250920285),
    ],
)
def test_lock_ids_are_frozen_for_ever(name: str, namespace: str, lock_id: int) -> None:
    assert lock_id_for(name, namespace) == lock_id
    assert lock_id_for(name=name, namespace=namespace) == lock_id


def test_the_namespace_is_empty_unless_given() -> None:
    assert lock_id_for("rebalance") == lock_id_for("rebalance", "") == -3371678497705346647


@given(TEXT, TEXT)
def test_a_lock_id_is_the_first_8_bytes_of_the_hash_as_a_signed_bigint(name: str, namespace: str) -> None:
    digest = hashlib.blake2b(namespace.encode() + b"\0" + name.encode(), digest_size=8).hexdigest()
    unsigned = int(digest, 16)
    assert lock_id_for(name, namespace) == (unsigned if unsigned < 2**63 else unsigned - 2**64)


@given(st.text(st.sampled_from("ab"), max_size=4), st.integers(0, 4), st.integers(0, 4))
def test_where_the_namespace_ends_matters(text: str, one: int, other: int) -> None:
    one, other = min(one, len(text)), min(other, len(text))
    same = lock_id_for(text[one:], text[:one]) == lock_id_for(text[other:], text[:other])
    assert same == (one == other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a\0b",), r"^name must not contain a NUL character, got 'a\\x00b': remove it$"),
        (("a\ud800",), r"^name must not contain a lone surrogate, got 'a\\ud800': it has no UTF-8 to be hashed$"),
        (("a\udfff",), r"^name must not contain a lone surrogate, got 'a\\udfff': it has no UTF-8 to be hashed$"),
        (("a", "\0"), r"^namespace must not contain a NUL character, got '\\x00': remove it$"),
    ],
)
def test_a_nul_is_refused_since_it_separates_the_two(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lock_id_for(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5,), r"^name must be a str, got 5: write one, such as 'sweep'$"),
        ((b"a",), r"^name must be a str, got b'a': write one, such as 'sweep'$"),
        (("a", None), r"^namespace must be a str, got None: write one, such as 'sweep'$"),
    ],
)
def test_only_text_has_a_lock_id(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        lock_id_for(*arguments)


@given(strategies.lock_ids())
def test_every_bigint_is_a_lock_id(value: int) -> None:
    assert checked_lock_id(value) == value


@pytest.mark.parametrize("value", [-(2**63), 2**63 - 1])
def test_the_ends_of_the_bigints_are_lock_ids(value: int) -> None:
    assert checked_lock_id(value) == value


@pytest.mark.parametrize("value", [-(2**63) - 1, 2**63, 2**64])
def test_what_is_past_the_ends_is_refused(value: int) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is below
        checked_lock_id(value, "key")
    assert str(caught.value) == (
        f"key must be a signed 64-bit integer (-9223372036854775808 to 9223372036854775807), got {value}: "
        "use lock_id_for(name) to derive one from a name"
    )


@pytest.mark.parametrize("value", [True, False, 1.0, "1", None])
def test_what_is_no_int_is_refused_and_a_boolean_is_none(value: object) -> None:
    remedy = r"use lock_id_for\(name\) to derive one from a name"
    with pytest.raises(TypeError, match=rf"^lock_id must be an int, got {value!r}: {remedy}$"):
        checked_lock_id(value)
