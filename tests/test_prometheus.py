"""Dashboard and alerts, as a real Prometheus sees three real replicas: on rules whose minutes are seconds."""

from __future__ import annotations

import contextlib
import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from alert_rehearsal import RULES
from cli_processes import Process, started
from postgres_view import asked
from prometheus import free_port, program, prometheus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus import Prometheus

    from tickrunner_trio._local_postgres import LocalPostgres

DASHBOARD = json.loads((RULES.parent / "grafana.json").read_text(encoding="utf-8"))
PATIENCE = 60.0


@pytest.fixture(scope="module", autouse=True)
def _needs_prometheus() -> None:
    program()


def in_seconds(rules: str) -> str:
    """The rules with each range and each wait of minutes in as many seconds."""
    return re.sub(r"(?<=\[)(\d+)m(?=\])|(?<=for: )(\d+)m\b", lambda found: f"{found[1] or found[2]}s", rules)


def expressions() -> Iterator[tuple[str, str]]:
    """Each expression of the dashboard by its panel, with Grafana's variables replaced."""
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            expr = target["expr"].replace("$__rate_interval", "5s").replace("$__range", "10m")
            yield panel["title"], expr.replace("$job", "app").replace("$service", ".+")


class Watch:
    """What fires, and what has fired."""

    def __init__(self, server: Prometheus) -> None:
        self._server = server
        self._began_at = time.time()

    def firing(self) -> set[tuple[str, str]]:
        return self._alerts('ALERTS{alertstate="firing"}')

    def fired(self) -> set[tuple[str, str]]:
        """All alerts that have fired since the last call, by name and service."""
        seconds = int(time.time() - self._began_at) + 1
        self._began_at = time.time()
        return self._alerts(f'max_over_time(ALERTS{{alertstate="firing"}}[{seconds}s])')

    def until_fires(self, *alerts: tuple[str, str]) -> None:
        deadline = time.monotonic() + PATIENCE
        while missing := set(alerts) - self.firing():
            assert time.monotonic() < deadline, f"not firing: {missing}; firing: {self.firing()}"
            time.sleep(0.1)

    def _alerts(self, expr: str) -> set[tuple[str, str]]:
        return {
            (labels["alertname"].removeprefix("Tickrunner"), labels["tickrunner_service"])
            for labels, _ in self._server.query(expr)
        }


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "alerts.yml"
    path.write_text(in_seconds(RULES.read_text(encoding="utf-8")), encoding="utf-8")
    return path


def test_the_faults_of_a_fleet_fire_their_alerts_and_no_others_and_the_dashboard_shows_them(
    own_postgres: LocalPostgres, rules: Path, tmp_path: Path
) -> None:
    ports = {name: free_port() for name in "abc"}
    with contextlib.ExitStack() as stack:
        began_at = time.time()

        def replica(name: str) -> Process:
            environment = {"FLEET_REPLICA": name, "FLEET_PORT": str(ports[name]), "FLEET_SWITCHES": str(tmp_path)}
            return stack.enter_context(started("run", "fleet:services", FLEET_DSN=own_postgres.dsn, **environment))

        replicas = {name: replica(name) for name in ports}
        server = stack.enter_context(prometheus(rules, ports, job="app", every="500ms"))
        watch = Watch(server)

        watch.until_fires(("Failing", "failing"), ("NeverSucceeded", "failing"))
        assert watch.fired() == {("Failing", "failing"), ("NeverSucceeded", "failing")}
        print("first", time.time() - began_at)

        (tmp_path / "block").touch()
        # The session of a, whose work does not stop in time.
        sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'tickrunner_trio %s %%'"
        while ("LockLost", "resisting") not in watch.firing():
            asked(own_postgres.dsn, sql % replicas["a"].pid)
            time.sleep(1)
        watch.until_fires(("LeaseOverstayed", "resisting"), ("Stalled", "blocking"), ("NoSuccess", "blocking"))
        print("second", time.time() - began_at, watch.firing())
        (tmp_path / "block").unlink()
        for panel, expr in expressions():
            found = server.get("api/v1/query_range", query=expr, start=began_at, end=time.time(), step=1)["result"]
            print(panel, len(found), [(s["metric"], s["values"][-1]) for s in found][:3])
        print(watch.fired())
        own_postgres.stop()
        t=time.time()
        watch.until_fires(*(("DatabaseUnavailable", name) for name in ("healthy", "failing", "slow", "resisting", "blocking", "daily")))
        print("db", time.time() - t, watch.firing(), watch.fired())
        t=time.time()
        for process in replicas.values():
            process.close_stdin()
        for process in replicas.values():
            process.end()
        print("ended", time.time()-t)
        watch.until_fires(*(("NobodyRuns", name) for name in ("healthy", "failing", "slow", "resisting", "blocking", "daily")))
        print("nobody", time.time() - t, watch.firing())
        for alert in server.get("api/v1/alerts")["alerts"]: print(alert["labels"], alert["annotations"])
        assert 0
