"""What the tests of the command line run. Each name is a target; the work says what it does through its tick's log."""

from __future__ import annotations

import os
import signal
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from tickrunner_trio import Config, LockerConfigurationError, MemoryLocker, Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tickrunner_trio import Tick

locker = MemoryLocker()


def service(name: str, work: Callable[[Tick], Awaitable[None]], **more: object) -> Service:
    fields = {"interval": 0.05, "tick_timeout": 30.0, "cadence": "replica", "locker": locker, **more}
    return Service(Config(name=name, work=work, **fields))  # type: ignore[arg-type]


async def return_at_once(tick: Tick) -> None:
    await trio.lowlevel.checkpoint()


async def take_half_a_second(tick: Tick) -> None:
    tick.log.info("begun")
    await trio.sleep(0.5)
    tick.log.info("finished")


async def never_end(tick: Tick) -> None:
    try:
        tick.log.info("begun")
        await trio.sleep_forever()
    finally:
        tick.log.info("cancelled")


async def block(tick: Tick) -> None:
    tick.log.info("begun")
    while True:
        time.sleep(1)  # noqa: ASYNC251 - the fault that is to be survived


async def resist(tick: Tick) -> None:  # pragma: no cover - ended by a signal that leaves no time to count
    tick.log.info("begun")
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()


async def end_the_process(tick: Tick) -> None:
    """Let a few ticks be logged, then end as if somebody had sent a signal."""
    await trio.lowlevel.checkpoint()
    if tick.number >= 3:
        os.kill(os.getpid(), signal.SIGTERM)


async def fail_thrice(tick: Tick) -> None:
    """Fail a few times, then end the process likewise."""
    await end_the_process(tick)
    raise OSError("the disk is full")


async def fail(tick: Tick) -> None:
    await trio.lowlevel.checkpoint()
    raise OSError("the disk is full")


quick = [service("quick", return_at_once)]
failing = (service("failing", fail),)
gated = [service("gated", return_at_once, should_run=lambda: False)]
endless = [service("endless", never_end)]
half = [service("half", take_half_a_second, interval=3600)]
resisting = [service("resisting", resist)]
brief = [service("brief", end_the_process)]
brief_failing = [service("brief_failing", fail_thrice)]
blocking = [service("blocking", block)]

sound = [service("first", return_at_once), service("second", return_at_once, lock_id=7)]
same_name = [service("twin", return_at_once), service("other", return_at_once), service("twin", return_at_once)]
same_lock = [service("left", return_at_once, lock_id=7), service("right", return_at_once, lock_id=7)]
doubtful = [
    service("hourly", return_at_once, interval=3600),
    service("daily", return_at_once, interval=86400),
    service("patient", return_at_once, tick_timeout=None),
]

one_service = quick[0]
nothing: list[Service] = []
not_services = ["quick"]
number = 42


@asynccontextmanager
async def opened() -> AsyncIterator[list[Service]]:
    """As an application does it: with a nursery around the services."""
    async with trio.open_nursery() as nursery:
        print("opened", flush=True)
        yield [service("half", take_half_a_second)]
        nursery.cancel_scope.cancel()
    print("closed", flush=True)


@asynccontextmanager
async def opened_brief_failing() -> AsyncIterator[list[Service]]:
    """Nobody but the command line has these services, and their locker."""
    await trio.lowlevel.checkpoint()
    yield [service("brief_failing", fail_thrice, locker=MemoryLocker())]


@asynccontextmanager
async def opened_for_ever() -> AsyncIterator[list[Service]]:
    try:
        print("opening", flush=True)
        await trio.sleep_forever()
        yield quick  # pragma: no cover - it makes a generator of it
    finally:
        print("closed", flush=True)


@asynccontextmanager
async def misconfigured() -> AsyncIterator[list[Service]]:
    async with trio.open_nursery():
        raise LockerConfigurationError("the pooler is in transaction mode:\nconnect to the server itself")
        yield quick


@asynccontextmanager
async def fails_when_left() -> AsyncIterator[list[Service]]:
    async with trio.open_nursery():
        yield quick
        raise KeyError("a bug")


@asynccontextmanager
async def fails_while_it_runs() -> AsyncIterator[list[Service]]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_die)
        yield quick


async def _die() -> None:
    await trio.sleep(0.1)
    raise OSError("the \x1b[31mqueue\x1b[0m is gone")


@asynccontextmanager
async def is_interrupted() -> AsyncIterator[list[Service]]:
    async with trio.open_nursery():
        raise KeyboardInterrupt
        yield quick


@asynccontextmanager
async def exits() -> AsyncIterator[list[Service]]:
    async with trio.open_nursery():
        raise SystemExit(7)
        yield quick


class _Broken:
    @property
    def services(self) -> list[Service]:
        raise RuntimeError("not \x1b[31mready")

    def __repr__(self) -> str:
        raise RuntimeError("no text")


broken = _Broken()


@asynccontextmanager
async def wrong_value() -> AsyncIterator[list[Service]]:
    yield [service("Wrong", return_at_once)]


@asynccontextmanager
async def yields_no_list() -> AsyncIterator[object]:
    async with trio.open_nursery():
        yield 42


@asynccontextmanager
async def needs_argument(dsn: str) -> AsyncIterator[list[Service]]:  # pragma: no cover - refused before it is begun
    yield quick


async def not_decorated() -> AsyncIterator[list[Service]]:  # pragma: no cover - as above
    yield quick


def returns_a_list() -> list[Service]:
    return quick
