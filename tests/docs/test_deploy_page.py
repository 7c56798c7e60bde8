"""docs/deploy.md: its module is checked, run and drained as the page shows, and its manifests fit the command."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from page_terminal import terminal
from pages import page

from tickrunner_trio._cli import _parser

if TYPE_CHECKING:
    from pathlib import Path

PAGE = page("deploy")


def test_its_services_are_checked_run_and_drained(tmp_path: Path, dsn: str) -> None:
    with terminal(tmp_path, {"host=db dbname=app": dsn}) as reader:
        reader.write("myapp.py", PAGE.program("myapp.py"))
        for block in PAGE.blocks("console"):
            reader.follow(block)


def test_orchestrators_wait_for_longer_than_the_drain_takes_and_their_commands_exist() -> None:
    [pod], [unit] = PAGE.blocks("yaml"), PAGE.blocks("ini")
    [command] = re.findall(r"command: \[(.*)\]", pod)
    words = [word.strip().strip('"') for word in command.split(",")]
    [start] = re.findall(r"^ExecStart=\S+/(.*)$", unit, flags=re.MULTILINE)
    patience = re.findall(r"terminationGracePeriodSeconds: (\d+)|TimeoutStopSec=(\d+)", pod + unit)
    for program, *arguments in (words, shlex.split(start)):
        assert program == "tickrunner"
        options = _parser().parse_args(arguments)
        assert all(float(a or b) > options.drain_timeout for a, b in patience)
    assert len(patience) == 2
    assert set(re.findall("path: (/[a-z]+)", pod)) == {
        "/healthz",
        "/readyz",
    }  # docs/admin.md has them, which a test holds to the routes
