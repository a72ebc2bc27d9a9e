"""Clients that are too slow are let go; time is the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from stoker.server.gateway.connections import (
    BODY_SECONDS,
    HEAD_SECONDS,
    READ_SECONDS,
    Connection,
    Connections,
)


class Transport(asyncio.Transport):
    """A transport that remembers what was done to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.ended = ""

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
    assert transport_of(connection).ended and b" 408 " in transport_of(connection).written


async def test_a_trickle_of_headers_has_no_more(connection: Connection) -> None:
    """One byte every few seconds holds nothing open."""
    connection.data_received(b"GET / HTTP/1.1\r\n")
    connection._now = lambda: 100.0 + HEAD_SECONDS - 1
    connection.data_received(b"X")
    connection.check(100.1 + HEAD_SECONDS)
    assert transport_of(connection).ended


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
