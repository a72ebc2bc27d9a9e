"""Waiting for detached calls by their handles, of which a program may have a hundred thousand."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from stoker.engine.fake import FakeEngine
from stoker.errors import StoreError
from stoker.protocol import messages as m
from stoker.server import watching
from stoker.server.watching import IDS_AT_ONCE
from stoker.store.base import AcceptedRow, CallRecord, SettledRow
from stoker.store.memory import MemoryBacking, MemoryStore
from stoker.types import CallState

from .harness import Running, spec

MANY = 100_000


class SlowStore(MemoryStore):
    """A store that takes its time to look a call up, or refuses to."""

    def __init__(self, backing: MemoryBacking | None = None) -> None:
        super().__init__(backing)
        self.readable = threading.Event()
        self.reading = threading.Event()
        self.refusals = 0

    def call(self, call_id: str) -> CallRecord | None:
        self.reading.set()
        assert self.readable.wait(10.0)
        if self.refusals:
            self.refusals -= 1
            raise StoreError("the disk failed")
        return super().call(call_id)


def settled(store: MemoryStore, count: int) -> list[str]:
    """Have calls in a store that an earlier term has settled; return their ids."""
    epoch = store.begin_term()
    ids = [f"c-old.{n}" for n in range(1, count + 1)]
    store.write(epoch, [AcceptedRow(n, one, "f", "c-old", 0, 1.0) for n, one in enumerate(ids, 1)])
    state = CallState.SUCCEEDED
    store.write(epoch, [SettledRow(n, one, state, time.time(), 1, b"v") for n, one in enumerate(ids, 1)])
    return ids


def test_the_loop_goes_on_while_many_handles_are_looked_up(start: Callable[..., Running]) -> None:
    store = MemoryStore()
    ids = settled(store, MANY)
    running = start(store=store, engine=FakeEngine(automatic=False))
    client = running.client()
    gaps: list[float] = []
    over = threading.Event()

    async def beat() -> None:
        before = time.perf_counter()
        while not over.is_set():
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            gaps.append(now - before)
            before = now

    beating = asyncio.run_coroutine_threadsafe(beat(), running.loop)
    client.send(m.Watch(ids))
    found: set[str] = set()
    while len(found) < MANY:
        found.update(client.receive(m.Results)[0].ids)
    over.set()
    beating.result(10.0)
    # The collector, and the other thread of this process, hold the loop up now and then as well.
    assert sorted(gaps)[int(0.98 * len(gaps))] < 0.02, "the loop was held up"
    assert len(gaps) > MANY / IDS_AT_ONCE / 2
    assert not running.server.watches._watchers


def test_a_call_that_ends_while_it_is_looked_up_is_told_once(start: Callable[..., Running]) -> None:
    store = SlowStore()
    (call_id,) = settled(store, 1)
    running = start(store=store)
    client = running.client()
    client.send(m.Watch([call_id]))
    assert store.reading.wait(10.0)
    client.send(m.Watch([call_id]))
    assert client.nothing(m.Results)
    store.readable.set()
    assert client.result_of(call_id) == (0, b"v")
    assert client.nothing(m.Results)
    assert not running.server.watches._watchers


def test_a_store_that_cannot_be_read_is_asked_again(
    start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SlowStore()
    (call_id,) = settled(store, 1)
    store.refusals = 2
    store.readable.set()
    monkeypatch.setattr(watching, "RETRY_SECONDS", 0.01)
    client = start(store=store).client()
    client.send(m.Watch([call_id, "c-never.1"]))
    assert client.result_of(call_id) == (0, b"v")
    assert client.result_of("c-never.1")[1] == "NotFound"


def test_open_calls_are_told_as_they_end(running: Running) -> None:
    first, second = running.client("c-1"), running.client("c-2")
    key = running.register(first, spec(max_workers=1))["f"]
    first.submit(key, ["c-1.1"], detached=True)
    first.get(m.Accepted)
    second.send(m.Watch(["c-1.1"]))
    assert second.nothing(m.Results)
    worker = running.worker()
    worker.finish(worker.leased(1), b"value")
    assert second.result_of("c-1.1") == first.result_of("c-1.1") == (0, b"value")
