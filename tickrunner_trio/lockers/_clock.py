"""The clock of the lease: seconds that go on while the machine is suspended, as the server's do."""

from __future__ import annotations

import time

# CLOCK_MONOTONIC stands still during suspend on Linux, and goes on elsewhere.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", None) or getattr(time, "CLOCK_MONOTONIC", None)


def boot_seconds() -> float:
    """Return seconds since an arbitrary point; the same in all threads, never going back."""
    return time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)
