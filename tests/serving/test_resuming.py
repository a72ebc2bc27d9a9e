"""Streams whose client comes again: they go on at the next item, and the function is run once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.serving.running import Serving, serving
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(120)

SOURCE = """
import os
import time

import stoker

app = stoker.App("flow")

def counting(to, root, size):
    with open(root + "/runs", "a") as file:
        file.write("ran ")
    try:
        for i in range(to):
            while i == 5 and not os.path.exists(root + "/go"):
                time.sleep(0.005)
            with open(root + "/made", "a") as file:
                file.write(".")
            yield {"i": i, "pad": "x" * size}
    finally:
        open(root + "/ended", "w").close()

@app.function(max_workers=4)
@stoker.endpoint(method="GET", resume="60s")
def count(to: int, root: str, size: int = 0):
    yield from counting(to, root, size)

@app.function(max_workers=1)
@stoker.endpoint(method="GET", resume="500ms", requires_token=False)
def briefly(to: int, root: str, size: int = 0):
    yield from counting(to, root, size)
"""


@pytest.fixture(scope="module")
def flow() -> Iterator[Serving]:
    with serving() as served:
        served.deploy(SOURCE, "flow")
        served.env["STOKER_HTTP"] = f"127.0.0.1:{served.port}"
        yield served


def events(answer: httpx.Response) -> Iterator[tuple[str, str]]:
    """Yield the id (or, of the last one, the name) and the data of each event."""
    name = ""
    for line in answer.iter_lines():
        field, _, value = line.partition(": ")
        if field in {"id", "event"}:
            name = value
        elif field == "data":
            yield name, value


def read(client: httpx.Client, path: str, *, upto: int, last: str = "") -> list[tuple[str, str]]:
    """Read so many events, and hang up."""
    found: list[tuple[str, str]] = []
    with client.stream("GET", path, headers={"last-event-id": last} if last else {}) as answer:
        assert answer.status_code == 200, answer.read()
        for event in events(answer):
            found.append(event)
            if len(found) == upto:
                break
    return found


def numbers(found: list[tuple[str, str]]) -> list[int]:
    return [json.loads(data)["i"] for _, data in found]


def test_a_stream_that_was_cut_goes_on_at_the_next_item(flow: Serving, tmp_path: Path) -> None:
    path = f"/flow/count?to=200&root={tmp_path}"
    with flow.client() as client:
        first = read(client, path, upto=3)
        (tmp_path / "go").touch()
        second = read(client, path, upto=150, last=first[-1][0])
        rest = read(client, path, upto=1000, last=second[-1][0])
        assert numbers([*first, *second, *rest[:-1]]) == list(range(200)) and rest[-1] == ("done", "null")
        assert (tmp_path / "runs").read_text() == "ran "
        again = read(client, path, upto=1000, last=first[0][0])
        assert numbers(again[:-1]) == list(range(1, 200)), "what was sent is kept, also after the end"
        assert read(client, path, upto=1000, last=rest[-2][0]) == [("done", "null")]


def test_nobody_reads_and_the_generator_stands_still(flow: Serving, tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    path = f"/flow/count?to=100000&root={tmp_path}"
    with flow.client() as client:
        first = read(client, path, upto=2)
        made = tmp_path / "made"
        wait_until(lambda: made.stat().st_size >= 64, timeout=30)
        second = read(client, path, upto=1000, last=first[-1][0])
        assert numbers(second) == list(range(2, 1002))
        assert made.stat().st_size < 50_000


def test_who_comes_again_takes_over_from_a_connection_that_hangs(flow: Serving, tmp_path: Path) -> None:
    path = f"/flow/count?to=20&root={tmp_path}"
    with flow.client() as client, client.stream("GET", path) as hanging:
        came = events(hanging)
        first = [next(came) for _ in range(3)]
        with flow.client() as other, other.stream("GET", path, headers={"last-event-id": first[1][0]}) as taken:
            there = events(taken)
            assert numbers([next(there) for _ in range(3)]) == [2, 3, 4]
            rest = list(came)
            assert rest[-1][0] == "error" and "another connection" in rest[-1][1]
            (tmp_path / "go").touch()
            after = list(there)
            assert numbers(after[:-1]) == list(range(5, 20)) and after[-1] == ("done", "null")


def test_what_does_not_fit_any_more_is_said_to_be_gone(flow: Serving, tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    path = f"/flow/count?to=20&root={tmp_path}&size=600000"
    with flow.client() as client:
        found = read(client, path, upto=20)
        assert numbers(read(client, path, upto=3, last=found[16][0])) == [17, 18, 19]
        gone = client.get(path, headers={"last-event-id": found[0][0]})
        assert gone.status_code == 410 and "too much has come since" in gone.json()["error"]["message"]


def test_its_page_says_so(flow: Serving) -> None:
    told = httpx.get(f"{flow.url}/flow/openapi.json", timeout=60).json()["paths"]["/flow/count"]["get"]
    assert "410" in told["responses"] and "429" in told["responses"]
    assert "Last-Event-ID" in {one["name"] for one in told["parameters"]}


def test_whose_stream_it_is(flow: Serving, tmp_path: Path) -> None:
    path = f"/flow/count?to=5&root={tmp_path}"
    other = flow.stoker("tokens", "create", "other").strip()
    with flow.client() as client:
        (event, _), *_ = read(client, path, upto=1)
        call = event.partition(":")[0]
        for last, headers, status in (
            (event, {"authorization": f"Bearer {other}"}, 410),
            (event, {"authorization": "Bearer wrong"}, 401),
            ("s-" + "0" * 32 + ":1", {}, 410),
            (f"{call}:4000", {}, 400),
            ("17", {}, 400),
        ):
            answer = client.get(path, headers={"last-event-id": last, **headers})
            assert answer.status_code == status, (last, answer.text)
        elsewhere = client.get(f"/flow/briefly?to=5&root={tmp_path}", headers={"last-event-id": event})
        assert elsewhere.status_code == 410
        assert (tmp_path / "runs").read_text() == "ran "


def test_it_is_cancelled_when_nobody_comes_in_time(flow: Serving, tmp_path: Path) -> None:
    path = f"/flow/briefly?to=1000000&root={tmp_path}"
    with httpx.Client(base_url=flow.url, timeout=60) as client:
        first = read(client, path, upto=2)
        (tmp_path / "go").touch()  # that nobody reads any more is seen when more is sent
        wait_until((tmp_path / "ended").exists, timeout=60, message="its generator is closed")
        gone = client.get(path, headers={"last-event-id": first[-1][0]})
        assert gone.status_code == 410 and "500 ms" in gone.json()["error"]["message"]


def test_a_server_that_was_restarted_knows_no_streams(flow: Serving, tmp_path: Path) -> None:
    path = f"/flow/count?to=100&root={tmp_path}"
    with flow.client() as client:
        first = read(client, path, upto=2)
    flow.stoker("server", "stop")
    flow.stoker("server", "start")
    with flow.client() as client:
        gone = client.get(path, headers={"last-event-id": first[-1][0]})
        assert gone.status_code == 410 and "restarted" in gone.json()["error"]["message"]
        (tmp_path / "go").touch()
        assert numbers(read(client, path, upto=4)) == [0, 1, 2, 3]
