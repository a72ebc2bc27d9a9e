"""The client with a server, an agent and workers of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import stoker
from stoker import paths
from stoker.client import session as sessions

app = stoker.App("end-to-end")


@app.function
def square(x: int) -> int:
    if x < 0:
        raise ValueError(f"{x} is negative")
    return x * x


@app.function
def count(n: int) -> Iterator[int]:
    yield from range(n)


@app.function
def nested(x: int) -> int:
    return square.remote(x) + 1


def test_every_way_to_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_RUNTIME_DIR", str(tmp_path))
    sessions.close()
    with app.run():
        assert square.remote(4) == 16
        assert list(square.map(range(300))) == [x * x for x in range(300)]
        assert list(count.stream(200)) == list(range(200))
        assert square.spawn(5).result(30) == 25
        assert stoker.gather(*square.spawn_map(range(20))) == [x * x for x in range(20)]
        assert nested.remote(3) == 10
        with pytest.raises(ValueError, match="-1 is negative"):
            square.remote(-1)
    assert list(paths.runs().iterdir()) == []
