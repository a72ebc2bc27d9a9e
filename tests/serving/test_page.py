"""`docs/serving.md` and `docs/overload.md`, as somebody who reads them does it."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.serving.running import Serving, serving
from tests.waiting import wait_until

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGE = (DOCS / "serving.md").read_text()
OVERLOAD = (DOCS / "overload.md").read_text()

pytestmark = pytest.mark.timeout(120)


def test_the_page_from_top_to_bottom() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
    assert blocks[0].startswith("# shop.py") and "class Flowers" in blocks[1]
    assert "def price" in blocks[2] and "def count" in blocks[3]
    with serving() as served:
        said = served.deploy("\n".join(blocks), "shop")
        assert f"{served.url}/shop/move" in said and f"{served.url}/shop/docs" in said
        asked = re.search(r"curl http://127\.0\.0\.1:7410(\S+) -d '(.*?)' -H '(.*?)' -H", PAGE)
        answered = re.search(r"The answer is `(.*?)`", PAGE)
        assert asked is not None and answered is not None
        with served.client() as client:
            name, _, value = asked[3].partition(": ")

            def ask() -> httpx.Response:
                return client.post(asked[1], content=asked[2], headers={name: value})

            wait_until(lambda: ask().status_code != 504, timeout=60, message="its worker is there, within its deadline")
            assert ask().text == answered[1]
            (flower,) = re.findall(r"curl http://127[.]0[.]0[.]1:7410(/shop/Flowers\S+) -d '(.*?)' -H", PAGE)
            headers = {"content-type": "application/json"}
            assert client.post(flower[0], content=flower[1], headers=headers).text == '"setosa"'
            assert '"path":"$.x"' in client.post("/shop/move", json={"x": "far"}).text
        with httpx.Client(base_url=served.url, timeout=60) as client:
            assert client.get("/shop/count?to=2").text.count("data: ") == 3
            assert client.post("/shop/move", json={"x": 1}).status_code == 401
            refused = client.get("/shop/price?name=plum")
            assert (refused.status_code, refused.json()) == (404, {"error": "there is no plum"})
        for line in re.findall(r"^stoker (tokens create .*?--.*?)(?:  #.*)?$", PAGE, flags=re.M):
            made = served.stoker(*line.split()).strip()
            answer = httpx.post(
                f"{served.url}/shop/move", json={"x": 1}, headers={"authorization": f"Bearer {made}"}, timeout=60
            )
            assert answer.status_code == 200, (line, answer.text)
        overloaded(served)


def overloaded(served: Serving) -> None:
    """More requests than one worker answers by the deadline: some are answered, the others refused, and told when."""
    (source,) = re.findall(r"```python\n(.*?)```", OVERLOAD, flags=re.S)
    served.deploy(source, "gate")
    with httpx.Client(base_url=served.url, timeout=60) as client, ThreadPoolExecutor(8) as pool:

        def ask(_: int = 0) -> httpx.Response:
            return client.get("/gate/work?seconds=0.4")

        wait_until(lambda: ask().status_code == 200, timeout=60, message="its worker is there")
        answers = list(pool.map(ask, range(8)))
    assert {answer.status_code for answer in answers} <= {200, 503, 504}
    refused = [answer for answer in answers if answer.status_code == 503]
    assert refused and all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert {answer.json()["error"]["type"] for answer in refused} == {"Overloaded"}
