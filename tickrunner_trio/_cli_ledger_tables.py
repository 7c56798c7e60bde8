"""The rows of a ledger as tables for people, and as what JSON can say for programs. Values in, values out."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ._cli_text import aligned, on_one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from . import ClusterHealth, PastRun

_NONE = "-"
_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def row_json(row: ClusterHealth | PastRun) -> dict[str, Any]:
    """Return the fields of a row. ``lock_id`` is a string, since many readers of JSON round 64 bits."""
    fields = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
    if "lock_id" in fields:
        fields["lock_id"] = str(fields["lock_id"])
    return {name: each.isoformat() if isinstance(each, datetime) else each for name, each in fields.items()}


def services_table(services: Sequence[ClusterHealth], *, now: datetime | None = None, width: int | None = None) -> str:
    """Return the services as aligned columns under a heading; where that is wider than ``width``, below each other.

    Ages are as of ``now``; None: the clock's.
    """
    at = datetime.now(UTC) if now is None else now
    heading = ("service", "state", "last success", "failures", "took", "next due", "last run by", "")
    rows = [
        (
            each.name,
            str(each.state),
            "never" if each.last_success is None else _ago(each.last_success, at),
            str(each.consecutive_failures),
            _NONE if each.last_duration is None else _seconds(each.last_duration),
            _due(each, at),
            each.holder or _NONE,
            "; ".join(_notes(each, at)),
        )
        for each in services
    ]
    if not rows:
        return "no service with a ledger has run yet"
    table = aligned([heading, *rows])
    return table if width is None or max(map(len, table.splitlines())) <= width else _stacked(heading, rows)


def runs_table(runs: Sequence[PastRun]) -> str:
    """Return the runs as columns under a heading."""
    heading = ("started (UTC)", "took", "outcome", "epoch", "replica", "error")
    rows = [
        (
            run.started_at.astimezone(UTC).isoformat(sep=" ", timespec="milliseconds").removesuffix("+00:00"),
            _NONE if run.ended_at is None else _seconds((run.ended_at - run.started_at).total_seconds()),
            str(run.outcome or ("not known here" if run.ended_at else "not ended")),
            str(run.epoch),
            run.replica,
            run.error,
        )
        for run in runs
    ]
    return aligned([heading, *rows]) if rows else "no run of it is over yet"


def described(health: ClusterHealth, *, now: datetime | None = None) -> str:
    """Return what an operator's change has made of a service, in one line."""
    at = datetime.now(UTC) if now is None else now
    notes = "; ".join([str(health.state), f"due {_due(health, at)}", *_notes(health, at)])
    return on_one_line(f"{health.name}: {notes}")


def _notes(health: ClusterHealth, now: datetime) -> list[str]:
    notes: list[str] = []
    if health.paused_at is not None:
        notes.append(f"paused{_by(health.paused_by)} {_ago(health.paused_at, now)}: {health.pause_reason or _NONE}")
    if health.triggered_at is not None:
        not_begun = ", not begun" if health.triggered else ""
        notes.append(f"triggered{_by(health.triggered_by)} {_ago(health.triggered_at, now)}{not_begun}")
    if health.working_since is not None:
        notes.append(f"at work for {_span((now - health.working_since).total_seconds())}")
    if health.last_error:
        notes.append(health.last_error)
    return notes


def _by(who: str) -> str:
    return f" by {who}" if who else ""


def _due(health: ClusterHealth, now: datetime) -> str:
    if health.next_due is None:
        return "now"
    if health.next_due > now:
        return f"in {_span((health.next_due - now).total_seconds())}"
    is_awaited = health.working_since is None and not health.paused  # by nobody, if it is long ago
    return _ago(health.next_due, now).removeprefix("just ") if is_awaited else "now"


def _ago(at: datetime, now: datetime) -> str:
    seconds = (now - at).total_seconds()
    return "just now" if seconds < 1 else f"{_span(seconds)} ago"


def _span(seconds: float) -> str:
    """Return the two largest units, such as ``2 min 5 s``; the second only if there is some of it."""
    rest = max(0, round(seconds))
    said: list[str] = []
    for unit, length in _UNITS:
        count, rest = divmod(rest, length)
        if count:
            said.append(f"{count} {unit}")
        if len(said) == 2 or (said and not count):
            break
    return " ".join(said) or "0 s"


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s" if seconds < 10 else _span(seconds)


def _stacked(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a paragraph a row, a cell a line: the terminal may wrap what is long, and no column is torn by it."""
    indent = max(map(len, heading)) + 2
    return "\n\n".join(
        "\n".join(f"{name:<{indent}}{on_one_line(cell)}" for name, cell in zip(heading, row, strict=True) if cell)
        for row in rows
    )
