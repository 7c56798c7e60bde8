"""``tickrunner run``: a Supervisor, and the signals that stop it.

::

    opening --entered--> running --1st signal: drain()--> draining --all at rest--> closing --> exit 0, or 1 if work
       |                                                     |                        |         was cut short in time
    1st signal: cancel                        2nd signal: cancel the work             |
       v                                                     v                        v
     exit 0                                             exit 128 + n  <---2nd signal: cancel

Once a second signal has come, both have the system's own effect again: a third ends the process at once, whatever it
is doing. A first or second one that comes after the closing, while telemetry sends what is left in a bounded time, has
no effect. Two of the same number that arrive before the Trio loop turns count as one. Code that blocks the loop delays
all of this; SIGKILL is the last safety net, and the database lets the locks of a dead process go by itself.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

import trio

from . import Supervisor
from ._cli_errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from . import Service
    from ._cli_admin import AdminOptions
    from ._cli_loading import OpenServices

#: Beside ``tickrunner_trio.component``, which is where the services log.
_log = logging.getLogger("tickrunner_trio.cli")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

#: What a process that lost its parent allows its services beyond the drain, before it ends itself.
_ORPHAN_GRACE = 5.0


async def run_services(
    open_services: OpenServices,
    *,
    drain_timeout: float,
    stop_at_eof: bool,
    kept: list[Service],
    admin: AdminOptions | None = None,
) -> int:
    """Run the services until a signal drains them, and return the exit status.

    Args:
        open_services: what `load` gave.
        drain_timeout: seconds that work in flight may take after the first signal before it is cancelled.
        stop_at_eof: take the end of standard input, which the death of the parent brings about, for a first signal.
        kept: the services are put into it, so that the caller may keep them alive; most are made while they are opened.
        admin: how the admin application is served, from before the services start until they are drained; None: not.

    Raises:
        CommandError: the services could not be opened, or they contradict each other, or the admin application cannot
            listen. In groups, perhaps.

    Signals that come after it has returned do nothing; `signals_restored` ends that.

    Cancellation handling: the services stop without a drain, and the context manager is left.
    """
    stopping = _Stopping(drain_timeout)
    async with trio.open_nursery() as nursery:
        await nursery.start(stopping.obey_signals)
        if stop_at_eof:  # Only now: standard input may be at its end already.
            threading.Thread(target=_end_with_stdin, args=(drain_timeout + _ORPHAN_GRACE,), daemon=True).start()
        # The scope surrounds the whole context manager: one that opens a nursery cannot be cancelled in its entry only.
        with stopping.scope:
            async with open_services() as services:
                kept.extend(services)
                stopping.supervisor = _supervisor(services, drain_timeout)
                if admin is not None:  # not within the context manager's own nursery, whatever that does
                    from ._cli_admin import serve  # noqa: PLC0415 - with its dataclass 2 ms, and JSON as much

                    await nursery.start(serve, admin, stopping.supervisor)
                _log.info("services started", extra={"services": [_description(service) for service in services]})
                await stopping.supervisor.run()
                # It returns only after a drain, and cuts work short exactly when the time for that is over.
                if trio.current_time() < stopping.drain_ends_at:
                    _log.info("services drained")
                else:
                    stopping.status = 1
        nursery.cancel_scope.cancel()
    return stopping.status


@contextlib.contextmanager
def signals_restored() -> Generator[None]:
    """See that signals have, after the block, the effect that they had before."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Stopping:
    """What the signals have asked for so far, and what they act upon."""

    def __init__(self, drain_timeout: float) -> None:
        self.supervisor: Supervisor | None = None  #: None while the services are being opened.
        self.scope = trio.CancelScope()  #: Around everything that a second signal cancels.
        self.status = 0
        self.drain_ends_at = math.inf
        self._drain_timeout = drain_timeout

    async def obey_signals(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        early: list[signal.Signals] = []
        # What the receiver restores in the end; between here and there nothing may be lost.
        for number in _SIGNALS:
            signal.signal(number, lambda received, _frame: early.append(signal.Signals(received)))
        with trio.open_signal_receiver(*_SIGNALS) as signals:
            for number in early:
                signal.raise_signal(number)
            task_status.started()
            first = await anext(signals)
            if self.supervisor is None:
                _log.info("%s before the services started: stopping", signal.Signals(first).name)
                self.scope.cancel()
            else:
                _log.info("%s: draining; a second signal cancels the work in flight", signal.Signals(first).name)
                self.drain_ends_at = trio.current_time() + self._drain_timeout
                self.supervisor.drain()
            second = await anext(signals)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        _log.warning("second signal, %s: cancelling the work in flight", signal.Signals(second).name)
        self.status = 128 + second
        self.scope.cancel()


def _supervisor(services: Sequence[Service], drain_timeout: float) -> Supervisor:
    try:
        return Supervisor(services, drain_timeout=drain_timeout)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{error} ('tickrunner check' shows all of them)") from error


def _description(service: Service) -> dict[str, object]:
    return {"name": service.name, "interval": service.interval, "lock_id": service.lock_id}


def _end_with_stdin(grace: float) -> None:
    """Drain once standard input has ended; end the process hard if it is still there ``grace`` seconds later.

    A thread, because it must work also while the Trio loop is blocked; the parent's death closes its end of the pipe
    however it died, on every platform. (A parent-death signal, prctl(2), would come when the *thread* ends that
    started this process, which under Trio is a worker thread that idles out.)
    """
    # If it was closed from the start, descriptor 0 is something else by now.
    if sys.stdin is not None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace)
    os._exit(1)
