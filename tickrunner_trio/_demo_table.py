"""What the demo shows while it runs: service x replica, as a live table or as lines. A view: it decides nothing.

What a replica says of itself comes from its log lines; how often its work ran and which locks its session holds comes
from the database. Where the two differ, both are shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from . import Outcome, WorkerHealth

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class Look:
    """One look into the database."""

    runs: Mapping[tuple[str, str], int]  #: How many runs were recorded, by service and replica.
    holders: frozenset[tuple[int, str]]  #: Which locks are held: lock id and replica.


@dataclass(frozen=True)
class Announced:
    """A service as the replicas announce it when they start."""

    name: str
    interval: float  #: Seconds.
    lock_id: int


class Board:
    """The state of the view: a fold over log records and looks."""

    def __init__(self, replicas: Sequence[str]) -> None:
        self.services: dict[str, Announced] = {}
        self.up: set[str] = set()  #: The replicas whose services have started.
        self.killed: set[str] = set()
        self._replicas = tuple(replicas)
        self._health: dict[tuple[str, str], WorkerHealth] = {}
        self._look = Look(runs={}, holders=frozenset())

    def hear(self, replica: str, record: Mapping[str, Any]) -> str | None:
        """Take in one log record of a replica; return a line if somebody who sees no table should read of it."""
        if record.get("message") == "services started":
            for service in record["services"]:
                self.services[service["name"]] = Announced(service["name"], service["interval"], service["lock_id"])
            self.up.add(replica)
            return f"{replica}: up"
        service, outcome = record.get("component"), record.get("outcome")
        if service not in self.services or outcome is None:
            return None
        health = self._health.get((service, replica)) or WorkerHealth(service)
        at = datetime.fromisoformat(record["timestamp"])
        self._health[service, replica] = health.after(Outcome(outcome), at=at)
        return None if Outcome(outcome).result == "skipped" else f"{replica}: {service}: {outcome}"

    def see(self, look: Look) -> None:
        """Take in what the database shows."""
        self._look = look

    def busiest(self) -> str:
        """Return the replica whose work ran most, of several the one that holds most locks."""

        def score(replica: str) -> tuple[int, int]:
            runs = sum(count for (_, name), count in self._look.runs.items() if name == replica)
            return runs, sum(name == replica for _, name in self._look.holders)

        return max(self._replicas, key=score)

    def rows(self) -> list[tuple[str, str, str, str, str, str]]:
        """Return service, replica, state, last outcome, runs and lock, service by service."""
        rows: list[tuple[str, str, str, str, str, str]] = []
        for service in self.services.values():
            for replica in self._replicas:
                health = self._health.get((service.name, replica)) or WorkerHealth(service.name)
                rows.append(
                    (
                        service.name,
                        replica,
                        "killed" if replica in self.killed else str(health.state),
                        str(health.last_outcome or ""),
                        str(self._look.runs.get((service.name, replica), 0)),
                        "held" if (service.lock_id, replica) in self._look.holders else "",
                    )
                )
        return rows


_STYLES = {"ok": "green", "standby": "dim", "killed": "bold red", "failing": "red", "unavailable": "yellow"}


def rich_table(board: Board, caption: str) -> Table:
    """Return the board as a table of `rich`, which the caller has made sure of."""
    from rich.table import Table  # noqa: PLC0415 - of the extra "demo"

    table = Table(
        "service", "replica", "state", "last outcome", "runs", "lock", caption=caption, caption_justify="left"
    )
    previous = None
    for service, replica, state, outcome, runs, lock in board.rows():
        if previous not in (None, service):
            table.add_section()
        style = _STYLES.get(state, "")
        table.add_row("" if service == previous else service, replica, state, outcome, runs, lock, style=style)
        previous = service
    return table
