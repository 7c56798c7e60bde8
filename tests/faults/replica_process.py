"""A replica as the campaign sees it: a process, its relay, and what one can ask of it."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import trio

from faults.lines import Lines, line

if TYPE_CHECKING:
    import signal
    from collections.abc import Sequence

    from faults.relay import Relay
    from faults.replica import Plan

_PATIENCE = 30.0


def program(name: str, *arguments: str, wrapper: Sequence[str] = ()) -> list[str]:
    """Return the command line of a program of this folder."""
    return [*wrapper, sys.executable, "-m", f"faults.{name}", *arguments]


def environment() -> dict[str, str]:
    """Return the environment in which such a program finds this folder."""
    here = str(Path(__file__).parents[1])
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))}


class ReplicaProcess:
    """See the module. Made by `started`.

    Its log is in the file ``<name>.log``. Nobody but `kill` and `drain` may end it.
    """

    def __init__(self, name: str, process: trio.Process, relay: Relay, log: Path) -> None:
        self.name = name
        self.relay = relay
        self.log = log
        self.pid = process.pid
        self.expected_to_end = False
        self._process = process
        self._stdin = cast("trio.abc.SendStream", process.stdin)
        self._lines = Lines(cast("trio.abc.ReceiveStream", process.stdout))
        self._one_at_a_time = trio.Lock()

    @classmethod
    async def started(cls, name: str, relay: Relay, log: Path, *, wrapper: Sequence[str] = ()) -> ReplicaProcess:
        """Start the program; it does nothing before `ready`."""
        with log.open("ab") as stderr:
            process = await trio.lowlevel.open_process(
                program("replica", wrapper=wrapper),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment(),
                start_new_session=True,  # a Ctrl-C on the terminal is for the campaign
            )
        return cls(name, process, relay, log)

    async def ready(self, plan: Plan) -> None:
        """Give it its plan, and wait until its services run."""
        await self._told(dataclasses.asdict(plan), within=_PATIENCE)

    async def told(self, command: str, *, seconds: float = 0.0) -> dict[str, Any]:
        """Give it a command, and return its answer."""
        return await self._told({"command": command, "seconds": seconds}, within=seconds + _PATIENCE)

    async def drain(self) -> int:
        """Have it drain and end; return its exit status."""
        self.expected_to_end = True
        await self.told("drain")
        with trio.fail_after(_PATIENCE):
            return await self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def kill(self) -> None:
        """Kill it as a machine does that loses its power, and wait for it."""
        self.expected_to_end = True
        with trio.CancelScope(shield=True):
            self._process.kill()
            await self._process.wait()
            await self._stdin.aclose()
            await cast("trio.abc.ReceiveStream", self._process.stdout).aclose()

    def died(self) -> str | None:
        """Say how it ended, if nobody told it to."""
        status = self._process.poll()
        return None if status is None or self.expected_to_end else f"{self.name} ended by itself, status {status}"

    async def _told(self, message: dict[str, Any], *, within: float) -> dict[str, Any]:
        async with self._one_at_a_time:
            with trio.fail_after(within):
                await self._stdin.send_all(line(message))
                answer = await self._lines.read()
        if answer is None:
            raise RuntimeError(f"{self.name} ended:\n{self.log.read_text()[-2000:]}")
        return answer
