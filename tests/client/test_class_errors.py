"""What a class cannot be, and what is said of it before anything is sent; and calls that stay here."""
# mypy: disable-error-code="call-arg, attr-defined, arg-type, call-overload, misc, assignment"

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import stoker
from stoker.client.batches import Batch
from stoker.client.web import endpoint_of
from stoker.testing import inline

app = stoker.App("errors")


@app.cls
class Thing:
    """A thing."""

    size: str = stoker.parameter(default="small")
    count: int = stoker.parameter(default=1)
    rate: float = stoker.parameter(default=0.5)
    loud: bool = stoker.parameter(default=False)

    @stoker.enter
    def begin(self) -> None:
        self.begun = [*getattr(self, "begun", []), "begin"]

    @stoker.enter()
    async def begin_async(self) -> None:
        self.begun.append("async")

    @stoker.method
    def what(self, x: int, *, y: int = 0) -> tuple[str, int, float, bool]:
        return self.size, self.count, self.rate, self.loud

    @stoker.method()
    def hooks(self) -> list[str]:
        return self.begun

    @stoker.method()
    async def later(self, x: int) -> tuple[int, list[str]]:
        return x, self.begun

    @stoker.method()
    def items(self, n: int) -> Iterator[int]:
        yield from range(n)

    @stoker.method()
    async def aitems(self, n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i

    @stoker.method(batch=Batch(max_size=2))
    def doubled(self, xs: list[int]) -> list[int]:
        return [2 * x for x in xs]

    @stoker.method(batch=Batch(max_size=2))
    def lost(self, xs: list[int]) -> list[int]:
        return []

    def helper(self) -> None: ...


def test_calls_here_run_on_an_instance_that_was_entered_once() -> None:
    thing = Thing(size="big", count=2, rate=1, loud=True)
    assert thing.what(1) == thing.what.local(1) == ("big", 2, 1.0, True)
    assert thing.hooks() == ["begin", "async"]
    assert asyncio.run(thing.later(3)) == (3, ["begin", "async"])
    assert list(thing.items(2)) == [0, 1]
    assert thing.doubled(4) == thing.doubled.local(4) == 8
    with pytest.raises(ValueError, match=r"errors\.Thing\.lost takes lists .* for 1 item it returned 0 items"):
        thing.lost(1)
    assert Thing().hooks() == ["begin", "async"]


def test_async_calls_here_enter_on_their_own_loop() -> None:
    async def both() -> None:
        thing = Thing()
        assert list(await asyncio.gather(thing.later(1), thing.later(2))) == [
            (1, ["begin", "async"]),
            (2, ["begin", "async"]),
        ]
        assert [x async for x in thing.aitems(2)] == [0, 1]
        assert Thing().hooks() == ["begin", "async"]  # a plain one, within a loop

    asyncio.run(both())


def test_a_class_in_this_process(runtime_dir: object) -> None:
    with inline(), app.run():
        assert Thing(size="big").what.remote(1) == ("big", 1, 0.5, False)
        assert list(Thing().doubled.map([1, 2])) == [2, 4]
        assert list(Thing().items.stream(3)) == [0, 1, 2]
        assert list(Thing().aitems.stream(3)) == [0, 1, 2]
        assert Thing().later.spawn(1).result(10) == (1, ["begin", "async"])


def test_handles_look_like_what_they_are() -> None:
    thing = Thing(size="big")
    assert (thing.size, thing.count, thing.rate) == ("big", 1, 0.5)
    assert repr(thing) == "<errors.Thing(size='big', count=1, rate=0.5, loud=False)>"
    assert repr(Thing) == "<Cls errors.Thing>"
    assert repr(thing.what) == "<Method errors.Thing.what>"
    assert Thing.__doc__ == "A thing."
    assert {"what", "size"} <= set(dir(thing))
    assert isinstance(Thing.raw_f(), Thing)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sizes": "x"}, r"errors\.Thing has no parameter 'sizes'\. Did you mean 'size'\?"),
        ({"zzz": 1}, r"no parameter 'zzz'\. It takes: size, count, rate, loud"),
        ({"size": 1}, r"errors\.Thing: size=1 is a int, and this parameter is a str\."),
        ({"count": True}, r"count=True is a bool, and this parameter is a int"),
        ({"count": 1.0}, r"count=1\.0 is a float"),
        ({"count": 2**70}, "at most 64 bits"),
        ({"rate": "1"}, "rate='1' is a str"),
        ({"rate": float("nan")}, "is not a finite number"),
        ({"rate": True}, "rate=True is a bool"),
        ({"loud": 1}, "loud=1 is a int"),
        ({"size": "\ud800"}, "no text that could be encoded"),
        ({"size": ["x"]}, r"size=\['x'\] is a list"),
    ],
)
def test_parameters_are_checked(given: dict[str, Any], said: str) -> None:
    with pytest.raises(stoker.InvalidOption, match=said):
        Thing(**given)


def test_parameters_are_given_by_name() -> None:
    with pytest.raises(TypeError, match=r"by name: Thing\(size=…, count=…, rate=…, loud=…\)"):
        Thing("big")


def test_what_is_no_method_is_said() -> None:
    thing = Thing()
    with pytest.raises(AttributeError, match=r"has no method 'wha'\. Did you mean 'what'\?"):
        _ = thing.wha
    with pytest.raises(AttributeError, match=r"helper runs in the instance only.*put @stoker\.method\(\) before it"):
        thing.helper()
    with pytest.raises(AttributeError, match=r"what is a method of an instance: write Thing\(…\)\.what\.remote\(…\)"):
        Thing.what.remote(1)
    with pytest.raises(TypeError, match=r"errors\.Thing\.what\(x: int, \*, y: int = 0\).* It was not sent"):
        thing.what.remote(1, 2)
    with pytest.raises(TypeError, match="cannot be called with these arguments"):
        thing.doubled.remote(1, 2)
    with pytest.raises(stoker.InvalidRequest, match=r"errors\.Thing\.items is a generator function.*items\.stream"):
        thing.items.remote(1)
    with pytest.raises(stoker.InvalidRequest, match=r"options are those of its class.*Thing\.with_options"):
        thing.what.with_options(cpu=1)
    with pytest.raises(stoker.NotRunning, match=r"stoker\.Cls\.from_name\('errors', 'Thing'\)"):
        thing.what.remote(1)


def no_methods() -> None:
    @app.cls()
    class A: ...


def init_takes() -> None:
    @app.cls()
    class A:
        def __init__(self, size: str) -> None: ...
        @stoker.method()
        def m(self) -> None: ...


def exit_yields() -> None:
    class A:
        @stoker.exit()
        def end(self) -> Iterator[None]:
            yield


def hook_takes() -> None:
    class A:
        @stoker.enter()
        def begin(self, path: str) -> None: ...


def async_snapshot() -> None:
    class A:
        @stoker.enter(snapshot=True)
        async def begin(self) -> None: ...


def static_method() -> None:
    class A:
        @stoker.method()
        @staticmethod
        def m() -> None: ...


def static_around() -> None:
    @app.cls()
    class A:
        @staticmethod
        @stoker.method()
        def m() -> None: ...


def no_type() -> None:
    @app.cls()
    class A:
        size = stoker.parameter(default="x")

        @stoker.method()
        def m(self) -> None: ...


def odd_type() -> None:
    @app.cls()
    class A:
        sizes: list[int] = stoker.parameter()

        @stoker.method()
        def m(self) -> None: ...


def wrong_default() -> None:
    @app.cls()
    class A:
        size: int = stoker.parameter(default="x")

        @stoker.method()
        def m(self) -> None: ...


def batched_generator() -> None:
    class A:
        @stoker.method(batch=Batch(max_size=2))
        def m(self, xs: list[int]) -> Iterator[int]:
            yield 1


def function_of_a_method() -> None:
    class A:
        @app.function()
        def m(self) -> None: ...


def function_of_a_class() -> None:
    @app.function()
    class A: ...


def class_of_a_function() -> None:
    @app.cls()
    def f() -> None: ...


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (no_methods, r"errors\.A has no method that could be called\. Put @stoker\.method\(\)"),
        (init_takes, r"errors\.A: its __init__ takes size, and workers make instances without arguments"),
        (exit_yields, r"A\.end yields, so calling it runs nothing.*two methods"),
        (hook_takes, r"A\.begin takes path, and nobody is there to give it"),
        (async_snapshot, r"A\.begin is async, and enter\(snapshot=True\) runs before workers fork"),
        (static_method, r"@stoker\.method takes a plain method, .* not a staticmethod"),
        (static_around, r"errors\.A: m is a staticmethod"),
        (no_type, r"errors\.A: the parameter 'size' has no type\. Write it as in `size: str = "),
        (odd_type, r"errors\.A: the parameter 'sizes' is a list.*Parameters are str, int, float or bool"),
        (wrong_default, r"errors\.A: size='x' is a str, and this parameter is a int"),
        (batched_generator, r"A\.m is a generator, and takes no batch"),
        (function_of_a_method, r"A\.m is a method\. Put @stoker\.method\(\) before it in place of @app\.function"),
        (function_of_a_class, r"A is a class\. Put @app\.cls\(\) before it"),
        (class_of_a_function, r"f is a function: put @app\.function\(\) before it"),
        (lambda: app.cls(Thing), r"errors\.Thing is decorated already\. Use Thing\.with_options"),
        (lambda: app.cls(3), r"takes a class; 3 is none"),
        (lambda: app.cls(name="Thing")(type("B", (Thing.raw_f,), {})), "has a class 'Thing' already"),
        (lambda: app.cls(gang=stoker.Gang(size=2)), r"gang=… is for functions"),
        (lambda: app.cls(batch=Batch(max_size=2)), r"batch=… is a method's: write @stoker\.method\(batch="),
        (lambda: Thing.with_options(gang=stoker.Gang(size=2)), r"gang=… is for functions"),
        (lambda: stoker.method(batch=3), r"method\(batch=3\) is no batch"),
        (lambda: stoker.parameter(defualt=1), r"parameter\(defualt=…\): there is no such argument"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_a_class_cannot_be(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(stoker.InvalidRequest, match=said):
        make()


@pytest.mark.parametrize("named", ["endpoint", "asgi_app", "wsgi_app", "web_server"])
def test_what_serves_needs_no_parentheses_and_knows_its_arguments(named: str) -> None:
    decorator = getattr(stoker, named)

    def bare(port: int = 1) -> None: ...
    def called(port: int = 1) -> None: ...

    assert decorator(bare) is bare
    assert endpoint_of(bare) == endpoint_of(decorator()(called))
    with pytest.raises(stoker.InvalidOption, match=rf"{named}\(require_token=….*Did you mean 'requires_token'"):
        decorator(require_token=False)
    with pytest.raises(stoker.InvalidOption, match="stands below"):
        decorator("a")


def test_a_class_that_http_could_not_reach_is_refused() -> None:
    with pytest.raises(stoker.InvalidOption, match=r"gives a class its default parameters: 'size' has none.*default="):

        @stoker.App("served").cls
        class Sized:
            size: str = stoker.parameter()

            @stoker.endpoint()
            def what(self, x: int) -> None: ...
