from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stoker.protocol.messages import Drain, Results, Revoke
from stoker.protocol.payload import decode
from stoker.types import Outcome
from tests.runner.harness import Stage, eventually


def test_core_of_a_worker(every_python: Stage) -> None:
    worker = every_python.worker(
        """
        import os, time
        def f(x):
            print("got", x)
            if x == "sleep":
                try:
                    open("started", "w").close()
                    time.sleep(60)
                finally:
                    print("cleaned up")
            if x < 0:
                raise ValueError(f"negative: {x}")
            return x + 1
        """
    )
    assert worker.hello.token == "secret"
    assert worker.held.fresh
    worker.calls([(f"c-{i}", (i,)) for i in range(-1, 200)])
    failed = worker.result("c--1")
    assert failed.outcome is Outcome.ERROR
    assert failed.error is not None
    assert failed.error.type_name == "builtins.ValueError"
    assert "jobs.py" in failed.error.traceback
    assert "stoker/runner" not in failed.error.traceback
    assert [worker.result(f"c-{i}").value for i in range(200)] == list(range(1, 201))
    assert ("c-7", "o", "got 7") in every_python.records()
    worker.call("long", "sleep")
    eventually((every_python.directory / "started").exists)
    worker.cancel("long")
    assert worker.result("long").outcome is Outcome.CANCELLED
    assert ("long", "o", "cleaned up") in every_python.records()
    worker.control.send(Drain())
    assert every_python.agent.exited().status == 0


def test_results_of_short_runs_share_frames(stage: Stage) -> None:
    worker = stage.worker("def f(x): return None")
    worker.calls([(f"c-{i}", (i,)) for i in range(256)])
    worker.result("c-255")
    frames = [frame for frame in worker.frames if isinstance(frame, Results)]
    assert len(frames) < 16
    assert [frame.seq for frame in frames] == list(range(1, len(frames) + 1))


def test_a_result_does_not_wait_for_a_long_run_behind_it(stage: Stage) -> None:
    worker = stage.worker(
        """
        import os, time
        def f(x):
            while x and not os.path.exists("go"):
                time.sleep(0.001)
            return x
        """
    )
    worker.calls([("short", (0,)), ("long", (1,))])
    assert worker.result("short").value == 0
    assert not [done for done in worker.results if done.id == "long"]
    (stage.directory / "go").touch()
    assert worker.result("long").value == 1


def test_big_payloads_travel_in_segments(stage: Stage) -> None:
    worker = stage.worker("def f(n):\n    import numpy\n    return numpy.arange(n)")
    worker.call("c-1", 100_000)
    done = worker.result("c-1")
    frame = worker.frames[-1]
    assert done.body == b""
    name, size = frame.segments["0"]
    segment = stage.server.segments / name
    assert segment.stat().st_size == size
    assert segment.stat().st_mode & 0o777 == 0o600
    assert np.array_equal(_decode(segment.read_bytes()), np.arange(100_000))


def _decode(data: bytes) -> Any:
    return decode(data)


def test_cancel_before_the_lease_is_read(stage: Stage) -> None:
    worker = stage.worker("def f(x):\n    print('ran', x)\n    return x")
    worker.cancel("c-1")
    # The answer to a revocation says that the control thread has read everything before it.
    worker.control.send(Revoke(["other"], [1]))
    assert worker.revoked() == ["other"]
    worker.call("c-1", 1)
    worker.call("c-2", 2)
    assert worker.result("c-1").outcome is Outcome.CANCELLED
    assert worker.result("c-2").value == 2
    assert [record[2] for record in stage.records()] == ["ran 2"]


BUSY = """
    import os, time
    def f(x):
        open(f"started-{x}", "w").close()
        while not os.path.exists("go"):
            time.sleep(0.001)
        return x
"""


def test_revoke_takes_what_has_not_started(stage: Stage) -> None:
    worker = stage.worker(BUSY)
    worker.calls([("c-1", (1,)), ("c-2", (2,)), ("c-3", (3,))])
    eventually((stage.directory / "started-1").exists)
    worker.call("unread", 4)
    worker.control.send(Revoke(["c-1", "c-3", "unread"], [1, 1, 1]))
    assert worker.revoked() == ["c-3", "unread"]
    (stage.directory / "go").touch()
    assert worker.result("c-2").value == 2
    worker.call("unread", 5)  # leased again, under the same number
    assert worker.result("unread").value == 5
    assert {done.id for done in worker.results} == {"c-1", "c-2", "unread"}


def test_cancel_of_what_waits_and_a_cancel_that_is_swallowed(stage: Stage) -> None:
    worker = stage.worker(
        """
        import os, time
        def f(x):
            open("started", "w").close()
            try:
                time.sleep(60)
            except BaseException:
                pass
            return x
        """
    )
    worker.calls([("c-1", (1,)), ("c-2", (2,))])
    eventually((stage.directory / "started").exists)
    worker.cancel("c-2")
    assert worker.result("c-2").outcome is Outcome.CANCELLED
    worker.cancel("c-1")
    assert worker.result("c-1").outcome is Outcome.CANCELLED


def test_timeout_interrupts_and_says_where(stage: Stage) -> None:
    worker = stage.worker("import time\ndef f(x):\n    time.sleep(x)\n    return x", timeout=0.2)
    worker.calls([("c-1", (60,)), ("c-2", (0,))])
    late = worker.result("c-1")
    assert late.outcome is Outcome.TIMEOUT
    assert late.error is not None
    assert late.error.type_name == "CallTimeout"
    assert "demo.f" in late.error.message
    assert "time.sleep(x)" in late.error.traceback
    assert worker.result("c-2").value == 0


def test_what_user_code_may_do(stage: Stage) -> None:
    worker = stage.worker(
        """
        import asyncio, os, signal, sys, threading, time
        def exits(): sys.exit(3)
        def interrupts(): raise KeyboardInterrupt
        def unsendable(): return {"lock": threading.Lock()}
        def memory(): raise MemoryError
        def closes():
            for fd in (0, 1, 2): os.close(fd)
            print("still here")
        def prints_after(): print("and here"); return sys.stdout.fileno()
        async def inner(): return 7
        def runs_loop(): return asyncio.run(inner())
        def ignores(): signal.signal(signal.SIGTERM, signal.SIG_IGN)
        def leaves_thread(): threading.Thread(target=time.sleep, args=(60,)).start()
        def forks():
            child = os.fork()
            if child:
                return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        def forks_and_raises():
            child = os.fork()
            if not child:
                raise RuntimeError("in the child")
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        def f(name): return globals()[name]()
        """
    )

    def run(name: str) -> object:
        worker.call(name, name)
        done = worker.result(name)
        return done.value if done.outcome is Outcome.VALUE else (done.outcome, done.error and done.error.type_name)

    assert run("exits") == (Outcome.ERROR, "builtins.SystemExit")
    assert run("interrupts") == (Outcome.ERROR, "builtins.KeyboardInterrupt")
    assert run("unsendable") == (Outcome.UNSENDABLE, "SerializationError")
    assert "return value['lock']" in (worker.results[-1].error or 0).message  # type: ignore[union-attr]
    assert run("memory") == (Outcome.MEMORY, "builtins.MemoryError")
    assert run("forks") == 0
    assert run("forks_and_raises") == 1
    assert run("closes") is None
    assert run("prints_after") == 1
    assert run("runs_loop") == 7
    assert run("leaves_thread") is None
    assert run("ignores") is None
    texts = [text for _, _, text in stage.records()]
    assert "still here" in texts
    assert "and here" in texts
    assert "RuntimeError: in the child" in texts
    assert len(worker.results) == 11  # no child has reported anything
    worker.control.send(Drain())
    assert stage.agent.exited().status == 0


def test_what_is_said_together_with_the_welcome_is_heard(stage: Stage) -> None:
    stage.server.says_at_once = [Drain()]
    stage.worker("def f(): return 1")
    assert stage.agent.exited().status == 0


@pytest.mark.parametrize("how", ["os._exit(9)", "os.kill(os.getpid(), 11)"])
def test_a_worker_that_dies_is_collected(stage: Stage, how: str) -> None:
    worker = stage.worker(f"import os\ndef f(): {how}")
    worker.call("c-1")
    exited = stage.agent.exited()
    expected = 9 if "exit" in how else -signal.SIGSEGV
    assert os.waitstatus_to_exitcode(exited.status) == expected


def test_drain_finishes_what_runs_and_gives_back_the_rest(stage: Stage) -> None:
    worker = stage.worker(
        f"{BUSY}\n    import atexit\n    atexit.register(lambda: print('exit hook'))\n",
    )
    worker.calls([("c-1", (1,)), ("c-2", (2,))])
    eventually((stage.directory / "started-1").exists)
    worker.control.send(Drain())
    assert worker.revoked() == ["c-2"]
    (stage.directory / "go").touch()
    assert worker.result("c-1").value == 1
    assert stage.agent.exited().status == 0
    assert "exit hook" in [text for _, _, text in stage.records()]


def test_recycling_ends_the_worker_once_its_results_are_safe(stage: Stage) -> None:
    worker = stage.worker("def f(x): return x", recycle_after=2)
    worker.ack = False
    worker.calls([("c-1", (1,)), ("c-2", (2,))])
    worker.result("c-2")
    assert stage.agent.process.poll() is None
    worker.close()
    again = stage.server.accept()
    assert not again.held.fresh
    assert again.held.ids == []
    assert again.result("c-2").value == 2
    assert os.waitstatus_to_exitcode(stage.agent.exited().status) == 0


def test_a_restarted_server_hears_what_is_held_and_what_is_done(stage: Stage) -> None:
    worker = stage.worker(BUSY.replace("while not", "while x and not"))
    worker.ack = False
    worker.calls([("c-0", (0,)), ("c-1", (1,)), ("c-2", (2,))])
    done = worker.result("c-0")
    eventually((stage.directory / "started-1").exists)
    # The worker is in user code all the while: it is the control thread that comes back.
    again = stage.restart_server()
    assert again.held.ids == ["c-1", "c-2"]
    assert not again.held.fresh
    assert again.result("c-0").seq == done.seq
    (stage.directory / "go").touch()
    assert again.result("c-2").value == 2
    again.call("c-3", 3)
    assert again.result("c-3").value == 3
    assert len([one for one in again.results if one.id == "c-0"]) == 1


def test_an_idle_worker_comes_back_and_goes_after_the_grace(stage: Stage) -> None:
    worker = stage.worker("def f(x): return x", grace=0.5)
    worker.call("c-1", 1)
    assert worker.result("c-1").value == 1
    again = stage.restart_server()
    again.call("c-2", 2)
    assert again.result("c-2").value == 2
    stage.server.close()
    assert os.waitstatus_to_exitcode(stage.agent.exited().status) == 75
    assert "the server was away" in stage.log.read_text()


def test_sigterm_lets_user_code_clean_up(stage: Stage) -> None:
    worker = stage.worker(
        """
        import time
        def f(x):
            try:
                open("started", "w").close()
                time.sleep(60)
            finally:
                print("cleaned up")
        """
    )
    worker.call("c-1", 1)
    eventually((stage.directory / "started").exists)
    os.kill(stage.agent.pids[0], signal.SIGTERM)
    assert os.waitstatus_to_exitcode(stage.agent.exited().status) == 143
    assert worker.results == []
    assert ("c-1", "o", "cleaned up") in stage.records()


def test_sigterm_ends_an_idle_worker(stage: Stage) -> None:
    stage.worker("def f(x): return x")
    os.kill(stage.agent.pids[0], signal.SIGTERM)
    assert os.waitstatus_to_exitcode(stage.agent.exited().status) == 143


def test_nested_code_knows_its_call(stage: Stage) -> None:
    worker = stage.worker(
        """
        import os, threading
        from stoker.transport import current
        def f():
            found = []
            thread = threading.Thread(target=lambda: found.append(current.current_call().id))
            thread.start(); thread.join()
            identity = current.worker_identity()
            return [current.current_call().id, found[0], identity.worker, identity.app,
                    os.environ["STOKER_TOKEN"], os.environ["STOKER_SERVER"]]
        """
    )
    worker.call("c-1")
    assert worker.result("c-1").value == ["c-1", "c-1", "w1", "demo", "secret", str(stage.server.path)]


def test_cancels_that_cross_completions_hit_nobody_else(stage: Stage) -> None:
    worker = stage.worker("def f(x): return x")
    count = 400

    def cancel_all() -> None:
        for i in range(count):
            worker.cancel(f"c-{i}")

    canceller = threading.Thread(target=cancel_all)
    canceller.start()
    for i in range(count):
        worker.call(f"c-{i}", i)
        worker.call(f"kept-{i}", i)
        assert worker.result(f"kept-{i}").value == i
    canceller.join()
    outcomes = {worker.result(f"c-{i}").outcome for i in range(count)}
    assert outcomes <= {Outcome.VALUE, Outcome.CANCELLED}


def test_sigterm_ends_a_worker_that_finds_no_server(stage: Stage) -> None:
    stage.server.close()
    stage.agent.start(stage.config("def f(x): return x", grace=60.0))
    pid = stage.agent.fork(stage.order())
    eventually(lambda: stage.log.exists() and _handles_sigterm(pid))
    os.kill(pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(stage.agent.exited().status) == 143


def _handles_sigterm(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught & (1 << (signal.SIGTERM - 1)))
