"""Memory: a service that ticks 100,000 times must not grow. Exit status 1 if it does.

The clock is virtual and everything else of a tick is real: schedule, lock, scope, report, health. It takes a minute or
two of one core, because tracemalloc makes it slow.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc

import psutil
import trio
from trio.testing import MockClock

from tickrunner_trio import Config, MemoryLocker, Service, Tick

TICKS = 100_000
WARM_UP = 2_000  # caches, interned strings, free lists
# A leak of one reference per tick is 800,000 bytes or more; what remains of a run without one was below 10,000.
PYTHON_BOUND = 100_000
# The allocator keeps pages, so the resident size moves a little without a leak, in steps of whole arenas.
RESIDENT_BOUND = 8_000_000


async def measure() -> tuple[int, int]:
    """Return by how many bytes Python's own memory and the resident size grew from the warm-up to the end."""
    process = psutil.Process()
    before = (0, 0)
    after = (0, 0)

    async def work(tick: Tick) -> None:
        nonlocal before, after
        if tick.number in (WARM_UP, WARM_UP + TICKS):
            gc.collect()
            now = (tracemalloc.get_traced_memory()[0], process.memory_info().rss)
            if tick.number == WARM_UP:
                before = now
            else:
                after = now
                service.drain()

    service = Service(Config(name="memory", interval=1.0, locker=MemoryLocker(), work=work, tick_timeout=0.5))
    await service.run()
    return after[0] - before[0], after[1] - before[1]


def main() -> int:
    """Print the figures and return the exit status."""
    tracemalloc.start()
    python, resident = trio.run(measure, clock=MockClock(autojump_threshold=0))
    print(f"growth over {TICKS:,} ticks: {python:,} bytes of Python's (bound {PYTHON_BOUND:,}), ", end="")
    print(f"{resident:,} bytes resident (bound {RESIDENT_BOUND:,})")
    return 0 if python <= PYTHON_BOUND and resident <= RESIDENT_BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
