"""The questions, in the order in which they are asked."""

from . import locked, ticks

ALL = (ticks, locked)
