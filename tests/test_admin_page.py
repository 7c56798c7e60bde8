"""What a browser is sent as the page, without a browser: `tests/browser` tries it in one."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest

from tickrunner_trio import HealthState, Outcome
from tickrunner_trio.admin._page import PAGE, POLICY


def between(start: str, end: str) -> str:
    found = re.findall(f"{re.escape(start)}(.*?){re.escape(end)}", PAGE, re.DOTALL)
    assert len(found) == 1
    return str(found[0])


@pytest.mark.parametrize("tag", ["script", "style"])
def test_the_policy_names_the_hash_of_what_stands_in_the_page(tag: str) -> None:
    digest = hashlib.sha256(between(f"<{tag}>", f"</{tag}>").encode()).digest()
    assert f"{tag}-src 'sha256-{base64.b64encode(digest).decode()}'" in POLICY


def test_nothing_comes_from_outside() -> None:
    addresses = re.findall(r"""(?:src|href|url|action)\s*[=(]\s*["']?([^"'\s)>]+)""", PAGE)
    assert {address for address in addresses if not address.startswith(("#", "data:image/svg+xml,"))} == set()
    assert set(re.findall(r"https?://[^'\s\"]+", PAGE)) == {"http://www.w3.org/2000/svg"}  # a namespace


def test_no_text_is_ever_made_html() -> None:
    script = between("<script>", "</script>")
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        "DOMParser",
    ):
        assert word not in script
    assert not re.findall(r"\son\w+\s*=", PAGE), "an event handler in the markup"
    assert " style=" not in PAGE


@pytest.mark.parametrize("state", HealthState)
def test_each_state_has_a_shape_and_a_colour_of_its_own(state: HealthState) -> None:
    assert f'<symbol id="i-{state}"' in PAGE
    assert f'[data-state="{state}"] {{ --badge: var(--{state}); --badge-ground: var(--{state}-ground); }}' in PAGE
    assert len(re.findall(rf"--{state}: #[0-9a-f]{{6}}; --{state}-ground: #[0-9a-f]{{6}};", PAGE)) == 2, (
        "light and dark"
    )


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("text", "ground"),
    [*((str(state), f"{state}-ground") for state in HealthState), ("text", "surface"), ("muted", "surface"),
     ("muted", "ground"), ("muted", "raised"), ("failing", "surface"), ("failing", "ground"), ("on-accent", "accent")],
)  # fmt: skip
def test_all_text_can_be_read_on_its_ground(text: str, ground: str, theme: int) -> None:
    colours = [re.findall(rf"--{name}: (#[0-9a-f]{{6}});", PAGE)[theme] for name in (text, ground)]
    assert contrast(*colours) >= 4.5


def test_the_script_knows_only_outcomes_that_there_are() -> None:
    known = set(re.findall(r'case "(\w+)"', between("<script>", "</script>")))
    assert known
    assert known <= {str(outcome) for outcome in Outcome}
