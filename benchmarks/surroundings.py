"""What figures depend on besides the code that is measured."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from tickrunner_trio._local_postgres import LocalPostgresError
from tickrunner_trio._postgres_binaries import server_binaries

#: Installed beside each other, so each has a folder of its own under the peers.
APART = ("apscheduler3", "apscheduler4")
TOGETHER = (
    "trio",
    "opentelemetry-sdk",
    "psycopg",
    "psycopg-pool",
    "trio-util",
    "procrastinate",
    "pgqueuer",
    "asyncpg",
)


def surroundings(peers: Path) -> str:
    """Name the commit, the versions and the processor."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    versions = [f"{name} {_version(name)}" for name in TOGETHER]
    versions += [f"APScheduler {_version('apscheduler', peers / folder)}" for folder in APART]
    try:
        postgres = server_binaries()[0].version
    except (IndexError, LocalPostgresError):
        postgres = "none"
    machine = f"{os.cpu_count()} x {processor()}, {platform.system()} {platform.release()}"
    machine += f", load average {os.getloadavg()[0]:.1f} before"  # what else ran makes spreads wide
    return f"commit {commit()}; {python}, {', '.join(versions)}, PostgreSQL {postgres}; {machine}"


def commit() -> str:
    """Name the commit of the checkout, and whether something in it is changed."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"],  # whichever git the reader has
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"


def processor() -> str:
    """Name the processor; on Linux `platform` knows only its family."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = models[0] if models else platform.processor() or platform.machine()
    return re.sub(r"\s+", " ", name)


def _version(name: str, folder: Path | None = None) -> str:
    """Return the release of a distribution, in a folder or where this Python finds it."""
    path = sys.path if folder is None else [str(folder)]
    found = metadata.distributions(name=name, path=path)
    return next((each.version for each in found), "not installed")
