"""One instrument per provider and name, whose one callback reads the plain integers of all who count.

A synchronous ``add`` costs microseconds; an integer costs nothing, and is read when somebody exports or scrapes. The
SDK takes one observable of a name and drops a second one silently, so that all services of a provider share it::

    services, lockers  --own-->  a meter  --counts in-->  a tally  <--read by--  the registry of the provider
            (loop, or the session's thread)                             (the exporter's thread)

A registry holds tallies strongly and their meters weakly. When a meter is gone, with its service or locker, its tally
is read for the last time, and what must not fall is kept under its name: counters, and the times of what was last. With
the last meter of a name its series end. When one of that name is made again, they go on from what was kept, because the
SDK keeps their last values: a sum that begins anew would be a negative difference where deltas are exported.

Invariants:

1. Each number of a tally has one thread that writes it; nobody changes the keys of its dicts.
2. The lock of a registry is taken to register, and in the exporter's thread; no tick waits for it.
3. Two series never have the same attributes: counters add up, gauges show the greatest.
4. Each tally is counted once, as long as it lives and after: a group is replaced as a whole.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from opentelemetry.metrics import MeterProvider, NoOpMeter, Observation, get_meter_provider

from .._version import __version__
from ._guard import Guard
from ._names import ACQUIRE, DURATION, INSTRUMENTS, LAST_SUCCESS, LAST_TICK, LATE, SCOPE
from ._times import Times

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.metrics import CallbackOptions, Histogram, Meter

    from ._names import Instrument

    #: What an instrument shows of one tally: the values of its attributes, and a number.
    Reading: TypeAlias = tuple[tuple[str, ...], float]


#: What only ever grows, so that it outlives who counted.
_LASTING = tuple(each for each in INSTRUMENTS if each.kind == "counter" or each in (LAST_SUCCESS, LAST_TICK))

#: For so many names it is kept. The SDK has no more series of an instrument, unless it is told to.
_MOST_NAMES = 2000


class Tally(Protocol):
    """What somebody counts."""

    @property
    def group(self) -> str:
        """The name under which tallies belong together."""
        ...

    def read(self, instrument: Instrument) -> Iterator[Reading]:
        """Say what the instrument shows; nothing if it is not about this kind of tally, or nothing is known."""
        ...


class _Group(NamedTuple):
    """The tallies of one name: those whose meters live, and what the others left."""

    live: dict[weakref.ref[object], Tally]
    left: dict[Instrument, dict[tuple[str, ...], float]]


class Registry:
    """The instruments of one provider, and all that they read. See `registry_of`."""

    def __init__(self, provider: MeterProvider | None) -> None:
        self.guard = Guard("all services of a meter provider")
        self._provider = None if provider is None else weakref.ref(provider)
        # A signal handler may flush, and so read, in the middle of anything below, in the same thread.
        self._lock = threading.RLock()
        self._is_reaping = False
        self._groups: dict[str, _Group] = {}
        self._gone: deque[weakref.ref[object]] = deque()  # filled by the garbage collector, which must not wait
        self._group_of: dict[weakref.ref[object], str] = {}
        meter = self._meter_of(provider)
        self._has_meter = not isinstance(meter, NoOpMeter)
        #: Of the ticks of all its services.
        self.times = Times(
            acquire=self._histogram(meter, ACQUIRE),
            duration=self._histogram(meter, DURATION),
            late=self._histogram(meter, LATE),
            guard=self.guard,
            has_sdk=self._has_sdk,
        )
        for each in INSTRUMENTS:
            if each.kind != "histogram":
                self._observe(meter, each)

    def add(self, owner: object, tally: Tally) -> None:
        """Show a tally for as long as its owner lives."""
        with self._lock:
            self._reap()
            reference = weakref.ref(owner, self._gone.append)
            self._group_of[reference] = tally.group
            self._groups.setdefault(tally.group, _Group({}, {})).live[reference] = tally

    def readings(self, instrument: Instrument) -> list[Reading]:
        """Return what all tallies say to an instrument, and what others of their names left."""
        with self._lock:
            self._reap()
            readings: list[Reading] = []
            for group in list(self._groups.values()):  # a copy: who interrupts this may let go of some
                if group.live:
                    readings += group.left.get(instrument, {}).items()
                for tally in group.live.values():
                    readings += tally.read(instrument)
            return readings

    def _reap(self) -> None:
        if self._is_reaping:  # by the code that a signal handler has interrupted, which will go on with it
            return
        self._is_reaping = True
        try:
            while self._gone:
                self._let_go(self._gone.popleft())
        finally:
            self._is_reaping = False

    def _let_go(self, reference: weakref.ref[object]) -> None:
        """Read a tally for the last time."""
        name = self._group_of.pop(reference)
        group = self._groups[name]
        live = dict(group.live)
        tally = live.pop(reference)
        left = {instrument: dict(values) for instrument, values in group.left.items()}
        for instrument in _LASTING:
            for key, value in tally.read(instrument):
                if value:
                    _merge(left.setdefault(instrument, {}), instrument, key, value)
        if live or (left and len(self._groups) <= _MOST_NAMES):
            self._groups[name] = _Group(live, left)
        else:
            del self._groups[name]

    def _observed(self, instrument: Instrument, _options: CallbackOptions) -> list[Observation]:
        """Be the callback of an observable."""
        merged: dict[tuple[str, ...], float] = {}
        for registry in self._registries():
            registry.times.record()  # before the histograms are collected
            for key, value in registry.readings(instrument):
                _merge(merged, instrument, key, value)
        return [Observation(value, dict(zip(instrument.attributes, key, strict=True))) for key, value in merged.items()]

    def _registries(self) -> Iterator[Registry]:
        """Yield this one, and the other one of the provider if that is the global one and was passed in somewhere too.

        Either may have got the provider's instruments, and the other one's were dropped.
        """
        yield self
        if self._provider is None:
            provider = self._global_provider()
            other = None if provider is None else _of_providers.get(provider)
        else:
            other = _of_providers.get(_THE_GLOBAL_ONE)
            if other is not None and self._provider() is not self._global_provider():
                other = None
        if other is not None:
            yield other

    def _global_provider(self) -> MeterProvider | None:
        try:
            return get_meter_provider()
        except Exception as error:  # OTEL_PYTHON_METER_PROVIDER names one that there is not
            self.guard.failed("finding the global meter provider", error)
            return None

    def _has_sdk(self) -> bool:
        """Whether what is recorded goes to somebody: to a provider that was given, or to a global one that is set."""
        if self._provider is not None:
            return True
        # One that was not found is not looked for again: that takes 160 us.
        provider = self._global_provider() if self._has_meter else None
        return provider is not None and not _is_proxy(provider)

    def _meter_of(self, provider: MeterProvider | None) -> Meter:
        provider = self._global_provider() if provider is None else provider
        if provider is None:
            return NoOpMeter(SCOPE)
        try:
            return provider.get_meter(SCOPE, __version__)
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


def _merge(values: dict[tuple[str, ...], float], instrument: Instrument, key: tuple[str, ...], value: float) -> None:
    """Put one more reading of an instrument to the others: counters add up, of gauges the greatest stays."""
    if (other := values.get(key)) is not None:
        value = other + value if instrument.kind == "counter" else max(other, value)
    values[key] = value


class _TheGlobalOne:
    """Stands for the global provider, whichever that is or will be."""


_THE_GLOBAL_ONE = _TheGlobalOne()
_of_providers: weakref.WeakKeyDictionary[MeterProvider | _TheGlobalOne, Registry] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def registry_of(provider: MeterProvider | None) -> Registry:
    """Return the registry of a provider; None: of the global one, also if that is set later."""
    if provider is not None and _is_proxy(provider):
        provider = None
    key = _THE_GLOBAL_ONE if provider is None else provider
    with _lock:
        registry = _of_providers.get(key)
        if registry is None:
            registry = _of_providers[key] = Registry(provider)
        return registry


def _is_proxy(provider: MeterProvider) -> bool:
    """Whether it is what `get_meter_provider` returns until a provider is set, and which passes on to that one then.

    Its class is private, so it is told by its name. A registry of its own would lose its instruments to the global
    one's: for the provider that is set later, the two are the same.
    """
    kind = type(provider)
    return kind.__module__.startswith("opentelemetry.metrics.") and kind.__name__ == "_ProxyMeterProvider"
