"""What a worker has to hand over, seen from two threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from stoker.runner.attempts import Attempt, Desk
from stoker.runner.outbox import EncodedFrame, Outbox, ResultBatch
from stoker.types import Outcome


def test_results_that_another_thread_is_about_to_send_keep_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would end with a result that nobody has: the call would be run again."""
    taken, go_on = threading.Event(), threading.Event()
    frame = ResultBatch.frame

    def slowly(batch: ResultBatch, seq: int) -> EncodedFrame:
        taken.set()
        assert go_on.wait(10)
        return frame(batch, seq)

    monkeypatch.setattr(ResultBatch, "frame", slowly)
    desk = Desk()
    outbox = Outbox(desk, "w")
    outbox.add(Attempt("c-1", 1, memoryview(b""), None, 0), Outcome.VALUE, b"v", now=1.0)
    with ThreadPoolExecutor() as threads:
        flushed = threads.submit(outbox.flush)
        assert taken.wait(10)
        with desk.lock:
            assert outbox.finished_keys() == {("c-1", 1)}, "what has run must not be given back as never begun"
        found = threads.submit(lambda: outbox.is_empty)
        go_on.set()
        flushed.result(10)
        assert not found.result(10)
    outbox.acknowledged(1)
    assert outbox.is_empty
