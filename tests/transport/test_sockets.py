"""Frames over real sockets: whole messages arrive, and what breaks is said."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from stoker._version import PROTOCOL_VERSION, __version__
from stoker.errors import ConnectionFailed, PermissionDenied, ProtocolError, VersionMismatch
from stoker.protocol import messages as m
from stoker.protocol.frames import BODY_MAX_BYTES, PREFIX, encode_prefix
from stoker.transport.sockets import IOV_MAX, RECEIVE_BYTES, FrameSocket, connect_unix, greet

PATIENCE_SECONDS = 10.0


@pytest.fixture
def pair() -> Iterator[tuple[FrameSocket, FrameSocket]]:
    one, other = (FrameSocket(sock) for sock in socket.socketpair())
    for end in (one, other):
        end.settimeout(PATIENCE_SECONDS)
    yield one, other
    one.close()
    other.close()


@pytest.fixture
def raw() -> Iterator[tuple[socket.socket, FrameSocket]]:
    """A bare socket, for bytes that no `FrameSocket` would send."""
    sock, other = socket.socketpair()
    end = FrameSocket(other)
    end.settimeout(PATIENCE_SECONDS)
    yield sock, end
    sock.close()
    end.close()


Pair = tuple[FrameSocket, FrameSocket]
Raw = tuple[socket.socket, FrameSocket]


def test_messages_arrive_with_their_parts(pair: Pair) -> None:
    one, other = pair
    one.send(m.Items("c-1.1", 1, 0, [3, 0, 4]), [b"abc", b"", bytearray(b"defg")])
    received = other.receive()
    assert received.message == m.Items("c-1.1", 1, 0, [3, 0, 4])
    assert [bytes(part) for part in received.parts()] == [b"abc", b"", b"defg"]


def test_messages_that_came_together_are_told_apart(pair: Pair) -> None:
    one, other = pair
    for seq in range(10):
        one.send(m.Ack(seq))
    other.settimeout(None)
    assert [other.has_buffered, other.receive().message, other.has_buffered] == [False, m.Ack(0), True]
    assert [received.message.seq for received in other.receive_ready()] == list(range(1, 10))
    assert not other.has_buffered


def test_receive_ready_does_not_wait(pair: Pair) -> None:
    one, other = pair
    other.settimeout(None)
    assert other.receive_ready() == []
    one.send(m.Ack(1))
    assert [received.message for received in other.receive_ready()] == [m.Ack(1)]


@pytest.mark.parametrize(
    "sizes",
    [
        [RECEIVE_BYTES],
        [RECEIVE_BYTES + 1],
        [5 << 20],
        [1] * (IOV_MAX - 1),
        [1] * (3 * IOV_MAX + 7),
        [0] * IOV_MAX + [1],
        [1000, 0, 3 << 20, 0, 7] * 3,
    ],
    ids=str,
)
def test_bodies_of_every_size_arrive_whole(pair: Pair, sizes: list[int]) -> None:
    one, other = pair
    parts = [bytes([i % 251]) * size for i, size in enumerate(sizes)]
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(one.send, m.Items("c", 1, 0, sizes), parts)
        received = other.receive()
        sent.result(PATIENCE_SECONDS)
    assert [bytes(part) for part in received.parts()] == parts


def test_parts_that_are_not_bytes_are_sent_by_their_bytes(pair: Pair) -> None:
    one, other = pair
    numbers = memoryview(bytearray(1 << 20)).cast("Q")
    one_byte = numbers.cast("B")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(one.send, m.Items("c", 1, 0, [len(one_byte)]), [one_byte])
        assert len(other.receive().parts()[0]) == 1 << 20


def test_frames_of_several_threads_do_not_mix(pair: Pair) -> None:
    one, other = pair
    count, threads = 50, 4
    big = [os.urandom(100_000) for _ in range(threads)]

    def send(number: int) -> None:
        for _ in range(count):
            one.send(m.Items(str(number), 1, 0, [len(big[number])]), [big[number]])

    with ThreadPoolExecutor(threads) as pool:
        sending = [pool.submit(send, number) for number in range(threads)]
        for _ in range(count * threads):
            received = other.receive()
            assert bytes(received.body) == big[int(received.message.id)]
        for one_of_them in sending:
            one_of_them.result(PATIENCE_SECONDS)


def test_the_peer_closing_is_said(pair: Pair) -> None:
    one, other = pair
    one.send(m.Ack(1))
    one.close()
    assert other.receive().message == m.Ack(1)
    with pytest.raises(ConnectionFailed, match=r"The peer closed the connection\."):
        other.receive()
    with pytest.raises(ConnectionFailed, match="while sending"):
        for _ in range(3):
            other.send(m.Ack(1))


def test_the_peer_closing_in_the_middle_of_a_frame_is_said(raw: Raw) -> None:
    sock, end = raw
    sock.sendall(encode_prefix(14, 9, 0) + b'{"se')
    sock.close()
    with pytest.raises(ConnectionFailed, match="in the middle of a frame"):
        end.receive()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "no Stoker frame"),
        (PREFIX.pack(b"St", PROTOCOL_VERSION + 1, 1, 0, 0), f"protocol {PROTOCOL_VERSION + 1}"),
        (PREFIX.pack(b"St", PROTOCOL_VERSION, 1, 0, BODY_MAX_BYTES + 1), "announces"),
        (encode_prefix(99, 2, 0) + b"{}", "no message of kind 99"),
        (encode_prefix(14, 2, 0) + b"{}", "without its field 'seq'"),
        (encode_prefix(14, 2, 0) + b"[]", "not an object"),
        (encode_prefix(22, 1, 0) + b"{", "no JSON"),
    ],
)
def test_what_is_no_message_is_said(raw: Raw, data: bytes, message: str) -> None:
    sock, end = raw
    sock.sendall(data)
    with pytest.raises(ProtocolError, match=message):
        end.receive()


def test_sizes_that_do_not_add_up_are_found_when_the_parts_are_taken(pair: Pair) -> None:
    one, other = pair
    one.send(m.Items("c", 1, 0, [3]), [b"four"])
    with pytest.raises(ProtocolError, match="3 bytes, its body 4"):
        other.receive().parts()


def test_a_timeout_bounds_waiting_and_loses_nothing(pair: Pair, raw: Raw) -> None:
    _, other = pair
    other.settimeout(0.01)
    with pytest.raises(TimeoutError):
        other.receive()
    sock, end = raw
    end.settimeout(0.01)
    frame = encode_prefix(14, 9, 0) + b'{"seq":1}'
    sock.sendall(frame[:20])
    with pytest.raises(TimeoutError):
        end.receive()
    sock.sendall(frame[20:])
    assert end.receive().message == m.Ack(1)


def test_shutdown_wakes_who_waits(pair: Pair) -> None:
    one, _ = pair
    one.settimeout(None)
    failures: list[BaseException] = []

    def wait() -> None:
        try:
            one.receive()
        except ConnectionFailed as error:
            failures.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    one.shutdown()
    waiting.join(PATIENCE_SECONDS)
    assert len(failures) == 1
    one.close()
    one.shutdown()  # once more, when there is nothing left, is no error


def test_a_closed_socket_is_a_broken_connection(pair: Pair) -> None:
    one, _ = pair
    one.close()
    for use in (one.receive, one.receive_ready, lambda: one.send(m.Ack(1))):
        with pytest.raises(ConnectionFailed):
            use()


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(ConnectionFailed, match="No server answers at"):
        connect_unix(str(tmp_path / "nobody"))
    with pytest.raises(ConnectionFailed, match="No server answers at"):
        connect_unix("/" + "x" * 200)
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "left"))
    left.close()
    with pytest.raises(ConnectionFailed, match="refused"):
        connect_unix(str(tmp_path / "left"))


def test_sockets_are_not_inherited(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    end = connect_unix(str(tmp_path / "s"))
    assert not os.get_inheritable(end.fileno())
    end.close()
    listener.close()


def greeted(pair: Pair, answer: Any) -> m.Welcome:
    one, other = pair
    other.send(answer)
    return greet(one, role="client", name="c-1", token="t", term=3, python="3.11")


def test_a_greeting_says_who_we_are(pair: Pair) -> None:
    welcome = m.Welcome(__version__, "s", 1)
    assert greeted(pair, welcome) == welcome
    hello = pair[1].receive().message
    assert hello == m.Hello("client", "c-1", __version__, "t", os.getpid(), "3.11", 3)


def test_a_rejection_is_raised_as_what_it_is(pair: Pair) -> None:
    with pytest.raises(PermissionDenied, match="go away"):
        greeted(pair, m.Rejected("PermissionDenied", "go away"))
    with pytest.raises(VersionMismatch, match="older"):
        greeted(pair, m.Rejected("VersionMismatch", "older"))


def test_another_answer_is_no_welcome(pair: Pair) -> None:
    with pytest.raises(ProtocolError, match="with Ack"):
        greeted(pair, m.Ack(1))


def test_a_server_of_another_protocol_is_a_version_mismatch(raw: Raw) -> None:
    sock, end = raw
    sock.sendall(PREFIX.pack(b"St", PROTOCOL_VERSION + 1, 2, 2, 0) + b"{}")
    with pytest.raises(VersionMismatch, match=f"protocol {PROTOCOL_VERSION + 1}.*Stoker {__version__}"):
        greet(end, role="client", name="c-1")
