"""Clients that are too slow are let go; time is the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from stoker.server.gateway.connections import (
    BODY_SECONDS,
    HEAD_SECONDS,
    KEEP_ALIVE_SECONDS,
    Connection,
    Connections,
)
from stoker.server.gateway.lingering import LINGER_BYTES, LINGER_SECONDS
from stoker.server.gateway.sockets import Socket
from stoker.server.gateway.tunnels import Tunnel
from stoker.server.gateway.unread import READ_SECONDS


class Transport(asyncio.Transport):
    """A transport that remembers what was done to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.ended = ""
        self.is_half_closed = False
        self.protocol: Any = None
        self.unread = 0

    def get_write_buffer_size(self) -> int:
        return self.unread

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def write_eof(self) -> None:
        self.is_half_closed = True

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return bool(self.ended)

    def close(self) -> None:
        self.ended = self.ended or "closed"

    def abort(self) -> None:
        self.ended = "aborted"

    def pause_reading(self) -> None:
        return

    def resume_reading(self) -> None:
        return


@pytest.fixture
async def connection() -> AsyncIterator[Connection]:
    ends = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await ends.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    made = Connections(app).make()  # type: ignore[arg-type] # it is asked for requests only
    made._now = lambda: 100.0
    made._since = 100.0
    made.connection_made(Transport())
    yield made
    ends.set()
    made.resume_writing()
    await asyncio.gather(*made.tasks)


def transport_of(connection: Connection) -> Transport:
    assert isinstance(connection.transport, Transport)
    return connection.transport


async def test_headers_have_their_time(connection: Connection) -> None:
    connection.data_received(b"GET / HTTP/1.1\r\nHost: ")
    connection.check(100.0 + HEAD_SECONDS)
    assert not transport_of(connection).ended
    connection.check(100.1 + HEAD_SECONDS)
    assert transport_of(connection).is_half_closed and b" 408 " in transport_of(connection).written


async def test_a_trickle_of_headers_has_no_more(connection: Connection) -> None:
    """One byte every few seconds holds nothing open."""
    connection.data_received(b"GET / HTTP/1.1\r\n")
    connection._now = lambda: 100.0 + HEAD_SECONDS - 1
    connection.data_received(b"X")
    connection.check(100.1 + HEAD_SECONDS)
    assert transport_of(connection).is_half_closed


async def test_one_that_says_nothing_is_let_go(connection: Connection) -> None:
    connection.check(100.1 + HEAD_SECONDS)
    assert transport_of(connection).ended


async def test_a_body_goes_on_coming(connection: Connection) -> None:
    connection.data_received(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n")
    connection._now = lambda: 100.0 + BODY_SECONDS
    connection.data_received(b"abc")
    connection.check(100.0 + BODY_SECONDS + 1)
    assert not transport_of(connection).ended
    connection.check(100.1 + 2 * BODY_SECONDS)
    assert transport_of(connection).ended == "aborted"


async def test_an_answer_goes_on_being_read(connection: Connection) -> None:
    connection.data_received(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    connection.pause_writing()
    connection.check(100.0 + READ_SECONDS)
    assert not transport_of(connection).ended
    connection.check(100.1 + READ_SECONDS)
    assert transport_of(connection).ended == "aborted"


async def test_who_is_refused_has_time_to_read_why(connection: Connection) -> None:
    """What comes meanwhile is dropped: a socket closed with unread input would be reset, the answer with it."""
    connection.data_received(b"nonsense\r\n\r\n")
    transport, lingering = transport_of(connection), transport_of(connection).protocol
    assert transport.is_half_closed and not transport.is_closing() and b" 400 " in transport.written
    assert connection.connections == {lingering}
    lingering.data_received(b"x" * 1000)
    lingering.check(100.0 + LINGER_SECONDS)
    assert not transport.is_closing()
    lingering.check(100.1 + LINGER_SECONDS)
    assert transport.ended == "closed"
    lingering.check(101.1 + LINGER_SECONDS)
    assert transport.ended == "aborted"
    lingering.connection_lost(None)
    assert not connection.connections


async def test_who_does_not_listen_is_let_go(connection: Connection) -> None:
    connection.data_received(b"nonsense\r\n\r\n")
    for _ in range(LINGER_BYTES >> 20):
        transport_of(connection).protocol.data_received(bytes(1 << 20))
    assert not transport_of(connection).is_closing()
    transport_of(connection).protocol.data_received(b"x")
    assert transport_of(connection).ended == "closed"


async def test_a_closed_connection_has_its_time_to_be_read_out(connection: Connection) -> None:
    connection.transport.close()
    connection.check(101.0)
    connection.check(101.0 + READ_SECONDS)
    assert transport_of(connection).ended == "closed"
    connection.check(101.1 + READ_SECONDS)
    assert transport_of(connection).ended == "aborted"


async def test_a_body_that_is_not_read_is_not_its_clients_fault(connection: Connection) -> None:
    """The worker may be starting, for minutes."""
    connection.data_received(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 100_000)
    connection.check(200.0 + BODY_SECONDS)
    assert not transport_of(connection).ended
    connection.flow.resume_reading()
    connection.check(200.0 + 2 * BODY_SECONDS)
    assert not transport_of(connection).ended
    connection.check(200.1 + 2 * BODY_SECONDS)
    assert transport_of(connection).ended == "aborted"


@pytest.fixture
async def early() -> AsyncIterator[Connection]:
    """Have a connection whose request was answered before all of its body had come."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 401, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    made = Connections(app).make()  # type: ignore[arg-type] # it is asked for requests only
    made._now = lambda: 100.0
    made._since = 100.0
    made.connection_made(Transport())
    made.data_received(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
    await asyncio.gather(*made.tasks)
    assert b" 401 " in transport_of(made).written
    yield made
    await asyncio.gather(*made.tasks)


async def test_an_early_answer_does_not_end_what_is_asked_of_a_client(early: Connection) -> None:
    early.check(100.1 + BODY_SECONDS)
    assert transport_of(early).ended == "aborted"


async def test_headers_after_an_early_answer_have_their_bounds(early: Connection) -> None:
    early.data_received(b"defghij")
    early.data_received(b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 1000)
    for _ in range(10):
        early.data_received(b"X: a\r\n" * 1000)
    assert transport_of(early).is_half_closed and b" 431 " in transport_of(early).written


async def test_an_early_answer_leaves_no_connection_open_for_ever(early: Connection) -> None:
    early.data_received(b"defghij")
    early.check(100.0 + KEEP_ALIVE_SECONDS)
    assert not transport_of(early).ended
    early.check(100.1 + KEEP_ALIVE_SECONDS)
    assert transport_of(early).ended


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET http://a HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ],
)
async def test_what_is_no_request_is_refused(connection: Connection, data: bytes) -> None:
    connection.data_received(data)
    assert transport_of(connection).is_half_closed and b" 400 " in transport_of(connection).written


async def test_a_connection_that_is_being_answered_is_not_handed_over(connection: Connection) -> None:
    connection.data_received(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    connection.data_received(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert transport_of(connection).ended and b" 400 " in transport_of(connection).written


async def test_a_websocket_and_a_tunnel_go_on_being_read() -> None:
    """Else their closing would wait for its turn for ever, and with it what their app has said so far."""
    loop = asyncio.get_running_loop()
    config = Config(lambda: None, ws=Socket, lifespan="off", interface="asgi3", log_config=None)
    for made in (Socket(config, ServerState(), {}), None):
        transport = Transport()
        if made is not None:
            made.connection_made(transport)
        reader = made or Tunnel(transport, set())
        reader.pause_writing()
        found = []
        for seconds in (READ_SECONDS - 1, READ_SECONDS + 1):
            reader.check(loop.time() + seconds)
            found.append(transport.ended)
        assert found == ["", "aborted"]


async def test_a_tunnel_whose_client_says_no_more_is_not_yet_lost() -> None:
    lost: list[str] = []
    tunnel = Tunnel(Transport(), set())
    tunnel.when_lost(lambda: lost.append("lost"))
    tunnel.data_received(b"all")
    assert tunnel.eof_received()
    assert (await tunnel.read(), await tunnel.read(), lost) == (b"all", b"", [])
    tunnel.connection_lost(None)
    tunnel.when_lost(lambda: lost.append("lost before"))
    assert lost == ["lost", "lost before"]


async def test_who_comes_when_there_are_too_many_is_not_kept(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stoker.server.gateway.connections.CONNECTIONS_MAX", 0)
    connection.connection_made(Transport())
    transport = transport_of(connection)
    assert transport.ended == "closed" and b" 503 " in transport.written and transport.protocol is None


async def test_who_reads_slowly_why_it_was_refused_has_its_time(connection: Connection) -> None:
    connection.data_received(b"nonsense\r\n\r\n")
    transport = transport_of(connection)
    transport.unread = 1
    transport.protocol.check(100.1 + LINGER_SECONDS)
    transport.protocol.check(100.0 + LINGER_SECONDS + READ_SECONDS)
    assert not transport.is_closing()
    transport.protocol.check(100.1 + LINGER_SECONDS + READ_SECONDS)
    assert transport.ended == "aborted"


@pytest.mark.parametrize("cut", [7, 1000, 16_384, 65_536, 1 << 20])
@pytest.mark.parametrize(
    ("query", "header", "said"),
    [
        (33_000, 10, b" 414 "),
        (60_000, 10, b" 414 "),
        (200_000, 10, b" 414 "),
        (30_000, 10_000, b" 414 "),
        (10, 33_000, b" 431 "),
        (10, 200_000, b" 431 "),
        (5_000, 60_000, b" 431 "),
    ],
)
async def test_a_head_that_is_too_long_is_told_which_part_is(query: int, header: int, said: bytes, cut: int) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        pytest.fail("it was asked")

    made = Connections(app).make()  # type: ignore[arg-type] # it is asked for requests only
    made.connection_made(Transport())
    head = b"GET /a/b?x=%b HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n" % (b"a" * query, b"b" * header)
    for at in range(0, len(head), cut):
        if transport_of(made).protocol is None:  # else what comes is read away
            made.data_received(head[at : at + cut])
    assert transport_of(made).written.startswith(b"HTTP/1.1%b" % said)
    assert (b"The URL is too long" in transport_of(made).written) == (said == b" 414 ")
