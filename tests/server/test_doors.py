"""The door to the network: who is let in, what strangers can do (little), and bodies of any size."""

from __future__ import annotations

import hashlib
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stoker._version import __version__
from stoker.errors import ConnectionFailed, InvalidRequest, PermissionDenied, ProtocolError, StokerError
from stoker.protocol import messages as m
from stoker.protocol.frames import PART_BYTES, encode_prefix
from stoker.server import doors, remote_link
from stoker.server import link as links
from stoker.server.certificates import given_certificate, own_certificate
from stoker.server.doors import open_listener
from stoker.store.memory import MemoryBacking, MemoryStore
from stoker.transport.addresses import Address
from stoker.transport.segments import INLINE_MAX_BYTES
from stoker.transport.sockets import FrameSocket, greet
from stoker.transport.tcp import connect_tcp
from stoker.transport.tls import Trust
from tests.waiting import wait_until

from .harness import PATIENCE_SECONDS, Running, spec

HERE = Address("127.0.0.1", 0)
EVERYWHERE = Address("0.0.0.0", 0)  # not loopback, so TLS is wanted, and reached by it all the same
BIG = 3 * INLINE_MAX_BYTES + 17


@pytest.fixture
def plain(start: Callable[..., Running]) -> Running:
    """A server with a door on loopback."""
    return start(listen=HERE)


@pytest.fixture
def tls(start: Callable[..., Running]) -> Running:
    """A server with a door to the network, and a certificate of its own."""
    return start(listen=EVERYWHERE)


@pytest.fixture(params=[HERE, EVERYWHERE], ids=["plain", "tls"])
def door(request: pytest.FixtureRequest, start: Callable[..., Running]) -> Running:
    return start(listen=request.param)


@pytest.fixture
def stranger(plain: Running) -> Iterator[socket.socket]:
    with plain.knock() as sock:
        yield sock


def trust_of(running: Running) -> Trust | None:
    found = running.door.fingerprint
    return Trust(found.removeprefix("sha256:")) if found else None


def said_to(sock: socket.socket) -> str:
    """Return what the server says to a stranger before it closes the connection."""
    frames = FrameSocket(sock)
    answer = frames.receive().message
    assert isinstance(answer, m.Rejected)
    with pytest.raises(ConnectionFailed):
        frames.receive()
    return f"{answer.type_name}: {answer.message}"


# Who is let in


def test_a_program_with_a_token_is_let_in(door: Running) -> None:
    client = door.remote(trust=trust_of(door))
    assert client.welcome is not None
    assert (client.welcome.segments, client.welcome.spill) == ("", "")
    assert client.welcome.freeze
    facts = client.ask("status")["doors"]
    assert [fact["kind"] for fact in facts] == ["unix", "tcp"]
    assert facts[1]["connections"] == 1
    assert facts[1]["tls"] == bool(trust_of(door))


@pytest.mark.parametrize("token", ["wrong", "stoker-12345678-abc"])
def test_a_wrong_token(door: Running, token: str) -> None:
    with pytest.raises(PermissionDenied, match=r"does not know the token.*stoker tokens list"):
        door.remote(token=token, trust=trust_of(door))
    assert not door.server.sessions


def test_no_token(plain: Running) -> None:
    frames = connect_tcp(plain.door.address, timeout=PATIENCE_SECONDS)
    with pytest.raises(PermissionDenied, match=r"wants a token over TCP.*stoker tokens create"):
        greet(frames, role="client", name="c-1")
    frames.close()


def test_other_roles_do_not_come_over_tcp(plain: Running) -> None:
    frames = connect_tcp(plain.door.address, timeout=PATIENCE_SECONDS)
    with pytest.raises(PermissionDenied, match="over TCP as 'king'"):
        greet(frames, role="king", name="w1-1", token=plain.token())
    frames.close()


@pytest.mark.parametrize("role", ["worker", "control", "agent", "node"])
def test_a_programs_token_is_none_of_a_worker_or_node(plain: Running, role: str) -> None:
    frames = connect_tcp(plain.door.address, timeout=PATIENCE_SECONDS)
    with pytest.raises(PermissionDenied, match="not one that this server has given to a"):
        greet(frames, role=role, name="w1-1", token=plain.token())
    frames.close()


def test_each_token_is_good_for_its_own_name_and_role(plain: Running) -> None:
    worker, node = plain.server.tokens.token("w1-1"), plain.server.node_tokens.token("n1")
    for role, name, token in (
        ("worker", "w1-2", worker),
        ("agent", "w1-1", worker),
        ("agent", "n2", node),
        ("worker", "n1", node),
        ("client", "n1", node),
    ):
        frames = connect_tcp(plain.door.address, timeout=PATIENCE_SECONDS)
        with pytest.raises(PermissionDenied):
            greet(frames, role=role, name=name, token=token)
        frames.close()


def test_a_workers_token_is_good_for_its_own_client(plain: Running) -> None:
    plain.remote(token=plain.server.tokens.token("w1-1"))
    (session,) = plain.server.sessions.values()
    assert (session.owner, session.is_remote, session.files) == ("w1-1", True, None)


@pytest.mark.parametrize("name", ["", "c-1/../x", "r-1", "c-" + "x" * 65])
def test_a_session_has_the_name_of_one(plain: Running, name: str) -> None:
    token = plain.token()
    with pytest.raises(InvalidRequest, match="no name of a session"):
        plain.remote(name, token=token)


def test_the_session_of_somebody_else(plain: Running) -> None:
    plain.client("c-1")
    one = plain.token("one")
    plain.remote("c-2", token=one)
    plain.remote("c-2", token=one)
    for name in ("c-1", "c-2"):
        with pytest.raises(PermissionDenied, match="somebody else"):
            plain.remote(name, token=plain.token(f"for {name}"))
    with pytest.raises(PermissionDenied, match="somebody else"):
        plain.client("c-2")


def test_a_revoked_token_closes_its_connections_and_cancels_their_calls(plain: Running) -> None:
    here, token = plain.client(), plain.token("laptop")
    client = plain.remote("c-2", token=token)
    key = plain.register(client, spec())["f"]
    client.submit(key, ["c-2.1"])
    wait_until(lambda: "c-2.1" in plain.server.plane.state.calls, message="the call is there")
    here.ask("token_revoke", name="laptop")
    rejected = client.get(m.Rejected)
    assert "revoked" in rejected.message
    assert client.is_closed()
    assert "c-2.1" not in plain.server.plane.state.calls
    with pytest.raises(PermissionDenied, match="revoked"):
        plain.remote("c-2", token=token)
    assert here.ask("tokens") == []


@pytest.mark.parametrize("verb", ["shutdown", "tokens", "token_create", "token_revoke"])
def test_what_is_for_the_servers_own_machine(plain: Running, verb: str) -> None:
    client = plain.remote()
    with pytest.raises(PermissionDenied, match="server's own machine only"):
        client.ask(verb, name="another")
    assert client.ask("status")["mode"] == "persistent"


def test_tokens_are_made_and_listed_on_its_machine(plain: Running) -> None:
    here = plain.client()
    made = here.ask("token_create", name="laptop")
    plain.remote("c-2", token=made["token"])
    (row,) = here.ask("tokens")
    assert (row["name"], row["id"], row["connections"]) == ("laptop", made["id"], 1)
    assert row["used"] >= row["created"]
    assert "token" not in row


# What strangers can do


def test_garbage_is_answered_and_closed(plain: Running, stranger: socket.socket) -> None:
    stranger.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert "ProtocolError: These bytes are no Stoker frame" in said_to(stranger)


def test_nobody_says_more_than_a_greeting(plain: Running, stranger: socket.socket) -> None:
    stranger.sendall(encode_prefix(1, remote_link.STRANGER_MAX_BYTES + 1, 0))
    assert f"more than the {remote_link.STRANGER_MAX_BYTES} allowed" in said_to(stranger)


@pytest.mark.parametrize("message", [m.Part(10), m.Submit("k", [], []), m.Request(1, "status")])
def test_before_the_greeting_nothing_else_is_read(plain: Running, stranger: socket.socket, message: object) -> None:
    FrameSocket(stranger).send(message)
    assert "not a greeting" in said_to(stranger)


def test_only_the_first_greeting_counts(plain: Running, stranger: socket.socket) -> None:
    token = plain.token()
    frames = FrameSocket(stranger)
    guess = m.Hello("client", "c-1", __version__, "guess")
    frames.send(guess)
    try:
        frames.send(m.Hello("client", "c-1", __version__, token))
    except ConnectionFailed:
        pass  # closed already
    assert "PermissionDenied" in said_to(stranger)
    assert not plain.server.sessions


def test_who_says_nothing_or_says_it_slowly_has_to_go(door: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    client = door.remote(trust=trust_of(door))
    monkeypatch.setattr(links, "GREETING_SECONDS", 0.1)
    with door.knock() as silent, door.knock() as slow:
        slow.sendall(encode_prefix(1, 100, 0)[:7] if trust_of(door) is None else b"\x16\x03")
        assert silent.recv(1) == b""
        assert slow.recv(1) == b""
    assert client.ask("status")["doors"][1]["unknown"] == 0


def test_of_too_many_strangers_the_first_one_goes(plain: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "STRANGERS_MAX", 3)
    crowd = [plain.knock() for _ in range(3)]
    wait_until(lambda: plain.door.facts()["unknown"] == 3, message="they stand at the door")
    client = plain.remote()
    with pytest.raises(ConnectionError):
        if not crowd[0].recv(1):
            raise ConnectionError
    assert client.ask("status")["doors"][1]["unknown"] == 2
    for sock in crowd:
        sock.close()


def test_all_who_come_at_once_are_let_in(plain: Running) -> None:
    """As the workers of a server that was restarted do."""
    token = plain.token()
    crowd = [FrameSocket(plain.knock()) for _ in range(200)]
    wait_until(lambda: plain.door.facts()["unknown"] == len(crowd), message="they stand at the door")
    for number, frames in enumerate(crowd):
        greet(frames, role="client", name=f"c-{number}", token=token)
        frames.close()


def test_a_stranger_is_forgotten_when_it_leaves(plain: Running) -> None:
    plain.knock().close()
    wait_until(lambda: not plain.door.facts()["unknown"] and not plain.server.links, message="it is forgotten")


# TLS


def test_a_client_in_clear_at_a_door_with_tls_is_told(tls: Running) -> None:
    with pytest.raises(PermissionDenied, match=r"TLS only.*stoker server status.*--fingerprint"):
        tls.remote()


def test_a_client_with_tls_at_a_door_in_clear_is_told(plain: Running) -> None:
    with pytest.raises(ConnectionFailed, match=r"does not speak TLS.*without a fingerprint"):
        plain.remote(trust=Trust("0" * 64))


def test_another_certificate_than_the_pinned_one(tls: Running) -> None:
    token = tls.token()
    with pytest.raises(PermissionDenied, match=f"(?s){tls.door.fingerprint}, not sha256:{'0' * 64}.*Nothing was sent"):
        tls.remote(token=token, trust=Trust("0" * 64))
    assert tls.server.client_tokens.rows()[0]["used"] is None


def test_a_certificate_that_nobody_vouches_for(tls: Running) -> None:
    with pytest.raises(PermissionDenied, match=r"not to be believed.*--fingerprint.*--ca"):
        tls.remote(trust=Trust())


def test_a_certificate_of_a_ca(tls: Running, tmp_path: Path) -> None:
    """The server's own certificate vouches for itself, but is not one for this address."""
    ca = tmp_path / "ca.pem"
    text = (tls.config.state_dir / "tls.pem").read_text()
    ca.write_text(text[: text.index("-----BEGIN PRIVATE")])
    with pytest.raises(PermissionDenied, match="IP address mismatch"):
        tls.remote(trust=Trust(ca=str(ca)))
    ca.write_text("no certificate")
    with pytest.raises(StokerError, match=r"CA file .*ca\.pem' cannot be read"):
        tls.remote(trust=Trust(ca=str(ca)))


def test_what_is_no_tls_at_a_door_with_tls(tls: Running) -> None:
    with tls.knock() as sock:
        sock.sendall(b"\x16\x03\x01\x00\x05hello")
        assert sock.recv(100)[:1] in {b"\x15", b""}, "an alert, or nothing"
    wait_until(lambda: not tls.server.links, message="it is forgotten")


def test_a_server_keeps_its_certificate(tmp_path: Path) -> None:
    made = own_certificate(tmp_path)
    assert own_certificate(tmp_path).fingerprint == made.fingerprint
    path = tmp_path / "tls.pem"
    assert path.stat().st_mode & 0o777 == 0o600
    assert given_certificate(path, path).fingerprint == made.fingerprint
    assert made.context.minimum_version is ssl.TLSVersion.TLSv1_3


def test_a_certificate_that_cannot_be_used(tmp_path: Path) -> None:
    own_certificate(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    own_certificate(other)
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    for certificate, key in (
        (tmp_path / "none.pem", None),
        (empty, None),
        (tmp_path / "tls.pem", other / "tls.pem"),
    ):
        with pytest.raises(InvalidRequest, match=r"cannot be used.*PEM files that belong together"):
            given_certificate(certificate, key)


def test_an_address_that_is_taken_or_not_ours(plain: Running) -> None:
    for address in (plain.door.address, Address("192.0.2.123", 1), Address("nowhere.invalid", 1)):
        with pytest.raises(StokerError, match=r"cannot listen at stoker://.*--listen HOST:PORT"):
            open_listener(address)


# Bodies of any size


def test_a_big_input_becomes_a_file_and_a_big_result_comes_in_parts(door: Running) -> None:
    client = door.remote(trust=trust_of(door))
    key = door.register(client, spec(max_workers=1))["f"]
    data = bytes(range(256)) * (BIG // 256)
    client.submit(key, ["c-1.1"], data)
    worker = door.worker()
    lease = worker.leases.get(m.Lease)
    name, size = lease.segments["0"]
    assert size == len(data)
    assert (door.config.segments / str(name)).read_bytes() == data
    (door.config.segments / "r-1").write_bytes(data[::-1])
    worker.leases.send(m.Results(1, ["c-1.1"], [0], [0], [1], [0.1], {"0": ["r-1", len(data)]}))
    results, (value,) = client.receive(m.Results)
    assert results.segments == {}
    assert results.sizes == [len(data)]
    assert value == data[::-1]
    client.send(m.Ack(results.seq))
    wait_until(lambda: not door.segments(), message="both are deleted")


def test_small_and_big_results_come_together(plain: Running) -> None:
    client = plain.remote()
    key = plain.register(client, spec(max_workers=1))["f"]
    client.submit(key, ["c-1.1", "c-1.2", "c-1.3"])
    worker = plain.worker()
    ids: list[str] = []
    while len(ids) < 3:
        lease = worker.leases.get(m.Lease)
        for call_id in lease.ids:
            (plain.config.segments / f"r-{call_id}").write_bytes(call_id.encode() * PART_BYTES)
        columns: m.Segments = {str(i): [f"r-{one}", len(one) * PART_BYTES] for i, one in enumerate(lease.ids)}
        ids += lease.ids
        count = len(lease.ids)
        worker.leases.send(
            m.Results(len(ids), lease.ids, [0] * count, [0] * count, lease.attempts, [0.1] * count, columns)
        )
    for call_id in ("c-1.1", "c-1.2", "c-1.3"):
        assert client.result_of(call_id) == (0, call_id.encode() * PART_BYTES)


def test_a_result_whose_file_is_gone_is_that_calls_error(plain: Running) -> None:
    token = plain.token()
    client = plain.remote(token=token)
    key = plain.register(client, spec(max_workers=1))["f"]
    client.submit(key, ["c-1.1"])
    worker = plain.worker()
    worker.leases.get(m.Lease)
    path = plain.config.segments / "r-1"
    path.write_bytes(b"x" * BIG)
    client.close()
    wait_until(lambda: plain.server.sessions["c-1"].link is None, message="it is away")
    worker.leases.send(m.Results(1, ["c-1.1"], [0], [0], [1], [0.1], {"0": ["r-1", BIG]}))
    wait_until(lambda: len(plain.server.sessions["c-1"].outbox) == 1, message="the result is kept for it")
    path.unlink()
    assert plain.remote(token=token).result_of("c-1.1") == (1, "NotFound")


def test_segments_cannot_be_named_over_tcp(plain: Running) -> None:
    client = plain.remote()
    key = plain.register(client, spec())["f"]
    client.send(m.Submit(key, ["c-1.1"], [0], {"0": ["r-1", 5]}))
    assert "shares no segments" in client.get(m.Rejected).message


@pytest.mark.parametrize(
    "messages",
    [
        [m.Submit("k", ["c-1.1"], [9])],
        [m.Submit("k", ["c-1.1", "c-1.2"], [2, 2])],
        [m.Ack(1)],
        [m.Request(1, "status")],
    ],
    ids=str,
)
def test_a_body_in_parts_belongs_to_one_call(plain: Running, messages: list[object]) -> None:
    client = plain.remote()
    client.send(m.Part(4), b"ab")
    client.send(m.Part(4), b"cd")
    for message in messages:
        client.send(message)
    assert client.get(m.Rejected).type_name == ProtocolError.__name__
    wait_until(lambda: not plain.segments(), message="nothing is left of it")


def test_an_upload_that_breaks_leaves_nothing(plain: Running) -> None:
    client = plain.remote()
    client.send(m.Part(BIG), bytes(1000))
    wait_until(plain.segments, message="it has begun")
    client.close()
    wait_until(lambda: not plain.segments(), message="nothing is left of it")


def test_no_room_for_an_input_is_that_calls_refusal(plain: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    client = plain.remote()
    key = plain.register(client, spec())["f"]

    def refuse(fd: int, piece: memoryview, at: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stoker.server.spool._write_all", refuse)
    client.submit(key, ["c-1.1"], bytes(BIG))
    refused = client.get(m.RefusedCalls)
    assert refused.ids == ["c-1.1"]
    assert "no room for a payload" in refused.error.message
    assert client.ask("status")["calls"]["queued"] == 0


def test_an_input_sent_again_is_taken_once(plain: Running) -> None:
    token = plain.token()
    client = plain.remote(token=token)
    key = plain.register(client, spec(max_workers=1))["f"]
    client.submit(key, ["c-1.1"], bytes(BIG))
    wait_until(lambda: len(plain.segments()) == 1, message="it is there")
    again = plain.remote(token=token)
    again.submit(key, ["c-1.1"], bytes(BIG))
    again.ask("status")
    wait_until(lambda: len(plain.segments()) == 1, message="the second one is deleted")
    assert plain.worker().leases.get(m.Lease).segments["0"][0] in plain.segments()


def test_a_detached_input_sent_again_to_a_restarted_server_is_deleted(start: Callable[..., Running]) -> None:
    backing = MemoryBacking()
    before = start(listen=HERE, store=MemoryStore(backing))
    token = before.token()
    client = before.remote(token=token)
    app = spec()
    key = before.register(client, app)["f"]
    client.submit(key, ["c-1.1"], bytes(BIG), detached=True)
    client.get(m.Accepted)
    after = start(listen=HERE, store=MemoryStore(backing))
    client = after.remote(token=token)
    after.register(client, app)
    client.submit(key, ["c-1.1"], bytes(BIG), detached=True)
    assert client.get(m.Accepted).ids == ["c-1.1"]
    wait_until(lambda: not after.segments(), message="it is on the disk already")
    assert len(list(after.config.spill.iterdir())) == 1


def test_a_bundle_in_parts_is_checked_and_kept(door: Running) -> None:
    client = door.remote(trust=trust_of(door))
    data = b"bundle" * BIG
    digest = hashlib.sha256(data).hexdigest()
    client.send(m.PutBlob(1, digest), data)
    assert client.get(m.Reply).error is None
    assert client.ask("blobs_missing", digests=[digest]) == []
    client.send(m.PutBlob(2, "0" * 64), data)
    error = client.get(m.Reply).error
    assert error is not None
    assert "damaged" in error.message
    wait_until(lambda: not door.segments(), message="nothing is left of it")


def test_a_client_that_says_goodbye_is_forgotten_at_once(plain: Running) -> None:
    client = plain.remote()
    key = plain.register(client, spec())["f"]
    client.submit(key, ["c-1.1"], bytes(BIG))
    assert client.ask("leave") is None
    assert client.is_closed()
    wait_until(lambda: not plain.server.sessions and not plain.segments(), message="nothing is kept for it")
    assert not plain.server.plane.state.calls
