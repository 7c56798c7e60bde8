"""The kit as a package: what it offers, and what it does where Hypothesis is not installed."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

from tickrunner_trio import testing

#: What may come with a plain import; the others wait for the first use.
OF_HYPOTHESIS = {"HealthStateMachine", "strategies"}

WITHOUT_HYPOTHESIS = """
import sys
sys.modules["hypothesis"] = None  # any import of it fails
import tickrunner_trio.testing as testing
"""


def said_by(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip()


def test_both_ways_to_get_at_it_find_the_same() -> None:
    from tickrunner_trio.testing import HealthStateMachine, strategies  # noqa: PLC0415 - this is what is tested

    assert testing.HealthStateMachine is HealthStateMachine
    assert testing.strategies is strategies
    assert isinstance(strategies, ModuleType)


def test_everything_is_listed_and_there() -> None:
    public = {name for name in dir(testing) if not name.startswith("_")}
    assert public >= OF_HYPOTHESIS | {"Judged", "ScriptedWork", "ScriptedGate", "ScriptedHook"}
    for name in public:
        assert getattr(testing, name) is not None


def test_what_it_has_not_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'tickrunner_trio\.testing' has no attribute 'Machine'$"):
        testing.Machine  # type: ignore[attr-defined]  # noqa: B018 - raises


def test_hypothesis_is_loaded_only_by_what_needs_it() -> None:
    program = "import sys, tickrunner_trio.testing as t; t.Judged; dir(t); print('hypothesis' in sys.modules)"
    assert said_by(program) == "False"


@pytest.mark.parametrize("name", sorted(OF_HYPOTHESIS))
@pytest.mark.parametrize("use", ["testing.{}", "from tickrunner_trio.testing import {}"])
def test_without_hypothesis_the_error_says_how_to_get_it(name: str, use: str) -> None:
    said = said_by(WITHOUT_HYPOTHESIS + use.format(name)).splitlines()[-1]
    remedy = "needs Hypothesis, which is not installed: pip install 'tickrunner-trio[testing]'"
    assert said == f"ImportError: tickrunner_trio.testing.{name} {remedy}"


def test_without_hypothesis_the_rest_works() -> None:
    program = WITHOUT_HYPOTHESIS + "print(testing.ScriptedWork(seconds=5), 'strategies' in dir(testing))"
    assert said_by(program) == "ScriptedWork(seconds=5, error=None) True"


def test_another_module_that_is_missing_is_not_put_down_to_hypothesis() -> None:
    program = 'import sys, tickrunner_trio.testing as t\nsys.modules["tickrunner_trio._audit"] = None\nt.strategies'
    assert said_by(program).splitlines()[-1].startswith("ModuleNotFoundError: import of tickrunner_trio._audit halted")
