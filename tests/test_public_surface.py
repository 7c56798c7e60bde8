"""The public names, as other programs are written against them: all of the design, and nothing else."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from types import ModuleType
from typing import Any

import public_surface
import pytest

import tickrunner_trio
from tickrunner_trio import Config, HealthState, MemoryLocker, Outcome, Tick, TickReport, WorkerHealth, bridges, lockers

NAMES = {
    *("Config", "Service", "Supervisor", "Tick", "TickReport", "Outcome", "WorkerHealth", "HealthState"),
    *("ServiceStatistics", "ClusterHealth", "PastRun", "PostgresLedger"),
    *("AdvisoryLocker", "Lease", "MemoryLocker", "PostgresLocker"),
    *("LockLostError", "DatabaseUnavailableError", "LockerConfigurationError", "ServicePausedError"),
    *("component_logger", "TickContextFilter", "request_id", "lock_id_for"),
    *("handle_pass_result", "QuotaMetricsRefresher"),
    *("MSG_PASS_FAILED", "MSG_PASS_COMPLETED", "MSG_QUOTA_METRICS_REFRESH_FAILED"),
}


def public() -> dict[str, Any]:
    found = {name: getattr(tickrunner_trio, name) for name in dir(tickrunner_trio) if not name.startswith("_")}
    return {name: value for name, value in found.items() if not isinstance(value, ModuleType)}


def test_the_public_names_are_those_of_the_design() -> None:
    assert public().keys() == NAMES


def test_a_star_imports_them_all_whether_they_were_loaded_or_not() -> None:
    program = "from tickrunner_trio import *; print(*(name for name in dir() if name[0] != '_'))"
    assert set(run([sys.executable, "-c", program]).split()) == NAMES
    assert set(lockers.__all__) == {name for name in dir(lockers) if name[0].isupper()}


def run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_public_surface_is_what_was_reviewed() -> None:
    committed = public_surface.FILE.read_text(encoding="utf-8")
    assert public_surface.surface() == committed, (
        "the public interface has changed: if that is meant, write it anew by 'python tests/public_surface.py', "
        "review the difference, and tell of it in newsfragments/"
    )


def members() -> list[tuple[str, Any]]:
    """Public classes and functions, and the public methods and properties that the classes define."""
    found: list[tuple[str, Any]] = []
    for name, value in public().items():
        if inspect.isclass(value) or inspect.isfunction(value):
            found.append((name, value))
        if inspect.isclass(value):
            found += [
                (f"{name}.{attribute}", member)
                for attribute, member in vars(value).items()
                if not attribute.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
            ]
    return found


@pytest.mark.parametrize(("name", "value"), members())
def test_it_says_what_it_promises(name: str, value: object) -> None:
    # `inspect.getdoc` would take an inherited one for its own; an override of the standard library may rely on it.
    own = value.__doc__ or (name == "TickContextFilter.filter" and inspect.getdoc(value))
    assert own
    assert not own.startswith(f"{name}(")  # what dataclass writes when nobody does


@pytest.mark.parametrize("name", ["asyncio_work", "thread_work"])
def test_the_bridges_are_public_beside_it_and_say_what_they_promise(name: str) -> None:
    assert sorted(bridges.__all__) == ["asyncio_work", "thread_work"]
    assert "Cancellation handling:" in (getattr(bridges, name).__doc__ or "")
    assert next(iter(inspect.signature(getattr(bridges, name)).parameters)) == "fn"


@pytest.mark.parametrize("name", [name for name, value in public().items() if callable(value)])
def test_it_says_that_it_comes_from_this_package(name: str) -> None:
    assert public()[name].__module__.split(".")[0] == "tickrunner_trio"


def test_the_signatures_are_those_of_the_design() -> None:
    assert list(inspect.signature(Config).parameters) == [
        *("name", "interval", "locker", "work", "lock_id", "log", "should_run", "startup", "on_error", "tick_timeout"),
        "cadence",
    ]
    assert {parameter.kind for parameter in inspect.signature(Config).parameters.values()} == {
        inspect.Parameter.KEYWORD_ONLY
    }
    assert [field.name for field in dataclasses.fields(Tick)] == [
        *("service", "lock_id", "request_id", "number", "scheduled_at", "started_at", "epoch", "forced", "log"),
    ]
    assert [field.name for field in dataclasses.fields(TickReport)] == [
        *("service", "number", "request_id", "outcome", "error", "scheduled_at", "started_at", "duration", "lateness"),
        *("epoch", "forced"),
    ]
    assert [field.name for field in dataclasses.fields(WorkerHealth)] == [
        *("name", "state", "last_success", "last_failure", "last_tick", "last_error", "consecutive_failures"),
        "last_outcome",
    ]


@pytest.mark.parametrize("enum", [Outcome, HealthState])
def test_members_are_upper_case_and_values_lower(enum: type[Outcome | HealthState]) -> None:
    assert all(member.name == member.name.upper() for member in enum)
    assert all(member.value == member.name.lower() for member in enum)


async def nothing(tick: Tick) -> None:
    """Work that does nothing."""


@pytest.mark.parametrize(
    "value",
    [
        Config(name="sweep", interval=60, locker=MemoryLocker(), work=nothing),
        WorkerHealth("sweep"),
        Tick.__new__(Tick),
        TickReport.__new__(TickReport),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_are_frozen(value: Any) -> None:
    for field in dataclasses.fields(value):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field.name, None)
