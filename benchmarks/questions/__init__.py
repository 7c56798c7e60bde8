"""The questions, in the order in which they are asked."""

from . import connections, flatness, latency, lateness, ledger, locked, memory, startup, telemetry, ticks, timers

ALL = (ticks, telemetry, locked, ledger, latency, lateness, timers, memory, connections, startup, flatness)
