from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest

import stoker
from stoker.client import session as sessions
from stoker.client.session import Session
from tests.client.fake_server import FakeServer
from tests.client.test_remote import serve

MODULE_APP = stoker.App("module-app")


@MODULE_APP.function
def importable(x: int) -> int:
    return x + 1


@pytest.mark.parametrize("name", ["", "a b", "-a", "a/b", "x" * 65])
def test_names_are_checked(name: str) -> None:
    with pytest.raises(stoker.InvalidRequest, match="cannot be"):
        stoker.App(name)


def test_what_is_no_function_is_refused() -> None:
    app = stoker.App("x")
    with pytest.raises(stoker.InvalidRequest, match="is a class"):
        app.function(int)
    with pytest.raises(stoker.InvalidRequest, match="written in Python"):
        app.function(len)
    with pytest.raises(stoker.InvalidRequest, match="decorated already"):
        app.function(importable)


def test_a_method_is_refused() -> None:
    app = stoker.App("x")
    with pytest.raises(
        stoker.InvalidRequest,
        match=r"^A\.f is a method. Put @stoker\.method\(\)",
    ):

        class A:
            @app.function
            def f(self) -> None: ...

    assert not app.functions


def test_a_name_is_taken_once() -> None:
    app = stoker.App("x")

    @app.function(name="f")
    def first() -> None: ...

    with pytest.raises(stoker.InvalidRequest, match="has a function 'f' already"):

        @app.function(name="f")
        def second() -> None: ...

    assert list(app.functions) == ["f"]


def test_a_call_without_a_run_says_what_to_do() -> None:
    with pytest.raises(
        stoker.NotRunning,
        match=r"with app\.run\(\):`, where `app` is your App\('module-app'\).*stoker run.*"
        r"from_name\('module-app', 'importable'\)",
    ):
        importable.remote(1)


def test_entrypoints_are_registered_and_callable() -> None:
    app = stoker.App("x")

    @app.local_entrypoint()
    def main(points: int = 8) -> int:
        return points

    @app.local_entrypoint
    def other() -> None: ...

    assert list(app.registered_entrypoints) == ["main", "other"]
    assert main(3) == 3


def test_with_options_is_another_pool(server: FakeServer, app: stoker.App) -> None:
    @app.function(cpu=1)
    def f(x: int) -> int:
        return x

    serve(server, app)
    bigger = f.with_options(cpu=4)
    with app.run():
        assert (f.remote(1), bigger.remote(2)) == (1, 2)
    assert sorted(spec.options.cpu for spec in server.specs.values()) == [1, 4]


def test_a_function_defined_during_the_run_is_registered_when_called(server: FakeServer, app: stoker.App) -> None:
    with app.run():

        @app.function
        def late() -> str:
            return "here"

        serve(server, app)
        assert late.remote() == "here"


def test_from_name(server: FakeServer, app: stoker.App) -> None:
    @app.function
    def f(x: int) -> int:
        return x

    serve(server, app)
    assert app.deploy() == 1
    found = stoker.Function.from_name("test", "f")
    assert found.remote(3) == 3
    assert found.with_options(cpu=3).remote(4) == 4
    with pytest.raises(stoker.InvalidRequest, match="only its name"):
        found(1)
    with pytest.raises(stoker.NotFound, match="no function nothing"):
        stoker.Function.from_name("test", "nothing").remote()


def test_handles_travel_by_reference(server: FakeServer, app: stoker.App) -> None:
    @app.function
    def apply(f: stoker.Function[[int], int], x: int) -> int:
        return f.raw_f(x)

    serve(server, app)
    assert pickle.loads(pickle.dumps(importable)) is importable
    with app.run():
        assert apply.remote(importable, 1) == 2


def test_a_reference_calls_where_it_came_from(
    server: FakeServer, app: stoker.App, monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.function
    def f(x: int) -> int:
        return x

    serve(server, app)
    with app.run():
        data = pickle.dumps(f)
        data_bigger = pickle.dumps(f.with_options(cpu=2))
        app.functions.clear()
        monkeypatch.setenv("STOKER_SERVER", server.path)  # as in a worker, where this app is not defined
        assert pickle.loads(data).remote(5) == 5
        assert pickle.loads(data_bigger).remote(6) == 6
        assert server.specs[server.submits[-1].function].options.cpu == 2


def test_code_by_value_needs_the_images_python_checked_first(server: FakeServer, app: stoker.App) -> None:
    @app.function(image=stoker.Image.python("3.12"))
    def local() -> None: ...

    with pytest.raises(stoker.InvalidRequest, match=r"travels by value.*needs Python"), app.run():
        pass
    assert not server.requests or server.requests[-1].verb == "flush"


def test_importable_functions_bring_their_source(server: FakeServer) -> None:
    server.functions["importable"] = importable.raw_f
    with MODULE_APP.run():
        assert importable.remote(1) == 2
    (spec,) = server.specs.values()
    assert spec.code.module == "tests.client.test_app"
    assert spec.code.bundle in server.blobs


def test_deploying_needs_a_server_that_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_RUNTIME_DIR", str(tmp_path))
    sessions.close()
    with pytest.raises(stoker.ConnectionFailed, match="stoker server start"):
        MODULE_APP.deploy()


def test_runs_nest_and_the_session_ends_with_the_outermost(server: FakeServer, app: stoker.App) -> None:
    @app.function
    def f() -> int:
        return 1

    serve(server, app)
    with app.run():
        session = sessions.current()
        with app.run():
            assert f.remote() == 1
        assert f.remote() == 1
        assert sessions.current() is session
    assert sessions.current_if_open() is None
    with pytest.raises(stoker.NotRunning):
        f.remote()


def test_a_forked_child_has_a_session_of_its_own(server: FakeServer, app: stoker.App) -> None:
    @app.function
    def f(x: int) -> int:
        return x

    serve(server, app)
    with app.run():
        assert f.remote(1) == 1
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writing, str(f.remote(2)).encode())
            os._exit(0)
        assert os.read(reading, 10) == b"2"
        os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)
        assert f.remote(3) == 3
    assert len({s.ids[0].partition(".")[0] for s in server.submits}) == 2


def test_a_slip_in_an_app_names_what_was_meant(app: stoker.App) -> None:
    wrong: Any = app.deploy
    with pytest.raises(stoker.InvalidOption, match="Did you mean 'canary'"):
        wrong(cannary=10)
    kind: Any = stoker.App
    with pytest.raises(stoker.InvalidOption, match=r"App\(max_workers=….*It takes: name, image"):
        kind("test", max_workers=1)


def test_what_is_deployed_is_called_by_name_and_says_so(server: FakeServer, app: stoker.App) -> None:
    @app.function
    def f(x: int) -> int:
        return x

    serve(server, app)
    app.deploy()
    with pytest.raises(
        stoker.NotRunning, match=r"is deployed, in version 1, .*stoker.Function.from_name\('test', 'f'\)"
    ):
        f.remote(1)
    with app.run():
        assert f.remote(1) == 1


def test_a_deploy_warns_of_what_does_not_start_and_of_what_may_not_later(
    server: FakeServer, app: stoker.App, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    @app.function
    def f() -> None: ...

    @app.function(image=stoker.Image.python())
    def g() -> None: ...

    serve(server, app)
    answer = {
        "version": 2,
        "waits": {"f": "its enter() hook load() raised OSError: no"},
        "goes_on": {"f": 1},
        "untried": {"g": "no room"},
    }
    request = Session.request
    monkeypatch.setattr(
        Session, "request", lambda self, verb, params: answer if verb == "deploy" else request(self, verb, params)
    )
    assert app.deploy() == 2
    told = capfd.readouterr().err
    assert "stoker: test.f is not ready in version 2, and version 1 goes on" in told and "OSError: no" in told
    assert "stoker: test: g took over untried: no room" in told
    assert f"stoker: test: f: runs in your own environment ({sys.prefix})" in told
