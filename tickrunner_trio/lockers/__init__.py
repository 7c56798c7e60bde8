"""The lockers of the library, and what they tell of themselves. All but the first are loaded when asked for."""

import typing

from .._on_demand import on_demand as _on_demand
from ._memory import MemoryLocker as MemoryLocker

if typing.TYPE_CHECKING:
    from ._holders import LockHolder as LockHolder
    from ._ledger import PostgresLedger as PostgresLedger
    from ._postgres import PostgresLocker as PostgresLocker
    from ._statistics import LockerStatistics as LockerStatistics
    from ._timing import LeaseTiming as LeaseTiming
else:
    __getattr__, __dir__, __all__ = _on_demand(
        globals(),
        {
            "LockHolder": "._holders",
            "PostgresLedger": "._ledger",
            "PostgresLocker": "._postgres",
            "LockerStatistics": "._statistics",
            "LeaseTiming": "._timing",
        },
    )
