"""What a server is sent that it should not be: a clear answer, and it goes on."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import stoker
from stoker._version import PROTOCOL_VERSION, __version__
from stoker.client import session as sessions
from stoker.client.calls import Route, Slot
from stoker.protocol.frames import BODY_MAX_BYTES, MAGIC, PREFIX, encode_prefix
from stoker.protocol.messages import KINDS, Hello, Results, Submit
from stoker.protocol.payload import encode_call
from stoker.protocol.structure import encode_header
from stoker.transport.sockets import connect_unix, greet
from tests.faults import work
from tests.faults.running import PersistentServer
from tests.waiting import wait_until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(90)]


def _socket(runtime: Path) -> str:
    return str(runtime / "server" / "server.sock")


def _frame(message: object, body: bytes = b"") -> bytes:
    kind, header = encode_header(message)
    return encode_prefix(kind, len(header), len(body)) + header + body


HELLO = _frame(Hello("client", "c-fuzz", __version__))
SUBMIT = _frame(Submit("no such function", ["c-fuzz.1"], [3]), b"abc")

prefixes = st.builds(
    PREFIX.pack,
    st.sampled_from([MAGIC, b"XX"]),
    st.sampled_from([PROTOCOL_VERSION, 0, 255]),
    st.sampled_from([*KINDS, 0, 254]),
    st.integers(0, 2**32 - 1) | st.integers(0, 64),
    st.integers(0, 2**64 - 1) | st.integers(0, 64) | st.just(BODY_MAX_BYTES + 1),
)
headers = st.sampled_from([b"{}", b"[]", b"null", b'{"ids":', b'{"ids": 3}', b"\xff\xfe", b'{"seq": -1}', b"[" * 5000])


@st.composite
def wholes(draw: st.DrawFn) -> bytes:
    """Frames that are well formed and mean nothing."""
    header, body = draw(headers), draw(st.binary(max_size=64))
    return encode_prefix(draw(st.sampled_from([*KINDS])), len(header), len(body)) + header + body


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Good frames with a byte changed, or cut."""
    data = bytearray(HELLO + SUBMIT)
    data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(1, len(data)))])


garbage = st.lists(st.binary(max_size=200) | prefixes | wholes() | damaged() | st.just(HELLO), max_size=4).map(b"".join)


def test_garbage_closes_the_connection_it_came_on_and_no_other(server: PersistentServer, runtime_dir: Path) -> None:
    with work.app.run():
        work.square.remote(2)

        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
        @given(data=garbage, greeted=st.booleans())
        def send(data: bytes, greeted: bool) -> None:
            with socket.socket(socket.AF_UNIX) as peer:
                peer.settimeout(30)
                peer.connect(_socket(runtime_dir))
                try:
                    peer.sendall((HELLO if greeted else b"") + data)
                    peer.shutdown(socket.SHUT_WR)
                    while peer.recv(65536):
                        pass
                except (BrokenPipeError, ConnectionResetError):
                    pass  # it has had enough
            assert work.square.remote(3) == 9

        send()
        assert sessions.current().request("status")["pid"] == server.pid
    assert "Traceback" not in server.log.read_text()


def test_a_frame_that_is_too_big_is_refused_before_it_is_read(server: PersistentServer, runtime_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(30)
        peer.connect(_socket(runtime_dir))
        peer.sendall(PREFIX.pack(MAGIC, PROTOCOL_VERSION, 1, 10, 1 << 40))
        answer = b""
        while chunk := peer.recv(65536):
            answer += chunk
    assert b"ProtocolError" in answer
    assert str(1 << 40).encode() in answer


def test_a_client_of_another_version_is_told_both(server: PersistentServer, runtime_dir: Path) -> None:
    link = connect_unix(_socket(runtime_dir), timeout=30)
    link.send(Hello("client", "c-old", "99.1.0"))
    received = link.receive().message
    link.close()
    assert received.type_name == "VersionMismatch"
    assert "99.1.0" in received.message
    assert __version__ in received.message


def test_two_servers_on_one_state_directory(server: PersistentServer, runtime_dir: Path) -> None:
    second = PersistentServer("--run-dir", str(runtime_dir / "second"))
    error = second.start()["error"]
    assert isinstance(error, dict)
    assert second.process is not None
    assert second.process.wait(30) == 1
    assert str(server.pid) in error["message"]
    assert "STOKER_HOME" in error["message"]
    with work.app.run():
        assert work.square.remote(2) == 4


@pytest.mark.parametrize("detached", [False, True])
def test_a_function_key_that_nobody_knows(server: PersistentServer, detached: bool) -> None:
    with work.app.run():
        session = sessions.current()
        slot = Slot()
        session.submit([session.packed(Route("f" * 24, "nobody.knows", detached=detached), slot, encode_call((), {}))])
        session.wait(slot, time.monotonic() + 30)
        assert slot.settled is not None
        assert slot.settled.error is not None
        assert slot.settled.error.type_name == "NotFound"


def test_a_function_that_was_never_deployed(server: PersistentServer) -> None:
    with pytest.raises(stoker.NotFound, match=r"nothing"):
        stoker.Function.from_name("nothing", "here").remote(1)
    sessions.close()


def test_a_result_after_its_retention(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_RESULT_RETENTION", "1s")
    server = PersistentServer()
    server.start()
    try:
        with work.app.run():
            call = work.square.spawn(2)
            assert call.result(timeout=20) == 4

            def is_expired() -> bool:
                try:
                    return stoker.Call.from_id(call.id).result(timeout=5) is None
                except stoker.ResultExpired as error:
                    return "STOKER_RESULT_RETENTION" in str(error)
                except stoker.NotFound:
                    return True  # forgotten altogether by now

            again = work.square.spawn(3)
            assert again.result(timeout=20) == 9
            wait_until(is_expired, timeout=15, message="the result is dropped")
            assert call.result() == 4  # here it has arrived
    finally:
        sessions.close()
        server.stop()


def test_a_call_that_never_was(server: PersistentServer) -> None:
    with work.app.run(), pytest.raises(stoker.NotFound, match="no-such-call"):
        stoker.Call.from_id("no-such-call").result(timeout=30)


@pytest.mark.parametrize("detached", [False, True])
def test_a_call_that_is_submitted_again_runs_once(
    server: PersistentServer, runtime_dir: Path, tmp_path: Path, detached: bool
) -> None:
    """What a client does after each reconnect; here with no reason, before and after the call has ended."""
    began, gate = tmp_path / "began", tmp_path / "gate"
    gate.touch()
    with work.app.run():
        assert work.tells.remote(str(tmp_path / "other"), str(gate))
        _, key = work.app.key_of(work.tells)
        link = connect_unix(_socket(runtime_dir), timeout=30)
        name = f"c-again-{detached}"
        greet(link, role="client", name=name)
        link.settimeout(30)
        body = encode_call((str(began), str(gate)), {}).to_bytes()
        submit = Submit(key, [f"{name}.1"], [len(body)], detached=detached)
        for _ in range(3):
            link.send(submit, [body])
        while not isinstance(link.receive().message, Results):
            pass
        link.send(submit, [body])
        link.close()
        assert work.square.remote(2) == 4
    assert len(began.read_text().split()) == 1
