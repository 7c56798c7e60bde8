"""What a `Supervisor` asks of ledgers: of one, of several, and where there is none."""

from __future__ import annotations

from typing import Any

import pytest
from kept_ledger import KeptLedger, LedgerLocker, a_past
from ledger_view import do

from tickrunner_trio import (
    Config,
    DatabaseUnavailableError,
    HealthState,
    LockerConfigurationError,
    MemoryLocker,
    PostgresLocker,
    Service,
    Supervisor,
    Tick,
    lock_id_for,
)
from tickrunner_trio.abc import HasLedger, Ledger


async def nothing(tick: Tick) -> None:
    """Work that is done at once."""


def a_service(name: str, locker: Any) -> Service:
    return Service(Config(name=name, interval=60, locker=locker, work=nothing))


CALLS = {
    "pause": lambda supervisor, name: supervisor.pause(name, reason="disk", by="ada"),
    "resume": lambda supervisor, name: supervisor.resume(name),
    "trigger": lambda supervisor, name: supervisor.trigger(name, by="ada"),
    "history": lambda supervisor, name: supervisor.history(name),
}


async def test_the_health_of_the_cluster_is_told_in_order_of_registration_of_ours_alone() -> None:
    ledger, locker = KeptLedger(), MemoryLocker()
    ledger.put("expire", epoch=4)
    ledger.put("sweep", epoch=3)
    ledger.put("of_another_application")
    kept = LedgerLocker(ledger)
    assert isinstance(ledger, Ledger)
    assert isinstance(kept, HasLedger)
    supervisor = Supervisor([a_service(name, kept) for name in ("sweep", "expire")] + [a_service("local", locker)])
    assert [(row.name, row.epoch) for row in await supervisor.cluster_health()] == [("sweep", 3), ("expire", 4)]
    assert ledger.asked == 1


async def test_each_service_is_looked_up_in_the_ledger_of_its_own_locker() -> None:
    one, other = KeptLedger(), KeptLedger()
    for ledger, epoch in ((one, 1), (other, 2)):
        for name in ("sweep", "expire"):
            ledger.put(name, epoch=epoch)
    supervisor = Supervisor([a_service("sweep", LedgerLocker(one)), a_service("expire", LedgerLocker(other))])
    assert [row.epoch for row in await supervisor.cluster_health()] == [1, 2]
    await supervisor.trigger("expire")
    assert [each.rows["expire"].triggered_at is None for each in (one, other)] == [True, False]


@pytest.mark.parametrize("error", [DatabaseUnavailableError("away"), LockerConfigurationError("away")])
async def test_a_ledger_that_cannot_tell_hides_no_other(error: Exception) -> None:
    one, other = KeptLedger(), KeptLedger()
    one.fails = error
    other.put("expire", epoch=2)
    lockers = {"sweep": LedgerLocker(one), "expire": LedgerLocker(other), "refill": LedgerLocker(one)}
    supervisor = Supervisor([a_service(name, locker) for name, locker in lockers.items()])
    sweep, expire, refill = await supervisor.cluster_health()
    assert (expire.name, expire.state, expire.epoch) == ("expire", HealthState.OK, 2)
    for row in (sweep, refill):
        assert (row.state, row.lock_id, row.interval) == (HealthState.UNAVAILABLE, lock_id_for(row.name), 60)
        assert row.last_error == f"{type(error).__name__}: away"
    assert one.asked == 1
    other.fails = DatabaseUnavailableError("away too")
    with pytest.raises(type(error), match=r"^away$"):
        await supervisor.cluster_health()


async def test_a_service_that_was_never_asked_to_run_is_starting() -> None:
    supervisor = Supervisor([a_service("sweep", LedgerLocker(KeptLedger()))])
    [row] = await supervisor.cluster_health()
    assert (row.name, row.state, row.lock_id, row.interval) == (
        *("sweep", HealthState.STARTING, lock_id_for("sweep"), 60),
    )
    assert await supervisor.history("sweep") == ()


async def test_a_service_can_be_paused_before_its_first_tick() -> None:
    ledger = KeptLedger()
    supervisor = Supervisor([a_service("sweep", LedgerLocker(ledger))])
    paused = await supervisor.pause("sweep", reason="disk", by="ada")
    assert ledger.added == [("sweep", lock_id_for("sweep"), 60)]
    assert (paused.paused, paused.paused_by, paused.pause_reason) == (True, "ada", "disk")
    assert not (await supervisor.resume("sweep")).paused
    assert (await supervisor.trigger("sweep", by="bob")).triggered_by == "bob"
    assert len(ledger.added) == 1


async def test_the_history_of_a_service_is_that_of_its_ledger() -> None:
    ledger = KeptLedger()
    ledger.put("sweep")
    ledger.runs["sweep"] = a_past("sweep")
    supervisor = Supervisor([a_service("sweep", LedgerLocker(ledger))])
    assert await supervisor.history("sweep") == a_past("sweep")


@pytest.mark.parametrize(
    "locker", [MemoryLocker(), LedgerLocker(None), PostgresLocker("host=db")], ids=["memory", "none", "postgresql"]
)
@pytest.mark.parametrize("call", CALLS)
async def test_without_a_ledger_the_remedy_is_told(locker: Any, call: str) -> None:
    supervisor = Supervisor([a_service("sweep", locker), a_service("expire", LedgerLocker(KeptLedger()))])
    with pytest.raises(LockerConfigurationError, match=r"of 'sweep' keeps no ledger, .*conninfo, ledger=True"):
        await CALLS[call](supervisor, "sweep")
    with pytest.raises(LockerConfigurationError, match=r"no service of this supervisor has a ledger.*ledger=True"):
        await Supervisor([a_service("sweep", locker)]).cluster_health()


@pytest.mark.parametrize("call", CALLS)
async def test_a_service_that_is_not_there_is_refused_with_those_that_are(call: str) -> None:
    ledger = KeptLedger()
    supervisor = Supervisor([a_service("sweep", LedgerLocker(ledger))])
    with pytest.raises(ValueError, match=r"^name must be that of a service, got 'swep': use one of sweep$"):
        await CALLS[call](supervisor, "swep")
    assert ledger.asked == 0


async def test_on_postgresql_the_ledger_of_the_locker_is_operated_also_while_nothing_runs(dsn: str) -> None:
    locker = PostgresLocker(dsn, ledger="own")
    assert locker.ledger is not None
    assert locker.ledger.schema == "own"
    await locker.ledger.init()
    supervisor = Supervisor([a_service("sweep", locker)])
    await supervisor.pause("sweep", reason="disk", by="ada")
    [row] = await supervisor.cluster_health()
    assert (row.paused_by, row.lock_id) == ("ada", lock_id_for("sweep"))
    assert do(dsn, "SELECT pause_reason FROM own.service") == [("disk",)]


@pytest.mark.parametrize(("given", "schema"), [(True, "tickrunner"), ("own", "own"), (False, None)])
def test_the_locker_keeps_the_ledger_that_it_is_told(given: Any, schema: str | None) -> None:
    ledger = PostgresLocker("host=db", ledger=given).ledger
    assert (None if ledger is None else ledger.schema) == schema


@pytest.mark.parametrize("given", [None, 1, ""])
def test_what_is_no_ledger_is_refused(given: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^ledger must be"):
        PostgresLocker("host=db", ledger=given)
