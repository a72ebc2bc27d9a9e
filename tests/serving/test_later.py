"""Requests that are answered later: accepted for good, fetched by their id, run once for each key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.serving.running import Serving, serving
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(120)

LATER = {"prefer": "respond-async"}
SOURCE = """
import os
import time
import stoker

app = stoker.App("jobs")

@app.function()
@stoker.endpoint()
def note(path: str, pause: float = 0.0, until: str = "") -> dict:
    with open(path, "a") as file:
        file.write("ran\\n")
    time.sleep(pause)
    while until and not os.path.exists(until):
        time.sleep(0.01)
    return {"path": path}

@app.function()
@stoker.endpoint()
def echo(text: str) -> int:
    return len(text)

@app.function()
@stoker.endpoint(method="GET")
def counts():
    yield 1

@app.function()
@stoker.endpoint()
def size(file: stoker.File) -> int:
    return file.size

@app.function()
@stoker.endpoint(requires_token=False)
def fails(x: int) -> int:
    raise ValueError(f"no {x}")
"""


@pytest.fixture(scope="module")
def jobs() -> Iterator[Serving]:
    with serving() as served:
        served.deploy(SOURCE, "jobs")
        yield served


def ended(client: httpx.Client, place: str) -> httpx.Response:
    """Wait for the answer of a call."""

    def look() -> httpx.Response | None:
        answer = client.get(place)
        return None if answer.status_code == 202 else answer

    found = wait_until(look, timeout=60, message=f"{place} has ended")
    assert found is not None
    return found


def test_it_is_accepted_at_once_and_fetched_by_its_id(jobs: Serving, tmp_path: Path) -> None:
    with jobs.client() as client:
        asked = {"path": str(tmp_path / "a"), "until": str(tmp_path / "go")}
        accepted = client.post("/jobs/note", json=asked, headers=LATER)
        assert accepted.status_code == 202 and accepted.headers["preference-applied"] == "respond-async"
        place = accepted.headers["location"]
        told = accepted.json()
        assert told.pop("state") in {"queued", "running"}
        assert told == {
            "call_id": accepted.headers["x-stoker-call-id"],
            "path": place,
            "result_path": f"{place}/result",
        }
        assert client.get(place).json()["state"] in {"queued", "running"}
        (tmp_path / "go").touch()
        assert ended(client, f"{place}/result").json() == {"path": str(tmp_path / "a")}
        state = client.get(place).json()
        assert (state["state"], state["function"], state["attempts"]) == ("succeeded", "jobs.note", 1)
        assert state["status"] == 200
        assert client.get(f"{place}/result").status_code == 200, "it may be fetched again"


def test_a_stream_is_not_answered_later(jobs: Serving) -> None:
    with jobs.client() as client:
        answer = client.get("/jobs/counts", headers=LATER)
        assert answer.status_code == 400 and "respond-async" in answer.json()["error"]["message"]
        assert client.get("/jobs/counts", headers={"prefer": "wait=10"}).status_code == 200


def test_what_it_raised_is_its_result(jobs: Serving) -> None:
    with jobs.client() as client:
        place = client.post("/jobs/fails", json={"x": 3}, headers=LATER).headers["location"]
        answer = ended(client, f"{place}/result")
        assert answer.status_code == 500 and answer.json()["error"]["message"] == "no 3"
        assert "no 3" in client.get(place).json()["error"]


def test_what_does_not_fit_is_seen_in_its_state(jobs: Serving) -> None:
    with jobs.client() as client:
        place = client.post("/jobs/note?pause=soon", json={"path": "x"}, headers=LATER).headers["location"]
        assert ended(client, f"{place}/result").status_code == 422
        assert client.get(place).json()["status"] == 422
    call_id = place.rpartition("/")[2]
    listed = json.loads(jobs.stoker("calls", "list", "--json"))
    rows = [row for row in listed if row["id"] == call_id] + [
        json.loads(jobs.stoker("calls", "show", call_id, "--json"))
    ]
    assert len(rows) == 2
    for row in rows:
        reason = "ValidationError: $.pause: expected a number"
        assert row["http"] == {"method": "POST", "path": "/jobs/note", "status": 422, "reason": reason}


def test_a_key_makes_one_call_of_many_requests_also_after_its_end(jobs: Serving, tmp_path: Path) -> None:
    path = tmp_path / "once"
    with jobs.client() as client:

        def ask() -> str:
            keyed = {**LATER, "idempotency-key": "order 7"}
            return client.post("/jobs/note", json={"path": str(path)}, headers=keyed).headers["location"]

        place = ask()
        assert ask() == place
        ended(client, f"{place}/result")
        assert ask() == place and path.read_text() == "ran\n"
        anybody = httpx.post(
            f"{jobs.url}/jobs/fails", json={"x": 1}, headers={**LATER, "idempotency-key": "a"}, timeout=60
        )
        assert anybody.status_code == 400


def test_a_key_is_one_request_s_alone_also_after_its_end_and_over_a_restart(jobs: Serving, tmp_path: Path) -> None:
    jobs.env["STOKER_HTTP"] = f"127.0.0.1:{jobs.port}"
    keyed = {**LATER, "idempotency-key": "order 8"}
    long = "x" * (1 << 20)  # which lies in a file of its own

    def answers(client: httpx.Client) -> list[int]:
        """Ask again as before, otherwise, and otherwise by the query."""
        return [
            client.post(f"/jobs/echo{query}", json={"text": text}, headers=keyed).status_code
            for query, text in (("", long), ("", f"{long}y"), ("?text=z", long))
        ]

    with jobs.client() as client:
        place = client.post("/jobs/echo", json={"text": long}, headers=keyed).headers["location"]
        assert answers(client) == [202, 422, 422]
        ended(client, f"{place}/result")
        assert answers(client) == [202, 422, 422]
        refused = client.post("/jobs/echo", json={"text": "other"}, headers=keyed).json()["error"]
        assert refused["type"] == "IdempotencyKeyReused" and "POST /jobs/echo" in refused["message"]
        form = {**LATER, "idempotency-key": "order 9"}
        files = [
            {"file": b"a picture"},
            {"file": b"a picture"},
            {"file": b"another"},
        ]  # each with a boundary of its own
        assert [client.post("/jobs/size", files=one, headers=form).status_code for one in files] == [202, 202, 422]
    jobs.stoker("server", "stop")
    jobs.stoker("server", "start")
    with jobs.client() as client:
        assert answers(client) == [202, 422, 422]
        assert client.get(f"{place}/result").json() == len(long)


def test_another_token_sees_nothing_of_it(jobs: Serving, tmp_path: Path) -> None:
    other = re.findall(r"stoker-[0-9a-f]{8}-[\w-]+", jobs.stoker("tokens", "create", "other", "--json"))[0]
    with jobs.client() as client:
        place = client.post("/jobs/note", json={"path": str(tmp_path / "b")}, headers=LATER).headers["location"]
        assert client.get(place).status_code == 200
    for headers in ({"authorization": f"Bearer {other}"}, {}):
        with httpx.Client(base_url=jobs.url, headers=headers, timeout=60) as stranger:
            for answer in (stranger.get(place), stranger.get(f"{place}/result"), stranger.delete(place)):
                assert answer.status_code == 404
                assert ("No token came" in answer.json()["error"]["message"]) == (not headers)
            assert stranger.get("/v1/calls/c-1.1").status_code == 404
            assert stranger.get("/v1/nothing").status_code == 404


def test_it_can_be_cancelled(jobs: Serving, tmp_path: Path) -> None:
    path = tmp_path / "c"
    with jobs.client() as client:
        place = client.post("/jobs/note", json={"path": str(path), "pause": 60}, headers=LATER).headers["location"]
        wait_until(path.exists, timeout=30, message="it runs")
        assert client.delete(place).json()["cancelled"] is True
        assert ended(client, f"{place}/result").status_code == 409
        assert client.delete(place).json()["cancelled"] is False


def test_it_outlives_the_server(jobs: Serving, tmp_path: Path) -> None:
    path = tmp_path / "d"
    jobs.env["STOKER_HTTP"] = f"127.0.0.1:{jobs.port}"
    with jobs.client() as client:
        place = client.post("/jobs/note", json={"path": str(path), "pause": 1}, headers=LATER).headers["location"]
        wait_until(path.exists, timeout=30, message="it runs")
    jobs.stoker("server", "stop")
    jobs.stoker("server", "start")
    with jobs.client() as client:
        assert ended(client, f"{place}/result").json() == {"path": str(path)}
