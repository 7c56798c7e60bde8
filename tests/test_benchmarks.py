"""How the benchmarks judge, compare and show; nothing is measured here."""

from __future__ import annotations

import copy
import json
import sys
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks import __main__ as command_line
from benchmarks import measuring, plots, questions, results, tables, worker
from benchmarks.loops import percentiles
from benchmarks.question import (
    OURS,
    Comparison,
    Difference,
    Figure,
    Measurement,
    Plot,
    Question,
    Quotient,
    Value,
    ratio,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FLOOR = "the floor"
QUESTION = Question(
    key="ticks",
    title="What a tick costs",
    figures=(Figure("us", 1),),
    measurements=(
        Measurement(way=OURS, function="nowhere:ours"),
        Measurement(way=FLOOR, function="nowhere:floor"),
    ),
    comparisons=(
        Comparison(name="over the floor", of=ratio("us", FLOOR), at_most=2.0),
        Comparison(name="rate", of=Value(OURS, "us"), more_is_better=True),
    ),
    rounds=3,
    notes="Less is better.",
    plot=Plot("ticks", "Microseconds & more", ("us",)),
)


def answer_of(ours: list[float], floor: list[float]) -> measuring.Answer:
    rounds = [{OURS: {"us": each}, FLOOR: {"us": other}} for each, other in zip(ours, floor, strict=True)]
    return measuring.Answer(QUESTION, rounds)


def result_of(ours: list[float], floor: list[float]) -> results.Result:
    return results.result_of(answer_of(ours, floor)) | {"surroundings": "commit 1; a machine"}


def test_a_spread_is_the_median_the_least_and_the_greatest_to_four_digits() -> None:
    assert results.spread([3.0, 1.0, 123_456.0]) == [3.0, 1.0, 123_500.0]
    assert results.spread([0.0, 0.000123456]) == [0.00006173, 0.0, 0.0001235]


def test_percentiles_are_values_that_were_seen() -> None:
    assert percentiles([3.0, 1.0, 2.0], 0, 50, 99.9) == [1.0, 2.0, 3.0]


def test_a_ratio_is_taken_within_each_round_and_its_median_judged() -> None:
    # The ratios are 1, 3 and 1; that of the medians would be 3.
    compared = result_of([10, 30, 50], [10, 10, 50])["comparisons"]["over the floor"]
    assert compared["value"] == [1.0, 1.0, 3.0]
    assert compared["verdict"] == results.MET


def test_a_target_that_the_median_misses_is_missed() -> None:
    result = result_of([30, 30, 10], [10, 10, 10])
    assert results.missed({"ticks": result}) == ["ticks: over the floor"]
    assert results.missed({"ticks": result_of([20, 20, 20], [10, 10, 10])}) == []


def test_at_least_is_missed_from_below() -> None:
    comparison = Comparison(name="rate", of=ratio("us", FLOOR), at_least=2.0)
    assert comparison.is_upward
    assert comparison.is_met_by(2.0)
    assert not comparison.is_met_by(1.9)
    assert (comparison.is_behind(0.9), comparison.is_behind(1.1)) == (True, False)


def test_a_peer_that_does_not_run_is_not_measured_and_no_miss() -> None:
    answer = measuring.Answer(QUESTION, [{OURS: {"us": 1.0}}], {FLOOR: "ModuleNotFoundError: it is away"})
    result = results.result_of(answer)
    assert result["comparisons"]["over the floor"]["verdict"] == results.NOT_MEASURED
    assert results.missed({"ticks": result}) == []
    assert "| the floor       | failed: ModuleNotFoundError: it is away |" in tables.tables_of(QUESTION, result)


def test_ours_that_does_not_run_misses_its_target() -> None:
    result = results.result_of(measuring.Answer(QUESTION, [{FLOOR: {"us": 1.0}}], {OURS: "it fell"}))
    assert results.missed({"ticks": result}) == ["ticks: over the floor"]


def test_a_round_without_a_way_leaves_the_other_rounds_to_judge() -> None:
    answer = measuring.Answer(QUESTION, [{FLOOR: {"us": 1.0}}, {OURS: {"us": 3.0}, FLOOR: {"us": 2.0}}])
    assert results.result_of(answer)["comparisons"]["over the floor"]["value"][0] == 1.5


def test_a_floor_of_nothing_is_compared_with_nothing() -> None:
    compared = result_of([1], [0])["comparisons"]["over the floor"]
    assert (compared["verdict"], "value" in compared) == (results.NOT_MEASURED, False)


def test_worse_by_more_than_a_third_is_said() -> None:
    committed = {"ticks": result_of([15, 15, 15], [10, 10, 10])}
    same = {"ticks": result_of([19.9, 19.9, 19.9], [10, 10, 10])}
    worse = {"ticks": result_of([21, 21, 21], [10, 10, 10])}
    assert list(results.worse(same, committed)) == []
    assert list(results.worse(worse, committed)) == ["ticks: over the floor: 2.1 now, 1.5 committed"]


def test_where_more_is_better_less_is_worse() -> None:
    committed, now = {"ticks": result_of([12], [10])}, {"ticks": result_of([8], [10])}
    assert list(results.worse(now, committed)) == ["ticks: rate: 8 now, 12 committed"]


def test_what_is_not_measured_any_more_is_said() -> None:
    now = {"ticks": results.result_of(measuring.Answer(QUESTION, [{OURS: {"us": 10.0}}]))}
    committed = {"ticks": result_of([10], [10])}
    assert list(results.worse(now, committed)) == ["ticks: over the floor: not measured now"]


def test_what_was_never_committed_is_new_and_not_worse() -> None:
    now = {"ticks": result_of([10], [10])}
    assert list(results.worse(now, {})) == []
    assert results.new(now, {}) == ["ticks: over the floor", "ticks: rate"]


def test_what_is_not_guarded_is_never_worse() -> None:
    now = {"ticks": result_of([100], [10])}
    for compared in now["ticks"]["comparisons"].values():
        del compared["guarded"]
    assert list(results.worse(now, {"ticks": result_of([1], [10])})) == []


def test_a_table_is_aligned_and_holds_no_bar_of_a_cell() -> None:
    assert tables.table(["way", "us"], [["a|b", "1"], ["c"]]) == (
        "| way | us |\n|-----|----|\n| a/b | 1  |\n| c   |    |"
    )


def test_a_page_gets_its_tables_between_the_markers_and_keeps_the_rest() -> None:
    page = f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n"
    written = tables.page_with(page, [QUESTION], {"ticks": result_of([30], [10])})
    assert written.startswith("before\n")
    assert written.endswith("\nafter\n")
    assert "old" not in written
    assert "30.0 (30.0 to 30.0)" in written
    assert "- `ticks`, over the floor: 3.00 (3.00 to 3.00); target missed: at most 2" in written
    assert "![Microseconds & more](ticks.svg)" in written
    assert tables.page_with(written, [QUESTION], {"ticks": result_of([30], [10])}) == written


def test_where_nobody_does_better_the_page_says_so() -> None:
    assert tables.behind([QUESTION], {"ticks": result_of([5], [10])}) == "Nowhere in what was asked."


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="put them where the tables go"):
        tables.page_with("nothing", [QUESTION], {})


@pytest.mark.parametrize("is_logarithmic", [False, True])
@pytest.mark.parametrize("figures", [[0.003], [5, 9_000], [0, 0]])
def test_a_picture_is_small_and_well_formed(figures: list[float], *, is_logarithmic: bool) -> None:
    if is_logarithmic and not any(figures):
        figures = [1, 1]
    result = result_of(figures, [7.0] * len(figures))
    picture = plots.svg_of(Plot("ticks", "a < b & c", ("us",), is_logarithmic), result)
    root = ET.fromstring(picture)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(picture) < 40_000
    width = float(root.get("width", "0"))
    assert all(float(bar.get("width", "0")) <= width for bar in root.iter("{http://www.w3.org/2000/svg}rect"))
    assert picture == plots.svg_of(Plot("ticks", "a < b & c", ("us",), is_logarithmic), result)


def test_a_picture_shows_the_ways_that_it_names() -> None:
    plot = Plot("ticks", "ticks", ("us",), ways=(FLOOR,))
    assert OURS not in plots.svg_of(plot, result_of([1], [1]))
    with pytest.raises(ValueError, match="nothing to draw"):
        plots.svg_of(Plot("ticks", "ticks", ("none",)), result_of([1], [1]))


# -- The real questions ------------------------------------------------------------------------------------------------


def values_of(of: Any) -> Iterator[Value]:
    if isinstance(of, Value):
        yield of
    elif isinstance(of, Difference):
        yield from (of.more, of.less)
    elif isinstance(of, Quotient):
        yield from (*values_of(of.over), *values_of(of.under))


@pytest.mark.parametrize("quick", [False, True])
def test_keys_and_names_are_said_once_and_functions_exist_by_name(*, quick: bool) -> None:
    asked = [each.question(quick=quick) for each in questions.ALL]
    assert len({each.key for each in asked}) == len(asked) == 11
    for question in asked:
        ways = [each.way for each in question.measurements]
        names = [each.name for each in question.comparisons]
        assert len(set(ways)) == len(ways)
        assert len(set(names)) == len(names)
        known = {each.name for each in question.figures}
        used = {value.figure for each in question.comparisons for value in values_of(each.of)}
        assert used <= known
        if not any(each.several for each in question.measurements):
            assert {value.way for each in question.comparisons for value in values_of(each.of)} <= set(ways)
        for each in question.measurements:
            module, _, function = each.function.partition(":")
            source = measuring.ROOT / (module.replace(".", "/") + ".py")
            assert f"\ndef {function}(" in source.read_text(encoding="utf-8")


def test_a_full_run_has_five_rounds_or_more_unless_a_question_says_why() -> None:
    rounds = {each.question(quick=False).key: each.question(quick=False).rounds for each in questions.ALL}
    assert {key for key, count in rounds.items() if count < 5} == {"flatness"}


def test_a_quick_run_asks_for_the_same_ratios() -> None:
    for each in questions.ALL:
        full, quick = each.question(quick=False), each.question(quick=True)
        assert [comparison.name for comparison in full.comparisons] == [it.name for it in quick.comparisons]


def test_there_are_at_most_four_pictures() -> None:
    pictures = [each.question(quick=False).plot for each in questions.ALL]
    assert len([each for each in pictures if each is not None]) <= 4


# -- Running -----------------------------------------------------------------------------------------------------------


def test_a_group_is_told_by_its_first_error() -> None:
    error = ExceptionGroup("several", [ExceptionGroup("inner", [ValueError("this\nand that")]), KeyError()])
    assert worker.innermost(error) == "ValueError: this"


def test_measurements_of_one_word_make_a_group_and_the_others_one_each() -> None:
    one, two, three, four = (
        Measurement(way=str(number), function="a:b", beside="both" if number in (2, 3) else None)
        for number in range(1, 5)
    )
    assert list(measuring._groups((one, two, three, four))) == [[one], [two, three], [four]]


def question_of(*measurements: Measurement, rounds: int = 3) -> Question:
    return Question(
        key="q",
        title="q",
        figures=(Figure("us"),),
        measurements=measurements,
        comparisons=(),
        rounds=rounds,
        notes="",
    )


def test_a_measurement_runs_in_a_process_of_its_own_and_its_figures_come_back(tmp_path: Path) -> None:
    told: list[str] = []
    # Any function that takes figures and returns them would do; this one is the standard library's.
    question = question_of(Measurement(way=OURS, function="builtins:dict", arguments={"us": 1.5}), rounds=1)
    with measuring.Servers() as servers:
        answer = measuring.measure(question, servers, peers=tmp_path, tell=told.append)
    assert answer.rounds == [{OURS: {"us": 1.5}}]
    assert told == []


def test_a_way_that_fails_twice_is_not_tried_again(tmp_path: Path) -> None:
    told: list[str] = []
    question = question_of(Measurement(way=OURS, function="benchmarks.nowhere:at_all"))
    with measuring.Servers() as servers:
        answer = measuring.measure(question, servers, peers=tmp_path, tell=told.append)
    reason = "ModuleNotFoundError: No module named 'benchmarks.nowhere'"
    assert answer.failures == {OURS: reason}
    assert told == [f"q: {OURS}: {reason}"] * 2
    assert answer.rounds == [{}, {}, {}]


def test_a_measurement_that_takes_too_long_is_ended_with_what_it_started(tmp_path: Path) -> None:
    # It starts a process of its own, which would keep the pipe open, and so the measurement.
    sleep = Measurement(way=OURS, function="subprocess:call", arguments={"args": ["sleep", "60"]}, bound=0.5)
    question = question_of(sleep, rounds=1)
    with measuring.Servers() as servers:
        answer = measuring.measure(question, servers, peers=tmp_path, tell=lambda _: None)
    assert answer.failures == {OURS: "gave nothing within 0.5 s"}


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of benchmarks/, with one question that takes no time and no server."""

    class Module:
        @staticmethod
        def question(*, quick: bool) -> Question:
            return QUESTION

    rounds = {OURS: {"us": 15.0}, FLOOR: {"us": 10.0}}
    monkeypatch.setattr(questions, "ALL", (Module,))
    monkeypatch.setattr(command_line, "measure", lambda question, *_, **__: measuring.Answer(question, [rounds]))
    monkeypatch.setattr(command_line, "HERE", tmp_path)
    monkeypatch.setattr(command_line, "COMMITTED", tmp_path / "results.json")
    (tmp_path / "README.md").write_text(f"{tables.BEGIN}\n{tables.END}\n", encoding="utf-8")
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *options])
    return command_line.main()


def test_write_leaves_results_tables_and_pictures_and_keeps_what_was_not_asked(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(monkeypatch, "--write", "--only", "ticks") == 0
    assert json.loads((written / "results.json").read_text(encoding="utf-8"))["ticks"]["rounds"] == 3
    assert "15.0 (15.0 to 15.0)" in (written / "README.md").read_text(encoding="utf-8")
    assert (written / "ticks.svg").exists()


def test_without_write_nothing_is_written_and_a_missed_target_is_status_one(
    written: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rounds = {OURS: {"us": 35.0}, FLOOR: {"us": 10.0}}
    monkeypatch.setattr(command_line, "measure", lambda question, *_, **__: measuring.Answer(question, [rounds]))
    assert run(monkeypatch) == 1
    assert "MISSED:\n  ticks: over the floor" in capsys.readouterr().out
    assert {each.name for each in written.iterdir()} == {"README.md"}


def test_a_quick_run_is_loud_about_what_is_worse_and_never_fails(
    written: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--quick") == 0
    assert "nothing is committed that 2 of the ratios" in capsys.readouterr().out
    assert run(monkeypatch, "--write") == 0
    assert run(monkeypatch, "--quick") == 0
    assert "no ratio is worse" in capsys.readouterr().out
    rounds = {OURS: {"us": 35.0}, FLOOR: {"us": 10.0}}
    monkeypatch.setattr(command_line, "measure", lambda question, *_, **__: measuring.Answer(question, [rounds]))
    assert run(monkeypatch, "--quick") == 0
    assert "WORSE than the committed ratio by more than a third:\nticks: over the floor: 3.5" in capsys.readouterr().out


def test_a_quick_run_is_not_exact_enough_to_be_written(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, "--quick", "--write")


# -- What is committed -------------------------------------------------------------------------------------------------


def test_what_is_committed_is_what_is_asked_and_what_the_page_shows() -> None:
    committed = json.loads(command_line.COMMITTED.read_text(encoding="utf-8"))
    asked = [each.question(quick=False) for each in questions.ALL]
    assert list(committed) == [each.key for each in asked]
    for question in asked:
        assert list(committed[question.key]["comparisons"]) == [each.name for each in question.comparisons]
        if question.plot is not None:
            picture = command_line.HERE / f"{question.plot.name}.svg"
            assert picture.read_text(encoding="utf-8") == plots.svg_of(question.plot, committed[question.key])
            assert picture.stat().st_size < 40_000
    page = (command_line.HERE / "README.md").read_text(encoding="utf-8")
    assert tables.page_with(page, asked, copy.deepcopy(committed)) == page
