"""Inputs of the next batch are read while one runs, and are no less cancelled, given back or refused for that."""

from __future__ import annotations

import json

import pytest

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

    def has_time():
        # The thread is taken for one that comes in time to what is left to it.
        worker = next(each for each in gc.get_objects() if isinstance(each, Worker))
        worker._loop._ahead.may_leave = lambda: True

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


def test_a_child_that_comes_back_out_of_a_batch_waits_for_no_thread(stage: Stage) -> None:
    source = """
        import os, sys, time
        def f(x: list[int]):
            time.sleep(0.1)  # so that the thread reads
            child = os.fork()
            if child == 0:
                sys.exit(0)
            return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for _ in x]
    """
    worker = stage.worker(source, batch=BatchSpec(max_size=8, max_wait=0.0), web=WebSpec(methods=["POST"]))
    ask(worker, first={"x": 0})
    assert answer(worker, "first") == (200, 0)


def test_what_is_lost_in_reading_is_leased_anew(stage: Stage) -> None:
    source = (
        SOURCE
        + """
    def fails(x: list[int]):
        if x[0] == 0:
            worker = next(each for each in gc.get_objects() if isinstance(each, Worker))
            put = worker.desk.put
            def once(*args, **kwargs):
                worker.desk.put = put
                open("failed", "w").close()
                raise MemoryError("no room")
            worker.desk.put = once
            open("started", "w").close()
            until(lambda: os.path.exists("go"))
        return x
    """
    )
    worker = stage.worker(source, "fails", batch=BatchSpec(max_size=8, max_wait=0.0), web=WebSpec(methods=["POST"]))
    ask(worker, first={"x": 0})
    eventually((stage.directory / "started").exists)
    ask(worker, lost={"x": 1})
    eventually((stage.directory / "failed").exists)
    again = stage.server.accept()
    assert again.held.ids == ["first"]
    (stage.directory / "go").touch()
    ask(again, lost={"x": 1}, other={"x": 2})
    assert [answer(again, name) for name in ("first", "lost", "other")] == [(200, 0), (200, 1), (200, 2)]
    assert "connects again: its thread that reads ahead has failed" in stage.log.read_text()


def test_what_is_big_or_bad_is_left_to_its_own_batch(stage: Stage) -> None:
    source = (
        SOURCE
        + """
    def counts(x: list[str]):
        if x[0] == "first":
            worker = next(each for each in gc.get_objects() if isinstance(each, Worker))
            tried, read = [], worker.read_ahead
            worker.read_ahead = lambda attempt: read(attempt) and (tried.append(attempt.id) or True)
            open("started", "w").close()
            until(lambda: len(tried) >= 3)
            for _ in range(20):
                worker.wake()
                time.sleep(0.005)
            return [f"{sorted(tried)} {[each.id for each in waiting() if each.ahead]}"]
        return [str(len(each)) for each in x]
    """
    )
    worker = stage.worker(source, "counts", batch=BatchSpec(max_size=8, max_wait=0.0), web=WebSpec(methods=["POST"]))
    ask(worker, first={"x": "first"})
    eventually((stage.directory / "started").exists)
    ask(worker, big={"x": "y" * 300_000}, bad={"x": 7}, good={"x": "z"})
    assert answer(worker, "first") == (200, "['bad', 'big', 'good'] ['good']")
    assert answer(worker, "big") == (200, "300000") and answer(worker, "good") == (200, "1")
    assert answer(worker, "bad")[0] == 422


def test_a_batch_is_reported_while_the_next_one_runs(stage: Stage) -> None:
    source = (
        SOURCE
        + """
    def reports(x: list[int]):
        if x[0] == 0:
            has_time()
            open("started", "w").close()
            until(lambda: len(waiting()) == 2)
        elif x[0] == 1:
            until(lambda: os.path.exists("go"))
        return x
    """
    )
    options = {"batch": BatchSpec(max_size=1, max_wait=0.0), "web": WebSpec(methods=["POST"])}
    worker = stage.worker(source, "reports", **options)
    ask(worker, first={"x": 0})
    eventually((stage.directory / "started").exists)
    ask(worker, second={"x": 1}, third={"x": 2})
    assert answer(worker, "first") == (200, 0), "the second one has not ended"
    (stage.directory / "go").touch()
    assert [answer(worker, name) for name in ("second", "third")] == [(200, 1), (200, 2)], "also the last one"


@pytest.mark.parametrize(("returned", "said"), [("[kept[0] for _ in x]", [[0], [1], [2]]), ("kept[0]", [0, 1, 2])])
def test_what_the_next_batch_may_write_over_is_reported_as_it_was(
    stage: Stage, returned: str, said: list[object]
) -> None:
    source = (
        SOURCE
        + """
    kept = [[0]]

    def writes_over(x: list[int]):
        kept[0][0] = x[0]
        if x[0] == 0:
            has_time()
            open("started", "w").close()
            until(lambda: len(waiting()) == 2)
        return RETURNED
    """
    )
    options = {"batch": BatchSpec(max_size=1, max_wait=0.0), "web": WebSpec(methods=["POST"])}
    worker = stage.worker(source.replace("RETURNED", returned), "writes_over", **options)
    ask(worker, first={"x": 0})
    eventually((stage.directory / "started").exists)
    ask(worker, second={"x": 1}, third={"x": 2})
    names = ("first", "second", "third")
    assert [answer(worker, name) for name in names] == [(200, each) for each in said]


def test_a_lease_that_is_read_as_the_main_thread_looks_away_is_run(stage: Stage) -> None:
    source = (
        SOURCE
        + """
    def echo(x: list[int]):
        if x[0] == 0:
            worker = next(each for each in gc.get_objects() if isinstance(each, Worker))
            take = worker.take
            def too_early():
                found = take()
                if found is None and worker._loop._ahead._is_given:
                    worker.take = take
                    open("empty", "w").close()
                    until(waiting)  # the other thread has read the lease
                return found
            worker.take = too_early
        return x
    """
    )
    worker = stage.worker(source, "echo", batch=BatchSpec(max_size=8, max_wait=0.0), web=WebSpec(methods=["POST"]))
    ask(worker, first={"x": 0})
    assert answer(worker, "first") == (200, 0)
    eventually((stage.directory / "empty").exists)
    ask(worker, second={"x": 1})
    assert answer(worker, "second") == (200, 1)


def test_a_thread_that_is_given_no_time_is_left_nothing_before_it_has_shown_that_it_comes(stage: Stage) -> None:
    source = (
        SOURCE
        + """
    import ctypes
    native = ctypes.PyDLL(None)  # which holds the interpreter

    def holds(x: list[int]):
        if x[0] == 0:
            open("started", "w").close()
            until(lambda: len(waiting()) == 2)
        if x[0] == 1:
            native.usleep(300_000)
            worker = next(each for each in gc.get_objects() if isinstance(each, Worker))
            return [int(any(key[0] == "first" for key in worker.desk.running))]
        return x
    """
    )
    worker = stage.worker(source, "holds", batch=BatchSpec(max_size=1, max_wait=0.0), web=WebSpec(methods=["POST"]))
    ask(worker, first={"x": 0})
    eventually((stage.directory / "started").exists)
    ask(worker, second={"x": 1}, third={"x": 2})
    assert [answer(worker, name) for name in ("first", "second", "third")] == [(200, 0), (200, 0), (200, 2)]


def test_a_batch_that_has_ended_is_reported_by_a_worker_that_is_stopped(stage: Stage) -> None:
    source = (
        SOURCE
        + """
    import signal

    def stops(x: list[int]):
        if x[0] == 0:
            has_time()
            worker = next(each for each in gc.get_objects() if isinstance(each, Worker))
            worker._loop._ahead._catch_up_or_die = lambda: None  # it does not come to it
            open("started", "w").close()
            until(lambda: len(waiting()) == 1)
        elif x[0] == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(20)
        return x
    """
    )
    worker = stage.worker(source, "stops", batch=BatchSpec(max_size=1, max_wait=0.0), web=WebSpec(methods=["POST"]))
    ask(worker, first={"x": 0})
    eventually((stage.directory / "started").exists)
    ask(worker, second={"x": 1})
    assert answer(worker, "first") == (200, 0)
