"""How long it takes to import the library and its command line, and until the first tick of ``tickrunner run``.

Each figure is the least of several fresh interpreters, since whatever else the machine does only adds; those whose
difference is judged take turns. Imports are timed within the interpreter, so its own start is in none of them. The
first tick is timed from outside, with it, beside a bare Trio program that is started in the same way.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING

from ..imports import timed
from ..question import OURS, Comparison, Difference, Figure, Measurement, Question, Value, ratio

if TYPE_CHECKING:
    from collections.abc import Callable

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
FIRSTS = {
    FIRST: ["tickrunner_trio", "run", "benchmarks.first_tick:services", "--log-level=critical"],
    FIRST_BARE: ["benchmarks.first_task"],
}


def over(base: str, of: str) -> Difference:
    """Return what takes from a round the milliseconds that one way takes longer than another."""
    return Difference(Value(of, "ms"), Value(base, "ms"))


def question(*, quick: bool) -> Question:
    """Ask it."""
    children = {"children": 3 if quick else 7}
    return Question(
        key="startup",
        title="Start-up",
        figures=(Figure("ms", 1), Figure("foreign", 0)),
        measurements=(
            Measurement(way=OURS, function=f"{__name__}:measure_imports", arguments=children, several=True),
            Measurement(way=FIRST, function=f"{__name__}:measure_firsts", arguments=children, several=True),
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
    """Time the imports within fresh interpreters."""

    def within(_outside: float, words: list[str]) -> float:
        return float(words[0])

    return _least({way: ["-c", timed(statement)] for way, statement in IMPORTS.items()}, within, children)


def measure_firsts(children: int) -> dict[str, dict[str, float]]:
    """Time the command line from its start to its first tick, and a bare Trio program to its first task."""

    def outside(seconds: float, _words: list[str]) -> float:
        return seconds

    return _least({way: ["-m", *arguments] for way, arguments in FIRSTS.items()}, outside, children)


def _least(
    programs: dict[str, list[str]], seconds: Callable[[float, list[str]], float], children: int
) -> dict[str, dict[str, float]]:
    """Run each program so many times, in turns, and return the least of each."""
    figures = {way: {"ms": math.inf, "foreign": 0.0} for way in programs}
    with TemporaryDirectory() as compiled:
        for _ in range(children):
            for way, arguments in programs.items():
                outside, words = _told([sys.executable, *arguments], compiled)
                figure = figures[way]
                figure["ms"] = min(figure["ms"], 1e3 * seconds(outside, words))
                figure["foreign"] = max(figure["foreign"], int(words[-1]))
    return figures


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
