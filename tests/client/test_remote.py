from __future__ import annotations

import asyncio
import signal
import threading
from typing import Any

import pytest

import stoker
from tests.client.conftest import until
from tests.client.fake_server import FakeServer, Gate


def serve(server: FakeServer, app: stoker.App) -> None:
    server.functions.update({name: f.raw_f for name, f in app.functions.items()})


def test_a_value_comes_back(server: FakeServer, app: stoker.App) -> None:
    @app.function(cpu=2)
    def add(a: int, *, b: int = 1) -> int:
        return a + b

    serve(server, app)
    with app.run():
        assert add.remote(1, b=4) == 5
        assert add(1) == add.local(1) == 2


def test_the_users_exception_comes_back_as_itself(server: FakeServer, app: stoker.App) -> None:
    @app.function
    def fail(x: int) -> int:
        raise KeyError(x)

    serve(server, app)
    with app.run(), pytest.raises(KeyError) as caught:
        fail.remote(3)
    assert caught.value.args == (3,)
    assert "raise KeyError(x)" in str(caught.value.__cause__)


def test_an_error_of_stokers_own_names_the_call(server: FakeServer, app: stoker.App) -> None:
    @app.function
    def lost() -> None:
        raise stoker.WorkerLost("The worker was killed by signal 9.")

    serve(server, app)
    with app.run(), pytest.raises(stoker.WorkerLost, match="signal 9") as caught:
        lost.remote()
    assert caught.value.function == "test.lost"
    assert caught.value.call_id.startswith("c-")


def test_a_refused_call_raises_with_its_fields(server: FakeServer, app: stoker.App) -> None:
    @app.function
    def f() -> int:
        return 1

    serve(server, app)
    from stoker.types import ErrorInfo

    server.refusals.append(ErrorInfo("Overloaded", "full", fields={"retry_after": 2.5}))
    with app.run():
        with pytest.raises(stoker.Overloaded) as caught:
            f.remote()
        assert caught.value.retry_after == 2.5
        assert f.remote() == 1


def test_an_async_function_blocks_and_returns_its_value(server: FakeServer, app: stoker.App) -> None:
    @app.function
    async def double(x: int) -> int:
        return 2 * x

    serve(server, app)
    with app.run():
        assert double.remote(4) == 8
        assert list(double.map([1, 2])) == [2, 4]


async def test_the_async_twins(server: FakeServer, app: stoker.App) -> None:
    @app.function
    def double(x: int) -> int:
        return 2 * x

    @app.function
    def fail() -> None:
        raise ValueError("no")

    serve(server, app)
    async with app.run():
        assert await double.remote.aio(4) == 8
        assert await asyncio.gather(*(double.remote.aio(i) for i in range(50))) == [2 * i for i in range(50)]
        with pytest.raises(ValueError, match="no"):
            await fail.remote.aio()
        call = await double.spawn.aio(5)
        assert await call == 10
        assert [r async for r in double.map.aio(range(30))] == [2 * i for i in range(30)]
        assert [r async for r in double.starmap.aio([(1,), (2,)])] == [2, 4]
        calls = await double.spawn_map.aio([1, 2])
        assert await stoker.gather.aio(*calls) == [2, 4]
    assert max(len(s.ids) for s in server.submits if s.kind == "call" and not s.detached) > 10


async def test_cancelling_a_task_cancels_the_call(server: FakeServer, app: stoker.App) -> None:
    gate = Gate()

    @app.function
    def wait() -> bool:
        return gate.wait(5)

    serve(server, app)
    async with app.run():
        task = asyncio.create_task(wait.remote.aio())
        while not server.ran:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        until(lambda: bool(server.cancels))
        gate.set()


def test_many_threads_share_one_connection(server: FakeServer, app: stoker.App) -> None:
    @app.function
    def double(x: int) -> int:
        return 2 * x

    serve(server, app)
    found: dict[int, list[int]] = {}

    def work(n: int) -> None:
        found[n] = [double.remote(n * 100 + i) for i in range(50)]

    with app.run():
        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert found == {n: [2 * (n * 100 + i) for i in range(50)] for n in range(8)}


def test_a_call_survives_a_server_that_was_restarted(server: FakeServer, app: stoker.App) -> None:
    gate = Gate()

    @app.function
    def wait(x: int) -> int:
        gate.wait(10)
        return x

    serve(server, app)
    with app.run():
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(wait.remote(7)))
        thread.start()
        until(lambda: bool(server.ran))
        server.restart(forget=True)
        until(lambda: len(server.ran) == 2)
        gate.set()
        thread.join(10)
        assert found == [7]
        assert server.ran[0] == server.ran[1]
        assert len([r for r in server.requests if r.verb == "register"]) == 2


def test_a_server_that_stays_away_fails_what_is_open(server: FakeServer, app: stoker.App) -> None:
    gate = Gate()
    server.grace = 0.1

    @app.function
    def wait() -> None:
        gate.wait(10)

    serve(server, app)
    with app.run():

        def go_away() -> None:
            until(lambda: bool(server.ran))
            server._drop_links()

        thread = threading.Thread(target=go_away)
        thread.start()
        with pytest.raises(stoker.ConnectionFailed, match="did not come back"):
            wait.remote()
        thread.join()
        gate.set()


def test_big_payloads_travel_in_segments(server: FakeServer, app: stoker.App) -> None:
    numpy = pytest.importorskip("numpy")

    @app.function
    def plus(x: Any) -> Any:
        return x + 1

    serve(server, app)
    with app.run():
        big = numpy.zeros(200_000)
        result = plus.remote(big)
        result += 1  # the mapping is the caller's own
        assert result.sum() == 400_000
        assert server.submits[-1].segments
        assert [r.sum() for r in plus.map([big] * 5)] == [200_000] * 5


def test_a_big_payload_is_written_again_for_a_restarted_server(server: FakeServer, app: stoker.App) -> None:
    gate = Gate()

    @app.function
    def size(data: bytes) -> int:
        gate.wait(10)
        return len(data)

    serve(server, app)
    with app.run():
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(size.remote(b"x" * 1_000_000)))
        thread.start()
        until(lambda: bool(server.ran))
        server.restart(forget=True)
        until(lambda: len(server.ran) == 2)
        gate.set()
        thread.join(10)
    assert found == [1_000_000]


def test_an_argument_that_cannot_travel_is_named(server: FakeServer, app: stoker.App) -> None:
    @app.function
    def f(x: Any) -> None:
        return None

    serve(server, app)
    with app.run(), pytest.raises(stoker.SerializationError) as caught:
        f.remote({"a": threading.Lock()})
    assert caught.value.path.startswith("args[0]")


def test_results_are_acknowledged_when_idle(server: FakeServer, app: stoker.App) -> None:
    @app.function
    def f() -> int:
        return 1

    serve(server, app)
    with app.run():
        f.remote()
        until(lambda: server.acks == [1])


def test_ctrl_c_cancels_the_call(server: FakeServer, app: stoker.App) -> None:
    gate = Gate()

    @app.function
    def wait() -> bool:
        return gate.wait(10)

    serve(server, app)
    main = threading.main_thread().ident or 0
    with app.run():

        def interrupt() -> None:
            until(lambda: bool(server.ran))
            signal.pthread_kill(main, signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            wait.remote()
        thread.join()
        until(lambda: bool(server.cancels))
        gate.set()
