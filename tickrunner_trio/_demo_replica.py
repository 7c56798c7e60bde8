"""One replica of the demo: a process that runs the example application, its log lines, and its end.

However the demo ends, the process does: the task that watches it kills it on the way out, and if the demo itself is
killed, the process sees its standard input end (``--stop-at-eof``) and drains by itself. It has a process group of its
own, so that Ctrl-C on the terminal reaches the demo only.
"""

from __future__ import annotations

import collections
import importlib.util
import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any, cast

import trio

from ._cli_errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: Seconds that a replica gets for its drain; its work takes far less.
DRAIN_SECONDS = 10.0

#: Seconds beyond that in which it has to be gone.
_PATIENCE = 5.0

_ARGUMENTS = ("run", "object_store.app:services", "--log-format", "json", "--log-level", "debug", "--stop-at-eof")
#: The page of each replica, where the extra "admin" is installed; on a port that the system chooses.
_ADMIN = ("--admin", "127.0.0.1:0") if all(map(importlib.util.find_spec, ("starlette", "anyio", "h11"))) else ()
_COMMAND = (sys.executable, "-m", "tickrunner_trio", *_ARGUMENTS, "--drain-timeout", str(DRAIN_SECONDS), *_ADMIN)


class Replica:
    """A replica process and what is known of it."""

    def __init__(self, name: str, environment: Mapping[str, str]) -> None:
        self.name = name
        self.environment = environment
        self._process: trio.Process | None = None
        self._expected_status: int | None = None  #: What it was told to end with; None: nothing yet.
        self._ended = trio.Event()
        self._said: collections.deque[str] = collections.deque(maxlen=20)

    async def run(self, tell: Callable[[str, Mapping[str, Any]], None]) -> None:
        """Run the process until it ends, and tell each log record with the name of the replica.

        Raises:
            CommandError: the process ended although nobody told it to, or not as it was told; with its last words.

        Cancellation handling: the process is killed with SIGKILL and waited for, for at most 10 seconds.
        """
        process = self._process = await trio.lowlevel.open_process(
            list(_COMMAND),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(self.environment),
            process_group=0,
        )
        stdin = cast("trio.abc.SendStream", process.stdin)  # Both are pipes, as was asked for.
        stdout = cast("trio.abc.ReceiveStream", process.stdout)
        try:
            rest = b""
            async for chunk in stdout:
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._said.append(line.decode(errors="replace"))
                    if (record := _record(line)) is not None:
                        tell(self.name, record)
            status = await process.wait()
        finally:
            process.kill()
            with trio.move_on_after(10, shield=True):
                await process.wait()
                await stdin.aclose()
                await stdout.aclose()
            self._ended.set()
        if status != self._expected_status:
            how = "by itself" if self._expected_status is None else "instead of draining"
            raise CommandError(f"{self.name} ended {how} with status {status}: {self._last_words()}", status=1)

    def kill(self) -> None:
        """Kill the process with SIGKILL, as a machine does that loses its power."""
        self._tell_to_end(signal.SIGKILL, -signal.SIGKILL)

    async def drain(self) -> None:
        """Tell the process to drain, and wait for its end; one that does not come is killed, and `run` says so."""
        self._tell_to_end(signal.SIGTERM, 0)
        with trio.move_on_after(DRAIN_SECONDS + _PATIENCE):
            await self._ended.wait()
        self._tell_to_end(signal.SIGKILL, 0)  # No effect on one that has ended.
        await self._ended.wait()

    def _tell_to_end(self, number: signal.Signals, expected_status: int) -> None:
        self._expected_status = expected_status
        if self._process is not None:  # pragma: no branch - it ends in the moment in which it is started
            self._process.send_signal(number)

    def _last_words(self) -> str:
        """Return the last error that it logged, or else the last line that it wrote."""
        for line in reversed(self._said):
            record = _record(line)
            if record is None:
                return line
            if record.get("level") in ("error", "critical"):
                return str(record.get("exception") or record.get("message")).splitlines()[-1]
        return "it said nothing"


def _record(line: str | bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return cast("dict[str, Any]", record) if isinstance(record, dict) else None
