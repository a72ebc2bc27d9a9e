"""Inputs of the next batch are read while one runs, and are no less cancelled, given back or refused for that."""

from __future__ import annotations

import json

from stoker.protocol.messages import Drain, Lease, Revoke
from stoker.protocol.web_calls import WebRequest, decode_answer, encode_request
from stoker.types import BatchSpec, Outcome, WebSpec
from tests.runner.harness import Connection, Stage, eventually

SOURCE = """
    import gc, os, time
    from dataclasses import dataclass
    from stoker.runner.worker import Worker

    @dataclass
    class Model:
        x: int
        def __post_init__(self):
            open("made", "a").write(f"{self.x}\\n")

    def waiting():
        worker = next(each for each in gc.get_objects() if isinstance(each, Worker))
        return list(worker.desk.waiting)

    def until(check):
        deadline = time.monotonic() + 20
        while not check():
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def f(x: list[int]):
        if x[0] == 0:
            open("started", "w").close()
            until(lambda: sum(each.ahead is not None for each in waiting()) == 3)
            open("ahead", "w").close()
            until(lambda: os.path.exists("go"))
        return [2 * each for each in x]

    def g(x: list[Model]):
        if x[0].x == 0:
            open("started", "w").close()
            until(lambda: len(waiting()) == 1)
            assert open("made").read() == "0\\n"
            assert waiting()[0].ahead is None
        return [each.x for each in x]
"""


def ask(worker: Connection, **calls: object) -> None:
    headers = [("content-type", "application/json")]
    bodies = [encode_request(WebRequest("POST", headers=headers), body=json.dumps(v).encode()) for v in calls.values()]
    worker.lease.send(Lease(list(calls), [1] * len(calls), [len(body) for body in bodies], credits=[]), bodies)


def answer(worker: Connection, call_id: str) -> tuple[int, object]:
    got = decode_answer(worker.result(call_id).body)
    return got.status, json.loads(bytes(got.body))


def test_inputs_are_read_while_a_batch_runs(every_python: Stage) -> None:
    stage = every_python
    batch = BatchSpec(max_size=8, max_wait=0.0)
    worker = stage.worker(SOURCE, batch=batch, web=WebSpec(methods=["POST"]))
    ask(worker, first={"x": 0})
    eventually((stage.directory / "started").exists)
    ask(worker, dropped={"x": 1}, returned={"x": 2}, bad={"x": "one"}, good={"x": 3})
    eventually((stage.directory / "ahead").exists)
    worker.cancel("dropped")
    worker.control.send(Revoke(["returned"], [1]))
    assert worker.revoked() == ["returned"]
    (stage.directory / "go").touch()
    assert answer(worker, "first") == (200, 0)
    assert answer(worker, "good") == (200, 6)
    status, said = answer(worker, "bad")
    assert status == 422 and "$.x: expected a whole number" in str(said)
    assert worker.result("dropped").outcome is Outcome.CANCELLED
    ask(worker, after={"x": 4})
    assert answer(worker, "after") == (200, 8)
    worker.control.send(Drain())
    assert stage.agent.exited().status == 0


def test_code_of_the_users_is_not_run_beside_itself(stage: Stage) -> None:
    worker = stage.worker(SOURCE, "g", batch=BatchSpec(max_size=8, max_wait=0.0), web=WebSpec(methods=["POST"]))
    ask(worker, first={"x": 0})
    eventually((stage.directory / "started").exists)
    ask(worker, second={"x": 1})
    assert answer(worker, "first") == (200, 0) and answer(worker, "second") == (200, 1)
