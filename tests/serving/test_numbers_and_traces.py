"""A server that shows its numbers and sends traces, as whoever watches it sees it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import NamedTuple

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.serving.collector import Collector, collecting
from tests.serving.running import Serving, serving
from tests.waiting import wait_until

APP = """
import os

import stoker

app = stoker.App("watched")


@app.function()
@stoker.endpoint(method="GET", requires_token=False)
def told(request: stoker.Request) -> dict[str, object]:
    info = stoker.call_info()
    headers = {name: request.headers.get(name) for name in ("traceparent", "tracestate", "x-request-id")}
    return {"call": info.id, "trace": info.traceparent, **headers, "below": below.remote()}


@app.function()
def below() -> str:
    return stoker.call_info().traceparent


@app.function(max_workers=1)
@stoker.endpoint(method="GET", requires_token=False)
def dies_once() -> int:
    attempt = stoker.call_info().attempt
    if attempt == 1:
        os.kill(os.getpid(), 9)
    return attempt


@app.cls()
class Model:
    @stoker.method(batch=stoker.Batch(max_size=4, max_wait="1ms"))
    @stoker.endpoint(method="GET", requires_token=False)
    def predict(self, x: list[int]) -> list[int]:
        if x == [13]:
            raise ValueError("no")
        print("predicted")
        return x
"""
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


class Watched(NamedTuple):
    served: Serving
    collector: Collector

    def numbers(self) -> dict[str, float]:
        """Return what `/metrics` says, as ``name{label=value}`` without what is empty."""
        # Who asks for the same form within half a second is told the same: after another form it is written anew.
        for accept in ("application/openmetrics-text", "text/plain"):
            page = httpx.get(f"{self.served.url}/metrics", headers={"accept": accept}, timeout=60)
        text = page.raise_for_status().text
        return {
            f"{sample.name}{{{','.join(f'{k}={v}' for k, v in sorted(sample.labels.items()) if v)}}}": sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    otel = {name: "" for name in os.environ if name.startswith("OTEL_")}
    with collecting() as collector:
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
        with serving(**otel, **settings, STOKER_TRACES="otlp", STOKER_METRICS_PUBLIC="yes") as served:
            served.deploy(APP, "watched")
            yield Watched(served, collector)


def test_a_request_its_call_and_what_that_calls_are_one_trace(watched: Watched) -> None:
    asked = {"traceparent": PARENT, "tracestate": "a=b", "x-request-id": "order-7"}
    answer = httpx.get(f"{watched.served.url}/watched/told", headers=asked, timeout=60)
    told, collector = answer.json(), watched.collector
    assert answer.headers["x-request-id"] == told["x-request-id"] == "order-7"
    assert answer.headers["x-stoker-call-id"] == told["call"]
    assert answer.headers["traceparent"] == told["traceparent"] == told["trace"] == told["below"]
    assert told["traceparent"].startswith(f"00-{TRACE}-")
    assert told["tracestate"] == "a=b"

    wanted = {"GET /watched/told", "call watched.told", "call watched.below", "queue", "start worker", "run"}
    wait_until(lambda: wanted <= collector.of(TRACE).keys())
    spans = collector.of(TRACE)
    request = spans["GET /watched/told"]
    assert request.parent_span_id.hex() == "b7ad6b7169203331"
    assert request.span_id.hex() == told["traceparent"].split("-")[2]
    for name in ("call watched.told", "call watched.below"):
        assert spans[name].parent_span_id == request.span_id
    assert {service for service, _ in collector.spans} == {"stoker"}


def test_the_trace_of_a_request_is_kept_with_its_call(watched: Watched) -> None:
    answer = httpx.get(f"{watched.served.url}/watched/told", timeout=60)
    assert answer.json()["trace"] == answer.headers["traceparent"]
    said = watched.served.stoker("calls", "show", answer.headers["x-stoker-call-id"])
    assert "watched.told" in said
    assert answer.headers["traceparent"].split("-")[1] in said


def test_calls_of_a_class_say_their_method(watched: Watched) -> None:
    with httpx.Client(base_url=watched.served.url, timeout=60) as client:
        assert client.get("/watched/Model/predict", params={"x": 1}).json() == 1
        later = client.get("/watched/Model/predict", params={"x": 2}, headers={"prefer": "respond-async"})
        state = later.headers["location"]
        wait_until(lambda: client.get(state).json()["state"] == "succeeded")
        assert client.get(state).json()["function"] == "watched.Model.predict"
        failed = client.get("/watched/Model/predict", params={"x": 13}).json()["error"]
    listed = json.loads(watched.served.stoker("calls", "list", "--function", "Model.predict", "--json"))
    assert {row["function"] for row in listed} == {"watched.Model.predict"}
    assert {failed["call_id"], state.rpartition("/")[2]} <= {row["id"] for row in listed}
    assert "watched.Model.predict | predicted" in watched.served.stoker("logs", "--function", "Model")

    found = watched.numbers()
    of_method = "app=watched,function=Model,method=predict"
    assert found[f"stoker_calls_total{{{of_method},outcome=succeeded}}"] == 2
    assert found[f"stoker_calls_total{{{of_method},outcome=failed}}"] == 1
    assert found[f"stoker_http_requests_total{{{of_method},status=500}}"] == 1
    assert found[f"stoker_batch_size_count{{{of_method}}}"] == 3
    assert found[f"stoker_call_queue_seconds_count{{{of_method}}}"] == 3
    assert found["stoker_worker_start_seconds_count{app=watched,cause=zygote,function=Model}"] == 1
    assert found["stoker_workers{app=watched,function=Model,state=idle}"] == 1
    assert found["process_resident_memory_bytes{}"] > 0


def test_a_worker_that_dies_is_seen_in_numbers_and_spans(watched: Watched) -> None:
    answer = httpx.get(f"{watched.served.url}/watched/dies_once", timeout=60)
    assert answer.json() == 2
    found = watched.numbers()
    assert found["stoker_worker_exits_total{app=watched,cause=signal,function=dies_once}"] == 1
    assert found["stoker_calls_total{app=watched,function=dies_once,outcome=succeeded}"] == 1
    assert found["stoker_call_attempts_total{app=watched,function=dies_once}"] == 2
    starts = [n for name, n in found.items() if name.startswith("stoker_worker_start_seconds_count") and "dies" in name]
    assert sum(starts) == 2
    trace = answer.headers["traceparent"].split("-")[1]
    wait_until(
        lambda: [span.name for _, span in watched.collector.spans if span.trace_id.hex() == trace].count("run") == 2
    )


def places(numbers: dict[str, float]) -> set[str]:
    """Return where requests have led, as the numbers of requests have it."""
    return {name.partition(",status=")[0] for name in numbers if name.startswith("stoker_http_requests_total{")}


def test_paths_that_lead_nowhere_are_one_series_however_many(watched: Watched) -> None:
    before: set[str] = set()
    with httpx.Client(base_url=watched.served.url, timeout=60) as client:
        for i in range(300):
            if i == 5:  # of each kind one: whichever tests came before
                before = places(watched.numbers())
            path = (f"/nowhere/{i}", f"/{i}", f"/{i}/docs", f"/watched/{i}/x", f"/v1/calls/{i}")[i % 5]
            assert client.get(path).status_code == 404
            assert client.get("/healthz", headers={"x-request-id": f"{i}"}).headers["x-request-id"] == f"{i}"
    found = watched.numbers()
    assert found["stoker_http_requests_total{function=(unknown),status=404}"] == 180
    assert places(found) == before
    assert not any("nowhere" in name for name in found)


def test_a_scraper_may_ask_for_open_metrics(watched: Watched) -> None:
    accept = {"accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
    answer = httpx.get(f"{watched.served.url}/metrics", headers=accept, timeout=60)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")
    assert httpx.post(f"{watched.served.url}/metrics", timeout=60).status_code == 405
