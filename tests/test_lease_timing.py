"""The arithmetic of the lease: the two inequalities over its whole range, in exact fractions, and what is refused."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tickrunner_trio import PostgresLocker
from tickrunner_trio.lockers._timing import DRIFT, LONGEST, SHORTEST, LeaseTiming, lease_timing, server_settings

LEASES = st.floats(SHORTEST, LONGEST) | st.integers(2, 3600) | st.sampled_from([2, 2.0, math.nextafter(2, 3), 3600])

#: Of the figures, which are floats, each is rounded once or twice: by this fraction of the lease at most.
ROUNDING = Fraction(1, 2**50)


@given(LEASES)
@example(2.0)
@example(15.0)
@example(3600.0)
def test_a_server_that_answers_keeps_the_work_going_and_a_silent_one_lets_no_rival_in_before_it_has_stopped(
    lease: float,
) -> None:
    timing = lease_timing(lease)
    beat, reply = Fraction(timing.beat), Fraction(timing.reply)
    cancel_after, cleanup = Fraction(timing.cancel_after), Fraction(timing.cleanup)
    kept = Fraction(timing.lease) * (1 - Fraction(DRIFT))  # by this side's clock, if the server's is that much faster
    assert min(beat, reply, cancel_after, cleanup) > 0
    # H + W <= L. A tenth of the lease is left for the thread to wake up late in.
    assert beat + reply + Fraction(timing.lease) / 10 <= cancel_after
    # L + G <= S (1 - rho).
    assert cancel_after + cleanup <= kept + Fraction(timing.lease) * ROUNDING
    # The promises in words: cancelled within two thirds, then a third to stop in.
    assert cancel_after <= Fraction(timing.lease) * 2 / 3
    assert abs(cleanup - Fraction(timing.lease) / 3) <= Fraction(timing.lease) * ROUNDING
    # Nothing is given away: less than a hundredth of the lease is neither work nor clean-up.
    assert cancel_after + cleanup >= Fraction(timing.lease) * 99 / 100


@given(LEASES)
def test_of_two_beats_in_a_row_one_may_be_as_late_as_its_reply_may_be_before_the_server_ends_the_session(
    lease: float,
) -> None:
    timing = lease_timing(lease)
    assert 2 * timing.beat + timing.reply < timing.lease


@given(LEASES)
@example(2.0)
@example(3600.0)
@example(math.nextafter(2, 3))
@example(64.9)
@example(65.9)
def test_no_setting_of_the_server_ends_the_session_sooner_than_the_lease_does(lease: float) -> None:
    settings = server_settings(lease_timing(lease), server_version=180000)
    milliseconds = Fraction(lease) * 1000 - Fraction(1, 1000)  # a microsecond for what floats round
    # What the server enforces is the least of these; it counts in whole units.
    assert int(settings["idle_session_timeout"]) >= milliseconds
    assert int(settings["transaction_timeout"]) >= milliseconds
    assert int(settings["tcp_user_timeout"]) >= milliseconds + 1000
    keepalives = int(settings["tcp_keepalives_idle"]) + int(settings["tcp_keepalives_count"]) * int(
        settings["tcp_keepalives_interval"]
    )
    assert keepalives >= milliseconds / 1000 + 1
    # Nor much later, or the locks of a process that vanished would be kept.
    assert int(settings["idle_session_timeout"]) <= milliseconds + 1.002
    assert int(settings["transaction_timeout"]) <= milliseconds + 1.002
    assert int(settings["tcp_user_timeout"]) <= milliseconds + 1001.002
    assert keepalives < Fraction(lease) + 6


@given(LEASES)
@example(2.0)
def test_the_server_gives_up_a_statement_no_later_than_the_locker_does(lease: float) -> None:
    timing = lease_timing(lease)
    timeout = int(server_settings(timing, server_version=180000)["statement_timeout"])
    assert 0 < timeout <= Fraction(timing.reply) * 1000 < timeout + 1  # 0 would be no timeout at all


@given(LEASES)
def test_every_setting_is_one_that_a_statement_can_carry_in_quotes(lease: float) -> None:
    for name, value in server_settings(lease_timing(lease), server_version=180000).items():
        assert name.isidentifier()
        assert value.isdecimal() or value in ("read committed", "local")


def test_the_default_lease_has_these_figures() -> None:
    timing = PostgresLocker("").timing
    assert timing == lease_timing(15)
    assert timing == LeaseTiming(lease=15.0, beat=3.0, reply=5.0, cancel_after=15.0 * 0.999 - 5.0, cleanup=5.0)
    assert timing.cancel_after == pytest.approx(9.985)


def test_the_default_lease_has_these_settings_in_the_units_that_postgresql_takes() -> None:
    settings = {
        "idle_session_timeout": "15000",  # ms
        "transaction_timeout": "15000",  # ms
        "statement_timeout": "5000",  # ms
        "lock_timeout": "0",
        "default_transaction_isolation": "read committed",
        "synchronous_commit": "local",
        "tcp_user_timeout": "16000",  # ms
        "tcp_keepalives_idle": "8",  # s
        "tcp_keepalives_interval": "3",  # s
        "tcp_keepalives_count": "3",
    }
    assert server_settings(lease_timing(15), server_version=170000) == settings
    del settings["transaction_timeout"]  # older servers do not know it
    assert server_settings(lease_timing(15), server_version=169999) == settings


def test_the_figures_are_floats_also_of_an_integer_and_cannot_be_changed() -> None:
    timing = PostgresLocker("", lease=3).timing
    assert all(type(getattr(timing, name)) is float for name in timing.__slots__)
    assert timing == PostgresLocker("", lease=3.0).timing
    with pytest.raises(FrozenInstanceError):
        timing.beat = 60.0  # type: ignore[misc]


@pytest.mark.parametrize("lease", [2, 2.0, 3600, 3600.0])
def test_both_bounds_are_taken(lease: float) -> None:
    assert PostgresLocker("", lease=lease).timing.lease == lease


@pytest.mark.parametrize("lease", [True, False, "15", b"15", None, Decimal(15), Fraction(15), 15j, [15]], ids=repr)
def test_what_is_no_number_of_seconds_is_refused_with_field_value_and_remedy(lease: Any) -> None:
    with pytest.raises(TypeError) as caught:
        PostgresLocker("", lease=lease)
    assert str(caught.value) == f"lease must be a number of seconds, got {lease!r}: write it as lease=15.0"


@pytest.mark.parametrize(
    "lease",
    [math.nan, math.inf, -math.inf, 1.99, math.nextafter(2, 0), 3600.1, math.nextafter(3600, 4000), 0, -15, 10**400],
    ids=lambda lease: repr(lease)[:20],
)
def test_a_lease_out_of_bounds_is_refused_with_field_value_and_bounds(lease: float) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is below
        PostgresLocker("", lease=lease)
    assert str(caught.value) == (
        f"lease must be from 2 to 3600 seconds, got {lease!r}: a shorter one would end with each hiccup of the network,"
        " a longer one would keep the locks of a vanished process for too long"
    )
