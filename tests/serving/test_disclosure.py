"""What a worker has printed is told to nobody over HTTP, by whichever door: it is for whoever runs the code."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.serving.running import Serving, serving
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(120)

SOURCE = """
import os
import stoker

app = stoker.App("leaks")
ONCE = {"max_workers": 1, "lost_retries": 0}

def die():
    print("SECRET of a call", flush=True)
    os.write(2, b"SECRET of native code\\n")
    os._exit(3)

@app.cls(**ONCE)
class Plain:
    @stoker.enter()
    def load(self):
        os.write(1, b"SECRET of a hook\\n")

    @stoker.endpoint(method="GET", requires_token=False)
    def now(self) -> int:
        die()

    @stoker.endpoint(method="GET", requires_token=False)
    def first(self):
        die()
        yield 1

@app.cls(**ONCE)
class Others:
    @stoker.endpoint(method="GET", requires_token=False)
    def second(self):
        yield 1
        die()

    @stoker.endpoint()
    def later(self) -> int:
        die()

@app.function(**ONCE, batch=stoker.Batch(max_size=4, max_wait="200ms"))
@stoker.endpoint(method="GET", requires_token=False)
def batched(xs: list[int]) -> list[int]:
    die()

@app.function(**ONCE)
@stoker.endpoint(method="GET", requires_token=False)
def asks() -> int:
    return Plain().now.remote()

@app.function(**ONCE)
@stoker.endpoint(method="GET", requires_token=False)
def crashes() -> int:
    os.write(2, b"SECRET of native code\\n")
    import ctypes
    return ctypes.string_at(1)

@app.function(**ONCE)
@stoker.asgi_app(requires_token=False)
def site():
    async def answers(scope, receive, send):
        if scope["type"] == "lifespan":
            raise NotImplementedError
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
        die()
    return answers

@app.cls(**ONCE)
class Loads:
    @stoker.enter(snapshot=True)
    def load(self):
        if os.path.exists(os.path.join(os.environ["STOKER_HOME"], "dies")):
            print("SECRET of a hook")
            die()

    @stoker.endpoint(method="GET", requires_token=False)
    def now(self) -> int:
        return 1
"""


@pytest.fixture(scope="module")
def leaks() -> Iterator[Serving]:
    with serving() as served:
        (served.root / "h").mkdir(exist_ok=True)
        (served.root / "h" / "dies").touch()
        served.deploy(SOURCE, "leaks")
        yield served


def asked_until_it_dies(client: httpx.Client, path: str, **headers: str) -> httpx.Response:
    """Ask past the pauses between starts that the deaths before have made."""
    found = client.get(path, headers=headers)
    while found.status_code == 503 and "in their calls" in found.text:
        assert "SECRET" not in found.text
        time.sleep(float(found.headers["retry-after"]))
        found = client.get(path, headers=headers)
    return found


@pytest.mark.parametrize("path", ["Plain/now", "Plain/first", "batched?xs=1", "asks", "crashes", "site/"])
@pytest.mark.parametrize("headers", [{}, {"x-stoker-deadline": "60s"}], ids=["plain", "gateway"])
def test_who_asks_is_told_how_a_worker_ended_and_not_what_it_said(
    leaks: Serving, path: str, headers: dict[str, str]
) -> None:
    with httpx.Client(base_url=leaks.url, timeout=60) as client:
        found = asked_until_it_dies(client, f"/leaks/{path}", **headers)
    error = found.json()["error"]
    assert (found.status_code, error["type"]) == (500, "WorkerLost"), found.text
    assert "signal 11" in error["message"] if path == "crashes" else "exit status 3" in error["message"]
    assert "SECRET" not in found.text and "output" not in found.text and ".py" not in found.text
    if path != "asks":
        assert "SECRET of native code" in leaks.stoker("calls", "show", error["call_id"])


def test_nor_is_who_reads_a_stream(leaks: Serving) -> None:
    with httpx.Client(base_url=leaks.url, timeout=60) as client:
        found = asked_until_it_dies(client, "/leaks/Others/second")
    assert found.status_code == 200 and "WorkerLost" in found.text and "SECRET" not in found.text


def test_nor_is_who_holds_a_websocket(leaks: Serving) -> None:
    with (
        connect(f"{leaks.url.replace('http', 'ws')}/leaks/site/", open_timeout=60) as socket,
        pytest.raises(ConnectionClosed) as closed,
    ):
        socket.recv(timeout=60)
    assert closed.value.rcvd is not None and "SECRET" not in closed.value.rcvd.reason


def test_nor_is_who_fetches_the_answer_later(leaks: Serving) -> None:
    with leaks.client(prefer="respond-async") as client:
        place = client.post("/leaks/Others/later").json()["path"]
        wait_until(lambda: client.get(place).json()["state"] == "failed", timeout=60)
        state, result = client.get(place), client.get(f"{place}/result")
    assert state.json()["error"].startswith("WorkerLost: ") and "exit status 3" in state.json()["error"]
    assert result.status_code == 500 and result.json()["error"]["type"] == "WorkerLost"
    assert "SECRET" not in state.text + result.text
    assert "SECRET of native code" in leaks.stoker("calls", "show", place.rpartition("/")[2])


def test_a_slip_in_a_path_is_told_with_the_class_that_it_meant(leaks: Serving) -> None:
    with httpx.Client(base_url=leaks.url, timeout=60) as client:
        assert "Did you mean 'Plain'?" in client.get("/leaks/plain").json()["error"]["message"]


def test_nor_is_who_finds_that_nothing_starts_at_once_or_in_the_pauses_between_tries(leaks: Serving) -> None:
    with httpx.Client(base_url=leaks.url, timeout=60) as client:
        found = [client.get("/leaks/Loads/now") for _ in range(6)]
    assert {one.json()["error"]["type"] for one in found} == {"StartupError"}
    assert "tried in" in found[-1].text
    for one in found:
        assert "exit status 3" in one.text and "SECRET" not in one.text and "until then" not in one.text
    told = {row["name"]: row["trouble"] for row in json.loads(leaks.stoker("functions", "list", "--json"))}
    assert "Its output until then: " in told["Loads"] and "SECRET of a hook · SECRET of a call" in told["Loads"]
    assert '"worker"' not in told["Loads"]
