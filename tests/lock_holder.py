"""A process of its own that tries a lock: ``lock_holder.py <lock id>``, with the connection string on its stdin.

It prints ``held`` or ``busy``, and holds on until its stdin ends.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import trio

from tickrunner_trio import PostgresLocker

if TYPE_CHECKING:
    from tickrunner_trio import Lease


async def hold(lease: Lease) -> None:
    print("held", flush=True)
    await trio.to_thread.run_sync(sys.stdin.read)


async def main() -> None:
    async with PostgresLocker(sys.stdin.readline().strip()) as locker:
        if not await locker.with_advisory_lock(int(sys.argv[1]), hold):
            print("busy", flush=True)


if __name__ == "__main__":
    trio.run(main)
