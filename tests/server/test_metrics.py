"""What is counted, and as whose; and that what is written can be read by Prometheus."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as prometheus_text

from stoker.core.calls import Call, Delivery, Result, stoker_error
from stoker.core.commands import TellRefused
from stoker.core.placement import Capacity
from stoker.core.pools import Pool, Worker, WorkerState
from stoker.core.state import State
from stoker.engine import base as engine
from stoker.protocol.messages import ChannelUsed, Results
from stoker.server.metrics import tally as tallies
from stoker.server.metrics.exposition import written
from stoker.server.metrics.families import families
from stoker.server.metrics.histograms import SECONDS, Histogram
from stoker.server.metrics.tally import ELSE, UNKNOWN, Labels, OfVersion, Tally
from stoker.types import CodeRef, ErrorInfo, FunctionSpec, ImageSpec, MethodSpec, Outcome

PAGE = (Path(__file__).parent.parent.parent / "docs" / "metrics.md").read_text()


@dataclass
class FakeServer:
    """As much of a server as is counted."""

    state: State = field(default_factory=State)
    at: float = 100.0
    epoch: int = 3
    wall_offset: float = 0.0

    def __post_init__(self) -> None:
        self.plane = SimpleNamespace(state=self.state)
        self.engine = SimpleNamespace(name="local")
        self.links: set[Any] = set()
        self.spans: Any = None
        self.callbacks = range(4)
        self.tally = Tally(self)  # type: ignore[arg-type]

    def now(self) -> float:
        return self.at

    def pool(self, name: str = "f", **more: Any) -> Pool:
        spec = FunctionSpec("shop", name, CodeRef("shop", name), ImageSpec("3.12"), **more)
        return self.state.pools.setdefault(spec.key, Pool(spec.key, spec))

    def worker(self, pool: Pool, name: str = "w1", *, ordered: float = 90.0) -> Worker:
        worker = Worker(name, pool, node="n", capacity=Capacity(1.0, 0), now=ordered)
        self.state.workers[name] = pool.workers[name] = worker
        return worker


class FakeDoor:
    @property
    def lag(self) -> float:
        return 0.25

    @property
    def refused(self) -> dict[int, int]:
        return {431: 2}

    def __len__(self) -> int:
        return 7


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


def read(server: FakeServer) -> dict[str, float]:
    """Return every sample of our own, as ``name{label="value"}``, without empty labels and buckets."""
    text, media_type = written(families(server, FakeDoor()), "")  # type: ignore[arg-type]
    assert media_type.startswith("text/plain")
    found: dict[str, float] = {}
    for family in prometheus_text(text.decode()):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()) if v)
            if not sample.name.endswith(("_bucket", "_created")):
                found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def ended(pool: Pool, result: Result, *, method: str = "", created: float = 90.0, leased: float = 96.0) -> Delivery:
    call = Call("c-1.1", pool, "c", b"", created, method=method)
    call.attempt, call.leased_at = 1, leased
    return Delivery(call.id, result, 1, call)


# Calls


def test_calls_are_counted_by_how_they_ended_and_how_long_they_took(server: FakeServer) -> None:
    pool = server.pool()
    server.tally.delivered([ended(pool, Result(Outcome.VALUE, seconds=3.5))] * 2, now=100.0)
    found = read(server)
    assert found["stoker_calls_total{app=shop,function=f,outcome=succeeded}"] == 2
    assert found["stoker_call_attempts_total{app=shop,function=f}"] == 2
    assert found["stoker_call_duration_seconds_sum{app=shop,function=f}"] == 20.0
    assert found["stoker_call_queue_seconds_sum{app=shop,function=f}"] == 12.0
    assert found["stoker_call_execution_seconds_sum{app=shop,function=f}"] == 7.0


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        (Result(Outcome.ERROR, error=ErrorInfo("builtins.ValueError", "no")), "failed"),
        (Result(Outcome.ERROR, error=ErrorInfo("mine.WorkerLost", "the user's own")), "failed"),
        (Result(Outcome.UNSENDABLE, error=stoker_error("SerializationError", "no")), "failed"),
        (Result(Outcome.ERROR, error=stoker_error("WorkerLost", "no")), "worker_lost"),
        (Result(Outcome.ERROR, error=stoker_error("DeadlineExceeded", "no")), "deadline"),
        (Result(Outcome.ERROR, error=stoker_error("StartupError", "no")), "not_started"),
        (Result(Outcome.TIMEOUT, error=stoker_error("CallTimeout", "no")), "timeout"),
        (Result(Outcome.MEMORY, error=stoker_error("OutOfMemory", "no")), "out_of_memory"),
        (Result(Outcome.CANCELLED, error=stoker_error("CallCancelled", "no")), "cancelled"),
    ],
)
def test_how_a_call_ended_is_one_of_a_few_words(server: FakeServer, result: Result, outcome: str) -> None:
    server.tally.delivered([ended(server.pool(), result)], now=100.0)
    assert read(server)[f"stoker_calls_total{{app=shop,function=f,outcome={outcome}}}"] == 1


def test_methods_of_a_class_are_apart_and_its_pools_together(server: FakeServer) -> None:
    small, large = (server.pool("Model", kind="class", parameters={"size": size}) for size in ("s", "l"))
    for pool in (small, large):
        server.tally.delivered([ended(pool, Result(Outcome.VALUE), method="predict")], now=100.0)
    server.tally.delivered([ended(small, Result(Outcome.VALUE), method="train")], now=100.0)
    found = read(server)
    assert found["stoker_calls_total{app=shop,function=Model,method=predict,outcome=succeeded}"] == 2
    assert found["stoker_calls_total{app=shop,function=Model,method=train,outcome=succeeded}"] == 1
    assert found["stoker_running_calls{app=shop,function=Model}"] == 0


def test_what_is_told_again_from_the_store_is_not_counted_again(server: FakeServer) -> None:
    server.tally.delivered([Delivery("c-1.1", Result(Outcome.VALUE), 1)], now=100.0)
    assert not any(name.startswith("stoker_calls_total") for name in read(server))


def test_of_a_call_that_was_tried_again_its_last_wait_counts(server: FakeServer) -> None:
    delivery = ended(server.pool(), Result(Outcome.VALUE), created=10.0, leased=96.0)
    assert delivery.call is not None
    delivery.call.note(50.0, "failed", "attempt 1")
    delivery.call.not_before = 93.0
    server.tally.delivered([delivery], now=100.0)
    assert read(server)["stoker_call_queue_seconds_sum{app=shop,function=f}"] == 3.0


def test_calls_by_a_lent_worker_count_as_well(server: FakeServer) -> None:
    pool = server.pool("Model", kind="class", methods={"predict": MethodSpec()})
    used = ChannelUsed("w1.1", ["a", "b"], [0, 1], [0.25, 0.5], [1.0, 2.0], methods=["predict", "not one of its own"])
    server.tally.used(used, pool)
    found = read(server)
    assert found["stoker_calls_total{app=shop,function=Model,method=predict,outcome=succeeded}"] == 1
    assert found["stoker_calls_total{app=shop,function=Model,outcome=failed}"] == 1
    assert found["stoker_call_execution_seconds_sum{app=shop,function=Model}"] == 0.5


def test_batches_are_counted_once_each(server: FakeServer) -> None:
    pool = server.pool()
    for name in ("c.1", "c.2", "c.3"):
        server.state.calls[name] = Call(name, pool, "c", b"", 1.0)
    server.tally.batched(Results(1, ["c.1", "c.2", "c.3", "gone"], [0] * 4, [0] * 4, batches=[2, 0, 1, 9]))
    found = read(server)
    assert found["stoker_batch_size_count{app=shop,function=f}"] == 2
    assert found["stoker_batch_size_sum{app=shop,function=f}"] == 3


def test_refusals_say_why(server: FakeServer) -> None:
    pool = server.pool()
    full = stoker_error("Overloaded", "full", {"retry_after": 1.0, "reason": "queue_full"})
    server.tally.refused(TellRefused("c", ["a", "b"], full, pool.key))
    server.tally.refused(TellRefused("c", ["a"], stoker_error("NotFound", "what?"), "nobody's"))
    found = read(server)
    assert found["stoker_calls_refused_total{app=shop,function=f,reason=queue_full}"] == 2
    assert found["stoker_calls_refused_total{function=(unknown),reason=unknown_function}"] == 1


# Cardinality


def test_past_so_many_functions_the_rest_is_counted_together(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tallies, "FUNCTIONS_MAX", 3)
    monkeypatch.setattr(tallies, "POOLS_MAX", 4)
    for i in range(10):
        server.tally.delivered([ended(server.pool(f"f{i}"), Result(Outcome.VALUE))] * 2, now=100.0)
        server.tally.answered(Labels("shop", f"f{i}"), 200, 0.5)
    assert set(server.tally.calls) == {Labels("shop", "f0"), Labels("shop", "f1"), Labels("shop", "f2"), ELSE}
    assert len(server.tally.requests) == 4
    found = read(server)
    assert found["stoker_calls_total{function=(others),outcome=succeeded}"] == 14
    assert found["stoker_calls_total{app=shop,function=f0,outcome=succeeded}"] == 2


# Versions


def versions_in(found: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in found.items() if name.startswith("stoker_version_calls_total")}


def test_a_canary_is_told_from_the_current_version(server: FakeServer) -> None:
    current, canary = server.pool(version=7), server.pool(version=8)
    failed = Result(Outcome.ERROR, error=ErrorInfo("builtins.ValueError", "no"))
    server.tally.delivered([ended(current, Result(Outcome.VALUE))] * 3, now=100.0)
    server.tally.delivered([ended(canary, failed), ended(canary, Result(Outcome.VALUE))], now=100.0)
    server.tally.used(ChannelUsed("w1.1", ["a"], [0], [0.25], [1.0]), canary)
    found = read(server)
    assert versions_in(found) == {
        "stoker_version_calls_total{app=shop,function=f,outcome=succeeded,version=7}": 3,
        "stoker_version_calls_total{app=shop,function=f,outcome=failed,version=8}": 1,
        "stoker_version_calls_total{app=shop,function=f,outcome=succeeded,version=8}": 2,
    }
    assert found["stoker_version_call_duration_seconds_sum{app=shop,function=f,version=8}"] == 20.25
    assert found["stoker_calls_total{app=shop,function=f,outcome=succeeded}"] == 5


def test_requests_are_told_by_version_where_they_are_said_to_be(server: FakeServer) -> None:
    for version, status in [("7", 200), ("8", 200), ("8", 503), ("8", 503)]:
        server.tally.answered(Labels("shop", "f"), status, 0.5)
        server.tally.answered_by(OfVersion("shop", "f", "", version), status)
    server.tally.answered(Labels("shop", "f"), 200, 0.5)
    found = read(server)
    assert {name: value for name, value in found.items() if name.startswith("stoker_version_")} == {
        "stoker_version_http_requests_total{app=shop,function=f,status=200,version=7}": 1,
        "stoker_version_http_requests_total{app=shop,function=f,status=200,version=8}": 1,
        "stoker_version_http_requests_total{app=shop,function=f,status=503,version=8}": 2,
    }
    assert found["stoker_http_requests_total{app=shop,function=f,status=200}"] == 3


def test_runs_have_no_versions(server: FakeServer) -> None:
    server.tally.delivered([ended(server.pool(run_id="r1"), Result(Outcome.VALUE))] * 2, now=100.0)
    assert not versions_in(read(server))


def test_versions_that_are_over_leave_no_series_and_begin_anew_when_they_come_back(server: FakeServer) -> None:
    for version in range(1, 50):
        pool = server.pool(version=version)
        server.tally.delivered([ended(pool, Result(Outcome.VALUE))], now=server.at)
        assert len(versions_in(read(server))) <= 1 + tallies.VERSION_KEPT_SECONDS / 60.0 + 1
        server.at += 60.0
        del server.state.pools[pool.key]
    read(server)
    server.at += tallies.VERSION_KEPT_SECONDS
    assert not versions_in(read(server))
    server.tally.delivered([ended(server.pool(version=1), Result(Outcome.VALUE))], now=server.at)
    server.at += 2 * tallies.VERSION_KEPT_SECONDS
    assert list(versions_in(read(server)).values()) == [1], "it is there, however long nobody calls it"


def test_versions_are_bounded_also_where_nobody_reads(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tallies, "VERSIONS_MAX", 3)
    for version in range(1, 10):
        server.tally.delivered([ended(server.pool(version=version), Result(Outcome.VALUE))], now=100.0)
    assert len(server.tally.versions) == 4
    assert read(server)["stoker_version_calls_total{function=(others),outcome=succeeded}"] == 6


# Requests


def test_requests_are_counted_by_place_and_status(server: FakeServer) -> None:
    for status in (200, 200, 503):
        server.tally.answered(Labels("shop", "f"), status, 0.125)
    server.tally.answered(UNKNOWN, 404, 0.001)
    found = read(server)
    assert found["stoker_http_requests_total{app=shop,function=f,status=200}"] == 2
    assert found["stoker_http_requests_total{app=shop,function=f,status=503}"] == 1
    assert found["stoker_http_requests_total{function=(unknown),status=404}"] == 1
    assert found["stoker_http_requests_total{function=(malformed),status=431}"] == 2
    assert found["stoker_http_request_duration_seconds_sum{app=shop,function=f}"] == 0.375
    assert found["stoker_http_connections{}"] == 7
    assert found["stoker_event_loop_lag_seconds{}"] == 0.25


def test_callbacks_are_counted_by_what_came_of_each_try(server: FakeServer) -> None:
    server.tally.callbacks["put_off"] += 2
    found = read(server)
    assert found["stoker_callbacks_total{outcome=put_off}"] == 2
    assert found["stoker_open_callbacks{}"] == 4


# Workers


@pytest.mark.parametrize(
    ("phases", "how", "cause"),
    [
        ([], "fork", "fork"),
        (["starting"], "fork", "zygote"),
        (["building", "starting"], "fork", "build"),
        ([], "fresh", "fresh"),
    ],
)
def test_starts_say_what_they_had_to_begin_with(server: FakeServer, phases: list[str], how: str, cause: str) -> None:
    worker = server.worker(server.pool(), ordered=98.5)
    for phase in phases:
        server.tally.engine_event(engine.PhaseChanged("w1", phase))
        worker.phase = phase
    server.tally.engine_event(engine.WorkerUp("w1", 1, how))
    server.tally.connecting("w1")
    worker.state = WorkerState.AWAY
    server.tally.connecting("w1")  # it comes back
    assert read(server)[f"stoker_worker_start_seconds_sum{{app=shop,cause={cause},function=f}}"] == 1.5
    assert read(server)[f"stoker_worker_start_seconds_count{{app=shop,cause={cause},function=f}}"] == 1


def test_ends_say_why_and_those_that_were_asked_for_are_told_apart(server: FakeServer) -> None:
    pool = server.pool()
    for name, state in (("w1", WorkerState.READY), ("w2", WorkerState.DRAINING), ("w3", WorkerState.READY)):
        server.worker(pool, name).state = state
    server.tally.engine_event(engine.WorkerDown("w1", "signal", "killed"))
    server.tally.engine_event(engine.WorkerDown("w2", "exit", "done"))
    server.tally.engine_event(engine.WorkerDown("nobody", "exit", "done"))
    for name in ("w1", "w2"):
        del server.state.workers[name]
    server.tally.engine_event(engine.NodeGone("n", "past its lease"))
    found = read(server)
    assert found["stoker_worker_exits_total{app=shop,cause=signal,function=f}"] == 1
    assert found["stoker_worker_exits_total{app=shop,cause=stopped,function=f}"] == 1
    assert found["stoker_worker_exits_total{app=shop,cause=node,function=f}"] == 1


def test_starts_that_fail_count_unless_they_were_called_off_or_are_tried_again(server: FakeServer) -> None:
    pool = server.pool()
    worker = server.worker(pool)
    server.tally.engine_event(engine.StartRefused("w1", ErrorInfo("Overloaded", "later"), retry=True))
    server.tally.engine_event(engine.StartRefused("w1", ErrorInfo("StartupError", "no")))
    worker.state = WorkerState.STOPPING
    server.tally.engine_event(engine.StartRefused("w1", ErrorInfo("StartupError", "called off")))
    pool.bad_starts, pool.start_after = 4, 102.0
    found = read(server)
    assert found["stoker_worker_start_failures_total{app=shop,function=f}"] == 1
    assert found["stoker_failing_starts{app=shop,function=f}"] == 4
    assert found["stoker_start_pause_seconds{app=shop,function=f}"] == 2.0


def test_workers_and_queues_are_as_they_are_now(server: FakeServer) -> None:
    pool = server.pool()
    server.worker(pool, "w1")
    server.worker(pool, "w2").state = WorkerState.READY
    server.worker(pool, "w3").state = WorkerState.READY
    pool.workers["w3"].leased["c.1"] = Call("c.1", pool, "c", b"", 1.0)
    pool.queue.push(Call("c.2", pool, "c", b"", 1.0))
    pool.backoff = 2
    found = read(server)
    states = ("starting", "idle", "busy", "away")
    counts = [found[f"stoker_workers{{app=shop,function=f,state={state}}}"] for state in states]
    assert counts == [1, 1, 1, 0]
    assert found["stoker_queue_calls{app=shop,function=f,state=queued}"] == 1
    assert found["stoker_queue_calls{app=shop,function=f,state=backoff}"] == 2
    assert found["stoker_running_calls{app=shop,function=f}"] == 1


# As text


def test_labels_are_escaped_and_both_formats_can_be_read(server: FakeServer) -> None:
    server.tally.answered(Labels('a "b"', "c\\d\ne"), 200, 0.5)
    accept = "application/openmetrics-text;version=1.0.0"
    text, media_type = written(families(server, FakeDoor()), accept)  # type: ignore[arg-type]
    assert media_type.startswith("application/openmetrics-text")
    read_back: Any = open_metrics
    found = {family.name: family.samples for family in read_back(text.decode())}
    labels = [sample.labels for sample in found["stoker_http_requests"]]
    assert {"app": 'a "b"', "function": "c\\d\ne", "method": "", "status": "200"} in labels
    assert {"process_resident_memory_bytes", "stoker_info"} <= found.keys()


@given(st.lists(st.floats(0, 1e5)))
def test_a_histogram_counts_each_value_in_every_bucket_that_holds_it(values: list[float]) -> None:
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    upto = [count for _, count in histogram.read().upto]
    assert upto == [sum(1 for v in values if v <= bound) for bound in (*SECONDS, float("inf"))]
    assert histogram.count == len(values)
    assert histogram.read().total == pytest.approx(sum(values))


def test_the_page_names_every_metric_with_its_type_and_labels(server: FakeServer) -> None:
    rows = re.findall(r"^\| `(stoker_\w+)` \| (\w+).*? \| (.*?) \|", PAGE, flags=re.M)
    told = {name.removesuffix("_total"): (kind, labels) for name, kind, labels in rows}
    found = families(server, FakeDoor())  # type: ignore[arg-type]
    assert told.keys() == {family.name for family in found}
    for family in found:
        kind, labels = told[family.name]
        assert kind == family.kind, family.name
        wanted = [label for label in family.labels if label not in {"app", "function"}]
        assert re.findall(r"`(\w+)`", labels) == wanted, family.name
        assert ("none" in labels or "only" in labels) == (family.labels[:2] != ("app", "function")), family.name
