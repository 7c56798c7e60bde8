"""A replica: a program that runs services under `PostgresLocker`, whose work does nothing but write that it runs.

It takes JSON lines on its standard input and answers each by one on its standard output. The first one is its
`Plan`; it then says ``ready``. When its input ends it drains, as if it had been told to.

* ``block``: block the Trio loop for so many seconds. The answer says from when to when.
* ``hold_gil``: the same, in a C call that keeps the interpreter to itself.
* ``report``: its descriptors, its threads, and what the locker counts.
* ``drain``: let the work in flight finish, leave the locker, answer and end.
"""

from __future__ import annotations

import ctypes
import dataclasses
import logging
import os
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from faults.broken_lockers import LOCKERS
from faults.judge import Habits
from faults.lines import Lines, line
from faults.record import MARK_SECONDS, Recorder, boot_time
from tickrunner_trio import Config, Service, Supervisor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tickrunner_trio import PostgresLocker, Tick


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a replica runs, and where."""

    name: str
    dsn: str
    record: str
    services: dict[str, Habits]  #: By name.
    lease: float
    locker: str = "honest"

    @classmethod
    def of(cls, message: dict[str, Any]) -> Plan:
        """Make it from what `dataclasses.asdict` made of one."""
        habits = {name: Habits(**fields) for name, fields in message["services"].items()}
        return cls(**(message | {"services": habits}))


def _work(habits: Habits, recorder: Recorder) -> Callable[[Tick], Awaitable[None]]:
    async def work(tick: Tick) -> None:
        def write(kind: str) -> None:
            recorder.write(tick.service, tick.number, kind, tick.epoch)

        write("start")
        try:
            until = trio.current_time() + random.uniform(habits.shortest, habits.longest)
            while trio.current_time() < until:
                await trio.sleep(MARK_SECONDS)
                write("mark")
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                until = trio.current_time() + habits.stopping
                while trio.current_time() < until:
                    await trio.sleep(MARK_SECONDS)
                    write("mark")
            raise
        finally:
            write("end")

    return work


def _block(seconds: float) -> dict[str, Any]:
    began_at = boot_time()
    time.sleep(seconds)
    return {"began_at": began_at, "ended_at": boot_time()}


def _hold_gil(seconds: float) -> dict[str, Any]:
    usleep = ctypes.PyDLL(None).usleep  # PyDLL lets the GIL go for no call
    began_at = boot_time()
    usleep(ctypes.c_uint(int(seconds * 1e6)))
    return {"began_at": began_at, "ended_at": boot_time()}


def _report(locker: PostgresLocker) -> dict[str, Any]:
    descriptors = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            descriptors.append(str(Path("/proc/self/fd", fd).readlink()).split("[")[0])
        except FileNotFoundError:  # that of the directory itself
            continue
    return {
        "descriptors": sorted(descriptors),
        "threads": sorted(path.joinpath("comm").read_text().strip() for path in Path("/proc/self/task").iterdir()),
        "statistics": dataclasses.asdict(locker.statistics()),
    }


async def _obey(command: dict[str, Any], locker: PostgresLocker) -> dict[str, Any]:
    match command["command"]:
        case "block":
            return _block(command["seconds"])
        case "hold_gil":
            return _hold_gil(command["seconds"])
        case "report":
            return _report(locker)
        case unknown:
            raise ValueError(f"there is no command {unknown!r}")


async def main() -> None:
    async with trio.lowlevel.FdStream(os.dup(0)) as stdin, trio.lowlevel.FdStream(os.dup(1)) as stdout:
        lines = Lines(stdin)
        plan = Plan.of(await lines.read() or {})
        recorder = Recorder(Path(plan.record), plan.name)
        async with LOCKERS[plan.locker](plan.dsn, lease=plan.lease) as locker, trio.open_nursery() as nursery:
            supervisor = Supervisor(
                Service(Config(name=name, interval=habits.interval, locker=locker, work=_work(habits, recorder)))
                for name, habits in plan.services.items()
            )
            await nursery.start(supervisor.run)
            await stdout.send_all(line({"ready": True}))
            while (command := await lines.read()) is not None and command["command"] != "drain":
                await stdout.send_all(line(await _obey(command, locker)))
            supervisor.drain()
        await stdout.send_all(line({"drained": True}))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    trio.run(main)
