"""Versions beside the current one under load, with real workers: nothing of it costs a request."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving.running import Serving, serving
from tests.serving.test_faults import load
from tests.waiting import wait_until

PAGE = (Path(__file__).parent.parent.parent / "docs" / "deploying.md").read_text()

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

SOURCE = """
import os
import stoker

app = stoker.App("steady")

@app.function(max_workers=1)
@stoker.endpoint(method="GET", requires_token=False)
def version(x: int) -> list[int]:
    BROKEN
    return [VERSION, x]

@app.function(max_workers=1)
@stoker.asgi_app(requires_token=False)
def site():
    async def answer(scope, receive, send):
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"VERSION"})
    return answer

@app.function(max_workers=1)
@stoker.endpoint(method="GET", requires_token=False, resume="60s")
def ticks(to: int):
    yield from range(to)
"""
ALONE = """
import os
import stoker

app = stoker.App("steady", strategy="recreate")
LOCK = "THE_LOCK"

@app.cls(max_workers=1)
class Model:
    @stoker.enter()
    def load(self):
        os.close(os.open(LOCK, os.O_CREAT | os.O_EXCL))  # fails where another one is loaded

    @stoker.exit()
    def unload(self):
        os.unlink(LOCK)

    @stoker.method()
    @stoker.endpoint(method="GET", requires_token=False)
    def ask(self, x: int) -> list[int]:
        return [VERSION, x]
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving() as served:
        yield served


def deploy(served: Serving, version: int, *options: str, source: str = SOURCE, broken: str = "pass") -> None:
    file = served.root / "steady.py"
    file.write_text(source.replace("VERSION", str(version)).replace("BROKEN", broken))
    served.stoker("deploy", str(file), *options)


@pytest.fixture
def steady(server: Serving) -> Iterator[Serving]:
    deploy(server, 1)
    yield server
    server.stoker("apps", "stop", "steady")


def ask(served: Serving, verb: str, **params: Any) -> Any:
    return served.ask(verb, app="steady", **params)


def two_newest(served: Serving) -> tuple[int, int]:
    """Return the numbers of the version beside, and of the current one."""
    new, old = (row["version"] for row in ask(served, "history")[:2])
    return new, old


def asked(served: Serving, count: int, **headers: str) -> list[int]:
    """Ask so many times; return which of the app's versions have answered, by their header and what they say alike."""
    found: list[int] = []
    number_of = dict(zip((2, 1), two_newest(served), strict=True))
    with httpx.Client(base_url=served.url, timeout=60, headers=headers) as client:
        for number in range(count):
            answer = client.get(f"/steady/version?x={number}")
            assert answer.status_code == 200, answer.text
            found.append(answer.json()[0])
            assert int(answer.headers["x-stoker-version"]) == number_of[found[-1]]
    return found


def are_compared(served: Serving, count: int) -> bool:
    return bool(ask(served, "shadow")["compared"] == count)


def test_a_canary_under_load_is_given_its_share_promoted_and_rolled_back(steady: Serving) -> None:
    with load(steady, paths=["/steady/version"]) as found:
        found.comes_to(1)
        deploy(steady, 2, "--canary", "10")
        before = found.versions.copy()
        found.goes_on(200)
        after = found.versions - before
        steady.stoker("apps", "canary", "steady", "50")
        found.comes_to(2)
        steady.stoker("apps", "promote", "steady")
        found.comes_to(2)
        steady.stoker("apps", "rollback", "steady")
        found.versions.clear()
        found.comes_to(1)
    assert not found.failures
    assert 0.07 < after[2] / after.total() < 0.14, "what is on its way at either end is counted by neither"


def test_the_share_is_exact_and_holds_for_calls_by_name(steady: Serving) -> None:
    deploy(steady, 2, "--canary", "20")
    assert Counter(asked(steady, 100)) == {1: 80, 2: 20}
    program = steady.root / "by_name.py"
    program.write_text(
        "import collections, json, stoker\n"
        "f = stoker.Function.from_name('steady', 'version')\n"
        "found = collections.Counter(version for version, _ in f.map(range(500)))\n"
        "found.update(f.remote(n)[0] for n in range(100))\n"
        "print(json.dumps(found))\n"
    )
    assert json.loads(steady.run_program(program)) == {"1": 480, "2": 120}
    assert [row["done"] for row in ask(steady, "history")[:2]] == [140, 560]
    new, old = two_newest(steady)
    with steady.client() as client:
        numbers = client.get("/metrics").text
    counted = re.findall(r'^stoker_version_calls_total\{.*version="(\d+)"\} (\S+)', numbers, re.M)
    assert {int(version): float(count) for version, count in counted}.items() >= {new: 140.0, old: 560.0}.items()
    counted = re.findall(
        r'^stoker_version_http_requests_total\{.*function="version".*status="200",version="(\d+)"\} (\S+)',
        numbers,
        re.M,
    )
    assert {int(version): float(count) for version, count in counted}.items() >= {new: 20.0, old: 80.0}.items()


def test_a_request_may_choose_its_version_or_stick_to_one(steady: Serving) -> None:
    deploy(steady, 2, "--canary", "50")
    new, old = two_newest(steady)
    assert set(asked(steady, 5, **{"x-stoker-version": str(new)})) == {2}
    assert set(asked(steady, 5, **{"x-stoker-version": str(old)})) == {1}
    for headers in ({"x-stoker-sticky": "{}"}, {"cookie": "a=b; stoker-sticky={}"}, {"idempotency-key": "{}"}):
        found = [asked(steady, 3, **{k: v.format(f"user-{n}") for k, v in headers.items()}) for n in range(16)]
        assert all(len(set(versions)) == 1 for versions in found), found
        assert len({versions[0] for versions in found}) == 2, "not all on one"
    with httpx.Client(base_url=steady.url, headers={"x-stoker-version": "9999"}, timeout=60) as client:
        answer = client.get("/steady/version?x=1")
        assert answer.status_code == 404 and f"Versions: {old}, {new}." in answer.text
        client.headers["x-stoker-version"] = str(new)
        site = client.get("/steady/site/")
        assert (site.text, site.headers["x-stoker-version"]) == ("2", str(new)), "a web app is divided like an endpoint"
        with client.stream("GET", "/steady/ticks?to=1000") as stream:
            event = next(line.removeprefix("id: ") for line in stream.iter_lines() if line.startswith("id: "))
        del client.headers["x-stoker-version"]
        for _ in range(2):
            with client.stream("GET", "/steady/ticks?to=1000", headers={"last-event-id": event}) as stream:
                assert stream.headers["x-stoker-version"] == str(new), "a stream goes on where it was"
                lines = [*stream.iter_lines()]  # to its end: one that is kept would have its core for a minute
                assert "data: 1" in lines and "data: 999" in lines
        client.headers["x-stoker-version"] = "new"
        assert client.get("/steady/version?x=1").status_code == 400


def test_a_canary_whose_workers_crash_is_stopped_and_costs_no_request(steady: Serving) -> None:
    with load(steady, paths=["/steady/version"]) as found:
        found.comes_to(1)
        deploy(steady, 2, "--canary", "50", broken="os._exit(3)")
        wait_until(lambda: ask(steady, "history")[0]["state"] == "failed", timeout=60, message="it is stopped")
        found.goes_on(100)
    assert not found.failures
    assert set(found.versions) == {1}
    said = steady.stoker("apps", "list")
    assert "was stopped" in said and "exit status 3" in said


def test_a_shadow_answers_nobody_and_is_compared(steady: Serving) -> None:
    broken = "assert x % 5; x += x % 7 == 0"
    deploy(steady, 1, "--shadow", broken=broken)
    with httpx.Client(base_url=steady.url, timeout=60) as client:
        for number in range(1, 36):
            assert client.get(f"/steady/version?x={number}").json() == [1, number]
            if number % 10 == 1:  # else more would be open at once than are mirrored, while its worker starts
                wait_until(partial(are_compared, steady, number), timeout=60, message="what was asked is compared")
        assert "data: 2" in client.get("/steady/ticks?to=3").text
    wait_until(partial(are_compared, steady, 35), timeout=60, message="all are compared")
    report = ask(steady, "shadow")
    # 35 is a multiple of both: its shadow fails
    assert (report["equal"], report["different"], report["failed_in_shadow"]) == (24, 4, 7)
    assert report["shed"] == {"streams": 1}
    examples = {(one["current"], one["shadow"].partition(":")[0]) for one in report["examples"]}
    assert {("200: [1,28]", "200"), ("200: [1,35]", "AssertionError")} <= examples
    assert sum(row["shadow"] for row in ask(steady, "calls", limit=200)) == 35


def test_a_shadow_under_load_costs_no_request(steady: Serving) -> None:
    with load(steady, paths=["/steady/version"]) as found:
        found.comes_to(1)
        deploy(steady, 2, "--shadow", broken="import time; time.sleep(0.2)")
        found.goes_on(150)
        report = ask(steady, "shadow")
    assert not found.failures
    assert set(found.versions) == {1}
    assert report["shed"]["load"] > report["compared"], "the slow shadow is left out, not waited for"


def test_with_recreate_one_version_is_loaded_at_a_time_and_no_request_fails(server: Serving) -> None:
    source = ALONE.replace("THE_LOCK", str(server.root / "loaded"))
    deploy(server, 1, source=source)
    try:
        with load(server, paths=["/steady/Model/ask"]) as found:
            found.comes_to(1)
            deploy(server, 2, source=source)
            found.comes_to(2)
            server.stoker("apps", "rollback", "steady")
            found.versions.clear()
            found.comes_to(1)
        assert not found.failures
        assert ask(server, "history")[0]["strategy"] == "recreate"
    finally:
        server.stoker("apps", "stop", "steady")


def test_the_page_from_top_to_bottom(server: Serving) -> None:
    blocks = re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE, flags=re.S)
    for name, source in blocks:
        (server.root / name).write_text(source)
    file = server.root / "prices.py"
    said = {}
    commands = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, flags=re.S))
    for line in re.findall(r"^stoker ([^#\n]*?)(?:  +#.*)?$", commands, flags=re.M):
        if line.startswith("deploy"):
            file.write_text(file.read_text().replace("* 100", "* 100 + 0"))
        said[line] = server.stoker(*line.split())
    assert "version 2, as a canary: it answers 10 % of the calls" in said["deploy prices.py --canary 10"]
    assert "version 3, as a shadow: 100 %" in said["deploy prices.py --shadow"]
    assert "the same as version 1" in said["apps rollback prices"]
    assert "prices is now version 5, the same as version 1" in said["apps rollback prices --to 1"]
    assert "version 1" in server.stoker("deploy", str(server.root / "one.py"))
