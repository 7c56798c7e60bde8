"""What `PostgresLocker` promises above all, on each major version of PostgreSQL whose binaries are at hand."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from locker_essentials import exclude_each_other, loses_its_lock_when_terminated
from postgres_view import asked, locks, taken_at, until
from test_ledger_locker import ask, never, run

from tickrunner_trio import PostgresLocker
from tickrunner_trio._local_postgres import local_postgres
from tickrunner_trio._postgres_binaries import server_binaries
from tickrunner_trio.abc import LedgerState
from tickrunner_trio.lockers._clock import boot_seconds
from tickrunner_trio.lockers._session import Session
from tickrunner_trio.lockers._short import _wait as wait
from tickrunner_trio.lockers._timing import LeaseTiming

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tickrunner_trio._local_postgres import LocalPostgres

LEASE = 2.0
VERSIONS = {binaries.major: binaries for binaries in reversed(server_binaries()) if binaries.major >= 14}

# A client to be frozen. It reads the connection string, says when it has the lock, and holds on to it.
HOLDER = f"""
import sys, trio
from tickrunner_trio import PostgresLocker

async def hold(lease):
    print("held", flush=True)
    await trio.sleep_forever()

async def main():
    async with PostgresLocker(sys.stdin.readline().strip(), lease={LEASE}) as locker:
        await locker.with_advisory_lock(9, hold)

trio.run(main)
"""


@pytest.fixture(scope="module", params=[pytest.param(VERSIONS[n], id=f"PostgreSQL {n}") for n in sorted(VERSIONS)])
def server(request: pytest.FixtureRequest, _tickrunner_binaries: None) -> Iterator[LocalPostgres]:
    with local_postgres(bin_dir=request.param.directory) as server:
        assert asked(server.dsn, "SHOW server_version_num")[0].startswith(str(request.param.major))
        yield server


async def test_the_essentials_hold_on_every_version(server: LocalPostgres) -> None:
    dsn = server.dsn
    async with PostgresLocker(dsn, lease=LEASE) as locker, PostgresLocker(dsn, lease=LEASE) as other:
        await exclude_each_other(locker, other, server=dsn)
        await exclude_each_other(other, locker, server=dsn)
    async with PostgresLocker(dsn, lease=LEASE) as locker:
        await loses_its_lock_when_terminated(locker, server=dsn)
    assert locks(dsn) == []


@contextlib.contextmanager
def holding(dsn: str) -> Iterator[subprocess.Popen[str]]:
    """A client in a process of its own that has the lock 9."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        try:
            client.stdin.write(f"{dsn}\n")
            client.stdin.flush()
            assert client.stdout.readline() == "held\n"
            yield client
        finally:
            client.kill()


async def test_every_version_ends_the_session_of_a_frozen_client_with_its_lease(server: LocalPostgres) -> None:
    with holding(server.dsn) as client:
        client.send_signal(signal.SIGSTOP)
        frozen_at = trio.current_time()
        await trio.sleep(LEASE / 2)
        assert locks(server.dsn) == [9], "the session ended before its lease"
        await until(lambda: locks(server.dsn) == [])
        assert trio.current_time() - frozen_at < LEASE + 1


@pytest.mark.parametrize(
    "server", [pytest.param(VERSIONS[n], id=f"PostgreSQL {n}") for n in sorted(VERSIONS) if n >= 17], indirect=True
)
def test_the_session_of_a_client_that_is_cut_off_in_the_midst_of_a_statement_ends_with_its_lease(
    server: LocalPostgres,
) -> None:
    timing = LeaseTiming(lease=1.0, beat=0.2, reply=0.3, cancel_after=0.6, cleanup=0.3)
    session = Session(server.dsn, timing, wait)
    try:
        assert session.exchange([], [9], deadline=boot_seconds() + 5) == [True]
        # What ends a statement is never said, and TCP notices nothing: so it is behind a proxy whose client is gone.
        connection = session._connection._pgconn
        connection.enter_pipeline_mode()
        connection.send_query_params(b"SELECT 1", None)
        connection.send_flush_request()
        cut_off_at = boot_seconds()
        connection.flush()
        assert taken_at(server.dsn, 9) >= cut_off_at + 1.0
    finally:
        session.close()


async def test_a_ledger_is_kept_on_every_version(server: LocalPostgres) -> None:
    async with PostgresLocker(server.dsn, ledger=True) as locker, PostgresLocker(server.dsn, ledger=True) as other:
        epochs = [await run(locker), await run(other, forced=True), await run(locker, interval=9.0)]
        assert epochs == [epochs[0], epochs[0] + 1, epochs[0] + 2]
        assert (await ask(other, never, interval=9.0)).state is LedgerState.NOT_DUE
        assert locker.ledger is not None
        await locker.ledger.pause("sweep", reason="", by="")
        assert (await ask(other, never, forced=True)).state is LedgerState.PAUSED
        assert len(await locker.ledger.history("sweep")) == 3
        assert locker.statistics().sessions_lost == other.statistics().sessions_lost == 0
