"""What `PostgresLocker` does over TLS: the same, with a server whose certificate libpq verifies."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
import trio
from locker_essentials import exclude_each_other, loses_its_lock_when_terminated, works_again
from postgres_view import asked, backend, locks, never, stopped, until
from psycopg.conninfo import make_conninfo

from tickrunner_trio import DatabaseUnavailableError, LockerConfigurationError, LockLostError, PostgresLocker
from tickrunner_trio._local_postgres import LocalPostgres, LocalPostgresError
from tickrunner_trio._postgres_binaries import server_binaries

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tickrunner_trio import Lease

NAME = "database.example"


def make_certificate(directory: Path) -> None:
    """Make ``server.key`` and ``server.crt``, a certificate for `NAME` that has signed itself."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl on this machine to make a certificate with")
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"]
    command += ["-keyout", str(directory / "server.key"), "-out", str(directory / "server.crt")]
    subprocess.run(command, check=True, capture_output=True)
    owner = (directory / "socket").stat()
    for path in (directory / "server.key", directory / "server.crt"):
        path.chmod(0o600)
        if os.geteuid() == 0:  # pragma: no branch - nobody else can give files away
            os.chown(path, owner.st_uid, owner.st_gid)


@pytest.fixture(scope="module")
def tls_postgres(_tickrunner_binaries: None) -> Iterator[LocalPostgres]:
    """A server with TLS, if there are binaries that are built with it. The wheel's, which come first, are not."""
    settings: dict[str, str | int | float] = {
        "ssl": True,
        "ssl_cert_file": "../server.crt",
        "ssl_key_file": "../server.key",
    }
    for binaries in reversed(server_binaries()):
        server = LocalPostgres(binaries, settings)
        try:
            make_certificate(server.directory)
            server.start()
            yield server
            return
        except LocalPostgresError as error:  # pragma: no cover - a server without TLS; the next one is tried
            if "SSL is not supported by this build" not in str(error):
                raise
        finally:
            server.close()
    pytest.skip("no PostgreSQL on this machine is built with TLS: apt-get install postgresql")


@pytest.fixture
def verified(tls_postgres: LocalPostgres) -> str:
    """A connection string that lets nothing pass but this server under its own name."""
    root = tls_postgres.directory / "server.crt"
    return make_conninfo(
        tls_postgres.dsn, host=NAME, hostaddr="127.0.0.1", sslmode="verify-full", sslrootcert=str(root)
    )


async def test_a_lock_over_verified_tls_is_like_any_other(tls_postgres: LocalPostgres, verified: str) -> None:
    server = tls_postgres.dsn
    async with PostgresLocker(verified, lease=2.0) as locker:
        assert asked(server, f"SELECT ssl FROM pg_stat_ssl WHERE pid = {backend(server)}") == [True]
        async with PostgresLocker(verified, lease=2.0) as other:
            await exclude_each_other(locker, other, server=server)
        await loses_its_lock_when_terminated(locker, server=server)
        assert [holder.lock_id for holder in await locker.holders()] == []
    assert locks(server) == []


async def test_a_statement_longer_than_a_record_of_tls_is_answered(tls_postgres: LocalPostgres, verified: str) -> None:
    """A record holds 16,384 bytes."""
    ids = range(-(2**63), -(2**63) + 900)
    working, go_on = set[int](), trio.Event()

    async def work(lease: Lease) -> None:
        working.add(lease.lock_id)
        await go_on.wait()
        assert not lease.lost

    async with PostgresLocker(verified, lease=60.0) as locker, trio.open_nursery() as nursery:
        with stopped(backend(tls_postgres.dsn)):
            nursery.start_soon(locker.with_advisory_lock, 1, work)
            await until(lambda: locker.statistics().waiting == 1)
            await trio.sleep(0.1)  # until it is sent, so that all others go into the next statement
            for lock_id in ids:
                nursery.start_soon(locker.with_advisory_lock, lock_id, work)
            await until(lambda: locker.statistics().waiting == 1 + len(ids))
        await until(lambda: len(working) == 1 + len(ids))
        assert locker.statistics().largest_batch == len(ids)
        go_on.set()
    assert locks(tls_postgres.dsn) == []


async def test_a_hung_backend_behind_tls_costs_the_session_when_its_reply_is_late(
    tls_postgres: LocalPostgres, verified: str
) -> None:
    waited: list[float] = []

    async def work(lease: Lease) -> None:
        with stopped(backend(tls_postgres.dsn)), trio.CancelScope(shield=True):
            began_at = trio.current_time()
            with pytest.raises(DatabaseUnavailableError, match=r"did not reply within 0\.\d+ seconds"):
                await locker.with_advisory_lock(6, never)
            waited.append(trio.current_time() - began_at)
            assert lease.lost

    async with PostgresLocker(verified, lease=2.0) as locker:
        with pytest.raises(LockLostError):
            await locker.with_advisory_lock(5, work)
        assert waited[0] < locker.timing.cancel_after
        await works_again(locker)


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"host": "other.example"}, r"does not match host name .*: correct .*"),
        ({"sslrootcert": "/nowhere/root.crt"}, r"root certificate file .* does not exist.*: correct .*sslrootcert"),
    ],
)
async def test_a_server_that_is_not_the_one_that_was_meant_is_a_wrong_configuration(
    verified: str, parameters: dict[str, str], reason: str
) -> None:
    with pytest.raises(LockerConfigurationError, match=reason):
        async with PostgresLocker(make_conninfo(verified, **parameters)):
            raise AssertionError("entered")


async def test_tls_demanded_of_a_server_without_it_is_a_wrong_configuration(postgres: LocalPostgres) -> None:
    assert asked(postgres.dsn, "SHOW ssl") == ["off"]
    with pytest.raises(LockerConfigurationError, match=r"does not support SSL.*: correct sslmode in conninfo"):
        async with PostgresLocker(make_conninfo(postgres.dsn, sslmode="require")):
            raise AssertionError("entered")
