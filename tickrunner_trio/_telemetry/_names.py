"""What there is to see, by name: instruments, the span of a tick, and their attributes. Values only.

No semantic convention exists for periodic work in a process, so all is in a namespace of our own, but for
``error.type`` and ``code.function.name``. Other programs are written against these names.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from .._outcome import Outcome

#: The name of tracer and meter.
SCOPE = "tickrunner_trio"

SERVICE = "tickrunner.service"
RESULT = "tickrunner.result"
OUTCOME = "tickrunner.outcome"
LOCK_ID = "tickrunner.lock_id"
REQUEST_ID = "tickrunner.request_id"
NUMBER = "tickrunner.tick.number"
LATENESS = "tickrunner.tick.lateness"
EPOCH = "tickrunner.epoch"
FUNCTION = "code.function.name"
ERROR_TYPE = "error.type"

#: What the attribute says of each: an enum's own ``value`` takes ten times as long to find, twice at each tick.
OUTCOME_VALUES = {outcome: outcome.value for outcome in Outcome}

#: The event on the span of a tick that lost its lock, at the moment of the loss.
LOCK_LOST = "tickrunner.lock.lost"

#: The event at the moment at which the thread of a cancelled `thread_work` had stopped, and how long that took.
THREAD_STOPPED = "tickrunner.thread.stopped"
STOPPED_AFTER = "tickrunner.stopped_after"

#: Seconds, from 1 ms to 1 h: a tick may be one statement or a pass over everything there is.
TICK_BOUNDARIES = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0),
)

#: Seconds: a lock is one round trip to a server, or takes until somebody gives up.
LOCK_BOUNDARIES = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)


class Instrument(NamedTuple):
    """One instrument. Of observables of one name and attributes, counters add up, and gauges show the greatest."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str  #: "s", or in braces; for a gauge never "1", of which collectors make "_ratio" in a name for Prometheus.
    attributes: tuple[str, ...]
    description: str
    boundaries: tuple[float, ...] = ()  #: Of the buckets of a histogram.


TICKS = Instrument(
    "tickrunner.ticks", "counter", "{tick}", (SERVICE, RESULT, OUTCOME), "Ticks, by how they ended; skipped ones too"
)
DURATION = Instrument(
    "tickrunner.tick.duration",
    "histogram",
    "s",
    (SERVICE, OUTCOME),
    "From the work's start to the judgement; of a tick whose work did not run, from its own",
    TICK_BOUNDARIES,
)
LATE = Instrument(
    "tickrunner.tick.lateness",
    "histogram",
    "s",
    (SERVICE,),
    "From the slot to the start of its tick; forced ticks have no slot",
    TICK_BOUNDARIES,
)
ACQUIRE = Instrument(
    "tickrunner.lock.acquire.duration",
    "histogram",
    "s",
    (SERVICE,),
    "From asking the locker to the work's start, or to the refusal",
    LOCK_BOUNDARIES,
)
MISSED = Instrument("tickrunner.ticks.missed", "counter", "{tick}", (SERVICE,), "Slots that passed without a tick")
LAST_SUCCESS = Instrument(
    "tickrunner.last_success.timestamp", "gauge", "s", (SERVICE,), "Unix time of the last success; absent until then"
)
LAST_TICK = Instrument(
    "tickrunner.last_tick.timestamp", "gauge", "s", (SERVICE,), "Unix time of the last outcome; absent until then"
)
STARTED = Instrument(
    "tickrunner.service.start.timestamp", "gauge", "s", (SERVICE,), "Unix time at which run was entered; while it runs"
)
INTERVAL = Instrument("tickrunner.interval", "gauge", "s", (SERVICE,), "From slot to slot")
ENABLED = Instrument(
    "tickrunner.enabled",
    "gauge",
    "{replica}",
    (SERVICE,),
    "1, or 0 when the gate said no; absent until it was first asked",
)
FAILURES = Instrument(
    "tickrunner.consecutive_failures", "gauge", "{failure}", (SERVICE,), "Errors since the last success"
)
HELD = Instrument(
    "tickrunner.lock.held", "gauge", "{lock}", (SERVICE,), "1 while this replica works, or holds on; else 0"
)
SESSIONS = Instrument("tickrunner.locker.sessions", "counter", "{session}", (), "Sessions that a PostgresLocker opened")
SESSIONS_LOST = Instrument(
    "tickrunner.locker.sessions.lost", "counter", "{session}", (ERROR_TYPE,), "Sessions that it lost, and their locks"
)
OVERSTAYED = Instrument(
    "tickrunner.lease.overstayed", "counter", "{tick}", (SERVICE,), "Work that outlived its lease: two may have run"
)

INSTRUMENTS = (
    *(TICKS, DURATION, LATE, ACQUIRE, MISSED, LAST_SUCCESS, LAST_TICK, STARTED, INTERVAL, ENABLED, FAILURES, HELD),
    *(SESSIONS, SESSIONS_LOST, OVERSTAYED),
)
