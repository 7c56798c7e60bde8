"""The ledger with replicas that are real processes: deployed, killed, frozen, raced for."""

from __future__ import annotations

import os
import random
import signal
import time
from itertools import pairwise
from typing import TYPE_CHECKING

import trio
from ledger_view import do

from tickrunner_trio import Outcome, PostgresLedger

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from tickrunner_trio import ClusterHealth

    Start = Callable[..., subprocess.Popen[str]]

SUCCESSES = (
    "SELECT extract(epoch FROM started_at)::float8, replica FROM tickrunner.run WHERE outcome = 'success' ORDER BY 1"
)


def ready(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def until(dsn: str, query: str, *parameters: object, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not do(dsn, query, *parameters):
        assert time.monotonic() < deadline, query
        time.sleep(0.02)


def health(dsn: str) -> ClusterHealth:
    [row] = trio.run(PostgresLedger(dsn).cluster_health)
    return row


def test_over_twenty_rolling_restarts_each_interval_has_one_run(dsn: str, replicas: Start) -> None:
    interval, count = 2.0, 3
    alive = [ready(replicas(f"r{index}", interval=interval, seconds=0.05)) for index in range(count)]
    for restart in range(20):
        time.sleep(random.uniform(0.6, 1.4))
        index = restart % count
        alive[index].send_signal(signal.SIGTERM if restart % 2 else signal.SIGKILL)
        alive[index].wait()
        alive[index] = ready(replicas(f"r{index}.{restart}", interval=interval, seconds=0.05))
    time.sleep(interval)
    epochs = [epoch for (epoch,) in do(dsn, "SELECT epoch FROM written WHERE kind = 'start' ORDER BY id")]
    assert epochs == sorted(set(epochs))
    # A run that SIGKILL meets is begun anew; what counts is what succeeded.
    runs = do(dsn, SUCCESSES)
    gaps = [(after - before) / interval for (before, _), (after, _) in pairwise(runs)]
    mean = (runs[-1][0] - runs[0][0]) / interval / len(gaps)
    processes = len({name for _, name in runs})
    print(f"{len(runs)} by {processes} processes; gaps {min(gaps):.3f} to {max(gaps):.3f}, {mean:.4f} in the mean")
    assert processes > count
    assert abs(mean - 1) < 0.02
    assert all(0.5 < gap < 1.5 for gap in gaps)


def test_after_a_sigkill_in_mid_work_another_process_begins_as_soon_as_the_lock_is_free(
    dsn: str, replicas: Start
) -> None:
    one = ready(replicas("one", interval=20.0, seconds=60.0))
    until(dsn, "SELECT 1 FROM written WHERE replica = 'one'")
    ready(replicas("other", interval=20.0, seconds=0.1))
    time.sleep(1)
    one.kill()
    killed_at = time.time()
    until(dsn, "SELECT 1 FROM written WHERE replica = 'other' AND kind = 'end'", seconds=10)
    [(started_at,)] = do(
        dsn, "SELECT extract(epoch FROM at)::float8 FROM written WHERE replica = 'other' AND kind = 'start'"
    )
    assert started_at - killed_at < 20.0 / 10 + 2
    until(dsn, "SELECT 1 FROM tickrunner.service WHERE last_outcome = 'success'")
    outcomes = [run.outcome for run in trio.run(PostgresLedger(dsn).history, "sweep")]
    assert outcomes == [Outcome.SUCCESS, None]


def test_a_write_that_a_frozen_holder_makes_too_late_is_refused(dsn: str, replicas: Start) -> None:
    frozen = ready(replicas("frozen", interval=5.0, seconds=1.0, lease=2.0))
    until(dsn, "SELECT 1 FROM written WHERE replica = 'frozen' AND kind = 'start'")
    frozen.send_signal(signal.SIGSTOP)
    try:
        ready(replicas("rival", interval=5.0, seconds=0.1, lease=2.0))
        until(dsn, "SELECT 1 FROM written WHERE replica = 'rival' AND kind = 'end'")
    finally:
        os.kill(frozen.pid, signal.SIGCONT)
    until(dsn, "SELECT 1 FROM written WHERE replica = 'frozen' AND kind = 'refused end'")
    late = do(dsn, "SELECT epoch FROM written WHERE kind = 'refused end'")
    [(newest,)] = do(dsn, "SELECT epoch FROM fence")
    assert all(epoch < newest for (epoch,) in late)


def test_a_triggered_run_begins_within_five_seconds_on_one_process_and_counts(dsn: str, replicas: Start) -> None:
    for name in ("one", "other", "third"):
        ready(replicas(name, interval=3600.0, seconds=0.05, lease=15.0))
    until(dsn, "SELECT 1 FROM tickrunner.service WHERE last_outcome = 'success'", seconds=70)
    for _ in range(3):
        [(before,)] = do(dsn, "SELECT count(*) FROM written WHERE kind = 'start'")
        triggered_at = time.monotonic()
        trio.run(PostgresLedger(dsn).trigger, "sweep")
        until(dsn, "SELECT 1 FROM written WHERE kind = 'start' HAVING count(*) > %s", before, seconds=6)
        assert time.monotonic() - triggered_at < 5.5  # with a process and a connection around it
        until(dsn, "SELECT 1 FROM tickrunner.service WHERE triggered_at IS NULL")
        time.sleep(4.5)  # all have looked
        assert do(dsn, "SELECT count(*) FROM written WHERE kind = 'start'") == [(before + 1,)]
        row = health(dsn)
        assert row.next_due is not None
        assert row.last_success is not None
        assert 3500 < (row.next_due - row.last_success).total_seconds() <= 3600.1


def test_pauses_and_triggers_race_with_runs_and_none_is_lost(dsn: str, replicas: Start) -> None:
    for name in ("one", "other"):
        ready(replicas(name, interval=0.5, seconds=0.05, lease=2.0))
    ledger = PostgresLedger(dsn)
    until(dsn, "SELECT 1 FROM written")
    for turn in range(12):
        row = trio.run(lambda: ledger.pause("sweep", reason=f"turn {turn}", by="test"))  # noqa: B023 - at once
        assert row.paused
        # What was begun before goes on; nothing begins after that.
        time.sleep(0.2)
        [(before,)] = do(dsn, "SELECT count(*) FROM written WHERE kind = 'start'")
        if turn % 2:
            trio.run(ledger.trigger, "sweep")
        time.sleep(0.8)
        assert do(dsn, "SELECT count(*) FROM written WHERE kind = 'start'") == [(before,)]
        trio.run(ledger.resume, "sweep")
        until(dsn, "SELECT 1 FROM written WHERE kind = 'start' HAVING count(*) > %s", before, seconds=6)
    until(dsn, "SELECT 1 FROM tickrunner.service WHERE triggered_at IS NULL", seconds=6)
