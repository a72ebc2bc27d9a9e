"""Users' own web apps behind the gateway: ASGI, WSGI, and servers that they start; WebSockets; bodies bit by bit."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import psutil
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from stoker.server.gateway.routing import is_host_of_function
from tests.serving.running import Serving, serving
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(120)

APP = (Path(__file__).parent / "app_of_web_apps.py").read_text()
KINDS = ("site", "server")


@pytest.fixture(scope="module")
def served() -> Iterator[Serving]:
    """Have the web apps deployed."""
    with serving() as found:
        found.deploy(APP, "app_of_web_apps")
        yield found


def talk(served: Serving, path: str, subprotocols: Sequence[str] = ()) -> ClientConnection:
    headers = {"authorization": f"Bearer {served.token}"}
    url = served.url.replace("http", "ws", 1)
    return connect(
        f"{url}{path}",
        additional_headers=headers,
        subprotocols=[Subprotocol(one) for one in subprotocols] or None,
        open_timeout=60,
    )


# -- the page


def test_the_page_on_web_apps(served: Serving) -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "web-apps.md").read_text()
    source = re.findall(r"```python\n(# webapp\.py.*?)```", page, flags=re.S)[0]
    built = 'image=stoker.Image.python("3.11").pip_install("fastapi")'
    assert built in source
    said = served.deploy(source.replace(built, ""), "webapp")
    assert f"{served.url}/web/site" in said
    asked = re.search(r"curl http://127\.0\.0\.1:7410(\S+) -d '(.*?)'", page)
    assert asked is not None
    with served.client() as client:
        headers = {"content-type": "application/json"}
        assert client.post(asked[1], content=asked[2], headers=headers).json() == {"x": 42.0}
        assert "openapi.json" in client.get("/web/site/docs").text
        assert client.get("/web/site/openapi.json").json()["servers"] == [{"url": "/web/site"}]
        host = f"site--web.localhost:{served.port}"
        assert client.post("/double", json={"x": 4}, headers={"host": host}).json() == {"x": 8.0}


# -- requests


def test_an_asgi_app_answers_below_its_function(served: Serving) -> None:
    with served.client() as client:
        answer = client.get("/webapps/site/hello/a%20b/c?x=1", headers={"cookie": "k=v"})
        assert answer.status_code == 200 and answer.headers["x-stoker-call-id"]
        assert answer.json() == {
            "greeting": "hello",
            "path": "/webapps/site/hello/a b/c",
            "root": "/webapps/site",
            "query": {"x": "1"},
            "authorization": None,  # the token is Stoker's
            "cookies": {"k": "v"},
        }
        assert client.post("/webapps/site/double", json={"x": 4}).json() == {"x": 8}
        assert client.get("/webapps/site/nothing").status_code == 404
        assert client.get("/webapps/site/double").status_code == 405
        assert client.head("/webapps/site/big?size=5").headers["content-length"] == "5"
        assert client.get("/webapps/site/cookies").headers.get_list("set-cookie") == [
            "a=1; Path=/; SameSite=lax",
            "b=2; Path=/; SameSite=lax",
        ]


def test_the_last_slash_is_added(served: Serving) -> None:
    with served.client() as client:
        moved = client.get("/webapps/site?x=1")
        assert (moved.status_code, moved.headers["location"]) == (308, "/webapps/site/?x=1")
        assert client.get("/webapps/site", follow_redirects=True).json()["greeting"] == "hello"


def test_a_token_is_asked_for_unless_the_app_is_public(served: Serving) -> None:
    assert httpx.get(f"{served.url}/webapps/site/", timeout=60).status_code == 401
    answer = httpx.get(f"{served.url}/webapps/public_site/", headers={"authorization": "Basic dTpw"}, timeout=60)
    assert answer.json()["greeting"] == "welcome" and answer.json()["authorization"] == "Basic dTpw"


def test_a_function_has_a_host_of_its_own(served: Serving) -> None:
    with served.client() as client:
        told = {"host": f"public-site--webapps.localhost:{served.port}"}
        answer = client.get("/hello/x", headers=told)
        assert answer.json()["path"] == "/hello/x" and answer.json()["root"] == ""
        assert client.get("/", headers={"host": "nobody--webapps.localhost"}).status_code == 404
        assert client.get("/", headers={"host": "public-site--webapps.example.org"}).status_code == 421


@pytest.mark.parametrize(
    ("host", "is_one"),
    [(b"site--web.localhost:7410", True), (b"localhost", False), (b"xn--mller-kva.de", False), (b"a.b--c.de", False)],
)
def test_which_hosts_are_functions(host: bytes, is_one: bool) -> None:
    assert is_host_of_function(host) is is_one


def test_a_method_makes_an_app_too(served: Serving) -> None:
    with served.client() as client:
        assert client.get("/webapps/Pages/site/").json()["greeting"] == "page, loaded"
        assert client.get("/webapps/Pages/site/").json()["root"] == "/webapps/Pages/site"


def test_a_wsgi_app_answers(served: Serving) -> None:
    with served.client() as client:
        assert client.get("/webapps/classic/?x=1").json() == {
            "path": "/",
            "root": "/webapps/classic",
            "query": {"x": "1"},
        }
        assert client.post("/webapps/classic/double", json={"x": 4}).json() == {"x": 8}
        assert client.get("/webapps/classic/lines").text == "line 0\nline 1\nline 2\n"
        assert len(client.get("/webapps/classic/big?size=1000000").content) == 1_000_000
        assert client.get("/webapps/classic/fails").status_code == 500
        assert client.get("/webapps/classic/nothing").status_code == 404


def test_a_server_of_its_own_answers(served: Serving) -> None:
    with served.client() as client:
        answer = client.get("/webapps/server/hello/x?y=1")
        assert answer.json()["greeting"] == "from a server of its own" and answer.json()["query"] == {"y": "1"}
        assert client.post("/webapps/server/double", json={"x": 4}).json() == {"x": 8}
        assert len(client.get("/webapps/server/big?size=1000000").content) == 1_000_000
        assert client.head("/webapps/server/big?size=5").headers["content-length"] == "5"
        assert client.get("/webapps/server/big?size=0").content == b""


def test_an_answer_does_not_wait_for_what_its_app_does_in_the_background(served: Serving) -> None:
    with served.client() as client:
        for path in ("/webapps/site/later", "/webapps/site/later?streams=1"):
            assert client.get(path).text == "at once"
        assert 0 not in client.get("/webapps/site/left").json()
        client.get("/webapps/site/release")
        wait_until(lambda: client.get("/webapps/site/left").json().count(0) == 2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_connection_goes_on_after_answers_without_a_body(served: Serving, kind: str) -> None:
    path = f"/webapps/{kind}"
    ask = f"host: localhost\r\nauthorization: Bearer {served.token}\r\n"
    with socket.create_connection(("127.0.0.1", served.port)) as sock:
        sock.settimeout(60)
        lines = [
            f"GET {path}/big?size=3 HTTP/1.1\r\n{ask}",
            f"HEAD {path}/big?size=5 HTTP/1.1\r\n{ask}",
            f"GET {path}/unchanged?length=7 HTTP/1.1\r\n{ask}",
            f"GET {path}/big?size=2 HTTP/1.1\r\nconnection: close\r\n{ask}",
        ]
        sock.sendall("".join(f"{line}\r\n" for line in lines).encode())
        said = b"".join(iter(lambda: sock.recv(65536), b""))
    statuses = re.findall(rb"HTTP/1\.1 (\d+)", said)
    bodies = [part.rpartition(b"\r\n\r\n")[2] for part in said.split(b"HTTP/1.1 ")[1:]]
    assert (statuses, bodies) == ([b"200", b"200", b"304", b"200"], [b"xxx", b"", b"", b"xx"])


def test_an_answer_of_no_length_that_could_be_is_none(served: Serving) -> None:
    with served.client() as client:
        answer = client.get("/webapps/site/unchanged?status=200&length=-1")
        assert answer.status_code == 500 and "Content-Length" in answer.json()["error"]["message"]
        with pytest.raises(httpx.RemoteProtocolError):
            client.get("/webapps/site/unchanged?status=200&length=5")  # of which nothing comes


# -- bodies


@pytest.mark.parametrize("kind", ["site", "server"])
def test_an_app_may_answer_before_it_has_read_all_of_it(served: Serving, kind: str) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as sock, sock.makefile("rb") as file:
        sock.settimeout(60)
        ask = f"host: localhost\r\nauthorization: Bearer {served.token}\r\n"
        sock.sendall(f"POST /webapps/{kind}/unread HTTP/1.1\r\n{ask}content-length: 1000000\r\n\r\n".encode())
        assert b" 413 " in file.readline()
        while file.readline().strip():
            pass
        assert file.read(8) == b"too much"
        sock.sendall(b"x" * 1_000_000 + f"GET /webapps/{kind}/big?size=5 HTTP/1.1\r\n{ask}\r\n".encode())
        assert b" 200 " in file.readline()


@pytest.mark.parametrize("kind", ["site", "classic", "server"])
@pytest.mark.parametrize("says_length", [True, False])
def test_a_long_body_is_passed_on_bit_by_bit(served: Serving, kind: str, says_length: bool) -> None:
    piece = os.urandom(64 << 10)
    count = 80

    def pieces() -> Iterator[bytes]:
        for _ in range(count):
            yield piece

    headers = {"content-length": str(count * len(piece))} if says_length else {}
    with served.client() as client:
        answer = client.post(f"/webapps/{kind}/digest", content=pieces(), headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()["sha256"] == hashlib.sha256(piece * count).hexdigest()
    assert answer.json()["size"] == count * len(piece)


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_begins_before_the_request_has_ended(served: Serving, kind: str) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as sock:
        sock.settimeout(60)
        head = f"POST /webapps/{kind}/echo HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {served.token}\r\n"
        sock.sendall(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
        file = sock.makefile("rb")
        for word in (b"one", b"two", b"three"):
            sock.sendall(b"%x\r\n%b\r\n" % (len(word), word))
            while word.upper() not in file.readline():
                pass
        sock.sendall(b"0\r\n\r\n")


def test_a_client_that_hangs_up_in_the_middle_of_its_body_ends_the_call(served: Serving) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as sock:
        head = f"POST /webapps/site/digest HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {served.token}\r\n"
        sock.sendall(f"{head}content-length: 10000000\r\n\r\n".encode() + b"x" * 100_000)
        wait_until(lambda: "running" in served.stoker("calls", "list", "--state", "running"))
    wait_until(lambda: "webapps.site" not in served.stoker("calls", "list", "--state", "running"))
    with served.client() as client:
        assert client.post("/webapps/site/double", json={"x": 4}).json() == {"x": 8}


def is_server(process: psutil.Process) -> bool:
    try:
        return "stoker.server" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def own_memory(process: psutil.Process) -> int:
    """Return the bytes that a process holds, without those of files that it has mapped."""
    try:
        found = process.memory_info()
        return int(found.rss - found.shared)
    except psutil.Error:
        return 0


@pytest.mark.slow
@pytest.mark.parametrize("path", ["site/digest", "weigh"])
def test_a_gigabyte_passes_through_little_memory(served: Serving, path: str) -> None:
    piece = os.urandom(1 << 20)
    part = b'--edge\r\ncontent-disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'
    start, end = (part, b"\r\n--edge--\r\n") if path == "weigh" else (b"", b"")
    with served.client() as client:
        client.post("/webapps/weigh", files={"file": b"x"})
        client.post("/webapps/site/double", json={"x": 1})
        mine = served.env["STOKER_HOME"]
        server = next(p for p in psutil.process_iter() if is_server(p) and p.environ().get("STOKER_HOME") == mine)
        family = [server, *server.children(recursive=True)]
        before = sum(map(own_memory, family))
        peak = before

        def pieces() -> Iterator[bytes]:
            nonlocal peak
            yield start
            for number in range(1024):
                if number % 64 == 0:
                    peak = max(peak, sum(map(own_memory, family)))
                yield piece
            yield end

        headers = {"content-length": str(len(start) + (1 << 30) + len(end)), "content-type": "application/octet-stream"}
        if path == "weigh":
            headers["content-type"] = "multipart/form-data; boundary=edge"
        answer = client.post(f"/webapps/{path}", content=pieces(), headers=headers)
        peak = max(peak, sum(map(own_memory, family)))
        assert answer.json()["size"] == 1 << 30, answer.text
        assert peak - before < 100 << 20, f"{(peak - before) >> 20} MiB more"


# -- what goes wrong


@pytest.mark.parametrize("kind", ["site", "server"])
def test_an_answer_that_breaks_off_is_not_taken_for_whole(served: Serving, kind: str) -> None:
    with served.client() as client:
        assert client.get(f"/webapps/{kind}/fails").status_code == 500
        with pytest.raises(httpx.RemoteProtocolError):
            client.get(f"/webapps/{kind}/half")


def test_a_call_whose_app_has_raised_has_failed_though_its_framework_has_answered(served: Serving) -> None:
    with served.client() as client:
        answer = client.get("/webapps/site/fails")
        again = client.post("/webapps/site/double", json={"x": 4})
    assert (answer.status_code, answer.text) == (500, "Internal Server Error") and again.status_code == 200
    call_id = answer.headers["x-stoker-call-id"]

    def failed() -> list[dict[str, object]]:
        rows = json.loads(served.stoker("calls", "list", "--state", "failed", "--json"))
        return [row for row in rows if row["id"] == call_id]

    wait_until(lambda: bool(failed()))
    assert failed()[0]["http"] == {"method": "GET", "path": "/webapps/site/fails", "status": 500, "reason": ""}
    shown = served.stoker("calls", "show", call_id)
    assert "ValueError" in shown and "it cannot be done" in shown
    assert 'raise ValueError("it cannot be done")' in served.stoker("logs", "--call", call_id)


def test_a_worker_that_dies_in_the_middle_of_an_answer_cuts_it_and_before_one_is_told(served: Serving) -> None:
    with served.client() as client:
        with pytest.raises(httpx.RemoteProtocolError):
            client.get("/webapps/site/dies")
        before = client.get("/webapps/site/dies?when=before")
        assert before.status_code == 500 and before.json()["error"]["type"] == "WorkerLost"
        assert client.post("/webapps/site/double", json={"x": 4}).json() == {"x": 8}


def test_no_header_splits_an_answer(served: Serving) -> None:
    with served.client() as client:
        answer = client.get("/webapps/site/splits")
        assert answer.status_code == 500 and "x-worse" not in answer.headers


def test_a_function_that_makes_no_app_says_so(served: Serving) -> None:
    with served.client() as client:
        answer = client.get("/webapps/broken/")
        assert answer.status_code == 503 and "is to return an ASGI app" in answer.json()["error"]["message"]
        answer = client.get("/webapps/ends_at_once/")
        assert answer.status_code == 503 and "has ended, with status 7" in answer.json()["error"]["message"]


# -- WebSockets


@pytest.mark.parametrize("kind", KINDS)
def test_a_websocket_goes_both_ways(served: Serving, kind: str) -> None:
    with talk(served, f"/webapps/{kind}/chat", subprotocols=["shout", "whisper"]) as chat:
        assert chat.subprotocol == "shout"
        chat.send("hello")
        assert chat.recv() == "HELLO"
        chat.send(b"\x00\x01\x02")
        assert chat.recv() == b"\x02\x01\x00"
        long = "word " * 60_000
        for _ in range(20):
            chat.send(long)
            assert chat.recv() == long.upper()
        chat.send("bye")
        with pytest.raises(ConnectionClosed) as closed:
            chat.recv()
        assert closed.value.rcvd is not None and (closed.value.rcvd.code, closed.value.rcvd.reason) == (
            4001,
            "as you wish",
        )


def test_the_list_of_calls_has_websockets_and_what_apps_have_answered(served: Serving) -> None:
    with served.client() as client:
        client.get("/webapps/site/no/such/page")
    with talk(served, "/webapps/site/chat") as socket:
        socket.send("hello")
        assert socket.recv() == "HELLO"
    with talk(served, "/webapps/server/chat") as socket:
        socket.send("hello")
        assert socket.recv() == "HELLO"

    def listed() -> bool:
        rows = json.loads(served.stoker("calls", "list", "--app", "webapps", "--json"))
        told = [(row["http"]["path"], row["http"]["status"]) for row in rows if row["http"]]
        wanted = [("/webapps/site/no/such/page", 404), ("/webapps/site/chat", 101), ("/webapps/server/chat", 101)]
        return all(one in told for one in wanted)

    wait_until(listed, timeout=20, message="they are listed with their status")


def test_an_app_is_told_that_its_websocket_was_closed(served: Serving) -> None:
    with served.client() as client:
        with talk(served, "/webapps/site/chat?ticket=secret") as chat:
            chat.send("hello")
            chat.recv()
            chat.close(4002)
        wait_until(lambda: 4002 in client.get("/webapps/site/left").json())
    log = Path(served.env["STOKER_HOME"]) / "server" / "server.log"
    assert "secret" not in log.read_text()


def test_an_app_may_go_on_after_it_has_closed_its_websocket(served: Serving) -> None:
    with served.client() as client, talk(served, "/webapps/site/closes") as chat:
        with pytest.raises(ConnectionClosed):
            chat.recv()
        wait_until(lambda: 4003 in client.get("/webapps/site/left").json())


def test_websockets_that_are_refused_and_that_fail(served: Serving) -> None:
    for path, status in (("/webapps/site/refuses", 403), ("/webapps/classic/", 426), ("/webapps/nothing/", 404)):
        with pytest.raises(InvalidStatus) as refused:
            talk(served, path)
        assert refused.value.response.status_code == status, path
    for kind in KINDS:
        with pytest.raises(InvalidStatus) as refused:
            talk(served, f"/webapps/{kind}/denies")
        assert (refused.value.response.status_code, refused.value.response.body) == (418, b"not you")
    with pytest.raises(InvalidStatus) as refused, connect(f"{served.url.replace('http', 'ws', 1)}/webapps/site/chat"):
        pass
    assert refused.value.response.status_code == 401
    with pytest.raises(InvalidStatus) as refused, connect(f"{served.url.replace('http', 'ws', 1)}/webapps/server/chat"):
        pass
    assert refused.value.response.status_code == 401
    with talk(served, "/webapps/site/chat") as chat:
        chat.send("fail")
        with pytest.raises(ConnectionClosed) as closed:
            chat.recv()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1011
    assert "ValueError: it cannot be said" in served.stoker("logs", "--function", "site")
