"""How calls are divided between two versions: exactly by share, in step with nothing, and by a key of their own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stoker.core.traffic import PARTS, Turns, takes, version_before


@given(parts=st.integers(0, PARTS), calls=st.integers(1, 2000))
def test_at_every_moment_the_share_is_kept_to_within_one_call(parts: int, calls: int) -> None:
    turns = Turns()
    taken = 0
    for n in range(1, calls + 1):
        taken += turns.take(parts)
        assert abs(taken - n * parts / PARTS) < 1 or parts in {0, PARTS}
    assert parts != PARTS or taken == calls
    assert parts or not taken


@given(shares=st.lists(st.integers(1, PARTS - 1), min_size=1, max_size=400))
def test_a_share_may_change_with_every_call(shares: list[int]) -> None:
    turns = Turns()
    taken = sum(turns.take(parts) for parts in shares)
    assert abs(taken - sum(shares) / PARTS) < 1


def test_the_first_call_is_taken() -> None:
    assert Turns().take(1)


def test_callers_with_a_period_are_divided_like_others() -> None:
    for period in (2, 5, 10, 20):
        turns = Turns()
        of_each = [0] * period
        for n in range(10_000 * period):
            of_each[n % period] += turns.take(1000)
        assert all(900 < taken < 1100 for taken in of_each), (period, of_each)


def test_a_key_is_always_taken_or_never_and_stays_so_at_greater_shares() -> None:
    keys = [f"user-{n}" for n in range(2000)]
    at_ten, at_thirty = ({k for k in keys if takes(k, parts, among="a")} for parts in (1000, 3000))
    assert at_ten < at_thirty
    assert 150 < len(at_ten) < 250 and 540 < len(at_thirty) < 660
    assert at_ten != {k for k in keys if takes(k, 1000, among="b")}
    assert not any(takes(k, 0, among="a") for k in keys) and all(takes(k, PARTS, among="a") for k in keys)


def test_a_rollback_goes_to_the_newest_version_before_that_has_answered_by_itself() -> None:
    assert version_before(7, [1, 2, 5, 7, 9], {}) == 5
    assert version_before(1, [1, 2], {}) is None


def test_rollbacks_in_a_row_go_back_further_each_time() -> None:
    same_as: dict[int, int] = {}
    found = []
    for made in range(6, 9):
        target = version_before(made - 1, range(1, made), same_as)
        assert target is not None
        found.append(target)
        same_as[made] = target
    assert found == [4, 3, 2]
    # What is deployed then has the rollback's version before it, and that what it is the same as.
    assert version_before(9, range(1, 10), same_as) == 8
    assert version_before(10, range(1, 11), {**same_as, 10: 8}) == 1
