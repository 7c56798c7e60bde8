"""A real PgBouncer for tests, in front of a throw-away PostgreSQL: one process, one database name per pool mode.

It listens on a Unix socket of its own directory only. A shell is its parent, and the shell's stdin is the lifeline:
when that ends, even because the test was killed, the shell ends PgBouncer and removes the directory.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import psycopg
from postgres_view import blocked_until
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from system_programs import system_program

from tickrunner_trio._postgres_keeper import _server_owner

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from tickrunner_trio._local_postgres import LocalPostgres

PoolMode: TypeAlias = Literal["session", "transaction", "statement"]
POOL_MODES: tuple[PoolMode, ...] = ("session", "transaction", "statement")

_PATIENCE = 30.0
_PORT = 6432  # the name of the socket only

# `exec` would lose the lifeline, and SIGTERM is PgBouncer's immediate shutdown.
_SHELL = 'umask 077; "$1" "$2/pgbouncer.ini" >"$2/log" 2>&1 & read -r _; kill $!; wait $!; rm -rf "$2"'


def program() -> str:
    """The path of PgBouncer; without it, the test is skipped."""
    return system_program("pgbouncer", package="pgbouncer")


class PgBouncer:
    """A running PgBouncer. Made by `pgbouncer`."""

    def __init__(self, directory: Path, server: LocalPostgres) -> None:
        self._parts = conninfo_to_dict(server.dsn) | {"host": str(directory), "port": _PORT}

    def dsn(self, pool: PoolMode | str, **more: str | int) -> str:
        """The connection string of the server's database ``postgres``, through the pool of that mode, or that name."""
        return make_conninfo("", **(self._parts | {"dbname": pool} | more))

    def command(self, words: str) -> list[tuple[object, ...]]:
        """Give PgBouncer a command of its own, such as ``SHOW SERVERS``."""
        with psycopg.connect(make_conninfo("", **(self._parts | {"dbname": "pgbouncer"})), autocommit=True) as admin:
            cursor = psycopg.ClientCursor(admin).execute(words)  # it knows the simple protocol only
            return cursor.fetchall() if cursor.description else []


@contextlib.contextmanager
def pgbouncer(
    server: LocalPostgres, *, pool_size: int = 5, pools: Mapping[str, str] | None = None, **settings: str | int
) -> Generator[PgBouncer]:
    """Start a PgBouncer in front of the server, yield it, and leave nothing of it behind, at the server neither.

    Args:
        server: whose database ``postgres`` the pools are for.
        pool_size: how many sessions of the server each pool may have.
        pools: settings of each, by name; None: three, one of each mode.
        settings: of PgBouncer, over its defaults.
    """
    path = program()
    owner = _server_owner()  # PgBouncer refuses root, too
    directory = Path(tempfile.mkdtemp(prefix="tickrunner-pgbouncer-", dir="/tmp"))
    parts = conninfo_to_dict(server.dsn)
    pools = pools or {mode: f"pool_mode={mode} pool_size={pool_size}" for mode in POOL_MODES}
    where = f"host={parts['host']} port={parts['port']} dbname=postgres"
    lines = ["[databases]", *(f"{name} = {where} {said}" for name, said in pools.items()), "[pgbouncer]"]
    own = {"unix_socket_dir": directory, "listen_port": _PORT, "auth_type": "scram-sha-256", "admin_users": "postgres"}
    own["auth_file"] = directory / "users"
    lines += [f"{name} = {value}" for name, value in (own | settings).items()]
    (directory / "pgbouncer.ini").write_text("\n".join(lines) + "\n")
    (directory / "users").write_text(f'"{parts["user"]}" "{parts["password"]}"\n')
    if owner is not None:  # pragma: no branch - as any user but root
        for made in (directory / "users", directory / "pgbouncer.ini", directory):
            os.chown(made, *owner)
    before = _sessions(server)
    with subprocess.Popen(
        ["/bin/sh", "-c", _SHELL, "sh", path, str(directory)],
        stdin=subprocess.PIPE,
        cwd="/",
        start_new_session=True,  # out of the reach of a Ctrl-C
        user=None if owner is None else owner[0],
        group=None if owner is None else owner[1],
        extra_groups=None if owner is None else [],
    ):
        bouncer = PgBouncer(directory, server)
        _wait_until_it_answers(bouncer, directory)
        yield bouncer
    assert not directory.exists()
    blocked_until(lambda: _sessions(server) <= before)  # the server ends a session a little after its client did


def _wait_until_it_answers(bouncer: PgBouncer, directory: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            bouncer.command("SHOW VERSION")
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                raise AssertionError((directory / "log").read_text()) from error
            time.sleep(0.005)
        else:
            return


def _sessions(server: LocalPostgres) -> set[int]:
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        rows = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        return {pid for (pid,) in rows}
