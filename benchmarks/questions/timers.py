"""How late ticks are at 100 services where the platform has a timer that is finer than epoll's milliseconds."""

from __future__ import annotations

from ..question import OURS, Comparison, Measurement, Question, Value, ratio
from .lateness import FIGURES

BARE, PARKED, TIMERFD = "bare Trio tasks", "parked tasks, Trio's timer", "parked tasks, a timerfd"


def question(*, quick: bool) -> Question:
    """Ask it."""
    arguments = {"services": 100, "lead": 2.0, "seconds": 2 if quick else 3}
    parked = "benchmarks.peers.parked_trio:lateness"
    return Question(
        key="timers",
        title="Lateness at 100 services, with Trio's timer and with the kernel's",
        figures=FIGURES,
        measurements=tuple(
            Measurement(way=way, function=function, arguments=arguments | more, beside="all")
            for way, function, more in (
                (OURS, "benchmarks.questions.lateness:measure", {}),
                (BARE, "benchmarks.peers.bare_trio:lateness", {}),
                (PARKED, parked, {}),
                (TIMERFD, parked, {"timerfd": True}),
            )
        ),
        comparisons=(
            Comparison(name="p50 over bare Trio tasks", of=ratio("p50", BARE), guarded=False),
            Comparison(name="p50 over a timerfd", of=ratio("p50", TIMERFD), guarded=False),
            Comparison(name="p50 in milliseconds", of=Value(OURS, "p50"), guarded=False),
        ),
        rounds=1 if quick else 5,
        notes=(
            "Milliseconds from the slot to the work, as in `lateness`. Trio waits in epoll, which counts whole "
            "milliseconds and rounds up, so a sleep is half a millisecond late before anything runs. A timerfd "
            "counts nanoseconds, and takes three system calls each time the next deadline changes (`share`)."
        ),
    )
