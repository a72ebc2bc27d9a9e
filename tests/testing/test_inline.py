"""An app is tested without processes, in the way the documentation shows."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

import stoker
from stoker.client import session as sessions
from stoker.testing import inline
from tests import leftovers

app = stoker.App("inline-tests", image=stoker.Image.python("3.10").pip_install("what-is-not-there"))
PRICES = {"tea": 2}


@app.function(memory="1GiB", retries=2, deadline="1m")
def price(name: str) -> int:
    if name not in PRICES:
        raise LookupError(f"no {name}")
    return PRICES[name]


@app.function()
def total(names: list[str]) -> int:
    return sum(price.map(names))


@app.function()
async def count(n: int) -> int:
    return n + 1


@app.function()
def numbers(n: int) -> Iterator[int]:
    yield from range(n)


@app.function()
def where() -> int:
    return os.getpid()


@app.function()
def a_lock() -> object:
    return threading.Lock()


@pytest.fixture
def running() -> Iterator[None]:
    with inline(), app.run():
        yield


@pytest.mark.usefixtures("running")
def test_every_way_to_call(monkeypatch: pytest.MonkeyPatch) -> None:
    assert where.remote() == os.getpid()
    monkeypatch.setitem(PRICES, "cake", 5)
    assert total.remote(["tea", "cake"]) == 7
    assert list(price.map(["tea", "cake"])) == [2, 5]
    assert count.remote(1) == 2
    assert list(numbers.stream(200)) == list(range(200))
    call = price.spawn("tea")
    assert call.result(10) == 2
    assert call.status() is stoker.CallState.SUCCEEDED
    assert price.with_options(cpu=4).remote("tea") == 2
    assert stoker.Function.from_name("inline-tests", "price").remote("tea") == 2


@pytest.mark.usefixtures("running")
def test_errors_are_as_ever() -> None:
    with pytest.raises(LookupError, match="no beer"):
        price.remote("beer")
    with pytest.raises(stoker.SerializationError):
        a_lock.remote()
    with pytest.raises(stoker.InvalidRequest, match="is a generator function"):
        numbers.remote(3)


def test_calls_within_calls_do_not_wait_for_each_other_in_vain() -> None:
    with inline(), app.run():
        assert list(total.map([["tea", "tea"]] * 50)) == [4] * 50


def test_nothing_is_started_and_nothing_stays(runtime_dir: object) -> None:
    before = sessions.current_if_open()
    with inline():
        with app.run():
            price.remote("tea")
        with app.run():  # a second one finds its way as well
            price.remote("tea")
    assert sessions.current_if_open() is before
    assert leftovers.processes_of(runtime_dir) == {}  # type: ignore[arg-type]
    with pytest.raises(stoker.NotRunning):
        price.remote("tea")
