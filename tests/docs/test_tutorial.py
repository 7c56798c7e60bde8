"""docs/tutorial.md, step by step, as its reader does it."""

from __future__ import annotations

import os
import re
import shutil
import time
from typing import TYPE_CHECKING

import pytest
from page_terminal import terminal
from pages import page
from postgres_view import asked
from prometheus import free_port

if TYPE_CHECKING:
    from pathlib import Path

PAGE = page("tutorial")
PRINTED = "postgresql://postgres:..."
HOLDERS = (
    "SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory' AND granted"
    " AND application_name LIKE 'tickrunner_trio %'"
)


@pytest.mark.skipif(shutil.which("curl") is None, reason="the reader of the page has curl")
@pytest.mark.usefixtures("_tickrunner_binaries")
def test_every_step_does_what_the_page_says(tmp_path: Path) -> None:
    (database, export, check, *replicas, look, kill, metrics, again, status) = PAGE.blocks("console")
    ports = {str(port): str(free_port()) for port in (8081, 8082, 8083, 9101, 9102, 9103)}
    with terminal(tmp_path, ports) as reader:
        reader.write("database.py", PAGE.program("database.py"))
        reader.write("myapp.py", PAGE.program("myapp.py"))
        reader.follow(database)
        [dsn] = re.findall(r"'(.*)'", reader.printed)
        reader.replaced[PRINTED] = dsn
        reader.follow(export)
        reader.follow(check)
        assert len(replicas) == 3
        for each in replicas:
            reader.follow(each)

        pid = holder_of(dsn, other_than=0)
        reader.replaced["4242"] = str(pid)
        lives = next(ports[port] for port in ("9102", "9103") if reader.pid_of(ports[port]) != pid)
        reader.follow(look)
        reader.follow(kill)
        reader.killed(pid)
        assert holder_of(dsn, other_than=pid) != pid
        reader.replaced[ports["9102"]] = lives
        reader.follow(metrics)

        reader.interrupt_all("tickrunner run")
        [line] = [block for block in PAGE.blocks("python") if "ledger=True" in block]
        program = PAGE.program("myapp.py")
        [without] = [each for each in program.splitlines(keepends=True) if "PostgresLocker(os" in each]
        reader.write("myapp.py", program.replace(without, line))
        reader.follow(again)
        reader.follow(status)
        reader.interrupt_all("tickrunner run")


def holder_of(dsn: str, *, other_than: int) -> int:
    """The process that has just had the lock, and so keeps it for a while, when that is another one."""
    deadline = time.monotonic() + 60
    free = False
    while time.monotonic() < deadline:
        pids = [int(name.split()[1]) for name in asked(dsn, HOLDERS)]
        free = free or pids == []
        if free and pids and pids[0] != other_than:
            os.kill(pids[0], 0)
            return pids[0]
        time.sleep(0.05)
    raise AssertionError("nobody had the lock")
