"""The command line as a real process: its lines as they come, its exit status, and its end in any case.

``tickrunner run`` is given ``--stop-at-eof``, so that it ends even if the tests are killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import tickrunner_trio

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS = Path(__file__).parent / "cli_programs"

#: Seconds until a process that hangs is killed, which fails its test.
PATIENCE = 60.0


class Process:
    """A running command line. Its stdout is read by the test, its stderr is kept for the end."""

    def __init__(self, popen: subprocess.Popen[str], stderr: Path) -> None:
        self._popen = popen
        self._stderr = stderr
        self.pid = popen.pid
        self.lines: list[str] = []

    def wait_for(self, text: str) -> str:
        """Read lines up to one that contains ``text``, and return it."""
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            self.lines.append(line.rstrip("\n"))
            if text in line:
                return self.lines[-1]
        raise AssertionError(f"no line with {text!r}:\n" + "\n".join(self.lines) + "\n" + self._stderr.read_text())

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def close_stdin(self, last_words: str = "") -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.write(last_words)
        self._popen.stdin.close()

    def end(self) -> tuple[int, str, str]:
        """Wait for the end and return the exit status, all of stdout, and stderr."""
        if self._popen.stdout is not None:
            self.lines += self._popen.stdout.read().splitlines()
        return self._popen.wait(), "\n".join(self.lines), self._stderr.read_text()


@contextmanager
def started(
    *arguments: str,
    cwd: Path = PROGRAMS,
    stdin: int = subprocess.PIPE,
    stdout: int = subprocess.PIPE,
    **environment: str,
) -> Iterator[Process]:
    """Start ``python -m tickrunner_trio`` with the arguments, warnings being errors, and see that it ends."""
    package_parent = str(Path(tickrunner_trio.__file__).parent.parent)
    more = ("--stop-at-eof",) if arguments[:1] == ("run",) else ()
    with tempfile.TemporaryDirectory() as directory:
        stderr = Path(directory) / "stderr"
        with stderr.open("wb") as stderr_file:
            popen = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", "tickrunner_trio", *arguments, *more],
                stdin=stdin,
                stdout=stdout,
                stderr=stderr_file,
                text=True,
                cwd=cwd,
                env={**os.environ, "PYTHONPATH": package_parent, "PYTHONDONTWRITEBYTECODE": "1", **environment},
            )
        watchdog = threading.Timer(PATIENCE, popen.kill)
        watchdog.start()
        try:
            yield Process(popen, stderr)
        finally:
            watchdog.cancel()
            popen.kill()
            popen.__exit__(None, None, None)


def run_to_end(
    *arguments: str,
    cwd: Path = PROGRAMS,
    stdin: int = subprocess.PIPE,
    stdout: int = subprocess.PIPE,
    **environment: str,
) -> tuple[int, str, str]:
    """Start the command line and return its exit status, stdout and stderr."""
    with started(*arguments, cwd=cwd, stdin=stdin, stdout=stdout, **environment) as process:
        return process.end()
