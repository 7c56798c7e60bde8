"""Fixtures for pytest, found by it as soon as the library is installed; each begins with ``tickrunner_``.

`tickrunner_postgres`
    The conninfo of an empty database on a real PostgreSQL.
`tickrunner_cluster`
    Makes a `Cluster`, whose timelines are in the report of a test that fails.
`tickrunner_scripted_locker`
    Makes a `ScriptedLocker`, whose attempts are in the report of a test that fails.
`tickrunner_telemetry`
    OpenTelemetry providers that keep what they get in memory: a `MemoryTelemetry`.

None of them is async, so they serve pytest-trio's tests and plain ones. Each run of pytest on a machine that has the
library loads the plugin, and with it the packages that it is in: `tickrunner_trio` and `tickrunner_trio.testing`, Trio
and the API of OpenTelemetry among it. psycopg, Hypothesis and the SDK are imported when a fixture is asked for that
needs them. ``pytest -p no:tickrunner_trio`` leaves all of it out.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from .._local_postgres import LocalPostgres
    from ._cluster import Cluster
    from ._database import FreshDatabase
    from ._memory_telemetry import MemoryTelemetry
    from ._scripted import ScriptedLocker
    from ._timeline import Timeline

#: Of one kind: the last example of a property test is the one that Hypothesis has shrunk.
_SHOWN_AT_MOST = 3


class _Shown:
    """What to show of a test that fails: of each kind the last few, made into text when it has failed."""

    def __init__(self) -> None:
        self._last: dict[str, deque[tuple[Callable[[], str], Callable[[], str]]]] = {}
        self._counts = Counter[str]()

    def add(self, kind: str, heading: Callable[[], str], text: Callable[[], str]) -> None:
        self._counts[kind] += 1
        self._last.setdefault(kind, deque(maxlen=_SHOWN_AT_MOST)).append((heading, text))

    def sections(self) -> Iterator[tuple[str, str]]:
        for kind, last in self._last.items():
            if more := self._counts[kind] - len(last):
                yield f"{kind}: the last {len(last)}", f"There were {more} more before them."
            for heading, text in last:
                yield _shown(heading), _shown(text)


def _shown(text: Callable[[], str]) -> str:
    """Values of the test's own are in it, and an error here would end the whole run of pytest."""
    try:
        return text()
    except Exception as error:
        return f"(cannot be shown: a {type(error).__name__} was raised)"


_SHOWN = pytest.StashKey[_Shown]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the fixtures have seen in the report of a test that fails."""
    report = yield
    if report.when == "call" and report.failed:
        report.sections += _shown_of(item).sections()
    return report


def _shown_of(item: pytest.Item) -> _Shown:
    return item.stash.setdefault(_SHOWN, _Shown())


@pytest.fixture
def tickrunner_cluster(request: pytest.FixtureRequest) -> Callable[..., Cluster]:
    """Make a `Cluster`, with the arguments of that class: ``tickrunner_cluster(services, replicas=3, faults=[...])``.

    In a plain test call its `Cluster.run`; in one of pytest-trio's, which asks for ``autojump_clock`` too, await its
    `Cluster.play`. The timelines that come of it are drawn in the report if the test fails.
    """
    from ._cluster import Cluster

    shown = _shown_of(request.node)

    class ShownCluster(Cluster):
        async def play(self, seconds: float) -> Timeline:
            timeline = await super().play(seconds)
            shown.add("timelines", lambda: f"timeline of {self!r}", timeline.__str__)
            return timeline

    return ShownCluster


@pytest.fixture
def tickrunner_scripted_locker(request: pytest.FixtureRequest) -> Callable[..., ScriptedLocker]:
    """Make a `ScriptedLocker`, with the arguments of that class: ``tickrunner_scripted_locker([Busy(), Grant()])``.

    What was asked of it, and how that ended, is in the report if the test fails.
    """
    from ._scripted import ScriptedLocker

    shown = _shown_of(request.node)

    def make(*arguments: Any, **options: Any) -> ScriptedLocker:
        locker = ScriptedLocker(*arguments, **options)
        shown.add(
            "scripted lockers",
            lambda: "attempts on a ScriptedLocker",
            lambda: "\n".join(_shown(attempt.__repr__) for attempt in locker.attempts),
        )
        return locker

    return make


@pytest.fixture(scope="session")
def _tickrunner_binaries() -> None:
    from .._postgres_binaries import server_binaries

    if not server_binaries():
        reason = (
            "there is no PostgreSQL server on this machine: pip install 'tickrunner-trio[demo]' brings one, or set "
            "TICKRUNNER_TEST_DSN to the conninfo of a role that may create databases"
        )
        if os.environ.get("CI"):
            pytest.fail(f"{reason}. With CI set, this is no reason to skip.", pytrace=False)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def _tickrunner_server(_tickrunner_binaries: None) -> Iterator[LocalPostgres]:
    from .._local_postgres import local_postgres

    with local_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def _tickrunner_database(request: pytest.FixtureRequest) -> Iterator[FreshDatabase]:
    from ._database import FreshDatabase

    given = os.environ.get("TICKRUNNER_TEST_DSN")
    database = FreshDatabase(given or request.getfixturevalue("_tickrunner_server").dsn)
    yield database
    database.close()


@pytest.fixture
def tickrunner_postgres(_tickrunner_database: FreshDatabase) -> Iterator[str]:
    """The conninfo of a database on a real PostgreSQL: empty, and of this test alone.

    The server is one of the test run's own, from the wheel that the extra ``demo`` brings or from what is installed, or
    the one whose conninfo is in ``TICKRUNNER_TEST_DSN``. Without any the test skips; where ``CI`` is set it fails. The
    test must end the sessions that it opens: one that is left fails it, since it may hold locks.
    """
    yield _tickrunner_database.conninfo
    left = _tickrunner_database.emptied()
    assert not left, f"the test left sessions in its database, and the locks that they hold: {left}"


@pytest.fixture
def tickrunner_telemetry() -> Iterator[MemoryTelemetry]:
    """Spans and metrics that stay in memory: ``Service(config, **tickrunner_telemetry.providers)``. Needs the SDK."""
    from . import MemoryTelemetry  # says what to install

    telemetry = MemoryTelemetry()
    yield telemetry
    telemetry.shutdown()
