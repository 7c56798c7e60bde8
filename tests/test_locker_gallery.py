"""The check has teeth: it convicts each locker of the gallery of the promise that it breaks, and the honest one not."""

from __future__ import annotations

import pytest
from locker_gallery import GALLERY, HonestLocker, Store
from scripted import virtually

from tickrunner_trio.testing import BrokenPromiseError, LockerReport, check_advisory_locker


def checked(kind: type[HonestLocker]) -> LockerReport:
    store = Store()

    async def lose(locker: HonestLocker, lock_id: int) -> None:
        locker.store.lose(lock_id)

    async def main() -> LockerReport:
        return await check_advisory_locker(
            lambda: kind(store), shared=True, lose=lose, held_for=3600, at_once=20, patience=120
        )

    report: LockerReport = virtually(main)
    return report


def test_the_honest_locker_keeps_every_promise() -> None:
    report = checked(HonestLocker)
    assert report.skipped == ()


@pytest.mark.parametrize("kind", GALLERY, ids=lambda kind: kind.__name__)
def test_a_bug_is_found_by_the_promise_that_it_breaks(kind: type[HonestLocker]) -> None:
    with pytest.raises(BrokenPromiseError) as caught:
        checked(kind)
    assert caught.value.promise == kind.promise, str(caught.value)
    assert kind.seen in caught.value.seen


def test_every_promise_catches_a_bug_that_all_before_it_let_through() -> None:
    assert {kind.promise for kind in GALLERY} == set(checked(HonestLocker).checked)
