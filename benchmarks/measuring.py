"""Rounds of measurements, each in a process of its own, so that no way leaves anything behind for the next.

All ways of a question take turns: each round measures each once, and the rounds go over them in alternating order. So
what the machine does meanwhile meets all of them alike, and a ratio is taken within a round.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tickrunner_trio._local_postgres import LocalPostgres, local_postgres

from .worker import last_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from .question import Measurement, Question

ROOT = Path(__file__).parent.parent
#: A way that failed so often is not tried again in this run.
FAILURES = 2


class MeasurementError(Exception):
    """A measurement gave nothing, and says why."""


@dataclasses.dataclass
class Answer:
    """What all rounds of a question gave."""

    question: Question
    rounds: list[dict[str, dict[str, float]]] = dataclasses.field(default_factory=list)
    failures: dict[str, str] = dataclasses.field(default_factory=dict)
    """By measurement's way: why it has rounds without it."""


class Servers:
    """The throw-away PostgreSQLs of a run, one for each kind of settings; started when first asked for."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._running: dict[str, LocalPostgres] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def with_settings(self, settings: Mapping[str, str | int | float]) -> LocalPostgres:
        """Return the server with these settings."""
        key = json.dumps(settings, sort_keys=True)
        if key not in self._running:
            self._running[key] = self._stack.enter_context(local_postgres(settings=settings))
        return self._running[key]


def measure(question: Question, servers: Servers, *, peers: Path, tell: Callable[[str], None]) -> Answer:
    """Measure a question, round by round. ``tell`` hears of each failure, when it comes."""
    answer = Answer(question)
    counts = dict.fromkeys((each.way for each in question.measurements), 0)
    for number in range(question.rounds):
        measured: dict[str, dict[str, float]] = {}
        groups = list(_groups(question.measurements))
        for group in groups if number % 2 == 0 else reversed(groups):
            with ThreadPoolExecutor(len(group)) as threads:
                tried = [
                    (each, threads.submit(_measured, each, question, servers, peers))
                    for each in group
                    if counts[each.way] < FAILURES
                ]
            for each, future in tried:
                try:
                    measured.update(future.result())
                except MeasurementError as error:
                    counts[each.way] += 1
                    answer.failures[each.way] = str(error)
                    tell(f"{question.key}: {each.way}: {error}")
        answer.rounds.append(measured)
    return answer


def _groups(measurements: tuple[Measurement, ...]) -> Iterator[list[Measurement]]:
    for beside, group in itertools.groupby(measurements, key=lambda each: each.beside):
        if beside is None:
            yield from ([each] for each in group)
        else:
            yield list(group)


def _measured(
    measurement: Measurement, question: Question, servers: Servers, peers: Path
) -> dict[str, dict[str, float]]:
    """Return the figures of a measurement by way, from a process of its own."""
    arguments = dict(measurement.arguments)
    with contextlib.ExitStack() as stack:
        if measurement.server:
            server = servers.with_settings(question.server_settings)
            arguments["dsn"] = server.socket_dsn
            if measurement.cores is not None:
                stack.enter_context(_pinned(server, measurement.cores))
        plan = {"function": measurement.function, "arguments": arguments, "cores": measurement.cores}
        figures = json.loads(_output_of(plan, measurement, peers))
    return figures if measurement.several else {measurement.way: figures}


def _output_of(plan: Mapping[str, Any], measurement: Measurement, peers: Path) -> str:
    environment = dict(os.environ)
    if measurement.peer is not None:
        environment["PYTHONPATH"] = str(peers / measurement.peer)
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.worker", json.dumps(plan)],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # it is ended with all that it started
    ) as process:
        try:
            output, errors = process.communicate(timeout=measurement.bound)
        except subprocess.TimeoutExpired:
            raise MeasurementError(f"gave nothing within {measurement.bound:g} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode != 0:
        lines = errors.strip().splitlines()
        raise MeasurementError(lines[-1] if lines else f"ended with status {process.returncode}")
    return output


@contextlib.contextmanager
def _pinned(server: LocalPostgres, cores: int) -> Iterator[None]:
    """Pin the server: the backends that it forks meanwhile inherit it, and the others have nothing to do."""
    assert server.pid is not None
    before = os.sched_getaffinity(server.pid)
    os.sched_setaffinity(server.pid, last_cores(cores))
    try:
        yield
    finally:
        os.sched_setaffinity(server.pid, before)
