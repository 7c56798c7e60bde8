"""Many services in one nursery: restarts those that crash, drains them together, answers for them by name.

::

    run() -> each service:   RUNNING --crash--> BACKING OFF --1, 2, 4 ... 30 s--> RUNNING
                                |                    |
                                +------ drain -------+--> DONE
    drain():   drains all services; after drain_timeout what still works is cancelled; run() returns when all are DONE

Invariants:

1. A crash of one service, or a cancel scope that its work leaves open, is never noticed by another.
2. `run` returns only after a drain, at most ``drain_timeout`` seconds plus the time that the work takes to stop later.
3. A service that ran for 60 seconds begins its backoff anew.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, cast

import trio

from . import _operations
from ._audit import log_safely
from ._service import Service
from ._trio_run import check_in_run_of, check_in_trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ._cluster_health import ClusterHealth, PastRun
    from ._health import WorkerHealth
    from ._outcome import TickReport

#: Seconds before the first restart; doubled at each further one.
FIRST_BACKOFF = 1.0
LONGEST_BACKOFF = 30.0
#: A service that ran for this many seconds before it crashed is taken for healthy.
HEALTHY_AFTER = 60.0

_log = logging.getLogger("tickrunner_trio.supervisor")


class Supervisor:
    """Runs services side by side, as long as the application lives.

    Args:
        services: their names and lock ids must be unique.
        drain_timeout: seconds that work in flight is given at a drain, 0 or more; ``math.inf`` for as long as it takes.

    Raises:
        TypeError: ``services`` is no iterable, one of them is not a `Service`, or ``drain_timeout`` is not a number.
        ValueError: two services have the same name or lock id, or ``drain_timeout`` is negative or NaN.
    """

    def __init__(self, services: Iterable[Service], *, drain_timeout: float = 30.0) -> None:
        if not isinstance(services, Iterable):
            raise TypeError(f"services must be an iterable of Service, got {services!r}: write [service]")
        self._services = tuple(services)
        _check_services(self._services)
        if isinstance(drain_timeout, bool) or not isinstance(drain_timeout, int | float):
            raise TypeError(
                f"drain_timeout must be a number of seconds (an int or a float), got {drain_timeout!r}: "
                "write one, such as 30"
            )
        if not drain_timeout >= 0:
            raise ValueError(f"drain_timeout must be 0 or more seconds, got {drain_timeout!r}: math.inf waits for ever")
        self._drain_timeout = drain_timeout
        self._by_name = {service.name: service for service in self._services}
        self._drained = trio.Event()
        self._scope: trio.CancelScope | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None

    @property
    def state(self) -> Literal["idle", "running", "draining", "drained"]:
        """Whether `run` is active, and whether it is being drained: what a readiness probe asks for. From any thread.

        It says nothing of the services' health: "running" holds from the entry of `run` to the first `drain`.
        """
        if self._drained.is_set():
            return "drained" if self._scope is None else "draining"
        return "idle" if self._scope is None else "running"

    @property
    def trio_token(self) -> trio.lowlevel.TrioToken | None:
        """The Trio run in which `run` is active, for callers in other threads and loops; None while it is not."""
        return self._token

    @property
    def services(self) -> tuple[Service, ...]:
        """The services, in order of registration."""
        return self._services

    def health(self) -> tuple[WorkerHealth, ...]:
        """Return the health of each service on this replica, in order of registration. From any thread."""
        return tuple(service.health() for service in self._services)

    async def tick(self, name: str) -> TickReport:
        """Force a tick of the service of that name. See `Service.tick`.

        Raises:
            ValueError: there is no such service.
        """
        return await self._named(name).tick()

    async def cluster_health(self) -> tuple[ClusterHealth, ...]:
        """Return the health over all replicas of each service that has a ledger, in order of registration.

        Also while the supervisor does not run. A service that no replica was ever asked to run is STARTING. Where
        lockers keep several ledgers, the services of one that cannot tell are UNAVAILABLE, with the reason as
        ``last_error``; it raises only if none can.

        Raises:
            LockerConfigurationError: none has a ledger, or there is none in the database; the message says the remedy.
            DatabaseUnavailableError: the database cannot tell now.
        """
        return await _operations.cluster_health(self._services)

    async def history(self, name: str) -> tuple[PastRun, ...]:
        """Return a service's last 100 runs over all replicas, the newest first. See `PostgresLedger.history`.

        Raises:
            ValueError: there is no such service.
            LockerConfigurationError, DatabaseUnavailableError: as `cluster_health`.
        """
        return await _operations.history(self._named(name))

    async def pause(self, name: str, *, reason: str, by: str) -> ClusterHealth:
        """Let no replica begin a run of the service until it is resumed; return what the ledger knows of it then.

        Its ticks are GATED meanwhile, on all replicas and over restarts; work under way ends as it will. See
        `PostgresLedger.pause`.

        Raises:
            ValueError: there is no such service.
            LockerConfigurationError, DatabaseUnavailableError: as `cluster_health`.
        """
        return await _operations.changed(self._named(name), lambda ledger: ledger.pause(name, reason=reason, by=by))

    async def resume(self, name: str) -> ClusterHealth:
        """Let the service run again, within 5 seconds if it is due; return what the ledger knows of it then.

        It raises as `pause` does.
        """
        return await _operations.changed(self._named(name), lambda ledger: ledger.resume(name))

    async def trigger(self, name: str, *, by: str = "") -> ClusterHealth:
        """Have the next free replica run the service, due or not; return what the ledger knows of it then.

        The run begins within 5 seconds if a replica is free, on whichever that is; `tick` is for this one. It counts
        as the interval's run, and waits while the service is paused. See `PostgresLedger.trigger`. It raises as
        `pause` does.
        """
        return await _operations.changed(self._named(name), lambda ledger: ledger.trigger(name, by=by))

    def drain(self) -> None:
        """Drain all services and cancel what still works after ``drain_timeout`` seconds; for good.

        Synchronous and idempotent: a second call does not move the deadline. To be called in Trio's thread; from
        another one, while `run` is active, as ``supervisor.trio_token.run_sync_soon(supervisor.drain)``.

        Raises:
            RuntimeError: `run` is active in another thread, or another Trio run: nothing is drained then. Or one of the
                services is run by itself there: those before it are drained, and the supervisor is not.
        """
        if self._token is not None:
            how = "supervisor.trio_token.run_sync_soon(supervisor.drain)"
            check_in_run_of(self._token, "drain() of the supervisor", from_elsewhere=how)
        if not self._drained.is_set():
            for service in self._services:
                service.drain()
            self._drained.set()  # after they have let us: whoever is refused may come again
            self._limit_drain()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run all services until they are drained, or this is cancelled.

        ``task_status.started()`` comes before any service has done anything.

        Raises:
            trio.BusyResourceError: another task runs this supervisor already.
            RuntimeError: awaited in asyncio.

        Cancellation handling: all services are cancelled and their locks let go, then the cancellation passes through.

        Error handling: an `Exception` out of `Service.run` is a bug (every known error is an outcome). It is logged at
        ERROR with its traceback, and the service is run again after 1 second, doubling to 30. So is a cancellation by a
        scope that the service's own work has left open. Any other BaseException cancels all services and passes
        through; as it is, unless several came at once.
        """
        check_in_trio("Supervisor.run")
        if self._scope is not None:
            raise trio.BusyResourceError("another task runs this supervisor already: run it once")
        self._scope = trio.CancelScope()
        self._token = trio.lowlevel.current_trio_token()
        ending: BaseException
        try:
            with self._scope:
                if self._drained.is_set():
                    self._limit_drain()
                async with trio.open_nursery() as self._nursery:
                    for service in self._services:
                        self._begin(self._keep_running, service)
                    task_status.started()
                    await self._drained.wait()
            if self._scope.cancelled_caught:
                message = "drained: what still worked after %s seconds was cancelled"
                log_safely(_log, logging.WARNING, message, self._drain_timeout)
            return
        except BaseExceptionGroup as group:
            # The nursery's own wrapping comes off, and no more: what is in it may be a group of the work's.
            ending = group.exceptions[0] if len(group.exceptions) == 1 else group
        finally:
            self._scope = self._token = self._nursery = None
        # Out of the clause above, which would make the group its context.
        raise ending

    def _named(self, name: str) -> Service:
        try:
            return self._by_name[name]
        except KeyError:
            known = ", ".join(self._by_name) or "none"
            raise ValueError(f"name must be that of a service, got {name!r}: use one of {known}") from None

    def _limit_drain(self) -> None:
        if self._scope is not None:
            self._scope.deadline = trio.current_time() + self._drain_timeout

    def _begin(self, life: Callable[..., Awaitable[None]], service: Service, *args: object) -> None:
        assert self._nursery is not None  # `run` is under way
        self._nursery.start_soon(life, service, *args, name=f"service {service.name}")

    async def _keep_running(self, service: Service, backoff: float = FIRST_BACKOFF) -> None:
        """Run the service; after a crash another task does so again.

        In another one, because work that breaks out of an async generator, or forgets a ``with``, may leave a cancel
        scope open in its task. What that scope cancels later on looks like a cancellation of everything, and the
        nursery would take it for one: only a task that the scope does not surround can tell.
        """
        if self._drained.is_set():
            return
        entered_at = trio.current_time()
        try:
            await service.run()
        except BaseException as error:  # noqa: ASYNC103 - what is cancelled from outside is so in the next task
            is_cancelled = _is_cancellation(error)
            if not (is_cancelled or isinstance(error, Exception)):
                raise
            if trio.current_time() - entered_at >= HEALTHY_AFTER:
                backoff = FIRST_BACKOFF
            if not is_cancelled:
                self._tell_crash(service, error, backoff)
            self._begin(self._run_again, service, is_cancelled, backoff)  # noqa: ASYNC104 - as above

    async def _run_again(self, service: Service, is_stray: bool, backoff: float) -> None:  # noqa: FBT001 - by a nursery
        if is_stray:
            await trio.lowlevel.checkpoint()  # here it ends, if it was cancelled from outside
            stray = RuntimeError(
                f"the work of {service.name} has left a cancel scope open, which has now cancelled its service: "
                "leave each 'with' by its end, and async generators by contextlib.aclosing"
            )
            self._tell_crash(service, stray, backoff)
        with trio.move_on_after(backoff):
            await self._drained.wait()
        await self._keep_running(service, min(2 * backoff, LONGEST_BACKOFF))

    def _tell_crash(self, service: Service, error: BaseException, backoff: float) -> None:
        then = "it was being drained" if self._drained.is_set() else f"it is run again in {backoff:g} seconds"
        extra = {"service": service.name}
        log_safely(_log, logging.ERROR, "service %s crashed; %s", service.name, then, extra=extra, exc_info=error)


def _is_cancellation(error: BaseException) -> bool:
    """Whether it is a cancellation of Trio's, or a group of nothing else."""
    if isinstance(error, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", error).split(trio.Cancelled)[1] is None
    return isinstance(error, trio.Cancelled)


def _check_services(services: tuple[object, ...]) -> None:
    by_name: dict[str, int] = {}
    by_lock_id: dict[int, str] = {}
    for index, service in enumerate(services):
        if not isinstance(service, Service):
            raise TypeError(f"services[{index}] must be a Service, got {service!r}: use Service(Config(...))")
        if service.name in by_name:
            raise ValueError(
                f"services must have unique names, got {service.name!r} for services[{by_name[service.name]}] and "
                f"services[{index}]: rename one"
            )
        if service.lock_id in by_lock_id:
            raise ValueError(
                f"services must have unique lock ids, got {service.lock_id} for {by_lock_id[service.lock_id]!r} and "
                f"{service.name!r}: give one of them another lock_id"
            )
        by_name[service.name] = index
        by_lock_id[service.lock_id] = service.name
