"""How a pass ends: what a maintenance pass counted is logged and published, the same way in every service."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from ._audit import log_safely

if TYPE_CHECKING:
    import outcome

    from ._config import Logger
    from .abc import QuotaMetricsRefresher

MSG_PASS_FAILED = "pass failed"
MSG_PASS_COMPLETED = "pass completed"
MSG_QUOTA_METRICS_REFRESH_FAILED = "quota metrics refresh failed after pass"


async def handle_pass_result(
    log: Logger, manager: QuotaMetricsRefresher, result: outcome.Outcome[int], count_key: str
) -> None:
    """Finish a pass: raise its error, or log its count and bring the quota metrics up to date.

    A count of 0 is the normal state of a quiet system: nothing is logged and nothing refreshed.

    Args:
        log: where the count goes, at INFO, as `MSG_PASS_COMPLETED`.
        manager: told to ``update_quota_metrics()`` after a pass that changed something.
        result: what the pass gave, as ``await outcome.acapture(pass_function)`` captures it: how many things it
            changed, or its error.
        count_key: the attribute of the log record that holds the count, for example ``"objects_moved"``.

    Raises:
        TypeError: the pass gave something else than an int.
        BaseException: the captured error, as it is and unlogged: the service judges and logs it.

    Cancellation handling: always a checkpoint; a cancellation reaches ``update_quota_metrics`` and passes through.

    Error handling: an `Exception` of ``update_quota_metrics`` is logged at WARNING, with its traceback, as
    `MSG_QUOTA_METRICS_REFRESH_FAILED` and goes no further: the pass itself is done.

    Example::

        async def work(tick: Tick) -> None:
            await handle_pass_result(tick.log, quotas, await outcome.acapture(rebalance), "objects_moved")
    """
    count: object = result.unwrap()
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"result must hold how many things the pass changed, got {count!r}: let the pass return an int")
    if count > 0:
        log_safely(log, logging.INFO, MSG_PASS_COMPLETED, extra={count_key: count})
        try:
            await manager.update_quota_metrics()
        except Exception as error:
            log_safely(log, logging.WARNING, MSG_QUOTA_METRICS_REFRESH_FAILED, exc_info=error)
    await trio.lowlevel.checkpoint()
