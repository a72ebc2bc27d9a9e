"""When a failed or lost attempt is followed by another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.core.retries import delay, survives_loss, wants_retry
from stoker.types import ErrorInfo, OptionsSpec, RetrySpec

MRO = ["app.errors.Flaky", "builtins.ConnectionError", "builtins.OSError", "builtins.Exception"]
FLAKY = ErrorInfo("app.errors.Flaky", "again", mro=MRO)


def test_each_retry_waits_longer_up_to_the_most() -> None:
    spec = RetrySpec(max_retries=9, initial_delay=0.5, backoff=2.0, max_delay=3.0)
    assert [delay(spec, n) for n in range(1, 6)] == [0.5, 1.0, 2.0, 3.0, 3.0]


@given(
    st.floats(0.0, 1e3),
    st.floats(1.0, 10.0),
    st.floats(0.0, 1e4),
    st.integers(1, 200),
)
def test_delays_grow_and_are_bounded(initial: float, backoff: float, most: float, failures: int) -> None:
    spec = RetrySpec(max_retries=1, initial_delay=initial, backoff=backoff, max_delay=most)
    assert 0.0 <= delay(spec, failures) <= delay(spec, failures + 1) <= most


def test_a_call_that_has_failed_for_days_has_a_delay() -> None:
    assert delay(RetrySpec(max_retries=10_000, initial_delay=1.0, backoff=10.0, max_delay=60.0), 5_000) == 60.0


@pytest.mark.parametrize(("failures", "wanted"), [(1, True), (2, True), (3, False), (9, False)])
def test_as_many_retries_as_were_asked_for(failures: int, wanted: bool) -> None:
    assert wants_retry(OptionsSpec(retries=RetrySpec(max_retries=2)), failures, FLAKY) is wanted


def test_without_retries_none() -> None:
    assert not wants_retry(OptionsSpec(), 1, FLAKY)


@pytest.mark.parametrize(
    ("on", "wanted"),
    [
        ([], True),
        (["app.errors.Flaky"], True),
        (["Flaky"], True),
        (["ConnectionError"], True),
        (["builtins.OSError"], True),
        (["ValueError", "OSError"], True),
        (["ValueError"], False),
        (["laky"], False),
        (["rrors.Flaky"], False),
    ],
)
def test_only_on_the_named_exceptions_or_their_bases(on: list[str], wanted: bool) -> None:
    assert wants_retry(OptionsSpec(retries=RetrySpec(max_retries=1, on=on)), 1, FLAKY) is wanted


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (ErrorInfo("CallTimeout", "", mro=["CallTimeout", "builtins.TimeoutError"]), "TimeoutError"),
        (ErrorInfo("CallTimeout", ""), "CallTimeout"),
        (ErrorInfo("OutOfMemory", "", mro=["OutOfMemory", "builtins.MemoryError"]), "MemoryError"),
        (None, "Anything"),
    ],
)
def test_stokers_own_failures_have_names_too(error: ErrorInfo | None, name: str) -> None:
    assert wants_retry(OptionsSpec(retries=RetrySpec(max_retries=1, on=[name])), 1, error)


@given(st.integers(0, 5), st.integers(1, 10))
def test_lost_workers_are_forgiven_so_often(allowed: int, losses: int) -> None:
    assert survives_loss(OptionsSpec(lost_retries=allowed), losses) is (losses <= allowed)
