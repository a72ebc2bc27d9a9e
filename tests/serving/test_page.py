"""`docs/serving.md`, as somebody who reads it does it."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from tests.serving.running import serving

PAGE = (Path(__file__).parent.parent.parent / "docs" / "serving.md").read_text()

pytestmark = pytest.mark.timeout(120)


def test_the_page_from_top_to_bottom() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
    assert blocks[0].startswith("# shop.py") and "def count" in blocks[1]
    with serving() as served:
        said = served.deploy("\n".join(blocks), "shop")
        assert f"{served.url}/shop/move" in said and f"{served.url}/shop/docs" in said
        asked = re.search(r"curl http://127\.0\.0\.1:7410(\S+) -d '(.*?)' -H '(.*?)' -H", PAGE)
        answered = re.search(r"The answer is `(.*?)`", PAGE)
        assert asked is not None and answered is not None
        with served.client() as client:
            name, _, value = asked[3].partition(": ")
            assert client.post(asked[1], content=asked[2], headers={name: value}).text == answered[1]
            assert '"path":"$.x"' in client.post("/shop/move", json={"x": "far"}).text
        with httpx.Client(base_url=served.url) as client:
            assert client.get("/shop/count?to=2").text.count("data: ") == 3
            assert client.post("/shop/move", json={"x": 1}).status_code == 401
        for line in re.findall(r"^stoker (tokens create .*?--.*?)(?:  #.*)?$", PAGE, flags=re.M):
            made = served.stoker(*line.split()).strip()
            answer = httpx.post(f"{served.url}/shop/move", json={"x": 1}, headers={"authorization": f"Bearer {made}"})
            assert answer.status_code == 200, (line, answer.text)
