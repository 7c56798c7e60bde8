"""In which Trio run the caller is, if in any: who is elsewhere is told so before anything changes, and what to do.

Trio's own answer, "must be called from async context", is no help to whoever awaits in a coroutine of asyncio's.
"""

from __future__ import annotations

import trio


def check_in_trio(what: str) -> None:
    """Refuse what is awaited by no task of Trio's.

    Raises:
        RuntimeError: this is asyncio, or no event loop at all.
    """
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        raise RuntimeError(
            f"{what} must be awaited in Trio, which does not run here: begin with trio.run(main); "
            "for an application of asyncio's see docs/embedding.md"
        ) from None


def check_in_run_of(token: trio.lowlevel.TrioToken | None, what: str, *, from_elsewhere: str) -> None:
    """Refuse what is called outside of the thread, or of the Trio run, whose token that is, before it is half done.

    Trio would refuse when a task counts as woken already, and sleeps for ever.

    Raises:
        RuntimeError: it is; the message says how to do it ``from_elsewhere``.
    """
    try:
        is_there = trio.lowlevel.current_trio_token() is token
    except RuntimeError:  # in no Trio run; `in_trio_run` came later than the oldest Trio that we take
        is_there = False
    if not is_there:
        raise RuntimeError(
            f"{what} must be called in the Trio run that runs it, and this is another thread or run: "
            f"call {from_elsewhere}"
        )
