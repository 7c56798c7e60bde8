"""``tickrunner check``: what no service can see alone, judged over all of them. Pure.

Errors are broken invariants: the services would refuse to run together, or would exclude each other by mistake.
Warnings are choices that often are mistakes. A service is sound if it has neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._cli_text import aligned
from .abc import LedgerLocker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from . import Service

#: Without a ledger the interval starts anew at every deploy, so longer ones run more often than they say: a daily
#: service under hourly deploys runs at each of them (simulated in docs/design.md).
LONGEST_INTERVAL_WITHOUT_LEDGER = 3600.0


@dataclass(frozen=True)
class Checked:
    """One service and what is to be said of it."""

    service: Service
    errors: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """All that is to be said, errors first; "ok" if that is nothing."""
        said = [f"error: {text}" for text in self.errors] + [f"warning: {text}" for text in self.warnings]
        return "; ".join(said) or "ok"


def check_services(services: Sequence[Service]) -> list[Checked]:
    """Return what is to be said of each service, in their order."""
    return [
        Checked(service, tuple(_errors(index, services)), tuple(_warnings(service)))
        for index, service in enumerate(services)
    ]


def _errors(index: int, services: Sequence[Service]) -> Iterator[str]:
    service = services[index]
    for other_index, other in enumerate(services):
        if other_index == index:
            continue
        if other.name == service.name:
            yield f"{service.name!r} is the name of services {index + 1} and {other_index + 1}: rename one"
        elif other.lock_id == service.lock_id:
            yield f"{service.name!r} and {other.name!r} have the same lock id: give one of them another"


def _warnings(service: Service) -> Iterator[str]:
    locker = service.config.locker
    has_ledger = isinstance(locker, LedgerLocker) and locker.has_ledger
    if service.interval > LONGEST_INTERVAL_WITHOUT_LEDGER and not has_ledger:
        yield "interval above one hour: without a ledger each deploy starts it anew"
    if service.config.tick_timeout is None:
        yield "no tick_timeout: work that hangs keeps its lock"


def table(checked: Sequence[Checked]) -> str:
    """Return the services and their verdicts as columns under a heading."""
    rows = [("service", "interval", "timeout", "lock id", "cadence", "verdict")]
    for item in checked:
        config = item.service.config
        timeout = "none" if config.tick_timeout is None else f"{config.tick_timeout:g} s"
        interval = f"{item.service.interval:g} s"
        rows.append((config.name, interval, timeout, str(item.service.lock_id), config.cadence, item.verdict))
    return aligned(rows)
