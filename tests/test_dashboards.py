"""What is in `dashboards/` fits together: panels, expressions, rules, and the names that the library exports.

That Prometheus makes sense of it is in `dashboards/test_alerts` and `dashboards/test_prometheus`.
"""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tickrunner_trio._telemetry._names import INSTRUMENTS

FOLDER = Path(__file__).parents[1] / "dashboards"
RULES = (FOLDER / "alerts.yml").read_text(encoding="utf-8")
README = (FOLDER / "README.md").read_text(encoding="utf-8")
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "grafana.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
TARGETS: list[dict[str, Any]] = [target for panel in PANELS for target in panel["targets"]]
ALERTS = re.findall(r"^ +- alert: Tickrunner(\w+)$", RULES, flags=re.MULTILINE)


def exported() -> set[str]:
    """The names that Prometheus sees: dots become underscores, and units and kinds suffixes."""
    names: set[str] = set()
    for instrument in INSTRUMENTS:
        name = instrument.name.replace(".", "_") + ("_seconds" if instrument.unit == "s" else "")
        names |= {
            "counter": {f"{name}_total"},
            "gauge": {name},
            "histogram": {f"{name}_bucket", f"{name}_count", f"{name}_sum"},
        }[instrument.kind]
    return names


def labels() -> set[str]:
    return {attribute.replace(".", "_") for instrument in INSTRUMENTS for attribute in instrument.attributes}


def names_in(expr: str) -> set[str]:
    """The series and labels of the library's that an expression names, but for what the rules record themselves."""
    return set(re.findall(r"(?<![\w:.])(?:tickrunner_\w+|error_type)(?![\w:])", expr))


def test_names_are_the_same_behind_a_collector() -> None:
    # One that writes to Prometheus appends other units, and "ratio" to gauges of the unit "1".
    assert all(re.fullmatch(r"s|\{[a-z]+\}", instrument.unit) for instrument in INSTRUMENTS)


def test_the_rules_and_the_dashboard_name_only_what_is_exported() -> None:
    rules = re.sub(r"#.*|\{\{.*?\}\}|'tick .*?'", "", RULES)
    named = names_in(rules).union(*(names_in(target["expr"]) for target in TARGETS))
    assert named <= exported() | labels()
    # What an operator asks for, and so all instruments but for one that the others tell.
    assert {name.removesuffix("_bucket") for name in named - labels()} >= {
        name for name in exported() if not name.endswith(("_bucket", "_sum", "_count"))
    }


def test_a_name_that_is_not_exported_would_be_found() -> None:
    expr = 'max by (job, tickrunner_servise) (tickrunner_interval{error_type="x"}) > fleet:tickrunner_enabled:max'
    assert names_in(expr) == {"tickrunner_servise", "tickrunner_interval", "error_type"}


def test_each_record_that_an_alert_uses_is_made_before() -> None:
    made: set[str] = set()
    for line in re.sub(r"#.*", "", RULES).splitlines():
        if found := re.search(r"- record: (\S+)", line):
            made.add(found[1])
        assert set(re.findall(r"fleet:[\w:]+", line)) <= made


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    places = [panel["gridPos"] for panel in PANELS]
    assert all(place["x"] >= 0 and place["w"] > 0 and place["x"] + place["w"] <= 24 for place in places)
    for one, other in itertools.combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: str(panel["title"]))
def test_a_panel_says_what_to_do_and_asks_the_data_source_that_was_chosen(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    assert panel["datasource"] == chosen
    assert all(target["datasource"] == chosen for target in panel["targets"])
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_each_expression_keeps_to_the_job_and_the_service_that_were_chosen() -> None:
    for target in TARGETS:
        series = r"\b({})\b({{.*?}})?".format("|".join(exported()))
        for name, selector in re.findall(series, target["expr"]):
            assert 'job=~"$job"' in selector, (name, target["expr"])
            assert ('tickrunner_service=~"$service"' in selector) == ("locker_sessions" not in name)


def test_the_variables_are_these() -> None:
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "service"]
    assert variables["datasource"]["type"] == "datasource"
    assert names_in(" ".join(variables[name]["definition"] for name in ("job", "service"))) <= exported() | labels()


def test_the_table_sorts_and_names_the_columns_that_its_queries_give() -> None:
    [table] = [panel for panel in PANELS if panel["type"] == "table"]
    organize = table["transformations"][-1]["options"]
    values = {f"Value #{target['refId']}" for target in table["targets"]}
    shown = set(organize["indexByName"])
    assert shown == set(organize["renameByName"])
    assert values <= shown | set(organize["excludeByName"])
    titles = set(organize["renameByName"].values())
    assert {override["matcher"]["options"] for override in table["fieldConfig"]["overrides"]} <= titles


def test_the_readme_tells_of_each_alert_and_of_no_other() -> None:
    assert len(ALERTS) == 8
    assert re.findall(r"^\| `Tickrunner(\w+)`", README, flags=re.MULTILINE) == ALERTS


def test_the_dashboard_names_only_alerts_that_exist() -> None:
    text = json.dumps(DASHBOARD)
    named = set(re.findall(r"\bTickrunner(\w+)", text))
    assert {"NoSuccess", "Stalled"} < named <= set(ALERTS)


def test_the_readme_scrapes_what_the_library_exports() -> None:
    assert names_in(README) <= exported() | labels()
