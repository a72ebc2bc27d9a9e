"""Callbacks: signed, sent again until they are taken, over restarts, and only where they may go."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest

from tests.serving.running import Serving, serving
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(120)

PAGE = (Path(__file__).parent.parent.parent / "docs" / "serving.md").read_text()
SOURCE = """
import os
import time

import stoker

app = stoker.App("jobs")

@app.function()
@stoker.endpoint()
def square(x: int, until: str = "") -> int:
    if x < 0:
        raise ValueError(f"no {x}")
    while until and not os.path.exists(until):
        time.sleep(0.01)
    return x * x

@app.function()
@stoker.endpoint(requires_token=False)
def anybody(x: int) -> int:
    return x

@app.function()
@stoker.endpoint()
def counts(to: int):
    yield from range(to)
"""


@dataclass
class Receiver:
    """Takes callbacks, and answers each with the next of its statuses; the last one stays."""

    statuses: list[int] = field(default_factory=lambda: [200])
    came: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/done?for=me"

    def told(self, n: int = 0) -> dict[str, Any]:
        """Return what the n-th one said, once it has come."""
        wait_until(lambda: len(self.came) > n, timeout=60, message="a callback came")
        found: dict[str, Any] = json.loads(self.came[n][1])
        return found


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status = made.statuses.pop(0) if len(made.statuses) > 1 else made.statuses[0]
            made.came.append(({name.lower(): value for name, value in self.headers.items()}, body))  # before it counts
            self.send_response(status)
            if status == 302:
                self.send_header("location", "/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.port = server.server_port
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def jobs() -> Iterator[Serving]:
    with serving(STOKER_CALLBACKS="127.0.0.0/8") as served:
        served.deploy(SOURCE, "jobs")
        served.env["STOKER_HTTP"] = f"127.0.0.1:{served.port}"
        yield served


def ask(jobs: Serving, url: str, body: dict[str, Any], **headers: str) -> httpx.Response:
    with jobs.client(prefer="respond-async", **{"x-stoker-callback": url}, **headers) as client:
        return client.post("/jobs/square", json=body)


def state_of(jobs: Serving, answer: httpx.Response) -> dict[str, Any]:
    with jobs.client() as client:
        found: dict[str, Any] = client.get(answer.headers["location"]).json()["callback"]
        return found


def verifier() -> Callable[[bytes, dict[str, str], str], None]:
    """Return what the page gives its readers."""
    block = re.search(r"```python receiver\n(.*?)```", PAGE, flags=re.S)
    assert block is not None
    names: dict[str, Any] = {}
    exec(block[1], names)
    verify: Callable[[bytes, dict[str, str], str], None] = names["verify"]
    return verify


def test_the_end_of_a_call_is_told_and_signed(jobs: Serving, receiver: Receiver) -> None:
    answer = ask(jobs, receiver.url, {"x": 7})
    assert answer.status_code == 202
    call_id = answer.headers["x-stoker-call-id"]
    told = receiver.told()
    assert told["type"] == "call.succeeded" and re.fullmatch(r"20..-..-..T..:..:..\....Z", told["timestamp"])
    data = told["data"]
    assert (data["call_id"], data["function"], data["result"], data["status"]) == (call_id, "jobs.square", 49, 200)
    with jobs.client() as client:
        assert client.get(data["result_path"]).json() == 49
    headers, body = receiver.came[0]
    assert headers["webhook-id"] == call_id and headers["host"] == f"127.0.0.1:{receiver.port}"
    secret, verify = jobs.stoker("callbacks", "secret", "tests").strip(), verifier()
    verify(body, headers, secret)
    other = jobs.stoker("tokens", "create", "other") and jobs.stoker("callbacks", "secret", "other").strip()
    for wrong in (
        (body + b" ", headers, secret),
        (body, {**headers, "webhook-id": "h-1"}, secret),
        (body, headers, other),
    ):
        with pytest.raises(ValueError, match="not signed"):
            verify(*wrong)
    wait_until(lambda: state_of(jobs, answer)["state"] == "delivered", timeout=30)
    assert "delivered" in jobs.stoker("calls", "show", call_id)


def test_errors_and_cancellations_are_told(jobs: Serving, receiver: Receiver, tmp_path: Path) -> None:
    ask(jobs, receiver.url, {"x": -1})
    told = receiver.told()
    assert told["type"] == "call.failed" and told["data"]["status"] == 500
    assert told["data"]["error"] == {"type": "ValueError", "message": "no -1"}
    ask(jobs, receiver.url, {"y": 1})
    assert receiver.told(1)["type"] == "call.failed" and receiver.told(1)["data"]["error"]["path"] == "$.x"
    place = ask(jobs, receiver.url, {"x": 1, "until": str(tmp_path / "never")}).headers["location"]
    with jobs.client() as client:
        assert client.delete(place).json()["cancelled"] is True
    assert receiver.told(2)["type"] == "call.cancelled"


def test_it_is_sent_again_until_it_is_taken(jobs: Serving, receiver: Receiver) -> None:
    receiver.statuses = [500, 302, 204]
    answer = ask(jobs, receiver.url, {"x": 2})
    wait_until(lambda: state_of(jobs, answer)["state"] == "delivered", timeout=60)
    assert len({headers["webhook-id"] for headers, _ in receiver.came}) == 1
    assert [headers["webhook-timestamp"] for headers, _ in receiver.came] == sorted(
        headers["webhook-timestamp"] for headers, _ in receiver.came
    )
    assert state_of(jobs, answer)["attempts"] == 3 and len({body for _, body in receiver.came}) == 1


def test_who_wants_no_more_is_left_alone(jobs: Serving, receiver: Receiver) -> None:
    receiver.statuses = [410, 200]
    answer = ask(jobs, receiver.url, {"x": 3})
    wait_until(lambda: state_of(jobs, answer)["state"] == "failed", timeout=30)
    assert state_of(jobs, answer)["said"] == "answered 410"
    assert "answered 410" in jobs.stoker("callbacks", "list", "--json")
    jobs.stoker("callbacks", "retry", answer.headers["x-stoker-call-id"])
    wait_until(lambda: state_of(jobs, answer)["state"] == "delivered", timeout=30)


def test_it_outlives_the_server(jobs: Serving, receiver: Receiver, tmp_path: Path) -> None:
    receiver.statuses = [503]
    refused = ask(jobs, receiver.url, {"x": 4})
    wait_until(lambda: state_of(jobs, refused)["attempts"], timeout=30, message="it was tried")
    running = ask(jobs, receiver.url, {"x": 5, "until": str(tmp_path / "go")})
    jobs.stoker("server", "stop")
    receiver.statuses = [200]
    (tmp_path / "go").touch()
    jobs.stoker("server", "start")
    for answer in (refused, running):
        wait_until(lambda answer=answer: state_of(jobs, answer)["state"] == "delivered", timeout=60)  # type: ignore[misc]
    assert {json.loads(body)["data"]["result"] for _, body in receiver.came} == {16, 25}
    assert jobs.stoker("callbacks", "list", "--open").startswith("No callbacks")


@pytest.mark.parametrize(
    ("url", "status", "said"),
    [
        ("http://10.0.0.1/done", 403, "may not go to 10.0.0.1"),
        ("http://169.254.169.254/latest/meta-data", 403, "STOKER_CALLBACKS"),
        ("http://[::1]:9/", 403, "may not go to ::1"),
        ("example.org/done", 400, "https://example.org/done"),
        ("https://me:pass@example.org/", 400, "no user or password"),
    ],
)
def test_where_it_may_not_go(jobs: Serving, url: str, status: int, said: str) -> None:
    answer = ask(jobs, url, {"x": 1})
    assert answer.status_code == status and said in answer.json()["error"]["message"], answer.text


def test_what_it_does_not_go_with(jobs: Serving, receiver: Receiver) -> None:
    callback = {"x-stoker-callback": receiver.url}
    later = {**callback, "prefer": "respond-async"}
    with jobs.client() as client:
        for answer, said in (
            (client.post("/jobs/square", json={"x": 1}, headers=callback), "goes with Prefer: respond-async"),
            (client.post("/jobs/counts", json={"to": 1}, headers=later), "streams"),
            (httpx.post(f"{jobs.url}/jobs/anybody", json={"x": 1}, headers=later, timeout=60), "goes with a token"),
        ):
            assert answer.status_code == 400 and said in answer.json()["error"]["message"]


def test_a_key_goes_with_one_callback(jobs: Serving, receiver: Receiver) -> None:
    first = ask(jobs, receiver.url, {"x": 6}, **{"idempotency-key": "one"})
    again = ask(jobs, receiver.url, {"x": 6}, **{"idempotency-key": "one"})
    assert (first.status_code, again.headers["location"]) == (202, first.headers["location"])
    other = ask(jobs, receiver.url + "&more", {"x": 6}, **{"idempotency-key": "one"})
    assert other.status_code == 409 and "another callback" in other.json()["error"]["message"]
    receiver.told()
