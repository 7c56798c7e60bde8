"""The record that the judge believes: a file to which each run appends that it starts, goes on and ends.

Each event is one line, written by one `os.write` to a descriptor opened with O_APPEND, so that lines of many processes
do not mix. The clock is CLOCK_BOOTTIME, which all processes of a machine share and which goes on during suspend. A run
that was killed wrote no end: it lasted until its last mark. Its last line may be torn.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Iterable
    from pathlib import Path

MARK_SECONDS = 0.010
"""So often a run says that it goes on."""

# Each line begins with a sign of its own: one that follows a torn line is told from it.
_LINE = re.compile(r"@(\w+) (\w+) (\d+) (start|mark|end) (\d+\.\d{6}) (-?\d+|none)$")


def boot_time() -> float:
    """Return seconds on the clock of the record."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the record."""

    service: str
    replica: str
    number: int
    kind: str
    at: float
    epoch: int | None = None

    def line(self) -> bytes:
        epoch = "none" if self.epoch is None else self.epoch
        return f"@{self.service} {self.replica} {self.number} {self.kind} {self.at:.6f} {epoch}\n".encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a service's work, by what it wrote itself; seconds of `boot_time`."""

    service: str
    replica: str
    number: int
    written_at: tuple[float, ...]  #: Its start, its marks and its end.
    ended: bool  #: Whether it wrote its end.
    epoch: int | None = None

    @property
    def started_at(self) -> float:
        return self.written_at[0]

    @property
    def stopped_at(self) -> float:
        """When it ended, or until when it certainly went on."""
        return self.written_at[-1]

    def __str__(self) -> str:
        return f"{self.service} on {self.replica}, run {self.number}"


class Recorder:
    """Appends the events of one replica.

    Args:
        path: of the record; made if it is not there.
        replica: the name of the replica.
    """

    def __init__(self, path: Path, replica: str) -> None:
        self._replica = replica
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, service: str, number: int, kind: str, epoch: int | None = None) -> None:
        os.write(self._fd, Event(service, self._replica, number, kind, boot_time(), epoch).line())


class Tail:
    """What is in the record by now; each look reads only what is new."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.events: list[Event] = []
        self.torn = 0
        self._running: dict[tuple[str, str, int], float] = {}
        self._last_start: dict[str, float] = {}

    def look(self) -> None:
        """Read what was written since the last look, up to the last whole line."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole = file.read().rpartition(b"\n")[0]
        self._offset += len(whole) + 1 if whole else 0
        events, torn = parsed(whole.decode())
        self.events += events
        self.torn += torn
        for event in events:
            run = (event.service, event.replica, event.number)
            if event.kind == "start":
                self._running[run] = event.at
                self._last_start[event.service] = event.at
            elif event.kind == "end":
                self._running.pop(run, None)

    def at_work(self, services: Container[str], *, within: float) -> set[str]:
        """The replicas of which a run of these services started within the last so many seconds and has not ended."""
        after = boot_time() - within
        return {
            replica
            for (service, replica, _), started_at in self._running.items()
            if service in services and started_at > after
        }

    def started_after(self, at: float) -> set[str]:
        """The services of which a run has started after that."""
        return {service for service, started_at in self._last_start.items() if started_at > at}


def parsed(text: str) -> tuple[list[Event], int]:
    """Return the events in the text of a record, and how many of its lines were torn."""
    events: list[Event] = []
    torn = 0
    for line in text.splitlines():
        found = _LINE.search(line)
        if found:
            service, replica, number, kind, at, epoch = found.groups()
            events.append(
                Event(service, replica, int(number), kind, float(at), None if epoch == "none" else int(epoch))
            )
        if found is None or found.start() > 0:
            torn += 1
    return events, torn


def runs_of(events: Iterable[Event]) -> list[Run]:
    """Put the events together to runs, in order of their starts."""
    by_run: dict[tuple[str, str, int], list[Event]] = {}
    for event in events:
        by_run.setdefault((event.service, event.replica, event.number), []).append(event)
    runs = [
        Run(
            service=service,
            replica=replica,
            number=number,
            written_at=tuple(sorted(event.at for event in of_run)),
            ended=any(event.kind == "end" for event in of_run),
            epoch=of_run[0].epoch,
        )
        for (service, replica, number), of_run in by_run.items()
    ]
    return sorted(runs, key=lambda run: run.started_at)
