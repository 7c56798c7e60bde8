"""A reader at their terminals: runs what a page's console blocks show, and compares what is printed with them.

A line that begins with ``$`` is a command. What follows it is what it prints: each line as it stands, but for ``...``,
which is anything; a line that is only that is any number of lines. ``tickrunner run`` and programs of a page that go on
until they are ended run on, as in a terminal of their own, while what is shown of them came, in that order; ``^C`` in
what they print is a Ctrl-C.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from pages import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: Seconds until a process that hangs is killed, which fails its test.
PATIENCE = 60.0

#: What runs on.
_GOES_ON = re.compile(r"^(?:\w+=\S+ )*(?:tickrunner run|python database\.py)")


class Terminal:
    """See the module.

    Args:
        directory: where the commands run.
        environment: beside that of the tests.
        replaced: what stands on the page for the reader's own, and what it is here.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str], replaced: Mapping[str, str]) -> None:
        self._directory = directory
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        python = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
        self._environment = {**os.environ, "PATH": path, **python, **environment}
        self.replaced = dict(replaced)  #: More may be put in on the way.
        self._status = 0
        self._going_on: dict[str, subprocess.Popen[str]] = {}
        self.printed = ""  #: By the last command, as far as it was looked at.

    def write(self, name: str, source: str) -> None:
        """Put a program of the page where the commands find it."""
        (self._directory / name).write_text(self._here(source), encoding="utf-8")

    def follow(self, block: str) -> None:
        """Do what a block shows."""
        for part in re.split(r"^\$ ", self._here(block), flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            command = command.partition("  #")[0].strip()
            if command.startswith("export "):
                name, _, value = command.removeprefix("export ").partition("=")
                self._environment[name] = shlex.split(value)[0]
            elif _GOES_ON.match(command):
                self._watch(command, shown.splitlines())
            else:
                self._run(command, shown)

    def pid_of(self, word: str) -> int:
        """The process of the command that runs on and has this in it."""
        [popen] = [popen for command, popen in self._going_on.items() if word in command]
        return popen.pid

    def killed(self, pid: int) -> None:
        """See the end of a process that ran on, and that a command has killed."""
        [command] = [command for command, popen in self._going_on.items() if popen.pid == pid]
        self._going_on.pop(command).__exit__(None, None, None)

    def interrupt_all(self, command: str) -> None:
        """Do a Ctrl-C to all that runs on and was started by that command; they end well."""
        for each in [each for each in self._going_on if command in each]:
            popen = self._going_on.pop(each)
            popen.send_signal(signal.SIGINT)
            popen.communicate(timeout=PATIENCE)
            assert popen.returncode == 0, each

    def close(self) -> None:
        for popen in reversed(self._going_on.values()):
            popen.kill()
            popen.__exit__(None, None, None)

    def _here(self, text: str) -> str:
        for there, here in self.replaced.items():
            text = text.replace(there, here)
        return text

    def _run(self, command: str, shown: str) -> None:
        if command == "echo $?":
            assert shown == f"{self._status}\n"
            return
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self._directory,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        self._status, self.printed = done.returncode, done.stdout
        assert re.fullmatch(_pattern(shown), done.stdout), f"{command}\n{done.stdout}\nis not\n{shown}"

    def _watch(self, command: str, shown: list[str]) -> None:
        assert command not in self._going_on
        popen = subprocess.Popen(
            ["bash", "-c", f"exec env {command}" if "=" in command.split(maxsplit=1)[0] else f"exec {command}"],
            cwd=self._directory,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._going_on[command] = popen
        watchdog = threading.Timer(PATIENCE, popen.kill)
        watchdog.start()
        try:
            self._see(popen, shown)
            if "^C" in shown:
                self._status = popen.wait()
                del self._going_on[command]
                popen.__exit__(None, None, None)
        finally:
            watchdog.cancel()

    def _see(self, popen: subprocess.Popen[str], shown: list[str]) -> None:
        assert popen.stdout is not None
        self.printed = ""
        for line in shown:
            if line == "^C":
                popen.send_signal(signal.SIGINT)
                continue
            for each in popen.stdout:
                self.printed += each
                if re.fullmatch(_pattern(line), each.rstrip("\n")):
                    break
            else:
                raise AssertionError(f"it did not say\n{line}\nbut\n{self.printed}")


def _pattern(shown: str) -> str:
    pattern = re.escape(shown)
    pattern = re.sub(r"^\\\.\\\.\\\.\\?\n", r"(?:.*\n)*?", pattern, flags=re.MULTILINE)
    return pattern.replace(r"\.\.\.", ".*")


@contextlib.contextmanager
def terminal(directory: Path, replaced: Mapping[str, str], **environment: str) -> Iterator[Terminal]:
    """A terminal whose processes end with the block."""
    reader = Terminal(directory, environment, replaced)
    try:
        yield reader
    finally:
        reader.close()
