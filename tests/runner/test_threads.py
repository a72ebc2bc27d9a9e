from __future__ import annotations

import os
import signal

from stoker.protocol.messages import Drain
from stoker.types import Outcome
from tests.runner.harness import Stage, eventually

THREADS = """
import os, time
from stoker.transport.current import current_call
def f(x):
    open(f"started-{x}", "w").close()
    while not os.path.exists("go"):
        if current_call().cancelled:
            print("saw it", x)
            raise RuntimeError("stopped")
        time.sleep(0.001)
    print("done", x)
    return x
"""


def test_calls_run_at_once_up_to_the_concurrency(stage: Stage) -> None:
    worker = stage.worker(THREADS, concurrency=3)
    worker.calls([(f"c-{i}", (i,)) for i in range(4)])
    for i in range(3):
        eventually((stage.directory / f"started-{i}").exists)
    assert not (stage.directory / "started-3").exists()
    worker.cancel("c-1")
    assert worker.result("c-1").outcome is Outcome.CANCELLED
    eventually((stage.directory / "started-3").exists)
    again = stage.restart_server()
    assert set(again.held.ids) == {"c-0", "c-2", "c-3"}
    (stage.directory / "go").touch()
    assert [again.result(f"c-{i}").value for i in (0, 2, 3)] == [0, 2, 3]
    again.control.send(Drain())
    assert stage.agent.exited().status == 0
    assert {("c-1", "o", "saw it 1"), ("c-3", "o", "done 3")} <= set(stage.records())


def test_a_late_call_is_timed_out_when_it_comes_back(stage: Stage) -> None:
    worker = stage.worker(THREADS, concurrency=2, timeout=0.1)
    worker.call("c-1", 1)
    late = worker.result("c-1")
    assert late.outcome is Outcome.TIMEOUT


def test_many_short_calls(stage: Stage) -> None:
    worker = stage.worker("def f(x): return x", concurrency=4)
    for batch in range(10):
        worker.calls([(f"c-{i}", (i,)) for i in range(100 * batch, 100 * batch + 100)])
        for i in range(100 * batch, 100 * batch + 100):
            assert worker.result(f"c-{i}").value == i


def test_sigterm(stage: Stage) -> None:
    worker = stage.worker(THREADS, concurrency=3)
    worker.call("c-1", 1)
    eventually((stage.directory / "started-1").exists)
    os.kill(stage.agent.pids[0], signal.SIGTERM)
    assert os.waitstatus_to_exitcode(stage.agent.exited().status) == 143
    assert ("c-1", "o", "saw it 1") in stage.records()
