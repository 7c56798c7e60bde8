"""``python -m benchmarks``, which `nox -s bench` calls: measure, show, judge, and compare or write.

Exit status 1 when a target was missed; never of a quick run, which only says what got worse.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from time import perf_counter

from . import plots, questions, results, tables
from .measuring import Servers, measure
from .surroundings import surroundings

HERE = Path(__file__).parent
COMMITTED = HERE / "results.json"


def main() -> int:
    """Measure what the command line says, and return the exit status."""
    options = _options()
    if options.render:
        _write(_committed())
        return 0
    asked = [each.question(quick=options.quick) for each in questions.ALL]
    if options.only:
        asked = [each for each in asked if each.key in options.only]
    where = surroundings(options.peers)
    _print(where)
    committed = _committed()
    found: dict[str, results.Result] = {}
    began = perf_counter()
    with Servers() as servers:
        for question in asked:
            asked_at = perf_counter()
            answer = measure(question, servers, peers=options.peers, tell=lambda line: _print(f"FAILED: {line}"))
            found[question.key] = results.result_of(answer) | {"surroundings": where}
            _print(f"\n{question.title} ({question.rounds} rounds, {perf_counter() - asked_at:.0f} s)\n")
            _print(tables.tables_of(question, found[question.key]))
    _print(f"\n{perf_counter() - began:.0f} s in total")
    if options.quick:
        _tell_what_is_worse(found, committed)
        return 0
    if options.write:
        _write(committed | found)
    missed = results.missed(found)
    _print("\nall targets met" if not missed else "\nMISSED:\n" + "\n".join(f"  {each}" for each in missed))
    return 1 if missed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    keys = [each.question(quick=True).key for each in questions.ALL]
    parser.add_argument("--only", action="append", choices=keys, help="measure this question; may be given repeatedly")
    parser.add_argument(
        "--quick", action="store_true", help="two minutes, less exact: only say what is worse than the committed ratios"
    )
    parser.add_argument(
        "--write", action="store_true", help="write results.json, the plots and the tables of README.md"
    )
    parser.add_argument("--render", action="store_true", help="write plots and tables of results.json, measure nothing")
    parser.add_argument(
        "--peers", type=Path, default=Path(sys.prefix, "peers"), help="the folder of peers that share a name"
    )
    options = parser.parse_args()
    if options.quick and options.write:
        parser.error("--quick is not exact enough for --write: leave one of them out")
    return options


def _committed() -> dict[str, results.Result]:
    return json.loads(COMMITTED.read_text(encoding="utf-8")) if COMMITTED.exists() else {}


def _tell_what_is_worse(found: dict[str, results.Result], committed: dict[str, results.Result]) -> None:
    worse = list(results.worse(found, committed))
    if new := results.new(found, committed):
        _print(f"\nnothing is committed that {len(new)} of the ratios can be compared with, among them: {new[0]}")
    if worse:
        bar = "!" * 78
        _print("\n".join(["", bar, "WORSE than the committed ratio by more than a third:", *worse, bar]))
    else:
        _print("\nno ratio is worse than the committed one by more than a third")


def _write(all_results: dict[str, results.Result]) -> None:
    """Write what was measured; questions that were not asked keep what an earlier run wrote."""
    asked = [each.question(quick=False) for each in questions.ALL]
    ordered = {question.key: all_results[question.key] for question in asked if question.key in all_results}
    COMMITTED.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
    for question in asked:
        if question.plot is not None and question.key in ordered:
            picture = plots.svg_of(question.plot, ordered[question.key])
            (HERE / f"{question.plot.name}.svg").write_text(picture, encoding="utf-8")
    page = HERE / "README.md"
    page.write_text(tables.page_with(page.read_text(encoding="utf-8"), asked, ordered), encoding="utf-8")


def _print(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
