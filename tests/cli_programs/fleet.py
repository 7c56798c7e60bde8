"""What three replicas run under the eyes of a real Prometheus.

`tests/dashboards/test_prometheus.py` says what it should see.

A file in the directory FLEET_SWITCHES, made by the test, makes a service misbehave as long as it is there.
"""

from __future__ import annotations

import os
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from tickrunner_trio import Config, PostgresLocker, Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tickrunner_trio import Tick

REPLICA = os.environ["FLEET_REPLICA"]
SWITCHES = Path(os.environ["FLEET_SWITCHES"])


async def succeed(tick: Tick) -> None:
    await trio.lowlevel.checkpoint()


async def fail(tick: Tick) -> None:
    raise OSError("the disk is full")


async def take_long(tick: Tick) -> None:
    await trio.sleep(0.6)


async def block(tick: Tick) -> None:
    await trio.lowlevel.checkpoint()
    while (SWITCHES / "block").exists():
        time.sleep(0.05)  # noqa: ASYNC251 - the fault that is to be seen


async def resist(tick: Tick) -> None:
    """Work nearly all of the time; when it is cancelled, go on for longer than the lease allows."""
    try:
        await trio.sleep(0.8)
    except trio.Cancelled:
        with trio.CancelScope(shield=True):
            await trio.sleep(1.5)
        raise


@asynccontextmanager
async def services() -> AsyncIterator[list[Service]]:
    def on(*replicas: str) -> dict[str, object]:
        return {"should_run": lambda: REPLICA in replicas, "interval": 1.0}

    async with PostgresLocker(os.environ["FLEET_DSN"], lease=2.0) as locker:
        fields = {
            # c blocks at some time, and keeps the locks of what works there: nothing else does.
            "healthy": {"work": succeed, **on("a", "b"), "interval": 2.0},
            "failing": {"work": fail, **on("a", "b")},
            "slow": {"work": take_long, **on("b")},
            "resisting": {"work": resist, **on("a")},
            "blocking": {"work": block, **on("c")},
            "paused": {"work": succeed, **on()},
            "daily": {"work": succeed, "interval": 86400.0},
        }
        yield [
            Service(Config(name=name, locker=locker, **more))  # type: ignore[arg-type]
            for name, more in fields.items()
        ]
