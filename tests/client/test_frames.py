from __future__ import annotations

import traceback

import pytest

import stoker
from stoker.client.frames import DEBUG_VARIABLE
from tests.client.fake_server import FakeServer
from tests.client.test_remote import serve


def _files(error: BaseException) -> list[str]:
    return [frame.filename.rpartition("/")[2] for frame in traceback.extract_tb(error.__traceback__)]


@pytest.mark.parametrize("debug", [False, True])
def test_an_error_from_elsewhere_shows_the_users_line_and_the_method(
    server: FakeServer, app: stoker.App, monkeypatch: pytest.MonkeyPatch, debug: bool
) -> None:
    @app.function
    def fail(x: int) -> int:
        raise ValueError(f"no {x}")

    serve(server, app)
    if debug:
        monkeypatch.setenv(DEBUG_VARIABLE, "1")
    with app.run(), pytest.raises(ValueError, match="no 3") as caught:
        fail.remote(3)
    assert _files(caught.value)[:2] == ["test_frames.py", "methods.py"]
    with app.run(), pytest.raises(ValueError, match="no 0") as caught:
        list(fail.map(range(3)))
    assert caught.value.__notes__[0].startswith("It is of input 0 (counted from 0) of ")  # type: ignore[attr-defined, unused-ignore]
    with app.run():
        errors = list(fail.map(range(2), return_exceptions=True))
    assert "input 1 " in errors[1].__notes__[0]  # type: ignore[union-attr, unused-ignore]


def test_a_slip_names_what_was_meant(app: stoker.App) -> None:
    @app.function
    def add(a: int, b: int) -> int:
        return a + b

    with pytest.raises(AttributeError, match=r"'add' has no attribute 'remot'. Did you mean 'remote'\?"):
        add.remot  # type: ignore[attr-defined]
    assert not hasattr(add, "_nothing")
    with pytest.raises(TypeError, match=r"The decorator is @app.function"):
        app.functions()  # type: ignore[operator]
    with app.run(), pytest.raises(TypeError, match=r"tuples of arguments go to add.starmap"):
        add.map([(1, 2)])
    with pytest.raises(stoker.InvalidOption, match=r'memory=512 is 512 bytes.*Did you mean "512MiB"'):
        add.with_options(memory=512)
