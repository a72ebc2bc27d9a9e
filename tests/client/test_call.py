from __future__ import annotations

import pickle
import time
from pathlib import Path

import pytest

import stoker
from stoker import paths
from stoker.client import session as sessions
from stoker.client.call import Call
from stoker.client.calls import Pending, Route, Settled
from stoker.types import ErrorInfo, Outcome
from tests.client.conftest import until
from tests.client.fake_server import FakeServer, Gate
from tests.client.test_remote import serve


@pytest.fixture
def double(server: FakeServer, app: stoker.App) -> stoker.Function[[int], int]:
    @app.function
    def double(x: int) -> int:
        if x < 0:
            raise ValueError("negative")
        return 2 * x

    serve(server, app)
    return double


def test_a_spawned_call_is_a_future(app: stoker.App, double: stoker.Function[[int], int]) -> None:
    with app.run():
        call = double.spawn(4)
        assert call.result() == 8
        assert call.exception() is None
        assert call.done()
        failed = double.spawn(-1)
        assert isinstance(failed.exception(), ValueError)
        with pytest.raises(ValueError, match="negative"):
            failed.result()


def test_a_wait_that_is_over_is_a_builtin_timeout(server: FakeServer, app: stoker.App) -> None:
    gate = Gate()

    @app.function
    def wait() -> int:
        gate.wait(10)
        return 1

    serve(server, app)
    with app.run():
        call = wait.spawn()
        started = time.monotonic()
        with pytest.raises(TimeoutError, match="goes on"):
            call.result(timeout=0.05)
        assert time.monotonic() - started < 2
        gate.set()
        assert call.result() == 1


def test_a_call_is_taken_up_by_id_and_pickles(app: stoker.App, double: stoker.Function[[int], int]) -> None:
    with app.run():
        call = double.spawn(4)
        assert stoker.Call.from_id(call.id).result() == 8
        copy = pickle.loads(pickle.dumps(call))
        assert copy == call
        assert copy.result() == 8


def test_what_the_server_knows_of_a_call(app: stoker.App, double: stoker.Function[[int], int]) -> None:
    with app.run():
        call = double.spawn(4)
        call.result()
        assert call.status() is stoker.CallState.SUCCEEDED
        assert call.timeline()[0].event == "queued"
        assert call.logs() == ["hello"]


def test_cancelling(server: FakeServer, app: stoker.App) -> None:
    gate = Gate()

    @app.function
    def wait() -> None:
        gate.wait(10)

    serve(server, app)
    with app.run():
        call = wait.spawn()
        call.cancel()
        with pytest.raises(stoker.CallCancelled):
            call.result(5)
        gate.set()


def test_spawn_map_and_gather(server: FakeServer, app: stoker.App, double: stoker.Function[[int], int]) -> None:
    with app.run():
        calls = double.spawn_map(range(700))
        assert stoker.gather(*calls) == [2 * i for i in range(700)]
        assert len(server.submits) < 10
        mixed = double.spawn_map([1, -1])
        with pytest.raises(ValueError, match="negative"):
            stoker.gather(*mixed)
        assert isinstance(stoker.gather(*mixed, return_exceptions=True)[1], ValueError)


def test_spawn_map_waits_while_the_queue_is_full(
    server: FakeServer, app: stoker.App, double: stoker.Function[[int], int]
) -> None:
    full = ErrorInfo("Overloaded", "full", fields={"retry_after": 0.01})
    server.refusals.extend([full, full])
    with app.run():
        assert stoker.gather(*double.spawn_map(range(5))) == [0, 2, 4, 6, 8]


def test_a_spawn_that_is_refused_raises(
    server: FakeServer, app: stoker.App, double: stoker.Function[[int], int]
) -> None:
    server.refusals.append(ErrorInfo("StoreError", "the disk is full"))
    with app.run(), pytest.raises(stoker.StoreError, match="disk is full"):
        double.spawn(1)


def test_a_spawned_call_is_watched_again_after_a_restart(server: FakeServer, app: stoker.App) -> None:
    gate = Gate()

    @app.function
    def wait() -> int:
        gate.wait(10)
        return 3

    serve(server, app)
    with app.run():
        call = wait.spawn()
        until(lambda: bool(server.ran))
        server.restart()
        gate.set()
        assert call.result(10) == 3
        assert len(server.ran) == 1


async def test_a_call_can_be_awaited_anywhere(app: stoker.App, double: stoker.Function[[int], int]) -> None:
    async with app.run():
        call = await double.spawn.aio(21)
        assert await stoker.Call.from_id(call.id) == 42
        assert await call == 42


async def test_without_a_server_there_are_no_calls_of_others_and_none_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOKER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STOKER_RUNTIME_DIR", str(tmp_path / "run"))
    for name in ("STOKER_SERVER", "STOKER_TOKEN", "STOKER_APP", "STOKER_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    sessions.close()
    call = stoker.Call.from_id("c-of-another")
    text = "^No server runs, and spawned calls are with it: start it with `stoker server start`"
    for asked in (call.result, call.status, call.logs, call.cancel, call.exception):
        with pytest.raises(stoker.NotFound, match=text):
            asked()
    with pytest.raises(stoker.NotFound, match=text):
        await call
    with pytest.raises(stoker.NotFound, match=r"^No server runs, and deployed apps are with it"):
        stoker.Function.from_name("primes", "largest_factor").remote(91)
    assert sessions.current_if_open() is None
    assert not list(paths.runs().iterdir())


def test_a_call_that_is_not_with_this_programs_own_server(
    app: stoker.App, double: stoker.Function[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with app.run():
        own = double.spawn(4)
        assert own.result() == 8
        session = sessions.current()
        monkeypatch.setattr(sessions.Session, "embedded", property(lambda _: True))
        call: Call[int] = Call("c-of-another")
        call._session = session
        unknown = Settled(Outcome.ERROR, error=ErrorInfo("NotFound", "There is no call c-of-another."))
        call.settle(Pending(call.id, Route("", "the call", detached=True), call), unknown)
        with pytest.raises(stoker.NotFound, match=r"stoker server start`\. There is no call c-of-another"):
            call.result()
        with pytest.raises(stoker.NotFound, match=r"^No server runs, and deployed apps.* There is no function g"):
            stoker.Function.from_name("a", "g").remote()
        monkeypatch.undo()
