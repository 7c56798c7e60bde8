"""What a command says when it cannot go on: one line and an exit status.

=======  ===========================================================================================
status   situation
=======  ===========================================================================================
0        done: drained cleanly; checked and sound; every promise of the demo kept
1        the surroundings failed (database, disk, network), work was cut short, or a check or promise was broken
2        the program or the command line is wrong: waiting mends nothing, somebody has to edit
128 + n  signal n ended it before it was done
=======  ===========================================================================================
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import TypeVar, cast

from ._cli_text import on_one_line, printable, safely

_LeafT = TypeVar("_LeafT", bound=BaseException)


class CommandError(Exception):
    """Ends a command: `main` prints the message as one line on stderr and returns ``status``."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(on_one_line(message))
        self.status = status


class UsageError(CommandError):
    """The program or the command line is wrong; the message says what, and how to mend it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, status=2)


def only_leaf(error: BaseException) -> BaseException:
    """Return the one exception that a group of one carries, however deep; any other exception as it is."""
    members = _members(error)
    return only_leaf(members[0]) if len(members) == 1 else error


def command_error_in(error: BaseException) -> CommandError | None:
    """Return the first `CommandError` of a group that holds nothing else, or the exception itself if it is one."""
    if members := _members(error):
        found = [command_error_in(each) for each in members]
        return None if None in found else found[0]
    return error if isinstance(error, CommandError) else None


def first_leaf(error: BaseException, kind: type[_LeafT]) -> _LeafT | None:
    """Return the first exception of the kind in a group, however deep, or the exception itself if it is one."""
    if isinstance(error, kind):
        return error
    found = (first_leaf(each, kind) for each in _members(error))
    return next((leaf for leaf in found if leaf is not None), None)


def _members(error: BaseException) -> tuple[BaseException, ...]:
    """Return what is in a group; nothing for what is none."""
    if isinstance(error, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", error).exceptions
    return ()


def told(error: BaseException) -> str:
    """Return the kind of an exception, its text and the place in the user's code where it arose, on one line."""
    place = _place(error)
    text = error.msg if isinstance(error, SyntaxError) else safely(str, error)
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"{said} ({place})" if place else said


def _place(error: BaseException) -> str | None:
    """Return "file, line n" of the innermost frame that is the user's own, or of the innermost one if none is."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{_short(error.filename)}, line {error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    machinery = _machinery()
    own = [frame for frame in frames if not frame.filename.startswith(machinery)]
    for frame in (own or frames)[-1:]:
        return f"{_short(frame.filename)}, line {frame.lineno}"
    return None


def _machinery() -> tuple[str, ...]:
    """Return below what the frames are that lead to the user's mistake, and are not the place of it."""
    import sysconfig  # noqa: PLC0415 - 2 ms, and most programs have no mistakes

    paths = {str(Path(__file__).parent), *map(sysconfig.get_path, ("stdlib", "purelib", "platlib"))}
    return tuple(f"{path}/" for path in paths)


def _short(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else filename


def show(program: str, error: CommandError, *, with_traceback: bool) -> None:
    """Print the line on stderr, below the traceback of what led to it if that is wanted."""
    if with_traceback:
        print(printable("".join(traceback.format_exception(error.__cause__ or error))), end="", file=sys.stderr)
    print(f"{program}: {error}", file=sys.stderr)
