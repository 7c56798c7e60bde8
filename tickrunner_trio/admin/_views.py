r"""Health, statistics and reports as JSON. Values in, values out.

Errors are anybody's text: they are cut, and everything that HTML might obey is written as ``\u003c`` and the like, so
that no reader of the bytes, whatever it takes them for, finds a tag in them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from .. import Outcome, WorkerHealth

if TYPE_CHECKING:
    from datetime import datetime

    from .. import ClusterHealth, PastRun, Service, ServiceStatistics, TickReport
    from ..lockers import LockHolder

#: Characters of an error that are shown: some lines of it; the rest is in the logs.
LONGEST_ERROR = 500


def service_view(service: Service, health: WorkerHealth, statistics: ServiceStatistics) -> dict[str, Any]:
    """Return one service: the fields of its health, then when it is next, how it is set up, and what it counted."""
    return {
        "name": health.name,
        "state": str(health.state),
        "last_success": _time(health.last_success),
        "last_failure": _time(health.last_failure),
        "last_tick": _time(health.last_tick),
        "last_error": cut(health.last_error),
        "consecutive_failures": health.consecutive_failures,
        "last_outcome": None if health.last_outcome is None else str(health.last_outcome),
        "next_slot": _time(statistics.next_slot),
        "lock_id": str(service.lock_id),  # 64 bits: as a number, JavaScript would round it
        "interval": service.interval,
        "tick_timeout": service.config.tick_timeout,
        "cadence": service.config.cadence,
        "statistics": {
            "working_since": _time(statistics.working_since),
            "last_duration": statistics.last_duration,
            "missed_slots": statistics.missed_slots,
            "ticks": {str(outcome): count for outcome, count in statistics.ticks.items()},
        },
    }


def report_view(report: TickReport) -> dict[str, Any]:
    """Return what came of a forced tick."""
    return {
        "service": report.service,
        "number": report.number,
        "request_id": report.request_id,
        "outcome": str(report.outcome),
        "result": report.outcome.result,
        "error": cut(_described(report)),
        "scheduled_at": _time(report.scheduled_at),
        "started_at": _time(report.started_at),
        "duration": report.duration,
        "lateness": report.lateness,
        "epoch": report.epoch,
        "forced": report.forced,
    }


def holder_view(holder: LockHolder) -> dict[str, Any]:
    """Return a session that holds a lock."""
    return {
        "pid": holder.pid,
        "application_name": cut(holder.application_name),
        "client_address": holder.client_address,
        "session_since": _time(holder.session_since),
    }


def cluster_view(health: ClusterHealth) -> dict[str, Any]:
    """Return what the ledger knows of a service."""
    return {
        "name": health.name,
        "state": str(health.state),
        "last_success": _time(health.last_success),
        "last_failure": _time(health.last_failure),
        "last_error": cut(health.last_error),
        "consecutive_failures": health.consecutive_failures,
        "last_outcome": None if health.last_outcome is None else str(health.last_outcome),
        "last_ended": _time(health.last_ended),
        "last_duration": health.last_duration,
        "holder": None if health.holder is None else cut(health.holder),
        "working_since": _time(health.working_since),
        "next_due": _time(health.next_due),
        "paused_at": _time(health.paused_at),
        "paused_by": cut(health.paused_by),
        "pause_reason": cut(health.pause_reason),
        "triggered_at": _time(health.triggered_at),
        "triggered_by": cut(health.triggered_by),
        "epoch": health.epoch,
        "lock_id": str(health.lock_id),
        "interval": health.interval,
    }


def run_view(run: PastRun) -> dict[str, Any]:
    """Return one run of the history."""
    return {
        "epoch": run.epoch,
        "started_at": _time(run.started_at),
        "ended_at": _time(run.ended_at),
        "outcome": None if run.outcome is None else str(run.outcome),
        "replica": cut(run.replica),
        "error": cut(run.error),
    }


def cut(text: str) -> str:
    """Return at most `LONGEST_ERROR` characters of the text, and how many more there were."""
    more = len(text) - LONGEST_ERROR
    return text if more <= 0 else f"{text[:LONGEST_ERROR]}... ({more:,} more characters)"


def as_json(value: object) -> bytes:
    """Return the value as JSON in ASCII, on one line, without any character that means something to HTML."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for each in "<>&":  # within strings only: JSON itself has none of them
        text = text.replace(each, f"\\u{ord(each):04x}")
    return text.encode("ascii")


def _described(report: TickReport) -> str:
    if report.error is None or report.outcome is Outcome.CANCELLED:  # "cancelled" says it all
        return ""
    # The fold of health has the words for it.
    return WorkerHealth("").after(Outcome.FAILED, at=report.started_at, error=report.error).last_error


def _time(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="milliseconds")
