"""Lock ids: which 64-bit number stands for a service. Pure arithmetic, and frozen for ever.

Replicas of different releases exclude each other only while they compute the same id from the same name.
"""

from __future__ import annotations

import hashlib

#: PostgreSQL's bigint, and so every lock id.
MIN_LOCK_ID, MAX_LOCK_ID = -(2**63), 2**63 - 1


def lock_id_for(name: str, namespace: str = "") -> int:
    """Return the lock id of a service's name: a signed 64-bit integer, the same in every release and process.

    Args:
        name: the name of the service.
        namespace: tells apart services of one name that share a database, for example the name of the application.

    Raises:
        TypeError: ``name`` or ``namespace`` is not a str.
        ValueError: one of them holds a NUL, which separates the two in what is hashed, or a lone surrogate.

    Two of 10,000 names get the same id with a probability of 2.7e-12 (birthday bound over 64 bits).

    >>> lock_id_for("rebalance")
    -3371678497705346647
    """
    for field, value in (("name", name), ("namespace", namespace)):
        if not isinstance(value, str):
            raise TypeError(f"{field} must be a str, got {value!r}: write one, such as 'sweep'")
        if "\0" in value:
            raise ValueError(f"{field} must not contain a NUL character, got {value!r}: remove it")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError(f"{field} must not contain a lone surrogate, got {value!r}: it has no UTF-8 to be hashed")
    digest = hashlib.blake2b(f"{namespace}\0{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def checked_lock_id(value: object, field: str = "lock_id") -> int:
    """Return ``value`` if it is a lock id.

    Raises:
        TypeError: it is not an int; a bool is none.
        ValueError: it does not fit into a signed 64-bit integer.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{field} must be an int, got {value!r}: use lock_id_for(name) to derive one from a name")
    if not MIN_LOCK_ID <= value <= MAX_LOCK_ID:
        raise ValueError(
            f"{field} must be a signed 64-bit integer ({MIN_LOCK_ID} to {MAX_LOCK_ID}), got {value}: "
            "use lock_id_for(name) to derive one from a name"
        )
    return value
