"""What all tests share: a real PostgreSQL, a check that a test leaves nothing behind, and Hypothesis's profiles."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tickrunner_trio._local_postgres import local_postgres

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tickrunner_trio._local_postgres import LocalPostgres

IN_CI = bool(os.environ.get("CI"))

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
# Said, since Hypothesis has an opinion of its own on where it runs.
hypothesis.settings.register_profile("dev", derandomize=False, deadline=None)
# For mutmut, by --hypothesis-profile: a failure is all it asks for, however small.
hypothesis.settings.register_profile(
    "mutants",
    derandomize=True,
    deadline=None,
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
    suppress_health_check=(hypothesis.HealthCheck.too_slow,),
)
hypothesis.settings.load_profile("ci" if IN_CI else "dev")

# A shell without job control lets what it starts in the background ignore Ctrl-C, and so would all that tests start:
# those that send one would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)


# -- PostgreSQL --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres(_tickrunner_server: LocalPostgres) -> LocalPostgres:
    """The server that all tests share. No test stops it: `own_postgres` is for that."""
    return _tickrunner_server


@pytest.fixture
def own_postgres(_tickrunner_binaries: None) -> Iterator[LocalPostgres]:
    """A server of the test's own, to be stopped, killed and started again. It takes a second or more."""
    with local_postgres() as server:
        yield server


@pytest.fixture
def dsn(tickrunner_postgres: str) -> str:
    """The short name of the kit's fixture, which most of these tests need."""
    return tickrunner_postgres


# -- Nothing is left behind --------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Fail a test that leaves a thread or a child process. Fixtures of the whole run come first, and may."""
    threads, children = set(_threads()), set(_children())
    yield
    left = _once_empty(lambda: sorted((set(_threads()) - threads) | (set(_children()) - children)))
    assert not left, f"the test left threads or child processes: {left}"


def _threads() -> list[str]:
    # Trio keeps idle worker threads for ten seconds, under a name of its own; while one works it bears another name.
    names = ((thread.name, thread.ident) for thread in threading.enumerate())
    return [f"thread {name!r} {ident}" for name, ident in names if not re.fullmatch(r"Trio thread \d+", name)]


def _children() -> list[str]:
    # Linux tells; elsewhere the tests of processes watch their own.
    found: list[str] = []
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError):  # a thread that has ended meanwhile
            found += [f"process {pid}" for pid in path.read_text().split()]
    return found


def _once_empty(look: Callable[[], list[str]], seconds: float = 10.0) -> list[str]:
    """What `look` still finds when it has found something for so many seconds; empty as soon as it finds nothing."""
    deadline = time.monotonic() + seconds
    while (found := look()) and time.monotonic() < deadline:
        time.sleep(0.005)
    return found
