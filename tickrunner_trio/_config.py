"""What a service is: one frozen, validated value. It knows nothing of running.

Every refusal is a `TypeError` (the wrong kind) or a `ValueError` (the wrong value) that names the field, shows the
value and says the remedy, so that a mistake surfaces where the service is written rather than at its first tick.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, TypeAlias

from ._callables import check_takes, is_async_callable, yields
from ._lock_ids import checked_lock_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ._outcome import Tick
    from .abc import AdvisoryLocker

#: Any of the two is accepted wherever the library takes a logger.
Logger: TypeAlias = "logging.Logger | logging.LoggerAdapter[logging.Logger]"

#: Longer spans are mistakes of unit (milliseconds taken for seconds) far more often than intentions.
MAX_SECONDS = 366 * 24 * 60 * 60

#: PostgreSQL's own limit for names, so that the name fits an application name, a column, a metric label.
MAX_NAME_LENGTH = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that makes a `Service`, validated at construction; ``dataclasses.replace`` validates anew.

    Raises:
        TypeError: a field is of the wrong kind (a bool for a number, a plain function for an async one, one that takes
            other arguments, ...).
        ValueError: a field is of the right kind and out of its bounds.
    """

    #: snake_case (``[a-z][a-z0-9_]*``), at most 63 characters. It says which lock the service has, unless ``lock_id``
    #: does: services of one name in one database exclude each other, those of another application too.
    name: str
    interval: float  #: Seconds from slot to slot: finite, above 0, at most 366 days.
    locker: AdvisoryLocker  #: Where the lock is: a `PostgresLocker`, a `MemoryLocker`, or anybody's own.
    work: Callable[[Tick], Awaitable[None]]  #: ``async def work(tick)``: one pass over what there is to do.
    lock_id: int | None = None  #: A signed 64-bit integer, the same in all replicas; None: ``lock_id_for(name)``.
    log: Logger | None = None  #: A logger or logger adapter; None: ``component_logger(name)``.
    should_run: Callable[[], bool] | None = None  #: The gate: a plain function, asked before each tick.
    startup: Callable[[Tick], Awaitable[None]] | None = None  #: An early pass, once at the entry of ``run``.
    on_error: Callable[[BaseException], object] | None = None  #: Takes the place of the default error log.
    tick_timeout: float | None = None  #: Seconds after which the work is cancelled: as ``interval``; None: never.
    #: "cluster": one run per interval over all replicas; "replica": each replica runs, never two at once.
    cadence: Literal["cluster", "replica"] = "cluster"

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_seconds("interval", self.interval)
        _check_locker(self.locker)
        _check_async("work", self.work)
        if self.lock_id is not None:
            checked_lock_id(self.lock_id)
        if self.log is not None and not isinstance(self.log, logging.Logger | logging.LoggerAdapter):
            raise TypeError(
                f"log must be a Logger or a LoggerAdapter, got {self.log!r}: use component_logger({self.name!r})"
            )
        if self.should_run is not None:
            _check_plain("should_run", self.should_run)
            check_takes("should_run", self.should_run)
        if self.startup is not None:
            _check_async("startup", self.startup)
        if self.on_error is not None:
            _check_plain("on_error", self.on_error)
            check_takes("on_error", self.on_error, "error")
        if self.tick_timeout is not None:
            _check_seconds("tick_timeout", self.tick_timeout)
        _check_cadence(self.cadence)


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, got {name!r}: write one, such as 'sweep'")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(
            f"name must be snake_case ([a-z][a-z0-9_]*), got {name!r}: "
            "begin with a lower-case letter, then lower-case letters, digits and underscores only"
        )
    if len(name) > MAX_NAME_LENGTH:
        excess = len(name) - MAX_NAME_LENGTH
        raise ValueError(f"name must have at most {MAX_NAME_LENGTH} characters, got {name!r}: shorten it by {excess}")


def _check_seconds(field: str, value: object) -> None:
    if isinstance(value, timedelta):
        raise TypeError(f"{field} must be a number of seconds, got {value!r}: use its total_seconds()")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{field} must be a number of seconds (an int or a float), got {value!r}: write one, as in 60")
    # A NaN fails both comparisons.
    if not 0 < value <= MAX_SECONDS:
        raise ValueError(
            f"{field} must be a finite number of seconds above 0 and at most {MAX_SECONDS} (366 days), got {value!r}: "
            "choose one within these bounds"
        )


def _check_locker(locker: object) -> None:
    method = getattr(locker, "with_advisory_lock", None)
    if isinstance(locker, type) or not is_async_callable(method):
        raise TypeError(
            f"locker must be an object with an async method with_advisory_lock(lock_id, fn), got {locker!r}: "
            "use a PostgresLocker, or a MemoryLocker where one process is all there is"
        )


def _check_async(field: str, function: object) -> None:
    if not is_async_callable(function):
        raise TypeError(
            f"{field} must be an async function of one argument, the Tick, got {function!r}: "
            f"write 'async def {field}(tick): ...', or give a plain function to tickrunner_trio.bridges.thread_work"
        )
    check_takes(field, function, "tick")


def _check_plain(field: str, function: object) -> None:
    if not callable(function):
        raise TypeError(f"{field} must be a plain function, got {function!r}: write one with 'def'")
    if is_async_callable(function) or yields(function):
        raise TypeError(f"{field} must be a plain function, got the async or generator {function!r}: use 'def'")


def _check_cadence(cadence: object) -> None:
    if not isinstance(cadence, str):
        raise TypeError(f"cadence must be a str, got {cadence!r}: use 'cluster' or 'replica'")
    if cadence not in ("cluster", "replica"):
        raise ValueError(f"cadence must be 'cluster' or 'replica', got {cadence!r}: use one of the two")
