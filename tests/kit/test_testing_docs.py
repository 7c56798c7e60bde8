"""docs/testing.md and docs/writing-a-locker.md as a suite of their reader's: Python runs, and prints what they show."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import test_health_gallery
import trio
from locker_gallery import GALLERY
from scripted import virtually

from tickrunner_trio import LockLostError, MemoryLocker
from tickrunner_trio.testing import BrokenPromiseError, check_advisory_locker

DOCS = Path(__file__).parents[2] / "docs"
PAGE = "\n".join((DOCS / f"{name}.md").read_text(encoding="utf-8") for name in ("testing", "writing-a-locker"))


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


#: What the page leaves to the reader, for whom it stands.
READERS_OWN = """
class Reporter:
    def __init__(self, name):
        self._health = WorkerHealth(name)

    def report(self, outcome, at, error):
        self._health = self._health.after(outcome, at=at, error=error)

    def snapshot(self):
        return self._health
"""

#: Likewise: the client of a store of keys, as if all of its machines were this one.
READERS_STORE = """
import pytest

class Keys:
    def __init__(self):
        self.keys = {}

    def _owner(self, key):
        owner, ends_at = self.keys.get(key, ("", 0.0))
        return owner if time.monotonic() < ends_at else ""

    async def set_if_absent(self, key, owner, seconds):
        await trio.sleep(0.001)
        if self._owner(key):
            return False
        self.keys[key] = owner, time.monotonic() + seconds
        await trio.sleep(0.001)
        return True

    async def prolong_if_owner(self, key, owner, seconds):
        await trio.sleep(0.001)
        if self._owner(key) != owner:
            return False
        self.keys[key] = owner, time.monotonic() + seconds
        return True

    async def delete_if_owner(self, key, owner):
        if self._owner(key) == owner:
            del self.keys[key]
        await trio.sleep(0.001)

@pytest.fixture
def store():
    return Keys()
"""


def run(directory: Path, source: str) -> str:
    (directory / "test_page.py").write_text(source, encoding="utf-8")
    (directory / "pytest.ini").write_text("[pytest]\ntrio_mode = true\n", encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "--hypothesis-seed=1"]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False).stdout


def words(text: str) -> str:
    return " ".join(text.split())


def test_every_block_runs_and_what_is_printed_is_what_the_page_shows(tmp_path: Path) -> None:
    source = (
        "\n".join(blocks("python")).replace("class ReporterMachine", f"{READERS_OWN}\nclass ReporterMachine")
        + READERS_STORE
    )
    printed = run(tmp_path, source)
    defined = sum(block.count("def test_") for block in blocks("python"))
    assert (
        f"1 failed, {defined} passed" in printed
    )  # the machine's test takes the place of the one that is called wrong
    assert "FAILED test_page.py::test_the_light_is_red_only_after_an_error" in printed
    [timeline] = [block for block in blocks("text") if "virtual time" in block]
    assert timeline in printed
    [history] = [block for block in blocks("text") if block.startswith("history=")]
    assert words(history).replace(" ", "") in words(printed).replace(" ", "")


KEY_LOCKER = next(block for block in blocks("python") if "class KeyLocker" in block)
FILE_LOCKER = next(block for block in blocks("python") if "class FileLocker" in block)


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("        await trio.lowlevel.checkpoint()\n", ""),
        ('f"{lock_id}.lock"', 'f"{lock_id % 2**32}.lock"'),
    ],
)
def test_a_locker_with_a_bug_is_told_what_the_page_says(was: str, becomes: str, tmp_path: Path) -> None:
    assert was in FILE_LOCKER
    namespace: dict[str, Any] = {}
    exec(FILE_LOCKER.replace(was, becomes), namespace)

    async def check() -> None:
        await check_advisory_locker(lambda: namespace["FileLocker"](tmp_path), shared=True)

    with pytest.raises(BrokenPromiseError) as caught:
        virtually(check)
    assert words(str(caught.value)) in [words(block) for block in blocks("text")]


async def test_work_under_a_key_is_stopped_before_the_key_ends_where_the_store_cannot_be_asked() -> None:
    namespace: dict[str, Any] = {}
    exec(FILE_LOCKER + KEY_LOCKER + READERS_STORE, namespace)
    seconds, stopped_at = 3.0, 0.0

    async def fail(*_: object) -> bool:
        raise OSError("the network is cut")

    async def work(lease: Any) -> None:
        nonlocal stopped_at
        store.prolong_if_owner = store.delete_if_owner = fail
        try:
            await trio.sleep_forever()
        finally:
            assert lease.lost
            stopped_at = time.monotonic()

    store = namespace["Keys"]()
    with pytest.raises(LockLostError):
        await namespace["KeyLocker"](store, seconds=seconds).with_advisory_lock(7, work)
    _, ends_at = store.keys["lock:7"]
    assert seconds / 5 < ends_at - stopped_at < seconds / 2


def test_its_figures_are_those_of_the_code() -> None:
    async def made() -> tuple[int, int]:
        report = await check_advisory_locker(MemoryLocker, shared=False)
        return len(report.checked), sum(skipped.reason.startswith("lose=") for skipped in report.skipped)

    checked, of_losses = virtually(made)
    assert f"puts {checked + of_losses} promises to the test, {checked} without a way to lose a lock" in words(PAGE)
    assert f"a gallery of {len(GALLERY)} lockers with one bug each" in words(PAGE)
    assert f"shows {len(test_health_gallery.BUGS)} reporters with one realistic bug each" in words(PAGE)
