"""A replica that is frozen in the midst of its work: `test_ledger_docs.py` runs it with a conninfo as its argument.

It says ``begun <epoch>`` when it has its epoch, waits for a line on stdin, writes by the block of docs/fencing.md, and
says why that was refused, if it was. The wait is in a thread, which no cancellation ends: work that resists it. Last
comes the outcome.
"""

from __future__ import annotations

import sys

import psycopg
import trio
from fenced_writes import namespace

from tickrunner_trio import Config, PostgresLocker, Service, Tick


def write_late(conninfo: str, tick: Tick) -> None:
    sys.stdin.readline()
    try:
        with psycopg.connect(conninfo) as connection:
            namespace()["write_report"](connection, tick, "late")
    except RuntimeError as error:
        print(error, flush=True)


async def main(conninfo: str) -> None:
    async def work(tick: Tick) -> None:
        print("begun", tick.epoch, flush=True)
        await trio.to_thread.run_sync(write_late, conninfo, tick)

    async with PostgresLocker(conninfo, lease=2, ledger=True) as locker:
        report = await Service(Config(name="report", interval=3600, locker=locker, work=work)).tick()
        print(report.outcome, flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
