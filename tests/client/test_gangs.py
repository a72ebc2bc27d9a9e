"""What is said of a gang where a function is defined."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import stoker
from stoker.client.options import FunctionOptions
from stoker.transport.current import CurrentCall, enter_only_call
from stoker.types import GangSeat, GangSpec


@pytest.mark.parametrize(("size", "spec"), [(1, GangSpec(1, 1)), (4, GangSpec(4, 4)), ((2, 8), GangSpec(2, 8))])
def test_a_size_is_a_number_or_a_range(size: Any, spec: GangSpec) -> None:
    options = FunctionOptions(gang=stoker.Gang(size=size)).to_spec()
    assert options.gang == spec
    assert spec.is_elastic == (size == (2, 8))


@pytest.mark.parametrize("size", [0, -1, True, 1.5, "4", (4, 2), (0, 2), (1, 2, 3), (1,), None, 100_000])
def test_a_malformed_size_is_refused_with_an_example(size: Any) -> None:
    with pytest.raises(stoker.InvalidOption, match=r"Gang\(size=\(2, 8\)\)"):
        stoker.Gang(size=size)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"concurrency": 2}, "concurrency=2"),
        ({"recycle_after": 3}, "recycle_after"),
        ({"min_workers": 2}, "min_workers=2"),
        ({"max_workers": 6}, "multiple of 4"),
        ({"buffer_workers": 1}, "buffer_workers=1"),
        ({"gang": stoker.Gang(size=(2, 4)), "lost_retries": 0}, "lost_retries=0"),
        ({"gang": 4}, r"stoker\.Gang\(size=4\)"),
    ],
)
def test_what_does_not_go_with_a_gang_is_an_error_at_definition(options: dict[str, Any], named: str) -> None:
    with pytest.raises(stoker.InvalidOption, match=named):
        FunctionOptions.of({"gang": stoker.Gang(size=4), **options})


def test_whole_gangs_may_be_kept_warm() -> None:
    spec = FunctionOptions(gang=stoker.Gang(size=4), min_workers=4, max_workers=8).to_spec()
    assert (spec.min_workers, spec.max_workers) == (4, 8)


def test_a_generator_cannot_be_a_gang() -> None:
    app = stoker.App("gangs")

    def items() -> Iterator[int]:
        yield 1

    with pytest.raises(stoker.InvalidOption, match="generator"):
        app.function(gang=stoker.Gang(size=2))(items)
    plain = app.function(items)
    with pytest.raises(stoker.InvalidOption, match="generator"):
        plain.with_options(gang=stoker.Gang(size=2))


def test_a_rank_knows_the_others() -> None:
    call = CurrentCall("c-1.1", 3)
    call.seat = GangSeat("g1", 2, ["a:1", "a:2", "b:3", "b:4"], ["n1", "n1", "n2", "n2"])
    enter_only_call(call)
    try:
        info = stoker.gang_info()
    finally:
        enter_only_call(None)
    assert info == stoker.GangInfo(2, 4, ("a:1", "a:2", "b:3", "b:4"), "a", 1, 0, 2, 1, 3)


def test_outside_of_a_gang_nothing_is_known() -> None:
    with pytest.raises(stoker.InvalidRequest, match=r"gang=stoker\.Gang"):
        stoker.gang_info()
