from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

import stoker
from tests.client.conftest import until
from tests.client.fake_server import FakeServer
from tests.client.test_remote import serve


@pytest.fixture
def count(server: FakeServer, app: stoker.App) -> stoker.Function[[int], Iterator[int]]:
    @app.function
    def count(n: int) -> Iterator[int]:
        for i in range(n):
            if i == 1000:
                raise ValueError("enough")
            yield i

    serve(server, app)
    return count


def test_items_come_in_order(app: stoker.App, count: stoker.Function[[int], Iterator[int]]) -> None:
    with app.run():
        assert list(count.stream(300)) == list(range(300))


def test_a_generators_error_comes_after_its_items(
    app: stoker.App, count: stoker.Function[[int], Iterator[int]]
) -> None:
    found = []
    with app.run():
        items = count.stream(2000)
        with pytest.raises(ValueError, match="enough"):
            for item in items:
                found.append(item)
        assert found == list(range(1000))
        assert list(items) == []


def test_closing_stops_the_generator_there(
    server: FakeServer, app: stoker.App, count: stoker.Function[[int], Iterator[int]]
) -> None:
    with app.run():
        items = count.stream(500)
        assert next(items) == 0
        items.close()
        assert list(items) == []
        until(lambda: [c.reason for c in server.cancels] == ["closed"])


def test_a_function_is_not_streamed(server: FakeServer, app: stoker.App) -> None:
    @app.function
    def f() -> int:
        return 1

    @app.function
    def g() -> Iterator[int]:
        yield 1

    with app.run():
        with pytest.raises(stoker.InvalidRequest, match=r"f\.remote"):
            f.stream()
        with pytest.raises(stoker.InvalidRequest, match=r"g\.stream"):
            g.remote()
        with pytest.raises(stoker.InvalidRequest, match=r"g\.stream"):
            g.spawn()


async def test_async_generators_and_their_async_reader(server: FakeServer, app: stoker.App) -> None:
    @app.function
    async def count(n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i

    serve(server, app)
    async with app.run():
        assert [i async for i in count.stream.aio(100)] == list(range(100))
        assert list(count.stream(3)) == [0, 1, 2]
