"""The programs of docs/embedding.md do what the page says: they run, and finish the tick in which a signal comes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from postgres_view import locks
from prometheus import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "embedding.md").read_text(encoding="utf-8")

#: By the name in their first line.
PROGRAMS = dict(re.findall(r"^```python\n# (\w+)\.py\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL))

#: What stands for the reader's own database and port.
CONNINFO, PORT = '"host=db dbname=app"', ":8000"

#: Seconds until a program that hangs is killed, which fails its test.
PATIENCE = 60.0

#: Warnings are errors, but for that of Python 3.12 and newer about trio-asyncio, when a program imports it itself.
WARNINGS = ("-W", "error", "-W", "ignore:'AbstractChildWatcher':DeprecationWarning")

#: Runs a program as it is, but for the jitter of the first tick.
AT_ONCE = """
import runpy, sys
import tickrunner_trio._service
tickrunner_trio._service.jitter = lambda *_: 0.0
runpy.run_path(sys.argv[1], run_name="__main__")
"""


class Program:
    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self._popen = popen
        self.lines: list[str] = []

    def wait_for(self, *texts: str) -> None:
        """Read lines until each of the texts has been in one, in whichever order."""
        assert self._popen.stderr is not None
        awaited = list(texts)
        for line in self._popen.stderr:
            self.lines.append(line.rstrip("\n"))
            awaited = [text for text in awaited if text not in line]
            if not awaited:
                return
        raise AssertionError(f"no line with {awaited}:\n" + "\n".join(self.lines))

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def end(self) -> int:
        """Read all that it still says, and return its exit status."""
        assert self._popen.stderr is not None
        self.lines += self._popen.stderr.read().splitlines()
        return self._popen.wait()


@contextmanager
def running(
    directory: Path, name: str, replaced: dict[str, str], command: tuple[str, ...] | None = None
) -> Iterator[Program]:
    source = PROGRAMS[name]
    for old, new in replaced.items():
        assert old in source
        source = source.replace(old, new)
    path = directory / f"{name}.py"
    path.write_text(source, encoding="utf-8")
    popen = subprocess.Popen(
        [sys.executable, *WARNINGS, *(command or ("-c", AT_ONCE, str(path)))],
        cwd=directory,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        start_new_session=True,  # for those that start others
    )

    def kill() -> None:
        with suppress(ProcessLookupError):  # all have ended
            os.killpg(popen.pid, signal.SIGKILL)

    watchdog = threading.Timer(PATIENCE, kill)
    watchdog.start()
    try:
        yield Program(popen)
    finally:
        watchdog.cancel()
        kill()
        popen.__exit__(None, None, None)


def test_no_program_is_left_out() -> None:
    assert PROGRAMS.keys() == {"nursery", "web", "guest", "thread", "connection", "own_loop"}
    assert len(re.findall("^```", PAGE, flags=re.MULTILINE)) == 2 * len(PROGRAMS)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", ["nursery", "guest", "thread"])
def test_a_signal_in_the_middle_of_a_tick_lets_it_finish(tmp_path: Path, dsn: str, name: str, number: int) -> None:
    begun, done = ("sweeping", "swept") if name == "nursery" else ("refilling", "refilled")
    with running(tmp_path, name, {CONNINFO: repr(dsn)}) as program:
        program.wait_for(begun)
        assert len(locks(dsn)) == 1
        program.signal(number)
        assert program.end() == 0, program.lines
    said = [line.rpartition(":")[2] for line in program.lines]
    assert said.index(begun) < said.index(done) < said.index("tick succeeded")
    assert locks(dsn) == []


@pytest.mark.parametrize("name", ["guest", "thread"])
def test_an_application_of_asyncio_that_is_cancelled_again_and_again_lets_the_tick_finish(
    tmp_path: Path, dsn: str, name: str
) -> None:
    application = "await stop.wait()  # the application"
    cancelled = "; ".join(
        ["await stop.wait()", *(f"loop.call_later({delay}, asyncio.current_task().cancel)" for delay in (0, 0.1, 0.2))]
    )
    with running(tmp_path, name, {CONNINFO: repr(dsn), application: cancelled}) as program:
        program.wait_for("refilling")
        program.signal(signal.SIGTERM)
        assert program.end() == 0, program.lines
    said = [line.rpartition(":")[2] for line in program.lines]
    assert said.index("refilled") < said.index("tick succeeded")
    assert locks(dsn) == []


def test_the_web_application_answers_and_a_signal_lets_the_tick_finish(tmp_path: Path, dsn: str) -> None:
    port = free_port()
    with running(tmp_path, "web", {CONNINFO: repr(dsn), PORT: f":{port}"}) as program:
        program.wait_for("sweeping", "Running on http")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=PATIENCE) as answer:
            assert json.load(answer)["sweep"] in ("starting", "ok")
        program.signal(signal.SIGTERM)
        assert program.end() == 0, program.lines
    assert any(line.endswith(":tick succeeded") for line in program.lines)
    assert locks(dsn) == []


def test_the_web_application_does_the_same_under_the_command_of_its_server(tmp_path: Path, dsn: str) -> None:
    [arguments] = re.findall(r"`hypercorn (--[^`]*)`", PAGE)
    port = free_port()
    command = ("-m", "hypercorn", *arguments.replace(PORT, f":{port}").split())
    replaced = {CONNINFO: repr(dsn), "interval=60": "interval=0.1"}
    with running(tmp_path, "web", replaced, command) as program:
        program.wait_for("sweeping", "Running on http")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=PATIENCE) as answer:
            assert json.load(answer)["sweep"] in ("starting", "ok")
        program.wait_for("sweeping")
        program.signal(signal.SIGTERM)
        assert program.end() == 0, program.lines
    said = [line.rpartition(":")[2] for line in program.lines]
    assert said.count("sweeping") == said.count("swept") == said.count("tick succeeded")
    assert locks(dsn) == []


@pytest.mark.parametrize("name", ["guest", "thread"])
def test_services_that_cannot_start_end_the_application_of_asyncio_with_their_error(tmp_path: Path, name: str) -> None:
    with running(tmp_path, name, {CONNINFO: '"no_such_parameter=1"'}) as program:
        assert program.end() == 1
    assert program.lines[-1].startswith("tickrunner_trio._errors.LockerConfigurationError: ")


def test_a_connection_lives_from_tick_to_tick_on_a_loop_that_is_open(tmp_path: Path, dsn: str) -> None:
    """Whatever goes wrong beside the work."""
    query = 'await connection.execute("SELECT 1")'
    replaced = {CONNINFO: repr(dsn), "interval=60": "interval=0.1", query: f'{query}; loop.call_soon(int, "stray")'}
    with running(tmp_path, "connection", replaced) as program:
        for _ in range(3):
            program.wait_for("tick succeeded")
    assert any("literal for int() with base 10: 'stray'" in line for line in program.lines)
    assert not any("pass failed" in line for line in program.lines)


TICKS_ON_ITS_OWN_LOOP = """
from tickrunner_trio import Config, MemoryLocker, Service

async def refill(tick):
    try:
        await asyncio.sleep(600 if tick.service == "slow" else 0.01)
        print("done")
    except asyncio.CancelledError:
        print("cancelled")
        raise

for name in ("fast", "slow"):
    config = Config(name=name, interval=60, locker=MemoryLocker(), work=work, tick_timeout=1)
    print(name, trio.run(Service(config).tick).outcome)
"""


def test_a_loop_of_its_own_in_a_thread_does_the_work_and_is_cancelled() -> None:
    """In a process of its own: in this one asyncio.run may run on Trio, if somebody has imported trio-asyncio."""
    program = PROGRAMS["own_loop"] + TICKS_ON_ITS_OWN_LOOP
    arguments = [sys.executable, *WARNINGS, "-c", program]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout.splitlines() == ["done", "fast success", "cancelled", "slow timed_out"]
