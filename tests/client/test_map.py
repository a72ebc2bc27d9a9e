from __future__ import annotations

import gc
import itertools
import random
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import stoker
from tests.client.conftest import until
from tests.client.fake_server import FakeServer, Gate
from tests.client.test_remote import serve


@pytest.fixture
def double(server: FakeServer, app: stoker.App) -> stoker.Function[[int], int]:
    @app.function
    def double(x: int) -> int:
        return 2 * x

    serve(server, app)
    return double


def test_results_come_in_order_and_in_batches(
    server: FakeServer, app: stoker.App, double: stoker.Function[[int], int]
) -> None:
    with app.run():
        assert list(double.map(range(3000))) == [2 * i for i in range(3000)]
    sizes = [len(s.ids) for s in server.submits]
    assert sizes[0] == 1
    assert max(sizes) > 16


def test_unordered_results_are_all_there(app: stoker.App, double: stoker.Function[[int], int]) -> None:
    with app.run():
        assert sorted(double.map(range(500), ordered=False)) == [2 * i for i in range(500)]


def test_several_iterables_are_zipped(server: FakeServer, app: stoker.App) -> None:
    @app.function
    def add(a: int, b: int) -> int:
        return a + b

    serve(server, app)
    with app.run():
        assert list(add.map([1, 2, 3], itertools.count())) == [1, 3, 5]
        assert list(add.starmap([(1, 2), [3, 4]])) == [3, 7]
        assert list(add.map([], [])) == []


def test_what_is_no_iterable_is_refused_at_once(app: stoker.App, double: stoker.Function[[int], int]) -> None:
    wrong: Any = 5
    named: Any = {"y": [1]}
    with app.run():
        for method in (double.map, double.map.aio, double.starmap, double.for_each, double.spawn_map):
            with pytest.raises(TypeError, match=r"^double\.\w+ takes iterables, got int\.$"):
                method(wrong)
        for method in (double.map, double.map.aio, double.for_each, double.spawn_map):
            with pytest.raises(
                TypeError, match=r"no option y\. Give several iterables by position: double\.\w+\(xs, ys\)"
            ):
                method([1], **named)


def test_the_first_error_ends_an_ordered_map_at_its_place(server: FakeServer, app: stoker.App) -> None:
    @app.function
    def f(x: int) -> int:
        if x == 20:
            raise ValueError(x)
        return x

    serve(server, app)
    with app.run():
        results = f.map(itertools.count())
        found = [next(results) for _ in range(20)]
        with pytest.raises(ValueError, match="20"):
            next(results)
        with pytest.raises(StopIteration):
            next(results)
        assert found == list(range(20))
        assert len(list(server.ran)) < 5000


def test_exceptions_are_returned_where_asked(server: FakeServer, app: stoker.App) -> None:
    @app.function
    def f(x: int) -> int:
        return 10 // x

    serve(server, app)
    with app.run():
        found = list(f.map([1, 0, 2], return_exceptions=True))
    assert found[0] == 10
    assert isinstance(found[1], ZeroDivisionError)
    assert found[2] == 5


def test_a_slow_consumer_stops_the_inputs(
    server: FakeServer, app: stoker.App, double: stoker.Function[[int], int]
) -> None:
    server.window = 50
    pulled: list[int] = []

    def inputs() -> Iterator[int]:
        for i in range(1000):
            pulled.append(i)
            yield i

    with app.run():
        results = double.map(inputs())
        assert next(results) == 0
        until(lambda: len(pulled) >= 50)
        assert len(pulled) <= 52
        assert list(results) == [2 * i for i in range(1, 1000)]


def test_slow_inputs_do_not_hold_up_results(
    server: FakeServer, app: stoker.App, double: stoker.Function[[int], int]
) -> None:
    gate = Gate()

    def inputs() -> Iterator[int]:
        yield from range(7)
        gate.wait(10)
        yield 7

    with app.run():
        results = double.map(inputs())
        assert [next(results) for _ in range(7)] == [2 * i for i in range(7)]
        gate.set()
        assert list(results) == [14]


def test_inputs_that_raise_end_the_map(app: stoker.App, double: stoker.Function[[int], int]) -> None:
    def inputs() -> Iterator[int]:
        yield 1
        raise RuntimeError("no more")

    with app.run(), pytest.raises(RuntimeError, match="no more"):
        list(double.map(inputs()))


@pytest.mark.parametrize("how", ["close", "forget"])
def test_an_abandoned_map_is_cancelled(server: FakeServer, app: stoker.App, how: str) -> None:
    gate = Gate()

    @app.function
    def wait(x: int) -> int:
        gate.wait(10)
        return x

    serve(server, app)
    with app.run():
        results = wait.map(range(100))
        until(lambda: len(server.ran) >= 4)
        if how == "close":
            results.close()
        else:
            del results
            gc.collect()
        until(lambda: bool(server.cancels))
        assert {one.reason for one in server.cancels} == {"its map was left before its end"}
        gate.set()


def test_ctrl_c_in_a_map_is_why_its_calls_are_cancelled(server: FakeServer, app: stoker.App) -> None:
    gate = Gate()

    @app.function
    def wait(x: int) -> int:
        gate.wait(10)
        return x

    serve(server, app)
    main = threading.main_thread().ident or 0

    def interrupt() -> None:
        until(lambda: bool(server.ran))
        signal.pthread_kill(main, signal.SIGINT)

    with app.run():
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            list(wait.map(range(3)))
        thread.join()
        until(lambda: bool(server.cancels))
        assert {one.reason for one in server.cancels} == {"the program that maps was interrupted, by Ctrl-C"}
        gate.set()


def test_a_map_survives_servers_that_are_restarted(server: FakeServer, app: stoker.App) -> None:
    @app.function
    def slow(x: int) -> int:
        time.sleep(0.001)
        return x

    serve(server, app)
    stop = threading.Event()

    def restart() -> None:
        while not stop.wait(0.1 + random.random() / 10):
            server.restart(forget=random.random() < 0.5)

    with app.run():
        thread = threading.Thread(target=restart)
        thread.start()
        try:
            assert list(slow.map(range(2000))) == list(range(2000))
        finally:
            stop.set()
            thread.join()


def test_for_each_runs_all(server: FakeServer, app: stoker.App, double: stoker.Function[[int], int]) -> None:
    with app.run():
        double.for_each(range(40))
    assert len(server.ran) == 40


def test_maps_in_several_threads(app: stoker.App, double: stoker.Function[[int], int]) -> None:
    found: dict[int, list[int]] = {}

    def work(n: int) -> None:
        found[n] = list(double.map(range(n, n + 300)))

    with app.run():
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert found == {n: [2 * i for i in range(n, n + 300)] for n in range(4)}


def test_a_generator_is_not_mapped(server: FakeServer, app: stoker.App) -> None:
    @app.function
    def items() -> Iterator[int]:
        yield 1

    with app.run(), pytest.raises(stoker.InvalidRequest, match="stream"):
        items.map([1])


async def test_async_inputs(app: stoker.App, double: stoker.Function[[int], int]) -> None:
    async def inputs() -> AsyncIterator[int]:
        for i in range(10):
            yield i

    async with app.run():
        assert [r async for r in double.map.aio(inputs())] == [2 * i for i in range(10)]
