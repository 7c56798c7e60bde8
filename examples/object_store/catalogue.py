"""The catalogue: which objects there are, and which files hold them. One method, one short transaction.

A file goes through these states; `object_store` says why in this order::

                  announce            add_object, add_copy, move_copy
    (no file) ---------------> announced ------------------------> copy
                                   |                                |
                      claim_file, or the writer                expire_one,
                      came too late                            move_copy (the source)
                                   |                                |
                                   +--------> to be removed <-------+
                                                    |  file_removed, after the file has gone
                                                    v
                                                (no file)

"Announced" and "to be removed" are rows of `cleanup_queue`, told apart by `writing`; "copy" is a row of `copies`.

Whoever changes the copies of an object locks the row of the object first, in a statement of its own: the next statement
then sees all that others have committed meanwhile (read committed takes a snapshot per statement).

Every method raises `DatabaseUnavailableError` while the database is away.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from .folders import FOLDERS, File

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from typing import LiteralString

    from .database import Connection, Database

#: How many folders hold each object.
COPIES = 2

#: Seconds after which a file that was announced and never confirmed is taken for its dead writer's. A safe distance
#: above what one file takes; a writer that is slower still loses its work and nothing else.
WRITING_TIME = 15.0

#: From one folder to another.
Way: TypeAlias = tuple[str, str]

SCHEMA = Path(__file__).with_name("schema.sql")


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """What a pass is about to do: copy one object from where it is to a folder that does not have it."""

    object_id: int
    sha256: str
    source: File
    target: File

    @property
    def way(self) -> Way:
        """The folder it comes from and the one it goes to."""
        return self.source.folder, self.target.folder


class _TooLateError(Exception):
    """What the writer relied on is no longer so: rolls its transaction back."""


class Catalogue:
    """Every statement of SQL about objects and files."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self) -> None:
        """Create the tables that are not there; safe when several do it at once."""

        def create(connection: Connection) -> None:
            # Two "create ... if not exists" at once can both find nothing, and one of them then fails.
            connection.execute("select pg_advisory_xact_lock(hashtextextended('object_store schema', 0))")
            connection.execute(SCHEMA.read_bytes())

        await self._database.run(create)

    # Writing a file

    async def announce(self, file: File) -> None:
        """Enter a file that is about to be written, so that the clean-up finds it if its writer dies."""

        def announce(connection: Connection) -> None:
            connection.execute(
                "insert into object_store.cleanup_queue (file_name, folder, writing, due_at)"
                " values (%s, %s, true, clock_timestamp() + make_interval(secs => %s))",
                [file.name, file.folder, WRITING_TIME],
            )

        await self._database.run(announce)

    async def add_object(self, key: str, size: int, sha256: str, file: File, *, expires_in: float | None) -> bool:
        """Confirm ``file`` as the first copy of a new object; false if there is an object of that key already."""

        def add_object(connection: Connection) -> None:
            row = connection.execute(
                "insert into object_store.objects (key, size, sha256, expires_at)"
                " values (%s, %s, %s, clock_timestamp() + make_interval(secs => %s::float8))"
                " on conflict (key) do nothing returning id",
                [key, size, sha256, expires_in],  # make_interval is strict: null in, null out
            ).fetchone()
            if row is None:
                raise _TooLateError
            _turn_into_copy(connection, row[0], file)

        return await self._confirm(file, add_object)

    async def add_copy(self, plan: CopyPlan) -> bool:
        """Confirm the target as a further copy; false if the object has gone or has copies enough meanwhile."""

        def add_copy(connection: Connection) -> None:
            _lock_object(connection, plan.object_id)
            count = "select count(*) < %s from object_store.copies where object_id = %s"
            if connection.execute(count, [COPIES, plan.object_id]).fetchone() != (True,):
                raise _TooLateError
            _turn_into_copy(connection, plan.object_id, plan.target)

        return await self._confirm(plan.target, add_copy)

    async def move_copy(self, plan: CopyPlan) -> bool:
        """Confirm the target in place of the source; false if the source is no copy any more."""

        def move_copy(connection: Connection) -> None:
            _lock_object(connection, plan.object_id)
            if not _give_up_copies(connection, plan.object_id, plan.source.name):
                raise _TooLateError
            _turn_into_copy(connection, plan.object_id, plan.target)

        return await self._confirm(plan.target, move_copy)

    async def _confirm(self, file: File, transaction: Callable[[Connection], None]) -> bool:
        try:
            await self._database.run(transaction)
        except _TooLateError:
            await self._database.run(lambda connection: _enqueue(connection, [file]))
            return False
        return True

    # Choosing what to do. At random, so that one object that cannot be copied never blocks the others.

    async def next_to_replicate(self, *, without: Collection[Way] = ()) -> CopyPlan | None:
        """Return an object with too few copies, and the emptiest folder that has none, by a way not left out."""
        return await self._plan(
            """
            select o.id, o.sha256, c.folder, c.file_name, f.folder
            from object_store.objects o
                join object_store.copies c on c.object_id = o.id
                cross join unnest(%(folders)s::text[]) f (folder)
            where (select count(*) from object_store.copies where object_id = o.id) < %(copies)s
                and not exists (select from object_store.copies where object_id = o.id and folder = f.folder)
                and (o.expires_at is null or o.expires_at > clock_timestamp())
                and (c.folder, f.folder) not in (select * from unnest(%(sources)s::text[], %(targets)s::text[]))
            order by (select count(*) from object_store.copies where folder = f.folder), random()
            limit 1
            """,
            without,
        )

    async def next_to_rebalance(self, *, without: Collection[Way] = ()) -> CopyPlan | None:
        """Return a copy to move by the way, of those not left out, that evens most; None if no move would even any."""
        return await self._plan(
            """
            with usage as (
                select f.folder, count(c.object_id) as copies
                from unnest(%(folders)s::text[]) f (folder) left join object_store.copies c using (folder)
                group by f.folder
            )
            select o.id, o.sha256, c.folder, c.file_name, emptier.folder
            from usage fuller
                join usage emptier on fuller.copies - emptier.copies > 1
                join object_store.copies c on c.folder = fuller.folder
                join object_store.objects o on o.id = c.object_id
            where (select count(*) from object_store.copies where object_id = o.id) >= %(copies)s
                and not exists (select from object_store.copies where object_id = o.id and folder = emptier.folder)
                and (c.folder, emptier.folder) not in (select * from unnest(%(sources)s::text[], %(targets)s::text[]))
            order by fuller.copies - emptier.copies desc, random()
            limit 1
            """,
            without,
        )

    async def _plan(self, query: LiteralString, without: Collection[Way]) -> CopyPlan | None:
        values = {
            "folders": list(FOLDERS),
            "copies": COPIES,
            "sources": [source for source, _ in without],
            "targets": [target for _, target in without],
        }

        def plan(connection: Connection) -> CopyPlan | None:
            row = connection.execute(query, values).fetchone()
            if row is None:
                return None
            object_id, sha256, folder, name, target = row
            return CopyPlan(object_id, sha256, source=File(folder, name), target=File.new(target))

        return await self._database.run(plan)

    async def keys(self) -> set[str]:
        """Return the keys of all objects."""
        return await self._database.run(
            lambda connection: {key for (key,) in connection.execute("select key from object_store.objects")}
        )

    async def is_copy(self, file: File) -> bool:
        """Return whether ``file`` is a copy of some object."""
        query = "select exists (select from object_store.copies where file_name = %s)"
        return await self._database.run(lambda connection: connection.execute(query, [file.name]).fetchone() == (True,))

    # Removing

    async def expire_one(self) -> bool:
        """Delete one object that is past its time, and enqueue its files; false if there is none."""

        def expire(connection: Connection) -> bool:
            row = connection.execute(
                "select id from object_store.objects where expires_at <= clock_timestamp()"
                " order by expires_at limit 1 for update skip locked"
            ).fetchone()
            if row is None:
                return False
            _give_up_copies(connection, row[0])
            connection.execute("delete from object_store.objects where id = %s", row)
            return True

        return await self._database.run(expire)

    async def claim_file(self) -> File | None:
        """Take the next file that is due for removal; None if there is none.

        From now on no writer can confirm it. Unless `file_removed` follows, it is due again after 2 seconds, then 4,
        doubling up to about 17 minutes: that is all the bookkeeping which a failure or a crash needs.
        """

        def claim(connection: Connection) -> File | None:
            row = connection.execute(
                """
                update object_store.cleanup_queue
                set writing = false,
                    attempts = attempts + 1,
                    due_at = clock_timestamp() + make_interval(secs => 2 ^ least(attempts + 1, 10))
                where file_name = (
                    select file_name from object_store.cleanup_queue where due_at <= clock_timestamp()
                    order by due_at limit 1 for update skip locked
                )
                returning folder, file_name
                """
            ).fetchone()
            return None if row is None else File(*row)

        return await self._database.run(claim)

    async def file_removed(self, file: File) -> None:
        """Strike a file off the queue, now that it is gone."""
        query = "delete from object_store.cleanup_queue where file_name = %s"
        await self._database.run(lambda connection: connection.execute(query, [file.name]))

    async def removal_failed(self, file: File, error: OSError) -> None:
        """Note why a file could not be removed, for whoever looks into the queue."""
        query = "update object_store.cleanup_queue set last_error = %s where file_name = %s"
        await self._database.run(lambda connection: connection.execute(query, [str(error), file.name]))

    async def enqueue_strays(self, files: Iterable[File]) -> int:
        """Enqueue those of ``files`` of which the catalogue knows nothing, and return how many they were.

        Safe beside writers, since they announce a file before it exists: whatever was seen in a folder and is neither
        announced nor a copy has lost its writer, or has been removed since, and nobody will use its name again.
        """
        on_disk = {file.name: file for file in files}

        def enqueue(connection: Connection) -> int:
            strays = connection.execute(
                "select name from unnest(%s::text[]) name"
                " where not exists (select from object_store.copies where file_name = name)"
                " and not exists (select from object_store.cleanup_queue where file_name = name)",
                [list(on_disk)],
            ).fetchall()
            _enqueue(connection, [on_disk[name] for (name,) in strays])
            return len(strays)

        return await self._database.run(enqueue)

    # Measuring

    async def update_quota_metrics(self) -> None:
        """Measure how full each folder is. By this method the catalogue is a `QuotaMetricsRefresher`."""

        def measure(connection: Connection) -> None:
            connection.execute(
                """
                insert into object_store.folder_usage (folder, copies, bytes, measured_at)
                select f.folder, count(o.id), coalesce(sum(o.size), 0), clock_timestamp()
                from unnest(%s::text[]) f (folder)
                    left join object_store.copies c using (folder)
                    left join object_store.objects o on o.id = c.object_id
                group by f.folder
                order by f.folder  -- the same order everywhere: no deadlock with another replica
                on conflict (folder) do update
                set copies = excluded.copies, bytes = excluded.bytes, measured_at = excluded.measured_at
                """,
                [list(FOLDERS)],
            )

        await self._database.run(measure)


def _lock_object(connection: Connection, object_id: int) -> None:
    query = "select from object_store.objects where id = %s for update"
    if connection.execute(query, [object_id]).fetchone() is None:
        raise _TooLateError


def _turn_into_copy(connection: Connection, object_id: int, file: File) -> None:
    """Exchange the announcement of ``file`` for a row of its own, if it is still there to be exchanged."""
    announced = connection.execute(
        "delete from object_store.cleanup_queue where file_name = %s and writing", [file.name]
    ).rowcount
    added = connection.execute(
        "insert into object_store.copies (object_id, folder, file_name) values (%s, %s, %s)"
        " on conflict (object_id, folder) do nothing",
        [object_id, file.folder, file.name],
    ).rowcount
    if not announced or not added:
        raise _TooLateError


def _give_up_copies(connection: Connection, object_id: int, file_name: str | None = None) -> int:
    """Exchange the copy of that name, or all copies of the object, for rows of the clean-up queue; return how many."""
    return connection.execute(
        """
        with removed as (
            delete from object_store.copies
            where object_id = %(object)s and file_name = coalesce(%(file)s, file_name)
            returning file_name, folder
        )
        insert into object_store.cleanup_queue (file_name, folder, writing)
        select file_name, folder, false from removed
        """,
        {"object": object_id, "file": file_name},
    ).rowcount


def _enqueue(connection: Connection, files: Iterable[File]) -> None:
    for file in files:
        connection.execute(
            "insert into object_store.cleanup_queue (file_name, folder, writing) values (%s, %s, false)"
            " on conflict (file_name) do update set writing = false, due_at = clock_timestamp()",
            [file.name, file.folder],
        )
