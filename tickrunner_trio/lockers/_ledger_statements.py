"""What the session says to the ledger: the statements of one batch, as text, for one schema. Pure.

::

    results      write what came of runs, of which the row still has the epoch        commit (flushed to the disk)
    exchange     unlock: what was written above, and locks without a row;  try-lock
    register     only with names that this session has not met: make their rows
    draw         by a snapshot taken after the grants: draw the epochs of what is due commit (flushed to the disk)
    put back     unlock what was granted above and is not due

They are one pipeline, but a transaction each. What one of them found goes to the next within the server, as settings
of the session with a name of ours, so that nobody waits for a round trip in between: which results are written, which
locks were granted, which are kept.

Invariants:

1. A result is committed before its unlock is executed; an epoch is on the disk before the work begins.
2. Whether a service is due is judged by a snapshot that is newer than the grant of its lock.
3. No lock function stands in a WHERE, where it might be evaluated twice, and no statement writes one row twice.
4. Rows are locked in the order of the names, and one that somebody else has locked is left out: nothing waits. A row
   that somebody else is about to insert cannot be seen, only waited for: that alone is waited for, and not for long.
5. Each statement does something only in the session that bears our mark.

Each answers ``ours`` or ``shared`` first, by which the session sees a pooler that leads it astray.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .._dueness import EPOCH_BITS
from .._outcome import Outcome
from .._schedule import FAILURE_PART, FAILURES
from ._ledger_schema import RUNS_KEPT, table

#: So long a row that is being inserted by somebody else is waited for.
ROW_PATIENCE_MILLISECONDS = 100

_WRITTEN, _GRANTED, _KEPT = "tickrunner_trio.written", "tickrunner_trio.granted", "tickrunner_trio.kept"


@dataclass(frozen=True, slots=True)
class LedgerStatements:
    """The text of each; the parameters are told where it is made."""

    results: str
    exchange: str
    register: str
    draw: str
    put_back: str
    look: str


def ledger_statements(schema: str, is_ours: str) -> LedgerStatements:
    """Return the statements.

    Args:
        schema: of the ledger, unquoted.
        is_ours: a condition of SQL: whether the session bears our mark.
    """
    names = {
        "service": table(schema, "service"),
        "run": table(schema, "run"),
        "ours": is_ours,
        "whose": f"CASE WHEN {is_ours} THEN 'ours' ELSE 'shared' END",
        "written": _WRITTEN,
        "granted": _GRANTED,
        "kept": _KEPT,
        "success": f"'{Outcome.SUCCESS}'",
        "failures": ", ".join(f"'{outcome}'" for outcome in FAILURES),
        "errors": ", ".join(f"'{outcome}'" for outcome in Outcome if outcome.result == "error"),
        "cancelled": f"'{Outcome.CANCELLED}'",
        "part": str(FAILURE_PART),
        "bits": str(EPOCH_BITS),
        "slots": str(RUNS_KEPT),
        "patience": str(ROW_PATIENCE_MILLISECONDS),
    }
    return LedgerStatements(
        results=_filled(_RESULTS, names),
        exchange=_filled(_EXCHANGE, names),
        register=_filled(_REGISTER, names),
        draw=_filled(_DRAW, names),
        put_back=_filled(_PUT_BACK, names),
        look=_filled(_LOOK, names),
    )


def _filled(text: str, names: dict[str, str]) -> str:
    parts = text.replace("<asked>", _ASKED).replace("<history>", _HISTORY)
    # In one go, and after the white space: a schema may have any name.
    return re.sub(r"<(\w+)>", lambda found: names[found[1]], " ".join(parts.split()))


# A run in the history: in a slot that is there, and not locked by somebody else, or in one that is made. The lookups
# are subqueries that the planner cannot turn into joins: planned while the table was small, those read all of it.
_HISTORY = """
past AS MATERIALIZED (
    SELECT ended.*, kept.row, kept.row IS NULL
        AND (SELECT true FROM <run> AS r WHERE r.service = ended.name AND r.slot = ended.slot) IS NULL AS is_new
    FROM ended LEFT JOIN LATERAL (
        SELECT r.ctid AS row FROM <run> AS r WHERE r.service = ended.name AND r.slot = ended.slot
        FOR NO KEY UPDATE SKIP LOCKED) AS kept ON true
), ring AS (
    UPDATE <run> AS r SET epoch = past.epoch, started_at = past.started_at, ended_at = past.ended_at,
        outcome = past.outcome, replica = past.holder, error = past.error
    FROM past WHERE r.ctid = past.row
), growth AS (
    INSERT INTO <run> (service, slot, epoch, started_at, ended_at, outcome, replica, error)
    SELECT name, slot, epoch, started_at, ended_at, outcome, holder, error FROM past WHERE is_new
    ORDER BY name ON CONFLICT DO NOTHING
)
"""

# Of each result: $1 the service, $2 its lock, $3 the epoch of the run, $4 the outcome, $5 its duration in seconds, $6
# the error, $7 a number from 0 to 1, $8 the interval in seconds. The answer has the locks of those that are written,
# and the seconds until each service is due; and the locks whose row has another epoch by now. A run ends no earlier
# than it began, also if the server's clock has been set back meanwhile: else it would count as never ended. `_dueness`
# has the arithmetic.
_RESULTS = """
WITH told AS MATERIALIZED (
    SELECT *, seconds * interval '1 second' AS step
    FROM unnest($1::text[], $2::int8[], $3::int8[], $4::text[], $5::float8[], $6::text[], $7::float8[], $8::float8[])
        AS told (name, lock_id, epoch, outcome, duration, error, chance, seconds)
    WHERE <ours> ORDER BY name
), locked AS MATERIALIZED (
    SELECT told.*, s.* FROM told CROSS JOIN LATERAL (
        SELECT s.ctid AS row, coalesce(s.started_at, now()) AS started_at, s.due_at
        FROM <service> AS s WHERE s.name = told.name AND s.epoch = told.epoch FOR NO KEY UPDATE SKIP LOCKED) AS s
), based AS MATERIALIZED (
    SELECT *, CASE WHEN due_at IS NULL OR NOT isfinite(due_at) OR due_at > started_at AND due_at <= started_at + step
        THEN started_at ELSE due_at END AS base FROM locked
), next AS MATERIALIZED (
    SELECT *, base + (floor(extract(epoch FROM now() - base)::float8 / seconds) + 1) * step AS next_at FROM based
), ended AS (
    UPDATE <service> AS s SET
        due_at = CASE
            WHEN next.outcome = <success> AND next.next_at > now() THEN least(next.next_at, now() + next.step)
            WHEN next.outcome = <success> THEN next.next_at + next.step
            WHEN next.outcome IN (<failures>) THEN now() + next.chance * <part> * next.step
            ELSE s.due_at END,
        triggered_at = CASE WHEN next.outcome <> <cancelled> AND s.triggered_at <= s.started_at THEN NULL
            ELSE s.triggered_at END,
        triggered_by = CASE WHEN next.outcome <> <cancelled> AND s.triggered_at <= s.started_at THEN NULL
            ELSE s.triggered_by END,
        last_outcome = next.outcome,
        last_ended_at = greatest(now(), next.started_at),
        last_duration = next.duration,
        last_success = CASE WHEN next.outcome = <success> THEN now() ELSE s.last_success END,
        last_failure = CASE WHEN next.outcome IN (<errors>) THEN now() ELSE s.last_failure END,
        last_error = CASE WHEN next.outcome = <success> THEN '' WHEN next.outcome IN (<errors>) THEN next.error
            ELSE s.last_error END,
        consecutive_failures = CASE WHEN next.outcome = <success> THEN 0
            WHEN next.outcome IN (<errors>) THEN s.consecutive_failures + 1 ELSE s.consecutive_failures END
    FROM next WHERE s.ctid = next.row
    RETURNING s.name, s.epoch, (s.epoch % <slots>)::int2 AS slot, s.started_at, s.last_ended_at AS ended_at,
        coalesce(s.holder, '') AS holder, next.outcome, next.error, next.lock_id,
        extract(epoch FROM s.due_at)::float8 - extract(epoch FROM now())::float8 AS due_in
), <history>, gone AS MATERIALIZED (
    SELECT lock_id FROM told WHERE (SELECT count(*) FROM ended) < (SELECT count(*) FROM told)
        AND (SELECT true FROM <service> AS s WHERE s.name = told.name AND s.epoch = told.epoch) IS NULL
)
SELECT <whose>, ARRAY(SELECT lock_id FROM ended), ARRAY(SELECT due_in FROM ended), ARRAY(SELECT lock_id FROM gone),
    set_config('<written>', ARRAY(SELECT lock_id FROM ended UNION ALL SELECT lock_id FROM gone)::text, false)
"""

# $1 the locks without a result that are let go of, $2 those that are tried. The columns are evaluated from left to
# right: what is let go of first makes room for the others.
_EXCHANGE = """
SELECT <whose>,
    CASE WHEN <ours> THEN ARRAY(SELECT pg_advisory_unlock(unnest($1::int8[]))) ELSE '{}' END,
    CASE WHEN <ours> THEN ARRAY(SELECT pg_advisory_unlock(unnest(
        coalesce(nullif(current_setting('<written>', true), ''), '{}')::int8[]))) ELSE '{}' END,
    set_config('<written>', '', false) || set_config('<kept>', '', false),
    set_config('<granted>', CASE WHEN <ours> THEN ARRAY(SELECT pg_try_advisory_lock(unnest($2::int8[])))::text
        ELSE '{}' END, false)
"""

# What is asked for, and was granted just now. $1 the services, $2 their locks, in the order in which these were tried,
# $3 the intervals in seconds, $4 whether it is due whatever the row says.
_ASKED = """
asked AS MATERIALIZED (
    SELECT name, lock_id, seconds, forced
    FROM unnest($1::text[], $2::int8[], $3::float8[], $4::bool[],
        coalesce(nullif(current_setting('<granted>', true), ''), '{}')::bool[])
        AS asked (name, lock_id, seconds, forced, granted)
    WHERE granted AND name IS NOT NULL AND <ours> ORDER BY name
)
"""

# A row that is made anew is due now. Where somebody's open transaction has inserted it, the whole statement fails after
# so many milliseconds: then the services have no rows yet.
_REGISTER = """
WITH <asked>, patience AS MATERIALIZED (
    SELECT set_config('lock_timeout', '<patience>', true) AS milliseconds
), made AS (
    INSERT INTO <service> (name, lock_id, interval_seconds, due_at)
    SELECT name, lock_id, seconds, now() FROM asked CROSS JOIN patience
    WHERE (SELECT true FROM <service> AS s WHERE s.name = asked.name) IS NULL AND milliseconds <> ''
    ORDER BY name ON CONFLICT DO NOTHING
)
SELECT <whose>
"""

# $5 who we are. The first row of the answer has the locks of the epochs that were drawn, these, and when each service
# last succeeded; the others tell, of a lock that was granted and got none, what the row says. A run that never ended
# goes into the history without an end. A trigger that is there is no later than the run, also if the server's clock has
# been set back since: else each run would leave it there until its time has come again.
_DRAW = """
WITH <asked>, server AS MATERIALIZED (
    SELECT ('x' || lpad(left(pg_walfile_name(pg_current_wal_lsn()), 8), 16, '0'))::bit(64)::int8 AS timeline
), due AS MATERIALIZED (
    SELECT asked.name, asked.lock_id, asked.seconds, s.* FROM asked CROSS JOIN LATERAL (
        SELECT s.ctid AS row, s.epoch, s.started_at, s.last_ended_at, s.holder
        FROM <service> AS s WHERE s.name = asked.name AND s.paused_at IS NULL AND (
            asked.forced OR s.triggered_at IS NOT NULL OR s.due_at IS NULL
            OR s.due_at <= now() OR s.due_at > now() + asked.seconds * interval '1 second')
        FOR NO KEY UPDATE SKIP LOCKED) AS s
), drawn AS (
    UPDATE <service> AS s SET
        lock_id = due.lock_id, interval_seconds = due.seconds,
        epoch = CASE WHEN s.timeline = server.timeline THEN s.epoch + 1
            ELSE greatest((s.epoch >> <bits>) + 1, server.timeline) << <bits> END,
        timeline = server.timeline, holder = $5::text, started_at = now(),
        triggered_at = CASE WHEN s.triggered_at > now() THEN now() ELSE s.triggered_at END
    FROM due CROSS JOIN server WHERE s.ctid = due.row
    RETURNING s.lock_id, s.epoch, extract(epoch FROM s.last_success)::float8 AS last_success
), ended AS MATERIALIZED (
    SELECT name, epoch, (epoch % <slots>)::int2 AS slot, started_at, NULL::timestamptz AS ended_at,
        coalesce(holder, '') AS holder, NULL::text AS outcome, '' AS error
    FROM due WHERE started_at IS NOT NULL AND (last_ended_at IS NULL OR last_ended_at < started_at)
), <history>
SELECT <whose>, ARRAY(SELECT lock_id FROM drawn)::text, ARRAY(SELECT epoch FROM drawn)::text,
    ARRAY(SELECT last_success FROM drawn)::text, set_config('<kept>', ARRAY(SELECT lock_id FROM drawn)::text, false),
    NULL, NULL, NULL
UNION ALL
SELECT <whose>, asked.lock_id::text, (s.name IS NOT NULL)::text,
    (extract(epoch FROM s.due_at)::float8 - extract(epoch FROM now())::float8)::text,
    (extract(epoch FROM s.last_success)::float8)::text,
    (s.paused_at IS NOT NULL)::text, s.paused_by, s.pause_reason
FROM asked LEFT JOIN LATERAL (
    SELECT name, due_at, last_success, paused_at, paused_by, pause_reason FROM <service> AS s
    WHERE s.name = asked.name LIMIT 1) AS s ON true
WHERE asked.lock_id NOT IN (SELECT lock_id FROM drawn)
"""

# $1 the locks that were tried, in the same order, $2 whether each has a row; the others are kept as they are.
_PUT_BACK = """
SELECT <whose>,
    CASE WHEN <ours> THEN ARRAY(SELECT pg_advisory_unlock(tried.lock_id)
        FROM unnest($1::int8[], $2::bool[], coalesce(nullif(current_setting('<granted>', true), ''), '{}')::bool[])
            AS tried (lock_id, has_row, granted)
        WHERE tried.granted AND tried.has_row AND tried.lock_id NOT IN (
            SELECT unnest(coalesce(nullif(current_setting('<kept>', true), ''), '{}')::int8[])))
        ELSE '{}' END,
    set_config('<granted>', '', false)
"""

# $1 the services. Each row tells of one that somebody has triggered or paused: its name, whether it is triggered,
# whether it is paused.
_LOOK = """
SELECT <whose>, s.name, s.triggered_at IS NOT NULL, s.paused_at IS NOT NULL FROM <service> AS s
WHERE s.name = ANY ($1::text[]) AND (s.triggered_at IS NOT NULL OR s.paused_at IS NOT NULL)
"""
