from __future__ import annotations

from typing import Any

import pytest

from stoker.protocol.messages import Drain
from stoker.types import Outcome
from tests.runner.harness import Connection, Stage, eventually

SYNC = """
import os, time
def f(n):
    i = -1
    try:
        for i in range(n):
            yield i
        if n == 3:
            raise ValueError("at the end")
    except GeneratorExit:
        print("closed at", i)
        raise
    finally:
        open("ended", "w").write(str(i))
"""
ASYNC = SYNC.replace("def f", "async def f")
LOOPS = [
    pytest.param(SYNC, {}, id="inline"),
    pytest.param(SYNC, {"concurrency": 4}, id="threads"),
    pytest.param(ASYNC, {"is_async": True, "concurrency": 4}, id="tasks"),
]


def _start(stage: Stage, source: str, options: dict[str, Any]) -> Connection:
    return stage.worker(source, kind="generator", **options)


@pytest.mark.parametrize(("source", "options"), LOOPS)
def test_items_come_in_order_and_stop_without_credit(stage: Stage, source: str, options: dict[str, Any]) -> None:
    worker = _start(stage, source, options)
    worker.call("c-1", 100, credit=10)
    while len(worker.items) < 10:
        worker.read()
    worker.call("c-2", 0)
    if options:
        # Where calls run at once, another one goes on while this one waits for its reader.
        assert worker.result("c-2").outcome is Outcome.VALUE
    assert len(worker.items) == 10
    worker.credit("c-1", 25)
    while len(worker.items) < 25:
        worker.read()
    worker.credit("c-1", 200)
    assert worker.result("c-1").outcome is Outcome.VALUE
    assert worker.items == [(i, i) for i in range(100)]
    assert worker.result("c-2").outcome is Outcome.VALUE


@pytest.mark.parametrize(("source", "options"), LOOPS)
def test_an_error_comes_after_the_items(stage: Stage, source: str, options: dict[str, Any]) -> None:
    worker = _start(stage, source, options)
    worker.call("c-1", 3)
    assert worker.result("c-1").outcome is Outcome.ERROR
    assert worker.items == [(0, 0), (1, 1), (2, 2)]


@pytest.mark.parametrize(("source", "options"), LOOPS)
def test_a_reader_that_goes_closes_the_generator(stage: Stage, source: str, options: dict[str, Any]) -> None:
    worker = _start(stage, source, options)
    worker.call("c-1", 100, credit=5)
    while len(worker.items) < 5:
        worker.read()
    worker.cancel("c-1", reason="closed")
    assert worker.result("c-1").outcome is Outcome.CANCELLED
    assert (stage.directory / "ended").read_text() == "4"
    assert ("c-1", "o", "closed at 4") in stage.records()


SLOW = """
import time
def f():
    yield 1
    open("started", "w").close()
    time.sleep(60)
    yield 2
"""


def test_a_slow_generator_is_heard_at_once_and_interrupted_between_yields(stage: Stage) -> None:
    worker = _start(stage, SLOW, {})
    worker.call("c-1")
    while not worker.items:
        worker.read()
    eventually((stage.directory / "started").exists)
    worker.cancel("c-1", reason="closed", grace=0.1)
    assert worker.result("c-1").outcome is Outcome.CANCELLED


def test_items_the_reader_may_not_have_had_are_sent_again(stage: Stage) -> None:
    worker = _start(stage, SYNC, {})
    worker.ack = False
    worker.call("c-1", 30, credit=10)
    while len(worker.items) < 10:
        worker.read()
    worker.credit("c-1", 15)
    while len(worker.items) < 15:
        worker.read()
    again = stage.restart_server()
    assert again.held.ids == ["c-1"]
    again.credit("c-1", 31)
    assert again.result("c-1").outcome is Outcome.VALUE
    numbers = [number for number, _ in again.items]
    assert numbers == sorted(numbers)
    assert set(numbers) >= set(range(10, 30))
    assert dict(again.items) == {number: number for number in numbers}
    again.control.send(Drain())
    assert stage.agent.exited().status == 0
