"""The journal: which run of which service was at work, and when, by the clock of the database.

It is evidence that does not rest on the library's word: two rows of one service whose times overlap are two replicas
at the same work. A run that was killed has no `ended_at`; its `last_seen_at` is then at most 50 ms older than its end.

Runs are kept for an hour: the expiry pass calls `Journal.forget`, so the table stays as small as an hour makes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import outcome
import trio

from tickrunner_trio import DatabaseUnavailableError, component_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import LiteralString

    from tickrunner_trio import Tick

    from .database import Database

SEEN_INTERVAL = 0.05  #: Seconds.

#: Seconds.
KEPT_FOR = 3600.0

#: Runs per call. A pass of expiry adds a handful between two calls, so a backlog shrinks.
FORGET_AT_MOST = 500

_log = component_logger("journal")


class Journal:
    """Records the runs of one replica."""

    def __init__(self, database: Database, replica: str) -> None:
        self._database = database
        self._replica = replica

    async def record(self, work: Callable[[Tick], Awaitable[None]], tick: Tick) -> None:
        """Run ``work`` and record when it began, that it goes on, and when it ended, however it ended.

        Cancellation handling: ``work`` stops as it does; then the end is recorded in a shield, which lasts as long as
        one transaction (see `database`). If that fails, `last_seen_at` has to do.

        Raises:
            DatabaseUnavailableError: the beginning could not be recorded; ``work`` did not run.
            BaseException: whatever ``work`` raised, as it is, in no group.
        """
        run_id = await self._begin(tick)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_seen, run_id)
                # Captured, so that the nursery does not wrap it.
                result = await outcome.acapture(work, tick)
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await self._end(run_id)
        result.unwrap()

    async def forget(self) -> None:
        """Delete runs that were last seen more than an hour ago: of the 500 oldest, those; the next call goes on.

        Raises:
            DatabaseUnavailableError: the database is away.
        """
        # The primary key says which are the oldest: no further index for each run, and each sign of life, to maintain.
        query = (
            "delete from object_store.runs where id in (select id from object_store.runs order by id limit %s)"
            " and last_seen_at < clock_timestamp() - make_interval(secs => %s)"
        )
        await self._database.run(lambda connection: connection.execute(query, [FORGET_AT_MOST, KEPT_FOR]))

    async def _begin(self, tick: Tick) -> int:
        query = (
            "insert into object_store.runs (service, replica, request_id, scheduled_at) values (%s, %s, %s, %s)"
            " returning id"
        )
        values = [tick.service, self._replica, tick.request_id, tick.scheduled_at]
        row = await self._database.run(lambda connection: connection.execute(query, values).fetchone())
        assert row is not None  # "returning" gives the row that was inserted
        run_id: int = row[0]
        return run_id

    async def _keep_seen(self, run_id: int) -> None:
        while True:
            await trio.sleep(SEEN_INTERVAL)
            await self._note("update object_store.runs set last_seen_at = clock_timestamp() where id = %s", run_id)

    async def _end(self, run_id: int) -> None:
        await self._note("update object_store.runs set ended_at = clock_timestamp() where id = %s", run_id)

    async def _note(self, query: LiteralString, run_id: int) -> None:
        try:
            await self._database.run(lambda connection: connection.execute(query, [run_id]))
        except DatabaseUnavailableError as error:
            # The work meets the same outage and says so; the journal only watches, and must not break it.
            _log.warning("run %d: not recorded: %s", run_id, error)
