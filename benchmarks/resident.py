"""What a process takes from the machine, as the operating system says it."""

from __future__ import annotations

import gc
import sys

import psutil


def resident_bytes() -> int:
    """Return the resident size after a full collection."""
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def taken() -> dict[str, float]:
    """Return what must not grow: resident bytes, blocks of Python's allocator, threads and file descriptors."""
    process = psutil.Process()
    return {
        "resident": resident_bytes(),
        "blocks": sys.getallocatedblocks(),
        "threads": process.num_threads(),
        "descriptors": process.num_fds(),
    }
