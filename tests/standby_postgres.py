"""A hot standby for tests: a second throw-away server that streams from the first, and can be promoted.

It is a `LocalPostgres` on a copy of its primary's data, made by ``pg_basebackup`` while the primary runs. So all that
is promised of a `LocalPostgres` holds: it lives on loopback, can be stopped, killed and started again, has a keeper of
its own, and leaves nothing behind, even of a test that is killed. It may be the primary of another one.

Any `LocalPostgres` will do as the primary: PostgreSQL's own defaults allow standbys.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import subprocess
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
from postgres_view import blocked_until

from tickrunner_trio._local_postgres import LocalPostgres

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

_PATIENCE = 60.0

# A standby refuses to start where one of them is lower than at its primary.
_NO_LOWER_THAN_THE_PRIMARY = (
    "SELECT name, setting FROM pg_settings WHERE name IN ('max_connections', 'max_worker_processes',"
    " 'max_wal_senders', 'max_prepared_transactions', 'max_locks_per_transaction')"
)


@contextlib.contextmanager
def hot_standby(
    primary: LocalPostgres, *, settings: Mapping[str, str | int | float] | None = None
) -> Generator[Standby]:
    """Start a hot standby of a running server, yield it once it takes connections, and leave nothing of it behind.

    It blocks, for about a second. The primary may be stopped, killed and started meanwhile, but not closed.

    Args:
        primary: a running server, or another standby that has been promoted.
        settings: server settings by name, over those of `local_postgres` and those that must be as at the primary.

    Raises:
        AssertionError: the copy failed; with what was said about it.
        LocalPostgresError: the standby did not start.
    """
    standby = Standby(primary, {} if settings is None else settings)
    try:
        standby.copy_the_primary()
        standby.start()
        yield standby
    finally:
        standby.close()


class Standby(LocalPostgres):
    """A server that follows another one until it is promoted. Made by `hot_standby`. Each method blocks."""

    def __init__(self, primary: LocalPostgres, settings: Mapping[str, str | int | float]) -> None:
        with psycopg.connect(primary.dsn) as connection:
            same: dict[str, str] = dict(connection.execute(_NO_LOWER_THAN_THE_PRIMARY).fetchall())
        # Where the server's user cannot get at the binaries, the keeper of the primary has made a copy for it.
        self._copy = next(primary.directory.glob("copy/*/*/bin"), None)
        directory = primary.binaries.directory if self._copy is None else self._copy
        super().__init__(dataclasses.replace(primary.binaries, directory=directory), same | dict(settings))
        self.binaries = primary.binaries
        self.primary = primary

    def copy_the_primary(self) -> None:
        """Take the data over, and the address to stream from. The passwords are data, too."""
        if self._copy is not None:  # pragma: no cover - where a checkout is root's; for a standby of this one
            (self.directory / "copy").symlink_to(self._copy.parents[2])
        address = urlsplit(self.primary.dsn)
        command = [str(self.binaries.directory / "pg_basebackup"), f"--pgdata={self.directory / 'data'}"]
        command += ["--write-recovery-conf", "--checkpoint=fast", "--wal-method=stream", "--no-sync"]
        command += [f"--host={address.hostname}", f"--port={address.port}", f"--username={address.username}"]
        command += ["--no-password"]
        environment = os.environ | {"PGPASSWORD": str(address.password), "PGAPPNAME": "tickrunner_test_standby"}
        copied = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
        assert copied.returncode == 0, copied.stderr
        owner = (self.directory / "socket").stat()
        data = self.directory / "data"
        for path in (data, *data.rglob("*")):
            shutil.chown(path, owner.st_uid, owner.st_gid)

    def start(self) -> None:
        """Start it, and wait until it takes connections. See `LocalPostgres.start`."""
        super().start()
        self._address["password"] = urlsplit(self.primary.dsn).password

    def promote(self) -> None:
        """Make it a primary, and wait until it is one. What it has not received by now is lost."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            answer = connection.execute("SELECT pg_promote(true, %s)", [int(_PATIENCE)]).fetchone()
        assert answer == (True,)

    def wait_until_caught_up(self) -> None:
        """Wait until everything that the primary has written by now can be read here."""
        with psycopg.connect(self.primary.dsn, autocommit=True) as connection:
            written = connection.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone()
        assert written is not None
        has_read = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            blocked_until(lambda: connection.execute(has_read, written).fetchone() == (True,))
