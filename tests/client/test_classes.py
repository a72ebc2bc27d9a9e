"""Classes with a server, an agent and workers of their own."""
# mypy: disable-error-code="call-arg, attr-defined, arg-type"

from __future__ import annotations

import asyncio
import os
import pickle
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import stoker
from stoker.client.batches import Batch
from tests.waiting import wait_until

app = stoker.App("embedders")


class Counted:
    """What base classes bring along."""

    @stoker.enter(snapshot=True)
    def count(self) -> None:
        self.order = ["base"]
        self.snapshot = os.getpid()


@app.cls(max_workers=2)
class Embedder(Counted):
    size: str = stoker.parameter(default="small")
    factor: float = stoker.parameter(default=1)

    @stoker.enter(snapshot=True)
    def load(self) -> None:
        self.order.append("load")
        assert not hasattr(self, "placed")

    @stoker.enter
    def place(self) -> None:
        self.placed = os.getpid()
        self.order.append("place")

    @stoker.method()
    def embed(self, text: str, *, times: int = 1) -> str:
        return f"{self.size}:{text * times}"

    @stoker.method
    def where(self) -> tuple[int, int, int, list[str]]:
        return self.snapshot, self.placed, os.getpid(), self.order

    @stoker.method()
    def letters(self, text: str) -> Iterator[str]:
        yield from self.embed(text)

    @stoker.method()
    def fail(self, text: str) -> None:
        raise ValueError(text)

    @stoker.method(batch=Batch(max_size=4))
    def lengths(self, texts: list[str]) -> list[int]:
        return [len(text) for text in texts]

    def helper(self) -> None: ...


def test_every_way_to_call(runtime_dir: object) -> None:
    with app.run():
        small, large = Embedder(), Embedder(size="large")
        assert small.embed.remote("a") == "small:a"
        assert large.embed.remote("a", times=2) == "large:aa"
        assert list(large.embed.map(["a", "b"])) == ["large:a", "large:b"]
        assert list(large.embed.starmap([("a",), ("b",)])) == ["large:a", "large:b"]
        assert list(large.letters.stream("x")) == list("large:x")
        assert large.embed.spawn("a").result(30) == "large:a"
        assert stoker.gather(*large.embed.spawn_map(["a", "b"])) == ["large:a", "large:b"]
        assert large.lengths.remote("four") == 4
        assert list(large.lengths.map(["a", "bb"])) == [1, 2]
        with pytest.raises(ValueError, match="wrong"):
            large.fail.remote("wrong")
        mine, other = small.where.remote(), large.where.remote()
        assert mine[0] != mine[1] == mine[2]
        assert mine[3] == ["base", "load", "place"]
        assert mine[0] != other[0]
        assert mine[2] != other[2]


@app.cls(concurrency=8, max_workers=1)
class Asked:
    """Async and plain methods beside each other."""

    @stoker.enter()
    async def begin(self) -> None:
        self.loop = asyncio.get_running_loop()

    @stoker.method()
    async def ask(self, x: int) -> bool:
        await asyncio.sleep(0)
        return asyncio.get_running_loop() is self.loop

    @stoker.method()
    def plain(self, x: int) -> int:
        return square.remote(x)

    @stoker.method()
    async def count(self, n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i


@app.function()
def square(x: int) -> int:
    return x * x


def test_async_methods(runtime_dir: Path) -> None:
    async def in_a_loop() -> None:
        assert await Asked().ask.remote.aio(1)
        assert [x async for x in Asked().count.stream.aio(3)] == [0, 1, 2]
        assert [x async for x in Asked().plain.map.aio([1, 2])] == [1, 4]

    with app.run():
        asked = Asked()
        assert list(asked.ask.map(range(20))) == [True] * 20
        assert list(asked.plain.map(range(20))) == [x * x for x in range(20)]
        assert list(asked.count.stream(5)) == list(range(5))
        asyncio.run(in_a_loop())


@app.function()
def calls(embedder: Embedder, method: stoker.Function[[str], str], cls: type[Embedder], text: str) -> list[str]:
    return [embedder.embed.remote(text), method.remote(text), cls(size="there").embed.remote(text)]


def test_handles_travel(runtime_dir: Path) -> None:
    large = Embedder(size="large")
    assert pickle.loads(pickle.dumps(Embedder)) is Embedder
    assert pickle.loads(pickle.dumps(large)).size == "large"
    assert pickle.loads(pickle.dumps(large.embed)).label == "embedders.Embedder.embed"
    with app.run():
        assert calls.remote(large, large.embed, Embedder, "x") == ["large:x", "large:x", "there:x"]
        other = Embedder.with_options(max_workers=1)
        assert calls.remote(other(size="o"), large.embed, other, "x") == ["o:x", "large:x", "there:x"]


def test_a_class_that_is_local_travels_by_value(runtime_dir: Path) -> None:
    local = stoker.App("local")
    offset = 7

    @local.cls()
    class Adder:
        by: int = stoker.parameter(default=1)

        @stoker.enter(snapshot=True)
        def load(self) -> None:
            self.offset = offset

        @stoker.method()
        def add(self, x: int) -> int:
            return self.twice(x) + self.by + self.offset

        def twice(self, x: int) -> int:
            return 2 * x

    @local.cls()
    class More(Adder):
        @stoker.enter()
        def more(self) -> None:
            self.offset += 1

    with local.run():
        assert Adder(by=10).add.remote(1) == 19
        assert Adder().add.remote(1) == 10
        assert More().add.remote(1) == 11
    assert Adder(by=3).add(1) == Adder(by=3).add.local(1) == 12
    assert More().add(0) == 9


class Noted:
    """Notes in a directory what happens to it."""

    place: str = stoker.parameter()

    def note(self, what: str) -> None:
        with Path(self.place, "notes").open("a") as file:
            file.write(f"{what} {os.getpid()}\n")

    @stoker.enter()
    def begin(self) -> None:
        self.note("enter")

    @stoker.exit()
    def end(self) -> None:
        self.note("exit")

    @stoker.method()
    def who(self, x: int = 0) -> int:
        return os.getpid()

    @stoker.method()
    def slow(self) -> int:
        path = Path(self.place, "started")
        if path.exists():
            return os.getpid()
        path.write_text(str(os.getpid()))
        signal.pause()
        return 0


def notes(place: Path) -> list[list[str]]:
    path = place / "notes"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


noted = stoker.App("noted")
Idle = noted.cls(name="Idle", idle_timeout=0, max_workers=1)(Noted)
Recycled = noted.cls(name="Recycled", recycle_after=1, max_workers=1)(Noted)
Stays = noted.cls(name="Stays", max_workers=1)(Noted)


@pytest.mark.parametrize("cls", [Idle, Recycled, Stays], ids=["idle", "recycled", "the app ends"])
def test_exit_hooks_run_once_however_a_worker_ends(cls: type[Noted], tmp_path: Path, runtime_dir: Path) -> None:
    with noted.run():
        pid = cls(place=str(tmp_path)).who.remote()
        if cls is not Stays:
            wait_until(lambda: len(notes(tmp_path)) == 2, timeout=20, message="the exit hook ran")
    wait_until(lambda: len(notes(tmp_path)) == 2, timeout=20, message="the exit hook ran")
    assert notes(tmp_path) == [["enter", str(pid)], ["exit", str(pid)]]


def test_a_worker_that_is_killed_leaves_its_call_to_another(tmp_path: Path, runtime_dir: Path) -> None:
    with noted.run():
        call = Stays(place=str(tmp_path)).slow.spawn()
        started = tmp_path / "started"
        wait_until(lambda: started.exists() and started.read_text(), timeout=20, message="it runs")
        os.kill(int(started.read_text()), signal.SIGKILL)
        other = call.result(30)
        assert other != int(started.read_text())
        assert [line[0] for line in notes(tmp_path)] == ["enter", "enter"]


class Fails:
    how: str = stoker.parameter(default="enter")

    @stoker.enter(snapshot=True)
    def load(self) -> None:
        if self.how == "load":
            raise LookupError("no such model")

    @stoker.enter()
    def place(self) -> None:
        if self.how == "place":
            raise LookupError("no such device")

    @stoker.method()
    def run(self) -> int:
        return 1


Failing = noted.cls(Fails)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("load", r"its enter\(snapshot=True\) hook load\(\) raised LookupError: no such model\nTraceback"),
        ("place", r"its enter\(\) hook place\(\) raised LookupError: no such device\nTraceback"),
    ],
)
def test_a_hook_that_fails_is_told_at_once(how: str, said: str, runtime_dir: Path) -> None:
    with noted.run():
        failing = Failing(how=how)
        for _ in range(2):
            with pytest.raises(stoker.StartupError, match=said) as caught:
                failing.run.remote()
        assert "test_classes.py" in str(caught.value)
        assert Failing(how="not").run.remote() == 1
