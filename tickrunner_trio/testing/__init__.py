"""What the users of the library test with: services under faults, lockers of their own, reporters of health.

* `Cluster`: replicas of one's services in virtual time, over one lock world, under faults (`Kill`, `Freeze`,
  `Partition`, `ClockOffset`, `DatabaseAway`, `DropSession`, `Drain`, `Start`); its `Timeline` judges what happened.
* `ScriptedLocker`: a locker whose answers are planned (`Grant`, `Busy`, `Unavailable`, `Fails`), and which writes down
  what was asked of it (`LockAttempt`).
* `check_advisory_locker`: holds a locker of anybody's to all that `AdvisoryLocker` promises.
* `strategies`: values for Hypothesis, from names to whole plans of faults. A failing example prints as something that
  a person would write, and what is printed evaluates: `Judged` is an entry of a history, `TextlessError` an
  error without a text, `ScriptedWork`, `ScriptedGate` and `ScriptedHook` are the callables of a `Config`.
* `HealthStateMachine`: holds a reporter of health, the library's or one's own, to the promises of `WorkerHealth`.
* `MemoryTelemetry`: OpenTelemetry providers that keep what they get.

`strategies` and `HealthStateMachine` need Hypothesis (``pip install 'tickrunner-trio[testing]'``), `MemoryTelemetry`
the SDK (``[otel]``); they load on first use, and nothing else needs either. The fixtures are in `pytest_plugin`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from ._cluster import Cluster as Cluster
from ._conformance import BrokenPromiseError as BrokenPromiseError
from ._conformance import LockerReport as LockerReport
from ._conformance import SkippedPromise as SkippedPromise
from ._conformance import check_advisory_locker as check_advisory_locker
from ._faults import ClockOffset as ClockOffset
from ._faults import DatabaseAway as DatabaseAway
from ._faults import Drain as Drain
from ._faults import DropSession as DropSession
from ._faults import Fault as Fault
from ._faults import Freeze as Freeze
from ._faults import Kill as Kill
from ._faults import Partition as Partition
from ._faults import Start as Start
from ._health_promises import HealthView as HealthView
from ._history import Judged as Judged
from ._history import TextlessError as TextlessError
from ._lock_server import Hold as Hold
from ._scripted import LockAttempt as LockAttempt
from ._scripted import ScriptedLocker as ScriptedLocker
from ._scripted_callables import ScriptedGate as ScriptedGate
from ._scripted_callables import ScriptedHook as ScriptedHook
from ._scripted_callables import ScriptedWork as ScriptedWork
from ._steps import Busy as Busy
from ._steps import Fails as Fails
from ._steps import Grant as Grant
from ._steps import Step as Step
from ._steps import Unavailable as Unavailable
from ._timeline import Run as Run
from ._timeline import ServiceFacts as ServiceFacts
from ._timeline import Skip as Skip
from ._timeline import Stay as Stay
from ._timeline import Timeline as Timeline

if TYPE_CHECKING:
    from . import strategies as strategies
    from ._health_machine import HealthStateMachine as HealthStateMachine
    from ._memory_telemetry import MemoryTelemetry as MemoryTelemetry


class _Optional(NamedTuple):
    module: str  #: Where the name is; of the same name: it is the module itself.
    needs: str  #: What the module imports.
    says: str  #: The same to a reader.
    extra: str  #: What brings it.


_OPTIONAL = {
    "strategies": _Optional("strategies", "hypothesis", "Hypothesis", "testing"),
    "HealthStateMachine": _Optional("_health_machine", "hypothesis", "Hypothesis", "testing"),
    "MemoryTelemetry": _Optional("_memory_telemetry", "opentelemetry.sdk", "the SDK of OpenTelemetry", "otel"),
}


def __getattr__(name: str) -> object:
    if name not in _OPTIONAL:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module_name, needs, says, extra = _OPTIONAL[name]
    try:
        module = import_module(f".{module_name}", __name__)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{error.name}.".startswith(f"{needs}."):
            raise
        message = f"{__name__}.{name} needs {says}, which is not installed: pip install 'tickrunner-trio[{extra}]'"
        raise ImportError(message, name=needs) from error
    value: object = module if name == module_name else getattr(module, name)
    globals()[name] = value  # found at once from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_OPTIONAL})
