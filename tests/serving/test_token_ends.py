"""What was opened with a token ends with it: WebSockets, tunnels, streams, long answers, requests that wait."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests import leftovers
from tests.serving.running import Serving, serving
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(120)

SOURCE = """
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import stoker

app = stoker.App("held")
HERE = os.environ["STOKER_HOME"]

OWN = '''
import socket, sys, threading

def talk(peer):
    peer.recv(65536)
    said = ["HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: echo", "", "here"]
    peer.sendall("\\\\r\\\\n".join(said).encode())
    while data := peer.recv(65536):
        peer.sendall(data)
    peer.close()

door = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    threading.Thread(target=talk, args=(door.accept()[0],), daemon=True).start()
'''

def make_site():
    async def answer(scope, receive, send):
        if scope["type"] == "lifespan":
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            while (said := await receive())["type"] != "websocket.disconnect":
                if "text" in said:
                    await send({"type": "websocket.send", "text": said["text"]})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (await receive())["type"] != "http.disconnect":
            await send({"type": "http.response.body", "body": b"piece", "more_body": True})
    return answer

@app.function(cpu=0.2, concurrency=8)
@stoker.asgi_app()
def site():
    return make_site()

@app.function(cpu=0.2, concurrency=8)
@stoker.asgi_app(requires_token=False)
def public():
    return make_site()

@app.function(cpu=0.2, concurrency=8)
@stoker.web_server()
def server(port: int):
    return subprocess.Popen([sys.executable, "-c", OWN, str(port)])

@app.function(cpu=0.2, concurrency=8)
@stoker.endpoint(method="GET")
def counts() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1
        time.sleep(0.05)

@app.function(cpu=0.2, concurrency=8)
@stoker.endpoint(method="GET", resume="60s")
def counts_again() -> Iterator[int]:
    yield from counts.local()

@app.function(cpu=0.2, concurrency=8)
@stoker.endpoint(method="GET")
def waits() -> str:
    open(os.path.join(HERE, "waits"), "w").close()
    while not os.path.exists(os.path.join(HERE, "go")):
        time.sleep(0.01)
    return "answered"

@app.function(cpu=0.2, concurrency=8)
@stoker.endpoint()
def takes(text: str) -> str:
    return "it ran"
"""


SLOW = (  # paths, headers, and the size of what is told slowly
    ("takes", "", 20),
    ("takes", "", 400_000),
    ("takes", "Prefer: respond-async\r\n", 20),
    ("site/", "", 20),
)


@pytest.fixture(scope="module")
def held() -> Iterator[Serving]:
    with serving() as served:
        served.deploy(SOURCE, "held")
        yield served


@dataclass
class Opened:
    """What was opened with a token that has been revoked since."""

    talking: ClientConnection
    tunnel: socket.socket
    streams: dict[str, Iterator[str]]
    answer: Iterator[bytes]
    asking: threading.Thread
    answers: list[httpx.Response]


def token(held: Serving, name: str, *limits: str) -> dict[str, str]:
    made = json.loads(held.stoker("tokens", "create", name, *limits, "--json"))
    return {"authorization": f"Bearer {made['token']}"}


def talk(held: Serving, path: str, headers: dict[str, str]) -> ClientConnection:
    return connect(f"{held.url.replace('http', 'ws', 1)}{path}", additional_headers=headers, open_timeout=60)


def is_heard(talking: ClientConnection) -> bool:
    talking.send("hello")
    return talking.recv(timeout=30) == "hello"


def end_of(talking: ClientConnection) -> tuple[int | None, str | None]:
    with pytest.raises(ConnectionClosed):
        talking.recv(timeout=30)
    return talking.close_code, talking.close_reason


def open_tunnel(held: Serving, headers: dict[str, str]) -> socket.socket:
    peer = socket.create_connection(("127.0.0.1", held.port), timeout=60)
    lines = ["GET /held/server/ HTTP/1.1", "Host: localhost", f"Authorization: {headers['authorization']}"]
    peer.sendall("\r\n".join([*lines, "Connection: Upgrade", "Upgrade: websocket", "", ""]).encode())
    said = b""
    while not said.endswith(b"here"):
        said += peer.recv(65536)
    peer.sendall(b"hello")
    assert peer.recv(65536) == b"hello"
    return peer


@pytest.fixture(scope="module")
def opened(held: Serving) -> Iterator[Opened]:
    given = token(held, "partner")
    with ExitStack() as stack:
        client = stack.enter_context(httpx.Client(base_url=held.url, headers=given, timeout=60))
        talking = stack.enter_context(talk(held, "/held/site/", given))
        assert is_heard(talking)
        tunnel = stack.enter_context(open_tunnel(held, given))
        streams = {}
        for name in ("counts", "counts_again"):
            streams[name] = stack.enter_context(client.stream("GET", f"/held/{name}")).iter_lines()
            assert next(streams[name])
        answer = stack.enter_context(client.stream("GET", "/held/site/")).iter_raw()
        assert next(answer).startswith(b"piece")
        answers: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: answers.append(client.get("/held/waits")))
        asking.start()
        wait_until((Path(held.env["STOKER_HOME"]) / "waits").exists, timeout=60)
        with (
            talk(held, "/held/site/", {"authorization": f"Bearer {held.token}"}) as other,
            talk(held, "/held/public/", given) as public,
        ):
            held.stoker("tokens", "revoke", "partner")
            yield Opened(talking, tunnel, streams, answer, asking, answers)
            assert is_heard(other), "another token's is another's"
            assert is_heard(public), "what asks for no token does not end with one"
            (Path(held.env["STOKER_HOME"]) / "go").touch()  # a thread cannot be interrupted


def test_a_websocket_is_closed_as_against_the_rules(opened: Opened) -> None:
    assert end_of(opened.talking) == (1008, "The token of this connection was revoked on the server.")


def test_a_tunnel_ends(opened: Opened) -> None:
    assert opened.tunnel.recv(65536) == b""


@pytest.mark.parametrize("name", ["counts", "counts_again"])
def test_a_stream_of_events_ends_and_says_why(opened: Opened, name: str) -> None:
    last = [line for line in opened.streams[name] if line][-2:]
    assert last[0] == "event: error"
    assert json.loads(last[1].removeprefix("data: "))["error"]["type"] == "PermissionDenied"


def test_a_long_answer_of_a_web_app_is_cut(opened: Opened) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        for _ in opened.answer:
            pass


def test_a_request_without_an_answer_so_far_is_refused(opened: Opened) -> None:
    opened.asking.join(60)
    (answer,) = opened.answers
    assert answer.status_code == 403 and "was revoked" in answer.json()["error"]["message"]


def test_a_token_that_is_revoked_while_a_body_comes_lets_in_nothing(held: Serving) -> None:
    given, asked = token(held, "slow")["authorization"], []
    with ExitStack() as stack:
        for path, more, size in SLOW:
            body = json.dumps({"text": "x" * size}).encode()
            peer = stack.enter_context(socket.create_connection(("127.0.0.1", held.port), timeout=60))
            head = f"POST /held/{path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {given}\r\n{more}"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
            peer.sendall(head.encode())
            assert peer.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n", "its head has let it in"
            peer.sendall(body[:5])
            asked.append((peer, body[5:]))
        held.stoker("tokens", "revoke", "slow")
        for peer, rest in asked:
            peer.sendall(rest)
            answer = peer.recv(65536)
            assert answer.startswith(b"HTTP/1.1 401 ") and b"revoked" in answer
    (segments,) = leftovers.segments_of(held.runtime, set())
    wait_until(lambda: not list((leftovers.SHM / segments).glob("http*")), message="nothing is left of a body")


def test_what_was_opened_with_a_token_that_expires_ends_as_well(held: Serving) -> None:
    made = held.ask("token_create", name="brief", expires=5.0)  # no time goes by until a program has ended
    with talk(held, "/held/site/", {"authorization": f"Bearer {made['token']}"}) as talking:
        assert end_of(talking) == (1008, "The token of this connection has expired.")
