"""The picture of the README: a script draws it from a real run, in which no two replicas are at work at once."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "replicas.svg"
SVG = "{http://www.w3.org/2000/svg}"


def spans(picture: ET.Element, kind: str) -> list[tuple[float, float, str]]:
    """Where bars of a kind begin and end, and whose they are: by colour."""
    bars = [each.attrib for each in picture.iter(f"{SVG}rect") if each.get("class") == kind]
    return sorted((float(bar["x"]), float(bar["x"]) + float(bar["width"]), bar["fill"]) for bar in bars)


def check(picture: ET.Element) -> None:
    assert len({whose for _, _, whose in spans(picture, "lock")}) == 3
    for (_, end, _), (begin, _, _) in pairwise(spans(picture, "work")):
        assert end <= begin + 0.2, "two replicas were at work at once"  # beginnings and widths are rounded
    texts = {"the lock", "replica 1", "replica 2", "replica 3", "killed at work (SIGKILL)", "drained (SIGTERM)"}
    assert texts <= {each.text for each in picture.iter(f"{SVG}text")}


def test_the_committed_picture_is_small_and_readable_in_light_and_dark() -> None:
    text = PICTURE.read_text(encoding="utf-8")
    assert len(text) < 30_000
    assert "prefers-color-scheme: dark" in text
    picture = ET.fromstring(text)
    check(picture)
    held = spans(picture, "lock")
    assert len(held) == 9
    assert [each for each in picture.iter() if each.get("class") == "busy"]
    # Work lies within the time of the lock, but for the pixels between two looks at the server.
    for begin, end, whose in spans(picture, "work"):
        assert any(since - 2 <= begin and end <= until + 2 and whose == by for since, until, by in held)


def test_the_script_draws_it_from_a_real_run(dsn: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "docs" / "replicas.py"), "--interval", "0.5", "--runs", "1"]
    environment = os.environ | {"TICKRUNNER_TEST_DSN": dsn, "PYTHONPATH": str(ROOT)}
    subprocess.run([*command, "--to", str(tmp_path / "it.svg")], env=environment, check=True, timeout=100)
    check(ET.parse(tmp_path / "it.svg").getroot())
