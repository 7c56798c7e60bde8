"""The questions, in the order in which they are asked."""

from . import lateness, latency, locked, telemetry, ticks

ALL = (ticks, telemetry, locked, latency, lateness)
