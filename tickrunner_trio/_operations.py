"""What a supervisor asks of the ledgers that its services' lockers keep. It knows the protocols and nothing of SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._errors import DatabaseUnavailableError, LockerConfigurationError
from ._health import HealthState, describe_error
from .abc import HasLedger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ._cluster_health import ClusterHealth, PastRun
    from ._service import Service
    from .abc import Ledger

_REMEDY = "give its service a locker with one, PostgresLocker(conninfo, ledger=True)"


async def cluster_health(services: Sequence[Service]) -> tuple[ClusterHealth, ...]:
    """Return the health over all replicas of those services that have a ledger, in their order.

    A ledger that cannot tell hides no other: its services are UNAVAILABLE, with its words as their last error.

    Raises:
        LockerConfigurationError: none of the services has one; or as the ledger, if none can tell.
        DatabaseUnavailableError: as the ledger, if none can tell.
    """
    ledgers = {service.name: ledger for service in services if (ledger := _ledger_of(service)) is not None}
    if not ledgers:
        raise LockerConfigurationError(f"no service of this supervisor has a ledger to tell the cluster's: {_REMEDY}")
    rows: dict[int, dict[str, ClusterHealth]] = {}
    failures: dict[int, DatabaseUnavailableError | LockerConfigurationError] = {}
    for ledger in ledgers.values():
        if id(ledger) not in rows | failures:
            try:
                rows[id(ledger)] = {row.name: row for row in await ledger.cluster_health()}
            except (DatabaseUnavailableError, LockerConfigurationError) as error:
                failures[id(ledger)] = error
    if not rows:
        raise next(iter(failures.values()))

    def health(service: Service) -> ClusterHealth:
        ledger = id(ledgers[service.name])
        if ledger in failures:
            return _bare(service, HealthState.UNAVAILABLE, describe_error(failures[ledger]))
        return rows[ledger].get(service.name) or _bare(service, HealthState.STARTING)  # it was never asked to run

    return tuple(health(service) for service in services if service.name in ledgers)


async def history(service: Service) -> tuple[PastRun, ...]:
    """Return the last runs of a service, the newest first; none if it has no row yet.

    Raises:
        LockerConfigurationError: its locker keeps no ledger.
    """
    try:
        return await _needed_ledger(service).history(service.name)
    except ValueError:  # it has not had its first tick
        return ()


async def changed(service: Service, change: Callable[[Ledger], Awaitable[ClusterHealth]]) -> ClusterHealth:
    """Change the row of a service, which may have none yet; return it.

    Raises:
        LockerConfigurationError: its locker keeps no ledger.
    """
    ledger = _needed_ledger(service)
    try:
        return await change(ledger)
    except ValueError:  # it has not had its first tick
        await ledger.add(service.name, lock_id=service.lock_id, interval=service.interval)
        return await change(ledger)


def _ledger_of(service: Service) -> Ledger | None:
    locker = service.config.locker
    return locker.ledger if isinstance(locker, HasLedger) else None


def _needed_ledger(service: Service) -> Ledger:
    ledger = _ledger_of(service)
    if ledger is None:
        raise LockerConfigurationError(f"the locker of {service.name!r} keeps no ledger, which this needs: {_REMEDY}")
    return ledger


def _bare(service: Service, state: HealthState, last_error: str = "") -> ClusterHealth:
    """Return what is known of a service without a row."""
    from ._cluster_health import ClusterHealth  # noqa: PLC0415 - few have a ledger, and it takes 2 ms to import

    return ClusterHealth(
        name=service.name, state=state, lock_id=service.lock_id, interval=service.interval, last_error=last_error
    )
