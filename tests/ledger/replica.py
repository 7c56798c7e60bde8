"""A replica with a ledger: a program that runs one service and writes each run into a table of its own, fenced.

Its arguments: the conninfo, its name, the interval, how long the work takes, and the lease, in seconds. It drains on
SIGTERM.

The table is what docs tell users to make: one row with the epoch of the last write, and ``UPDATE ... WHERE epoch <=``
in the same transaction as the write itself.
"""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import psycopg
import trio

from tickrunner_trio import Config, PostgresLocker, Service, Supervisor

if TYPE_CHECKING:
    from tickrunner_trio import Tick

DSN, NAME = sys.argv[1:3]
INTERVAL, SECONDS, LEASE = map(float, sys.argv[3:6])

FENCE = "UPDATE fence SET epoch = %s WHERE epoch <= %s"
WRITE = "INSERT INTO written (replica, epoch, kind) VALUES (%s, %s, %s)"


def write(epoch: int, kind: str) -> None:
    with psycopg.connect(DSN) as connection:
        is_last = connection.execute(FENCE, (epoch, epoch)).rowcount == 1
        connection.execute(WRITE, (NAME, epoch, kind if is_last else f"refused {kind}"))


async def work(tick: Tick) -> None:
    assert tick.epoch is not None
    write(tick.epoch, "start")  # it blocks the loop, as a frozen process does: nothing comes between
    try:
        await trio.sleep(SECONDS)
    finally:
        write(tick.epoch, "end")


async def main() -> None:
    async with PostgresLocker(DSN, lease=LEASE, ledger=True) as locker:
        supervisor = Supervisor([Service(Config(name="sweep", interval=INTERVAL, locker=locker, work=work))])
        async with trio.open_nursery() as nursery:

            async def drain_on_sigterm() -> None:
                with trio.open_signal_receiver(signal.SIGTERM) as signals:
                    async for _ in signals:
                        supervisor.drain()

            nursery.start_soon(drain_on_sigterm)
            print("ready", flush=True)
            await supervisor.run()
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
