"""Bytes that are no request, or not yet one: what the door does with clients that are broken, slow or hostile."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.serving.running import Serving

pytestmark = pytest.mark.timeout(120)
HEAD = b"GET /shop/double?x=1 HTTP/1.1\r\nHost: localhost\r\n"


@contextmanager
def connected(served: Serving) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as sock:
        yield sock


def said(served: Serving, data: bytes) -> bytes:
    """Return all that is answered until the connection is closed."""
    with connected(served) as sock:
        with suppress(OSError):  # it has answered, and closed, before all of it was read
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        answer = b""
        while data := sock.recv(65536):
            answer += data
        return answer


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"X: a\r\n b\r\n\r\n",
        HEAD + b"X : a\r\n\r\n",
        HEAD + b"X: a\nY: b\r\n\r\n",
        HEAD + b"X: \x00\r\n\r\n",
        b"GET /shop/double?x=1 HTTP/1.1\r\n\r\n",
        b"GET /shop/double?x=1 HTTP/1.1\r\nHost: a b\r\n\r\n",
    ],
)
def test_what_smugglers_try_is_refused_and_the_connection_closed(served: Serving, data: bytes) -> None:
    answer = said(served, data)
    assert answer.startswith(b"HTTP/1.1 400 ") and b"connection: close" in answer and answer.count(b"HTTP/1.1 ") == 1


def test_headers_have_a_bound(served: Serving) -> None:
    for filler in (b"X: " + b"a" * 100_000, b"\r\n".join(b"X%d: a" % i for i in range(20_000))):
        answer = said(served, HEAD + filler + b"\r\n\r\n")
        assert not answer or answer.split(b" ", 2)[1] == b"431"
    assert b" 200 " in said(served, HEAD + b"X: " + b"a" * 20_000 + b"\r\nConnection: close\r\n\r\n")


def test_requests_on_one_connection_are_answered_in_order(served: Serving) -> None:
    one = b"GET /shop/double?x=%d HTTP/1.1\r\nHost: localhost\r\n\r\n"
    answer = said(served, b"".join(one % i for i in range(20)) + HEAD + b"Connection: close\r\n\r\n")
    answer = answer.replace(b"HTTP/1.1 102 Processing\r\n\r\n", b"")  # it is told so once a second
    bodies = [part.rpartition(b"\r\n\r\n")[2] for part in answer.split(b"HTTP/1.1 200 OK")[1:]]
    assert bodies == [b"%d.0" % (2 * i) for i in range(20)] + [b"2.0"]


def test_a_body_that_ends_early_runs_nothing(served: Serving) -> None:
    before = served.stoker("calls", "list", "-n", "1000").count("shop.length")
    post = b"POST /shop/length HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
    said(served, post + b"Content-Length: 100\r\n\r\nabc")
    said(served, post + b"Content-Length: 1000000\r\n\r\nabc")
    said(served, post + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab")
    assert served.stoker("calls", "list", "-n", "1000").count("shop.length") == before


def test_a_body_that_is_too_big_is_refused_before_it_comes(served: Serving) -> None:
    post = b"POST /shop/length HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n"
    assert said(served, post).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_waits_for_a_go_ahead_gets_it(served: Serving) -> None:
    with connected(served) as sock:
        sock.sendall(
            b"POST /shop/length HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
            b"Content-Length: 3\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
        )
        assert sock.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"abc")
        assert b'"bytes":3' in b"".join(iter(lambda: sock.recv(65536), b""))
