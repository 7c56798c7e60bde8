"""psycopg is loaded when it is first needed: that takes long, and it may not be there."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from .._errors import LockerConfigurationError

if TYPE_CHECKING:
    from collections.abc import Generator


@contextmanager
def driver_needed() -> Generator[None]:
    """Name the remedy if what is imported within the block cannot be.

    Raises:
        LockerConfigurationError: psycopg, or the libpq that it needs, is missing.
    """
    try:
        yield
    except ImportError as error:
        raise LockerConfigurationError(
            f"psycopg or its libpq is missing ({error}): pip install 'psycopg[binary]', or install libpq"
        ) from None
