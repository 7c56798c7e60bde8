"""The clock of the lease: seconds that go on while the machine is suspended, as the server's do."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# CLOCK_MONOTONIC stands still during suspend on Linux, and goes on elsewhere.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", None) or getattr(time, "CLOCK_MONOTONIC", None)


boot_seconds: Callable[[], float] = time.monotonic if _CLOCK is None else functools.partial(time.clock_gettime, _CLOCK)
"""Returns seconds since an arbitrary point; the same in all threads, never going back. Each lock asks often."""
