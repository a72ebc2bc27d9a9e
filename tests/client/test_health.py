from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

import stoker
from stoker.client.health import check_of
from stoker.types import HealthSpec


def test_what_is_written_is_what_travels() -> None:
    app = stoker.App("checked")

    @app.cls()
    class Model:
        @stoker.healthy(every="2s", timeout="500ms", failures=4)
        def ping(self) -> bool:
            return True

        @stoker.method()
        def predict(self, x: int) -> int:
            return x

    found = app.functions["Model"]
    assert isinstance(found, stoker.Cls)
    assert found.spec_fields()["health"] == HealthSpec(2.0, 0.5, 4)
    assert not found.spec_fields()["is_async"]


class Plain:
    @stoker.healthy
    def ping(self) -> None: ...


class Overridden(Plain):
    def ping(self) -> None: ...


def test_a_check_that_is_overridden_stays_one() -> None:
    assert check_of(Plain) == check_of(Overridden) == ("ping", HealthSpec(10.0, 5.0, 3))


def test_an_async_check_makes_its_worker_have_an_event_loop() -> None:
    app = stoker.App("checked-by-loop")

    @app.cls()
    class Model:
        @stoker.healthy()
        async def ping(self) -> None: ...

        @stoker.method()
        def predict(self, x: int) -> int:
            return x

    found = app.functions["Model"]
    assert isinstance(found, stoker.Cls) and found.spec_fields()["is_async"]


def _several() -> None:
    @stoker.App("several").cls()
    class Model(Plain):
        @stoker.healthy()
        def pong(self) -> None: ...

        @stoker.method()
        def m(self) -> None: ...


def _argument() -> None:
    @stoker.healthy()
    def ping(self: Any, host: str) -> None: ...


def _generator() -> None:
    @stoker.healthy()
    def ping(self: Any) -> Any:
        yield 1


def _function() -> None:
    @stoker.App("function").function()
    @stoker.healthy()
    def ping() -> None: ...


def _hook_of_a_function() -> None:
    @stoker.App("function").function()
    @stoker.enter()
    def load() -> None: ...


def _static() -> None:
    @stoker.App("static").cls()
    class Model:
        @staticmethod
        @stoker.healthy()
        def ping() -> None: ...

        @stoker.method()
        def m(self) -> None: ...


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda: stoker.healthy(every="soon"), "healthy(every)='soon'"),
        (lambda: stoker.healthy(every=0.001), "at most one check in 0.1 s"),
        (lambda: stoker.healthy(timeout=0), "healthy(timeout)"),
        (lambda: stoker.healthy(failures=0), "whole number of at least 1"),
        (lambda: stoker.healthy(failures=True), "whole number of at least 1"),
        (_several, "several.Model has 2 methods under @stoker.healthy: ping, pong. Make one of them call the others."),
        (_argument, "ping takes host, and nobody is there to give it"),
        (_generator, "ping yields, so calling it runs nothing. Have it return instead."),
        (_function, "function.ping: @stoker.healthy is for methods of a class under @app.cls(…)"),
        (_hook_of_a_function, "function.load: @stoker.enter or @stoker.exit is for methods of a class"),
        (_static, "static.Model: ping is a staticmethod"),
        (lambda: stoker.App("a").function(recycle_memory="much"), "recycle_memory='much' is not a size"),
        (
            lambda: stoker.App("a").function(recycle_memory="2GiB", memory="1GiB"),
            "recycle_memory='2GiB' is not below memory='1GiB'",
        ),
        (
            lambda: stoker.App("a").function(recycle_memory="2GiB", gang=stoker.Gang(size=2)),
            "recycle_memory=… replaces single workers",
        ),
    ],
)
def test_mistakes_are_told(write: Callable[[], Any], told: str) -> None:
    with pytest.raises(stoker.InvalidRequest, match=re.escape(told)):
        write()(lambda x: x)
