"""The faults: what is done to servers, replicas and the network between them, and when it is over.

Each takes the arena and returns when it has healed everything. It tells the arena's journal what the judge must know.
"""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import psycopg
import trio
from postgres_view import stopped
from standby_postgres import hot_standby

from faults import private_network
from faults.arena import LEASE
from faults.judge import Excuse
from faults.record import boot_time

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from faults.arena import Arena

#: Longer than a server waits for a word from a client.
SILENCE = LEASE + 0.7


@dataclass(frozen=True)
class Known:
    """A fault that can be injected.

    Args:
        inject: does it, heals it, and returns the name of the victim; empty for the server.
        others_go_on: whether the other replicas must take over while it lasts; else all must go on when it is healed.
        why_not: says why this machine cannot have it, or None.
        needs_small_server: whether it is done to a server with a very small lock table.
    """

    inject: Callable[[Arena], Awaitable[str]]
    others_go_on: bool = False
    why_not: Callable[[], str | None] = lambda: None
    needs_small_server: bool = False


# -- Processes of the server -------------------------------------------------------------------------------------------


async def terminate_backend(arena: Arena) -> str:
    """As an administrator ends a session."""
    victim = await arena.somebody_at_work()
    async with arena.dropping("pg_terminate_backend", [victim]) as backends:
        for pid in backends:
            await arena.ask(f"SELECT pg_terminate_backend({pid})")
    return victim


async def kill_backend(arena: Arena) -> str:
    """The server ends all sessions and recovers, since a backend may have left anything in its memory."""
    victim = await arena.somebody_at_work()
    [backend, *_] = (await arena.sessions())[victim]
    async with arena.dropping("SIGKILL of a backend"):
        os.kill(backend, signal.SIGKILL)
    return ""


async def kill_postmaster(arena: Arena) -> str:
    await arena.somebody_at_work()
    async with arena.dropping("SIGKILL of the postmaster"):
        os.kill(_postmaster(arena), signal.SIGKILL)
    await trio.to_thread.run_sync(arena.server.stop)
    await trio.sleep(arena.rng.uniform(0, 1))
    await trio.to_thread.run_sync(arena.server.start)
    return ""


async def restart(arena: Arena, mode: Literal["fast", "immediate"]) -> str:
    await arena.somebody_at_work()
    async with arena.dropping(f"{mode} restart"):
        await trio.to_thread.run_sync(arena.server.stop, mode)
    await trio.sleep(arena.rng.uniform(0, 1))
    await trio.to_thread.run_sync(arena.server.start)
    return ""


async def freeze_backend(arena: Arena) -> str:
    """The server cannot end the session meanwhile, nor let its locks go."""
    victim = await arena.somebody_at_work()
    [backend, *_] = (await arena.sessions())[victim]
    with stopped(backend):
        await trio.sleep(SILENCE)
    return victim


async def freeze_postmaster(arena: Arena) -> str:
    """Nobody can connect; whoever loses its session meanwhile is away until the end."""
    victim = await arena.somebody_at_work()
    async with arena.dropping("SIGTERM of a backend under a frozen postmaster", [victim]) as backends:
        with stopped(_postmaster(arena)):
            for pid in backends:
                os.kill(pid, signal.SIGTERM)
            await trio.sleep(SILENCE)
    return victim


def _postmaster(arena: Arena) -> int:
    assert arena.server.pid is not None
    return arena.server.pid


# -- Replicas ----------------------------------------------------------------------------------------------------------


async def freeze_replica(arena: Arena) -> str:
    victim = await arena.somebody_at_work()
    began_at = boot_time()
    with stopped(arena.replicas[victim].pid):
        await trio.sleep(SILENCE)
        # What counts is the moment of the signal, which comes a little later.
        arena.excuses.append(
            Excuse(cause="frozen", replica=victim, began_at=began_at, at=boot_time(), by="SIGSTOP of a replica")
        )
    return victim


async def kill_replica(arena: Arena) -> str:
    """Another one takes its place."""
    victim = await arena.somebody_at_work()
    await arena.kill_replica(victim)
    await arena.add_replica()
    return victim


async def block_the_loop(arena: Arena) -> str:
    """The thread of the locker goes on, so nobody takes over."""
    victim = await arena.somebody_at_work()
    await arena.replicas[victim].told("block", seconds=SILENCE)
    return victim


async def hold_the_gil(arena: Arena) -> str:
    """Nothing of the process goes on, as if it were frozen."""
    victim = await arena.somebody_at_work()
    held = await arena.replicas[victim].told("hold_gil", seconds=SILENCE)
    arena.excuses.append(
        Excuse(cause="GIL held", replica=victim, began_at=held["began_at"], at=held["ended_at"], by="GIL held")
    )
    return victim


# -- The network -------------------------------------------------------------------------------------------------------


async def partition(arena: Arena, *, to_server: bool, to_client: bool) -> str:
    """The relay stops forwarding, and closes nothing."""
    victim = await arena.somebody_at_work()
    arena.replicas[victim].relay.partition(to_server=to_server, to_client=to_client)
    await trio.sleep(SILENCE)
    arena.replicas[victim].relay.heal()
    return victim


async def drop_packets(arena: Arena, *, to_server: bool, to_client: bool) -> str:
    """The same, but by the kernel."""
    victim = await arena.somebody_at_work()
    cable = arena.cables[victim]
    await trio.to_thread.run_sync(partial(cable.drop, to_server=to_server, to_client=to_client))
    await trio.sleep(SILENCE)
    await trio.to_thread.run_sync(cable.heal)
    return victim


async def slow_server(arena: Arena) -> str:
    """Sometimes slower than a reply may be."""
    for replica in arena.replicas.values():
        replica.relay.slow_down(lambda: arena.rng.uniform(0.02, 0.5))
    await trio.sleep(SILENCE)
    for replica in arena.replicas.values():
        replica.relay.heal()
    return ""


async def refuse_connections(arena: Arena) -> str:
    """All connections are reset, and no new ones taken."""
    await arena.somebody_at_work()
    async with arena.dropping("connections reset and refused"):
        for replica in arena.replicas.values():
            replica.relay.refuse()
    await trio.sleep(arena.rng.uniform(0.5, 1.5))
    for replica in arena.replicas.values():
        replica.relay.heal()
    return ""


# -- What the server is and allows -------------------------------------------------------------------------------------


async def promote_a_standby(arena: Arena) -> str:
    """The primary dies, and what leads to it leads to a standby, which is promoted a little later."""
    primary = arena.server
    standby = await trio.to_thread.run_sync(lambda: arena.servers.enter_context(hot_standby(primary)))
    await arena.somebody_at_work()
    async with arena.dropping("death of the primary"):
        arena.server = standby
        await trio.to_thread.run_sync(primary.stop, "kill")
    await trio.sleep(arena.rng.uniform(0.2, 0.6))
    await trio.to_thread.run_sync(standby.promote)
    return ""


async def synchronous_standby_gone(arena: Arena) -> str:
    """Every commit waits for ever, unless it says otherwise; the sessions of the locks are opened anew meanwhile."""
    await _configured(arena, "SET synchronous_standby_names = 'nobody'")
    victim = await _all_terminated(arena, "pg_terminate_backend with the synchronous standby gone")
    since = boot_time()
    await arena.settled()
    await arena.all_ran(since=since)
    await _configured(arena, "RESET synchronous_standby_names")
    return victim


async def shrink_settings(arena: Arena) -> str:
    """What the role says would end the sessions much too early, if they listened to it."""
    shrunk = {"idle_session_timeout": "300ms", "statement_timeout": "200ms", "lock_timeout": "1ms"}
    shrunk |= {"tcp_user_timeout": "100ms", "tcp_keepalives_idle": "1s", "tcp_keepalives_count": "1"}
    shrunk |= {"idle_in_transaction_session_timeout": "100ms", "default_transaction_isolation": "serializable"}
    for name, value in shrunk.items():
        await arena.ask(f"ALTER ROLE CURRENT_USER SET {name} = '{value}'")
    await _all_terminated(arena, "pg_terminate_backend after settings were shrunk")
    await arena.settled()
    before = await arena.sessions()
    await trio.sleep(1.0)
    if await arena.sessions() != before:
        arena.findings.append("a session did not last one second with the settings of its role shrunk")
    await arena.ask("ALTER ROLE CURRENT_USER RESET ALL")
    await _all_terminated(arena, "pg_terminate_backend after settings were reset")
    return ""


async def run_out_of_connections(arena: Arena) -> str:
    """Others take all connections, and those of the locks as soon as these are ended."""
    await arena.somebody_at_work()
    with contextlib.ExitStack() as others:
        async with arena.dropping("pg_terminate_backend with no connections left") as backends:
            await trio.to_thread.run_sync(_take_connections, arena.server.dsn, backends, others)
        await trio.sleep(1.0)
    return ""


def _take_connections(dsn: str, backends: list[int], others: contextlib.ExitStack) -> None:
    """Take all connections of the server, end these sessions, and take theirs."""
    with contextlib.suppress(psycopg.OperationalError):
        while True:
            first = others.enter_context(contextlib.closing(psycopg.connect(dsn, autocommit=True)))
            others.enter_context(contextlib.closing(psycopg.connect(dsn, autocommit=True)))
    first.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", [backends])
    until = boot_time() + 0.5
    while boot_time() < until:
        with contextlib.suppress(psycopg.OperationalError):
            others.enter_context(contextlib.closing(psycopg.connect(dsn, autocommit=True)))


async def exhaust_the_lock_table(arena: Arena) -> str:
    """Another program takes advisory locks until the server has no memory for more."""
    await arena.somebody_at_work()
    hog = await trio.to_thread.run_sync(_take_locks, arena.server.dsn)
    with contextlib.closing(hog):
        await trio.sleep(SILENCE)
    return ""


def _take_locks(dsn: str) -> psycopg.Connection[tuple[object, ...]]:
    connection = psycopg.connect(dsn, autocommit=True)
    with contextlib.suppress(psycopg.errors.OutOfMemory):
        for lock_id in range(1_000_000):
            connection.execute("SELECT pg_advisory_lock(%s)", [lock_id])
    return connection


async def _all_terminated(arena: Arena, by: str) -> str:
    await arena.somebody_at_work()
    async with arena.dropping(by) as backends:
        await arena.ask(f"SELECT pg_terminate_backend(pid) FROM unnest(ARRAY{backends}::int[]) AS pid")
    return ""


async def _configured(arena: Arena, what: str) -> None:
    # A commit that waits for a standby would wait for this one, too.
    await arena.ask(f"ALTER SYSTEM {what}")
    await arena.ask("SELECT pg_reload_conf()")


_BOTH = {"to_server": True, "to_client": True}
_TO_SERVER = {"to_server": True, "to_client": False}
_TO_CLIENT = {"to_server": False, "to_client": True}


def _dropping(directions: dict[str, bool]) -> Known:
    return Known(partial(drop_packets, **directions), others_go_on=True, why_not=private_network.why_not)


KNOWN: dict[str, Known] = {
    "pg_terminate_backend": Known(terminate_backend, others_go_on=True),
    "SIGKILL of a backend": Known(kill_backend),
    "SIGKILL of the postmaster": Known(kill_postmaster),
    "fast restart": Known(partial(restart, mode="fast")),
    "immediate restart": Known(partial(restart, mode="immediate")),
    "SIGSTOP of a backend": Known(freeze_backend),
    "SIGSTOP of the postmaster": Known(freeze_postmaster, others_go_on=True),
    "SIGSTOP of a replica": Known(freeze_replica, others_go_on=True),
    "SIGKILL of a replica": Known(kill_replica, others_go_on=True),
    "blocked Trio loop": Known(block_the_loop),
    "GIL held past the lease": Known(hold_the_gil, others_go_on=True),
    "partition both ways": Known(partial(partition, **_BOTH), others_go_on=True),
    "partition to the server": Known(partial(partition, **_TO_SERVER), others_go_on=True),
    "partition to the client": Known(partial(partition, **_TO_CLIENT), others_go_on=True),
    "packets dropped both ways": _dropping(_BOTH),
    "packets dropped to the server": _dropping(_TO_SERVER),
    "packets dropped to the client": _dropping(_TO_CLIENT),
    "slow server": Known(slow_server),
    "connections refused": Known(refuse_connections),
    "promotion of a standby": Known(promote_a_standby),
    "synchronous standby gone": Known(synchronous_standby_gone, others_go_on=True),
    "settings shrunk on the role": Known(shrink_settings, others_go_on=True),
    "out of connections": Known(run_out_of_connections),
    "out of lock memory": Known(exhaust_the_lock_table, needs_small_server=True),
}

SERVER = {"max_connections": 25}
SMALL_SERVER = {"max_connections": 10, "max_locks_per_transaction": 10}
