"""The ledger's rows as operators see and change them. All of it blocks, each time on a connection of its own.

What an operator changes, a tick never does, but for a trigger: the end of a run takes away one that was there when it
began. So an operator and a tick may write the same row in any order, and a trigger outlives a run that dies.
"""

from __future__ import annotations

import datetime as dt
import math
from typing import TYPE_CHECKING

from .._cluster_health import ClusterHealth, PastRun, cluster_state, outcome_of
from ._holders import HELD
from ._ledger_schema import escaped, table
from ._ledger_transaction import transaction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._ledger_transaction import Transaction

# What `datetime` knows, less what a time zone may shift it by.
_FIRST, _LAST = (dt.datetime(year, 1, 2, tzinfo=dt.UTC).timestamp() for year in (1, 9999))
_EPOCH = "date_part('epoch', {})".format
# A run is under way if its end is not written down and somebody holds the lock: after a crash nobody does.
_WORKING_SINCE = (
    f"CASE WHEN (last_ended_at IS NULL OR last_ended_at < started_at) AND lock_id IN ({HELD})"
    f" THEN {_EPOCH('started_at')} END"
)
_FIELDS = (
    *("name", "lock_id", "interval_seconds", "epoch", _EPOCH("last_success"), _EPOCH("last_failure")),
    *("last_error", "consecutive_failures", "last_outcome", _EPOCH("last_ended_at"), "last_duration", "holder"),
    _WORKING_SINCE,
    *(_EPOCH("due_at"), _EPOCH("clock_timestamp()")),
    *(_EPOCH("paused_at"), "paused_by", "pause_reason", _EPOCH("triggered_at"), "triggered_by"),
)
_ROWS = f"SELECT {', '.join(_FIELDS)} FROM {{service}}"  # noqa: S608 - texts of this module, and a quoted name
_RUN_FIELDS = ("service", "epoch", _EPOCH("started_at"), _EPOCH("ended_at"), "outcome", "replica", "error")
_RUNS = (
    f"SELECT {', '.join(_RUN_FIELDS)} FROM {{run}} WHERE service = $1::text"  # noqa: S608 - as above
    " ORDER BY epoch DESC"
)
_SOME_NAMES = "SELECT name FROM {service} ORDER BY name LIMIT 20"
_ADD = (
    "INSERT INTO {service} (name, lock_id, interval_seconds) VALUES ($1::text, $2::bigint, $3::double precision)"
    " ON CONFLICT (name) DO NOTHING RETURNING name"
)
_PAUSE = (
    "UPDATE {service} SET paused_at = coalesce(paused_at, clock_timestamp()), pause_reason = $2::text,"
    " paused_by = $3::text WHERE name = $1::text RETURNING name"
)
_RESUME = (
    "UPDATE {service} SET paused_at = NULL, pause_reason = NULL, paused_by = NULL WHERE name = $1::text RETURNING name"
)
_TRIGGER = (
    "UPDATE {service} SET triggered_at = clock_timestamp(), triggered_by = $2::text WHERE name = $1::text"
    " RETURNING name"
)


def read_services(conninfo: str, schema: str) -> tuple[ClusterHealth, ...]:
    """Return all services of the ledger, by name.

    Raises:
        DatabaseUnavailableError: the server cannot tell now.
        LockerConfigurationError: there is no ledger, or the role may not read it.
    """
    with transaction(conninfo, schema, writes=False) as reading:
        rows = reading.ask(f"{_ROWS} ORDER BY name".format(service=table(schema, "service")))
    return tuple(map(_health, rows))


def read_runs(conninfo: str, schema: str, name: str) -> tuple[PastRun, ...]:
    """Return the last runs of a service, the newest first.

    Raises:
        ValueError: the ledger does not know the service.
        DatabaseUnavailableError: the server cannot tell now.
        LockerConfigurationError: there is no ledger, or the role may not read it.
    """
    with transaction(conninfo, schema, writes=False) as reading:
        _row(reading, schema, name)
        rows = reading.ask(_RUNS.format(run=table(schema, "run")), escaped(name))
    return tuple(
        PastRun(
            service=_text(service),
            epoch=int(epoch or 0),
            started_at=_time(started) or dt.datetime.min.replace(tzinfo=dt.UTC),
            ended_at=_time(ended),
            outcome=outcome_of(outcome),
            replica=_text(replica),
            error=_text(error),
        )
        for service, epoch, started, ended, outcome, replica, error in rows
    )


def add_service(conninfo: str, schema: str, name: str, *, lock_id: int, interval: float) -> None:
    """Make a row for a service that has not run yet; one that is there stays as it is."""
    with transaction(conninfo, schema) as writing:
        writing.ask(_ADD.format(service=table(schema, "service")), escaped(name), lock_id, interval)


def pause(conninfo: str, schema: str, name: str, *, reason: str, by: str) -> ClusterHealth:
    """Let no replica run the service until it is resumed; return its row. Of one that is paused, reason and by change.

    Raises:
        ValueError: the ledger does not know the service.
        DatabaseUnavailableError: the server cannot do it now.
        LockerConfigurationError: there is no ledger, or the role may not change it.
    """
    return _changed(conninfo, schema, _PAUSE, name, escaped(reason), escaped(by))


def resume(conninfo: str, schema: str, name: str) -> ClusterHealth:
    """Let the service run again, soon if it is due; return its row. It raises as `pause` does."""
    return _changed(conninfo, schema, _RESUME, name)


def trigger(conninfo: str, schema: str, name: str, *, by: str) -> ClusterHealth:
    """Have the next free replica run the service; return its row. It raises as `pause` does."""
    return _changed(conninfo, schema, _TRIGGER, name, escaped(by))


def _changed(conninfo: str, schema: str, statement: str, name: str, *texts: str) -> ClusterHealth:
    with transaction(conninfo, schema) as writing:
        writing.ask(statement.format(service=table(schema, "service")), escaped(name), *texts)
        return _row(writing, schema, name)


def _row(reading: Transaction, schema: str, name: str) -> ClusterHealth:
    """Return the row of a service.

    Raises:
        ValueError: there is none.
    """
    service = table(schema, "service")
    rows = reading.ask(f"{_ROWS} WHERE name = $1::text".format(service=service), escaped(name))
    if not rows:
        known = [_text(row[0]) for row in reading.ask(_SOME_NAMES.format(service=service))]
        there = f"use one of {', '.join(known)}" if known else "it knows none yet, since none has run"
        raise ValueError(f"name must be that of a service in the ledger {schema!r}, got {name!r}: {there}")
    return _health(rows[0])


def _health(row: Sequence[str | None]) -> ClusterHealth:
    (name, lock_id, interval, epoch, success, failure, error, failures, outcome, ended, duration, holder) = row[:12]
    (working, due, now, paused, paused_by, reason, triggered, triggered_by) = row[12:]
    return ClusterHealth(
        name=_text(name),
        state=cluster_state(
            paused=paused is not None,
            working_for=_since(working, now),
            overdue=_since(due, now),
            interval=_number(interval) or 0.0,
            failures=int(failures or 0),
            has_ended=ended is not None,
        ),
        lock_id=int(lock_id or 0),
        interval=_number(interval) or 0.0,
        last_success=_time(success),
        last_failure=_time(failure),
        last_error=_text(error),
        consecutive_failures=int(failures or 0),
        last_outcome=outcome_of(outcome),
        last_ended=_time(ended),
        last_duration=_number(duration),
        holder=holder,
        working_since=_time(working),
        next_due=_time(due),
        paused_at=_time(paused),
        paused_by=_text(paused_by),
        pause_reason=_text(reason),
        triggered_at=_time(triggered),
        triggered_by=_text(triggered_by),
        epoch=int(epoch or 0) or None,
    )


def _text(value: str | None) -> str:
    return value or ""


def _number(value: str | None) -> float | None:
    """Return a number; None for what a person may have written there, and no clock or sum can work with."""
    number = math.nan if value is None else float(value)
    return number if math.isfinite(number) else None


def _since(value: str | None, now: str | None) -> float | None:
    """Return the seconds from a time to now; None for no time, and for an infinite one, which has no distance."""
    at, seconds = _number(value), _number(now)
    return None if at is None or seconds is None else seconds - at


def _time(value: str | None) -> dt.datetime | None:
    """Return a time, or the first or last one that Python knows for what lies beyond."""
    if value is None:
        return None
    return dt.datetime.fromtimestamp(min(max(float(value), _FIRST), _LAST), dt.UTC)
