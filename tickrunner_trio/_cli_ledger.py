"""``tickrunner status``, ``pause``, ``resume``, ``trigger`` and ``ledger``: the ledger of a database, for operators.

Each prints lines for people, or with ``--json`` one JSON object for programs, of a failure too. The DSN comes from
``--dsn`` or from the environment; every process of the machine can read arguments, so a password belongs into the
latter, or into a file that PGPASSFILE or PGSERVICEFILE names.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import socket
import sys
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from . import DatabaseUnavailableError, LockerConfigurationError, PostgresLedger
from ._cli_errors import CommandError, UsageError
from ._cli_ledger_tables import described, row_json, runs_table, services_table
from ._cli_logging import end_stdout
from ._cli_text import printable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from . import ClusterHealth, PastRun

#: The environment variable that holds the DSN.
DSN_VARIABLE = "TICKRUNNER_DSN"

_STATUSES = (
    "Exit status 1: the database cannot tell now; 2: the command is wrong, or there is no such service or ledger."
)


def add_ledger_commands(commands: Any) -> None:
    """Add the commands to those of the program: ``commands`` is what ``add_subparsers`` gave."""
    status = _command(commands, "status", _status, "show the services of a ledger, or the last runs of one")
    status.add_argument("name", nargs="?", metavar="SERVICE", help="show this one, and its last 100 runs")

    pause = _command(commands, "pause", _pause, "let no replica run a service until it is resumed")
    pause.add_argument("name", metavar="SERVICE")
    pause.add_argument("--reason", required=True, type=_reason, metavar="TEXT", help="for those who find it paused")
    _add_by(pause)

    resume = _command(commands, "resume", _resume, "let a paused service run again")
    resume.add_argument("name", metavar="SERVICE")

    trigger = _command(commands, "trigger", _trigger, "have the next free replica run a service, due or not")
    trigger.add_argument("name", metavar="SERVICE")
    _add_by(trigger)

    ledger = commands.add_parser(
        "ledger", allow_abbrev=False, help="make, check or drop the tables of a ledger"
    ).add_subparsers(required=True, metavar="{init,check,drop}")
    init = _command(ledger, "init", _init, "make what is missing of the tables")
    init.add_argument("--role", metavar="NAME", help="a role that is granted what lockers and operators need")
    init.add_argument("--print", action="store_true", help="print the SQL and the grants instead; needs no --dsn")
    check = "say what is wrong with the tables for this role; exit status 1 if something is"
    _command(ledger, "check", _check, check)
    drop = _command(ledger, "drop", _drop, "drop the tables, and with them all epochs")
    drop.add_argument("--print", action="store_true", help="print the SQL instead; needs no --dsn")
    drop.add_argument("--yes", action="store_true", help="it is meant: epochs, pauses and histories cannot be had back")


def _command(commands: Any, name: str, function: Callable[[argparse.Namespace], int], about: str) -> Any:
    command = commands.add_parser(
        name, allow_abbrev=False, help=about, description=f"{about[0].upper()}{about[1:]}. {_STATUSES}"
    )
    command.set_defaults(command=partial(_answered, function))
    command.add_argument("--dsn", metavar="CONNINFO", help=f"of the database; default: {DSN_VARIABLE}")
    command.add_argument("--schema", default="tickrunner", help="of the ledger's tables (default: tickrunner)")
    command.add_argument("--json", action="store_true", help="print one JSON object; of a failure, what stderr says")
    command.add_argument("--traceback", action="store_true", help="show the whole traceback of what failed")
    return command


def _answered(function: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    try:
        return function(options)
    except CommandError as error:
        if options.json:
            with suppress(CommandError):  # where stdout takes nothing, that is what is told
                _print(options, str, error=str(error))
        raise


def _reason(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty: say why, for those who find it paused")
    return text


def _add_by(command: argparse.ArgumentParser) -> None:
    command.add_argument("--by", default=None, metavar="WHO", help="who asks for it (default: user@host)")


def _status(options: argparse.Namespace) -> int:
    ledger = _ledger(options)
    if options.name is None:
        services = _done(ledger.cluster_health)
        _print(
            options, lambda: services_table(services, width=_width()), services=[row_json(each) for each in services]
        )
        return 0
    service, runs = _done(partial(_of_one, ledger, options.name))
    _print(
        options,
        lambda: f"{services_table([service], width=_width())}\n\n{runs_table(runs)}",
        service=row_json(service),
        runs=[row_json(each) for each in runs],
    )
    return 0


async def _of_one(ledger: PostgresLedger, name: str) -> tuple[ClusterHealth, tuple[PastRun, ...]]:
    runs = await ledger.history(name)  # first, since it refuses a name that nobody knows
    for each in await ledger.cluster_health():
        if each.name == name:
            return each, runs
    raise ValueError(f"name must be that of a service in the ledger, got {name!r}: its row was deleted just now")


def _pause(options: argparse.Namespace) -> int:
    return _changed(options, lambda ledger: ledger.pause(options.name, reason=options.reason, by=_by(options)))


def _resume(options: argparse.Namespace) -> int:
    return _changed(options, lambda ledger: ledger.resume(options.name))


def _trigger(options: argparse.Namespace) -> int:
    return _changed(options, lambda ledger: ledger.trigger(options.name, by=_by(options)))


def _changed(options: argparse.Namespace, change: Callable[[PostgresLedger], Awaitable[ClusterHealth]]) -> int:
    ledger = _ledger(options)
    health = _done(lambda: change(ledger))
    _print(options, lambda: described(health), service=row_json(health))
    return 0


def _init(options: argparse.Namespace) -> int:
    if options.print:
        ledger = _ledger(options, needs_dsn=False)
        is_there = options.dsn is not None
        with _as_command_errors():
            all_of_it, granting = ledger.statements(role=options.role), ledger.grants(role=options.role)
        return _printed_sql(options, [*_done(ledger.missing), *granting] if is_there else all_of_it)
    ledger = _ledger(options)
    made = _done(partial(ledger.init, role=options.role))
    words = "made what was missing of it" if made else "nothing was missing"
    _print(options, lambda: f"ledger in the schema {ledger.schema}: {words}", made=made)
    return 0


def _check(options: argparse.Namespace) -> int:
    ledger = _ledger(options)
    problems = _done(ledger.check)
    lines = problems or (f"ledger in the schema {ledger.schema}: ok",)
    _print(options, lambda: "\n".join(map(printable, lines)), problems=problems)
    return 1 if problems else 0


def _drop(options: argparse.Namespace) -> int:
    if options.print:
        return _printed_sql(options, _ledger(options, needs_dsn=False).removal())
    ledger = _ledger(options)
    if not options.yes:
        raise UsageError(
            f"it would drop the ledger in the schema {ledger.schema}, and with it all epochs, pauses and histories: "
            "add --yes to do so, or --print to see the SQL"
        )
    dropped = _done(ledger.drop)
    words = "dropped" if dropped else "there was none"
    _print(options, lambda: f"ledger in the schema {ledger.schema}: {words}", dropped=dropped)
    return 0


def _printed_sql(options: argparse.Namespace, statements: tuple[str, ...] | list[str]) -> int:
    _print(options, lambda: "\n".join(f"{each};" for each in statements), statements=statements)
    return 0


def _print(options: argparse.Namespace, text: Callable[[], str], **values: object) -> None:
    said = json.dumps({"schema": options.schema, **values}, allow_nan=False) if options.json else text()
    # Rows are ASCII, but somebody may have written others.
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    try:
        print(said.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except OSError as error:  # a pipe whose reader has gone, a full disk
        end_stdout()
        raise CommandError(f"it is done, but stdout does not take what came of it: {error}", status=1) from error


def _width() -> int | None:
    """Return the columns of the terminal; None where stdout is none, or does not know."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except (AttributeError, OSError, ValueError):
        return None


def _ledger(options: argparse.Namespace, *, needs_dsn: bool = True) -> PostgresLedger:
    dsn = os.environ.get(DSN_VARIABLE) if options.dsn is None else options.dsn
    if dsn is None and needs_dsn:
        raise UsageError(f"no database is named: give --dsn 'host=... dbname=...', or set {DSN_VARIABLE}")
    with _as_command_errors():
        return PostgresLedger(dsn or "", options.schema)


def _by(options: argparse.Namespace) -> str:
    if options.by is not None:
        return str(options.by)
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as in containers
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def _done(function: Callable[[], Awaitable[Any]]) -> Any:
    """Await it in a Trio run of its own; what it raises becomes one line."""
    with _as_command_errors():
        return trio.run(_awaited, function)


async def _awaited(function: Callable[[], Awaitable[Any]]) -> Any:
    return await function()


@contextmanager
def _as_command_errors() -> Generator[None]:
    try:
        yield
    except DatabaseUnavailableError as error:
        raise CommandError(str(error), status=1) from error
    except (LockerConfigurationError, ValueError) as error:
        raise UsageError(str(error)) from error
