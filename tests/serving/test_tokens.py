"""Tokens of one app, or one function, over HTTP: what they open, how often, and until when."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.serving.running import Serving, serving
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(120)

SOURCE = """
import stoker

app = stoker.App("{name}")

@app.function(max_workers=1)
@stoker.endpoint()
def twice(x: float) -> float:
    return 2 * x

@app.function(max_workers=1)
@stoker.endpoint()
def half(x: float) -> float:
    return x / 2

@app.function(max_workers=1)
@stoker.endpoint(requires_token=False)
def thrice(x: float) -> float:
    return 3 * x
"""


FLOODED = """
import os
import time

import stoker

app = stoker.App("flooded")

@app.function(max_workers=1, max_pending=6)
@stoker.endpoint()
def waits(name: str, root: str) -> str:
    with open(root + "/order", "a") as file:
        file.write(name + " ")
    while not os.path.exists(root + "/go"):
        time.sleep(0.005)
    return name
"""


@pytest.fixture(scope="module")
def shops() -> Iterator[Serving]:
    with serving() as served:
        served.deploy(SOURCE.format(name="shop"), "shop")
        served.deploy(SOURCE.format(name="other"), "other")
        yield served


def token(shops: Serving, name: str, *limits: str) -> str:
    made = json.loads(shops.stoker("tokens", "create", name, *limits, "--json"))
    return str(made["token"])


def ask(client: httpx.Client, path: str, given: str) -> httpx.Response:
    return client.post(path, json={"x": 3}, headers={"authorization": f"Bearer {given}"})


def test_it_opens_its_app_and_function_only(shops: Serving) -> None:
    app, function = token(shops, "a", "--app", "shop"), token(shops, "f", "--app", "shop", "--function", "half")
    with httpx.Client(base_url=shops.url, timeout=60) as client:
        assert ask(client, "/shop/twice", app).json() == 6.0
        assert ask(client, "/shop/half", function).json() == 1.5
        for path, given, said in (
            ("/other/twice", app, "The token 'a' is for app 'shop' only: it may not call other.twice."),
            ("/shop/twice", function, "The token 'f' is for shop.half only: it may not call shop.twice."),
        ):
            refused = ask(client, path, given)
            assert refused.status_code == 403 and refused.json()["error"]["message"].startswith(said)
        assert ask(client, "/shop/twice", "stoker-00000000-wrong").status_code == 401


def test_where_none_is_asked_for_a_token_counts_if_it_is_for_that_and_takes_nothing_away_else(shops: Serving) -> None:
    foreign = token(shops, "foreign", "--app", "other")
    counted = token(shops, "counted", "--app", "shop", "--rate", "1/h")
    with httpx.Client(base_url=shops.url, timeout=60) as client:
        for given in (foreign, "stoker-00000000-wrong"):
            answer = ask(client, "/shop/thrice", given)
            assert (answer.status_code, answer.json(), "ratelimit" in answer.headers) == (200, 9.0, False)
            sent = {"authorization": f"Bearer {given}"}
            later = client.post("/shop/thrice", json={"x": 1}, headers={**sent, "prefer": "respond-async"})
            assert later.status_code == 202
            assert client.get(later.headers["location"], headers=sent).status_code == 200
        answers = [ask(client, "/shop/thrice", counted) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 429]


def test_a_revoked_token_is_so_at_once_on_a_connection_that_is_open(shops: Serving) -> None:
    given = token(shops, "brief", "--app", "shop")
    with httpx.Client(base_url=shops.url, timeout=60) as client:
        assert ask(client, "/shop/twice", given).status_code == 200
        shops.stoker("tokens", "revoke", "brief")
        assert ask(client, "/shop/twice", given).status_code == 401


def test_calls_over_its_rate_wait_as_long_as_they_are_told(shops: Serving) -> None:
    given = token(shops, "slow", "--app", "shop", "--rate", "2/h")
    with httpx.Client(base_url=shops.url, timeout=60) as client:
        first = ask(client, "/shop/twice", given)
        assert first.headers["ratelimit-policy"] == '"token";q=2;w=3600'
        assert first.headers["ratelimit"] == '"token";r=1;t=1800'
        assert ask(client, "/other/twice", given).status_code == 403, "what is refused is not counted"
        assert ask(client, "/shop/twice", given).status_code == 200
        refused = ask(client, "/shop/twice", given)
        assert refused.status_code == 429 and 1700 <= int(refused.headers["retry-after"]) <= 1800
        left = re.fullmatch(r'"token";r=0;t=(\d+)', refused.headers["ratelimit"])
        assert left is not None and 3500 <= int(left[1]) <= 3600
        error = refused.json()["error"]
        assert error["type"] == "RateLimited" and "'slow' may make 2/h calls" in error["message"]
        assert "ratelimit" not in ask(client, "/shop/twice", shops.token).headers


def test_a_token_that_floods_is_refused_and_another_is_not(shops: Serving, tmp_path: Path) -> None:
    shops.deploy(FLOODED, "flooded")
    tokens = {name: token(shops, name, "--app", "flooded") for name in ("flood", "quiet")}

    def ask_as(name: str) -> httpx.Response:
        headers = {"authorization": f"Bearer {tokens[name]}"}
        return httpx.post(
            f"{shops.url}/flooded/waits", json={"name": name, "root": str(tmp_path)}, headers=headers, timeout=60
        )

    def queued() -> int:
        rows = json.loads(shops.stoker("functions", "list", "--app", "flooded", "--json"))
        return int(rows[0]["queued"])

    with ThreadPoolExecutor(20) as threads:
        floods = [threads.submit(ask_as, "flood")]
        wait_until((tmp_path / "order").exists, timeout=60, message="the first one runs")
        floods += [threads.submit(ask_as, "flood") for _ in range(10)]
        wait_until(lambda: sum(one.done() for one in floods) == 4, timeout=60, message="the queue is full")
        quiet = [threads.submit(ask_as, "quiet") for _ in range(2)]
        wait_until(lambda: sum(one.done() for one in floods) == 6, timeout=60, message="places were made")
        assert queued() == 6 and not any(one.done() for one in quiet)
        (tmp_path / "go").touch()
        assert [one.result().status_code for one in quiet] == [200, 200]
        refused = [answer for one in floods if (answer := one.result()).status_code != 200]
    assert [answer.status_code for answer in refused] == [503] * 6
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    order = (tmp_path / "order").read_text().split()
    assert len(order) == 7 and order.index("quiet") <= 2, "they take turns"


def test_an_expired_token_is_told_so(shops: Serving) -> None:
    given = token(shops, "old", "--app", "shop", "--expires", "1ms")
    answer = httpx.post(
        f"{shops.url}/shop/twice", json={"x": 3}, headers={"authorization": f"Bearer {given}"}, timeout=60
    )
    assert answer.status_code == 401 and "The token 'old' has expired" in answer.json()["error"]["message"]


def test_what_people_see_of_them(shops: Serving) -> None:
    token(shops, "partner", "--app", "shop", "--function", "half", "--rate", "100/s", "--expires", "30d")
    shown = shops.stoker("tokens", "list")
    assert "calls of shop.half" in shown and "in 30 days" in shown and "100/s" in shown
