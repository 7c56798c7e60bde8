"""The judge of the fault campaign: what it convicts, what it excuses, and what it reads in the record."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
from faults.judge import Evidence, Excuse, Fault, Habits, Span, hiccups, judge, merged
from faults.record import Event, Recorder, Run, Tail, parsed, runs_of
from faults.told import told
from hypothesis import given
from hypothesis import strategies as st

if TYPE_CHECKING:
    from pathlib import Path

    from faults.judge import Verdict

HABITS = Habits(interval=1.0, shortest=0.1, longest=0.3, stopping=0.1)


def run(replica: str, started_at: float, stopped_at: float, *, service: str = "sweep", number: int = 1) -> Run:
    return Run(
        service=service, replica=replica, number=number, written_at=(started_at, stopped_at), ended=True, epoch=None
    )


def judged(*runs: Run, **more: Any) -> Verdict:
    habits = more.pop("habits", HABITS)
    return judge(Evidence(lease=2.0, services={"sweep": habits}, runs=runs, ended_at=100.0, **more))


def dropped(replica: str, *, began_at: float, at: float) -> Excuse:
    return Excuse(cause="dropped", replica=replica, began_at=began_at, at=at, by="a test")


# -- Overlaps ----------------------------------------------------------------------------------------------------------


def test_two_runs_of_one_service_at_once_are_convicted_and_named() -> None:
    verdict = judged(run("r1", 10.0, 10.3), run("r2", 10.2, 10.5, number=7))
    assert verdict.broken == ("sweep on r1, run 1 and sweep on r2, run 7 overlap for 100.0 ms",)
    assert [overlap.span for overlap in verdict.convicting] == [Span(10.2, 10.3)]


def test_runs_that_follow_each_other_or_are_of_two_services_are_not() -> None:
    runs = run("r1", 10.0, 10.3), run("r2", 10.3, 10.5), run("r3", 10.1, 10.4, service="expire")
    services = {"sweep": HABITS, "expire": HABITS}
    assert judge(Evidence(lease=2.0, services=services, runs=runs, ended_at=100.0)).broken == ()


def test_a_long_run_is_compared_with_all_that_begin_while_it_lasts() -> None:
    verdict = judged(run("r1", 10.0, 14.0), run("r2", 11.0, 11.1), run("r3", 13.0, 13.1))
    assert len(verdict.convicting) == 2


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10)), max_size=12))
def test_it_finds_each_pair_that_overlaps(spans: list[tuple[int, int]]) -> None:
    runs = [run(f"r{index}", float(start), float(start + length)) for index, (start, length) in enumerate(spans)]
    pairs = [
        {one.replica, other.replica}
        for one, other in itertools.combinations(runs, 2)
        if one.started_at < other.stopped_at and other.started_at < one.stopped_at
    ]
    found = [{overlap.first.replica, overlap.second.replica} for overlap in judged(*runs).convicting]
    assert sorted(map(sorted, found)) == sorted(map(sorted, pairs))


@pytest.mark.parametrize(
    ("stopped_at", "is_excused"),
    # The session was dropped at 10.0: 20 ms of notice, and the 100 ms that the work takes to stop.
    [(10.119, True), (10.121, False)],
)
def test_a_run_whose_session_was_dropped_has_its_notice_and_its_own_stopping_time(
    stopped_at: float, is_excused: bool
) -> None:
    runs = run("r1", 9.5, stopped_at), run("r2", 10.01, 10.3)
    verdict = judged(*runs, excuses=[dropped("r1", began_at=9.99, at=10.0)])
    assert (verdict.broken == ()) is is_excused
    assert verdict.went_on["dropped"] == [pytest.approx(stopped_at - 10.1)]


def test_the_excuse_of_one_replica_is_none_for_another() -> None:
    assert judged(
        run("r1", 9.5, 10.1), run("r2", 10.01, 10.3), excuses=[dropped("r3", began_at=9.99, at=10.0)]
    ).convicting


def test_an_overlap_that_began_before_the_session_was_dropped_is_not_excused() -> None:
    assert judged(
        run("r1", 9.5, 10.05), run("r2", 9.9, 10.3), excuses=[dropped("r1", began_at=9.95, at=10.0)]
    ).convicting


def test_a_run_that_had_stopped_before_the_drop_is_not_excused_by_it() -> None:
    """A later excuse of the same replica covers everything that stopped before it, if nobody looks."""
    assert judged(run("r1", 9.0, 9.5), run("r2", 9.4, 9.8), excuses=[dropped("r1", began_at=20.0, at=20.1)]).convicting


def test_the_second_run_may_be_the_one_that_is_late() -> None:
    """A frozen replica that got its lock just before is woken, and writes its start only then."""
    excuse = Excuse(cause="frozen", replica="r2", began_at=10.0, at=13.0, by="SIGSTOP")
    verdict = judged(run("r1", 12.9, 13.4), run("r2", 13.005, 13.01), excuses=[excuse])
    assert verdict.broken == ()
    assert [overlap.excuse for overlap in verdict.overlaps] == [excuse]


def test_a_machine_that_was_late_widens_an_excuse_by_just_so_much() -> None:
    excuse = dropped("r1", began_at=9.99, at=10.0)
    late = [Span(10.0, 10.05), Span(8.0, 9.0)]  # the second was before, and is no matter

    def broken(stopped_at: float) -> tuple[str, ...]:
        return judged(run("r1", 9.5, stopped_at), run("r2", 10.01, 10.3), excuses=[excuse], hiccups=[late[0]]).broken

    assert broken(10.169) == ()
    assert broken(10.171) != ()


def test_a_machine_that_stood_still_for_half_of_the_stopping_time_has_frozen_everybody() -> None:
    runs = run("r1", 9.5, 10.45), run("r2", 10.42, 10.6)
    assert judged(*runs, hiccups=[Span(10.0, 10.4)]).broken == ()
    assert judged(*runs, hiccups=[Span(10.1, 10.4)]).broken != ()  # a sixth of the lease is 0.333 s


# -- Steady state, and after a fault -----------------------------------------------------------------------------------


def starts(*at: float) -> list[Run]:
    return [run("r1", start, start + 0.1, number=number) for number, start in enumerate(at)]


def test_one_run_per_interval_is_steady() -> None:
    verdict = judged(*starts(10.5, 11.5, 12.4, 13.4), steady=[Span(10.0, 14.0)])
    assert verdict.broken == ()
    assert verdict.gaps["sweep"] == pytest.approx([1.0, 0.9, 1.0])


def test_two_runs_in_one_interval_are_not() -> None:
    verdict = judged(*starts(10.5, 11.3, 12.3, 13.3), steady=[Span(10.0, 14.0)])
    assert verdict.broken == ("sweep ran twice within 0.80 of its interval in steady state",)


def test_a_pause_of_more_than_two_intervals_is_not_also_at_either_end() -> None:
    words = "sweep did not run for 2.50 of its intervals in steady state"
    assert judged(*starts(10.5, 13.0), steady=[Span(10.0, 14.0)]).broken == (words,)
    assert judged(*starts(12.5, 13.5), steady=[Span(10.0, 14.0)]).broken == (words,)
    assert judged(*starts(10.5, 11.5), steady=[Span(10.0, 14.0)]).broken == (words,)


def test_work_that_is_longer_than_its_interval_has_its_own_length_in_addition() -> None:
    long = Habits(interval=1.0, shortest=3.0, longest=3.5)
    assert judged(*starts(10.0, 14.4), habits=long, steady=[Span(10.0, 15.0)]).broken == ()
    assert judged(*starts(10.0, 14.6), habits=long, steady=[Span(10.0, 15.0)]).broken != ()


def fault(at: float) -> Fault:
    return Fault(name="a test", replica="r1", began_at=at, healed_at=at, succeeded_from=at)


def test_after_a_fault_each_service_runs_within_lease_interval_and_backoff() -> None:
    assert judged(*starts(10.0, 33.0), faults=[fault(20.0)]).broken == ()
    verdict = judged(*starts(10.0, 33.1), faults=[fault(20.0)])
    assert verdict.broken == ("sweep did not run for 13.1 s after a test, allowed: 13.0 s",)
    assert verdict.succession == {"a test": pytest.approx(13.1)}


def test_a_service_that_never_runs_again_is_convicted_even_if_the_campaign_is_over_soon() -> None:
    assert judged(*starts(10.0), faults=[fault(95.0)]).broken == ("sweep never ran again after a test",)


def test_runs_of_a_service_that_nobody_runs_are_convicted() -> None:
    verdict = judged(run("r1", 1.0, 2.0, service="other"), run("r2", 1.0, 2.0, service="other"))
    assert verdict.broken == ("work was recorded of services that nobody runs: other",)


# -- The machine, and the record ---------------------------------------------------------------------------------------


def test_a_control_that_is_late_gives_the_time_from_when_its_mark_was_due() -> None:
    [late] = hiccups([1.0, 1.0105, 1.0205, 1.0505])
    assert late.began_at == pytest.approx(1.0305)
    assert late.ended_at == 1.0505


def test_times_of_several_controls_are_counted_once() -> None:
    assert merged([Span(3.0, 4.0), Span(1.0, 2.0), Span(1.5, 2.5)]) == [Span(1.0, 2.5), Span(3.0, 4.0)]


@given(
    st.lists(
        st.builds(
            Event,
            service=st.sampled_from(["sweep", "expire"]),
            replica=st.sampled_from(["r1", "r2"]),
            number=st.integers(1, 99),
            kind=st.sampled_from(["start", "mark", "end"]),
            at=st.integers(0, 10**12).map(lambda microseconds: round(microseconds / 1e6, 6)),
            epoch=st.none() | st.integers(-(2**63), 2**63 - 1),
        )
    )
)
def test_what_was_written_is_read_again(events: list[Event]) -> None:
    assert parsed(b"".join(event.line() for event in events).decode()) == (events, 0)


def test_a_line_that_a_kill_tore_off_loses_neither_its_neighbour_nor_its_run() -> None:
    whole = [Event("sweep", "r1", 1, "start", 5.0), Event("sweep", "r1", 1, "mark", 5.01)]
    other = Event("sweep", "r2", 1, "start", 6.0)
    torn = Event("sweep", "r1", 1, "mark", 5.02).line()[:-9]
    text = b"".join(event.line() for event in whole) + torn + other.line()
    events, count = parsed(text.decode())
    assert (events, count) == ([*whole, other], 1)
    assert parsed(torn.decode()) == ([], 1)
    killed, _ = runs_of(events)
    assert (killed.started_at, killed.stopped_at, killed.ended) == (5.0, 5.01, False)


def test_a_run_lasts_from_its_first_line_to_its_last() -> None:
    kinds = ("start", 5.0), ("mark", 5.01), ("end", 5.02)
    [one] = runs_of(Event("sweep", "r1", 1, kind, at, epoch=8) for kind, at in kinds)
    assert (one.started_at, one.stopped_at, one.ended, one.epoch) == (5.0, 5.02, True, 8)


def test_the_tail_reads_what_is_new_and_knows_who_is_at_work(tmp_path: Path) -> None:
    path = tmp_path / "record"
    recorder = Recorder(path, "r1")
    tail = Tail(path)
    recorder.write("sweep", 1, "start")
    recorder.write("expire", 1, "start")
    tail.look()
    assert tail.at_work({"sweep"}, within=60) == {"r1"}
    assert tail.at_work({"refill"}, within=60) == tail.at_work({"sweep"}, within=-1) == set()
    assert tail.started_after(0.0) == {"sweep", "expire"}
    recorder.write("sweep", 1, "mark")
    recorder.write("sweep", 1, "end")
    tail.look()
    tail.look()
    assert tail.at_work({"sweep"}, within=60) == set()
    assert [event.kind for event in tail.events] == ["start", "start", "mark", "end"]


# -- In words ----------------------------------------------------------------------------------------------------------


def test_the_verdict_in_words_shows_what_convicts_and_what_happened_around_it() -> None:
    evidence = Evidence(
        lease=2.0,
        services={"sweep": HABITS},
        runs=[*starts(5.0, 6.0), run("r1", 10.0, 10.3), run("r2", 10.2, 10.5)],
        steady=[Span(4.5, 6.5)],
        excuses=[dropped("r3", began_at=10.24, at=10.25)],
        faults=[Fault(name="a cut", replica="r1", began_at=9.0, healed_at=11.0, succeeded_from=9.0)],
        ended_at=12.0,
    )
    lines = told(evidence, judge(evidence), findings=["r3 has more threads"], skipped=["drops: not permitted"])
    assert lines[-2:] == [
        "CONVICTED: sweep on r1, run 1 and sweep on r2, run 1 overlap for 100.0 ms",
        "CONVICTED: r3 has more threads",
    ]
    assert "skipped: drops: not permitted" in lines
    assert "sweep in steady state: 1 gaps of 1.00 to 1.00 intervals, 1.00 in the mean" in lines
    assert "     +50.0 ms ** r3 dropped: a test" in lines
    assert "   -1200.0 ms ** a cut of r1 begins" in lines
    assert "      +0.0 ms    sweep on r2, run 1 starts, with 0 marks to come" in lines


def test_an_acquittal_says_so_with_its_figures() -> None:
    evidence = Evidence(
        lease=2.0,
        services={"sweep": HABITS},
        runs=[run("r1", 9.5, 10.11), run("r2", 10.01, 10.3)],
        excuses=[dropped("r1", began_at=9.99, at=10.0)],
        ended_at=12.0,
    )
    lines = told(evidence, judge(evidence))
    assert lines[-1] == "Nothing was convicted."
    assert any("up to 10.0 ms after the server had dropped the session; 1 overlaps excused" in line for line in lines)
