"""The relay of the fault campaign: what it keeps while it is shut, and forwards when it is healed."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio
from faults.relay import Relay

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


async def echo(stream: trio.SocketStream) -> None:
    async for data in stream:
        await stream.send_all(data)


@asynccontextmanager
async def relayed_echo() -> AsyncGenerator[tuple[Relay, trio.SocketStream]]:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, echo, 0, host="127.0.0.1"))
        relay = Relay(listeners[0].socket.getsockname)
        await nursery.start(relay.run)
        async with await trio.open_tcp_stream(relay.host, relay.port) as stream:
            yield relay, stream
        nursery.cancel_scope.cancel()


async def answer(stream: trio.SocketStream, seconds: float) -> bytes | None:
    with trio.move_on_after(seconds):
        return bytes(await stream.receive_some())
    return None


async def test_what_one_direction_keeps_is_forwarded_when_it_is_healed() -> None:
    async with relayed_echo() as (relay, stream):
        relay.partition(to_client=False)
        relay.partition(to_client=False)
        await stream.send_all(b"late")
        assert await answer(stream, 0.05) is None
        relay.heal()
        assert await answer(stream, 30) == b"late"
        relay.partition(to_server=False)
        await stream.send_all(b"later")
        assert await answer(stream, 0.05) is None
        relay.heal()
        assert await answer(stream, 30) == b"later"


async def test_a_slow_relay_asks_anew_each_time_how_slow() -> None:
    delays = iter([0.0, 0.0, 60.0])
    async with relayed_echo() as (relay, stream):
        relay.slow_down(lambda: next(delays))
        await stream.send_all(b"at once")
        assert await answer(stream, 30) == b"at once"
        await stream.send_all(b"in a minute")
        assert await answer(stream, 0.05) is None
