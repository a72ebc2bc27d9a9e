"""Plain requests are answered as others are: each of these is asked the short way, and the long one."""

from __future__ import annotations

import re
import socket
import time

import httpx
import pytest

from tests.serving.running import Serving

pytestmark = pytest.mark.timeout(120)
IDS = re.compile(r"h[0-9a-f]{8,}\.[0-9a-f]{8}")
OTHERWISE = {"connection": "close"}  # a request that says this is not plain; its answer says it, too
OF_ITS_OWN = {"connection", "x-request-id", "traceparent", "x-stoker-call-id"}


def told(answer: httpx.Response) -> tuple[int, dict[str, str], str]:
    """Return what two answers to the same request have in common."""
    headers = {name: value for name, value in answer.headers.items() if name not in OF_ITS_OWN}
    return answer.status_code, headers, IDS.sub("", answer.text)


@pytest.mark.parametrize(
    ("method", "path", "more"),
    [
        ("GET", "double?x=4", {}),
        ("GET", "double?x=four", {}),
        ("GET", "double", {}),
        ("GET", "double?x=4&x=5", {}),
        ("GET", "double/more%20of%2Fit?x=4", {}),
        ("HEAD", "double?x=4", {}),
        ("DELETE", "double?x=4", {}),
        ("OPTIONS", "double?x=4", {}),
        ("GET", "double?x=%ff", {}),
        ("GET", "double?x=4", {"headers": {"x-stoker-deadline": "soon"}}),
        ("GET", "slowly?seconds=20", {"headers": {"x-stoker-deadline": "100ms"}}),
        ("GET", "double?x=4", {"headers": {"authorization": "Bearer nobody"}}),
        ("GET", "double?x=4", {"headers": {"host": "example.org"}}),
        ("GET", "double?x=4", {"headers": {"host": "double--shop.localhost"}}),
        ("GET", "double?x=4", {"headers": {"origin": "https://example.org"}}),
        ("POST", "move", {"json": {"point": {"x": 1}}}),
        ("POST", "move", {"json": {"point": {"x": 1}}, "headers": {"authorization": "Bearer nobody"}}),
        ("POST", "fail", {"json": {"what": "it"}}),
        ("POST", "fail", {"content": b"{", "headers": {"content-type": "application/json"}}),
        ("POST", "length", {"content": bytes(200_000), "headers": {"content-type": "image/png"}}),
        ("POST", "length", {"content": bytes(300_000), "headers": {"content-type": "image/png"}}),
        ("POST", "custom/a/b?c=d", {"content": b"xyz", "headers": {"x-asked": b"\xe4"}}),
        ("POST", "reflects", {"json": {"name": "X-Request-Id", "value": "mine"}}),
        ("POST", "reflects", {"json": {"name": "X-Split", "value": "a\r\nb: c"}}),
        ("POST", "reflects", {"json": {"name": "Connection", "value": "close"}}),
        ("GET", "big?size=0", {}),
        ("GET", "big?size=100000", {}),
        ("GET", "big?size=3000000", {}),
        ("GET", "count?to=3", {}),
        ("GET", "nothing", {}),
        ("GET", "../../healthz", {}),
    ],
)  # fmt: skip
def test_both_ways_answer_alike(served: Serving, method: str, path: str, more: dict[str, object]) -> None:
    headers = dict(more.pop("headers", {}))  # type: ignore[call-overload]
    with served.client() as client:
        plain = client.request(method, f"/shop/{path}", headers=headers, **more)  # type: ignore[arg-type]
        other = client.request(method, f"/shop/{path}", headers={**headers, **OTHERWISE}, **more)  # type: ignore[arg-type]
    assert told(plain) == told(other)
    assert len(plain.headers["traceparent"]) == 55 and plain.headers["x-request-id"]
    assert plain.headers.get("connection") != "close" and other.headers["connection"] == "close"
    assert ("x-stoker-call-id" in plain.headers) == ("x-stoker-call-id" in other.headers)


def test_ids_that_come_with_a_request_go_back(served: Serving) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with served.client() as client:
        answer = client.get("/shop/double?x=1", headers={"x-request-id": "mine", "traceparent": trace})
        assert answer.headers["x-request-id"] == "mine" and answer.headers["traceparent"] == trace
        answer = client.get("/shop/double?x=1", headers={"x-request-id": "no good", "traceparent": "00-nonsense"})
        assert answer.headers["x-request-id"] != "no good" and answer.headers["traceparent"] != "00-nonsense"


def test_a_request_may_come_in_pieces(served: Serving) -> None:
    body = b'{"name": "X-A", "value": "b"}'
    head = b"POST /shop/reflects HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    whole = head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(2):  # and another may follow
            for at in range(len(whole)):
                sock.sendall(whole[at : at + 1])
                time.sleep(0.0005)  # so that it comes in pieces
            answer = sock.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n") and answer.endswith(b"\r\n\r\nfine")


def test_an_upload_that_is_refused_is_told_so(served: Serving) -> None:
    """It goes on sending meanwhile, and is not reset."""
    head = b"POST /shop/length HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as sock:
        sock.sendall(head + bytes(8 << 20))
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 413 ") and answer.endswith(b"}}")
