"""Exceptions keep their type, text, args and attributes; where the type is missing a `RemoteError` says all it can."""

from __future__ import annotations

import asyncio
import builtins
import json
import subprocess
import sys
import threading
import traceback
import types
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stoker.errors import CallTimeout, Overloaded, RemoteError, SerializationError, WorkerLost
from stoker.protocol.payload import decode_exception, encode_exception
from stoker.types import ErrorInfo


class Odd(Exception):
    def __init__(self, code: int, *, hint: str) -> None:
        super().__init__(f"code {code}")
        self.code = code
        self.hint = hint


class Refusing(Exception):
    def __init__(self) -> None:
        raise RuntimeError("cannot be made twice") if getattr(Refusing, "made", False) else SystemError


class Reducing(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(a)
        self.b = b

    def __reduce__(self) -> Any:
        return Reducing, (self.args[0], self.b)


class BrokenReduce(Exception):
    def __reduce__(self) -> Any:
        return BrokenReduce.fail, ()

    @staticmethod
    def fail() -> None:
        raise KeyError("broken")


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


class NamedError(OSError):
    def __init__(self, name: str) -> None:
        super().__init__(2, "gone", name)
        self.name = name


def raised(make: Callable[[], BaseException]) -> BaseException:
    try:
        raise make()
    except BaseException as error:
        return error


def round_trip(error: BaseException) -> BaseException:
    encoded, info = encode_exception(error)
    return decode_exception(encoded.to_bytes(), info, call_id="c1", function="app.f")


def test_the_original_type_comes_with_the_remote_traceback() -> None:
    found = round_trip(raised(lambda: KeyError("missing")))
    assert type(found) is KeyError
    assert found.args == ("missing",)
    printed = "".join(traceback.format_exception(found))
    assert "in raised" in printed
    assert "direct cause" in printed


@pytest.mark.parametrize(
    "make",
    [
        lambda: ValueError("a", 1),
        lambda: Odd(3, hint="look"),
        lambda: Reducing(1, 2),
        lambda: NamedError("file"),
        lambda: FileNotFoundError(2, "No such file", "path"),
        lambda: UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
        lambda: ImportError("no", name="mod", path="p"),
        lambda: StopIteration(5),
        lambda: SystemExit(3),
        lambda: json.JSONDecodeError("bad", "{", 1),
        lambda: subprocess.CalledProcessError(3, ["ls"], b"out"),
        lambda: urllib.error.URLError("refused"),
        lambda: SyntaxError("bad", ("f.py", 1, 2, "x y")),
        lambda: asyncio.IncompleteReadError(b"ab", 5),
        lambda: Overloaded("full", retry_after=3.0),
        lambda: SerializationError("x", path="args[0]"),
        lambda: WorkerLost("gone", call_id="inner"),
        lambda: CallTimeout("late"),
        lambda: builtins.ExceptionGroup("several", [ValueError(1), Odd(2, hint="x")]),
    ],
)
def test_type_text_args_and_attributes_survive(make: Callable[[], BaseException]) -> None:
    error = raised(make)
    found = round_trip(error)
    assert type(found) is type(error)
    assert str(found) == str(error)
    if not isinstance(error, builtins.ExceptionGroup):
        assert found.args == error.args
        assert vars(found) == vars(error)
    else:
        assert vars(found.exceptions[1]) == vars(error.exceptions[1])  # type: ignore[attr-defined]
    for name in ("errno", "filename", "value", "code", "lineno", "start", "returncode", "path"):
        assert getattr(found, name, None) == getattr(error, name, None)


def test_causes_and_notes_are_in_the_text() -> None:
    error = ValueError("outer")
    error.__cause__ = KeyError("inner")
    error.add_note("a note")
    found = round_trip(error)
    assert found.__notes__ == ["a note"]
    assert "KeyError: 'inner'" in str(found.__cause__)
    assert "a note" in str(found.__cause__)


def test_attributes_that_cannot_travel_are_left_behind() -> None:
    error = Odd(1, hint="h")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    found = round_trip(error)
    assert type(found) is Odd
    assert vars(found) == {"code": 1, "hint": "h"}


@pytest.mark.parametrize("make", [lambda: ValueError(threading.Lock()), BrokenReduce])
def test_what_cannot_be_pickled_or_made_is_a_remote_error(make: Callable[[], BaseException]) -> None:
    found = round_trip(raised(make))
    assert isinstance(found, RemoteError)
    assert found.type_name.endswith(type(make()).__name__)
    assert (found.call_id, found.function) == ("c1", "app.f")
    assert "in raised" in found.traceback


def test_an_init_that_raises_is_not_run() -> None:
    error = Exception.__new__(Refusing, "text")
    assert type(round_trip(error)) is Refusing


def test_a_text_that_cannot_be_made_is_replaced() -> None:
    encoded, info = encode_exception(raised(Unprintable))
    assert "could not be made" in info.message
    assert type(decode_exception(encoded.to_bytes(), info, call_id="", function="")) is Unprintable


def test_cycles_and_local_classes() -> None:
    class Local(Exception):
        pass

    error = Local("x")
    error.__cause__ = ValueError("y")
    error.__cause__.__cause__ = error
    assert type(round_trip(error)).__name__ == "Local"


def test_the_frames_of_stoker_are_stripped(tmp_path: Path) -> None:
    runner = tmp_path / "runner"
    runner.mkdir()
    spaces: dict[str, Any] = {}
    exec(compile("def run(f):\n    return f()\n", str(runner / "loop.py"), "exec"), spaces)

    def user() -> None:
        raise ValueError("mine")

    try:
        try:
            spaces["run"](lambda: spaces["run"](user))
        except ValueError as error:
            raise TypeError("outer") from error
    except TypeError as error:
        stripped = encode_exception(error, strip=str(tmp_path))[1].traceback
    assert "in user" in stripped
    assert "loop.py" not in stripped
    assert encode_exception(raised(lambda: ValueError("x")), strip=__file__)[1].traceback.count("raised") == 1


def test_wrong_arguments_have_no_frame_where_none_is_the_users() -> None:
    error = raised(lambda: round_trip())  # type: ignore[call-arg]
    stripped = encode_exception(error, strip=__file__)[1].traceback
    assert stripped.splitlines()[-1:] == ["TypeError: round_trip() missing 1 required positional argument: 'error'"]
    assert "File" not in stripped


@pytest.fixture
def elsewhere() -> Iterator[Any]:
    module = types.ModuleType("elsewhere")
    module.Custom = type("Custom", (ArithmeticError,), {"__module__": "elsewhere"})  # type: ignore[attr-defined]
    sys.modules["elsewhere"] = module
    yield module
    sys.modules.pop("elsewhere", None)


def test_a_missing_type_is_a_remote_error_that_opens_where_it_is_known(elsewhere: Any) -> None:
    encoded, info = encode_exception(raised(lambda: elsewhere.Custom("told")))
    assert info.mro[:2] == ["elsewhere.Custom", "builtins.ArithmeticError"]
    del sys.modules["elsewhere"]
    middle = decode_exception(encoded.to_bytes(), info, call_id="c1", function="app.f")
    assert isinstance(middle, RemoteError)
    assert str(middle) == "elsewhere.Custom: told"
    assert middle.type_name == "elsewhere.Custom"
    passed, again = encode_exception(middle)
    assert (again.type_name, again.message, again.mro) == (info.type_name, info.message, info.mro)
    assert isinstance(decode_exception(passed.to_bytes(), again, call_id="c2", function="app.g"), RemoteError)
    sys.modules["elsewhere"] = elsewhere
    found = decode_exception(passed.to_bytes(), again, call_id="c2", function="app.g")
    assert type(found) is elsewhere.Custom
    assert found.args == ("told",)


def test_stoker_s_own_errors_come_from_their_name() -> None:
    found = decode_exception(b"", ErrorInfo("WorkerLost", "killed"), call_id="c1", function="app.f")
    assert type(found) is WorkerLost
    assert (str(found), found.call_id, found.function) == ("killed", "c1", "app.f")


@pytest.mark.parametrize("payload", [b"", b"garbage", b"\x80\x05K\x01.", b"G\x80\x05", b"B\x00"])
def test_bad_payloads_never_raise(payload: bytes) -> None:
    info = ErrorInfo("builtins.ValueError", "x", "Traceback")
    found = decode_exception(payload, info, call_id="", function="")
    assert isinstance(found, RemoteError)
    assert found.payload == payload


def test_long_texts_are_clipped() -> None:
    encoded, info = encode_exception(ValueError("x" * 1_000_000))
    assert len(info.message) < 110_000
    assert len(str(decode_exception(encoded.to_bytes(), info, call_id="", function=""))) == 1_000_000
