"""Generators over the wire: items in order, as far as the reader has room, and once each whatever breaks."""

from __future__ import annotations

from contextlib import suppress

import pytest

from stoker.errors import ConnectionFailed
from stoker.protocol import messages as m
from stoker.types import Outcome
from tests.waiting import wait_until

from .harness import Peer, Running, ScriptedWorker, spec


@pytest.fixture
def key(running: Running, client: Peer) -> str:
    return running.register(client, spec("g", kind="generator", max_workers=1))["g"]


@pytest.fixture
def worker(running: Running, client: Peer, key: str) -> ScriptedWorker:
    """A worker that has been leased the stream c-1.1."""
    client.submit(key, ["c-1.1"], kind="stream")
    worker = running.worker()
    lease, _ = worker.lease()
    assert (lease.ids, lease.attempts, lease.credits) == (["c-1.1"], [1], [64])
    return worker


def give(worker: ScriptedWorker, first: int, *items: bytes, attempt: int = 1) -> None:
    worker.leases.send(m.Items("c-1.1", attempt, first, list(map(len, items))), *items)


def take(client: Peer, count: int) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while len(found) < count:
        items, parts = client.receive(m.Items)
        found.update(enumerate(parts, items.first))
    return found


def test_items_come_in_order_and_the_result_ends_them(client: Peer, worker: ScriptedWorker) -> None:
    give(worker, 0, b"a", b"b")
    give(worker, 2, b"c")
    assert take(client, 3) == {0: b"a", 1: b"b", 2: b"c"}
    worker.finish({"c-1.1": 1}, b"")
    assert client.result_of("c-1.1") == (0, b"")


def test_the_readers_credit_reaches_the_worker(client: Peer, worker: ScriptedWorker) -> None:
    client.send(m.StreamCredit("c-1.1", 96))
    assert worker.leases.get(m.StreamCredit) == m.StreamCredit("c-1.1", 96)
    client.send(m.StreamCredit("c-1.1", 80))  # of an earlier moment: it gives nothing
    client.send(m.StreamCredit("c-1.1", 128))
    assert worker.leases.get(m.StreamCredit).upto == 128


def test_items_not_read_are_sent_again_after_a_reconnect(
    running: Running, client: Peer, worker: ScriptedWorker
) -> None:
    give(worker, 0, b"a", b"b", b"c")
    take(client, 3)
    client.send(m.StreamCredit("c-1.1", 64 + 2))  # it has read two
    worker.leases.get(m.StreamCredit)
    client.close()
    give(worker, 3, b"d")
    again = running.client()
    assert take(again, 2) == {2: b"c", 3: b"d"}
    give(worker, 4, b"e")
    assert take(again, 1) == {4: b"e"}


def test_the_last_items_are_not_lost_when_the_stream_ends_while_its_reader_is_away(
    running: Running, client: Peer, worker: ScriptedWorker
) -> None:
    client.close()
    give(worker, 0, b"a", b"b")
    worker.finish({"c-1.1": 1}, b"")
    assert worker.leases.get(m.Ack).seq == 1
    again = running.client()
    assert take(again, 2) == {0: b"a", 1: b"b"}
    assert again.result_of("c-1.1") == (0, b"")
    again.close()  # once more: nothing of it was acknowledged
    once_more = running.client()
    assert take(once_more, 2) == {0: b"a", 1: b"b"}
    results, _ = once_more.receive(m.Results)
    once_more.send(m.Ack(results.seq))
    wait_until(lambda: not running.server.sessions["c-1"].streams, message="its items are forgotten")


def test_after_a_retry_the_stream_goes_on_where_it_was(running: Running, client: Peer, worker: ScriptedWorker) -> None:
    give(worker, 0, b"a", b"b")
    take(client, 2)
    running.on_loop(lambda: running.engine.fail(worker.id))
    wait_until(lambda: len(running.engine.specs) == 2, message="another worker was ordered")
    second = running.worker()
    lease, _ = second.lease()
    assert lease.attempts == [2]
    with suppress(ConnectionFailed):  # it counts as lost: the server may have hung up
        give(worker, 2, b"stale")
    give(second, 0, b"A", b"B", b"C", attempt=2)
    assert take(client, 1) == {2: b"C"}


def test_a_reader_that_closes_cancels_the_generator(client: Peer, worker: ScriptedWorker) -> None:
    client.send(m.Cancel(["c-1.1"], "closed"))
    assert worker.control.get(m.CancelAttempts).reason == "closed"
    assert client.result_of("c-1.1") == (Outcome.CANCELLED, "CallCancelled")


def test_big_items_are_deleted_when_they_were_read_or_their_stream_is_over(
    running: Running, client: Peer, worker: ScriptedWorker
) -> None:
    segments = running.config.segments
    for number in range(3):
        (segments / f"i-{number}").write_bytes(b"big")
    columns = {str(n): [f"i-{n}", 3] for n in range(3)}
    worker.leases.send(m.Items("c-1.1", 1, 0, [0, 0, 0], columns))  # type: ignore[arg-type]
    assert client.get(m.Items).segments == columns
    client.send(m.StreamCredit("c-1.1", 64 + 1))
    wait_until(lambda: running.segments() == {"i-1", "i-2"}, message="the one that was read is deleted")
    worker.finish({"c-1.1": 1}, b"")
    results, _ = client.receive(m.Results)
    assert running.segments() == {"i-1", "i-2"}
    client.send(m.Ack(results.seq))
    wait_until(lambda: not running.segments(), message="all are deleted")
