"""A site for the tests of the page: five services in a Trio loop of its own thread, and their page on real sockets.

The last one, `LEDGERED`, has a ledger.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

import trio
from kept_ledger import KeptLedger, LedgerLocker, a_past

from tickrunner_trio import Config, MemoryLocker, Service, Supervisor, lock_id_for
from tickrunner_trio.admin import admin_app, serve_admin
from tickrunner_trio.lockers import LockHolder

if TYPE_CHECKING:
    from collections.abc import Callable

    from tickrunner_trio import Tick

TOKEN = "sesame-open-yourself"
LEDGERED = "monthly_report_of_everything_that_was_ever_moved"


class Site:
    """Five services and their page."""

    def __init__(self) -> None:
        self.failing = threading.Event()
        self.work_takes = 0.0
        self.locker = _Told()
        self.ledger = KeptLedger()
        self.ledger.put(LEDGERED, holder="tickrunner_trio 9 web-2", interval=30 * 86400)
        self.ledger.runs[LEDGERED] = a_past(LEDGERED, 3)
        self.services: dict[str, Service] = {}
        self.supervisor = Supervisor([])
        self.port = 0
        self._token: trio.lowlevel.TrioToken | None = None
        self._serving = trio.CancelScope()
        self._up = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._run,), name="site")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        self._up.clear()
        self._thread.start()
        assert self._up.wait(30)

    def call(self, function: Callable[..., Any], *args: object) -> Any:
        """Call a plain function in the site's Trio loop."""
        assert self._token is not None
        return trio.from_thread.run_sync(function, *args, trio_token=self._token)

    def stop_serving(self) -> None:
        """End the server, as when the process is killed; the services go on."""
        self._up.clear()
        self.call(self._serving.cancel)

    def serve_again(self) -> None:
        self.call(self._again.set)
        assert self._up.wait(30)

    def end(self) -> None:
        if self._thread.is_alive():
            with contextlib.suppress(trio.RunFinishedError):
                self.call(self._nursery.cancel_scope.cancel)
            self._thread.join(30)
        assert not self._thread.is_alive()

    async def _run(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._again = trio.Event()
        locker = MemoryLocker()

        async def succeed(tick: Tick) -> None:
            await trio.sleep(self.work_takes)

        async def fail_if_told(tick: Tick) -> None:
            if self.failing.is_set():
                raise OSError("<script>window.hacked = true</script><img src=x onerror='window.hacked = true'> & more")
            await trio.lowlevel.checkpoint()

        def a_service(name: str, work: Any = succeed, **more: Any) -> Service:
            return Service(Config(name=name, work=work, **{"interval": 3600, "locker": locker, **more}))

        services = [
            a_service("replication", startup=succeed),
            a_service("expiry", fail_if_told, interval=0.2, cadence="replica", on_error=lambda _: None),
            a_service("cleanup_queue", locker=self.locker, startup=succeed, interval=60),
            a_service("rebalancing", should_run=lambda: False, startup=succeed),
            a_service(LEDGERED, interval=30 * 86400, locker=LedgerLocker(self.ledger)),
        ]
        self.services = {each.name: each for each in services}
        self.supervisor = Supervisor(services)
        app = admin_app(self.supervisor, token=TOKEN)
        async with trio.open_nursery() as self._nursery:
            await self._nursery.start(self.supervisor.run)
            while True:
                with trio.CancelScope() as self._serving:
                    await serve_admin(app, port=self.port, task_status=_Up(self))
                self._serving = trio.CancelScope()
                self._again = trio.Event()
                await self._again.wait()


class _Up(trio.TaskStatus["list[trio.SocketListener]"]):
    def __init__(self, site: Site) -> None:
        self._site = site

    def started(self, value: Any = None) -> None:
        self._site.port = value[0].socket.getsockname()[1]
        self._site._up.set()


class _Told:
    """A locker whose locks another replica holds, and that says which."""

    async def with_advisory_lock(self, lock_id: int, fn: object) -> bool:
        await trio.lowlevel.checkpoint()
        return False

    async def holders(self) -> list[LockHolder]:
        await trio.lowlevel.checkpoint()
        name = "tickrunner_trio 17 replica-2"
        lock_id = lock_id_for("cleanup_queue")
        return [
            LockHolder(lock_id=lock_id, pid=4711, application_name=name, client_address="10.0.3.7", session_since=None)
        ]
