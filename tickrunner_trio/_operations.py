"""What a supervisor asks of the ledgers that its services' lockers keep. It knows the protocols and nothing of SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._errors import LockerConfigurationError
from ._health import HealthState
from .abc import HasLedger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ._cluster_health import ClusterHealth, PastRun
    from ._service import Service
    from .abc import Ledger

_REMEDY = "give its service a locker with one, PostgresLocker(conninfo, ledger=True)"


async def cluster_health(services: Sequence[Service]) -> tuple[ClusterHealth, ...]:
    """Return the health over all replicas of those services that have a ledger, in their order.

    Raises:
        LockerConfigurationError: none of them has one.
    """
    ledgers = {service.name: ledger for service in services if (ledger := _ledger_of(service)) is not None}
    if not ledgers:
        raise LockerConfigurationError(f"no service of this supervisor has a ledger to tell the cluster's: {_REMEDY}")
    rows: dict[int, dict[str, ClusterHealth]] = {}
    for ledger in {id(each): each for each in ledgers.values()}.values():
        rows[id(ledger)] = {row.name: row for row in await ledger.cluster_health()}
    return tuple(
        rows[id(ledgers[service.name])].get(service.name) or _unknown(service)
        for service in services
        if service.name in ledgers
    )


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


def _unknown(service: Service) -> ClusterHealth:
    """Return what is known of a service that was never asked to run."""
    from ._cluster_health import ClusterHealth  # noqa: PLC0415 - few have a ledger, and it takes 2 ms to import

    return ClusterHealth(
        name=service.name, state=HealthState.STARTING, lock_id=service.lock_id, interval=service.interval
    )
