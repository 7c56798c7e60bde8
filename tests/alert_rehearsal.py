"""Alerts tried on replicas made up by the minute: `promtool test rules` evaluates the real rules, over days if need be.

A replica is made up of phases, each an outcome that all of its ticks have until a time. From them follow all series
that it exports, as the library exports them, so that no scenario forgets one.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus import program

from tickrunner_trio import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RULES = Path(__file__).parents[1] / "dashboards" / "alerts.yml"
MINUTE, HOUR, DAY = 60, 3600, 86400


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replica:
    """One service on one replica, for the length of its phases; then it is gone. Times in seconds."""

    phases: Sequence[tuple[str, float]]
    """What its ticks come to, and until when: an `Outcome`; ``overstayed``, a lost lock; ``paused``, GATED although its
    gate is open; ``stalled``, they do not come; ``ended``, neither, since `Service.run` has returned."""
    instance: str = "a"
    job: str = "app"
    service: str = "sweep"
    interval: float = MINUTE
    starts_at: float = 0
    entered_again_at: float = math.inf  #: `Service.run`, by the Supervisor, after a crash.
    clock_ahead: float = 0  #: By so much its timestamps are wrong.
    unscraped: tuple[float, float] = (math.inf, math.inf)  #: From when until when no scrape succeeds.
    leaves_a_marker: bool = True  #: Of staleness, when it goes; none where metrics are pushed.
    every: int = 1  #: It is scraped at the last of so many times only, since targets are scraped one after the other.
    locker: str = "postgres"

    def samples(self, scraped_at: Sequence[float]) -> dict[str, list[str]]:
        """Each series by its name and labels, with a value for each scrape, in promtool's notation."""
        columns: dict[str, list[str]] = {}
        state, ticks = _State(self), self._ticks()
        for index, at in enumerate(scraped_at):
            there = self.starts_at <= at < self.phases[-1][1] and not self.unscraped[0] <= at < self.unscraped[1]
            state.advance(ticks, at)
            found = state.series() if there else {}
            for key in columns.keys() | found.keys():
                column = columns.get(key) or columns.setdefault(key, ["_"] * index)
                has_just_gone = self.leaves_a_marker and bool(column) and column[-1] not in {"_", "stale"}
                value = str(found.get(key, "stale" if has_just_gone else "_"))
                column.append("_" if (index + 1) % self.every else value)
        return columns

    def _ticks(self) -> Iterator[tuple[float, str]]:
        at = self.starts_at + min(self.interval / 2, MINUTE)
        for outcome, until in self.phases:
            while at < until:
                yield at, outcome
                at += self.interval


class _State:
    """What a replica exports."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._entered_at = replica.starts_at
        self._coming: tuple[float, str] | None = None
        self._ticks: Counter[Outcome] = Counter(dict.fromkeys(Outcome, 0))
        self._sessions = 1
        self._sessions_lost = 0
        self._has_session = True
        self._overstayed = 0
        self._failures = 0
        self._enabled = 1
        self._ended = False
        self._last_tick: float | None = None
        self._last_success: float | None = None

    def advance(self, ticks: Iterator[tuple[float, str]], until: float) -> None:
        if until >= self._replica.entered_again_at:
            self._entered_at = self._replica.entered_again_at
        self._coming = self._coming or next(ticks, None)
        while self._coming is not None and self._coming[0] <= until:
            self._tick(*self._coming)
            self._coming = next(ticks, None)

    def _tick(self, at: float, word: str) -> None:
        self._ended = word == "ended"
        if word in {"stalled", "ended"}:
            return
        outcome = Outcome({"overstayed": "lock_lost", "paused": "gated"}.get(word, word))
        self._ticks[outcome] += 1
        self._last_tick = at
        self._enabled = 0 if word == "gated" else 1
        self._overstayed += word == "overstayed"
        has_session = outcome is not Outcome.UNAVAILABLE
        self._sessions += has_session and not self._has_session
        self._sessions_lost += self._has_session and not has_session
        self._has_session = has_session
        if outcome.result == "success":
            self._last_success, self._failures = at, 0
        self._failures += outcome.result == "error"

    def series(self) -> dict[str, float]:
        labels = f'job="{self._replica.job}", instance="{self._replica.instance}"'
        service = f'{labels}, tickrunner_service="{self._replica.service}"'
        found: dict[str, float] = {
            f"tickrunner_interval_seconds{{{service}}}": self._replica.interval,
            f"tickrunner_enabled{{{service}}}": self._enabled,
            f"tickrunner_consecutive_failures{{{service}}}": self._failures,
            f"tickrunner_lease_overstayed_total{{{service}}}": self._overstayed,
        }
        started_at = None if self._ended else self._entered_at
        timestamps = {"service_start": started_at, "last_tick": self._last_tick, "last_success": self._last_success}
        for name, timestamp in timestamps.items():
            if timestamp is not None:
                found[f"tickrunner_{name}_timestamp_seconds{{{service}}}"] = timestamp + self._replica.clock_ahead
        for outcome, count in self._ticks.items():
            more = f'tickrunner_result="{outcome.result}", tickrunner_outcome="{outcome}"'
            found[f"tickrunner_ticks_total{{{service}, {more}}}"] = count
        if self._replica.locker == "postgres":
            found[f"tickrunner_locker_sessions_total{{{labels}}}"] = self._sessions
            found[f'tickrunner_locker_sessions_lost_total{{{labels}, error_type="closed"}}'] = self._sessions_lost
        return found


def assert_alerts(
    *replicas: Replica,
    until: float,
    scrape: int = MINUTE,
    evaluate: int = MINUTE,
    rules: Path = RULES,
    **expected: float | tuple[float, float],
) -> None:
    """Fail unless exactly the expected alerts fire before ``until``, each from its time on, or from one to another.

    Args:
        replicas: the world.
        until: how long to look, in seconds.
        scrape: seconds from scrape to scrape.
        evaluate: seconds from evaluation to evaluation. All times are multiples of it.
        rules: the file of rules.
        expected: when each alert fires, by its name without ``Tickrunner``. It may end an evaluation earlier.
    """
    scraped_at = range(0, int(until) + scrape, scrape)
    series: dict[str, list[str]] = {}
    for replica in replicas:
        samples = replica.samples(scraped_at)
        for key in samples.keys() & series.keys():  # of the process, not of one of its services
            assert samples.pop(key) == series[key]
        series |= samples
    test = {
        "interval": f"{scrape}s",
        "input_series": [{"series": key, "values": _shortened(values)} for key, values in series.items()],
        "promql_expr_test": [
            {
                "expr": expr,
                "eval_time": f"{int(at)}s",
                "exp_samples": [] if answer is None else [{"labels": f'{{alertname="{answer}"}}', "value": 1}],
            }
            for expr, at, answer in _looks(expected, until, evaluate)
        ],
    }
    plan = {"rule_files": [str(rules)], "evaluation_interval": f"{evaluate}s", "tests": [test]}
    complaint = _complaint_of_promtool(plan)
    assert complaint is None, complaint


def _complaint_of_promtool(plan: dict[str, object]) -> str | None:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "rehearsal.yml")
        file.write_text(json.dumps(plan), encoding="utf-8")  # JSON is YAML
        command = [program("promtool"), "test", "rules", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode == 0:
        assert "SUCCESS" in done.stdout
        return None
    return done.stdout + done.stderr


def _looks(
    expected: dict[str, float | tuple[float, float]], until: float, evaluate: int
) -> Iterator[tuple[str, float, str | None]]:
    """What to ask when, and the alert that is the answer."""

    def ever(matcher: str, at: float) -> tuple[str, float, None]:
        selector = f'ALERTS{{alertstate="firing", alertname{matcher}}}'
        return f"group by (alertname) (count_over_time({selector}[{int(at) + 1}s]))", at, None

    def now(alert: str, at: float, answer: str | None) -> tuple[str, float, str | None]:
        return f'group by (alertname) (ALERTS{{alertstate="firing", alertname="{alert}"}})', at, answer

    yield ever(f'!~"{"|".join("Tickrunner" + name for name in expected)}"', until)
    for name, times in expected.items():
        begins_at, ends_at = times if isinstance(times, tuple) else (times, until + evaluate)
        alert = f"Tickrunner{name}"
        yield ever(f'="{alert}"', begins_at - evaluate)
        yield now(alert, begins_at, alert)
        # Of a range, Prometheus 3 leaves out the left end: what ends with one does so an evaluation earlier.
        yield now(alert, max(begins_at, ends_at - 2 * evaluate), alert)
        if ends_at <= until:
            yield now(alert, ends_at, None)


def _shortened(values: Sequence[str]) -> str:
    """The values in promtool's notation, runs of one value as one word."""
    runs = ((value, len(list(run))) for value, run in itertools.groupby(values))
    return " ".join(_run(value, length) for value, length in runs)


def _run(value: str, length: int) -> str:
    if length == 1:
        return value
    return f"_x{length}" if value == "_" else f"{value}x{length - 1}"
