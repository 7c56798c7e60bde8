"""What holds of the package where it is installed: run by the Python of a clean environment, away from the checkout.

``nox -s package`` does so with the sdist and with the wheel: ``python -I installed.py``. It needs pytest beside the
package and its extra ``testing``. The first promise that is broken is an AssertionError.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

import tickrunner_trio

DISTRIBUTION = importlib.metadata.distribution("tickrunner-trio")
SCRIPTS = Path(sys.executable).parent

#: The plugin's fixtures are found without being asked for, and the strategies are there.
TEST = """
from tickrunner_trio import Config, Service
from tickrunner_trio.testing import strategies

async def nothing(tick): ...

def test_it(tickrunner_cluster):
    cluster = tickrunner_cluster(lambda locker: [Service(Config(name="a", interval=60, locker=locker, work=nothing))])
    cluster.run(600).assert_never_overlapping()
    assert strategies.names()
"""


def printed(*command: str | Path) -> str:
    return subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout


def main() -> None:
    """Try it."""
    package = Path(tickrunner_trio.__file__).parent
    assert package.is_relative_to(sys.prefix), f"{package} is no installation"
    assert tickrunner_trio.__version__ == DISTRIBUTION.version
    assert printed(SCRIPTS / "tickrunner", "--version") == f"tickrunner {DISTRIBUTION.version}\n"
    assert "--replicas" in printed(SCRIPTS / "tickrunner", "demo", "--help")
    assert (package / "py.typed").is_file()
    assert (package / "_examples" / "object_store" / "app.py").is_file()
    assert importlib.util.find_spec("object_store") is None, "the example is no package of its own"

    files = {path.parts[0] for path in DISTRIBUTION.files or ()} - {".."}
    assert files == {"tickrunner_trio", f"tickrunner_trio-{DISTRIBUTION.version}.dist-info"}
    points = {(point.group, point.name): point.load() for point in DISTRIBUTION.entry_points}
    assert points.keys() == {("console_scripts", "tickrunner"), ("pytest11", "tickrunner_trio")}

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "test_it.py").write_text(TEST, encoding="utf-8")
        assert "1 passed" in printed(sys.executable, "-I", "-m", "pytest", "-q", "-p", "no:cacheprovider", folder)
    print(f"{DISTRIBUTION.name} {DISTRIBUTION.version} on Python {sys.version.split()[0]}: all of it is there")


if __name__ == "__main__":
    main()
