"""Payload files with copies in a remote blob store: there before a call counts, fetched where they are missing."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from stoker.core.state import Limits
from stoker.errors import StoreError
from stoker.protocol import messages as m
from stoker.server import kept_sweeps
from stoker.server.blob_owner import claim, store_id
from stoker.store.base import SettledRow
from stoker.testing.seams import MemoryBacking, MemoryBlobStore
from tests.waiting import wait_until

from .harness import GatedStore, Peer, Running, spec

T = TypeVar("T")
PATIENCE_SECONDS = 10.0


class GatedBlobs(MemoryBlobStore):
    """Blobs whose writes wait at a gate, or are refused; so may reads be."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.refusing = ""

    def put(self, key: str, parts: Iterable[bytes | memoryview]) -> int:
        assert self.gate.wait(PATIENCE_SECONDS)
        if self.refusing:
            raise StoreError(self.refusing)
        return super().put(key, parts)

    def size(self, key: str) -> int:
        if self.refusing:
            raise StoreError(self.refusing)
        return super().size(key)

    def _found(self, key: str) -> bytes:
        if self.refusing:
            raise StoreError(self.refusing)
        return super()._found(key)


@pytest.fixture
def blobs() -> GatedBlobs:
    return GatedBlobs()


@pytest.fixture
def running(start: Callable[..., Running], store: GatedStore, blobs: GatedBlobs) -> Running:
    return start(store=store, payload_blobs=blobs, limits=Limits(persist_retry=0.05))


def submit_big(running: Running, client: Peer, key: str, call_id: str = "c-1.1") -> None:
    (running.server.files.segments / call_id).write_bytes(b"big argument")
    client.submit(key, [call_id], b"", segments={"0": [call_id, 12]}, detached=True)


def test_an_argument_is_kept_before_its_call_is_accepted(
    running: Running, client: Peer, key: str, store: GatedStore, blobs: GatedBlobs
) -> None:
    blobs.gate.clear()
    submit_big(running, client, key)
    assert client.nothing(m.Accepted)
    assert not store.commits
    blobs.gate.set()
    assert client.get(m.Accepted).ids == ["c-1.1"]
    assert blobs.get("payload/c-1.1") == b"big argument"


def test_small_calls_do_not_wait_for_big_ones(running: Running, client: Peer, key: str, blobs: GatedBlobs) -> None:
    blobs.gate.clear()
    submit_big(running, client, key)
    client.submit(key, ["c-1.2"], detached=True)
    assert client.get(m.Accepted).ids == ["c-1.2"]
    blobs.gate.set()
    assert client.get(m.Accepted).ids == ["c-1.1"]


def test_a_call_whose_argument_cannot_be_kept_is_refused_with_the_reason(
    running: Running, client: Peer, key: str, blobs: GatedBlobs
) -> None:
    blobs.refusing = "S3 answered 503"
    submit_big(running, client, key)
    refused = client.get(m.RefusedCalls)
    assert (refused.ids, refused.error.type_name) == (["c-1.1"], "StoreError")
    assert "S3 answered 503" in refused.error.message
    wait_until(lambda: not running.segments(), message="the refused argument is deleted")


def test_a_result_that_cannot_be_kept_is_settled_later(
    running: Running, client: Peer, key: str, blobs: GatedBlobs
) -> None:
    client.submit(key, ["c-1.1"], detached=True)
    worker = running.worker()
    attempts = worker.leased(1)
    blobs.refusing = "S3 answered 503"
    (running.server.files.segments / "r-1").write_bytes(b"big value")
    worker.finish(attempts, b"", segments={"0": ["r-1", 9]})
    assert client.nothing(m.Results)
    blobs.refusing = ""
    results, _ = client.receive(m.Results)
    assert results.segments == {"0": ["r-1", 9]}
    assert blobs.get("payload/r-1") == b"big value"
    assert worker.leases.get(m.Ack).seq == 1


def test_a_server_on_another_machine_goes_on_with_what_was_kept(
    start: Callable[..., Running], blobs: GatedBlobs
) -> None:
    backing = MemoryBacking()
    limits = Limits(persist_retry=0.05)
    before = start(store=GatedStore(backing), payload_blobs=blobs, limits=limits)
    client = before.client()
    key = before.register(client, spec(max_workers=1))["f"]
    submit_big(before, client, key, "c-1.1")
    client.get(m.Accepted)
    worker = before.worker()
    (before.server.files.segments / "r-1").write_bytes(b"big value")
    worker.finish(worker.leased(1), b"", segments={"0": ["r-1", 9]})
    client.receive(m.Results)
    submit_big(before, client, key, "c-1.2")
    client.get(m.Accepted)
    before.stop()
    shutil.rmtree(before.config.spill)
    blobs.refusing = "S3 answered 503"
    after = start(store=GatedStore(backing), payload_blobs=blobs, limits=limits)
    watcher = after.client("c-2")
    watcher.send(m.Watch(["c-1.1"]))
    assert watcher.nothing(m.Results), "a failure that passes settles nothing"
    blobs.refusing = ""
    results, _ = watcher.receive(m.Results)
    assert results.segments == {"0": ["r-1", 9]}
    assert (after.config.spill / "r-1").read_bytes() == b"big value"
    wait_until(lambda: after.on_loop(lambda: "c-1.2" in after.server.plane.state.calls))
    assert (after.config.spill / "c-1.2").read_bytes() == b"big argument"


def test_a_server_that_ends_waits_for_what_is_being_kept(
    running: Running, client: Peer, key: str, store: GatedStore, blobs: GatedBlobs
) -> None:
    client.submit(key, ["c-1.1"], detached=True)
    worker = running.worker()
    attempts = worker.leased(1)
    blobs.gate.clear()
    (running.server.files.segments / "r-1").write_bytes(b"big value")
    worker.finish(attempts, b"", segments={"0": ["r-1", 9]})
    wait_until(lambda: running.server.worker_links(worker.id).owed, message="the result was taken")
    ending = threading.Thread(target=running.stop)
    ending.start()
    wait_until(lambda: running.done.is_set())
    blobs.gate.set()
    ending.join()
    settled = [row for rows in store.commits for row in rows if isinstance(row, SettledRow)]
    assert [(row.id, row.payload_blob) for row in settled] == [("c-1.1", "r-1")]


def test_copies_go_with_their_call_and_with_retention(
    running: Running, client: Peer, key: str, blobs: GatedBlobs
) -> None:
    submit_big(running, client, key)
    client.get(m.Accepted)
    worker = running.worker()
    (running.server.files.segments / "r-1").write_bytes(b"big value")
    worker.finish(worker.leased(1), b"", segments={"0": ["r-1", 9]})
    results, _ = client.receive(m.Results)
    client.send(m.Ack(results.seq))
    wait_until(lambda: not blobs.has("payload/c-1.1"), message="the argument's copy is deleted")
    assert blobs.has("payload/r-1")
    running.server.files.forget(["r-1"])
    wait_until(lambda: not blobs.has("payload/r-1"), message="the result's copy is deleted")
    assert not (running.config.spill / "r-1").exists()


def on_server(running: Running, work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run_coroutine_threadsafe(work, running.server.loop).result(PATIENCE_SECONDS)


def test_copies_that_nothing_names_go_at_the_second_look(
    running: Running, client: Peer, key: str, blobs: GatedBlobs
) -> None:
    submit_big(running, client, key, "c-1.1.a")
    client.get(m.Accepted)
    for name in ("c-gone.1.a", "r-w9-9-1", "c-1.9.a"):
        blobs.put(f"payload/{name}", [b"x"])
    kept = running.server.files.kept
    assert kept is not None
    seen = on_server(running, kept_sweeps.sweep_copies(running.server, kept, set()))
    assert seen == {"c-gone.1.a", "r-w9-9-1"}
    assert len(blobs.keys("payload")) == 4
    assert on_server(running, kept_sweeps.sweep_copies(running.server, kept, {"c-gone.1.a"})) == {"r-w9-9-1"}
    wait_until(lambda: not blobs.has("payload/c-gone.1.a"))
    assert blobs.keys("payload") == ["payload/c-1.1.a", "payload/c-1.9.a", "payload/r-w9-9-1"]


def test_files_that_are_kept_elsewhere_make_room_those_used_longest_ago_first(
    running: Running, client: Peer, key: str, blobs: GatedBlobs
) -> None:
    submit_big(running, client, key)
    client.get(m.Accepted)
    spill = running.config.spill
    for age, name in enumerate(("only-here", "new", "old")):
        (spill / name).write_bytes(b"x" * 1000)
        if name != "only-here":
            blobs.put(f"payload/{name}", [b"x" * 1000])
        when = time.time() - 3600 * (1 + age)
        os.utime(spill / name, (when, when))
    os.utime(spill / "c-1.1", (0, 0))
    kept = running.server.files.kept
    assert kept is not None
    assert on_server(running, kept_sweeps.make_room(running.server, kept, limit=2500)) == ["old"]
    assert on_server(running, kept_sweeps.make_room(running.server, kept, limit=0)) == ["new"]
    assert sorted(path.name for path in spill.iterdir()) == ["c-1.1", "only-here"]


def test_a_prefix_belongs_to_one_store(tmp_path: Path) -> None:
    blobs = MemoryBlobStore()
    mine, other = tmp_path / "mine", tmp_path / "other"
    mine.mkdir()
    other.mkdir()
    claim(blobs, store_id(mine), place="s3://b/p", state_dir=mine)
    claim(blobs, store_id(mine), place="s3://b/p", state_dir=mine)
    with pytest.raises(StoreError, match=rf"s3://b/p belong to another server \(.*{mine}\).*prefix of its own"):
        claim(blobs, store_id(other), place="s3://b/p", state_dir=other)
    blobs.put("owner/server", [b"scribble"])
    with pytest.raises(StoreError, match="something else"):
        claim(blobs, store_id(mine), place="s3://b/p", state_dir=mine)
