"""The example application: its passes on real files and rows, and its promise that a SIGKILL loses nothing."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import trio

from tickrunner_trio import MemoryLocker, Outcome

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

# Below the line that makes them importable.
from object_store import app, journal, maintenance  # noqa: E402
from object_store.catalogue import COPIES, Catalogue, CopyPlan  # noqa: E402
from object_store.database import Database, SchemaMissingError  # noqa: E402
from object_store.folders import FOLDERS, CorruptFileError, File, Folders  # noqa: E402
from object_store.maintenance import Maintenance  # noqa: E402
from object_store.settings import Settings, SettingsError  # noqa: E402
from object_store.store import SEEDS, Store, sample  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from tickrunner_trio import Service


@pytest.fixture
def settings(dsn: str, tmp_path: Path) -> Settings:
    """Settings for a store that is not there yet: no schema, no folders."""
    return Settings(dsn=dsn, root=tmp_path / "store", replica="r1", pace=0.05)


@dataclass
class Parts:
    database: Database
    catalogue: Catalogue
    folders: Folders
    maintenance: Maintenance
    store: Store


@asynccontextmanager
async def opened(settings: Settings, *, folders: Folders | None = None) -> AsyncGenerator[Parts, None]:
    """The parts of a store, with tables and folders."""
    async with Database(settings.dsn) as database:
        catalogue = Catalogue(database)
        folders = Folders(settings.root, chunk_delay=0) if folders is None else folders
        await catalogue.create()
        await folders.create()
        yield Parts(database, catalogue, folders, Maintenance(catalogue, folders), Store(catalogue, folders))


async def put(parts: Parts, *keys: str, expires_in: float | None = None) -> None:
    for key in keys:
        assert await parts.store.put(key, sample(key), expires_in=expires_in)


def query(dsn: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), values)
        return cursor.fetchall() if cursor.description else []


def files(settings: Settings) -> set[tuple[str, str]]:
    return {(folder, path.name) for folder in FOLDERS for path in (settings.root / folder).iterdir()}


def queued(settings: Settings) -> int:
    (count,) = query(settings.dsn, "select count(*) from object_store.cleanup_queue")[0]
    return int(count)


def copies(settings: Settings) -> dict[str, list[str]]:
    """The folders of each object, by its key."""
    rows = query(
        settings.dsn,
        "select o.key, coalesce(array_agg(c.folder order by c.folder) filter (where c.folder is not null), '{}')"
        " from object_store.objects o left join object_store.copies c on c.object_id = o.id group by o.key",
    )
    return dict(rows)


def check_that_each_copy_is_intact(settings: Settings) -> None:
    for key, sha256, folder, name in query(
        settings.dsn,
        "select o.key, o.sha256, c.folder, c.file_name"
        " from object_store.copies c join object_store.objects o on o.id = c.object_id",
    ):
        data = (settings.root / folder / name).read_bytes()
        assert data == sample(key)
        assert hashlib.sha256(data).hexdigest() == sha256


def check_that_each_file_is_a_copy(settings: Settings) -> None:
    assert files(settings) == set(query(settings.dsn, "select folder, file_name from object_store.copies"))


async def run_passes_to_the_end(settings: Settings) -> None:
    """Run all passes until none has anything to do, with everything in the queue due at once."""
    async with opened(settings) as parts:
        busy = True
        while busy:
            query(settings.dsn, "update object_store.cleanup_queue set due_at = clock_timestamp()")
            busy = bool(
                await parts.maintenance.expire()
                + await parts.maintenance.replicate()
                + await parts.maintenance.rebalance()
                + await parts.maintenance.clean_up()
            )


def check_that_the_store_is_in_order(settings: Settings) -> None:
    where = copies(settings)
    assert all(len(folders) == COPIES for folders in where.values()), where
    usage = [sum(folder in folders for folders in where.values()) for folder in FOLDERS]
    assert max(usage) - min(usage) <= 1
    check_that_each_copy_is_intact(settings)
    check_that_each_file_is_a_copy(settings)
    assert queued(settings) == 0


# Putting in


@pytest.mark.trio
async def test_a_new_object_is_one_intact_copy_and_nothing_else(settings: Settings) -> None:
    async with opened(settings) as parts:
        await put(parts, "x")
    assert copies(settings) == {"x": ["a"]}
    check_that_each_copy_is_intact(settings)
    check_that_each_file_is_a_copy(settings)
    assert queued(settings) == 0


@pytest.mark.trio
async def test_an_object_never_changes_and_the_file_of_a_second_put_goes(settings: Settings) -> None:
    async with opened(settings) as parts:
        await put(parts, "x")
        assert not await parts.store.put("x", b"something else")
        assert len(files(settings)) == 2
        assert await parts.maintenance.clean_up() == 1
    check_that_each_copy_is_intact(settings)
    check_that_each_file_is_a_copy(settings)


@pytest.mark.trio
async def test_seeding_again_puts_in_only_what_is_missing(settings: Settings) -> None:
    async with opened(settings) as parts:
        assert await parts.store.seed() == SEEDS
        query(settings.dsn, "delete from object_store.copies")
        query(settings.dsn, "delete from object_store.objects where key <> 'seed-00'")
        assert await parts.store.seed() == SEEDS - 1
        assert await parts.store.seed() == 0


@pytest.mark.trio
async def test_two_seeds_at_once_make_one_store(settings: Settings) -> None:
    outputs: list[bytes] = []

    async def seed() -> None:
        command = [sys.executable, "-m", "object_store.app", "seed"]
        done = await trio.run_process(command, env=environment_of(settings), capture_stdout=True)
        outputs.append(done.stdout)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(seed)
        nursery.start_soon(seed)
    assert sum(int(output.split()[0]) for output in outputs) == SEEDS
    query(settings.dsn, "update object_store.objects set expires_at = null")
    assert len(copies(settings)) == SEEDS
    await run_passes_to_the_end(settings)
    check_that_the_store_is_in_order(settings)
    assert len(copies(settings)) == SEEDS


def test_commands_say_what_is_wrong_in_one_line(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in environment_of(settings).items():
            patch.setenv(variable, value)
        assert app.main(["put"]) == 2
        assert "object_store.app seed" in capsys.readouterr().err
        for folder in FOLDERS:
            (settings.root / folder).mkdir(parents=True)
        assert app.main(["put"]) == 2
        said = capsys.readouterr().err
        assert "object_store.app seed" in said
        assert said.count("\n") == 1
        assert app.main(["seed"]) == 0
        assert app.main(["put", "--count", "4", "--expires-in", "60"]) == 0
        assert len(copies(settings)) == SEEDS + 4
        capsys.readouterr()
        patch.setenv("OBJECT_STORE_DSN", "host=127.0.0.1 port=1")
        assert app.main(["put"]) == 1
        said = capsys.readouterr().err
        assert "cannot be asked" in said
        assert said.count("\n") == 1


def test_put_needs_only_the_folder_that_it_writes_to(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in environment_of(settings).items():
            patch.setenv(variable, value)
        assert app.main(["seed"]) == 0
        for folder in FOLDERS[1:]:
            (settings.root / folder).rmdir()
        assert app.main(["put"]) == 0
        assert len(copies(settings)) == SEEDS + 1
        (settings.root / FOLDERS[0]).rename(settings.root / "elsewhere")
        assert app.main(["put"]) == 2
        assert "without a:" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--count", "-1"], ["--count", "x"], ["--expires-in", "nan"]])
def test_a_bad_option_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        app.main(["put", *arguments])
    assert exit_.value.code == 2
    assert repr(arguments[1]) in capsys.readouterr().err


# The passes


@pytest.mark.trio
async def test_replication_gives_each_object_a_second_copy_a_bounded_batch_at_a_time(settings: Settings) -> None:
    keys = [f"o{number}" for number in range(maintenance.REPLICATE_AT_MOST + 3)]
    async with opened(settings) as parts:
        await put(parts, *keys)
        assert await parts.maintenance.replicate() == maintenance.REPLICATE_AT_MOST
        assert await parts.maintenance.replicate() == 3
        assert await parts.maintenance.replicate() == 0
    where = copies(settings)
    assert set(where) == set(keys)
    assert {len(set(folders)) for folders in where.values()} == {COPIES}
    # The second copies go to the emptiest folder, so that b and c fill evenly.
    second = [folders[1] for folders in where.values()]
    assert abs(second.count("b") - second.count("c")) <= 1
    check_that_each_copy_is_intact(settings)
    check_that_each_file_is_a_copy(settings)


@pytest.fixture(params=["missing", "no folder", "full"])
def break_folder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Breaks a folder of a store, in one of the ways in which folders break."""

    def break_folder(folder: Path) -> None:
        if request.param == "full":
            write = Folders._writing

            def write_if_there_is_room(folders: Folders, file: File) -> Any:
                if file.folder == folder.name:
                    raise OSError(errno.ENOSPC, "no space left on device")
                return write(folders, file)

            monkeypatch.setattr(Folders, "_writing", write_if_there_is_room)
        else:
            folder.rmdir()
            if request.param == "no folder":
                folder.write_bytes(b"")

    return break_folder


@pytest.mark.trio
async def test_replication_works_around_a_broken_folder_and_fails_at_the_end(
    settings: Settings, break_folder: Callable[[Path], None]
) -> None:
    async with opened(settings) as parts:
        await put(parts, *(f"o{number}" for number in range(maintenance.REPLICATE_AT_MOST - 1)))
        break_folder(settings.root / "c")
        with pytest.raises(OSError):  # noqa: PT011 - which one, the kind of damage says
            await parts.maintenance.replicate()
    assert set(map(tuple, copies(settings).values())) == {("a", "b")}
    check_that_each_copy_is_intact(settings)


@pytest.mark.trio
async def test_rebalancing_works_around_a_broken_folder_and_fails_at_the_end(
    settings: Settings, break_folder: Callable[[Path], None]
) -> None:
    async with opened(settings) as parts:
        await put(parts, *(f"o{number}" for number in range(4)))
        # Second copies in a folder that takes no part, so that only the first ones are there to be moved.
        query(
            settings.dsn,
            "insert into object_store.copies select object_id, 'elsewhere', file_name || 'x' from object_store.copies",
        )
        break_folder(settings.root / "c")
        with pytest.raises(OSError):  # noqa: PT011 - which one, the kind of damage says
            await parts.maintenance.rebalance()
    usage = (
        "select folder, count(*) from object_store.copies where folder <> 'elsewhere' group by folder order by folder"
    )
    assert query(settings.dsn, usage) == [("a", 2), ("b", 2)]


@pytest.mark.trio
async def test_a_folder_that_is_gone_as_a_source_does_not_stop_the_copies_from_others(settings: Settings) -> None:
    async with opened(settings) as parts:
        await put(parts, "lost", "x", "y")
        query(
            settings.dsn,
            "update object_store.copies set folder = 'c'"
            " where object_id = (select id from object_store.objects where key = 'lost')",
        )
        (settings.root / "c").rmdir()
        with pytest.raises(FileNotFoundError):
            await parts.maintenance.replicate()
    assert copies(settings) == {"lost": ["c"], "x": ["a", "b"], "y": ["a", "b"]}


@pytest.mark.trio
async def test_a_missing_folder_does_not_fill_the_queue(settings: Settings) -> None:
    async with opened(settings) as parts:
        await put(parts, "x")
        (settings.root / "b").rmdir()
        (settings.root / "c").rmdir()
        for _ in range(3):
            with pytest.raises(FileNotFoundError, match="mount it"):
                await parts.maintenance.replicate()
    assert queued(settings) == 0


@pytest.mark.trio
async def test_two_replications_at_once_make_no_third_copy(settings: Settings) -> None:
    async with opened(settings) as parts:
        await put(parts, *(f"o{number}" for number in range(6)))
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(parts.maintenance.replicate)
    await run_passes_to_the_end(settings)
    check_that_the_store_is_in_order(settings)


@pytest.mark.trio
async def test_replicas_that_all_work_at_once_without_a_lock_do_no_harm(settings: Settings) -> None:
    lasting = {f"o{number}" for number in range(24)}

    async def replica(number: int) -> None:
        async with opened(settings) as parts:
            for round_ in range(8):
                await put(parts, f"o{8 * number + round_}")
                await put(parts, f"short {number} {round_}", expires_in=0.05)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(parts.maintenance.replicate)
                    nursery.start_soon(parts.maintenance.rebalance)
                    nursery.start_soon(parts.maintenance.expire)
                    nursery.start_soon(parts.maintenance.clean_up_with_strays)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(replica, number)
    await trio.sleep(0.05)
    await run_passes_to_the_end(settings)
    assert copies(settings).keys() == lasting
    check_that_the_store_is_in_order(settings)


@pytest.mark.trio
async def test_rebalancing_evens_the_folders_out_and_no_object_loses_a_copy(settings: Settings) -> None:
    async with opened(settings) as parts:
        await put(parts, *(f"o{number}" for number in range(12)))
        await parts.maintenance.replicate()
        moved = 0
        while step := await parts.maintenance.rebalance():
            moved += step
            assert step <= maintenance.REBALANCE_AT_MOST
            assert {len(folders) for folders in copies(settings).values()} == {COPIES}
            check_that_each_copy_is_intact(settings)
        # 24 copies: 12, 6, 6 become 8, 8, 8.
        assert moved == 4
        assert await parts.maintenance.clean_up() == 4
    check_that_the_store_is_in_order(settings)


@pytest.mark.trio
async def test_expiry_deletes_what_is_past_its_time_and_nothing_else(settings: Settings) -> None:
    async with opened(settings) as parts:
        await put(parts, "forever")
        await put(parts, "later", expires_in=3600)
        await put(parts, "past", "past too", expires_in=1e-6)
        query(settings.dsn, "update object_store.objects set expires_at = null where key = 'past'")
        await parts.maintenance.replicate()
        query(settings.dsn, "update object_store.objects set expires_at = clock_timestamp() where key = 'past'")
        assert await parts.maintenance.expire() == 2
        assert set(copies(settings)) == {"forever", "later"}
        assert len(files(settings)) == 7
        assert await parts.maintenance.clean_up() == 3
    check_that_the_store_is_in_order_but_for_balance(settings)


def check_that_the_store_is_in_order_but_for_balance(settings: Settings) -> None:
    check_that_each_copy_is_intact(settings)
    check_that_each_file_is_a_copy(settings)
    assert queued(settings) == 0


@pytest.mark.trio
async def test_a_file_that_resists_stays_in_the_queue_and_does_not_stop_the_others(settings: Settings) -> None:
    async with opened(settings) as parts:
        await put(parts, "x", "y", expires_in=1e-6)
        assert await parts.maintenance.expire() == 2
        stubborn, name = min(files(settings))
        path = settings.root / stubborn / name
        path.unlink()
        path.mkdir()
        assert await parts.maintenance.clean_up() == 1
        rows = query(
            settings.dsn,
            "select file_name, attempts, last_error <> '', due_at > clock_timestamp() from object_store.cleanup_queue",
        )
        assert rows == [(name, 1, True, True)]
        path.rmdir()
        assert await parts.maintenance.clean_up() == 0
        query(settings.dsn, "update object_store.cleanup_queue set due_at = clock_timestamp()")
        assert await parts.maintenance.clean_up() == 1
    assert queued(settings) == 0


@pytest.mark.trio
async def test_a_folder_that_is_not_mounted_forgets_no_removal(settings: Settings) -> None:
    async with opened(settings) as parts:
        await put(parts, "x", expires_in=1e-6)
        await parts.maintenance.expire()
        (settings.root / "a").rename(settings.root / "elsewhere")
        assert await parts.maintenance.clean_up() == 0
    assert queued(settings) == 1


@pytest.mark.trio
async def test_a_writer_that_comes_too_late_gives_its_copy_up(settings: Settings) -> None:
    file = File.new("a")
    async with opened(settings) as parts:
        await parts.catalogue.announce(file)
        assert await parts.maintenance.clean_up() == 0  # not due yet
        await parts.folders.write(file, b"x")
        query(settings.dsn, "update object_store.cleanup_queue set due_at = clock_timestamp()")
        assert await parts.maintenance.clean_up() == 1
        assert not await parts.catalogue.add_object("x", 1, "", file, expires_in=None)
        assert copies(settings) == {}
        # Written once more after the removal, by a writer that was slower still: it goes as well.
        await parts.folders.write(file, b"x")
        assert await parts.maintenance.clean_up() == 1
    check_that_the_store_is_in_order_but_for_balance(settings)


@pytest.mark.trio
async def test_a_claimed_file_cannot_be_confirmed_even_before_it_is_removed(settings: Settings) -> None:
    file = File.new("a")
    async with opened(settings) as parts:
        await parts.catalogue.announce(file)
        await parts.folders.write(file, b"x")
        query(settings.dsn, "update object_store.cleanup_queue set due_at = clock_timestamp()")
        assert await parts.catalogue.claim_file() == file
        assert not await parts.catalogue.add_object("x", 1, "", file, expires_in=None)
        assert copies(settings) == {}


@pytest.mark.trio
async def test_strays_go_and_what_is_announced_or_a_copy_stays(settings: Settings) -> None:
    async with opened(settings) as parts:
        await put(parts, "x")
        announced = File.new("b")
        await parts.catalogue.announce(announced)
        (settings.root / "b" / f"{announced.name}.partial").write_bytes(b"half")
        (settings.root / "c" / "stray").write_bytes(b"whole")
        (settings.root / "c" / "other.partial").write_bytes(b"half")
        before = files(settings)
        assert await parts.maintenance.clean_up_with_strays() == 2
        assert before - files(settings) == {("c", "stray"), ("c", "other.partial")}


@pytest.mark.trio
async def test_a_corrupt_file_is_not_spread_and_does_not_block_the_others(settings: Settings) -> None:
    async with opened(settings) as parts:
        await put(parts, "bad")
        ((folder, name),) = files(settings)
        (settings.root / folder / name).write_bytes(b"rot")
        await put(parts, "good", "fine")
        # Which object comes first is chance: that the bad one is the first in 50 passes has a chance of 2^-49.
        for _ in range(50):
            with pytest.raises(CorruptFileError, match=name):
                await parts.maintenance.replicate()
        assert {key: len(folders) for key, folders in copies(settings).items()} == {"bad": 1, "good": 2, "fine": 2}


@pytest.mark.trio
async def test_a_lost_file_is_an_error_and_one_that_expired_meanwhile_is_none(settings: Settings) -> None:
    class Vanishing(Folders):
        async def copy(self, source: File, target: File, *, sha256: str) -> None:
            await self.remove(source)
            if expire:
                query(settings.dsn, "update object_store.objects set expires_at = clock_timestamp()")
                await parts.maintenance.expire()
            await super().copy(source, target, sha256=sha256)

    async with opened(settings, folders=Vanishing(settings.root, chunk_delay=0)) as parts:
        await put(parts, "x")
        expire = False
        with pytest.raises(FileNotFoundError):
            await parts.maintenance.replicate()
        expire = True
        assert await parts.maintenance.replicate() == 0
    await run_passes_to_the_end(settings)
    check_that_the_store_is_in_order(settings)


@pytest.mark.trio
async def test_a_copy_whose_object_expired_meanwhile_is_given_up(settings: Settings) -> None:
    class Expiring(Folders):
        async def copy(self, source: File, target: File, *, sha256: str) -> None:
            await super().copy(source, target, sha256=sha256)
            query(settings.dsn, "update object_store.objects set expires_at = clock_timestamp()")
            assert await parts.maintenance.expire() == 1

    async with opened(settings, folders=Expiring(settings.root, chunk_delay=0)) as parts:
        await put(parts, "x")
        assert await parts.maintenance.replicate() == 0
        assert await parts.maintenance.clean_up() == 2
    assert files(settings) == set()


@pytest.mark.trio
async def test_a_move_whose_source_was_moved_meanwhile_is_given_up(settings: Settings) -> None:
    async with opened(settings) as parts:
        await put(parts, "x")
        ((object_id, name, sha256),) = query(
            settings.dsn,
            "select id, file_name, sha256 from object_store.objects join object_store.copies on object_id = id",
        )
        plans = [CopyPlan(object_id, sha256, File("a", name), File.new(folder)) for folder in ("b", "c")]
        for plan in plans:
            await parts.catalogue.announce(plan.target)
            await parts.folders.copy(plan.source, plan.target, sha256=sha256)
        assert [await parts.catalogue.move_copy(plan) for plan in plans] == [True, False]
        assert await parts.maintenance.clean_up() == 2
    assert copies(settings) == {"x": ["b"]}
    check_that_the_store_is_in_order_but_for_balance(settings)


# The services


@asynccontextmanager
async def opened_services(settings: Settings) -> AsyncGenerator[dict[str, Service], None]:
    async with Database(settings.dsn) as database:
        yield {service.name: service for service in app.build_services(settings, database, MemoryLocker())}


@pytest.mark.trio
async def test_each_service_does_its_pass_and_records_its_run(settings: Settings) -> None:
    async with opened(settings) as parts, opened_services(settings) as services:
        await put(parts, "x", "y")
        await put(parts, "z", expires_in=1e-6)
        reports = [await service.tick() for service in services.values()]
    assert [report.outcome for report in reports] == [Outcome.SUCCESS] * 4, reports
    assert query(
        settings.dsn,
        "select service, replica, request_id, scheduled_at, ended_at >= last_seen_at, last_seen_at >= started_at"
        " from object_store.runs order by id",
    ) == [(report.service, "r1", report.request_id, report.scheduled_at, True, True) for report in reports]
    assert {len(folders) for folders in copies(settings).values()} == {2}
    check_that_each_file_is_a_copy(settings)
    # Measured after the passes that changed something: two objects in two folders.
    assert query(settings.dsn, "select sum(copies) from object_store.folder_usage") == [(4,)]


@pytest.mark.trio
async def test_expiry_forgets_runs_that_ended_an_hour_ago_a_batch_at_a_time(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "FORGET_AT_MOST", 3)
    async with opened(settings), opened_services(settings) as services:
        for request_id, seen, times in [("old", "61 min", 5), ("long", "1 s", 1), ("recent", "59 min", 1)]:
            query(
                settings.dsn,
                "insert into object_store.runs (service, replica, request_id, scheduled_at, started_at, last_seen_at)"
                " select 's', 'r', %s, now(), now() - interval '2 h', now() - %s::interval from generate_series(1, %s)",
                request_id,
                seen,
                times,
            )
        left = "select request_id from object_store.runs where service = 's' order by id"
        await services["expiry"].tick()
        assert query(settings.dsn, left) == [("old",), ("old",), ("long",), ("recent",)]
        await services["expiry"].tick()
    assert query(settings.dsn, left) == [("long",), ("recent",)]


@pytest.mark.trio
async def test_rebalancing_is_gated_by_its_setting(settings: Settings) -> None:
    off = Settings(dsn=settings.dsn, root=settings.root, replica="r1", rebalancing=False)
    async with opened(settings), opened_services(off) as services:
        assert (await services["rebalancing"].tick()).outcome is Outcome.GATED
        assert (await services["expiry"].tick()).outcome is Outcome.SUCCESS
    assert query(settings.dsn, "select service from object_store.runs") == [("expiry",)]


@pytest.mark.trio
async def test_the_error_of_a_pass_comes_out_as_it_is_and_its_run_has_ended(settings: Settings) -> None:
    async with opened(settings) as parts, opened_services(settings) as services:
        await put(parts, "x")
        ((folder, name),) = files(settings)
        (settings.root / folder / name).write_bytes(b"rot")
        report = await services["replication"].tick()
    assert report.outcome is Outcome.FAILED
    assert isinstance(report.error, CorruptFileError)
    assert "restore it by hand, from another copy if the object has one" in str(report.error)
    assert query(settings.dsn, "select ended_at is not null from object_store.runs") == [(True,)]


@pytest.mark.trio
async def test_a_cancelled_run_has_its_end_recorded(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    at_work = trio.Event()

    async def copy_for_ever(*_: object, **__: object) -> None:
        at_work.set()
        await trio.sleep_forever()

    monkeypatch.setattr(Folders, "copy", copy_for_ever)
    async with opened(settings) as parts, opened_services(settings) as services:
        await put(parts, "x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(services["replication"].tick)
            await at_work.wait()
            nursery.cancel_scope.cancel()
    assert query(settings.dsn, "select ended_at is not null from object_store.runs") == [(True,)]


@pytest.mark.trio
async def test_a_database_that_is_away_is_no_failure_of_the_services(settings: Settings) -> None:
    away = Settings(dsn="host=127.0.0.1 port=1 user=nobody", root=settings.root, replica="r1")
    async with opened_services(away) as services:
        reports = [await service.tick() for service in services.values()]
    assert [report.outcome for report in reports] == [Outcome.UNAVAILABLE] * 4


@pytest.mark.trio
async def test_services_go_on_after_their_sessions_were_terminated(settings: Settings) -> None:
    async with opened(settings), opened_services(settings) as services:
        async with trio.open_nursery() as nursery:
            for service in services.values():
                nursery.start_soon(service.tick)
        terminated = query(
            settings.dsn,
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
            " where application_name = 'object_store' and datname = current_database()",
        )
        assert len(terminated) > 1  # one tick meets them, whatever their number
        assert (await services["expiry"].tick()).outcome is Outcome.UNAVAILABLE
        assert (await services["expiry"].tick()).outcome is Outcome.SUCCESS


@pytest.mark.trio
async def test_without_its_tables_a_service_fails_and_says_how_to_create_them(settings: Settings) -> None:
    async with opened_services(settings) as services:
        report = await services["expiry"].tick()
    assert report.outcome is Outcome.FAILED
    assert isinstance(report.error, SchemaMissingError)
    assert "\n" not in str(report.error)
    assert "object_store.app seed" in str(report.error)


@pytest.mark.trio
async def test_the_app_opens_four_services_as_the_environment_says(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in environment_of(settings).items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match="without a, b, c"):
        async with app.services():
            raise AssertionError("there are no folders yet")
    async with opened(settings) as parts:
        await put(parts, "x")
        async with app.services() as services:
            assert {service.name: service.interval / settings.pace for service in services} == pytest.approx(
                {"replication": 1.0, "rebalancing": 2.0, "expiry": 1.5, "cleanup_queue": 1.0}
            )
            assert all(service.config.tick_timeout is not None for service in services)
            assert [(await service.tick()).outcome for service in services] == [Outcome.SUCCESS] * 4
    assert {len(folders) for folders in copies(settings).values()} == {COPIES}


# The settings


GOOD = {"OBJECT_STORE_DSN": "dbname=store", "OBJECT_STORE_ROOT": "/srv/store"}


def test_settings_have_defaults_for_all_but_database_and_root() -> None:
    settings = Settings.from_environment(GOOD)
    assert (settings.dsn, settings.root, settings.pace, settings.rebalancing) == (
        "dbname=store",
        Path("/srv/store"),
        1.0,
        True,
    )
    assert settings.replica.endswith(f"-{os.getpid()}")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OBJECT_STORE_DSN", ""),
        ("OBJECT_STORE_DSN", "no equals sign"),
        ("OBJECT_STORE_ROOT", ""),
        ("OBJECT_STORE_ROOT", "relative/path"),
        ("OBJECT_STORE_REPLICA", ""),
        ("OBJECT_STORE_REPLICA", "two\nlines"),
        ("OBJECT_STORE_PACE", "fast"),
        ("OBJECT_STORE_PACE", "0"),
        ("OBJECT_STORE_PACE", "nan"),
        ("OBJECT_STORE_PACE", "inf"),
        ("OBJECT_STORE_REBALANCING", "yes"),
    ],
)
def test_a_bad_setting_is_refused_with_its_name_value_and_remedy(variable: str, value: str) -> None:
    with pytest.raises(SettingsError) as error:
        Settings.from_environment({**GOOD, variable: value})
    said, _, remedy = str(error.value).partition(": ")
    assert variable in said
    assert repr(value) in said
    assert remedy


@pytest.mark.parametrize(
    "dsn", ["host=h password=s3cret oops", "host=h password='s3cret word' oops", "postgresql://u:s3cret@h/%zz"]
)
def test_a_refused_connection_string_is_shown_without_its_password(dsn: str) -> None:
    with pytest.raises(SettingsError) as error:
        Settings.from_environment({**GOOD, "OBJECT_STORE_DSN": dsn})
    assert "***" in str(error.value)
    assert "s3cret" not in str(error.value)
    assert error.value.__cause__ is None


# Crashes

# Forks victims one after the other; each puts objects in, runs every pass, and is killed on the way. All that a victim
# does to files and rows, it does in Trio's worker threads: counting the calls of `trio.to_thread.run_sync` therefore
# visits every moment between two effects. A key is printed once `put` has returned: from then on it must not be lost.
VICTIMS = """
import dataclasses, itertools, os, random, signal, sys, time
import trio
from object_store.catalogue import Catalogue
from object_store.database import Database
from object_store.folders import Folders
from object_store.maintenance import Maintenance
from object_store.settings import Settings
from object_store.store import Store, sample

signal.alarm(120)
settings = Settings.from_environment()

async def live(chunk_delay):
    async with Database(settings.dsn) as database:
        catalogue, folders = Catalogue(database), Folders(settings.root, chunk_delay=chunk_delay)
        maintenance, store = Maintenance(catalogue, folders), Store(catalogue, folders)
        for number in range(2):
            key = f"{os.getpid()}-{number}"
            await store.put(key, sample(key), expires_in=1e-6 if number == 0 else None)
            if number:
                os.write(1, f"{key}\\n".encode())
        await maintenance.expire()
        await maintenance.replicate()
        await maintenance.rebalance()
        await maintenance.clean_up()  # no strays: the order alone has to do

def killed_before_call(victim):
    calls, run_sync = itertools.count(1), trio.to_thread.run_sync
    async def counted(*args, **kwargs):
        if next(calls) == victim:
            os.kill(os.getpid(), signal.SIGKILL)
        return await run_sync(*args, **kwargs)
    # Wherever it has been imported to: trio.Path has a reference of its own.
    for module in list(sys.modules.values()):
        if vars(module).get("run_sync") is run_sync:
            module.run_sync = counted
    trio.run(live, 0)

def killed_at_a_random_moment(pid):
    time.sleep(random.uniform(0, 0.4))
    os.kill(pid, signal.SIGKILL)

kind, first, step, last = sys.argv[1], *map(int, sys.argv[2:])
survivors = 0
for victim in range(first, last, step):
    pid = os.fork()
    if pid == 0:
        killed_before_call(victim) if kind == "calls" else trio.run(live, 0.005)
        os._exit(0)
    if kind == "moments":
        killed_at_a_random_moment(pid)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0, status
    survivors += not os.WIFSIGNALED(status)
print("killed", len(range(first, last, step)) - survivors)
"""


async def kill_victims(settings: Settings, *arguments: object) -> tuple[set[str], int]:
    """Run the victims; return the keys that were acknowledged, and how many victims were really killed."""
    command = [sys.executable, "-c", VICTIMS, *map(str, arguments)]
    done = await trio.run_process(command, env=environment_of(settings), capture_stdout=True)
    *keys, last = done.stdout.decode().splitlines()
    return set(keys), int(last.removeprefix("killed "))


def environment_of(settings: Settings) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(EXAMPLES), str(EXAMPLES.parent), *sys.path]),
        "OBJECT_STORE_DSN": settings.dsn,
        "OBJECT_STORE_ROOT": str(settings.root),
        "OBJECT_STORE_REPLICA": settings.replica,
        "OBJECT_STORE_PACE": str(settings.pace),
    }


@pytest.mark.trio
@pytest.mark.skipif(not hasattr(os, "fork"), reason="victims are forked")
async def test_killed_between_any_two_effects_it_loses_nothing_and_leaves_no_file(settings: Settings) -> None:
    async with opened(settings):
        pass
    acknowledged, killed = await kill_victims(settings, "calls", 1, 1, 110)
    assert killed > 60
    check_that_each_copy_is_intact(settings)
    assert acknowledged <= copies(settings).keys()
    await run_passes_to_the_end(settings)
    assert acknowledged <= copies(settings).keys()
    check_that_the_store_is_in_order(settings)


@pytest.mark.trio
@pytest.mark.skipif(not hasattr(os, "fork"), reason="victims are forked")
async def test_killed_at_random_moments_it_loses_nothing_and_leaves_no_file(settings: Settings) -> None:
    async with opened(settings):
        pass
    acknowledged, killed = await kill_victims(settings, "moments", 0, 1, 20)
    assert killed > 0
    check_that_each_copy_is_intact(settings)
    assert acknowledged <= copies(settings).keys()
    await run_passes_to_the_end(settings)
    assert acknowledged <= copies(settings).keys()
    check_that_the_store_is_in_order(settings)


KILLED_AT_WORK = """
import signal, sys
import trio
from object_store import app
from object_store.database import Database
from object_store.settings import Settings
from tickrunner_trio import MemoryLocker

signal.alarm(60)

async def main():
    settings = Settings.from_environment()
    async with Database(settings.dsn) as database:
        replication = app.build_services(settings, database, MemoryLocker())[0]
        app.Folders.copy = lambda *args, **kwargs: trio.sleep_forever()
        await replication.tick()

trio.run(main)
"""


@pytest.mark.trio
async def test_a_run_is_seen_while_it_works_and_a_killed_one_has_no_end(settings: Settings) -> None:
    async with opened(settings) as parts:
        await put(parts, "x")
    seen = "select count(*) from object_store.runs where last_seen_at > started_at + interval '0.2 s'"
    command = [sys.executable, "-c", KILLED_AT_WORK]
    run_victim = partial(trio.run_process, command, env=environment_of(settings), check=False)
    async with trio.open_nursery() as nursery:
        victim = await nursery.start(run_victim)
        with trio.fail_after(30):
            while query(settings.dsn, seen) == [(0,)]:  # noqa: ASYNC110 - the event is a row of the database
                await trio.sleep(0.05)
        victim.kill()
    assert victim.returncode == -signal.SIGKILL
    assert query(settings.dsn, "select service, replica, ended_at from object_store.runs") == [
        ("replication", "r1", None)
    ]
