"""A token bucket lets no more through than it states, and makes nobody wait longer than it says."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.core.rate_limits import Bucket, Rate
from stoker.errors import InvalidOption

rates = st.builds(Rate, st.integers(1, 1000), st.sampled_from([1.0, 60.0, 3600.0]), st.integers(1, 1000))


@pytest.mark.parametrize(
    ("text", "burst", "said"),
    [("100/s", None, "100/s"), (" 30 / m", None, "30/m"), ("1000/h", 5, "1000/h, 5 at once"), ("5/d", 5, "5/d")],
)
def test_rates_as_people_write_them(text: str, burst: int | None, said: str) -> None:
    assert str(Rate.parse(text, burst=burst)) == said


@pytest.mark.parametrize("text", ["", "100", "0/s", "-1/s", "1.5/s", "100/sec", "100 s", "s/100", "9" * 11 + "/s"])
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(InvalidOption, match=r"--rate .* is no rate.*100/s, 30/m"):
        Rate.parse(text)


@pytest.mark.parametrize("burst", [0, -1])
def test_what_is_no_burst(burst: int) -> None:
    with pytest.raises(InvalidOption, match="burst"):
        Rate.parse("1/s", burst=burst)


def test_a_burst_and_then_so_many_a_second() -> None:
    bucket = Bucket(Rate.parse("10/s", burst=3), 100.0)
    assert [bucket.take(100.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert bucket.take(100.0) == pytest.approx(0.1, abs=1e-5)
    assert bucket.take(100.0 + bucket.take(100.0)) == 0.0
    assert (bucket.remaining(200.0), bucket.until_full(200.0)) == (3, 0.0)
    assert bucket.take(200.0, 4) == math.inf
    assert bucket.take(200.0, 3) == 0.0
    assert bucket.until_full(200.0) == pytest.approx(0.3)


@given(rates, st.lists(st.floats(0.0, 100.0), max_size=200))
def test_no_more_gets_through_than_is_stated(rate: Rate, gaps: list[float]) -> None:
    now, taken = 0.0, 0
    bucket = Bucket(rate, now)
    for gap in gaps:
        now += gap
        taken += bucket.take(now) == 0.0
    assert taken <= rate.burst + rate.per_second * now + 1e-3


@given(rates, st.integers(0, 2000), st.floats(0.0, 1e6))
def test_who_waits_as_long_as_is_said_gets_through(rate: Rate, before: int, start: float) -> None:
    bucket = Bucket(rate, start)
    wait = 0.0
    for _ in range(before):
        wait = bucket.take(start)
    if wait:
        assert bucket.take(start + wait) == 0.0


def test_a_clock_that_stands_still_or_goes_back_gives_nothing() -> None:
    bucket = Bucket(Rate.parse("1/s"), 10.0)
    assert bucket.take(10.0) == 0.0
    assert bucket.take(5.0) > 0.0
