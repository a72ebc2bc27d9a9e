"""What must not be lost over restarts and failures: stored results, answers, and who waits."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stoker.core.state import Limits
from stoker.engine.base import Grant, RunningWorker
from stoker.errors import StokerError
from stoker.protocol import messages as m
from stoker.server import sessions
from stoker.store.base import AcceptedRow
from stoker.testing.seams import MemoryStore
from tests.waiting import wait_until

from .harness import GatedStore, Peer, Running, spec
from .test_restart import SurvivingEngine


def test_a_result_sent_again_after_a_restart_does_not_cost_the_stored_one(start: Callable[..., Running]) -> None:
    store = MemoryStore()
    before = start(store=store)
    client = before.client()
    key = before.register(client, spec(max_workers=1))["f"]
    client.submit(key, ["c-1.1"], detached=True)
    worker = before.worker()
    (before.config.segments / "r-1").write_bytes(b"big")
    worker.finish(worker.leased(1), b"", segments={"0": ["r-1", 3]})
    client.get(m.Results)
    before.on_loop(lambda: before.engine._up.clear())
    engine = SurvivingEngine()
    after = start(store=MemoryStore(store.backing), engine=engine, limits=Limits(client_grace=0.2))
    after.on_loop(lambda: engine.join(RunningWorker(worker.id, key, 42, Grant("g-old", "fake", 1.0))))
    again = after.worker(worker.id, fresh=False)
    again.finish({"c-1.1": 1}, b"", segments={"0": ["r-1", 3]})
    again.leases.get(m.Ack)
    wait_until(lambda: not after.on_loop(lambda: after.server.plane.state.held), message="nobody asked for it")
    after.on_loop(after.server.file_thread.submit(int).result)
    assert (after.config.spill / "r-1").read_bytes() == b"big"


def test_a_request_that_the_server_fails_at_is_answered(
    running: Running, client: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setitem(running.server.verbs._verbs, "status", broken)
    with pytest.raises(StokerError, match="'status'"):
        client.ask("status")


def test_what_a_client_was_away_for_comes_in_frames_of_bearable_size(
    running: Running, client: Peer, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "FRAME_BYTES", 20)
    ids = [f"c-1.{i}" for i in range(5)]
    client.submit(key, ids)
    worker = running.worker()
    client.close()
    for _ in ids:
        worker.finish(worker.leased(1), b"0123456789")
    wait_until(lambda: len(running.server.sessions["c-1"].outbox) == 5, message="all have ended")
    client = running.client()
    assert [len(client.get(m.Results).ids) for _ in range(3)] == [2, 1, 2]
    client.send(m.Ack(3))
    wait_until(lambda: not running.server.sessions["c-1"].outbox, message="all are acknowledged")


def test_who_waits_for_a_call_that_cannot_be_restored_is_told(start: Callable[..., Running]) -> None:
    store = GatedStore()
    store.write(store.begin_term(), [AcceptedRow(1, "c-0.1", "no such function", "c-0", 0, 1.0)])
    store.gate.clear()
    running = start(store=store)
    client = running.client()
    client.send(m.Watch(["c-0.1"]))
    assert client.nothing(m.Results)
    store.gate.set()
    assert client.result_of("c-0.1")[1] == "NotFound"


def test_a_run_whose_program_does_not_come_back_is_retired(start: Callable[..., Running]) -> None:
    store = MemoryStore()
    before = start(store=store)
    key = before.register(before.client(), spec(min_workers=1))["f"]
    worker = before.worker()
    wait_until(lambda: store.function(key) is not None, message="the function is kept")
    before.on_loop(lambda: before.engine._up.clear())
    engine = SurvivingEngine()
    after = start(store=MemoryStore(store.backing), engine=engine)
    after.on_loop(lambda: engine.join(RunningWorker(worker.id, key, 42, Grant("g-old", "fake", 1.0))))
    again = after.worker(worker.id, fresh=False)
    after.on_loop(after.server._retire_unclaimed)
    assert again.control.get(m.Drain).reason


def test_what_a_worker_has_finished_counts_though_its_end_is_told_first(running: Running, client: Peer) -> None:
    key = running.register(client, spec(max_workers=1, lost_retries=0))["f"]
    client.submit(key, ["c-1.1"])
    worker = running.worker()
    attempts = worker.leased(1)

    def end() -> None:
        worker.finish(attempts, b"done")
        worker.close()
        running.engine.fail(worker.id)

    running.on_loop(end)
    assert client.result_of("c-1.1") == (0, b"done")
    wait_until(lambda: not running.server.plane.state.workers, message="its end is taken in")


def test_a_worker_whose_socket_somebody_else_holds_open_has_ended(running: Running, client: Peer) -> None:
    key = running.register(client, spec(max_workers=1, lost_retries=0))["f"]
    client.submit(key, ["c-1.1"])
    worker = running.worker()
    worker.leased(1)
    running.on_loop(lambda: running.engine.fail(worker.id))
    assert client.result_of("c-1.1")[1] == "WorkerLost"


def test_calls_taken_in_before_a_restart_are_not_refused_after_it(start: Callable[..., Running]) -> None:
    store = MemoryStore()
    before = start(store=store)
    key = before.register(before.client(), spec(max_pending=2, max_workers=1))["f"]
    wait_until(lambda: store.function(key) is not None, message="the function is kept")
    after = start(store=MemoryStore(store.backing))
    client = after.client()
    ids = [f"c-1.{i}" for i in range(5)]
    client.submit(key, ids)
    worker = after.worker()
    for _ in ids:
        worker.finish(worker.leased(1))
    assert {call_id: client.result_of(call_id)[0] for call_id in ids} == dict.fromkeys(ids, 0)


@pytest.mark.parametrize("detached", [False, True])
def test_a_result_whose_file_is_gone_is_made_again(running: Running, client: Peer, key: str, detached: bool) -> None:
    client.submit(key, ["c-1.1"], detached=detached)
    worker = running.worker()
    worker.finish(worker.leased(1), b"", segments={"0": ["r-gone", 3]})
    worker.finish(worker.leased(1), b"here")
    assert client.result_of("c-1.1") == (0, b"here")
