"""Who counts what: a service its ticks, a locker its sessions. How the numbers get out is `_registry`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.metrics import MeterProvider

from .._outcome import Outcome
from . import _names as names
from ._registry import registry_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime

    from .._health import RunningHealth
    from ..abc import Lease
    from ._names import Instrument
    from ._registry import Reading


_OUTCOMES = tuple(Outcome)
_PLACES = {outcome: place for place, outcome in enumerate(_OUTCOMES)}


class _ServiceTally:
    """What is known of a service, for the registry to read in whatever thread."""

    __slots__ = ("enabled", "group", "health", "interval", "leases", "missed", "overstayed", "started_at", "ticks")

    def __init__(self, name: str, health: RunningHealth, interval: float, enabled: int | None) -> None:
        self.group = name
        self.interval = interval
        self.health = health
        self.enabled = enabled  #: What the gate last said; None: it was not asked yet.
        self.started_at: float | None = None  #: Unix time; None while `Service.run` is not under way.
        self.ticks = [0] * len(_OUTCOMES)  #: By place in `_OUTCOMES`; a dict takes 350 bytes, this 130.
        self.missed = 0
        self.leases: tuple[Lease, ...] = ()  #: Under which somebody works or holds on; replaced as a whole.
        self.overstayed = 0  #: The one number that the session's thread writes.

    def read(self, instrument: Instrument) -> Iterator[Reading]:
        if instrument is names.TICKS:
            for outcome, count in zip(_OUTCOMES, self.ticks, strict=True):
                yield (self.group, outcome.result, outcome.value), count
        elif (shown := _SHOWN.get(instrument)) is not None and (value := shown(self)) is not None:
            yield (self.group,), value


#: What the instruments of a service show, but for its ticks; None: nothing yet.
_SHOWN: dict[Instrument, Callable[[_ServiceTally], float | None]] = {
    names.MISSED: lambda tally: tally.missed,
    names.LAST_SUCCESS: lambda tally: _unix_time(tally.health.now().last_success),
    names.LAST_TICK: lambda tally: _unix_time(tally.health.now().last_tick),
    names.STARTED: lambda tally: tally.started_at,
    names.INTERVAL: lambda tally: tally.interval,
    names.ENABLED: lambda tally: tally.enabled,
    names.FAILURES: lambda tally: tally.health.now().consecutive_failures,
    names.HELD: lambda tally: int(_is_held(tally.leases)),
    names.OVERSTAYED: lambda tally: tally.overstayed,
}


def _is_held(leases: tuple[Lease, ...]) -> bool:
    """Whether one of the locks is held still: a hold may have ended by itself, long before who held on wakes up."""
    for lease in leases:
        try:
            if not lease.lost:
                return True
        except Exception:  # a lease may be anybody's; one that does not say counts as held
            return True
    return False


def _unix_time(at: datetime | None) -> float | None:
    return None if at is None else at.timestamp()


class ServiceMeter:
    """Counts what a service does, and records how long it takes.

    Args:
        name: of the service.
        health: of the service.
        interval: seconds from slot to slot.
        has_gate: whether it can be disabled.
        provider: None: the global one.
    """

    __slots__ = ("__weakref__", "_tally", "_times")

    def __init__(
        self, name: str, health: RunningHealth, interval: float, *, has_gate: bool, provider: MeterProvider | None
    ) -> None:
        registry = registry_of(checked_meter_provider(provider))
        self._tally = _ServiceTally(name, health, interval, None if has_gate else 1)
        self._times = registry.times
        registry.add(self, self._tally)

    def run_is_under_way(self, started_at: float | None) -> None:
        """Take the Unix time at which `Service.run` was entered; None when it has ended in order."""
        self._tally.started_at = started_at

    def gate_said(self, *, is_open: bool) -> None:
        """Take what the gate said; one that raised counts as open, since its ticks fail."""
        self._tally.enabled = int(is_open)

    def slots_missed(self, count: int) -> None:
        """Count slots that passed without a tick."""
        self._tally.missed += count

    def lock_was_had(self, lease: Lease) -> None:
        """Take the lease under which somebody works or holds on from now on."""
        self._tally.leases = (*self._tally.leases, lease)

    def lock_was_let_go(self, lease: Lease) -> None:
        """Forget it."""
        leases = self._tally.leases
        self._tally.leases = () if len(leases) == 1 else tuple(each for each in leases if each is not lease)

    def count_overstay(self) -> None:
        """Count work that goes on longer than it may after its lock was lost. For the session's thread."""
        self._tally.overstayed += 1

    def counted(self) -> tuple[dict[Outcome, int], int, bool]:
        """Return how many ticks ended in each outcome, the slots missed, and whether the lock is held. Any thread."""
        ticks = dict(zip(_OUTCOMES, self._tally.ticks, strict=True))
        return ticks, self._tally.missed, _is_held(self._tally.leases)

    def judged(self, outcome: Outcome, *, asked_for: float | None, duration: float, lateness: float | None) -> None:
        """Count a tick and record its times, all at once: what ran between them would make each cost twice as much.

        Args:
            outcome: of the tick.
            asked_for: seconds from asking the locker to the work's start or to the refusal; None: it was not asked.
            duration: seconds from the work's start to the judgement.
            lateness: seconds from the slot to the work's start; None: there is no slot.
        """
        tally = self._tally
        tally.ticks[_PLACES[outcome]] += 1
        self._times.add(tally.group, outcome, asked_for, duration, lateness)


class SessionTally:
    """What a locker counts of its sessions; its session's thread alone writes here.

    Args:
        reasons: all reasons for which a session is ever lost: a small closed set, each counted from zero.
    """

    __slots__ = ("group", "lost", "opened")

    def __init__(self, reasons: Iterable[str]) -> None:
        self.group = ""  # no service has an empty name
        self.opened = 0
        self.lost = {str(reason): 0 for reason in reasons}  # members of an enum would be series of their own kind

    def read(self, instrument: Instrument) -> Iterator[Reading]:
        if instrument is names.SESSIONS:
            yield (), self.opened
        elif instrument is names.SESSIONS_LOST:
            for reason, count in self.lost.items():
                yield (reason,), count


class LockerMeter:
    """Shows a tally of sessions for as long as the locker that owns this lives."""

    def __init__(self, tally: SessionTally, provider: MeterProvider | None) -> None:
        registry_of(checked_meter_provider(provider)).add(self, tally)


def checked_meter_provider(provider: object) -> MeterProvider | None:
    """Return it if it is one, or None for the global one.

    Raises:
        TypeError: it is neither.
    """
    if provider is None or isinstance(provider, MeterProvider):
        return provider
    raise TypeError(
        f"meter_provider must be an opentelemetry.metrics.MeterProvider, got {provider!r}: "
        "leave it out to use the global one"
    )
