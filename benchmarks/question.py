"""What a question is made of: measurements of ways to do a thing, and comparisons between what they gave. Pure."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    #: What one round gave: by way, by figure.
    Round = Mapping[str, Mapping[str, float]]

OURS = "tickrunner_trio"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
    """One measurement of a round: a function that is called in a process of its own."""

    way: str
    """What is measured. With ``several`` it only names the measurement."""
    function: str
    """``"package.module:function"``; it takes the arguments and returns figures by name."""
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What JSON can say. With ``server`` the function gets ``dsn`` as well."""
    several: bool = False
    """Whether the function returns ways by name, each with its figures, because only turns within one process tell."""
    peer: str | None = None
    """The folder of peers that goes first on the path: for a release that cannot be installed beside another."""
    server: bool = False
    """Whether it needs a PostgreSQL."""
    cores: int | None = None
    """To how many processors the process and the server are pinned; None: to none."""
    beside: str | None = None
    """Measurements of one word run at the same time, because each of them leaves the machine idle."""
    bound: float = 60.0
    """Seconds after which the process is ended, and the measurement has failed."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """A column: what the functions call it, and how it is shown."""

    name: str
    places: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is taken from each round, of which the median is judged.

    At most one of ``at_most`` and ``at_least`` is a target; without one the value is shown, and guarded.
    """

    name: str
    of: Callable[[Round], float]
    """Raises KeyError where the round lacks a way, and ZeroDivisionError where it says nothing."""
    at_most: float | None = None
    at_least: float | None = None
    more_is_better: bool = False
    """Without a target; a target says it itself."""
    places: int = 2
    guarded: bool = True
    """Whether a quick run compares it with the committed one: not where it is noise around zero."""

    @property
    def is_upward(self) -> bool:
        """Whether more is better."""
        return self.at_least is not None or (self.at_most is None and self.more_is_better)

    def is_met_by(self, value: float) -> bool:
        """Whether the value keeps the target; without a target any does."""
        return not (
            (self.at_most is not None and value > self.at_most) or (self.at_least is not None and value < self.at_least)
        )

    def is_behind(self, value: float) -> bool:
        """Whether the value is a ratio that says that the other one does better."""
        return isinstance(self.of, Quotient) and (value < 1 if self.is_upward else value > 1)

    @property
    def target(self) -> str:
        """The target as it is shown; empty without one."""
        if self.at_most is not None:
            return f"at most {self.at_most:g}"
        return "" if self.at_least is None else f"at least {self.at_least:g}"


@dataclasses.dataclass(frozen=True)
class Plot:
    """A picture: bars of some figures, one group for each way that has them."""

    name: str
    title: str
    figures: tuple[str, ...]
    is_logarithmic: bool = False
    ways: tuple[str, ...] | None = None
    """None: all that have the figures."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """One row of what this library wants to be measured by."""

    key: str
    title: str
    figures: tuple[Figure, ...]
    measurements: tuple[Measurement, ...]
    comparisons: tuple[Comparison, ...]
    rounds: int
    notes: str
    """How to read the table, and what in it is unfavourable or uncertain. Markdown."""
    server_settings: Mapping[str, str | int | float] = dataclasses.field(default_factory=dict)
    plot: Plot | None = None


@dataclasses.dataclass(frozen=True)
class Value:
    """A figure of a way, taken from a round."""

    way: str
    figure: str

    def __call__(self, measured: Round) -> float:
        """Take it."""
        return measured[self.way][self.figure]


@dataclasses.dataclass(frozen=True)
class Difference:
    """How much more one is than another, in a round."""

    more: Value
    less: Value

    def __call__(self, measured: Round) -> float:
        """Take it."""
        return self.more(measured) - self.less(measured)


@dataclasses.dataclass(frozen=True)
class Quotient:
    """How many times another one is, in a round."""

    over: Value | Difference
    under: Value | Difference

    def __call__(self, measured: Round) -> float:
        """Take it."""
        return self.over(measured) / self.under(measured)


def ratio(figure: str, to: str, of: str = OURS, *, to_figure: str | None = None) -> Quotient:
    """Return what takes from a round the figure of one way over the figure of another."""
    return Quotient(Value(of, figure), Value(to, to_figure or figure))
