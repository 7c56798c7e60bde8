"""The application: the four services, what they share, and two commands to have something to maintain.

::

    tickrunner run object_store.app:services     run the services, on as many replicas as you like
    python -m object_store.app seed              create tables and folders, put in the first objects
    python -m object_store.app put --count 10    put in more, some of which expire
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
from typing import TYPE_CHECKING

import outcome
import trio

from tickrunner_trio import Config, DatabaseUnavailableError, PostgresLocker, Service, handle_pass_result

from .catalogue import Catalogue
from .database import Database, SchemaMissingError
from .folders import FOLDERS, Folders
from .journal import Journal
from .maintenance import Maintenance
from .settings import Settings, SettingsError
from .store import INBOX, Store

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from tickrunner_trio import AdvisoryLocker, Tick

#: Seconds after which a pass is taken for stuck: far above what a full batch takes, and below `WRITING_TIME`, so that
#: the clean-up does not come for a file while the pass that announced it may still be at work.
TICK_TIMEOUT = 10.0

#: Ten years, in seconds: more is a mistake of unit.
MAX_EXPIRES_IN = 10 * 366 * 86400.0


@contextlib.asynccontextmanager
async def services() -> AsyncGenerator[list[Service], None]:
    """Open what the services share, as the environment says, and yield the services.

    Raises:
        SettingsError: a variable is missing or wrong, or the folders are not there.
        LockerConfigurationError: the database cannot be used for locks as it is set up.
    """
    settings = Settings.from_environment()
    await _check_folders(settings, FOLDERS)
    async with Database(settings.dsn) as database, PostgresLocker(settings.dsn) as locker:
        yield build_services(settings, database, locker)


async def _check_folders(settings: Settings, folders: Sequence[str]) -> None:
    # Never created on the way: an empty folder in place of one that was not mounted would look like a loss of files.
    if missing := await Folders(settings.root).missing(folders):
        raise SettingsError(
            f"OBJECT_STORE_ROOT must hold the folders {', '.join(folders)}, got {str(settings.root)!r} without "
            f"{', '.join(missing)}: mount the right directory, or run 'python -m object_store.app seed'"
        )


def build_services(settings: Settings, database: Database, locker: AdvisoryLocker) -> list[Service]:
    """Return the four services of this replica."""
    catalogue = Catalogue(database)
    maintenance = Maintenance(catalogue, Folders(settings.root))
    journal = Journal(database, settings.replica)

    def work(do_pass: Callable[[], Awaitable[int]], count_key: str) -> Callable[[Tick], Awaitable[None]]:
        async def run_pass(tick: Tick) -> None:
            result = await outcome.acapture(do_pass)
            await handle_pass_result(tick.log, catalogue, result, count_key)

        return functools.partial(journal.record, run_pass)

    async def expire() -> int:
        expired = await maintenance.expire()
        await journal.forget()
        return expired

    replicate = work(maintenance.replicate, "objects_replicated")
    return [
        Service(
            Config(
                name="replication",
                interval=1.0 * settings.pace,
                locker=locker,
                work=replicate,
                startup=replicate,  # Objects that have one copy only should not wait for the first slot.
                tick_timeout=TICK_TIMEOUT,
            )
        ),
        Service(
            Config(
                name="rebalancing",
                interval=2.0 * settings.pace,
                locker=locker,
                work=work(maintenance.rebalance, "copies_moved"),
                should_run=lambda: settings.rebalancing,
                tick_timeout=TICK_TIMEOUT,
            )
        ),
        Service(
            Config(
                name="expiry",
                interval=1.5 * settings.pace,
                locker=locker,
                work=work(expire, "objects_expired"),
                tick_timeout=TICK_TIMEOUT,
            )
        ),
        Service(
            Config(
                name="cleanup_queue",
                interval=1.0 * settings.pace,
                locker=locker,
                work=work(maintenance.clean_up, "files_removed"),
                startup=work(maintenance.clean_up_with_strays, "files_removed"),
                tick_timeout=TICK_TIMEOUT,
            )
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status: 0 done, 1 database or disk failed, 2 something is set up wrongly."""
    options = _parser().parse_args(arguments)
    try:
        trio.run(_run_command, options)
    except (DatabaseUnavailableError, OSError) as error:
        _complain(error)
        return 1
    except (SettingsError, SchemaMissingError) as error:
        _complain(error)
        return 2
    return 0


def _complain(error: Exception) -> None:
    # In one line: libpq takes several for a refused connection.
    print("object_store:", *str(error).split(), file=sys.stderr)


async def _run_command(options: argparse.Namespace) -> None:
    settings = Settings.from_environment()
    async with Database(settings.dsn) as database:
        store = Store(Catalogue(database), Folders(settings.root))
        if options.command == "seed":
            print(f"{await store.seed()} new objects")
        else:
            await _check_folders(settings, [INBOX])
            await store.put_samples(options.count, expires_in=options.expires_in)
            print(f"{options.count} new objects")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m object_store.app", description="A small object store.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("seed", help="create tables and folders, put in the first objects")
    put = commands.add_parser("put", help="put in more objects")
    put.add_argument("--count", type=_count, default=1, help="how many (default: 1)")
    put.add_argument(
        "--expires-in", type=_seconds, default=10.0, metavar="SECONDS", help="the life of every third (default: 10)"
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}: use for example 10")
    return int(text)


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(text)) <= MAX_EXPIRES_IN:
            return seconds
    raise argparse.ArgumentTypeError(
        f"must be a number of seconds above 0 and at most {MAX_EXPIRES_IN:g}, got {text!r}: use for example 10"
    )


if __name__ == "__main__":
    sys.exit(main())
