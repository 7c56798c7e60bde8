"""Dashboard and alerts as a real Prometheus sees them, which scrapes three real replicas in real time.

Services tick once a second, and in the rules each minute is a second: `test_alerts` has the real ones. What each
service of the fleet does is in `cli_programs/fleet.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from alert_rehearsal import RULES
from cli_processes import started
from postgres_view import asked
from prometheus import free_port, program, prometheus

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cli_processes import Process
    from prometheus import Prometheus

    from tickrunner_trio._local_postgres import LocalPostgres

PANELS = json.loads((RULES.parent / "grafana.json").read_text(encoding="utf-8"))["panels"]
PATIENCE = 60.0

#: The services of the fleet that are enabled somewhere; `paused` is not.
ENABLED = frozenset({"healthy", "failing", "slow", "resisting", "blocking", "daily"})

#: What the table of the dashboard calls the states.
STATES = {
    text["text"]: int(value)
    for override in PANELS[0]["fieldConfig"]["overrides"]
    for it in override["properties"]
    if it["id"] == "mappings"
    for value, text in it["value"][0]["options"].items()
}

Alerts = set[tuple[str, str]]


@pytest.fixture(scope="module", autouse=True)
def _needs_prometheus() -> None:
    program()


def in_seconds(rules: str) -> str:
    """The rules with each range and each wait of minutes in as many seconds."""
    return re.sub(r"(\[|for: )(\d+)m\b", r"\1\2s", rules)


def expressions() -> Iterator[tuple[str, str]]:
    """Each expression of the dashboard with the title of its panel, and Grafana's variables replaced."""
    for panel in PANELS:
        for target in panel["targets"]:
            expr = target["expr"].replace("$__rate_interval", "5s").replace("$__range", "10m")
            yield panel["title"], expr.replace("$job", "fleet").replace("$service", ".+")


class Watch:
    """What fires at a Prometheus, and what has fired: alerts by name and service."""

    def __init__(self, server: Prometheus) -> None:
        self._server = server
        self._since = time.time()

    def firing(self) -> Alerts:
        return self._alerts('ALERTS{alertstate="firing"}')

    def fired(self) -> Alerts:
        """All that have fired since the last call."""
        seconds = int(time.time() - self._since) + 1
        self._since = time.time()
        return self._alerts(f'max_over_time(ALERTS{{alertstate="firing"}}[{seconds}s])')

    def wait_for(self, alerts: Alerts) -> None:
        deadline = time.monotonic() + PATIENCE
        while missing := alerts - self.firing():
            assert time.monotonic() < deadline, f"not firing: {missing}; firing: {self.firing()}"
            time.sleep(0.1)

    def _alerts(self, expr: str) -> Alerts:
        return {
            (labels["alertname"].removeprefix("Tickrunner"), labels["tickrunner_service"])
            for labels, _ in self._server.query(expr)
        }


def each(alert: str, services: Iterable[str]) -> Alerts:
    return {(alert, service) for service in services}


def states(server: Prometheus) -> dict[str, int]:
    """The state of each service as the dashboard's table shows it now."""
    return {labels["tickrunner_service"]: int(value) for labels, value in server.query(next(expressions())[1])}


def test_the_faults_of_a_fleet_fire_their_alerts_and_no_others_and_the_dashboard_shows_all_of_it(
    own_postgres: LocalPostgres, tmp_path: Path
) -> None:
    rules = tmp_path / "alerts.yml"
    rules.write_text(in_seconds(RULES.read_text(encoding="utf-8")), encoding="utf-8")
    ports = {name: free_port() for name in "abc"}
    began_at = time.time()
    with contextlib.ExitStack() as stack:

        def replica(name: str) -> Process:
            fleet = {"FLEET_DSN": own_postgres.dsn, "FLEET_REPLICA": name, "FLEET_SWITCHES": str(tmp_path)}
            telemetry = {"OTEL_METRICS_EXPORTER": "prometheus", "OTEL_EXPORTER_PROMETHEUS_PORT": str(ports[name])}
            return stack.enter_context(
                started("run", "fleet:services", stdout=subprocess.DEVNULL, **fleet, **telemetry)
            )

        replicas = {name: replica(name) for name in ports}
        server = stack.enter_context(prometheus(rules, ports, job="fleet", every="500ms"))
        watch = Watch(server)

        # One service fails from the start; the others, standbys, and one that is disabled everywhere say nothing.
        always = {("Failing", "failing"), ("NeverSucceeded", "failing")}
        watch.wait_for(always)
        assert watch.fired() == always
        found = states(server)
        assert found.pop("daily") in {STATES["no success yet"], STATES["ok"]}  # its first tick comes within a minute
        assert found == {
            **dict.fromkeys(("healthy", "slow", "resisting", "blocking"), STATES["ok"]),
            "failing": STATES["failing"],
            "paused": STATES["disabled"],
        }

        # The loop of c blocks, under the lock of `blocking`; a loses its session, and work there does not stop in time.
        (tmp_path / "block").touch()
        # What the first brings about lasts; what the second does, a while only, so it comes last.
        stalled = each("Stalled", ENABLED - {"healthy", "daily"})  # whose intervals are longer
        watch.wait_for(always | stalled | {("NoSuccess", "blocking")})
        resisted = {("LockLost", "resisting"), ("LeaseOverstayed", "resisting")}
        _end_session_until_they_fire(resisted, own_postgres, replicas["a"].pid, watch)
        broken = resisted | {("NoSuccess", "blocking")}
        found = states(server)
        assert (found["blocking"], found["paused"]) == (STATES["no success"], STATES["disabled"])
        (tmp_path / "block").unlink()
        # The sessions of a were ended once or several times, which in so short a time may look like an outage.
        tolerated = {("Stalled", "healthy"), ("NoSuccess", "resisting"), ("DatabaseUnavailable", "resisting")}
        assert watch.fired() - tolerated == always | broken | stalled
        _wait_until_each_expression_has_data(server, began_at)

        # Nothing of this is said of a service that is disabled everywhere, on the blocked replica neither.
        own_postgres.stop()
        unavailable = each("DatabaseUnavailable", ENABLED)
        watch.wait_for(unavailable)
        for process in replicas.values():
            process.signal(signal.SIGKILL)
        nobody = each("NobodyRuns", ENABLED)
        watch.wait_for(nobody)
        fired = watch.fired()
        assert fired >= unavailable | nobody
        assert {service for _, service in fired} == ENABLED
        assert {alert for alert, service in fired if service in {"healthy", "daily"}} <= {
            *("DatabaseUnavailable", "NobodyRuns", "NoSuccess", "Stalled")
        }
        assert states(server) == dict.fromkeys([*ENABLED, "paused"], STATES["nobody runs it"])
        _all_rules_are_sound(server)


def _end_session_until_they_fire(alerts: Alerts, postgres: LocalPostgres, pid: int, watch: Watch) -> None:
    """End the session of a replica; again, if no work was under way just then, or had just ended."""
    name = f"tickrunner_trio {pid} %"
    sql = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE '{name}'"
    deadline = time.monotonic() + PATIENCE
    while missing := alerts - watch.firing():
        assert time.monotonic() < deadline, f"not firing: {missing}; firing: {watch.firing()}"
        asked(postgres.dsn, sql)
        time.sleep(4.4)  # not a multiple of the interval, or it would miss the work again and again


def _wait_until_each_expression_has_data(server: Prometheus, began_at: float) -> None:
    deadline = time.monotonic() + PATIENCE

    def empty() -> list[tuple[str, str]]:
        window = {"start": began_at, "end": time.time(), "step": 0.5}
        return [
            (title, expr)
            for title, expr in expressions()
            if not server.get("api/v1/query_range", query=expr, **window)["result"]
        ]

    while missing := empty():  # pragma: no cover - it may be there at once
        assert time.monotonic() < deadline, missing
        time.sleep(0.2)


def _all_rules_are_sound(server: Prometheus) -> None:
    [group] = server.get("api/v1/rules")["groups"]
    for rule in group["rules"]:
        assert (rule["health"], rule.get("lastError", "")) == ("ok", ""), rule
        if rule["type"] == "alerting":
            assert rule["labels"]["severity"] in {"warning", "critical"}
            assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    for alert in server.get("api/v1/alerts")["alerts"]:
        for text in alert["annotations"].values():
            assert not re.search(r"<no value>|error expanding|\{\{|NaN", text), text
        assert alert["labels"]["tickrunner_service"] in alert["annotations"]["summary"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_prometheus_of_a_test_that_is_killed_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    program_of_a_test = f"""if True:
        import pathlib, sys
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        from prometheus import prometheus
        with prometheus(pathlib.Path({str(RULES)!r}), {{}}, job="none", every="1s") as server:
            print(server.pid, server.directory, flush=True)
            sys.stdin.read()
    """
    command = [sys.executable, "-c", program_of_a_test]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid, directory = process.stdout.readline().split()
        assert is_alive(int(pid))
        assert Path(directory).exists()
        process.send_signal(number)
    deadline = time.monotonic() + PATIENCE
    while is_alive(int(pid)) or Path(directory).exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
