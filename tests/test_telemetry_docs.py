"""docs/telemetry.md says what the code does: every instrument, attribute, event, reason and bound, and no others."""

from __future__ import annotations

import re
from pathlib import Path

from tickrunner_trio._cli_telemetry import FLUSH_SECONDS, SIGNALS
from tickrunner_trio._telemetry import _names
from tickrunner_trio._telemetry._names import INSTRUMENTS
from tickrunner_trio._telemetry._registry import _MOST_NAMES
from tickrunner_trio.lockers._losses import Loss

PAGE = (Path(__file__).parents[1] / "docs" / "telemetry.md").read_text(encoding="utf-8")


def rows_below(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    _, _, below = PAGE.partition(f"\n## {heading}\n")
    table = re.findall(r"(?:^\|.*\|\n)+", below, flags=re.MULTILINE)[0]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in table.splitlines()[2:]]


def test_the_table_of_instruments_is_that_of_the_code() -> None:
    assert rows_below("Metrics") == [
        [
            f"`{each.name}`",
            each.kind,
            f"`{each.unit}`",
            ", ".join(f"`{attribute}`" for attribute in each.attributes) or "-",
            each.description,
        ]
        for each in INSTRUMENTS
    ]


def test_the_attributes_of_the_span_are_those_of_the_code() -> None:
    named = {row[0].strip("`") for row in rows_below("Spans")}
    assert named == {
        *(_names.SERVICE, _names.LOCK_ID, _names.REQUEST_ID, _names.NUMBER, _names.FUNCTION),
        *(_names.LATENESS, _names.EPOCH, _names.OUTCOME, _names.ERROR_TYPE),
    }
    assert all(f"`{name}`" in PAGE for name in (_names.LOCK_LOST, _names.THREAD_STOPPED, _names.STOPPED_AFTER))


def test_the_reasons_for_a_lost_session_are_those_of_the_code() -> None:
    sentence = re.findall(r"`error.type` of a lost session is (.*?)\.\n", PAGE, flags=re.DOTALL)[0]
    assert re.findall("`([a-z]+)`", sentence) == [loss.value for loss in Loss]


def test_variables_and_bounds_are_those_of_the_code() -> None:
    rows = rows_below("Look at it")
    assert rows[0][0] == ", ".join(f"`OTEL_{signal.upper()}_EXPORTER`" for signal in SIGNALS)
    assert f"at most {FLUSH_SECONDS:g} seconds" in PAGE
    assert f"for up to {_MOST_NAMES:,} names" in PAGE
    assert len(INSTRUMENTS) == len({each.name for each in INSTRUMENTS})
