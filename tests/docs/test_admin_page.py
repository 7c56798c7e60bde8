"""docs/admin.md: the tick that it forces with curl is forced."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from page_terminal import terminal
from pages import page
from prometheus import free_port

if TYPE_CHECKING:
    from pathlib import Path

STARTED = """\
$ export TICKRUNNER_ADMIN_TOKEN=one-that-nobody-guesses
$ tickrunner run myapp:services --admin 127.0.0.1:8080
... INFO     tickrunner_trio.cli: services started ...
"""
ANSWER = '{..."service":"sweep"..."outcome":"...'


@pytest.mark.skipif(shutil.which("curl") is None, reason="the reader of the page has curl")
def test_its_curl_forces_a_tick(tmp_path: Path, dsn: str) -> None:
    with terminal(tmp_path, {"8080": str(free_port())}, LOCKS_DSN=dsn) as reader:
        reader.write("myapp.py", page("deploy").program("myapp.py"))
        reader.follow(STARTED)
        [command] = [block for block in page("admin").blocks("sh") if block.startswith("curl")]
        reader.follow(f"$ {command.replace('curl', 'curl -s')}{ANSWER}")
        reader.interrupt_all("tickrunner run")
