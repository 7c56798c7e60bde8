"""The questions, in the order in which they are asked."""

from . import connections, flatness, latency, lateness, locked, memory, startup, telemetry, ticks, timers

ALL = (ticks, telemetry, locked, latency, lateness, timers, memory, connections, startup, flatness)
