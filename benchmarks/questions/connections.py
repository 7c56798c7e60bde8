"""How many connections hold 1,000 locks at once, and how long it takes until they do."""

from __future__ import annotations

from time import perf_counter

import psycopg
import trio

from tickrunner_trio import Lease, PostgresLocker

from ..peers.connections import counted
from ..question import OURS, Comparison, Figure, Measurement, Question, Value, ratio

EACH = "a connection per lock"
LOCKS = 1_000


def question(*, quick: bool) -> Question:
    """Ask it."""
    arguments = {"locks": LOCKS}
    return Question(
        key="connections",
        title="Connections at 1,000 held locks, and seconds to take them",
        figures=(Figure("connections", 0), Figure("seconds", 4)),
        measurements=(
            Measurement(way=OURS, function=f"{__name__}:measure", arguments=arguments, server=True),
            Measurement(way=EACH, function="benchmarks.peers.connections:held", arguments=arguments, server=True),
        ),
        comparisons=(
            Comparison(name="connections", of=Value(OURS, "connections"), at_most=2, places=0),
            Comparison(name="seconds over a connection per lock", of=ratio("seconds", EACH), at_most=0.05, places=4),
        ),
        rounds=1 if quick else 5,
        notes=(
            "`connections`: those that hold a lock, as the server counts them. `seconds`: until all 1,000 are held, "
            "from nothing: ours begins before the locker is entered, so its one connection and its settings are "
            "included. The server allows 1,100 connections for this, which few real ones do."
        ),
        server_settings={"max_connections": 1_100},
    )


def measure(dsn: str, locks: int) -> dict[str, float]:
    """Measure ours."""

    async def main() -> dict[str, float]:
        holding = 0
        all_held = trio.Event()

        async def hold(lease: Lease) -> None:
            nonlocal holding
            holding += 1
            if holding == locks:
                all_held.set()
            await trio.sleep_forever()

        began = perf_counter()
        async with PostgresLocker(dsn) as locker, trio.open_nursery() as nursery:
            for lock_id in range(locks):
                nursery.start_soon(locker.with_advisory_lock, lock_id, hold)
            await all_held.wait()
            seconds = perf_counter() - began
            with psycopg.connect(dsn, autocommit=True) as connection:
                connections = counted(connection, locks)
            nursery.cancel_scope.cancel()
        return {"connections": connections, "seconds": seconds}

    return trio.run(main)
