"""What an editor infers: mypy checks this file, and its `assert_type` lines are the test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import stoker
from stoker.client.batches import Batch

if TYPE_CHECKING:
    from typing_extensions import assert_type

app = stoker.App("typed")


@app.function
def plain(x: int, *, y: str = "") -> float:
    return float(x)


@app.function(cpu=2, memory="1GiB", retries=stoker.Retries(max_retries=1))
def with_options(x: int) -> str:
    return str(x)


@app.function()
async def coroutine(x: int) -> bytes:
    return bytes(x)


@app.function
def generator(n: int) -> Iterator[int]:
    yield from range(n)


@app.function
async def async_generator(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i


@app.cls(cpu=2)
class Embedder:
    size: str = stoker.parameter(default="small")

    @stoker.enter(snapshot=True)
    def load(self) -> None: ...

    @stoker.enter
    async def connect(self) -> None: ...

    @stoker.exit()
    def close(self) -> None: ...

    @stoker.method()
    def embed(self, text: str, *, norm: bool = False) -> list[float]:
        return [float(len(text))]

    @stoker.method
    async def ask(self, text: str) -> bytes:
        return text.encode()

    @stoker.method()
    def words(self, text: str) -> Iterator[str]:
        yield from text.split()

    @stoker.method(batch=Batch(max_size=8))
    def score(self, texts: list[str]) -> list[float]:
        return [self.embed(text)[0] for text in texts]


@app.local_entrypoint()
def main(points: int = 8) -> None: ...


def inferred() -> None:
    assert_type(plain(1), float)
    assert_type(plain.local(1, y="a"), float)
    assert_type(plain.remote(1), float)
    assert_type(with_options.remote(1), str)
    assert_type(coroutine.remote(1), bytes)
    assert_type(list(plain.map([1])), list[float])
    assert_type(list(coroutine.map([1])), list[bytes])
    assert_type(list(plain.map([1], return_exceptions=True)), "list[float | BaseException]")
    assert_type(list(plain.starmap([(1,)])), list[float])
    assert_type(next(generator.stream(3)), int)
    assert_type(next(async_generator.stream(3)), int)
    assert_type(plain.spawn(1), stoker.Call[float])
    assert_type(plain.spawn(1).result(), float)
    assert_type(coroutine.spawn(1).result(), bytes)
    assert_type(plain.spawn_map([1]), list[stoker.Call[float]])
    assert_type(stoker.gather(plain.spawn(1), plain.spawn(2)), list[float])
    assert_type(plain.with_options(cpu=2).remote(1), float)
    main(points=3)


def inferred_of_a_class() -> None:
    embedder = Embedder()
    assert_type(embedder, Embedder)
    assert_type(embedder.size, str)
    assert_type(embedder.embed.remote("hello"), list[float])
    assert_type(embedder.embed("hello", norm=True), list[float])
    assert_type(embedder.embed.local("hello"), list[float])
    assert_type(list(embedder.embed.map(["hello"])), list[list[float]])
    assert_type(embedder.embed.spawn("hello"), stoker.Call[list[float]])
    assert_type(embedder.ask.remote("hello"), bytes)
    assert_type(next(embedder.words.stream("hello")), str)
    assert_type(embedder.score.remote("one"), float)
    assert_type(list(embedder.score.map(["one"])), list[float])
    assert_type(stoker.Cls.from_name("a", "B"), stoker.Cls[Any])
    embedder.embed.remote(1)  # type: ignore[arg-type]
    embedder.embed.remote("hello", norms=True)  # type: ignore[call-arg]
    embedder.score.remote(["one"])  # type: ignore[arg-type]
    # mypy knows no decorator that is found at an instance, as `app.cls` is, so it sees no parameters; pyright does.
    assert_type(Embedder(size="large").embed.remote("hello"), list[float])  # type: ignore[call-arg]


def refused() -> None:
    plain.remote("one")  # type: ignore[arg-type]
    plain.remote(1, z=1)  # type: ignore[call-arg]
    plain.with_options(cpus=1)  # type: ignore[call-arg]
    with_options.local()  # type: ignore[call-arg]


async def inferred_async() -> None:
    assert_type(await plain.remote.aio(1), float)
    assert_type(await coroutine.remote.aio(1), bytes)
    assert_type(await plain.spawn.aio(1), stoker.Call[float])
    assert_type(await plain.spawn(1), float)
    async for item in generator.stream.aio(3):
        assert_type(item, int)
    async for item in async_generator.stream.aio(3):
        assert_type(item, int)


def test_the_decorated_functions_are_still_functions() -> None:
    assert plain(2) == 2.0
    assert Embedder(size="large").embed("four") == [4.0]  # type: ignore[call-arg]
    assert Embedder().score("four") == 4.0
    assert with_options(2) == "2"
