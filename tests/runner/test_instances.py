"""The instance of a class in zygotes and workers, and when its hooks run."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from stoker.protocol.messages import Drain, StartFailed
from stoker.protocol.zygotes import Failed, Ready
from stoker.runner.config import EXIT_ENTER
from stoker.types import BatchSpec, MethodSpec, Outcome
from tests.runner.harness import Connection, Stage, eventually

PLAIN = """
import os, stoker
def note(what):
    with open("order", "a") as file:
        file.write(f"{what} {os.getpid()}\\n")
class Base:
    @stoker.enter(snapshot=True)
    def first(self): note("first")
    @stoker.exit()
    def last(self): note("last")
class f(Base):
    size: str = stoker.parameter()
    def __init__(self): note(f"init {self.size}")
    @stoker.enter(snapshot=True)
    def load(self): note("load")
    @stoker.enter()
    def place(self): note("place")
    @stoker.exit()
    def close(self):
        note("close")
        raise ValueError("closed badly")
    @stoker.method()
    def m(self, x):
        note("m")
        if x == "wait":
            open("started", "w").close()
            import time
            time.sleep(60)
        return f"{self.size} {x}"
    @stoker.method()
    def items(self, n): yield from range(n)
    @stoker.method()
    def doubled(self, xs): return [x * 2 for x in xs]
    @stoker.method()
    def wrong(self, xs): return xs * 2
"""
BATCH = BatchSpec(8, 0.0)
CLASS: dict[str, Any] = {
    "kind": "class",
    "parameters": {"size": "small"},
    "methods": {
        "m": MethodSpec(),
        "items": MethodSpec("generator"),
        "doubled": MethodSpec(batch=BATCH),
        "wrong": MethodSpec(batch=BATCH),
    },
    "batch": BATCH,
}


def order(stage: Stage) -> list[str]:
    return [line.rpartition(" ")[0] for line in (stage.directory / "order").read_text().splitlines()]


def pids(stage: Stage) -> list[int]:
    return [int(line.rpartition(" ")[2]) for line in (stage.directory / "order").read_text().splitlines()]


BEFORE = ["init small", "first", "load"]
WHOLE = [*BEFORE, "place", "m", "close", "last"]


def test_hooks_run_in_their_order_and_each_in_its_process(every_python: Stage) -> None:
    stage = every_python
    worker = stage.worker(PLAIN, **CLASS)
    assert order(stage) == [*BEFORE, "place"]  # before it connects
    worker.call("c-1", "m", "x")
    assert worker.result("c-1").value == "small x"
    worker.call("c-2", "items", 3)
    assert worker.result("c-2").outcome is Outcome.VALUE
    assert [item for _, item in worker.items] == [0, 1, 2]
    worker.control.send(Drain())
    assert stage.agent.exited().status == 0
    assert order(stage) == WHOLE
    zygote, forked = stage.agent.process.pid, stage.agent.pids[0]
    assert pids(stage) == [zygote] * 3 + [forked] * 4
    said = [text for _, _, text in stage.records()]
    assert any("close() of demo.f raised" in text for text in said)
    assert "ValueError: closed badly" in said


def test_workers_share_a_snapshot(stage: Stage) -> None:
    stage.worker(PLAIN, **CLASS)
    stage.agent.fork(stage.order())
    stage.server.accept()
    assert order(stage) == [*BEFORE, "place", "place"]
    assert len(set(pids(stage)[3:])) == 2


def test_exit_hooks_run_after_a_signal_and_what_it_interrupts(stage: Stage) -> None:
    worker = stage.worker(PLAIN, **CLASS)
    worker.call("c-1", "m", "wait")
    eventually((stage.directory / "started").exists)
    os.kill(stage.agent.pids[0], signal.SIGTERM)
    assert os.waitstatus_to_exitcode(stage.agent.exited().status) == 143
    assert order(stage) == WHOLE


def test_exit_hooks_run_when_a_worker_is_recycled(stage: Stage) -> None:
    worker = stage.worker(PLAIN, **CLASS, recycle_after=1)
    worker.call("c-1", "m", "x")
    assert worker.result("c-1").value == "small x"
    assert stage.agent.exited().status == 0
    assert order(stage) == WHOLE


@pytest.mark.parametrize("concurrency", [1, 4])
def test_methods_are_told_apart(stage: Stage, concurrency: int) -> None:
    worker = stage.worker(PLAIN, **CLASS, concurrency=concurrency)
    worker.call("c-1", "doubled", 21)
    assert worker.result("c-1").value == 42
    worker.call("c-2", "wrong", 21)
    error = worker.result("c-2").error
    assert error is not None
    assert "demo.f.wrong takes batches" in error.message
    worker.call("c-3", "place")
    error = worker.result("c-3").error
    assert error is not None
    assert "demo.f has no method 'place' that can be called. It has: m, items, doubled, wrong." in error.message
    worker.call("c-4")
    assert worker.result("c-4").outcome is Outcome.ERROR


def test_errors_name_the_method(stage: Stage) -> None:
    worker = stage.worker(PLAIN, **CLASS, timeout=0.3)
    worker.call("c-1", "m", "wait")
    error = worker.result("c-1").error
    assert error is not None
    assert error.message.startswith("demo.f.m: an attempt ran longer")


def refused(stage: Stage) -> StartFailed:
    """Return what a worker says in place of connecting."""
    link, hello = stage.server._accept_one("control")
    message = link.receive().message
    assert isinstance(message, StartFailed)
    assert message.worker == hello.name == "w1"
    link.close()
    return message


def test_an_enter_hook_that_raises_refuses_the_start(stage: Stage) -> None:
    source = PLAIN.replace('note("place")', 'raise KeyError("no such place")')
    assert isinstance(stage.agent.start(stage.config(source, **CLASS)), Ready)
    stage.agent.fork(stage.order())
    error = refused(stage).error
    assert error.type_name == "StartupError"
    assert error.message.startswith("demo.f: its enter() hook place() raised KeyError: 'no such place'\nTraceback")
    assert "jobs.py" in error.traceback
    assert "runner" not in error.traceback
    assert "builtins.LookupError" in error.mro
    assert os.waitstatus_to_exitcode(stage.agent.exited().status) == EXIT_ENTER
    assert order(stage) == BEFORE  # nothing was entered, so nothing is left


def test_an_enter_hook_that_takes_too_long_refuses_the_start(stage: Stage) -> None:
    source = PLAIN.replace('note("place")', "import time; time.sleep(60)")
    assert isinstance(stage.agent.start(stage.config(source, **CLASS, startup_timeout=0.2)), Ready)
    stage.agent.fork(stage.order())
    message = refused(stage).error.message
    assert "its enter() hook place() was not done within startup_timeout=0.2 s" in message
    assert "time.sleep(60)" in message


def test_a_snapshot_hook_that_raises_is_a_failed_start(stage: Stage) -> None:
    failed = stage.agent.start(stage.config(PLAIN.replace('note("load")', "raise SystemExit(3)"), **CLASS))
    assert isinstance(failed, Failed)
    assert failed.error.message.startswith("demo.f: its enter(snapshot=True) hook load() raised SystemExit: 3")


def test_a_snapshot_hook_that_starts_threads_has_workers_start_fresh(stage: Stage) -> None:
    threads = "import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
    source = PLAIN.replace('note("load")', f'note("load"); {threads}')
    ready = stage.agent.start(stage.config(source, **CLASS))
    assert isinstance(ready, Ready)
    assert not ready.forkable
    assert "or an enter(snapshot=True) hook starts 1 threads" in ready.reason
    (stage.directory / "order").unlink()
    stage.agent.hang_up()
    assert stage.agent.process.wait(10) == 0
    worker = stage.fresh(source, **CLASS)
    worker.call("c-1", "m", "x")
    assert worker.result("c-1").value == "small x"
    worker.control.send(Drain())
    assert stage.agent.process.wait(10) == 0
    assert order(stage) == WHOLE


ASYNC = """
import asyncio, os, threading, time, stoker
from stoker.transport.current import current_call
class f:
    @stoker.enter()
    async def begin(self):
        self.loop = asyncio.get_running_loop()
        self.event = asyncio.Event()
        self.ticks = self.loop.create_task(self.tick())
    async def tick(self):
        self.event.set()
        await asyncio.sleep(60)
    @stoker.exit()
    async def end(self):
        open("ended" if asyncio.get_running_loop() is self.loop else "wrong", "w").close()
    @stoker.method()
    async def aio(self, x):
        await self.event.wait()
        return asyncio.get_running_loop() is self.loop, current_call().id
    @stoker.method()
    def sync(self, x):
        if x == "stop":
            raise StopIteration("stopped")
        if x == "wait":
            open("started", "w").close()
            while not current_call().cancelled:
                time.sleep(0.001)
            return "not sent"
        return threading.current_thread() is threading.main_thread(), current_call().id
    @stoker.method()
    def items(self, n):
        try:
            for i in range(n):
                yield i
        finally:
            open("closed", "w").close()
    @stoker.method()
    async def aitems(self, n):
        for i in range(n):
            yield i
"""
ASYNC_CLASS: dict[str, Any] = {
    "kind": "class",
    "is_async": True,
    "concurrency": 4,
    "methods": {
        "aio": MethodSpec(is_async=True),
        "sync": MethodSpec(),
        "items": MethodSpec("generator"),
        "aitems": MethodSpec("generator", is_async=True),
    },
}


def items_of(worker: Connection, call_id: str) -> list[Any]:
    before = len(worker.items)
    assert worker.result(call_id).outcome is Outcome.VALUE
    return [item for _, item in worker.items[before:]]


def test_async_and_plain_methods_share_a_worker(every_python: Stage) -> None:
    stage = every_python
    worker = stage.worker(ASYNC, **ASYNC_CLASS)
    worker.call("c-1", "aio", 1)
    assert worker.result("c-1").value == (True, "c-1")
    worker.call("c-2", "sync", 1)
    assert worker.result("c-2").value == (False, "c-2")
    worker.call("c-3", "items", 100, credit=200)
    assert items_of(worker, "c-3") == list(range(100))
    worker.call("c-4", "aitems", 3)
    assert items_of(worker, "c-4") == [0, 1, 2]
    worker.call("c-5", "sync", "stop")
    error = worker.result("c-5").error
    assert error is not None
    assert error.type_name == "builtins.StopIteration"
    worker.call("c-6", "sync", "wait")
    eventually((stage.directory / "started").exists)
    worker.call("c-7", "aio", 1)  # meanwhile
    assert worker.result("c-7").value == (True, "c-7")
    worker.cancel("c-6")
    assert worker.result("c-6").outcome is Outcome.CANCELLED
    worker.control.send(Drain())
    assert stage.agent.exited().status == 0
    assert (stage.directory / "ended").exists()


def test_a_plain_generator_beside_async_methods_waits_for_room_and_is_closed(stage: Stage) -> None:
    worker = stage.worker(ASYNC, **ASYNC_CLASS)
    worker.call("c-1", "items", 1000, credit=4)
    while len(worker.items) < 4:
        worker.read()
    worker.credit("c-1", 8)
    while len(worker.items) < 8:
        worker.read()
    worker.cancel("c-1", reason="closed")
    assert worker.result("c-1").outcome is Outcome.CANCELLED
    eventually((stage.directory / "closed").exists)
    assert [item for _, item in worker.items] == list(range(8))
