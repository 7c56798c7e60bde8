"""What happened in a play, as it is written down: by Trio's clock; a timeline counts from the beginning."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ._timeline import Run, ServiceFacts, Skip, Stay, Timeline

if TYPE_CHECKING:
    from ._faults import Fault
    from ._lock_server import Hold


class Record:
    """What all processes write down.

    Args:
        began_at: Trio's time when the simulation began.
    """

    def __init__(self, began_at: float) -> None:
        self.began_at = began_at
        self.services: dict[str, ServiceFacts] = {}
        self.runs: list[Run] = []
        self.skips: list[Skip] = []
        self._holds: list[Hold] = []
        self._stays: list[Stay] = []

    def since_beginning(self, at: float) -> float:
        """Return virtual seconds; without what floats add."""
        return round(at - self.began_at, 9)

    def freed(self, hold: Hold) -> None:
        """A lock was held, and is free again."""
        since = self.since_beginning
        self._holds.append(replace(hold, granted_at=since(hold.granted_at), freed_at=since(hold.freed_at)))

    def stayed(self, replica: str, service: str, from_at: float, until_at: float) -> None:
        """A process had the service, and has it no more."""
        since = self.since_beginning
        self._stays.append(Stay(replica=replica, service=service, from_at=since(from_at), until_at=since(until_at)))

    def timeline(
        self,
        seconds: float,
        *,
        replicas: tuple[str, ...],
        faults: tuple[Fault, ...],
        lease: float,
        locked: set[int],
        ledger: bool,
    ) -> Timeline:
        """Return all of it, in an order that depends on nothing but what is in it."""
        ran = {run.service for run in self.runs}
        return Timeline(
            seconds=seconds,
            replicas=replicas,
            services=tuple(self.services[name] for name in sorted(self.services)),
            lease=lease,
            ledger=ledger,
            faults=faults,
            runs=tuple(sorted(self.runs, key=lambda run: (run.started_at, run.replica, run.service, run.number))),
            skips=tuple(sorted(self.skips, key=lambda skip: (skip.at, skip.replica, skip.service, skip.number))),
            holds=tuple(sorted(self._holds, key=lambda hold: (hold.granted_at, hold.replica, hold.lock_id))),
            unlocked=tuple(sorted(name for name in ran if self.services[name].lock_id not in locked)),
            stays=tuple(sorted(self._stays, key=lambda stay: (stay.from_at, stay.replica, stay.service))),
        )
