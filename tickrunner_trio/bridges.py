"""Work that is no Trio code: `asyncio_work` for coroutines of asyncio, `thread_work` for plain functions.

Both turn a function of the `tickrunner_trio.Tick` into what ``Config(work=...)`` and ``Config(startup=...)`` take.
Nothing of the library imports this module; ``from tickrunner_trio.bridges import asyncio_work, thread_work`` does.
"""

from ._asyncio_work import asyncio_work
from ._thread_work import thread_work

__all__ = ["asyncio_work", "thread_work"]
