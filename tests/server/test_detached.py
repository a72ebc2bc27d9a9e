"""Detached calls: written down before anybody is told, and told to whoever asks, also after a restart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stoker.core.state import Limits
from stoker.protocol import messages as m
from stoker.store.base import AcceptedRow, ProgressRow, SettledRow
from stoker.store.sqlite import SqliteStore
from stoker.testing.seams import MemoryStore
from stoker.types import Outcome
from tests.waiting import wait_until

from .harness import GatedStore, Peer, Running, spec


def test_accepted_and_leased_only_after_the_commit(running: Running, client: Peer, key: str, store: GatedStore) -> None:
    store.gate.clear()
    client.submit(key, ["c-1.1"], detached=True)
    assert client.nothing(m.Accepted)
    assert not running.engine.specs
    store.gate.set()
    assert client.get(m.Accepted).ids == ["c-1.1"]
    worker = running.worker()
    assert worker.leased(1) == {"c-1.1": 1}


def test_a_worker_is_acknowledged_and_the_client_told_only_after_the_commit(
    running: Running, client: Peer, key: str, store: GatedStore
) -> None:
    client.submit(key, ["c-1.1"], detached=True)
    worker = running.worker()
    attempts = worker.leased(1)
    store.gate.clear()
    worker.finish(attempts, b"value")
    assert client.nothing(m.Results)
    links = running.server.worker_links(worker.id)
    wait_until(lambda: links.owed, message="the server owes the worker an acknowledgement")
    assert (links.seen, links.told) == (0, 0)
    store.gate.set()
    assert client.result_of("c-1.1") == (0, b"value")
    assert worker.leases.get(m.Ack).seq == 1


def test_a_call_that_cannot_be_written_down_is_refused_with_the_reason(
    running: Running, client: Peer, key: str, store: GatedStore
) -> None:
    store.refusing = "No space is left"
    client.submit(key, ["c-1.1"], detached=True)
    refused = client.get(m.RefusedCalls)
    assert (refused.ids, refused.error.type_name) == (["c-1.1"], "StoreError")
    assert "No space is left" in refused.error.message
    store.refusing = ""
    client.submit(key, ["c-1.1"], detached=True)
    assert client.get(m.Accepted).ids == ["c-1.1"]


def test_a_result_that_cannot_be_written_down_is_written_later_and_then_acknowledged(
    start: Callable[..., Running], store: GatedStore
) -> None:
    running = start(store=store, limits=Limits(persist_retry=0.05))
    client = running.client()
    key = running.register(client, spec())["f"]
    client.submit(key, ["c-1.1"], detached=True)
    worker = running.worker()
    attempts = worker.leased(1)
    store.refusing = "No space is left"
    worker.finish(attempts, b"value")
    wait_until(lambda: running.server.worker_links(worker.id).owed, message="the result was taken")
    assert client.nothing(m.Results)
    store.refusing = ""
    assert client.result_of("c-1.1") == (0, b"value")
    assert worker.leases.get(m.Ack).seq == 1
    assert not running.server._owed


def test_others_watch_a_call_while_it_runs_and_after(running: Running, client: Peer, key: str) -> None:
    client.submit(key, ["c-1.1"], detached=True)
    early = running.client("c-2")
    early.send(m.Watch(["c-1.1"]))
    assert early.nothing(m.Results)
    worker = running.worker()
    worker.finish(worker.leased(1), b"value")
    late = running.client("c-3")
    assert client.result_of("c-1.1") == early.result_of("c-1.1") == (0, b"value")
    late.send(m.Watch(["c-1.1"]))
    assert late.result_of("c-1.1") == (0, b"value")


def test_the_errors_of_settled_calls_come_from_the_store(running: Running, client: Peer, key: str) -> None:
    client.submit(key, ["c-1.1", "c-1.2"], detached=True)
    worker = running.worker()
    error = {"type_name": "builtins.ValueError", "message": "bad", "mro": ["builtins.ValueError"]}
    worker.finish(worker.leased(1), b"pickled", outcomes=[1], errors={"0": error})
    assert client.result_of("c-1.1") == (Outcome.ERROR, "builtins.ValueError")
    client.send(m.Cancel(["c-1.2"]))
    assert client.result_of("c-1.2") == (Outcome.CANCELLED, "CallCancelled")
    other = running.client("c-2")
    other.send(m.Watch(["c-1.1", "c-1.2"]))
    assert other.result_of("c-1.1") == (Outcome.ERROR, "builtins.ValueError")
    assert other.result_of("c-1.2") == (Outcome.CANCELLED, "CallCancelled")


def test_a_call_that_never_was_and_one_whose_result_has_expired(running: Running, client: Peer, key: str) -> None:
    client.submit(key, ["c-1.1"], detached=True)
    worker = running.worker()
    worker.finish(worker.leased(1))
    client.result_of("c-1.1")
    now = running.on_loop(lambda: running.server.now() + running.server.wall_offset)
    running.store.expire(running.server.epoch, finished_before=now + 60.0, now=now + 60.0)
    other = running.client("c-2")
    other.send(m.Watch(["c-1.1"]))
    assert other.result_of("c-1.1") == (Outcome.ERROR, "ResultExpired")
    other.send(m.Watch(["c-9.9"]))
    assert other.result_of("c-9.9") == (Outcome.ERROR, "NotFound")


def test_a_call_submitted_again_before_it_was_accepted_is_taken_once(
    running: Running, client: Peer, key: str, store: GatedStore
) -> None:
    store.gate.clear()
    client.submit(key, ["c-1.1"], detached=True)
    client.close()
    again = running.client()
    again.submit(key, ["c-1.1"], detached=True)
    store.gate.set()
    assert again.get(m.Accepted).ids == ["c-1.1"]
    again.submit(key, ["c-1.1"], detached=True)
    assert again.get(m.Accepted).ids == ["c-1.1"]
    worker = running.worker()
    worker.finish(worker.leased(1))
    assert again.result_of("c-1.1") == (0, b"out c-1.1")
    accepted = [row.id for rows in store.commits for row in rows if isinstance(row, AcceptedRow)]
    settled = [row.id for rows in store.commits for row in rows if isinstance(row, SettledRow)]
    assert (accepted, settled) == (["c-1.1"], ["c-1.1"])


def test_what_arrives_together_is_committed_together(running: Running, key: str, store: GatedStore) -> None:
    clients = [running.client(f"c-{n}") for n in range(2, 7)]
    store.gate.clear()
    for client in clients:
        client.submit(key, [f"{id(client)}.{n}" for n in range(10)], detached=True)
        assert client.nothing(m.Accepted)
    store.gate.set()
    for client in clients:
        assert len(client.get(m.Accepted).ids) == 10
    assert sum(map(len, store.commits)) == 50
    assert len(store.commits) <= 2


def test_big_payloads_are_kept_on_disk_until_their_call_is_settled(running: Running, client: Peer, key: str) -> None:
    files = running.server.files
    (files.segments / "c-1.1").write_bytes(b"big argument")
    client.submit(key, ["c-1.1"], b"", segments={"0": ["c-1.1", 12]}, detached=True)
    client.get(m.Accepted)
    assert (files.spill / "c-1.1").read_bytes() == b"big argument"
    assert not running.segments()
    worker = running.worker()
    lease, _ = worker.lease()
    assert lease.segments == {"0": ["c-1.1", 12]}
    (files.segments / "r-1").write_bytes(b"big value")
    worker.finish({"c-1.1": 1}, b"", segments={"0": ["r-1", 9]})
    results, _ = client.receive(m.Results)
    assert results.segments == {"0": ["r-1", 9]}
    client.send(m.Ack(results.seq))
    wait_until(lambda: not (files.spill / "c-1.1").exists(), message="the argument is deleted")
    other = running.client("c-2")
    other.send(m.Watch(["c-1.1"]))
    assert other.get(m.Results).segments == {"0": ["r-1", 9]}
    assert (files.spill / "r-1").read_bytes() == b"big value"


def test_a_payload_file_that_is_not_there_refuses_the_call(running: Running, client: Peer, key: str) -> None:
    client.submit(key, ["c-1.1"], b"", segments={"0": ["c-1.1", 12]}, detached=True)
    assert client.get(m.RefusedCalls).error.type_name == "StoreError"


@pytest.mark.parametrize("kind", ["sqlite", "memory"])
def test_a_restarted_server_takes_up_what_was_accepted(
    start: Callable[..., Running], tmp_path: Path, kind: str
) -> None:
    memory = MemoryStore().backing

    def opened() -> MemoryStore | SqliteStore:
        return MemoryStore(memory) if kind == "memory" else SqliteStore(tmp_path / "store.db")

    running = start(store=opened())
    client = running.client()
    key = running.register(client, spec(max_workers=1))["f"]
    client.submit(key, ["c-1.1", "c-1.2"], detached=True)
    assert client.get(m.Accepted).ids == ["c-1.1", "c-1.2"]
    worker = running.worker()
    worker.finish(worker.leased(1), b"value")
    assert client.result_of("c-1.1") == (0, b"value")

    running = start(store=opened())
    again = running.client()
    again.submit(key, ["c-1.1", "c-1.2"], detached=True)  # it did not hear that they were accepted
    accepted: set[str] = set()
    while len(accepted) < 2:
        accepted.update(again.get(m.Accepted).ids)
    assert again.result_of("c-1.1") == (0, b"value")
    worker = running.worker()
    lease, parts = worker.lease()
    assert (lease.ids, parts) == (["c-1.2"], [b"in c-1.2"])
    worker.finish({"c-1.2": lease.attempts[0]}, b"other")
    assert again.result_of("c-1.2") == (0, b"other")
    assert running.store.pending_count() == 0
    assert running.server.epoch == 2


def test_a_server_that_was_overtaken_stops_and_settles_nothing(start: Callable[..., Running]) -> None:
    store = MemoryStore()
    running = start(store=store)
    client = running.client()
    key = running.register(client, spec())["f"]
    client.submit(key, ["c-1.1"], detached=True)
    worker = running.worker()
    attempts = worker.leased(1)
    MemoryStore(store.backing).begin_term()
    worker.finish(attempts)
    wait_until(lambda: running.server.stopping.is_set(), message="the server stops")
    assert client.nothing(m.Results)
    assert store.pending_count() == 1


def test_a_result_that_the_store_will_not_take_fails_its_own_call_and_frees_its_worker(
    start: Callable[..., Running], store: GatedStore
) -> None:
    running = start(store=store, limits=Limits(persist_retry=0.01))
    client = running.client()
    key = running.register(client, spec(concurrency=3, max_workers=1))["f"]
    ids = ["c-1.1", "c-1.2", "c-1.3"]
    client.submit(key, ids, detached=True)
    worker = running.worker()
    attempts = worker.leased(3)
    store.poisoned = {b"poison"}
    worker.finish(attempts, b"one", b"poison", b"three")
    assert client.result_of("c-1.1") == (0, b"one")
    assert client.result_of("c-1.3") == (0, b"three")
    assert client.result_of("c-1.2") == (int(Outcome.ERROR), "StoreError")
    assert worker.leases.get(m.Ack).seq == 1
    assert not running.server._owed
    record = store.call("c-1.2")
    assert record is not None and record.settled is not None and record.settled.error is not None


def test_a_call_that_must_not_run_twice_is_leased_after_its_lease_is_written_down(
    running: Running, client: Peer, store: GatedStore
) -> None:
    key = running.register(client, spec("once", lost_retries=0, max_workers=1, min_workers=1))["once"]
    worker = running.worker()
    client.submit(key, ["c-1.1"], detached=True)
    worker.leased(1)
    assert any(isinstance(row, ProgressRow) and row.losses == 1 for row in store.commits[-1])
