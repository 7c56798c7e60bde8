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
import sysconfig
import traceback
from pathlib import Path
from typing import cast

#: Frames below these are the machinery on the way to the user's mistake, not the place of it.
_MACHINERY = tuple(
    f"{path}/" for path in {str(Path(__file__).parent), *map(sysconfig.get_path, ("stdlib", "purelib", "platlib"))}
)


class CommandError(Exception):
    """Ends a command: `main` prints the message as one line on stderr and returns ``status``."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(" ".join(message.split()))
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


def _members(error: BaseException) -> tuple[BaseException, ...]:
    """Return what is in a group; nothing for what is none."""
    if isinstance(error, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", error).exceptions
    return ()


def told(error: BaseException) -> str:
    """Return the kind of an exception, its text and the place in the user's code where it arose, on one line."""
    place = _place(error)
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"{said} ({place})" if place else said


def _place(error: BaseException) -> str | None:
    """Return "file, line n" of the innermost frame that is the user's own, or of the innermost one if none is."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{_short(error.filename)}, line {error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    own = [frame for frame in frames if not frame.filename.startswith(_MACHINERY)]
    for frame in (own or frames)[-1:]:
        return f"{_short(frame.filename)}, line {frame.lineno}"
    return None


def _short(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else filename


def show(program: str, error: CommandError, *, with_traceback: bool) -> None:
    """Print the line on stderr, below the traceback of what led to it if that is wanted."""
    if with_traceback:
        traceback.print_exception(error.__cause__ or error, file=sys.stderr)
    print(f"{program}: {error}", file=sys.stderr)
