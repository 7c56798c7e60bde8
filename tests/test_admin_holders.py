"""Who holds a lock, as the admin application shows it: on a real server, and with lockers that cannot tell."""

from __future__ import annotations

import os
import random
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import trio
from admin_client import ask, events, running

from tickrunner_trio import (
    Config,
    DatabaseUnavailableError,
    MemoryLocker,
    PostgresLocker,
    Service,
    Supervisor,
    lock_id_for,
)
from tickrunner_trio.admin import _asked, _holders
from tickrunner_trio.admin._board import Board
from tickrunner_trio.admin._holders import LockWatch
from tickrunner_trio.lockers import LockHolder

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tickrunner_trio import Lease, Tick
    from tickrunner_trio._local_postgres import LocalPostgres


@pytest.fixture(autouse=True)
def late_first_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tick comes by itself while a test runs: the first slots are 54 seconds away."""
    monkeypatch.setattr(random, "random", lambda: 0.9)


async def succeed(tick: Tick) -> None:
    await trio.lowlevel.checkpoint()


def a_service(
    locker: Any, name: str = "sweep", work: Callable[[Tick], Awaitable[None]] = succeed, **more: Any
) -> Service:
    return Service(Config(name=name, work=work, locker=locker, **{"interval": 3600, **more}))


class Telling:
    """A locker in memory that says what a test lets it say of its holders, and counts how often it was asked."""

    def __init__(self) -> None:
        self._memory = MemoryLocker()
        self.asked = 0
        self.says: Sequence[LockHolder] | BaseException = ()
        self.takes = 0.0

    async def with_advisory_lock(self, lock_id: int, fn: Callable[[Lease], Awaitable[None]]) -> bool:
        return await self._memory.with_advisory_lock(lock_id, fn)

    async def holders(self) -> Sequence[LockHolder]:
        self.asked += 1
        await trio.sleep(self.takes)
        if isinstance(self.says, BaseException):
            raise self.says
        return self.says


def holder(name: str = "replica-2", lock: str = "sweep") -> LockHolder:
    return LockHolder(lock_id=lock_id_for(lock), pid=42, application_name=name, client_address=None, session_since=None)


# -- On PostgreSQL -----------------------------------------------------------------------------------------------------


async def test_a_forced_tick_that_finds_the_lock_busy_names_who_holds_it(dsn: str) -> None:
    async with (
        PostgresLocker(
            f"{dsn}&application_name=replica-2" if "?" in dsn else f"{dsn} application_name=replica-2"
        ) as theirs,
        PostgresLocker(dsn) as ours,
        trio.open_nursery() as nursery,
    ):
        taken = trio.Event()

        async def hold_on(lease: Lease) -> None:
            taken.set()
            await trio.sleep_forever()

        nursery.start_soon(theirs.with_advisory_lock, lock_id_for("sweep"), hold_on)
        await taken.wait()
        async with running(Supervisor([a_service(ours), a_service(ours, "other")])) as port:
            forced = (await ask(port, "POST", "/api/services/sweep/tick")).json
            assert forced["outcome"] == "busy"
            assert forced["holder"]["application_name"] == "replica-2"
            shown = (await ask(port, "GET", "/api/services/sweep")).json
            assert (shown["lock"], shown["holder"]) == ("held_elsewhere", forced["holder"])
            assert shown["state"] == "standby"
            other = (await ask(port, "GET", "/api/services/other")).json
            assert (other["lock"], other["holder"]) == ("free", None)
            held = (await ask(port, "POST", "/api/services/other/tick")).json
            assert (held["outcome"], "holder" in held) == ("success", False)
        nursery.cancel_scope.cancel()


async def test_a_lock_that_this_replica_holds_is_shown_with_its_own_session(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "random", lambda: 0.0)  # the first slot is at once, and its hold lasts
    async with (
        PostgresLocker(dsn) as locker,
        running(Supervisor([a_service(locker)])) as port,
        events(port) as reader,
    ):
        board = await reader.board_where(lambda board: board["services"][0]["holder"])
        (sweep,) = board["services"]
        assert sweep["lock"] == "held_here"
        assert sweep["holder"]["application_name"].startswith(f"tickrunner_trio {os.getpid()} ")


async def test_while_the_database_is_away_the_holder_is_not_known_and_readers_are_answered(
    own_postgres: LocalPostgres,
) -> None:
    locker = PostgresLocker(own_postgres.dsn, lease=2.0)
    async with locker, running(Supervisor([a_service(locker)])) as port, events(port) as reader:
        await reader.board_where(lambda board: board["services"][0]["lock"] == "free")
        await trio.to_thread.run_sync(own_postgres.stop, "immediate")
        await reader.board_where(lambda board: board["services"][0]["lock"] == "unknown")
        assert (await ask(port, "GET", "/api/services/sweep")).status == 200
        assert (await ask(port, "GET", "/readyz", token=None)).status == 200


async def test_a_busy_tick_asks_who_holds_the_lock_even_if_that_was_asked_just_now() -> None:
    class Busy(Telling):
        async def with_advisory_lock(self, lock_id: int, fn: object) -> bool:
            await trio.lowlevel.checkpoint()
            return False

    locker = Busy()
    async with running(Supervisor([a_service(locker)])) as port:
        assert (await ask(port, "GET", "/api/services/sweep")).json["holder"] is None
        locker.says = [holder("replica-3")]
        forced = (await ask(port, "POST", "/api/services/sweep/tick")).json
    assert (forced["outcome"], forced["holder"]["application_name"]) == ("busy", "replica-3")


# -- How often, and for how long ---------------------------------------------------------------------------------------


async def test_nobody_is_asked_while_nobody_looks_and_once_a_second_at_most_whoever_looks() -> None:
    locker = Telling()
    async with running(Supervisor([a_service(locker), a_service(locker, "other")])) as port:
        await ask(port, "GET", "/readyz", token=None)
        assert locker.asked == 0
        for _ in range(20):
            await ask(port, "GET", "/api/services")
        assert 1 <= locker.asked <= 2


async def test_whoever_comes_while_somebody_asks_waits_for_the_same_answer() -> None:
    locker = Telling()
    locker.takes = 0.2
    locker.says = [holder()]
    supervisor = Supervisor([a_service(locker)])
    watch = LockWatch(supervisor)
    async with running(supervisor), trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(watch.refresh)
    (sweep,) = supervisor.services
    assert locker.asked == 1
    assert watch.of(sweep, sweep.statistics()).state == "held_elsewhere"


async def test_a_locker_that_does_not_answer_costs_a_reader_no_more_than_its_patience(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_asked, "PATIENCE", 0.05)
    locker = Telling()
    locker.takes = 1e6
    async with running(Supervisor([a_service(locker)])) as port:
        assert (await ask(port, "GET", "/api/services/sweep")).json["lock"] == "unknown"
        assert (await ask(port, "GET", "/api/services/sweep")).json["lock"] == "unknown"
    assert locker.asked == 1, "it is left alone for a while"


@pytest.mark.parametrize("error", [DatabaseUnavailableError("away"), KeyError("a bug")])
async def test_a_locker_that_cannot_tell_makes_no_error_of_it(error: Exception) -> None:
    locker = Telling()
    locker.says = error
    async with running(Supervisor([a_service(locker)])) as port:
        shown = await ask(port, "GET", "/api/services")
    assert (shown.status, shown.json["services"][0]["lock"]) == (200, "unknown")


async def test_a_locker_that_did_not_tell_is_asked_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_asked, "AFTER_FAILURE", 0.0)
    locker = Telling()
    locker.says = DatabaseUnavailableError("away")
    async with running(Supervisor([a_service(locker)])) as port:
        assert (await ask(port, "GET", "/api/services/sweep")).json["lock"] == "unknown"
        locker.says = [holder()]
        assert (await ask(port, "GET", "/api/services/sweep")).json["holder"]["application_name"] == "replica-2"


async def test_what_somebody_asked_who_left_is_answered_to_the_next_one() -> None:
    locker = Telling()
    locker.takes = 0.3
    locker.says = [holder()]
    supervisor = Supervisor([a_service(locker)])
    (sweep,) = supervisor.services
    watch = LockWatch(supervisor)
    async with running(supervisor):
        with trio.move_on_after(0.05):
            await watch.refresh()
        await watch.refresh()
        assert watch.of(sweep, sweep.statistics()).state == "held_elsewhere"
    assert locker.asked == 1


async def test_a_locker_that_hangs_against_its_cancellation_holds_up_no_reader_and_is_not_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_asked, "PATIENCE", 0.05)
    monkeypatch.setattr(_asked, "AFTER_FAILURE", 0.0)
    finish = trio.Event()

    class Hanging(Telling):
        async def holders(self) -> Sequence[LockHolder]:
            self.asked += 1
            if self.asked == 1:
                return [holder()]
            with trio.CancelScope(shield=True):
                await finish.wait()
            return ()

    locker = Hanging()
    supervisor = Supervisor([a_service(locker)])
    (sweep,) = supervisor.services
    watch = LockWatch(supervisor)
    async with running(supervisor):
        try:
            await watch.refresh()
            assert watch.of(sweep, sweep.statistics()).state == "held_elsewhere"
            for _ in range(20):
                with trio.fail_after(30):
                    await watch.refresh(max_age=0.0)
                assert watch.of(sweep, sweep.statistics()).state == "unknown", "an old answer is shown as a new one"
            assert locker.asked == 2
        finally:
            finish.set()


def test_one_application_may_be_used_from_several_loops_one_after_another_and_at_once() -> None:
    """As `starlette.testclient` does it, which has a loop for each request."""
    locker = Telling()
    locker.takes = 0.1
    locker.says = [holder()]
    supervisor = Supervisor([a_service(locker)])
    (sweep,) = supervisor.services
    board = Board(supervisor)
    looked = threading.Barrier(2)

    async def look() -> None:
        looked.wait(30)
        await board.locks.refresh(max_age=-1.0)
        assert board.locks.of(sweep, sweep.statistics()).state == "held_elsewhere"

    async def trio_main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            for _ in range(3):
                async with trio.open_nursery() as both:
                    for backend in ("asyncio", "trio"):
                        both.start_soon(trio.to_thread.run_sync, partial(anyio.run, look, backend=backend))
            supervisor.drain()

    trio.run(trio_main)


def test_a_board_grows_old_by_a_clock_that_all_loops_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of a loop may be any number, so that what one loop made could be of another one's future."""
    board = Board(Supervisor([]))
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    made: list[int] = []
    monkeypatch.setattr(board, "view", lambda: made.append(1) or {})
    for now[0] in (1000.0, 1000.4, 1000.6):
        board.shown()
    assert len(made) == 2


async def test_a_session_that_held_the_lock_for_us_is_not_shown_as_somebody_elses() -> None:
    """The answer is of the time at which this replica worked; by now it has let go."""
    locker = Telling()
    locker.says = [holder("our own session")]
    finish, at_work = trio.Event(), trio.Event()

    async def work(tick: Tick) -> None:
        at_work.set()
        await finish.wait()

    supervisor = Supervisor([a_service(locker, work=work, cadence="replica")])
    (sweep,) = supervisor.services
    watch = LockWatch(supervisor)
    async with running(supervisor), trio.open_nursery() as nursery:
        nursery.start_soon(sweep.tick)
        await at_work.wait()
        await watch.refresh()
        held = watch.of(sweep, sweep.statistics())
        assert (held.state, (held.holder or {}).get("application_name")) == ("held_here", "our own session")
        finish.set()
        while sweep.statistics().holds_lock:
            await trio.lowlevel.checkpoint()
        assert watch.of(sweep, sweep.statistics()) == _holders.LockView("free", None)


async def test_an_old_answer_of_somebody_elses_session_is_not_shown_as_our_own() -> None:
    locker = Telling()
    locker.says = [holder("theirs")]
    at_work = trio.Event()

    async def work(tick: Tick) -> None:
        at_work.set()
        await trio.sleep_forever()

    supervisor = Supervisor([a_service(locker, work=work)])
    (sweep,) = supervisor.services
    watch = LockWatch(supervisor)
    async with running(supervisor), trio.open_nursery() as nursery:
        await watch.refresh()
        nursery.start_soon(sweep.tick)
        await at_work.wait()
        assert watch.of(sweep, sweep.statistics()) == _holders.LockView("held_here", None)
        nursery.cancel_scope.cancel()


async def test_before_the_supervisor_runs_nothing_is_known() -> None:
    locker = Telling()
    supervisor = Supervisor([a_service(locker)])
    (sweep,) = supervisor.services
    watch = LockWatch(supervisor)
    with anyio.fail_after(30):
        await watch.refresh()
    assert (locker.asked, watch.of(sweep, sweep.statistics()).state) == (0, "unknown")
