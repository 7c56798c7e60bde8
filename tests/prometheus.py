"""A real Prometheus for tests: it scrapes what it is told to, evaluates our rules, and answers queries.

It listens on loopback only. A shell is its parent, and the shell's stdin is the lifeline: when that ends, even because
the test was killed, the shell ends Prometheus and removes the directory.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from system_programs import system_program

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

_PATIENCE = 30.0

# `exec` would lose the lifeline. There is nothing to save, so nothing to wait for either.
_SHELL = (
    'directory=$1; shift; "$@" >"$directory/log" 2>&1 & echo $! >"$directory/pid"; '
    'read -r _; kill -9 $!; wait $!; rm -rf "$directory"'
)


def program(name: str = "prometheus") -> str:
    """The path of `prometheus` or `promtool`; without it, the test is skipped."""
    return system_program(name, package="prometheus")


class Prometheus:
    """A running Prometheus. Made by `prometheus`."""

    def __init__(self, port: int, directory: Path) -> None:
        self._url = f"http://127.0.0.1:{port}/"
        self.directory = directory

    @property
    def pid(self) -> int:  # pragma: no cover - asked for by a program that is killed
        """Its process."""
        return int((self.directory / "pid").read_text())

    def get(self, path: str, **parameters: str | float) -> Any:
        """Return what the API answers; without ``data`` if there is none."""
        with urllib.request.urlopen(
            f"{self._url}{path}?{urllib.parse.urlencode(parameters)}", timeout=_PATIENCE
        ) as reply:
            text = reply.read().decode()
        return json.loads(text)["data"] if path.startswith("api/") else text

    def query(self, expr: str) -> list[tuple[dict[str, str], float]]:
        """Evaluate a query now: labels and value of each series."""
        result = self.get("api/v1/query", query=expr)["result"]
        return [(series["metric"], float(series["value"][1])) for series in result]


@contextlib.contextmanager
def prometheus(rules: Path, targets: Mapping[str, int], *, job: str, every: str) -> Generator[Prometheus]:
    """Start a Prometheus, yield it, and leave nothing of it behind.

    Args:
        rules: the file of rules.
        targets: ports on loopback by the names that the instances shall have.
        job: the name of the job.
        every: how often to scrape and evaluate.
    """
    path = program()
    directory = Path(tempfile.mkdtemp(prefix="tickrunner-prometheus-", dir="/tmp"))
    configuration = {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
        "rule_files": [str(rules)],
        "scrape_configs": [
            {
                "job_name": job,
                "static_configs": [
                    {"targets": [f"127.0.0.1:{port}"], "labels": {"instance": name}} for name, port in targets.items()
                ],
            }
        ],
    }
    (directory / "prometheus.yml").write_text(json.dumps(configuration), encoding="utf-8")  # JSON is YAML
    port = free_port()
    options = [
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with subprocess.Popen(
        ["/bin/sh", "-c", _SHELL, "sh", str(directory), path, *options],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # where the shell says "Killed"
        cwd="/",
        start_new_session=True,  # out of the reach of a Ctrl-C
    ) as shell:
        server = Prometheus(port, directory)
        _wait_until_it_answers(server, directory, shell)
        yield server
    assert not directory.exists()


def free_port() -> int:
    """A port on loopback that nobody listens on now, and nobody is given before it is used.

    The kernel gives those that it chooses itself to every client too; throw-away servers take theirs from 10,240 on.
    """
    while True:
        port = random.randint(3_000, 10_239)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def _wait_until_it_answers(server: Prometheus, directory: Path, shell: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            server.get("-/ready")
        except urllib.error.URLError as error:
            if time.monotonic() > deadline or shell.poll() is not None:
                raise AssertionError((directory / "log").read_text()) from error
            time.sleep(0.02)
        else:
            return
