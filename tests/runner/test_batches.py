"""How the results of a batch go out, and which calls are of one batch."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from stoker.protocol.messages import Lease, Revoke
from stoker.protocol.payload import encode_call
from stoker.protocol.web_calls import WebRequest, encode_request
from stoker.runner.attempts import Attempt
from stoker.runner.batches import Batches, Gathering, Group
from stoker.runner.callables import Target
from stoker.runner.interrupts import Interrupt
from stoker.runner.patience import Patience
from stoker.types import BatchSpec, MethodSpec, Outcome, WebSpec
from tests.runner.harness import Connection, Stage, eventually

QUICK, SMALL = BatchSpec(max_size=8, max_wait=0.0), BatchSpec(max_size=2, max_wait=0.0)
CLASS: dict[str, Any] = {
    "kind": "class",
    "batch": QUICK,
    "methods": {
        "quick": MethodSpec(batch=QUICK),
        "small": MethodSpec(batch=SMALL),
        "gated": MethodSpec(batch=QUICK),
        "slow": MethodSpec(),
    },
}
MIXED = """
    import os, time

    class f:
        def quick(self, x):
            return [x for _ in x]

        def small(self, x):
            return [x for _ in x]

        def gated(self, x, gate=("",)):
            deadline = time.monotonic() + 20
            while gate[0] and not os.path.exists(gate[0]) and time.monotonic() < deadline:
                time.sleep(0.005)
            return x

        def slow(self, seconds):
            time.sleep(seconds)
            return seconds
"""


def lease(worker: Connection, *calls: tuple[str, object]) -> None:
    """Lease calls of methods, c0 and on, in one message, as a server does that knows that they are of several."""
    bodies = [encode_call((method, value), {}).to_bytes() for method, value in calls]
    ids, methods = [f"c{n}" for n in range(len(calls))], [method for method, _ in calls]
    worker.lease.send(Lease(ids, [1] * len(ids), [len(body) for body in bodies], methods=methods), bodies)


def attempts(count: int) -> list[Attempt]:
    return [Attempt(f"c{n}", 1, memoryview(b""), None, 0) for n in range(count)]


class Worker:
    """What `Batches` needs of one; ``reported`` has the ids of each piece."""

    def __init__(self) -> None:
        self.config = SimpleNamespace(batch=BatchSpec(max_size=64, max_wait=0.0), label="f", methods={})
        self.reports = SimpleNamespace(encode_result=lambda attempt, value: b"%d" % value)
        self.reported: list[list[str]] = []

    def finish_all(self, encoded: list[tuple[Attempt, Any]]) -> None:
        self.reported.append([attempt.id for attempt, _ in encoded])


@pytest.mark.parametrize("count", [1, 15, 16, 17, 32, 37])
def test_results_go_piece_by_piece_and_no_piece_is_empty(count: int) -> None:
    worker: Any = Worker()
    group = Group(Target(list), (0, ()))
    group.attempts = attempts(count)
    for _ in Batches(worker).ending(group, list(range(count)), every=16):
        pass
    assert [call for piece in worker.reported for call in piece] == [attempt.id for attempt in group.attempts]
    assert [len(piece) for piece in worker.reported] == [min(16, count - done) for done in range(0, count, 16)]


def test_who_sends_what_came_of_a_batch_has_a_turn_also_where_that_is_no_result() -> None:
    worker, ended = Worker(), []
    worker.reports.of_error = lambda attempt, error: error
    worker.finish = lambda attempt, report, flush: ended.append(attempt.id)  # type: ignore[attr-defined]
    group = Group(Target(list), (0, ()))
    group.attempts = attempts(2)
    turns = [list(ended) for _ in Batches(worker).ending(group, [1, 2, 3], every=16)]  # type: ignore[arg-type]
    assert turns[-1] == ["c0", "c1"]


def test_calls_of_one_shape_are_one_group_and_others_are_looked_at() -> None:
    spec = BatchSpec(max_size=8, max_wait=0.0)
    target, other = Target(max, batch=spec), Target(min, batch=spec)
    one, two, three = attempts(3)
    found = Group.of_all([(one, (target, (1,), {"x": 2, "y": 3})), (two, (target, (4,), {"y": 6, "x": 5}))])
    assert found is not None and found.attempts == [one, two]
    assert found.args == [[1, 4]] and found.kwargs == {"x": [2, 5], "y": [3, 6]}
    for different in [(other, (1,), {"x": 1, "y": 2}), (target, (), {"x": 1, "y": 2}), (target, (1,), {"x": 1})]:
        assert Group.of_all([(one, (target, (1,), {"x": 2, "y": 3})), (three, different)]) is None
    assert Group.of_all([]) is None
    assert Group.of_all([(one, (Target(max), (1,), {}))]) is None, "it is not batched"


def test_of_a_class_a_batch_is_of_one_method_and_of_its_size_and_others_run_alone(stage: Stage) -> None:
    worker = stage.worker(MIXED, **CLASS, timeout=1.0)
    lease(worker, ("slow", 0.7), ("quick", 1), ("slow", 0.7), ("quick", 2), ("small", 3), ("small", 4), ("small", 5))
    found = [worker.result(f"c{n}") for n in range(7)]
    assert [done.outcome for done in found] == [Outcome.VALUE] * 7, "none has waited in its own time"
    assert [done.value for done in found] == [0.7, [1, 2], 0.7, [1, 2], [3, 4], [3, 4], [5]]


def test_what_has_ended_is_told_before_the_next_of_the_same_batch_runs(stage: Stage) -> None:
    """Of one method, and given other arguments, so that they are called one after the other."""
    worker = stage.worker(MIXED, **CLASS)
    bodies = [encode_call(("gated",), {"x": 1}).to_bytes(), encode_call(("gated",), {"x": 2, "gate": "go"}).to_bytes()]
    worker.lease.send(Lease(["a", "b"], [1, 1], [len(x) for x in bodies], methods=["gated"] * 2), bodies)
    assert worker.result("a").value == 1, "while the other one runs"
    (stage.directory / "go").touch()
    assert worker.result("b").value == 2


@pytest.mark.parametrize("by", ["cancel", "timeout"])
def test_an_end_that_comes_while_inputs_are_read_is_heard(stage: Stage, by: str) -> None:
    source = """
        import os, time
        from dataclasses import dataclass

        @dataclass
        class Slow:
            x: int
            def __post_init__(self):
                open("reads", "w").close()
                deadline = time.monotonic() + 20
                while not os.path.exists("go") and time.monotonic() < deadline:
                    time.sleep(0.005)

        def f(x: list[Slow]):
            time.sleep(20)
            return [each.x for each in x]
    """
    options: dict[str, Any] = {"batch": BatchSpec(max_size=1, max_wait=0.0), "web": WebSpec(methods=["POST"])}
    worker = stage.worker(source, **options, timeout=0.2 if by == "timeout" else 60.0)
    body = encode_request(WebRequest("POST", headers=[("content-type", "application/json")]), body=b'{"x": 1}')
    worker.lease.send(Lease(["a"], [1], [len(body)]), [body])
    eventually((stage.directory / "reads").exists)
    if by == "cancel":
        worker.cancel("a", grace=30.0)
    time.sleep(0.5)  # for it to have come: nothing tells that it has
    (stage.directory / "go").touch()
    assert worker.result("a").outcome is (Outcome.CANCELLED if by == "cancel" else Outcome.TIMEOUT)


def test_who_has_given_up_is_not_gathered_for() -> None:
    spec = BatchSpec(max_size=4, max_wait=60.0)
    desk = SimpleNamespace(draining=False, waiting=[])
    worker: Any = SimpleNamespace(desk=desk, take_more=lambda count, *, method: [])
    first, second = attempts(2)
    gathering = Gathering(worker, first, size=4, patience=Patience(spec))
    gathering.found.append(second)
    assert gathering.look(100.0) == 60.0
    first.interrupt = Interrupt.CANCEL
    assert gathering.look(101.0) == 59.0, "the other one waits on"
    second.interrupt = Interrupt.TIMEOUT
    assert gathering.look(102.0) == 0.0


def test_a_batch_waits_for_nobody_while_a_call_of_another_method_does() -> None:
    desk = SimpleNamespace(draining=False, waiting=["a call"])
    worker: Any = SimpleNamespace(desk=desk, take_more=lambda count, *, method: [])
    (first,) = attempts(1)
    gathering = Gathering(worker, first, size=4, patience=Patience(BatchSpec(max_size=4, max_wait=60.0)))
    assert gathering.look(100.0) == 0.0


@pytest.mark.parametrize("options", [{"is_async": True}, {}, {"concurrency": 2}], ids=["tasks", "inline", "threads"])
def test_one_that_is_cancelled_while_gathered_for_costs_no_other(stage: Stage, options: dict[str, Any]) -> None:
    source = "async def f(x):\n    return x\n" if options.get("is_async") else "def f(x):\n    return x\n"
    worker = stage.worker(source, **options, batch=BatchSpec(max_size=3, max_wait=60.0), timeout=60.0)
    worker.calls([("a", (1,)), ("b", (5,))])
    worker.cancel("a", grace=30.0)
    worker.control.send(Revoke(["none"], [1]))
    worker.revoked()  # the cancellation, which came before, was heard
    worker.call("c", 7)  # what the batch waits for, unless the first had gone before it was gathered
    worker.call("d", 9)
    worker.call("e", 11)
    assert worker.result("b").value == 5 and worker.result("c").value == 7
    assert worker.result("a").outcome is Outcome.CANCELLED


@pytest.mark.parametrize("options", [{"is_async": True}, {}, {"concurrency": 2}], ids=["tasks", "inline", "threads"])
def test_a_part_of_a_batch_that_nobody_wants_any_more_is_not_run(stage: Stage, options: dict[str, Any]) -> None:
    source = """
        import asyncio, os, time

        def gate(y):
            open("runs-" + y, "w").close()
            deadline = time.monotonic() + 20
            while not os.path.exists("go") and time.monotonic() < deadline:
                time.sleep(0.005)

        PREFIX f(x, y=("a",), z=None):
            AWAIT(gate, y[0])
            return x
    """
    is_async = "is_async" in options
    source = source.replace("PREFIX", "async def" if is_async else "def")
    source = source.replace("AWAIT(gate, y[0])", "await asyncio.to_thread(gate, y[0])" if is_async else "gate(y[0])")
    worker = stage.worker(source, **options, batch=BatchSpec(max_size=2, max_wait=60.0), timeout=60.0)
    given = [{"x": 1, "y": "a"}, {"x": 2, "y": "b", "z": 1}]
    bodies = [encode_call((), kwargs).to_bytes() for kwargs in given]
    worker.lease.send(Lease(["a", "b"], [1, 1], [len(body) for body in bodies]), bodies)
    eventually((stage.directory / "runs-a").exists)
    worker.cancel("b", grace=30.0)
    worker.control.send(Revoke(["none"], [1]))
    worker.revoked()
    (stage.directory / "go").touch()
    assert worker.result("a").value == 1
    assert worker.result("b").outcome is Outcome.CANCELLED
    assert not (stage.directory / "runs-b").exists()
