from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import stoker
from stoker.client.signatures import CallSignature
from tests.client.fake_server import FakeServer
from tests.client.test_remote import serve


def plain(c: float, k: int = 3) -> float:
    return c * k


def named(c: float, *, k: int) -> float:
    return c * k


def loose(first: int, /, *rest: int, **named: int) -> int:
    return first


@functools.wraps(plain)
def gives_an_argument(*args: Any, **kwargs: Any) -> float:
    return plain(1.0, *args, **kwargs)


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        (plain, (1,), {}),
        (plain, (1, 2), {}),
        (plain, (), {"c": 1, "k": 2}),
        (named, (1,), {"k": 2}),
        (loose, (1, 2, 3), {"x": 4}),
    ],
)
def test_what_fits_is_let_through(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    signature = CallSignature.of(function, label="a.f")
    assert signature is not None
    signature.check(args, kwargs)


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "said"),
    [
        (plain, (), {}, "a.f(c: float, k: int = 3) -> float cannot be called with these arguments: missing a required"),
        (plain, (1, 2, 3), {}, "too many positional arguments. It was not sent."),
        (plain, (1,), {"K": 2}, "unexpected keyword argument 'K'"),
        (plain, (1,), {"c": 2}, "multiple values for argument 'c'"),
        (named, (1,), {}, "a.f(c: float, *, k: int) -> float cannot be called"),
        (named, (1, 2), {}, "too many positional arguments"),
        (loose, (), {}, "missing a required"),
    ],
)
def test_what_does_not_fit_is_said_with_the_signature(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], said: str
) -> None:
    signature = CallSignature.of(function, label="a.f")
    assert signature is not None
    with pytest.raises(TypeError) as caught:
        signature.check(args, kwargs)
    assert said in str(caught.value)


def test_a_decorator_may_take_other_arguments_than_what_it_wraps() -> None:
    signature = CallSignature.of(gives_an_argument, label="a.f")
    assert signature is not None
    signature.check((), {})
    assert CallSignature.of(functools.lru_cache(plain), label="a.f") is None
    assert CallSignature.of(None, label="a.f") is None


def test_wrong_arguments_are_told_before_anything_is_sent(server: FakeServer, app: stoker.App) -> None:
    @app.function
    def add(a: int, b: int) -> int:
        return a + b

    @app.function
    def count(n: int) -> Iterator[int]:
        yield from range(n)

    serve(server, app)
    with app.run():
        ways: list[Callable[[], Any]] = [
            lambda: add.remote(1),  # type: ignore[call-arg]
            lambda: add.with_options(cpu=2).remote(1, 2, 3),  # type: ignore[call-arg]
            lambda: add.spawn(1, c=2),  # type: ignore[call-arg]
            lambda: add.map([1]),
            lambda: add.map.aio([1]),
            lambda: add.for_each([1]),
            lambda: add.spawn_map([1]),
            lambda: count.stream(),
            lambda: count.stream.aio(1, 2),
        ]
        for call in ways:
            with pytest.raises(TypeError, match=r"test\.(add|count)\(.*cannot be called with these arguments"):
                call()
        assert server.submits == []
        with pytest.raises(TypeError, match="missing a required argument: 'b'"):
            list(add.starmap([(1, 2), (1,)]))


async def test_wrong_arguments_are_told_in_a_loop_too(server: FakeServer, app: stoker.App) -> None:
    @app.function
    def add(a: int, b: int) -> int:
        return a + b

    serve(server, app)
    async with app.run():
        with pytest.raises(TypeError, match="cannot be called with these arguments"):
            await add.remote.aio(1)  # type: ignore[call-arg]
    assert server.submits == []
