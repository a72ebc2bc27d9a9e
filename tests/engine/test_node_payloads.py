"""A node's payloads: brought once, kept within a limit, dropped when they are over; the door for them."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stoker.core.calls import Segment
from stoker.engine.base import NodeGone
from stoker.engine.local.config import AgentConfig
from stoker.engine.local.data_links import DataLinks
from stoker.engine.local.node_payloads import LIMIT_VARIABLE, NodePayloads
from stoker.engine.local.payload_door import PayloadDoor
from stoker.errors import NotFound, StokerError
from stoker.transport.addresses import Address
from stoker.transport.node_segments import NodeSegments
from tests.engine.data_server import Wire, links_to, put_payload
from tests.engine.waiting import PATIENCE_SECONDS, until
from tests.server.harness import Running

BIG = random.Random(2).randbytes(2 << 20)
HERE = Address("127.0.0.1", 0)


@pytest.fixture
def running(start: Callable[..., Running]) -> Running:
    return start(listen=HERE)


@pytest.fixture
def wire(running: Running) -> Iterator[Wire]:
    made = Wire(running.door.address.port)
    yield made
    made.close()


@pytest.fixture
def links(running: Running, wire: Wire) -> Iterator[DataLinks]:
    made = links_to(running, wire)
    yield made
    made.close()


@pytest.fixture
async def payloads(links: DataLinks, tmp_path: Path) -> AsyncIterator[NodePayloads]:
    made = NodePayloads(tmp_path / "node", links, limit=5 << 20)
    yield made
    await made.close()
    assert not made.directory.exists()


def end_call(running: Running, payload: Segment) -> None:
    def end() -> None:
        running.server.discard([payload])
        running.server.flush()

    running.on_loop(end)


def names_in(payloads: NodePayloads) -> set[str]:
    return {path.name for path in payloads.directory.iterdir()}


async def test_many_who_ask_at_once_have_it_brought_once(running: Running, wire: Wire, payloads: NodePayloads) -> None:
    put_payload(running, "c-1.1.a", BIG)
    await asyncio.gather(*(payloads.bring("c-1.1.a") for _ in range(10)))
    await payloads.bring("c-1.1.a")
    assert (payloads.directory / "c-1.1.a").read_bytes() == BIG
    assert len(BIG) < wire.sent < 1.2 * len(BIG)


async def test_one_who_goes_away_takes_nothing_from_the_others(running: Running, payloads: NodePayloads) -> None:
    put_payload(running, "c-1.1.a", BIG)
    first, second = (asyncio.create_task(payloads.bring("c-1.1.a")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert names_in(payloads) == {"c-1.1.a"}


async def test_past_the_limit_the_least_recently_used_goes(running: Running, payloads: NodePayloads) -> None:
    for name in ("a", "b", "c"):
        put_payload(running, name, BIG)
    await payloads.bring("a")
    await payloads.bring("b")
    await payloads.bring("a")
    mapped = NodeSegments(payloads.directory, "/nowhere").map("b")
    await payloads.bring("c")
    assert names_in(payloads) == {"a", "c"}
    assert mapped == BIG, "who has it mapped keeps it"


async def test_what_workers_have_written_is_not_dropped(running: Running, payloads: NodePayloads) -> None:
    own = NodeSegments(payloads.directory, "/nowhere")
    own.write("r-w1-1-1", [BIG])
    own.write("r-w1-10-1", [BIG])
    put_payload(running, "a", BIG)
    await payloads.bring("a")
    payloads.drop_all()
    payloads.drop(["r-w1-1-1"])
    assert names_in(payloads) == {"r-w1-1-1", "r-w1-10-1"}
    payloads.forget_worker("w1-1")
    assert names_in(payloads) == {"r-w1-10-1"}


async def test_one_that_the_server_lacks_leaves_nothing(payloads: NodePayloads) -> None:
    with pytest.raises(NotFound):
        await payloads.bring("c-1.1.a")
    assert names_in(payloads) == set()


async def test_one_that_arrives_damaged_leaves_nothing(running: Running, wire: Wire, payloads: NodePayloads) -> None:
    put_payload(running, "c-1.1.a", BIG)
    wire.flips = 1000
    with pytest.raises(StokerError, match=r"arrived damaged at node n1 3 times: its digest is \w{8} here.* \w{8}\."):
        await payloads.bring("c-1.1.a")
    assert names_in(payloads) == set()


async def test_one_whose_call_ends_while_it_is_brought_is_not_kept(
    running: Running, payloads: NodePayloads, links: DataLinks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server says once that it may go."""
    put_payload(running, "c-1.1.a", BIG)
    arrived, go_on = threading.Event(), threading.Event()
    fetch = links.fetch

    def slow(*arguments: Any, **words: Any) -> int:
        size = fetch(*arguments, **words)
        arrived.set()
        go_on.wait(PATIENCE_SECONDS)
        return size

    monkeypatch.setattr(links, "fetch", slow)
    bringing = asyncio.create_task(payloads.bring("c-1.1.a"))
    await asyncio.to_thread(arrived.wait, PATIENCE_SECONDS)
    payloads.drop(["c-1.1.a"])
    go_on.set()
    with pytest.raises(NotFound):
        await bringing
    assert names_in(payloads) == set()
    monkeypatch.undo()
    await payloads.bring("c-1.1.a")  # another one, of whatever name
    assert names_in(payloads) == {"c-1.1.a"}


async def test_one_that_is_sent_while_it_is_deleted_is_dropped_as_well(running: Running, door: PayloadDoor) -> None:
    payload = put_payload(running, "c-1.1.a", BIG)
    delete = threading.Event()
    running.server.file_thread.submit(delete.wait, PATIENCE_SECONDS)
    end_call(running, payload)
    await asyncio.to_thread(segments_at(door).map, "c-1.1.a")
    delete.set()
    await until(lambda: not list(door.payloads.directory.iterdir()), what="the payload's end on the node")
    assert running.server.copies._nodes == {}


async def test_a_node_that_is_gone_is_owed_nothing(running: Running, links: DataLinks, payloads: NodePayloads) -> None:
    first, second = put_payload(running, "c-1.1.a", BIG), put_payload(running, "c-1.2.a", BIG)
    await payloads.bring("c-1.1.a")
    await payloads.bring("c-1.2.a")
    end_call(running, first)
    assert running.server.copies._owed
    running.on_loop(lambda: running.server.engine_event(NodeGone("n1", "it died")))
    end_call(running, second)
    assert running.server.copies._owed == {}


async def test_another_agent_takes_over_what_was_brought(
    running: Running, payloads: NodePayloads, links: DataLinks
) -> None:
    put_payload(running, "a", BIG)
    await payloads.bring("a")
    (payloads.directory / "+half").write_bytes(b"half of one")
    NodeSegments(payloads.directory, "/nowhere").write("r-w1-1-1", [BIG])
    other = NodePayloads(payloads.directory, links, limit=5 << 20)
    assert names_in(other) == {"a", "r-w1-1-1"}
    other.drop(["a"])
    assert names_in(other) == {"r-w1-1-1"}


def test_the_limit_is_chosen_by_a_variable(links: DataLinks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, "a lot")
    with pytest.raises(StokerError, match=LIMIT_VARIABLE):
        NodePayloads(tmp_path / "node", links)


# The door


@pytest.fixture
async def door(links: DataLinks, short_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PayloadDoor]:
    monkeypatch.setattr("stoker.paths.SHM_ROOT", short_path / "no-shm")
    run = short_path / "run"
    run.mkdir(mode=0o700)
    made = PayloadDoor(AgentConfig(run, short_path / "state", server="stoker://x:1", node="n1"), links)
    await made.open()
    yield made
    await made.close()
    assert not list(run.iterdir())


def segments_at(door: PayloadDoor) -> NodeSegments:
    return NodeSegments(door.payloads.directory, door._path)


async def test_a_worker_maps_what_was_not_there(running: Running, wire: Wire, door: PayloadDoor) -> None:
    put_payload(running, "c-1.1.a", BIG)
    views = await asyncio.gather(*(asyncio.to_thread(segments_at(door).map, "c-1.1.a") for _ in range(4)))
    assert all(view == BIG for view in views)
    views[0][0] ^= 1
    assert views[1] == BIG, "what one writes is seen by nobody else"
    assert wire.sent < 1.2 * len(BIG)


async def test_a_worker_is_told_what_is_gone(door: PayloadDoor) -> None:
    with pytest.raises(NotFound, match=r"c-1\.1\.a is gone: its call"):
        await asyncio.to_thread(segments_at(door).map, "c-1.1.a")


async def test_a_call_that_is_over_takes_its_payload_from_the_node(running: Running, door: PayloadDoor) -> None:
    payload = put_payload(running, "c-1.1.a", BIG)
    view = await asyncio.to_thread(segments_at(door).map, "c-1.1.a")
    end_call(running, payload)
    await until(lambda: not list(door.payloads.directory.iterdir()), what="the payload's end on the node")
    assert view == BIG


async def test_a_node_that_was_away_is_told_when_it_is_back(running: Running, wire: Wire, door: PayloadDoor) -> None:
    payload = put_payload(running, "c-1.1.a", BIG)
    await asyncio.to_thread(segments_at(door).map, "c-1.1.a")
    wire.cut()
    await until(lambda: not running.server.copies._watching, what="the end of the connection")
    end_call(running, payload)
    await until(lambda: not list(door.payloads.directory.iterdir()), what="the payload's end on the node")


async def test_what_is_no_request_is_answered_with_an_error(door: PayloadDoor) -> None:
    for line in (b"\n", b"[]\n", b'{"bring": "../x"}\n'):
        reader, writer = await asyncio.open_unix_connection(str(door._path))
        writer.write(line)
        assert b"InvalidRequest" in await reader.readline()
        writer.close()
    reader, writer = await asyncio.open_unix_connection(str(door._path))
    writer.write(b"x" * 10_000)
    assert await reader.read() == b""
    writer.close()
