"""Who hears of a tick: the service's hook or its log. Nothing that either raises reaches the tick."""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING

from ._audit import log_safely
from ._errors import DatabaseUnavailableError, LockerConfigurationError, ServicePausedError
from ._outcome import Outcome
from ._passes import MSG_PASS_FAILED

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._config import Logger
    from ._outcome import TickReport

_SITUATIONS = (DatabaseUnavailableError, LockerConfigurationError, ServicePausedError)


def tell_of(
    outcome: Outcome,
    error: BaseException | None,
    report_of: Callable[[], TickReport],
    *,
    log: Logger,
    on_error: Callable[[BaseException], object] | None,
    is_repeated: bool,
    work_began: bool,
) -> None:
    """Give an error to the hook, if there is one, and log every other outcome.

    Args:
        outcome: of the tick.
        error: that it is put down to.
        report_of: makes the report of the tick, which only a log that is read wants.
        log: the logger of the service.
        on_error: takes the place of the log for every outcome whose result is ``error``.
        is_repeated: the tick before ended the same way. An outage, and a pause, is said once, at WARNING; the ticks
            that follow say nothing new.
        work_began: else the error is the locker's, and if it names a situation, its kind and text say it all: the
            traceback would be twenty lines of this library.
    """
    result = outcome.result
    if result == "error" and error is not None and on_error is not None:
        try:
            call_plain("on_error", on_error, error)
        except Exception as raised:
            log_safely(log, logging.ERROR, "on_error raised", exc_info=raised)
        return
    if result == "success":
        level, message = logging.INFO, "tick succeeded"
    elif result == "error":
        level, message = logging.ERROR, MSG_PASS_FAILED
    else:
        has_to_be_known = outcome is Outcome.UNAVAILABLE or isinstance(error, ServicePausedError)
        is_news = has_to_be_known and not is_repeated
        level, message = logging.WARNING if is_news else logging.DEBUG, "tick skipped"
    try:
        if not log.isEnabledFor(level):  # before it is written: that would take twice as long as to ask
            return
    except Exception:  # noqa: S110 - `log_safely` will meet it, too, and report it
        pass
    report = report_of()
    extra = {
        "service": report.service,
        "outcome": str(outcome),
        "number": report.number,
        "duration": report.duration,
        "lateness": report.lateness,
        "forced": report.forced,
    }
    if isinstance(error, _SITUATIONS) and not work_began:
        log_safely(log, level, message, extra=extra, exc_info=(type(error), error, None))
    else:
        log_safely(log, level, message, extra=extra, exc_info=error)


def call_plain(field: str, function: Callable[..., object], *args: object) -> object:
    """Call a hook of the user's and return its answer.

    Raises:
        TypeError: the answer is an awaitable: an async function in disguise, whose answer nobody would await.
    """
    answer = function(*args)
    if inspect.isawaitable(answer):
        if inspect.iscoroutine(answer):
            answer.close()  # or Python warns that it was never awaited
        raise TypeError(f"{field} must be a plain function, got {function!r}, which returned {answer!r}: use 'def'")
    return answer
