"""Requests that are wrong, in whatever way: each is told so, by its status and by one form of error; nothing breaks."""

from __future__ import annotations

import json
import os
import re
import socket
from typing import Any

import httpx
import pytest

from tests.serving.running import Serving

pytestmark = pytest.mark.timeout(120)
JSON = {"content-type": "application/json"}
PATHS = 5_000
GROWTH_BYTES = 16 << 20


def error_in(body: bytes) -> dict[str, Any]:
    """Return what is wrong, told as it always is."""
    document = json.loads(body)
    assert document.keys() == {"error"}
    error: dict[str, Any] = document["error"]
    assert {"type", "message", "call_id"} <= error.keys() <= {"type", "message", "call_id", "path"}
    assert error["type"] and error["message"] and "Traceback" not in error["message"]
    assert error["call_id"] is None or error["call_id"]
    return error


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (400, b'{"x": ', JSON),
        (400, b'{"x": 1} and more', JSON),
        (400, b'{"x": NaN}', JSON),
        (400, b"\xff\xfe", JSON),
        (400, '{"x": 1}'.encode("utf-16"), {"content-type": "application/json; charset=utf-16"}),
        (400, b'{"x":' * 50_000, JSON),
        (400, b'{"x": ' + b"1" * 10_000 + b"}", JSON),
        (422, b"", JSON),
        (422, b"null", JSON),
        (422, b'{"x": 1, "z": 2}', JSON),
        (422, b'{"x": "1"}', JSON),
        (422, b'{"x": true}', JSON),
        (422, b'{"x": [1]}', JSON),
        (422, b"x=1&x=2", {"content-type": "application/x-www-form-urlencoded"}),
        (422, b"x=%ff", {"content-type": "application/x-www-form-urlencoded"}),
        (422, b"--", {"content-type": "multipart/form-data; boundary=XX"}),
        (422, b"--", {"content-type": "multipart/form-data"}),
        (415, b"<x>1</x>", {"content-type": "application/xml"}),
        (415, b"1", {"content-type": "\x80"}),
        (400, b'{"x": 1}', {**JSON, "x-stoker-deadline": "soon"}),
        (400, b'{"x": 1}', {**JSON, "x-stoker-deadline": "-1"}),
        (400, b'{"x": 1}', {**JSON, "x-stoker-deadline": "9" * 400}),
    ],
)
def test_a_body_that_is_wrong(served: Serving, status: int, body: bytes, headers: dict[str, str]) -> None:
    with served.client() as client:
        given = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        answer = client.post("/shop/move", content=body, headers=given)
    assert answer.status_code == status, answer.text
    error_in(answer.content)


@pytest.mark.parametrize(
    ("status", "target"),
    [
        (422, "/shop/double?x=1&x=2"),
        (422, "/shop/double?x="),
        (422, "/shop/double"),
        (400, "/shop/double?x=%ff"),
        (400, "/shop/double?" + "&".join(f"a{i}=1" for i in range(2_000))),
        (404, "/shop/%ff"),
        (404, "/shop/../../etc/passwd"),
        (404, "/shop/..%2f..%2fetc%2fpasswd"),
        (404, "/..%5c..%5cwindows"),
        (404, "//example.org/%2e%2e"),
        (404, "/shop/double%00.html?x=1"),
        (404, "/shop/x%0d%0aset-cookie:%20a=b"),
        (404, "/v1/calls/%2e%2e/result"),
        (404, "/v1/calls/../../shop/move"),
        (404, "/" + "%2f" * 2_000),
        (404, "/shop/openapi.json/x"),
        (404, "/nobody/docs"),
        (405, "/shop/move"),
    ],
)
def test_an_address_that_is_wrong(served: Serving, status: int, target: str) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as sock:
        token = f"authorization: Bearer {served.token}"
        sock.sendall(f"GET {target} HTTP/1.1\r\nhost: localhost\r\n{token}\r\nconnection: close\r\n\r\n".encode())
        head, _, body = b"".join(iter(lambda: sock.recv(65536), b"")).partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status, (head, body)
    assert b"set-cookie" not in head
    error_in(body)


@pytest.mark.parametrize("method", ["BREW", "TRACE", "CONNECT", "OPTIONS", "PROPFIND"])
def test_a_method_that_is_wrong(served: Serving, method: str) -> None:
    with httpx.Client(base_url=served.url, timeout=60) as client:
        answer = client.request(method, "/shop/move")
    assert answer.status_code in {400, 405}
    error_in(answer.content)


def test_raw_bytes_in_a_request_line(served: Serving) -> None:
    for target in (b"/shop/\xff", b"/shop/double?x=\xff", b"/shop/double?x=1#\xff", b"shop", b"*", b"http://[::1/x"):
        with socket.create_connection(("127.0.0.1", served.port), timeout=30) as sock:
            sock.sendall(b"GET " + target + b" HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            head, _, body = b"".join(iter(lambda: sock.recv(65536), b"")).partition(b"\r\n\r\n")
        assert int(head.split()[1]) in {400, 404, 422}, (target, head)
        error_in(body)


def test_what_a_function_makes_of_a_request_is_no_header_of_the_answer(served: Serving) -> None:
    """A function that copies what it was given into a header fails; nothing is put into its answer."""
    with served.client() as client:
        for header in ("x-asked: a\r\nset-cookie: b=c", "a b: c", "transfer-encoding: chunked", "connection: close"):
            name, _, value = header.partition(": ")
            answer = client.post("/shop/reflects", json={"name": name, "value": value})
            assert answer.status_code == 500 and "set-cookie" not in answer.headers
            assert error_in(answer.content)["type"] == "ValueError"
        fine = client.post("/shop/reflects", json={"name": "x-asked", "value": "ä"})
        assert fine.status_code == 200 and fine.headers["x-asked"] == "ä"


def test_a_body_that_does_not_say_how_big_it_is_has_a_bound(served: Serving) -> None:
    with served.client() as client:
        pieces = (bytes(1 << 20) for _ in range(17))
        try:
            answer = client.post("/shop/length", content=pieces, headers={"content-type": "application/octet-stream"})
        except httpx.WriteError:
            return  # it had hung up before all was sent
    assert answer.status_code == 413
    error_in(answer.content)


def test_any_number_of_paths_leaves_nothing_behind(served: Serving) -> None:
    status = served.stoker("server", "status", "--json")
    pid = int(re.findall(r'"pid": (\d+)', status)[0])

    def ask(first: int) -> None:
        """Ask for paths that nobody has asked for: of apps, of functions, and below functions."""
        with socket.create_connection(("127.0.0.1", served.port), timeout=60) as sock:
            sent = b"".join(
                b"GET /%s%d HTTP/1.1\r\nhost: localhost\r\n%s\r\n" % (start, i, end)
                for i in range(first, first + PATHS // 2)
                for start, end in (
                    (b"app", b""),
                    (b"shop/f", b"connection: close\r\n" if i == first + PATHS // 2 - 1 else b""),
                )
            )
            sock.sendall(sent)
            assert b"".join(iter(lambda: sock.recv(1 << 20), b"")).count(b" 404 ") == PATHS

    ask(0)
    before = resident(pid)
    ask(PATHS)
    assert resident(pid) < before + GROWTH_BYTES
    with served.client() as client:
        assert client.get("/shop/double?x=2").json() == 4.0


def resident(pid: int) -> int:
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:  # noqa: PTH123 - of the kernel
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
