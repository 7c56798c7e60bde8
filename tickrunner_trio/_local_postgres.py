"""A throw-away PostgreSQL for the demo and the tests: on loopback, with a password, and gone with whoever started it.

Three processes, and a pipe that is the lifeline::

    caller  --stdin: commands; its end means "clear away"-->  keeper  --parent of-->  postgres and its backends
            <--stdout: one reply per command---------------           (owns the private directory)

This module is the caller's side; the keeper is `_postgres_keeper`, run as a program of its own session: no Ctrl-C of
the terminal reaches it. Nothing is left behind, neither process nor directory, whichever of the three dies:

* The caller, even by SIGKILL: the kernel closes the pipe, so the keeper ends the server and removes the directory.
* The server: its orphans become the keeper's children (Linux), so `LocalPostgres.stop` finds and ends them.
* The keeper: the kernel sends the server SIGQUIT (Linux), an immediate shutdown. SIGKILL would leave busy backends
  and the shared memory segment, since only the postmaster ends those. `LocalPostgres.close` removes the directory.

If caller and keeper are both killed, the directory stays. Children that the caller *forks* (not: starts by
`subprocess`) hold the lifeline as well, and the server lives until they end too.

Which programs there are, `_postgres_binaries` knows. The three modules import the standard library and one another.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import quote

from . import _postgres_keeper
from ._postgres_binaries import chosen_binaries
from ._postgres_keeper import LocalPostgresError, StopMode, clear_away

if TYPE_CHECKING:
    import os
    from collections.abc import Generator, Mapping

    from ._postgres_binaries import ServerBinaries

__all__ = ["LocalPostgres", "LocalPostgresError", "local_postgres"]

# Durability is worth nothing here. Shared memory in files of the data directory goes away with the directory.
_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "dynamic_shared_memory_type": "mmap",
}
_KEEPER_SECONDS = 60.0  # until it is killed
_RESERVED = frozenset({"data_directory", "listen_addresses", "port", "unix_socket_directories"})


@contextlib.contextmanager
def local_postgres(
    *, bin_dir: str | os.PathLike[str] | None = None, settings: Mapping[str, str | int | float] | None = None
) -> Generator[LocalPostgres]:
    """Start a PostgreSQL of one's own, yield it, and leave nothing of it behind.

    It blocks: a second or more to start (most of it `initdb`), less to end. At the start of a Trio program call it as
    it is; while other tasks run, call the methods by ``trio.to_thread.run_sync``. It may be started from any thread.

    Args:
        bin_dir: the directory of ``postgres`` and ``initdb``; None: the first of `_postgres_binaries.server_binaries`.
        settings: server settings by name, over the defaults, which trade all durability for speed. A bool is
            written as PostgreSQL's ``on`` or ``off``.

    Raises:
        LocalPostgresError: no usable binaries, or the server did not start; with the last lines of its log.
        ValueError: a setting that is no setting's name, or that the launcher makes itself.
    """
    server = LocalPostgres(chosen_binaries(bin_dir), {} if settings is None else settings)
    try:
        server.start()
        yield server
    finally:
        server.close()


class LocalPostgres:
    """A server that can be stopped, killed and started again, on the same data and the same port.

    Made by `local_postgres`. Each method blocks until it is done, at most about a minute. One call at a time.
    """

    def __init__(self, binaries: ServerBinaries, settings: Mapping[str, str | int | float]) -> None:
        self.binaries = binaries
        self.pid: int | None = None
        """The process id of the postmaster; None while it is stopped. It does not notice a kill from outside."""
        if sys.platform == "win32":
            raise LocalPostgresError("the throw-away PostgreSQL does not run on Windows: use WSL, or your own server")
        plan = {
            "bin_dir": str(binaries.directory),
            "settings": [f"{name}={value}" for name, value in (_SETTINGS | _checked(settings)).items()],
            "temporary": tempfile.gettempdir(),
        }
        # -I: the directory of the keeper, which -P or a plain start puts on the path, has an abc.py of its own.
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", _postgres_keeper.__file__, json.dumps(plan)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
            start_new_session=True,
        )
        self.keeper_pid = self._keeper.pid
        self._directory: str | None = None
        self._address: dict[str, Any] = {}
        try:
            self._directory = self._reply()["directory"]
        except BaseException:  # pragma: no cover - Ctrl-C just now, or a machine without /tmp
            self.close()
            raise

    @property
    def directory(self) -> Path:
        """The private directory, with the data, the log and the unix socket; gone after `close`."""
        return Path(str(self._directory))

    @property
    def dsn(self) -> str:
        """The URI of the database ``postgres`` for its superuser, over TCP on 127.0.0.1. Holds the password."""
        return "postgresql://postgres:{password}@127.0.0.1:{port}/postgres".format(**self._address)

    @property
    def socket_dsn(self) -> str:
        """The same as `dsn`, over the unix socket."""
        where = f"?host={quote(str(self.directory / 'socket'), safe='')}&port={self._address['port']}"
        return "postgresql://postgres:{password}@/postgres".format(**self._address) + where

    def start(self) -> None:
        """Start the server and wait until it takes connections. No effect on one that runs.

        After a kill from outside, `stop` it first: it may not be quite dead, and its backends live a little longer.

        Raises:
            LocalPostgresError: it did not start. The message ends with the last lines of the server's log.
        """
        self._address = self._ask("start")
        self.pid = self._address["pid"]

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server and wait until its last process is gone. No effect on one that is stopped.

        Args:
            mode: ``"fast"`` ends the sessions and writes a checkpoint; ``"immediate"`` ends at once, the next start
                recovers; ``"kill"`` is SIGKILL for every process. What has not ended within 10 s gets the next mode.
        """
        if mode not in get_args(StopMode):
            raise ValueError(f"mode must be one of {', '.join(get_args(StopMode))}, not {mode!r}")
        self._ask("stop", mode)
        self.pid = None

    def close(self) -> None:
        """End the server and its keeper and remove the directory. Idempotent.

        If the keeper does not answer within a minute, or was killed, the caller's own process clears away.
        """
        for pipe in (self._keeper.stdin, self._keeper.stdout):
            with contextlib.suppress(BrokenPipeError):  # a command that the dead keeper never read
                pipe.close()  # type: ignore[union-attr]  # both are PIPE
        try:
            self._keeper.wait(_KEEPER_SECONDS)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait()
        self.pid = None
        if self._directory is not None:  # pragma: no branch - as above, where it is not made
            clear_away(Path(self._directory))

    def _ask(self, *command: str) -> dict[str, Any]:
        if self._keeper.stdin is None or self._keeper.stdin.closed:
            raise LocalPostgresError("this throw-away PostgreSQL is closed: start another one with local_postgres()")
        with contextlib.suppress(BrokenPipeError):  # the keeper is dead: the missing reply tells
            self._keeper.stdin.write(json.dumps(command).encode() + b"\n")
            self._keeper.stdin.flush()
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        try:
            line = self._keeper.stdout.readline()  # type: ignore[union-attr]  # it is PIPE
            if not line:
                raise LocalPostgresError("the keeper of the throw-away PostgreSQL was killed: start another one")
        except BaseException:
            # Ctrl-C too: a reply that nobody waits for any more would answer the next command.
            self.close()
            raise
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise LocalPostgresError(reply["error"])
        return reply


def _checked(settings: Mapping[str, str | int | float]) -> dict[str, str]:
    for name in settings:
        if not re.fullmatch(r"[a-z_][a-z0-9_.]*", name):
            raise ValueError(f"settings: {name!r} is no name of a PostgreSQL setting: write it in lower case")
        if name in _RESERVED:
            raise ValueError(f"settings: {name!r} is made by the launcher: leave it out")
    return {name: {True: "on", False: "off"}[v] if isinstance(v, bool) else str(v) for name, v in settings.items()}
