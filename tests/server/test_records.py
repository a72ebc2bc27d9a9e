"""The latest settled calls that people may ask for: a bounded number, the newest first."""

from __future__ import annotations

import pytest

from stoker.core.calls import Call, Delivery, Result
from stoker.core.pools import Pool
from stoker.server.inspection import _matches
from stoker.server.records import KEPT_CALLS, OF_A_BATCH, Records, row_of, state_name
from stoker.types import CallState, ErrorInfo, Outcome
from tests.core.world import spec

POOL = Pool("key", spec())


def delivery(number: int, error: ErrorInfo | None = None, *, seconds: float = 0.5) -> Delivery:
    call = Call(f"c-1.{number}", POOL, "c-1", b"", created=float(number))
    return Delivery(call.id, Result(Outcome.VALUE, b"", error, seconds), 1, call)


def test_a_bounded_number_is_kept() -> None:
    records = Records()
    for number in range(KEPT_CALLS + 10):
        records.add([delivery(number)], now=1.0)
    newest = records.newest()
    assert len(newest) == KEPT_CALLS
    assert newest[0].call.id == f"c-1.{KEPT_CALLS + 9}"
    assert records.get("c-1.9") is None
    assert records.get("c-1.10") is not None


def test_of_a_batch_the_last_ones_are_kept() -> None:
    records = Records()
    records.add([delivery(number) for number in range(1000)], now=1.0)
    assert [record.call.id for record in records.newest()] == [f"c-1.{999 - n}" for n in range(OF_A_BATCH)]


def test_a_call_told_from_the_store_leaves_no_record() -> None:
    records = Records()
    records.add([Delivery("c-1.1", Result(Outcome.VALUE), 0)], now=1.0)
    assert not records.newest()


def test_a_row_says_what_a_person_asks() -> None:
    records = Records()
    made = delivery(7, ErrorInfo("builtins.ValueError", "bad"))
    records.add([made], now=9.0)
    record = records.get("c-1.7")
    assert record is not None
    row = row_of(record.call, wall=100.0, record=record)
    assert row["created"] == 107.0
    assert row["error"] == "ValueError: bad"
    assert row["seconds"] == 0.5
    assert row["function"] == "app.f"
    assert row["started"] is None


def test_what_its_worker_said_nothing_of_took_as_long_as_was_seen() -> None:
    """A cancelled or a lost attempt has no time of its worker's; one that never ran took none."""
    records = Records()
    made = delivery(8, ErrorInfo("CallCancelled", "it was"), seconds=0.0)
    records.add([made], now=9.0)
    record = records.get("c-1.8")
    assert record is not None and row_of(record.call, wall=0.0, record=record)["seconds"] is None
    record.call.leased_at = 8.5
    assert row_of(record.call, wall=0.0, record=record)["seconds"] == 0.5


def test_leased_is_running_in_what_users_read() -> None:
    assert state_name(CallState.LEASED) == "running"
    assert {state_name(state) for state in CallState} == {"running"} | {
        state.value for state in CallState if state is not CallState.LEASED
    }


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("Model", True),
        ("Model.predict", True),
        ("shop.Model", True),
        ("shop.Model.predict", True),
        ("", True),
        ("shop", False),
        ("Mod", False),
        ("predict", False),
        ("Model.predict.x", False),
    ],
)
def test_a_method_is_found_by_its_name_and_by_that_of_its_class(asked: str, found: bool) -> None:
    row = {"app": "shop", "function": "shop.Model.predict", "state": "running"}
    assert _matches(row, app="", function=asked, state="") is found
    assert _matches(row, app="shop", function=asked, state="running") is found
    assert not _matches(row, app="sho", function=asked, state="")
