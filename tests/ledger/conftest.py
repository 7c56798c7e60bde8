"""What the tests of the ledger with real processes share."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ledger_view import do

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent

TABLES = (
    "CREATE TABLE fence (epoch bigint NOT NULL)",
    "INSERT INTO fence VALUES (0)",
    "CREATE TABLE written (id serial, at timestamptz DEFAULT clock_timestamp(), replica text, epoch int8, kind text)",
)


@pytest.fixture
def replicas(dsn: str) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts replicas on the test's database, which has the tables that they write into; ends what is left."""
    for statement in TABLES:
        do(dsn, statement)
    with contextlib.ExitStack() as stack:

        def start(name: str, *, interval: float, seconds: float, lease: float = 2.0) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, str(HERE / "replica.py"), dsn, name, str(interval), str(seconds), str(lease)],
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONPATH": str(HERE.parents[1])},
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            assert process.stdout is not None
            stack.callback(process.stdout.close)
            return process

        yield start
