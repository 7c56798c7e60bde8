"""One instrument per provider and name, whose one callback reads the plain integers of all who count.

A synchronous ``add`` costs microseconds; an integer costs nothing, and is read when somebody exports or scrapes. The
SDK takes one observable of a name and drops a second one silently, so that all services of a provider share it::

    services, lockers  --own-->  a meter  --counts in-->  a tally  <--read by--  the registry of the provider
            (loop, or the session's thread)                             (the exporter's thread)

A registry holds tallies strongly and their meters weakly. When a meter is gone, with its service or locker, its tally
is read for the last time: where others of its name go on, its counters are added to theirs, because the sum must not
fall; where none does, the series end.

Invariants:

1. Each number of a tally has one thread that writes it; nobody changes the keys of its dicts.
2. The lock of a registry is taken to register, and in the exporter's thread; no tick waits for it.
3. Two series never have the same attributes: counters add up, gauges show the greatest.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Protocol, TypeAlias

from opentelemetry.metrics import MeterProvider, NoOpMeter, Observation, get_meter_provider

from ._guard import Guard
from ._names import INSTRUMENTS, SCOPE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.metrics import CallbackOptions, Histogram, Meter

    from ._names import Instrument

    #: What an instrument shows of one tally: the values of its attributes, and a number.
    Reading: TypeAlias = tuple[tuple[str, ...], float]


class Tally(Protocol):
    """What somebody counts."""

    @property
    def group(self) -> str:
        """The name under which tallies belong together."""
        ...

    def read(self, instrument: Instrument) -> Iterator[Reading]:
        """Say what the instrument shows; nothing if it is not about this kind of tally, or nothing is known."""
        ...


class _Group:
    """The tallies of one name: those whose meters live, and the sums that the others left."""

    def __init__(self) -> None:
        self.live: dict[weakref.ref[object], Tally] = {}
        self.left: dict[Instrument, dict[tuple[str, ...], float]] = {}


class Registry:
    """The instruments of one provider, and all that they read. See `registry_of`."""

    def __init__(self, provider: MeterProvider | None) -> None:
        self.guard = Guard("all services of a meter provider")
        self._provider = None if provider is None else weakref.ref(provider)
        self._lock = threading.Lock()
        self._groups: dict[str, _Group] = {}
        self._gone: deque[weakref.ref[object]] = deque()  # filled by the garbage collector, which must not wait
        self._group_of: dict[weakref.ref[object], str] = {}
        meter = self._meter_of(get_meter_provider() if provider is None else provider)
        self._histograms = {each: self._histogram(meter, each) for each in INSTRUMENTS if each.kind == "histogram"}
        for each in INSTRUMENTS:
            if each.kind != "histogram":
                self._observe(meter, each)

    def histogram(self, instrument: Instrument) -> Histogram:
        """Return the histogram of that description."""
        return self._histograms[instrument]

    def add(self, owner: object, tally: Tally) -> None:
        """Show a tally for as long as its owner lives."""
        with self._lock:
            self._reap()
            reference = weakref.ref(owner, self._gone.append)
            self._group_of[reference] = tally.group
            self._groups.setdefault(tally.group, _Group()).live[reference] = tally

    def readings(self, instrument: Instrument) -> list[Reading]:
        """Return what all tallies say to an instrument, those that are gone but not forgotten included."""
        with self._lock:
            self._reap()
            readings: list[Reading] = []
            for group in self._groups.values():
                readings += group.left.get(instrument, {}).items()
                for tally in group.live.values():
                    readings += tally.read(instrument)
            return readings

    def _reap(self) -> None:
        while self._gone:
            reference = self._gone.popleft()
            name = self._group_of.pop(reference)
            group = self._groups[name]
            tally = group.live.pop(reference)
            if not group.live:
                del self._groups[name]
                continue
            for instrument in INSTRUMENTS:
                if instrument.kind == "counter":
                    left = group.left.setdefault(instrument, {})
                    for key, value in tally.read(instrument):
                        left[key] = left.get(key, 0) + value

    def _observed(self, instrument: Instrument, _options: CallbackOptions) -> list[Observation]:
        """Be the callback of an observable."""
        merged: dict[tuple[str, ...], float] = {}
        for registry in self._registries():
            for key, value in registry.readings(instrument):
                if key not in merged:
                    merged[key] = value
                elif instrument.kind == "counter":
                    merged[key] += value
                else:
                    merged[key] = max(merged[key], value)
        return [Observation(value, dict(zip(instrument.attributes, key, strict=True))) for key, value in merged.items()]

    def _registries(self) -> Iterator[Registry]:
        """Yield this one, and the other one of the provider if that is the global one and was passed in somewhere too.

        Either may have got the provider's instruments, and the other one's were dropped.
        """
        yield self
        provider = get_meter_provider()
        if self._provider is None:
            other = _of_providers.get(provider)
        else:
            other = _globally.get("") if self._provider() is provider else None
        if other is not None:
            yield other

    def _meter_of(self, provider: MeterProvider) -> Meter:
        try:
            return provider.get_meter(SCOPE, package_version())
        except Exception as error:
            self.guard.failed("making a meter", error)
            return NoOpMeter(SCOPE)

    def _histogram(self, meter: Meter, instrument: Instrument) -> Histogram:
        name, unit, description = instrument.name, instrument.unit, instrument.description
        try:
            return meter.create_histogram(
                name, unit, description, explicit_bucket_boundaries_advisory=instrument.boundaries
            )
        except Exception as error:
            self.guard.failed("making a histogram", error)
            return NoOpMeter(SCOPE).create_histogram(name, unit, description)

    def _observe(self, meter: Meter, instrument: Instrument) -> None:
        create: Callable[..., object] = (
            meter.create_observable_counter if instrument.kind == "counter" else meter.create_observable_gauge
        )
        callbacks = [partial(self._observed, instrument)]
        try:
            create(instrument.name, callbacks, instrument.unit, instrument.description)
        except Exception as error:
            self.guard.failed("making an observable instrument", error)


_lock = threading.Lock()
_of_providers: weakref.WeakKeyDictionary[MeterProvider, Registry] = weakref.WeakKeyDictionary()
_globally: dict[str, Registry] = {}  # of the global provider, whichever that is or will be: none, or one under ""


def registry_of(provider: MeterProvider | None) -> Registry:
    """Return the registry of a provider; None: of the global one, also if that is set later."""
    with _lock:
        registry = _globally.get("") if provider is None else _of_providers.get(provider)
        if registry is None:
            registry = Registry(provider)
            if provider is None:
                _globally[""] = registry
            else:
                _of_providers[provider] = registry
        return registry


@cache
def package_version() -> str:
    """Return the version of this package; "" where it runs without having been installed."""
    try:
        return version("tickrunner-trio")
    except PackageNotFoundError:
        return ""
