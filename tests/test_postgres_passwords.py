"""That no log record, error or repr of a `PostgresLocker` holds a password, however it is given and whatever fails."""

from __future__ import annotations

import logging
import traceback
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING
from urllib.parse import quote

import psycopg
import pytest
import trio
from locker_essentials import works_again
from postgres_view import asked, instead_of_the_statement, never, terminate, until
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from relayed import relayed

from tickrunner_trio import DatabaseUnavailableError, LockerConfigurationError, LockLostError, PostgresLocker
from tickrunner_trio.lockers import _backoff
from tickrunner_trio.lockers._session import Session

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator

    from faults.relay import Relay

    from tickrunner_trio import Lease

#: What stands for itself in no form of a connection string: the ends of a word, a value, a user, a host, a path, a
#: query and an escape; and what a message in one line would change.
SPECIAL = "s3 s3:/?#@&=+%'\"\\ s3'  s3\ts3"


def conninfo_in(form: str, where: dict[str, str], password: str, patch: pytest.MonkeyPatch) -> str:
    """The connection string; the password in it, or in the environment."""
    if form == "PGPASSWORD":
        patch.setenv("PGPASSWORD", password)
        return make_conninfo("", **where)
    if form == "URI":
        user, host = quote(where["user"], safe=""), where["host"]
        return f"postgresql://{user}:{quote(password, safe='')}@{host}:{where['port']}/{where['dbname']}"
    if form == "URI with a query":
        return f"postgresql://{where['host']}:{where['port']}/{where['dbname']}?" + "&".join(
            f"{name}={quote(value, safe='')}" for name, value in {"user": where["user"], "password": password}.items()
        )
    return make_conninfo("", **where, password=password)


def forms_shown(text: str, password: str) -> list[str]:
    """In which forms the text shows it: as it is, as somebody would have written it, or as Python shows it."""
    quoted = password.replace("\\", r"\\").replace("'", r"\'")
    forms = {password, quote(password, safe=""), quote(password), quoted, repr(password)[1:-1]}
    return [form for form in forms if in_one_line(form) in in_one_line(text)]


def in_one_line(text: str) -> str:
    return " ".join(text.split())


@contextmanager
def role(dsn: str, password: str) -> Iterator[str]:
    name = "tickrunner_test_with_a_password"
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), sql.Literal(password)))
        try:
            yield name
        finally:
            asked(dsn, f"DROP ROLE {name}")


class Exposed:
    """A locker that logs in with a password, over a relay, and all that it shows."""

    def __init__(self, locker: PostgresLocker, relay: Relay, user: str) -> None:
        self.locker = locker
        self.relay = relay
        self.user = user
        self.shown = [repr(locker)]

    async def says(self, words: str) -> None:
        await until(lambda: words in repr(self.locker))
        self.shown.append(repr(self.locker))

    async def fails(
        self, kind: type[Exception], words: str, ask: Callable[[], Awaitable[object]] | None = None
    ) -> None:
        """To give a lock, unless it is asked for something else."""
        with pytest.raises(kind, match=words) as caught:
            await (ask() if ask else self.locker.with_advisory_lock(6, never))
        self.shown += [*traceback.format_exception(caught.value), repr(caught.value), repr(self.locker)]


@asynccontextmanager
async def exposed(
    dsn: str, form: str, password: str, caplog: pytest.LogCaptureFixture, patch: pytest.MonkeyPatch
) -> AsyncGenerator[Exposed]:
    """The password must have been shown nowhere in the end."""
    caplog.set_level(logging.DEBUG)
    patch.setattr(_backoff, "FIRST_SECONDS", 0.002)  # it doubles with each failure
    with role(dsn, password) as user:
        async with relayed(dsn) as (relay, conninfo):
            way = {name: str(value) for name, value in conninfo_to_dict(conninfo).items()}
            where = {name: way[name] for name in ("host", "port", "dbname")} | {"user": user}
            locker = PostgresLocker(conninfo_in(form, where, password, patch), lease=2.0)
            scene = Exposed(locker, relay, user)
            async with locker:
                await works_again(locker)
                yield scene
            await scene.fails(trio.ClosedResourceError, "closed: make a new one")
    assert caplog.records
    assert forms_shown("\n".join([*scene.shown, caplog.text]), password) == []


@pytest.mark.parametrize(
    ("form", "password"),
    [("key=value", SPECIAL), ("URI", SPECIAL), ("URI with a query", "pässword ☃"), ("PGPASSWORD", SPECIAL)],
)
async def test_a_session_that_ends_and_a_password_that_is_no_longer_right_show_none(
    dsn: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, form: str, password: str
) -> None:
    async def lose() -> None:
        async def work(lease: Lease) -> None:
            terminate(dsn)
            await trio.sleep_forever()

        await scene.locker.with_advisory_lock(5, work)

    async with exposed(dsn, form, password, caplog, monkeypatch) as scene:
        await scene.fails(LockLostError, "terminating connection", lose)
        await works_again(scene.locker)
        asked(dsn, f"ALTER ROLE {scene.user} PASSWORD 'another'")
        terminate(dsn)
        await scene.says("authentication failed")
        await scene.fails(LockerConfigurationError, "correct the user, the password")
        await scene.fails(LockerConfigurationError, "correct the user, the password", scene.locker.holders)


@pytest.mark.parametrize("form", ["key=value", "URI", "PGPASSWORD"])
async def test_a_server_that_refuses_or_says_nothing_shows_none(
    dsn: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    async with exposed(dsn, form, SPECIAL, caplog, monkeypatch) as scene:
        if form == "URI":
            scene.relay.partition()
            await scene.fails(DatabaseUnavailableError, "did not reply within")
            scene.relay.heal()
            await works_again(scene.locker)
        scene.relay.refuse()
        await scene.says("refused")
        await scene.fails(DatabaseUnavailableError, "refused")
        await scene.fails(DatabaseUnavailableError, "refused", scene.locker.holders)


@pytest.mark.parametrize("form", ["key=value", "URI", "PGPASSWORD"])
async def test_a_statement_that_fails_and_a_bug_with_its_traceback_show_none(
    dsn: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    wrong = b"SELECT 1 / (array_length($2::bigint[], 1) - 1), $1::bigint[]"
    async with exposed(dsn, form, SPECIAL, caplog, monkeypatch) as scene:
        with monkeypatch.context() as patch:
            instead_of_the_statement(patch, wrong, acquiring=True)
            await scene.fails(LockerConfigurationError, "division by zero")
        await scene.says("ready")
        monkeypatch.setattr(Session, "read_unasked", lambda session: 1 / 0)
        terminate(dsn)
        await scene.says("died of a bug")
        await scene.fails(RuntimeError, "died of a bug")
        assert "Traceback" in caplog.text


@pytest.mark.parametrize(
    "form",
    [
        "key=value",
        "URI",
        "PGPASSWORD",
    ],
)
async def test_a_password_that_the_server_quotes_because_it_is_the_name_of_the_role_too_is_blotted_out(
    dsn: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    caplog.set_level(logging.DEBUG)
    server = conninfo_to_dict(dsn)
    where = {name: str(server[name]) for name in ("host", "port", "dbname") if name in server}
    locker = PostgresLocker(conninfo_in(form, where | {"user": SPECIAL}, SPECIAL, monkeypatch))
    with pytest.raises(LockerConfigurationError, match="authentication failed for user") as caught:
        async with locker:
            raise AssertionError("entered")
    shown = "\n".join([*traceback.format_exception(caught.value), caplog.text, repr(locker)])
    assert forms_shown(shown, SPECIAL) == []
    assert '"***"' in shown
