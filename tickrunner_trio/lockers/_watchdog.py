"""Trio's watchdog over the session's thread, for when that gets no time: it cancels what is lost, and ends all waiting.

It knows the thread by its last sign of life and by its book's deadline, and must not know what it does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import trio

from ._clock import boot_seconds

if TYPE_CHECKING:
    from ._calls import Calls
    from ._session_thread import SessionThread
    from ._timing import LeaseTiming

STUCK = "the thread of this PostgresLocker has been held up for longer than the lease, by a log handler for example"


async def watch(thread: SessionThread, calls: Calls, timing: LeaseTiming, scope: trio.CancelScope) -> None:
    """Watch, as a system task, until ``scope`` is cancelled; or until the Trio run ends without that.

    Either ends the thread. On a clock that is not the real one it watches nothing.
    """
    has_real_clock = type(trio.lowlevel.current_clock()).__name__ == "SystemClock"  # Trio exports no name for it
    with scope:
        try:
            if has_real_clock:
                await _cancel_what_is_lost(thread, calls, timing)
            await trio.sleep_forever()
        finally:
            thread.stop()


async def _cancel_what_is_lost(thread: SessionThread, calls: Calls, timing: LeaseTiming) -> NoReturn:
    while True:
        await trio.sleep(min(thread.book.deadline.seconds_left(boot_seconds()) or timing.beat, timing.beat))
        is_stuck = boot_seconds() - thread.seen_at > timing.lease
        calls.cancel_what_is_lost()
        if is_stuck:
            calls.give_up_waiting(STUCK)
