"""Which call code runs for, and which trace its own calls belong to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

import stoker
from stoker.transport.current import CurrentCall, current_trace, enter_only_call

PAGE = (Path(__file__).parent.parent.parent / "docs" / "metrics.md").read_text()
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def call() -> Iterator[CurrentCall]:
    made = CurrentCall("c-1.1", 2)
    made.trace = PARENT
    enter_only_call(made)
    yield made
    enter_only_call(None)


def test_code_knows_its_call(call: CurrentCall) -> None:
    assert stoker.call_info() == stoker.CallInfo("c-1.1", 2, PARENT)


def test_outside_of_a_call_it_says_so() -> None:
    with pytest.raises(stoker.InvalidRequest, match="outside of a call"):
        stoker.call_info()


def test_calls_belong_to_the_trace_of_their_caller_or_to_its_current_span(call: CurrentCall) -> None:
    assert current_trace() == PARENT
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    with tracer.start_as_current_span("outer") as span:
        made = span.get_span_context()
        assert current_trace() == f"00-{made.trace_id:032x}-{made.span_id:016x}-01"
    enter_only_call(None)
    assert current_trace() == ""


def test_the_functions_own_spans_go_on_where_the_page_says(call: CurrentCall, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
    found: dict[str, Any] = {"__name__": "traced"}
    exec(block, found)
    made = []

    class Tracer:
        def start_as_current_span(self, name: str, *, context: Any) -> Any:
            made.append(trace.get_current_span(context).get_span_context())
            return trace.use_span(trace.INVALID_SPAN)

    monkeypatch.setattr(trace, "get_tracer", lambda name: Tracer())
    assert found["predict"].local(3.0) == 6.0
    assert f"{made[0].span_id:016x}" == "b7ad6b7169203331"
