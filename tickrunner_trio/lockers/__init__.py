"""The lockers of the library, and what they tell of themselves."""

from ._holders import LockHolder as LockHolder
from ._ledger import PostgresLedger as PostgresLedger
from ._memory import MemoryLocker as MemoryLocker
from ._postgres import PostgresLocker as PostgresLocker
from ._statistics import LockerStatistics as LockerStatistics
from ._timing import LeaseTiming as LeaseTiming
