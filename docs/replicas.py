"""Draws `replicas.svg`, three replicas and one lock over time, as they really were: ``python docs/replicas.py``.

Three processes of ``tickrunner run`` share this module's one service, over a real PostgreSQL. The holder of the lock is
killed at work when it has run a few times; its successor is drained while it holds on, as by a deploy; the third stays.
Drawn is what was seen from outside: the work and the BUSY ticks as the processes logged them, the lock as the server
showed it in ``pg_locks``, all by the one clock of this machine. The form is always the same; the figures are the run's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import trio
from psycopg.conninfo import make_conninfo

from tickrunner_trio import Config, PostgresLocker, Service
from tickrunner_trio._local_postgres import local_postgres

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence

    from tickrunner_trio import Tick

HERE = Path(__file__).parent
DSN, INTERVAL = "REPLICAS_DSN", "REPLICAS_INTERVAL"

#: Parts of an interval: how long the work takes, and how long after its start the one is killed, the next one drained.
WORK, KILLED, DRAINED = 0.3, 0.15, 0.6
#: Seconds until a run that hangs is given up.
PATIENCE = 60.0


# -- A replica: `tickrunner run replicas:services` ---------------------------------------------------------------------


@contextlib.asynccontextmanager
async def services() -> AsyncGenerator[list[Service]]:
    """Yield the one service."""
    interval = float(os.environ[INTERVAL])

    async def sweep(tick: Tick) -> None:
        tick.log.info("work begins")
        await trio.sleep(WORK * interval)
        tick.log.info("work ends")

    async with PostgresLocker(os.environ[DSN]) as locker:
        yield [Service(Config(name="sweep", interval=interval, locker=locker, work=sweep))]


# -- A run: processes, one of which is killed and one drained, watched from outside ------------------------------------


@dataclass
class Replica:
    """What was seen of one replica; seconds of the system's clock."""

    work: list[tuple[float, float]] = field(default_factory=list)
    held: list[tuple[float, float]] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    signal: signal.Signals | None = None
    ended_at: float | None = None


@contextlib.contextmanager
def processes(dsn: str, interval: float) -> Generator[tuple[list[subprocess.Popen[bytes]], list[Path]]]:
    """Start three replicas, whose sessions go by their numbers; yield them and their logs. They end with this."""
    command = [sys.executable, "-m", "tickrunner_trio", "run", "replicas:services", "--stop-at-eof"]
    command += ["--log-format", "json", "--log-level", "debug"]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        logs = [folder / f"{number}.log" for number in range(3)]
        started: list[subprocess.Popen[bytes]] = []
        for number, log in enumerate(logs):
            environment = {DSN: make_conninfo(dsn, application_name=f"replica {number}"), INTERVAL: str(interval)}
            started.append(
                stack.enter_context(
                    subprocess.Popen(
                        command,
                        cwd=HERE,
                        env=os.environ | environment,
                        stdin=subprocess.PIPE,
                        stdout=stack.enter_context(log.open("wb")),
                    )
                )
            )
            stack.callback(started[-1].kill)
        yield started, logs


HOLDER = """
    SELECT a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE l.locktype = 'advisory' AND l.granted AND a.datname = current_database()
"""


def watched(dsn: str, interval: float, runs: int) -> list[Replica]:
    """Let three replicas run, until each has had the lock ``runs`` times in turn, and return what was seen of them."""
    replicas = [Replica() for _ in range(3)]
    with psycopg.connect(dsn, autocommit=True) as connection, processes(dsn, interval) as (started, logs):
        fates = [(signal.SIGKILL, KILLED), (signal.SIGTERM, DRAINED)]
        held_by: int | None = None
        since, give_up_at = 0.0, time.time() + PATIENCE
        # The third, which nothing happens to, is the last.
        while fates or not any(each.signal is None and len(each.held) >= runs for each in replicas):
            found = connection.execute(HOLDER).fetchone()
            now = time.time()
            if now > give_up_at:
                raise SystemExit(f"three replicas did not have the lock in turn: {replicas}")
            holder = None if found is None else int(found[0].removeprefix("replica "))
            if holder != held_by:
                if held_by is not None:
                    replicas[held_by].held.append((since, now))
                held_by, since = holder, now
            if holder is not None and fates:
                replica, (number, after) = replicas[holder], fates[0]
                if replica.signal is None and len(replica.held) + 1 >= runs and now >= since + after * interval:
                    started[holder].send_signal(number)
                    replica.signal, replica.ended_at = number, now
                    del fates[0]
            time.sleep(0.005)
        for process in started:
            process.kill()
        for replica, log in zip(replicas, logs, strict=True):
            _read(replica, log.read_text(encoding="utf-8").splitlines(), until=replica.ended_at or time.time())
    return replicas


def _read(replica: Replica, lines: Sequence[str], *, until: float) -> None:
    begun: float | None = None
    for record in map(json.loads, lines):
        at = datetime.fromisoformat(record["timestamp"]).timestamp()
        if record["message"] == "work begins":
            begun = at
        elif record["message"] == "work ends" and begun is not None:
            replica.work.append((begun, at))
            begun = None
        elif record.get("outcome") == "busy":
            replica.busy.append(at)
    if begun is not None:  # it was killed at work
        replica.work.append((begun, until))


# -- The picture -------------------------------------------------------------------------------------------------------

WIDTH, LEFT, RIGHT, TOP, LANE, BAR = 860, 84, 12, 40, 44, 22
COLOURS = ("#3b82c4", "#2f9e6e", "#c2691a")
STYLE = """
    .paper { fill: #ffffff } .grid { stroke: #d0d7de } .busy { stroke: #6e7781; stroke-width: 2 }
    .held { fill-opacity: 0.3 }
    text { fill: #24292f; font: 13px sans-serif } .small { font-size: 11px } .on { fill: #ffffff; font-weight: bold }
    @media (prefers-color-scheme: dark) {
      .paper { fill: #161b22 } .grid { stroke: #30363d } .busy { stroke: #9ea7b3 } text:not(.on) { fill: #e6edf3 }
    }
"""
SAID = {signal.SIGKILL: "killed at work (SIGKILL)", signal.SIGTERM: "drained (SIGTERM)"}


def svg_of(replicas: Sequence[Replica], interval: float) -> str:
    """Return the picture of a run: a lane for the lock, and one for each replica in the order in which they had it."""
    replicas = sorted(replicas, key=lambda each: each.held[0])
    begin = replicas[0].held[0][0]
    end = max(stop for each in replicas for _, stop in each.held)

    def x(at: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * min(max(at - begin, 0.0), end - begin) / (end - begin)

    height = TOP + 4 * LANE + 44
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
            "<title>Three replicas and one lock over time</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="paper" width="{WIDTH}" height="{height}" rx="6"/>',
            *_grid([x(begin + n * interval) for n in range(int((end - begin) / interval) + 1)]),
            *(each for n, replica in enumerate(replicas, start=1) for each in _lane(replica, n, end, x)),
            *_legend(height - 18, interval),
            "</svg>\n",
        ]
    )


def _grid(marks: Sequence[float]) -> Iterator[str]:
    for number, at in enumerate(marks):
        yield f'<line class="grid" x1="{at:.1f}" y1="{TOP - 4}" x2="{at:.1f}" y2="{TOP + 4 * LANE}"/>'
        yield f'<text class="small" x="{at:.1f}" y="{TOP - 10}" text-anchor="middle">{number}</text>'
    for lane, name in enumerate(("the lock", "replica 1", "replica 2", "replica 3")):
        yield f'<text x="8" y="{TOP + lane * LANE + LANE // 2 + 4}">{name}</text>'


def _lane(replica: Replica, number: int, end: float, x: Callable[[float], float]) -> Iterator[str]:
    """Draw what one replica did, and above it the lock while it was the replica's."""
    colour, middle = COLOURS[number - 1], TOP + number * LANE + LANE // 2

    def bar(kind: str, span: tuple[float, float], lane: int) -> str:
        left, width = x(span[0]), x(span[1]) - x(span[0])
        top = TOP + lane * LANE + (LANE - BAR) // 2
        return f'<rect class="{kind}" x="{left:.1f}" y="{top}" width="{width:.1f}" height="{BAR}" fill="{colour}"/>'

    for span in replica.held:
        across = (x(span[0]) + x(span[1])) / 2
        yield bar("lock", span, 0)
        yield f'<text class="on" x="{across:.1f}" y="{TOP + LANE // 2 + 5}" text-anchor="middle">{number}</text>'
        yield bar("held", span, number)
    for span in replica.work:
        yield bar("work", span, number)
    for at in replica.busy:
        if at <= min(end, replica.ended_at or end):
            yield f'<line class="busy" x1="{x(at):.1f}" y1="{middle - 7}" x2="{x(at):.1f}" y2="{middle + 7}"/>'
    if replica.signal is not None:
        left = x(replica.held[-1][1]) + 6
        yield f'<text class="small" x="{left:.1f}" y="{middle + 4}">{SAID[replica.signal]}</text>'


def _legend(y: float, interval: float) -> Iterator[str]:
    for left, kind, text in ((0, "work", "the work runs"), (124, "held", "the lock is held on to")):
        at = LEFT + left
        yield f'<rect class="{kind} key" x="{at}" y="{y - 10}" width="18" height="12" fill="{COLOURS[0]}"/>'
        yield f'<text class="small" x="{at + 24}" y="{y}">{text}</text>'
    yield f'<line class="busy" x1="{LEFT + 288}" y1="{y - 11}" x2="{LEFT + 288}" y2="{y + 3}"/>'
    yield f'<text class="small" x="{LEFT + 296}" y="{y}">a tick that found it taken: BUSY</text>'
    yield f'<text class="small" x="{WIDTH - RIGHT}" y="{y}" text-anchor="end">intervals of {interval:g} s</text>'


def main() -> None:
    """Watch one run and draw it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--interval", type=float, default=1.0, help="of the service, in seconds")
    parser.add_argument("--runs", type=int, default=3, help="how often each replica has the lock")
    parser.add_argument("--to", type=Path, default=HERE / "replicas.svg", help="the file to write")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        dsn = os.environ.get("TICKRUNNER_TEST_DSN") or stack.enter_context(local_postgres()).dsn
        replicas = watched(dsn, options.interval, options.runs)
    options.to.write_text(svg_of(replicas, options.interval), encoding="utf-8")


if __name__ == "__main__":
    main()
