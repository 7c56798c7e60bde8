"""A program for ``tickrunner run`` that tells of its first tick and ends; see `questions.startup`."""

from __future__ import annotations

import os

from tickrunner_trio import Config, MemoryLocker, Service, Tick

from .imports import TELL

#: So short that the jitter of the first tick is a millisecond at most.
INTERVAL = 0.002


async def work(tick: Tick) -> None:
    """Write how many modules are there that should not be, and end without another line of Python."""
    exec(TELL, {})
    os._exit(0)


services = [Service(Config(name="first", interval=INTERVAL, locker=MemoryLocker(), work=work))]
