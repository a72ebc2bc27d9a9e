"""The client with a server, an agent and workers of its own."""

from __future__ import annotations

import asyncio
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


@app.function
def say(text: str) -> None:
    print(text, end="")


@app.function
def have_said(text: str) -> None:
    say.remote(text)


@app.function
def say_and_yield(text: str) -> Iterator[str]:
    print(text)
    yield text


def test_what_a_maps_call_printed_is_shown_before_its_result(
    capsys: pytest.CaptureFixture[str], runtime_dir: Path
) -> None:
    app = stoker.App("mapped")

    @app.function(max_workers=1)
    def talk(x: int) -> int:
        print("said", x)
        return x

    with app.run():
        for ordered in (True, False):
            capsys.readouterr()
            shown = ""
            for x in talk.map(range(5), ordered=ordered):
                shown += capsys.readouterr().out
                assert f"mapped.talk | said {x}\n" in shown


def test_what_a_call_printed_is_shown_before_its_result(capsys: pytest.CaptureFixture[str], runtime_dir: Path) -> None:

    def shown() -> list[str]:
        return [line.partition("| ")[2] for line in capsys.readouterr().out.splitlines()]

    with app.run():
        for i in range(3):
            say.remote(f"remote {i}")
            assert shown() == [f"remote {i}"]
            have_said.remote(f"nested {i}")
            assert shown() == [f"nested {i}"]
        list(say.map(["map 1", "map 2"]))
        assert sorted(shown()) == ["map 1", "map 2"]
        list(say_and_yield.stream("stream"))
        assert shown() == ["stream"]
        say.spawn("spawned").result(30)
        assert shown() == ["spawned"]
        asyncio.run(_say_in_a_loop())
        assert sorted(shown()) == ["aio map", "aio remote"]


async def _say_in_a_loop() -> None:
    await say.remote.aio("aio remote")
    async for _ in say.map.aio(["aio map"]):
        pass


def test_who_prints_nothing_waits_for_nothing(runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sessions.Session, "await_output")
    sessions.close()
    with app.run():
        assert square.remote(4) == 16
        assert list(square.map(range(30))) == [x * x for x in range(30)]
        assert square.spawn(5).result(30) == 25


def test_every_way_to_call(runtime_dir: Path) -> None:
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
