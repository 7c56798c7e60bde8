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
4. Rows are locked in the order of the names, and one that somebody else has locked is left out: nothing waits.
5. Each statement does something only in the session that bears our mark.

Each answers ``ours`` or ``shared`` first, by which the session sees a pooler that leads it astray.
"""

from __future__ import annotations

from dataclasses import dataclass

from .._dueness import EPOCH_BITS, FAILURE_PART, FAILURES
from .._outcome import Outcome
from ._ledger_schema import RUNS_KEPT, table

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
    for name, value in names.items():
        text = text.replace(f"<{name}>", value)
    return " ".join(text.split())


# Of each result: $1 the service, $2 its lock, $3 the epoch of the run, $4 the outcome, $5 its duration in seconds, $6 the
# error, $7 a number from 0 to 1. In the order of the locks: whether each is done with, which is so too where the row
# has another epoch by now, and the seconds until the service is due. `_dueness` has the arithmetic.
_RESULTS = """
WITH told AS MATERIALIZED (
    SELECT name, lock_id, epoch, outcome, duration, error, chance
    FROM unnest($1::text[], $2::int8[], $3::int8[], $4::text[], $5::float8[], $6::text[], $7::float8[])
        AS told (name, lock_id, epoch, outcome, duration, error, chance)
    WHERE <ours>
), locked AS MATERIALIZED (
    SELECT s.name, s.started_at, s.due_at, s.interval_seconds AS seconds,
        s.interval_seconds * interval '1 second' AS step
    FROM <service> AS s JOIN told USING (name) WHERE s.epoch = told.epoch
    ORDER BY s.name FOR NO KEY UPDATE OF s SKIP LOCKED
), based AS MATERIALIZED (
    SELECT name, seconds, step, CASE WHEN due_at IS NULL OR due_at > started_at AND due_at <= started_at + step
        THEN started_at ELSE due_at END AS base FROM locked
), next AS MATERIALIZED (
    SELECT name, seconds, step,
        base + (floor(extract(epoch FROM now() - base)::float8 / seconds) + 1) * step AS due_at FROM based
), written AS (
    UPDATE <service> AS s SET
        due_at = CASE
            WHEN told.outcome = <success> AND next.due_at > now() THEN least(next.due_at, now() + next.step)
            WHEN told.outcome = <success> THEN next.due_at + next.step
            WHEN told.outcome IN (<failures>) THEN now() + told.chance * <part> * next.step
            ELSE s.due_at END,
        triggered_at = CASE WHEN told.outcome <> <cancelled> AND s.triggered_at <= s.started_at THEN NULL
            ELSE s.triggered_at END,
        triggered_by = CASE WHEN told.outcome <> <cancelled> AND s.triggered_at <= s.started_at THEN NULL
            ELSE s.triggered_by END,
        last_outcome = told.outcome,
        last_ended_at = now(),
        last_duration = told.duration,
        last_success = CASE WHEN told.outcome = <success> THEN now() ELSE s.last_success END,
        last_failure = CASE WHEN told.outcome IN (<errors>) THEN now() ELSE s.last_failure END,
        last_error = CASE WHEN told.outcome = <success> THEN '' WHEN told.outcome IN (<errors>) THEN told.error
            ELSE s.last_error END,
        consecutive_failures = CASE WHEN told.outcome = <success> THEN 0
            WHEN told.outcome IN (<errors>) THEN s.consecutive_failures + 1 ELSE s.consecutive_failures END
    FROM next JOIN told USING (name)
    WHERE s.name = next.name
    RETURNING s.name, s.epoch, (s.epoch % <slots>)::int2 AS slot, s.started_at, coalesce(s.holder, '') AS holder,
        s.due_at, told.outcome, told.error
), past AS MATERIALIZED (
    SELECT r.service, r.slot FROM <run> AS r JOIN written ON r.service = written.name AND r.slot = written.slot
    ORDER BY r.service FOR NO KEY UPDATE OF r SKIP LOCKED
), ring AS (
    UPDATE <run> AS r SET epoch = written.epoch, started_at = written.started_at, ended_at = now(),
        outcome = written.outcome, replica = written.holder, error = written.error
    FROM past JOIN written ON written.name = past.service
    WHERE r.service = past.service AND r.slot = past.slot
), growth AS (
    INSERT INTO <run> (service, slot, epoch, started_at, ended_at, outcome, replica, error)
    SELECT name, slot, epoch, started_at, now(), outcome, holder, error FROM written
    WHERE NOT EXISTS (SELECT FROM <run> AS r WHERE r.service = written.name AND r.slot = written.slot)
    ORDER BY name ON CONFLICT DO NOTHING
), done AS MATERIALIZED (
    SELECT told.lock_id, written.name IS NOT NULL OR NOT EXISTS (
            SELECT FROM <service> AS s WHERE s.name = told.name AND s.epoch = told.epoch) AS is_done,
        extract(epoch FROM written.due_at - now())::float8 AS due_in
    FROM told LEFT JOIN written USING (name)
)
SELECT <whose>,
    set_config('<written>', coalesce((SELECT array_agg(lock_id) FILTER (WHERE is_done) FROM done), '{}')::text, false),
    ARRAY(SELECT is_done FROM done ORDER BY lock_id),
    ARRAY(SELECT due_in FROM done ORDER BY lock_id)
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

# What is asked for, and was granted just now. $1 the services, $2 their locks, in the order in which these were tried.
_ASKED = """
asked AS MATERIALIZED (
    SELECT asked.name, asked.lock_id, asked.seconds, asked.forced
    FROM unnest($1::text[], $2::int8[], $3::float8[], $4::bool[],
        coalesce(nullif(current_setting('<granted>', true), ''), '{}')::bool[])
        AS asked (name, lock_id, seconds, forced, granted)
    WHERE asked.granted AND asked.name IS NOT NULL AND <ours>
)
"""

# $3 the intervals in seconds, $4 as below. A row that is made anew is due now.
_REGISTER = f"""
WITH {_ASKED}, made AS (
    INSERT INTO <service> (name, lock_id, interval_seconds, due_at)
    SELECT name, lock_id, seconds, now() FROM asked
    WHERE NOT EXISTS (SELECT FROM <service> AS s WHERE s.name = asked.name)
    ORDER BY name ON CONFLICT DO NOTHING
)
SELECT <whose>
"""

# $3 the intervals in seconds, $4 whether it is due whatever the row says, $5 who we are. Each row tells of a lock that
# was granted: the epoch, if it was drawn, and what the row says. A run that never ended goes into the history.
_DRAW = f"""
WITH {_ASKED}, server AS MATERIALIZED (
    SELECT ('x' || lpad(left(pg_walfile_name(pg_current_wal_lsn()), 8), 16, '0'))::bit(64)::int8 AS timeline
), due AS MATERIALIZED (
    SELECT s.name, s.epoch, (s.epoch % <slots>)::int2 AS slot, s.started_at, coalesce(s.holder, '') AS holder,
        s.started_at IS NOT NULL AND (s.last_ended_at IS NULL OR s.last_ended_at < s.started_at) AS is_unended,
        asked.lock_id, asked.seconds
    FROM <service> AS s JOIN asked USING (name)
    WHERE s.paused_at IS NULL AND (asked.forced OR s.triggered_at IS NOT NULL OR s.due_at IS NULL
        OR s.due_at <= now() OR s.due_at > now() + asked.seconds * interval '1 second')
    ORDER BY s.name FOR NO KEY UPDATE OF s SKIP LOCKED
), drawn AS (
    UPDATE <service> AS s SET
        lock_id = due.lock_id, interval_seconds = due.seconds,
        epoch = CASE WHEN s.timeline = server.timeline THEN s.epoch + 1
            ELSE greatest((s.epoch >> <bits>) + 1, server.timeline) << <bits> END,
        timeline = server.timeline, holder = $5, started_at = now()
    FROM due CROSS JOIN server
    WHERE s.name = due.name
    RETURNING s.name, s.lock_id, s.epoch
), unended AS MATERIALIZED (
    SELECT due.* FROM due JOIN drawn USING (name) WHERE due.is_unended
), past AS MATERIALIZED (
    SELECT r.service, r.slot FROM <run> AS r JOIN unended ON r.service = unended.name AND r.slot = unended.slot
    ORDER BY r.service FOR NO KEY UPDATE OF r SKIP LOCKED
), ring AS (
    UPDATE <run> AS r SET epoch = unended.epoch, started_at = unended.started_at, ended_at = NULL, outcome = NULL,
        replica = unended.holder, error = ''
    FROM past JOIN unended ON unended.name = past.service
    WHERE r.service = past.service AND r.slot = past.slot
), growth AS (
    INSERT INTO <run> (service, slot, epoch, started_at, replica)
    SELECT name, slot, epoch, started_at, holder FROM unended
    WHERE NOT EXISTS (SELECT FROM <run> AS r WHERE r.service = unended.name AND r.slot = unended.slot)
    ORDER BY name ON CONFLICT DO NOTHING
), kept AS MATERIALIZED (
    SELECT set_config('<kept>', coalesce(array_agg(lock_id), '{{}}')::text, false) FROM drawn
)
SELECT <whose>, asked.lock_id, drawn.epoch, s.name IS NOT NULL, extract(epoch FROM s.due_at - now())::float8,
    extract(epoch FROM s.last_success)::float8, s.paused_at IS NOT NULL, s.paused_by, s.pause_reason
FROM kept CROSS JOIN asked LEFT JOIN drawn ON drawn.name = asked.name AND drawn.lock_id = asked.lock_id
    LEFT JOIN <service> AS s ON s.name = asked.name
"""

# $1 the locks that were tried, in the same order, $2 whether each has a row; the others are kept as they are.
_PUT_BACK = """
SELECT <whose>,
    CASE WHEN <ours> THEN ARRAY(SELECT pg_advisory_unlock(tried.lock_id)
        FROM unnest($1::int8[], $2::bool[], coalesce(nullif(current_setting('<granted>', true), ''), '{}')::bool[])
            AS tried (lock_id, has_row, granted)
        WHERE tried.granted AND tried.has_row
            AND tried.lock_id <> ALL (coalesce(nullif(current_setting('<kept>', true), ''), '{}')::int8[]))
        ELSE '{}' END,
    set_config('<granted>', '', false)
"""

# $1 the services. Each row tells of one that somebody has triggered or paused: its name, whether it is triggered,
# whether it is paused.
_LOOK = """
SELECT <whose>, s.name, s.triggered_at IS NOT NULL, s.paused_at IS NOT NULL FROM <service> AS s
WHERE s.name = ANY ($1::text[]) AND (s.triggered_at IS NOT NULL OR s.paused_at IS NOT NULL)
"""
