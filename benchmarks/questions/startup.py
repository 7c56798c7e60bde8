"""How long it takes to import the library and its command line, and until the first tick of ``tickrunner run``.

Each figure is the least of several fresh interpreters, since whatever else the machine does only adds. Imports are
timed within the interpreter, so its own start is in none of them; the first tick is timed from outside, with it.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from tempfile import TemporaryDirectory
from time import perf_counter

from ..imports import first_task, timed
from ..question import OURS, Comparison, Difference, Figure, Measurement, Question, Value, ratio

TRIO = "import trio"
API = "import trio, opentelemetry.trace, opentelemetry.metrics"
IMPORTS = {
    OURS: "import tickrunner_trio",
    f"{OURS}, command line": "import tickrunner_trio._cli",
    "trio and the OpenTelemetry API": API,
    "trio": TRIO,
    "psycopg": "import psycopg",
}
BASE, COMMAND = "trio and the OpenTelemetry API", f"{OURS}, command line"
FIRST, FIRST_BARE = f"{OURS}, first tick of `run`", "first task of a bare Trio program"


def over(base: str, of: str) -> Difference:
    """Return what takes from a round the milliseconds that one way takes longer than another."""
    return Difference(Value(of, "ms"), Value(base, "ms"))


def question(*, quick: bool) -> Question:
    """Ask it."""
    children = {"children": 4 if quick else 5}
    return Question(
        key="startup",
        title="Start-up",
        figures=(Figure("ms", 1), Figure("foreign", 0)),
        measurements=(
            Measurement(way=OURS, function=f"{__name__}:measure_imports", arguments=children, several=True),
            Measurement(way=FIRST, function=f"{__name__}:measure_first_tick", arguments=children),
            Measurement(way=FIRST_BARE, function=f"{__name__}:measure_first_task", arguments=children),
        ),
        comparisons=(
            Comparison(
                name="ms over trio and API, library", of=over(BASE, OURS), at_most=20.0, places=1, guarded=False
            ),
            Comparison(
                name="ms over trio and API, command line", of=over(BASE, COMMAND), at_most=20.0, places=1, guarded=False
            ),
            Comparison(
                name="ms over a bare program, first tick",
                of=over(FIRST_BARE, FIRST),
                at_most=20.0,
                places=1,
                guarded=False,
            ),
            *(
                Comparison(
                    name=f"psycopg and SDK modules imported, {name}", of=Value(way, "foreign"), at_most=0, places=0
                )
                for name, way in (("library", OURS), ("command line", COMMAND), ("first tick", FIRST))
            ),
            Comparison(name="library over trio and API", of=ratio("ms", BASE)),
            Comparison(name="first tick over a bare program", of=ratio("ms", FIRST_BARE, of=FIRST)),
        ),
        rounds=1 if quick else 5,
        notes=(
            "Milliseconds, each the least of several fresh interpreters. Imports are timed within the interpreter; the "
            "first tick, and the first task beside it, from the start of the process, interpreter included. The first "
            "tick has a jitter of a millisecond at most. `foreign`: modules of psycopg and of the OpenTelemetry SDK "
            "that are there afterwards; an application that uses `PostgresLocker` pays for psycopg then."
        ),
    )


def measure_imports(children: int) -> dict[str, dict[str, float]]:
    """Time the imports within fresh interpreters, in turns: the targets are differences between them."""
    figures: dict[str, dict[str, float]] = {}
    with TemporaryDirectory() as compiled:
        for _ in range(children):
            for way, statement in IMPORTS.items():
                _, (seconds, foreign) = _told([sys.executable, "-c", timed(statement)], compiled)
                before = figures.get(way, {"ms": math.inf, "foreign": 0})
                figures[way] = {
                    "ms": min(before["ms"], 1e3 * float(seconds)),
                    "foreign": max(before["foreign"], int(foreign)),
                }
    return figures


def measure_first_tick(children: int) -> dict[str, float]:
    """Time the command line from its start to its first tick."""
    command = [sys.executable, "-m", "tickrunner_trio", "run", "benchmarks.first_tick:services", "--log-level=critical"]
    return _first(command, children)


def measure_first_task(children: int) -> dict[str, float]:
    """Time a bare Trio program likewise."""
    return _first([sys.executable, "-c", first_task(API)], children)


def _first(command: list[str], children: int) -> dict[str, float]:
    with TemporaryDirectory() as compiled:
        told = [_told(command, compiled) for _ in range(children)]
    return {"ms": min(1e3 * seconds for seconds, _ in told), "foreign": max(int(words[0]) for _, words in told)}


def _told(command: list[str], compiled: str) -> tuple[float, list[str]]:
    """Return the seconds until a program told what it tells, and the words of that.

    All modules are there compiled, as those of an installed package are, but for the first program of a folder.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = compiled
    began = perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = perf_counter() - began
    if not line:
        raise AssertionError(f"{command} told nothing")
    return seconds, line.split()
