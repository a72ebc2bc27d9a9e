"""The check of a class in its worker: before it takes calls, beside them, and when it hangs."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from stoker.protocol.messages import Checked, Drain, StartFailed
from stoker.runner.config import EXIT_ENTER
from stoker.types import MethodSpec, Outcome
from tests.runner.harness import Connection, Stage, eventually

SOURCE = """
import asyncio, os, time, stoker
def said(): return open("state").read() if os.path.exists("state") else ""
def check():
    with open("checks", "a") as file: file.write("x")
    if said() == "hang": time.sleep(60)
    if said() == "raise": raise OSError("no route")
    return said() != "false"
class f:
    @stoker.enter()
    def load(self): self.loaded = True
    @stoker.healthy(every=0.1, timeout=0.3, failures=2)
    def ping(self):
        assert self.loaded
        return check()
    @stoker.method()
    def run(self, seconds, how="sleep"):
        if how == "sleep": time.sleep(seconds)
        return "done"
class g:
    @stoker.healthy(every=0.1, timeout=0.3)
    async def ping(self): return check()
    @stoker.method()
    async def run(self, seconds, how="sleep"):
        if how == "block": time.sleep(seconds)
        await asyncio.sleep(seconds)
        return "done"
"""
CLASS: dict[str, Any] = {"kind": "class", "methods": {"run": MethodSpec()}}
ASYNC: dict[str, Any] = {"kind": "class", "methods": {"run": MethodSpec(is_async=True)}, "is_async": True}


def checked(worker: Connection) -> str:
    message = worker.control.receive().message
    assert isinstance(message, Checked), message
    return message.error


def until(worker: Connection, words: str) -> str:
    """Return the next check that fails so; those before it may have been under way."""
    while words not in (error := checked(worker)) or (not words and error):
        continue
    return error


def be(stage: Stage, state: str) -> None:
    """Change at once what the checks find."""
    (stage.directory / "new").write_text(state)
    (stage.directory / "new").rename(stage.directory / "state")


@pytest.mark.parametrize("concurrency", [1, 4])
def test_checks_are_told_however_busy_the_worker_is(every_python: Stage, concurrency: int) -> None:
    stage = every_python
    worker = stage.worker(SOURCE, **CLASS, concurrency=concurrency)
    assert (stage.directory / "checks").read_text() == "x"  # before it connected
    worker.call("c-1", "run", 1.0)
    assert [checked(worker) for _ in range(3)] == [""] * 3
    be(stage, "false")
    assert until(worker, "False") == "ping() returned False"
    be(stage, "raise")
    assert until(worker, "OSError") == "ping() raised OSError: no route"
    be(stage, "hang")
    assert until(worker, "not returned").startswith("ping() has not returned within 0.3 s; it is at ")
    until(worker, "not returned")  # and again: one that hangs fails each time that it is due
    assert worker.result("c-1").value == "done"


def test_an_async_check_is_answered_by_the_event_loop_and_not_by_a_blocked_one(stage: Stage) -> None:
    worker = stage.worker(SOURCE, "g", **ASYNC, concurrency=4)
    worker.call("c-1", "run", 0.5)
    assert [checked(worker) for _ in range(3)] == [""] * 3
    worker.call("c-2", "run", 1.5, "block")
    assert "ping() has not returned within 0.3 s: something keeps the event loop busy" in until(worker, "not returned")
    assert worker.result("c-2").outcome is Outcome.VALUE
    until(worker, "")


@pytest.mark.parametrize(
    ("name", "state", "words"),
    [
        ("f", "false", "demo.f: its first check ping() returned False, 2 times. Its worker takes no calls."),
        ("f", "raise", "its first check ping() raised OSError: no route, 2 times"),
        ("f", "hang", "its check ping() was not done within 0.7 s. It was here:"),
        ("g", "raise", "its first check ping() raised OSError: no route, 3 times"),
    ],
)
def test_a_worker_takes_no_calls_before_its_first_check_has_passed(
    stage: Stage, name: str, state: str, words: str
) -> None:
    be(stage, state)
    stage.agent.start(stage.config(SOURCE, name, **(CLASS if name == "f" else ASYNC)))
    stage.agent.fork(stage.order())
    link, _ = stage.server._accept_one("control")
    message = link.receive().message
    assert isinstance(message, StartFailed) and words in message.error.message
    assert not (name == "f" and state != "hang" and (stage.directory / "checks").read_text() != "xx")
    link.close()
    assert os.waitstatus_to_exitcode(stage.agent.exited().status) == EXIT_ENTER


def test_a_first_check_that_passes_late_is_enough(stage: Stage) -> None:
    be(stage, "false")
    stage.agent.start(stage.config(SOURCE.replace("failures=2", "failures=600"), **CLASS))
    stage.agent.fork(stage.order())
    eventually(lambda: (stage.directory / "checks").exists())
    be(stage, "")
    assert stage.server.accept().held.fresh


def test_a_worker_that_ends_checks_no_more_and_needs_no_check_to_end(stage: Stage) -> None:
    worker = stage.worker(SOURCE, **CLASS)
    be(stage, "hang")
    until(worker, "not returned")
    worker.control.send(Drain())
    assert stage.agent.exited().status == 0


def test_a_worker_that_is_told_to_end_in_a_check_does(stage: Stage) -> None:
    worker = stage.worker(SOURCE, **CLASS)
    be(stage, "hang")
    until(worker, "not returned")
    os.kill(stage.agent.pids[0], signal.SIGTERM)
    assert os.waitstatus_to_exitcode(stage.agent.exited().status) == 143
