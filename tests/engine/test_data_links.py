"""What a node fetches over its data connections, through a network that damages and cuts."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stoker.blobs.node_cache import NodeCache
from stoker.engine.local.data_links import TRIES, DataLinks
from stoker.engine.local.server_blobs import ServerBlobs
from stoker.errors import ConnectionFailed, InvalidRequest, NotFound, PermissionDenied, StokerError, StoreError
from stoker.transport.addresses import Address
from stoker.transport.tls import Trust
from tests.engine.data_server import Wire, links_to, put_payload
from tests.server.harness import Running

BIG = random.Random(1).randbytes(3 << 20)
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
def file(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path / "fetched", os.O_RDWR | os.O_CREAT, 0o600)
    yield opened
    os.close(opened)


def fetched(links: DataLinks, file: int, *, kind: str = "payload", name: str = "c-1.1.a", patience: float = 5) -> bytes:
    size = links.fetch(kind, name, file, announced=lambda _: None, patience=patience)
    assert os.fstat(file).st_size == size
    return os.pread(file, size + 1, 0)


@pytest.mark.parametrize("spilled", [False, True], ids=["shared", "spilled"])
def test_a_payload_arrives_wherever_it_lies(running: Running, links: DataLinks, file: int, *, spilled: bool) -> None:
    put_payload(running, "c-1.1.a", BIG, spilled=spilled)
    assert fetched(links, file) == BIG


def test_its_size_is_told_before_it_comes(running: Running, links: DataLinks, file: int) -> None:
    put_payload(running, "c-1.1.a", BIG)
    told: list[int] = []
    links.fetch("payload", "c-1.1.a", file, announced=told.append, patience=5)
    assert told == [len(BIG)]


def test_one_that_is_not_there(running: Running, wire: Wire, links: DataLinks, file: int) -> None:
    with pytest.raises(NotFound, match=r"c-1\.1\.a is gone"):
        fetched(links, file)
    put_payload(running, "c-1.1.a", BIG)
    assert fetched(links, file) == BIG
    assert wire.connections == 1, "an answer that there is nothing costs no connection"


@pytest.mark.parametrize("name", ["../worker.secret", "a/b", "", "+pool", "."])
def test_no_name_leads_out_of_the_directory(links: DataLinks, file: int, name: str) -> None:
    with pytest.raises(InvalidRequest, match="no name of a payload segment"):
        fetched(links, file, name=name)


def test_what_arrives_damaged_is_asked_for_again(running: Running, wire: Wire, links: DataLinks, file: int) -> None:
    put_payload(running, "c-1.1.a", BIG)
    wire.flips = TRIES - 1
    assert fetched(links, file) == BIG


def test_what_arrives_damaged_each_time_is_an_error(running: Running, wire: Wire, links: DataLinks, file: int) -> None:
    put_payload(running, "c-1.1.a", bytes(1 << 18))
    wire.flips = 1000
    with pytest.raises(StokerError, match=r"payload c-1\.1\.a of \d+ bytes arrived damaged at node n1 3 times.*read"):
        fetched(links, file)


def test_a_cut_amid_a_payload(running: Running, wire: Wire, links: DataLinks, file: int) -> None:
    put_payload(running, "c-1.1.a", BIG)
    wire.cut_after = 1 << 20
    assert fetched(links, file) == BIG
    assert wire.cuts == 1


def test_no_server(running: Running, wire: Wire, links: DataLinks, file: int) -> None:
    wire.close()
    with pytest.raises(ConnectionFailed, match="Node n1 can fetch nothing"):
        fetched(links, file, patience=0)


def test_a_closed_agent_waits_for_nothing(links: DataLinks, file: int) -> None:
    links.close()
    with pytest.raises(ConnectionFailed):
        fetched(links, file, patience=60)


def test_a_small_one_does_not_wait_for_a_big_one(running: Running, links: DataLinks, tmp_path: Path) -> None:
    put_payload(running, "big", BIG)
    put_payload(running, "small", b"small" * 100)
    began, go_on = threading.Event(), threading.Event()

    def hold(_: int) -> None:
        began.set()
        assert go_on.wait(10)

    def big() -> None:
        with (tmp_path / "big").open("wb") as out:
            links.fetch("payload", "big", out.fileno(), announced=hold, patience=5)

    thread = threading.Thread(target=big)
    thread.start()
    assert began.wait(10)
    with (tmp_path / "small").open("wb") as out:
        assert links.fetch("payload", "small", out.fileno(), announced=lambda _: None, patience=5) == 500
    go_on.set()
    thread.join(10)
    assert (tmp_path / "big").read_bytes() == BIG


def test_over_tls_and_only_with_the_nodes_own_token(start: Callable[..., Running], file: int) -> None:
    running = start(listen=Address("0.0.0.0", 0))
    put_payload(running, "c-1.1.a", BIG)
    address = Address("127.0.0.1", running.door.address.port)
    trust = Trust(running.door.fingerprint.removeprefix("sha256:"))
    tokens = running.server.node_tokens
    links = DataLinks(address, node="n1", token=tokens.token("n1"), trust=trust)
    assert fetched(links, file) == BIG
    links.close()
    for token in ("", tokens.token("n2"), running.server.tokens.token("n1"), running.token()):
        stranger = DataLinks(address, node="n1", token=token, trust=trust)
        with pytest.raises(PermissionDenied):
            fetched(stranger, file)
        stranger.close()


# Blobs


@pytest.fixture
def blobs(links: DataLinks, tmp_path: Path) -> ServerBlobs:
    return ServerBlobs(links, NodeCache(tmp_path / "cache", max_bytes=1 << 30))


def put_blob(running: Running, data: bytes, *, name: str = "") -> str:
    key = f"bundle/{name or hashlib.sha256(data).hexdigest()}"
    running.server.blobs.put(key, [data])
    return key


@pytest.mark.parametrize("data", [b"", b"x", BIG], ids=len)
def test_a_blob_is_fetched_once(running: Running, wire: Wire, blobs: ServerBlobs, data: bytes) -> None:
    key = put_blob(running, data)
    assert blobs.get(key) == data
    sent = wire.sent
    with blobs.open_mapped(key) as view:
        assert bytes(view) == data
    assert blobs.get(key, start=1, length=2) == data[1:3]
    assert wire.sent == sent
    assert blobs.has(key) and blobs.size(key) == len(data)


def test_a_blob_that_the_server_lacks(blobs: ServerBlobs) -> None:
    key = f"bundle/{'0' * 64}"
    assert not blobs.has(key)
    with pytest.raises(NotFound, match="no blob"):
        blobs.get(key)


def test_a_blob_that_is_corrupt_at_the_server(running: Running, blobs: ServerBlobs) -> None:
    key = put_blob(running, BIG, name="0" * 64)
    with pytest.raises(StoreError, match=r"is corrupt: what the server gave node n1, twice"):
        blobs.get(key)


def test_a_blob_that_is_damaged_on_its_way(running: Running, wire: Wire, blobs: ServerBlobs) -> None:
    key = put_blob(running, BIG)
    wire.flips = 1
    assert blobs.get(key) == BIG


def test_several_at_once_fetch_a_blob_once(running: Running, wire: Wire, blobs: ServerBlobs) -> None:
    key = put_blob(running, BIG)
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(blobs.get(key))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == [BIG] * 4
    assert wire.sent < 1.2 * len(BIG)


def test_a_node_only_reads(blobs: ServerBlobs) -> None:
    for change in (lambda: blobs.put("bundle/x", [b""]), lambda: blobs.delete("bundle/x"), blobs.keys):
        with pytest.raises(StoreError):
            change()
    with pytest.raises(InvalidRequest, match="named by their digests"):
        blobs.get("bundle/x")


def test_nodes_agree_on_the_lock_that_came_first(running: Running, wire: Wire, links: DataLinks) -> None:
    name = "0123456789abcdef" * 2 + "-3.11"
    assert links.agree(name, "") == ""
    assert links.agree(name, "six==1.16.0") == "six==1.16.0"
    wire.cut()
    assert links.agree(name, "six==1.15.0") == "six==1.16.0"
    with pytest.raises(InvalidRequest, match="no name of a lock"):
        links.agree("../../etc", "x")
    assert links.agree(name, "") == "six==1.16.0"  # on the same connection
