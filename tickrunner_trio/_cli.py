"""The command line: ``tickrunner run``, ``check``, ``demo``, and those of the ledger. Arguments in, exit status out.

Each command lives in its own module, imported when it is asked for; the exit statuses are listed in `_cli_errors`.
What a command writes goes to stdout; the one line that says why it cannot go on goes to stderr.
"""

from __future__ import annotations

import argparse
import math
import signal
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import trio

from . import __version__
from ._cli_errors import UsageError, command_error_in, first_leaf, show

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from . import Service

_TARGET = "a list of services, or an async context manager function that yields one, for example myapp:services"

#: Seconds; the example keeps the record by which the demo judges for an hour.
_LONGEST_DEMO = 3000

#: What one machine can bear.
_MOST_REPLICAS = 20


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Args:
        argv: the arguments without the program's name; None: those of the process.

    Raises:
        SystemExit: after ``--help``, or as the user's code raised it.
    """
    arguments = sys.argv[1:] if argv is None else argv
    parser = _parser(*arguments[:1])
    options = argparse.Namespace(traceback=False)
    try:
        parser.parse_args(arguments, options)
        return int(options.command(options))
    except BaseException as error:  # noqa: ASYNC103 - outside of Trio there is no cancellation
        # Nurseries on the way, the user's own too, put what passes through them into a group.
        if first_leaf(error, KeyboardInterrupt) is not None:
            return 130  # noqa: ASYNC104
        if (ended := first_leaf(error, SystemExit)) is not None:
            raise ended from None  # noqa: ASYNC104
        said = command_error_in(error)
        if said is None:
            raise
        show(parser.prog, said, with_traceback=options.traceback)
        return said.status  # noqa: ASYNC104


def _run(options: argparse.Namespace) -> int:
    from ._cli_loading import load  # noqa: PLC0415 - see the docstring of the module
    from ._cli_logging import configure_logging, end_stdout  # noqa: PLC0415
    from ._cli_run import run_services, signals_restored  # noqa: PLC0415
    from ._cli_telemetry import telemetry_of_environment  # noqa: PLC0415

    admin = None
    if options.admin is not None:
        from ._cli_admin import admin_options  # noqa: PLC0415

        admin = admin_options(
            options.admin,
            token_file=options.admin_token_file,
            names=options.admin_host,
            as_json=options.log_format == "json",
        )
    elif options.admin_token_file is not None or options.admin_host:
        raise UsageError("--admin-token-file and --admin-host are of use with --admin HOST:PORT only: give it too")
    configure_logging(options.log_format, options.log_level)
    open_services = load(options.target)
    # Metrics are read for the last time when everything has ended, and end with the services that they are about.
    kept: list[Service] = []
    run = partial(
        run_services,
        open_services,
        drain_timeout=options.drain_timeout,
        stop_at_eof=options.stop_at_eof,
        kept=kept,
        admin=admin,
    )
    try:
        with signals_restored(), telemetry_of_environment(options.target.partition(":")[0].partition(".")[0]):
            return trio.run(run)
    finally:
        end_stdout()


def _check(options: argparse.Namespace) -> int:
    from ._cli_check import check_services, table  # noqa: PLC0415
    from ._cli_loading import load  # noqa: PLC0415

    open_services = load(options.target)

    async def checked() -> int:
        async with open_services() as services:
            verdicts = check_services(services)
        print(table(verdicts))
        return 1 if any(verdict.errors for verdict in verdicts) else 0

    return trio.run(checked)


def _demo(options: argparse.Namespace) -> int:
    from ._demo import SIGNALS, demo  # noqa: PLC0415

    if options.kill and options.replicas == 1:
        raise UsageError("--kill needs another replica that can take over: give --replicas 2 or more, or --no-kill")
    kill = options.replicas > 1 if options.kill is None else options.kill
    before = {number: signal.getsignal(number) for number in SIGNALS}
    status = 0
    try:
        status = trio.run(partial(demo, replicas=options.replicas, seconds=options.seconds, kill=kill))
    finally:
        if status <= 128:  # else a signal ended it: the last one that counts, also while the interpreter ends
            for number, handler in before.items():
                signal.signal(number, handler)
    return status


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see '{self.prog} --help')")


def _parser(asked: str = "") -> argparse.ArgumentParser:
    """Return the parser with the command that is asked for; with all of them if there is no such command.

    All of them take 3.5 ms to make, one takes 1.
    """
    parser = _Parser(prog="tickrunner", description="Periodic background services under locks.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar=f"{{{','.join(_COMMANDS)}}}")
    for add in [_COMMANDS[asked]] if asked in _COMMANDS else dict.fromkeys(_COMMANDS.values()):
        add(commands)
    return parser


def _add_run(commands: Any) -> None:
    run = commands.add_parser(
        "run",
        allow_abbrev=False,
        help="run services until SIGINT or SIGTERM",
        description="Run services. SIGINT or SIGTERM drains them, exit status 0; a second signal cancels the work in "
        "flight, exit status 128 + the number of the signal. OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_METRICS_EXPORTER and "
        "the other variables of OpenTelemetry ask for traces, metrics and logs. TICKRUNNER_ADMIN_TOKEN is the token of "
        "--admin.",
    )
    run.set_defaults(command=_run)
    run.add_argument("target", metavar="module:attribute", help=_TARGET)
    run.add_argument(
        "--drain-timeout",
        type=partial(_seconds, least=0),
        default=30.0,
        metavar="SECONDS",
        help="how long work in flight may take after the first signal before it is cancelled (default: 30)",
    )
    run.add_argument("--log-format", choices=("text", "json"), default="text", help="text (default) or JSON lines")
    run.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error", "critical"),
        default="info",
        help="info (default): ticks that did work or failed; debug: all ticks",
    )
    run.add_argument(
        "--stop-at-eof",
        action="store_true",
        help="drain also when standard input ends, as it does when the process that started this one dies",
    )
    run.add_argument(
        "--admin",
        metavar="[HOST:]PORT",
        help="serve a page with the services, their JSON, /healthz and /readyz there; on 127.0.0.1 if no HOST is given",
    )
    run.add_argument(
        "--admin-token-file",
        metavar="FILE",
        help="the token of --admin; default: TICKRUNNER_ADMIN_TOKEN, or one that is made at random and printed once",
    )
    run.add_argument(
        "--admin-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name under which browsers reach --admin, beside localhost and addresses; may be given several times",
    )
    run.add_argument("--traceback", action="store_true", help="show the whole traceback of what failed")


def _add_check(commands: Any) -> None:
    check = commands.add_parser(
        "check",
        allow_abbrev=False,
        help="check the invariants across services",
        description="Print each service and what is wrong with it. The context manager that opens the services is "
        "entered, because they exist only inside it. Exit status 1 when an invariant is broken.",
    )
    check.set_defaults(command=_check)
    check.add_argument("target", metavar="module:attribute", help=_TARGET)
    check.add_argument("--traceback", action="store_true", help="show the whole traceback of what failed")


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser(
        "demo",
        allow_abbrev=False,
        help="watch replicas share work, and one of them die",
        description="Start a PostgreSQL and replicas of the example application, kill one half-way, and judge what the "
        "work recorded in the database. TICKRUNNER_TEST_DSN names a server to use instead of starting one. "
        "Exit status 1 when a promise was broken.",
    )
    demo.set_defaults(command=_demo)
    demo.add_argument("--replicas", type=_count, default=3, metavar="N", help=f"1 to {_MOST_REPLICAS} (default: 3)")
    demo.add_argument(
        "--seconds",
        type=partial(_seconds, least=4, most=_LONGEST_DEMO),
        default=20.0,
        metavar="SECONDS",
        help="how long the replicas run, 4 to 3000 (default: 20); below 14 the services tick faster",
    )
    demo.add_argument(
        "--kill",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="kill the busiest replica half-way with SIGKILL (default: yes, if there are two or more)",
    )


def _add_ledger_commands(commands: Any) -> None:
    from ._cli_ledger import add_ledger_commands  # noqa: PLC0415 - see the docstring of the module

    add_ledger_commands(commands)


#: By name what adds it to what ``add_subparsers`` gave, perhaps with others.
_COMMANDS: dict[str, Callable[[Any], None]] = {
    "run": _add_run,
    "check": _add_check,
    "demo": _add_demo,
    **dict.fromkeys(("status", "pause", "resume", "trigger", "ledger"), _add_ledger_commands),
}


def _seconds(text: str, *, least: float, most: float = math.inf) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (least <= value <= most and value < math.inf):
        bounds = f"at least {least}" + ("" if most == math.inf else f", at most {most}")
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds: give a finite number, {bounds}")
    return value


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= _MOST_REPLICAS):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of replicas: give a whole number from 1 to {_MOST_REPLICAS}"
        )
    return int(text)
