"""What can go wrong in a simulated cluster: frozen values that print as somebody would write them."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeAlias, cast, get_args

if TYPE_CHECKING:
    from collections.abc import Iterable


class Fault:
    """Something that goes wrong at a certain time. Its kinds are frozen dataclasses.

    Raises:
        TypeError: a field is no number, or ``replica`` no str.
        ValueError: a time is negative or not finite, or ``seconds`` is not above 0.
    """

    __slots__ = ()

    at: float  #: Virtual seconds after the beginning.

    def __post_init__(self) -> None:
        for name, value in _fields_of(self):
            where = f"{name} of {type(self).__name__}"
            if name == "replica":
                if not isinstance(value, str):
                    raise TypeError(f"{where} must be a str, got {value!r}: write it as 'r1'")
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{where} must be a number of seconds, got {value!r}: write one, such as 30")
            if not math.isfinite(value):
                raise ValueError(f"{where} must be a finite number of seconds, got {value!r}: write one, such as 30")
            if name == "at" and value < 0:
                raise ValueError(
                    f"{where} must be 0 or more seconds after the start, got {value!r}: choose a later time"
                )
            if name == "seconds" and value <= 0 and not isinstance(self, ClockOffset):
                raise ValueError(f"{where} must be above 0, got {value!r}: leave the fault out, or let it last longer")

    def __repr__(self) -> str:
        shown = [repr(value) if name == "replica" else f"{name}={_short(value)}" for name, value in _fields_of(self)]
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass(frozen=True, slots=True, repr=False)
class Kill(Fault):
    """The process is killed (SIGKILL): it does nothing more, no clean-up runs, the kernel closes its connection."""

    replica: str
    at: float


@dataclass(frozen=True, slots=True, repr=False)
class Freeze(Fault):
    """The process stands still for so many seconds (SIGSTOP to SIGCONT), while time goes on for all others."""

    replica: str
    at: float
    seconds: float


@dataclass(frozen=True, slots=True, repr=False)
class Partition(Fault):
    """The replica is cut off from the locks for so many seconds, silently: nothing arrives, and nobody says so."""

    replica: str
    at: float
    seconds: float


@dataclass(frozen=True, slots=True, repr=False)
class ClockOffset(Fault):
    """The replica's clock on the wall is wrong by so many seconds from then on; 0 sets it right, below 0 it is late."""

    replica: str
    at: float
    seconds: float


@dataclass(frozen=True, slots=True, repr=False)
class DropSession(Fault):
    """The server ends the session that holds the replica's locks, as ``pg_terminate_backend`` does, and says so."""

    replica: str
    at: float


@dataclass(frozen=True, slots=True, repr=False)
class DatabaseAway(Fault):
    """The server is away for so many seconds: all sessions end at once, and connections are refused."""

    at: float
    seconds: float


@dataclass(frozen=True, slots=True, repr=False)
class Drain(Fault):
    """The replica is drained, as a deployment does: work in flight finishes, then its process ends."""

    replica: str
    at: float


@dataclass(frozen=True, slots=True, repr=False)
class Start(Fault):
    """A process of the replica starts; one whose first fault this is did not run before. Others start at 0."""

    replica: str
    at: float


#: Each kind by its name, for those who must tell all of them apart.
AnyFault: TypeAlias = Kill | Freeze | Partition | ClockOffset | DropSession | DatabaseAway | Drain | Start

KINDS: tuple[type[AnyFault], ...] = get_args(AnyFault)


def ends_at(fault: Fault) -> float:
    """Return when what the fault does is undone; its moment, if there is nothing to undo."""
    match fault:
        case Freeze() | Partition() | DatabaseAway():
            return fault.at + fault.seconds
        case _:
            return fault.at


def replica_of(fault: Fault) -> str | None:
    """Return whom it concerns; None: everybody."""
    return getattr(fault, "replica", None)


def lifecycle(replica: str, faults: Iterable[Fault]) -> list[Kill | Drain | Start]:
    """Return what ends and starts processes of the replica, in order of time."""
    own = [fault for fault in faults if isinstance(fault, Kill | Drain | Start) and fault.replica == replica]
    return sorted(own, key=lambda fault: fault.at)


def is_up_at_first(replica: str, faults: Iterable[Fault]) -> bool:
    """Whether it is there from the beginning."""
    changes = lifecycle(replica, faults)
    return not changes or not isinstance(changes[0], Start)


def _fields_of(fault: Fault) -> list[tuple[str, object]]:
    return [(field.name, getattr(fault, field.name)) for field in fields(cast("Any", fault))]


def _short(seconds: object) -> str:
    return repr(int(seconds)) if isinstance(seconds, float) and seconds.is_integer() else repr(seconds)
