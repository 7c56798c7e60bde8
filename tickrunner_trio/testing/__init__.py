"""What the users of the library test with: their services under faults, their lockers, their health reporters.

* `strategies`: values for Hypothesis, from names to whole histories. A failing example prints as something that a
  person would write, and what is printed evaluates.
* `HealthStateMachine`: holds a health reporter, the library's or your own, to the promises of `WorkerHealth`.
* `Judged`: one entry of a history, as `strategies.histories` draws it.
* `ScriptedWork`, `ScriptedGate`, `ScriptedHook`: the callables of a `Config` as values that do as they say.

The first two need Hypothesis (``pip install 'tickrunner-trio[testing]'``) and load on first use; nothing else does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ._history import Judged as Judged
from ._scripted_callables import ScriptedGate as ScriptedGate
from ._scripted_callables import ScriptedHook as ScriptedHook
from ._scripted_callables import ScriptedWork as ScriptedWork

if TYPE_CHECKING:
    from . import strategies as strategies
    from ._health_machine import HealthStateMachine as HealthStateMachine

# Name to module, and whether the name is the module itself. Each of them imports Hypothesis.
_OF_HYPOTHESIS = {"strategies": "strategies", "HealthStateMachine": "_health_machine"}


def __getattr__(name: str) -> object:
    if name not in _OF_HYPOTHESIS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(f".{_OF_HYPOTHESIS[name]}", __name__)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "hypothesis":
            raise
        message = f"{__name__}.{name} needs Hypothesis, which is not installed: pip install 'tickrunner-trio[testing]'"
        raise ImportError(message, name="hypothesis") from error
    value: object = module if name == _OF_HYPOTHESIS[name] else getattr(module, name)
    globals()[name] = value  # found at once from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_OF_HYPOTHESIS})
