"""Endpoints on a Ray: those of `tests/serving` as they are, and a class that batches and streams on both nodes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.on_ray.again import again
from tests.on_ray.running import OnRay
from tests.serving import test_endpoints, test_web_apps
from tests.serving.conftest import APP
from tests.serving.running import Serving

globals().update(again(test_endpoints, without={}))

# Of web apps what goes over the network bit by bit; the rest is the worker's own affair.
test_a_long_body_is_passed_on_bit_by_bit = test_web_apps.test_a_long_body_is_passed_on_bit_by_bit
test_an_answer_begins_before_the_request_has_ended = test_web_apps.test_an_answer_begins_before_the_request_has_ended
test_a_websocket_goes_both_ways = test_web_apps.test_a_websocket_goes_both_ways

pytestmark = pytest.mark.timeout(120)
CLASS = """
import os
import stoker

app = stoker.App("classes")

@app.cls(max_workers=2, concurrency=1)
class Scaled:
    @stoker.enter(snapshot=True)
    def load(self):
        self.loaded_in = os.getpid()

    @stoker.healthy(every="1s", timeout="5s")
    def ping(self):
        return self.loaded_in != os.getpid()  # it was forked from there

    @stoker.endpoint(requires_token=False)
    @stoker.method(batch=stoker.Batch(max_size=16, max_wait="50ms"))
    def twice(self, x: list[int]) -> list[list[int]]:
        return [[2 * one, len(x)] for one in x]

    @stoker.endpoint(method="GET", requires_token=False)
    def count(self, to: int):
        for i in range(to):
            yield i

    @stoker.endpoint(requires_token=False)
    def length(self, file: stoker.File) -> int:
        return len(file.content)
"""


@pytest.fixture(scope="module")
def served(two_nodes: OnRay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    env = {**os.environ, **two_nodes.environment}
    found = Serving(two_nodes.http, "", env, tmp_path_factory.mktemp("apps"))
    token = re.findall(r"stoker-[0-9a-f]{8}-[\w-]+", found.stoker("tokens", "create", "tests", "--json"))[0]
    found = Serving(found.url, token, env, found.root)
    found.deploy(APP, "endpoints")
    found.deploy(CLASS, "classes")
    found.deploy(test_web_apps.APP, "app_of_web_apps")
    yield found
    for app in ("shop", "classes", "webapps"):
        found.stoker("apps", "stop", app)


def test_a_class_batches_streams_and_takes_files(served: Serving) -> None:
    with httpx.Client(base_url=f"{served.url}/classes/Scaled", timeout=60) as client:
        assert client.post("/twice", json={"x": 4}).json()[0] == 8
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda x: client.post("/twice", json={"x": x}).json(), range(64)))
        assert [answer[0] for answer in answers] == [2 * x for x in range(64)]
        assert max(answer[1] for answer in answers) > 1
        assert client.get("/count?to=100").text.count("data: ") == 101
        content = bytes(5_000_000)
        answer = client.post("/length", content=content, headers={"content-type": "application/octet-stream"})
        assert answer.json() == len(content)


def test_a_redeployment_answers_all_the_while(served: Serving) -> None:
    with httpx.Client(base_url=f"{served.url}/classes/Scaled", timeout=60) as client, ThreadPoolExecutor(1) as pool:
        deploying = pool.submit(served.deploy, CLASS.replace("2 * one", "3 * one"), "classes")
        found: set[int] = set()
        while not deploying.done() or 9 not in found:
            answer = client.post("/twice", json={"x": 3})
            assert answer.status_code == 200, answer.text
            found.add(answer.json()[0])
        assert found <= {6, 9}
