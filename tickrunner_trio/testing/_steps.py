"""What a `ScriptedLocker` can be told to do at an attempt: frozen, validated values that print as one writes them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, repr=False)
class Step:
    """What a `ScriptedLocker` does at one attempt: one of `Grant`, `Busy`, `Unavailable` and `Fails`."""

    #: Seconds until the answer, in which the caller can be cancelled; inf: it never comes.
    answers_after: float = dataclasses.field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        _check_seconds("answers_after", self.answers_after)

    def __repr__(self) -> str:
        """Leave out what was left out, so that a plan in a failure message can be pasted into a test."""
        written: list[str] = []
        for field in sorted(dataclasses.fields(self), key=lambda field: bool(field.kw_only)):
            value = getattr(self, field.name)
            if value != field.default:
                shown = "math.inf" if value == math.inf else repr(value)
                written.append(f"{field.name}={shown}" if field.kw_only else shown)
        return f"{type(self).__name__}({', '.join(written)})"


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class Grant(Step):
    """The lock is had, unless somebody holds it: then the answer is False all the same.

    Raises:
        TypeError: a number is none, or ``fails_to_unlock`` is no exception.
        ValueError: a number of seconds is negative or NaN.
    """

    lost_after: float = math.inf  #: Seconds from the grant to the loss of the lock; 0: lost when ``fn`` begins.
    fails_to_unlock: BaseException | None = None  #: Raised when ``fn`` has returned and the lock has been let go.

    def __post_init__(self) -> None:
        Step.__post_init__(self)  # a class with slots is made twice, which super() without arguments does not survive
        _check_seconds("lost_after", self.lost_after)
        if self.fails_to_unlock is not None:
            _check_exception("fails_to_unlock", self.fails_to_unlock)


@dataclass(frozen=True, slots=True, repr=False)
class Busy(Step):
    """Somebody else holds the lock: False.

    Raises:
        TypeError: ``answers_after`` is no number.
        ValueError: it is negative or NaN.
    """


@dataclass(frozen=True, slots=True, repr=False)
class Unavailable(Step):
    """Nobody can tell now who holds the lock: a new `DatabaseUnavailableError` with this reason, at each attempt.

    Raises:
        TypeError: ``reason`` is no str, or ``answers_after`` no number.
        ValueError: ``answers_after`` is negative or NaN.
    """

    reason: str = "the script says so"  #: The text of the error.

    def __post_init__(self) -> None:
        Step.__post_init__(self)
        if not isinstance(self.reason, str):
            raise TypeError(
                f"reason must be a str, got {self.reason!r}: use Fails(error) to raise an error of your own"
            )


@dataclass(frozen=True, slots=True, repr=False)
class Fails(Step):
    """The locker raises this very error instead of an answer.

    Raises:
        TypeError: ``error`` is no exception, or ``answers_after`` no number.
        ValueError: ``answers_after`` is negative or NaN.
    """

    error: BaseException  #: Any, such as ``LockerConfigurationError("a pooler")`` or ``KeyboardInterrupt()``.

    def __post_init__(self) -> None:
        Step.__post_init__(self)
        _check_exception("error", self.error)


def checked_step(value: object, field: str) -> Step:
    """Return ``value`` if it is a step.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, Grant | Busy | Unavailable | Fails):
        raise TypeError(
            f"{field} must be a Grant, Busy, Unavailable or Fails, got {value!r}: write Busy(), for example"
        )
    return value


def checked_duration(field: str, value: object) -> None:
    """Refuse what is no finite number of seconds above 0."""
    _check_seconds(field, value)
    if not 0 < value < math.inf:  # type: ignore[operator]  # it is a number
        raise ValueError(f"{field} must be a finite number of seconds above 0, got {value!r}: write 1.0, for example")


def checked_count(field: str, value: object) -> None:
    """Refuse what is no int from 2."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{field} must be an int, got {value!r}: write 200, for example")
    if value < 2:
        raise ValueError(f"{field} must be at least 2, got {value}: write 200, for example")


def _check_seconds(field: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{field} must be a number of seconds, got {value!r}: write 2.5, for example")
    if not value >= 0:
        raise ValueError(f"{field} must be seconds from 0 to math.inf, got {value!r}: choose one within these bounds")


def _check_exception(field: str, value: object) -> None:
    if not isinstance(value, BaseException):
        raise TypeError(f"{field} must be an exception, got {value!r}: write OSError('away'), for example")
