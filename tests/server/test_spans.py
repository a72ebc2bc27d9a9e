"""Spans: what a call's life is made of, and as a part of what."""

from __future__ import annotations

import builtins
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from stoker.core.calls import Call, Delivery, Result, stoker_error
from stoker.errors import InvalidRequest
from stoker.protocol.traces import Trace
from stoker.server.gateway.tracked import Tracked
from stoker.server.metrics.tally import Labels, Start
from stoker.server.spans import Part, Spans, open_spans, parts_of
from stoker.types import Outcome
from tests.server.test_metrics import FakeServer

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.fixture
def server() -> FakeServer:
    made = FakeServer()
    made.wall_offset = 1000.0
    return made


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    for name in ("OTEL_TRACES_SAMPLER", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    return InMemorySpanExporter()


@pytest.fixture
def spans(server: FakeServer, exported: InMemorySpanExporter) -> Spans:
    return open_spans(server, processor=SimpleSpanProcessor(exported))  # type: ignore[arg-type]


def a_call(server: FakeServer, *, trace: str = PARENT, leased: float = 96.0) -> Call:
    call = Call("c-1.1", server.pool(), "c", b"", 90.0, trace=trace)
    call.attempt, call.leased_at = 1, leased
    call.worker = server.worker(server.pool(), "w1")
    return call


# Parts


def test_a_call_waits_and_runs(server: FakeServer) -> None:
    assert parts_of(a_call(server), finished=100.0, seconds=0.0, start=None) == [
        Part("queue", 90.0, 96.0, {}),
        Part("run", 96.0, 100.0, {"stoker.worker": "w1"}),
    ]


def test_it_begins_to_run_when_its_worker_says_so(server: FakeServer) -> None:
    assert parts_of(a_call(server), finished=100.0, seconds=1.5, start=None)[1].start == 98.5


def test_the_start_of_its_worker_is_a_part_of_its_wait(server: FakeServer) -> None:
    call = a_call(server)
    whole = Start(ordered=91.0, ready=95.0, cause="zygote")
    part = Part("start worker", 91.0, 95.0, {"stoker.start.cause": "zygote"}, inside=True)
    assert parts_of(call, finished=100.0, seconds=0.0, start=whole)[1] == part
    begun_before = Start(ordered=80.0, ready=95.0, cause="build")
    assert parts_of(call, finished=100.0, seconds=0.0, start=begun_before)[1].start == 90.0
    long_ago = Start(ordered=10.0, ready=20.0, cause="fork")
    assert [part.name for part in parts_of(call, finished=100.0, seconds=0.0, start=long_ago)] == ["queue", "run"]


def test_each_attempt_waits_and_runs(server: FakeServer) -> None:
    call = a_call(server)
    call.history = [(91.0, "running", "w0"), (92.0, "lost", "attempt 1: its worker ended")]
    assert [(part.name, part.start, part.end) for part in parts_of(call, finished=100.0, seconds=0.0, start=None)] == [
        ("queue", 90.0, 91.0),
        ("run", 91.0, 92.0),
        ("queue", 92.0, 96.0),
        ("run", 96.0, 100.0),
    ]


def test_a_call_that_never_ran_has_waited(server: FakeServer) -> None:
    assert parts_of(a_call(server, leased=0.0), finished=100.0, seconds=0.0, start=None) == [
        Part("queue", 90.0, 100.0, {})
    ]


# Spans


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_a_call_is_a_part_of_its_trace(server: FakeServer, spans: Spans, exported: InMemorySpanExporter) -> None:
    call = a_call(server)
    server.tally.starts["w1"] = Start(91.0, 95.0, "zygote")
    spans.ended([Delivery(call.id, Result(Outcome.VALUE), 1, call)])
    found = {span.name: span for span in exported.get_finished_spans()}
    whole = found["call shop.f"]
    assert {f"{span.context.trace_id:032x}" for span in found.values()} == {TRACE}
    assert whole.parent is not None
    assert f"{whole.parent.span_id:016x}" == "b7ad6b7169203331"
    assert (whole.start_time, whole.end_time) == (1_090_000_000_000, 1_100_000_000_000)
    assert attributes_of(whole) == {"stoker.call_id": "c-1.1", "stoker.outcome": "succeeded", "stoker.attempts": 1}
    parents = {name: span.parent.span_id for name, span in found.items() if span.parent is not None}
    assert parents["queue"] == parents["run"] == whole.context.span_id
    assert parents["start worker"] == found["queue"].context.span_id
    assert whole.resource.attributes["service.name"] == "stoker"


def test_a_call_that_failed_says_so(server: FakeServer, spans: Spans, exported: InMemorySpanExporter) -> None:
    call = a_call(server)
    spans.ended([Delivery(call.id, Result(Outcome.ERROR, error=stoker_error("WorkerLost", "it is gone")), 1, call)])
    (whole,) = [span for span in exported.get_finished_spans() if span.name.startswith("call")]
    assert (whole.status.is_ok, whole.status.description) == (False, "it is gone")
    assert attributes_of(whole)["error.type"] == "WorkerLost"


@pytest.mark.parametrize("trace", ["", PARENT[:-1] + "0", "nonsense"])
def test_what_belongs_to_no_trace_that_is_recorded_has_no_spans(
    server: FakeServer, spans: Spans, exported: InMemorySpanExporter, trace: str
) -> None:
    call = a_call(server, trace=trace)
    told_again = Delivery("c-1.2", Result(Outcome.VALUE), 1)
    spans.ended([Delivery(call.id, Result(Outcome.VALUE), 1, call), told_again])
    assert exported.get_finished_spans() == ()


def test_of_very_many_calls_at_once_the_rest_is_left_out_and_counted(
    server: FakeServer, spans: Spans, exported: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stoker.server.spans.CALLS_PER_SECOND", 3)
    call = a_call(server)
    for server.at in (100.0, 100.5, 101.0):
        spans.ended([Delivery(call.id, Result(Outcome.VALUE), 1, call)] * 4)
    assert len([span for span in exported.get_finished_spans() if span.name.startswith("call")]) == 6
    assert spans.left_out == 6


async def _nobody(message: Any) -> None:
    raise AssertionError("nothing is sent")


def tracked(headers: list[tuple[bytes, bytes]]) -> tuple[Tracked, dict[str, Any]]:
    scope: dict[str, Any] = {"headers": headers}
    made = Tracked(scope, dict(reversed(headers)), _nobody, now=99.0)
    made.labels = Labels("shop", "Model", "predict")
    return made, scope


def test_a_request_is_a_part_of_who_asks_and_the_function_of_it(
    server: FakeServer, spans: Spans, exported: InMemorySpanExporter
) -> None:
    request, scope = tracked([(b"traceparent", PARENT.encode()), (b"tracestate", b"a=b"), (b"x-request-id", b"r-1")])
    span = spans.begin(request, method="POST", path="/shop/Model/predict")
    spans.end(span, status=503)
    (made,) = exported.get_finished_spans()
    assert made.name == "POST /shop/Model/predict"
    assert made.parent is not None
    assert f"{made.parent.span_id:016x}" == "b7ad6b7169203331"
    assert request.traceparent == str(Trace(TRACE, f"{made.context.span_id:016x}", True))
    assert (b"traceparent", request.traceparent.encode()) in scope["headers"]
    assert [name for name, _ in scope["headers"]].count(b"traceparent") == 1
    assert (b"tracestate", b"a=b") in scope["headers"]
    assert not made.status.is_ok
    told = attributes_of(made)
    assert (told["stoker.function"], told["stoker.request_id"]) == ("Model.predict", "r-1")
    assert told["http.response.status_code"] == 503


def test_a_request_that_is_a_part_of_nothing_begins_a_trace(spans: Spans, exported: InMemorySpanExporter) -> None:
    request, _ = tracked([])
    spans.end(spans.begin(request, method="GET", path="/shop/f"), status=200)
    (made,) = exported.get_finished_spans()
    assert made.parent is None
    assert request.traceparent == f"00-{made.context.trace_id:032x}-{made.context.span_id:016x}-01"


def test_what_the_sampler_leaves_out_is_handed_on_as_not_recorded(
    server: FakeServer, exported: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    spans = open_spans(server, processor=SimpleSpanProcessor(exported))  # type: ignore[arg-type]
    request, _ = tracked([])
    spans.end(spans.begin(request, method="GET", path="/shop/f"), status=200)
    assert exported.get_finished_spans() == ()
    assert request.traceparent.endswith("-00")


# What is asked for and cannot be had


def test_without_the_extra_it_is_said_what_to_install(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *more: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ImportError(f"No module named {name!r}")
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InvalidRequest, match=r"pip install 'stoker\[otel\]'"):
        open_spans(server)  # type: ignore[arg-type]


def test_another_protocol_is_refused_by_name(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(InvalidRequest, match="OTEL_EXPORTER_OTLP_PROTOCOL=grpc"):
        open_spans(server)  # type: ignore[arg-type]


# The ids of a request


def test_what_is_malformed_is_replaced_and_handed_on_no_further() -> None:
    request, scope = tracked([(b"traceparent", b"00-zz"), (b"tracestate", b"a=b"), (b"x-request-id", b"two words")])
    assert [name for name, _ in scope["headers"]] == [b"x-request-id"]
    assert scope["headers"] == [(b"x-request-id", request.request_id)]
    assert request.request_id.decode() == request.traceparent[3:35]


def test_what_is_well_formed_is_left_as_it_came() -> None:
    headers = [(b"traceparent", PARENT.encode()), (b"x-request-id", b"r-1"), (b"a", b"b")]
    request, scope = tracked(headers)
    assert scope["headers"] is headers
    assert (request.traceparent, request.request_id) == (PARENT, b"r-1")


async def test_the_answer_names_both_unless_it_does_so_itself() -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    request = Tracked({"headers": []}, {}, send, now=0.0)
    await request({"type": "http.response.start", "status": 201, "headers": [(b"x-request-id", b"its own")]})
    assert sent[0]["headers"] == [(b"x-request-id", b"its own"), (b"traceparent", request.traceparent.encode())]
    assert request.outcome == 201
