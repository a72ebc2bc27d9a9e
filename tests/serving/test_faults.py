"""What happens to requests when something ends under them: none is lost that could be answered."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import httpx
import pytest

from tests.faults.running import by_role, kill
from tests.serving.running import Serving, serving
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

SOURCE = """
import stoker

app = stoker.App("steady")

@app.function(max_workers=2, lost_retries=5)
@stoker.endpoint(method="GET", requires_token=False)
def version(x: int) -> list[int]:
    return [VERSION, x]

@app.function(max_workers=2, lost_retries=5)
@stoker.asgi_app(requires_token=False)
def site():
    async def answers(scope, receive, send):
        size = 0
        while scope["method"] == "POST":
            message = await receive()
            size += len(message["body"])
            print("has read", size, flush=True)
            if not message["more_body"]:
                break
        said = b"[VERSION, %b]" % (scope["query_string"].removeprefix(b"x=") or b"%d" % size)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": said})
    return answers

@app.function(max_workers=1)
@stoker.endpoint(method="GET", requires_token=False)
def ticks(to: int):
    import time
    for i in range(to):
        yield i
        time.sleep(0.05)
"""


@pytest.fixture
def steady() -> Iterator[Serving]:
    with serving() as served:
        served.deploy(SOURCE.replace("VERSION", "1"), "steady")
        yield served


PATHS = ("/steady/version", "/steady/site/")


class Load:
    """Clients that ask as fast as they can, and what they were answered."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.versions: Counter[int] = Counter()
        self.failures: list[str] = []

    def goes_on(self, count: int) -> None:
        """Wait until so many more requests have been answered."""
        before = self.statuses[200]
        wait_until(lambda: self.statuses[200] > before + count, timeout=30, message="it goes on")

    def comes_to(self, version: int) -> None:
        """Wait until a version answers."""
        wait_until(lambda: self.versions[version] > 50, timeout=30, message=f"version {version} answers")


@contextmanager
def load(served: Serving, *, clients: int = 3, paths: Sequence[str] = PATHS) -> Iterator[Load]:
    found, stop, lock = Load(), threading.Event(), threading.Lock()

    def ask() -> None:
        number = 0
        with httpx.Client(base_url=served.url, timeout=60) as client:
            while not stop.is_set():
                number += 1
                try:
                    answer = client.get(f"{paths[number % len(paths)]}?x={number}")
                except httpx.HTTPError as error:
                    with lock:
                        found.failures.append(repr(error))
                    continue
                with lock:
                    found.statuses[answer.status_code] += 1
                    if answer.status_code != 200:
                        found.failures.append(answer.text)
                        continue
                    version, echoed = answer.json()
                    found.versions[version] += 1
                    if echoed != number:
                        found.failures.append(f"{number} was answered with {echoed}")

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_workers_that_are_killed_cost_no_request(steady: Serving) -> None:
    with load(steady) as found:
        wait_until(lambda: found.statuses[200] > 50, timeout=30, message="it is under load")
        for _ in range(5):
            for pid in by_role(steady.runtime).get("worker", []):
                kill(pid)
            found.goes_on(30)
    assert not found.failures


def test_a_worker_that_dies_with_what_it_had_read_of_a_body_is_told(steady: Serving) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"x" * 100_000
        wait_until(lambda: "has read 100000" in steady.stoker("logs"), timeout=30)
        for pid in by_role(steady.runtime)["worker"]:
            kill(pid)
        yield b"x" * 100_000

    with httpx.Client(base_url=steady.url, timeout=60) as client:
        answer = client.post("/steady/site/", content=pieces())
        assert answer.status_code == 500
        assert "Send the request again" in answer.json()["error"]["message"]
        assert client.post("/steady/site/", content=b"x" * 100_000).json() == [1, 100_000]


def test_a_redeploy_under_load_costs_no_request(steady: Serving) -> None:
    with load(steady) as found:
        wait_until(lambda: found.versions[1] > 50, timeout=30, message="it is under load")
        for number in (2, 3, 4):
            steady.deploy(SOURCE.replace("VERSION", str(number)), "steady")
            found.comes_to(number)
    assert not found.failures
    assert sum(found.versions.values()) == found.statuses.total()


def test_a_stream_whose_worker_dies_goes_on_where_it_was(steady: Serving) -> None:
    with httpx.Client(base_url=steady.url, timeout=60) as client, client.stream("GET", "/steady/ticks?to=40") as answer:
        lines = (line for line in answer.iter_lines() if line.startswith("data: "))
        seen = [next(lines) for _ in range(10)]
        for pid in by_role(steady.runtime)["worker"]:
            kill(pid)
        seen += list(lines)
    assert seen == [f"data: {i}" for i in range(40)] + ["data: null"]


def test_a_server_that_is_started_again_answers_again(steady: Serving) -> None:
    port = steady.url.rpartition(":")[2]
    with httpx.Client(base_url=steady.url, timeout=60) as client:
        assert client.get("/steady/version?x=1").json() == [1, 1]
        steady.stoker("server", "stop")
        with pytest.raises(httpx.HTTPError):
            client.get("/steady/version?x=1")
        steady.env["STOKER_HTTP"] = f"127.0.0.1:{port}"
        steady.stoker("server", "start")
        give_up = time.monotonic() + 30
        while time.monotonic() < give_up:
            try:
                assert client.get("/steady/version?x=2").json() == [1, 2]
                return
            except httpx.HTTPError:
                continue
    raise AssertionError("it did not answer again")
