"""The lockers of the library."""

from ._memory import MemoryLocker as MemoryLocker
from ._postgres import PostgresLocker as PostgresLocker
