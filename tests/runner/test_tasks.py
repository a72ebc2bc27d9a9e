from __future__ import annotations

import os
import signal

from stoker.protocol.messages import Drain
from stoker.types import Outcome
from tests.runner.harness import Stage, eventually

ASYNC = """
import asyncio, os
running = 0
async def f(x):
    global running
    if x == "count":
        return running
    if x == "exit":
        asyncio.get_running_loop().call_soon(exit)
        await asyncio.sleep(0.01)
        return "survived"
    running += 1
    open(f"started-{x}", "w").close()
    try:
        while not os.path.exists("go"):
            await asyncio.sleep(0.001)
        print("done", x)
        return x
    except asyncio.CancelledError:
        print("cancelled", x)
        raise
    finally:
        running -= 1
"""


def test_calls_run_at_once_up_to_the_concurrency(stage: Stage) -> None:
    worker = stage.worker(ASYNC, is_async=True, concurrency=3)
    worker.calls([(f"c-{i}", (i,)) for i in range(4)])
    for i in range(3):
        eventually((stage.directory / f"started-{i}").exists)
    assert not (stage.directory / "started-3").exists()
    worker.cancel("c-1")
    assert worker.result("c-1").outcome is Outcome.CANCELLED
    eventually((stage.directory / "started-3").exists)
    (stage.directory / "go").touch()
    assert [worker.result(f"c-{i}").value for i in (0, 2, 3)] == [0, 2, 3]
    worker.call("exit", "exit")
    assert worker.result("exit").value == "survived"
    worker.control.send(Drain())
    assert stage.agent.exited().status == 0
    assert {("c-1", "o", "cancelled 1"), ("c-3", "o", "done 3")} <= set(stage.records())


def test_timeout_and_restart(stage: Stage) -> None:
    worker = stage.worker(ASYNC, is_async=True, concurrency=3, timeout=1.0)
    worker.ack = False
    worker.call("c-1", 1)
    eventually((stage.directory / "started-1").exists)
    again = stage.restart_server()
    assert again.held.ids == ["c-1"]
    assert again.result("c-1").outcome is Outcome.TIMEOUT
    again.call("c-2", "count")
    assert again.result("c-2").value == 0


def test_sigterm(stage: Stage) -> None:
    worker = stage.worker(ASYNC, is_async=True, concurrency=3)
    worker.call("c-1", 1)
    eventually((stage.directory / "started-1").exists)
    os.kill(stage.agent.pids[0], signal.SIGTERM)
    assert os.waitstatus_to_exitcode(stage.agent.exited().status) == 143
    assert ("c-1", "o", "cancelled 1") in stage.records()
