"""The ways to call a function that runs elsewhere: each a small object with `__call__` and its async twin `aio`.

They are written out as types, so that editors and type checkers see both: an ``async def`` function's value is what
``remote`` returns, an item of a generator is what ``stream`` yields.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Coroutine, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, TypeVar, cast, overload

from stoker.client.call import Call, spawn, spawn_many
from stoker.client.calls import error_of
from stoker.client.frames import trimmed
from stoker.client.mailbox import LoopBell, LoopSlot, mailbox
from stoker.client.map import AsyncMapResults, MapResults, MapRun, length_of, zipped
from stoker.client.stream import AsyncStreamResults, StreamResults, StreamRun
from stoker.protocol.payload import decode
from stoker.types import Outcome

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    from stoker.client.function import Function
else:
    from typing import ParamSpec

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")


class _Method(Generic[P, R_co]):
    """One way to call a function; ``aio`` is its twin for event loops."""

    __slots__ = ("_function",)

    def __init__(self, function: Function[P, R_co]) -> None:
        self._function = function


class RemoteMethod(_Method[P, R_co]):
    """``f.remote(x)`` and ``await f.remote.aio(x)``."""

    __slots__ = ()

    @overload
    def __call__(self: RemoteMethod[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T: ...
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function there and return its value.

        Raises:
            BaseException: the function's own exception, the remote traceback attached as its cause.
            StokerError: the call ended otherwise; see `stoker.errors.CallError`.
        """
        function = self._function
        function.check_arguments(args, kwargs)
        session, route = function.route("remote")
        call_id, settled = session.call(route, args, kwargs)
        if settled.outcome != Outcome.VALUE:
            raise trimmed(error_of(settled, call_id=call_id, label=route.label))
        return decode(settled.data)

    @overload
    async def aio(self: RemoteMethod[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T: ...
    @overload
    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    async def aio(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function there and return its value; cancelling the task cancels the call."""
        function = self._function
        function.check_arguments(args, kwargs)
        session, route = await function.route_async("remote")
        box = mailbox()
        slot = LoopSlot(box)
        pending = session.pending(route, slot, args, kwargs)
        box.submit(session, pending)
        try:
            settled = await slot.future
        except asyncio.CancelledError:
            session.cancel([pending])
            raise
        if settled.printed:
            await asyncio.to_thread(session.await_output)
        if settled.outcome != Outcome.VALUE:
            raise trimmed(error_of(settled, call_id=pending.id, label=route.label))
        return decode(settled.data)


class MapMethod(_Method[P, R_co]):
    """``f.map(xs)`` and ``async for r in f.map.aio(xs)``."""

    __slots__ = ()

    @overload
    def __call__(
        self: MapMethod[P, Coroutine[Any, Any, T]],
        inputs: Iterable[Any],
        /,
        *more: Iterable[Any],
        ordered: bool = ...,
        return_exceptions: Literal[False] = ...,
    ) -> MapResults[T]: ...
    @overload
    def __call__(
        self,
        inputs: Iterable[Any],
        /,
        *more: Iterable[Any],
        ordered: bool = ...,
        return_exceptions: Literal[False] = ...,
    ) -> MapResults[R_co]: ...
    @overload
    def __call__(
        self,
        inputs: Iterable[Any],
        /,
        *more: Iterable[Any],
        ordered: bool = ...,
        return_exceptions: bool,
    ) -> MapResults[R_co | BaseException]: ...
    def __call__(
        self,
        inputs: Iterable[Any],
        /,
        *more: Iterable[Any],
        ordered: bool = True,
        return_exceptions: bool = False,
        **named: Any,
    ) -> MapResults[Any]:
        """Call the function with each input and yield the results, in the inputs' order unless ``ordered`` is off.

        Inputs are pulled lazily, several iterables are zipped, memory stays bounded. The first error ends the map and
        cancels the rest, unless exceptions are returned in place of results.
        """
        _check_inputs(self._function, "map", (inputs, *more), named)
        return _map(
            self._function,
            "map",
            zipped(inputs, more),
            ordered=ordered,
            return_exceptions=return_exceptions,
            total=length_of(inputs, *more),
        )

    def aio(
        self,
        inputs: Iterable[Any] | AsyncIterable[Any],
        /,
        *more: Iterable[Any],
        ordered: bool = True,
        return_exceptions: bool = False,
        **named: NoReturn,
    ) -> AsyncIterator[Any]:
        """Yield the results of the function for each input, for an event loop."""
        _check_inputs(self._function, "map", (inputs, *more), named)
        source: Any = _fed(inputs) if isinstance(inputs, AsyncIterable) else inputs
        total = length_of(inputs, *more)
        return _map_async(
            self._function,
            "map",
            zipped(source, more),
            ordered=ordered,
            return_exceptions=return_exceptions,
            total=total,
        )


class StarmapMethod(_Method[P, R_co]):
    """``f.starmap(tuples)`` and ``async for r in f.starmap.aio(tuples)``."""

    __slots__ = ()

    @overload
    def __call__(
        self: StarmapMethod[P, Coroutine[Any, Any, T]],
        inputs: Iterable[Iterable[Any]],
        /,
        *,
        ordered: bool = ...,
        return_exceptions: bool = ...,
    ) -> MapResults[T]: ...
    @overload
    def __call__(
        self, inputs: Iterable[Iterable[Any]], /, *, ordered: bool = ..., return_exceptions: bool = ...
    ) -> MapResults[R_co]: ...
    def __call__(
        self, inputs: Iterable[Iterable[Any]], /, *, ordered: bool = True, return_exceptions: bool = False
    ) -> MapResults[Any]:
        """Call the function with each tuple of arguments and yield the results; see `map`."""
        _check_inputs(self._function, "starmap", (inputs,), {})
        return _map(
            self._function,
            "starmap",
            _checked(self._function, inputs),
            ordered=ordered,
            return_exceptions=return_exceptions,
            total=length_of(inputs),
        )

    def aio(
        self, inputs: Iterable[Iterable[Any]], /, *, ordered: bool = True, return_exceptions: bool = False
    ) -> AsyncIterator[Any]:
        """Yield the results of the function for each tuple of arguments, for an event loop."""
        _check_inputs(self._function, "starmap", (inputs,), {})
        total = length_of(inputs)
        return _map_async(
            self._function,
            "starmap",
            _checked(self._function, inputs),
            ordered=ordered,
            return_exceptions=return_exceptions,
            total=total,
        )


class ForEachMethod(_Method[P, R_co]):
    """``f.for_each(xs)`` and ``await f.for_each.aio(xs)``."""

    __slots__ = ()

    def __call__(
        self, inputs: Iterable[Any], /, *more: Iterable[Any], ignore_exceptions: bool = False, **named: NoReturn
    ) -> None:
        """Call the function with each input and drop what it returns; returns when all have finished."""
        _check_inputs(self._function, "for_each", (inputs, *more), named)
        total = length_of(inputs, *more)
        for _ in _map(
            self._function,
            "for_each",
            zipped(inputs, more),
            ordered=False,
            return_exceptions=ignore_exceptions,
            total=total,
        ):
            pass

    async def aio(
        self, inputs: Iterable[Any], /, *more: Iterable[Any], ignore_exceptions: bool = False, **named: NoReturn
    ) -> None:
        """Call the function with each input and drop what it returns."""
        _check_inputs(self._function, "for_each", (inputs, *more), named)
        total = length_of(inputs, *more)
        async for _ in _map_async(
            self._function,
            "for_each",
            zipped(inputs, more),
            ordered=False,
            return_exceptions=ignore_exceptions,
            total=total,
        ):
            pass


class StreamMethod(_Method[P, R_co]):
    """``for item in f.stream(x)`` and ``async for item in f.stream.aio(x)``."""

    __slots__ = ()

    @overload
    def __call__(self: StreamMethod[P, Iterator[T]], *args: P.args, **kwargs: P.kwargs) -> StreamResults[T]: ...
    @overload
    def __call__(self: StreamMethod[P, AsyncIterator[T]], *args: P.args, **kwargs: P.kwargs) -> StreamResults[T]: ...
    @overload
    def __call__(self: StreamMethod[P, Iterable[T]], *args: P.args, **kwargs: P.kwargs) -> StreamResults[T]: ...
    @overload
    def __call__(self: StreamMethod[..., Any], *args: Any, **kwargs: Any) -> StreamResults[Any]: ...
    def __call__(self, *args: Any, **kwargs: Any) -> StreamResults[Any]:
        """Run the generator there and yield its items as they come; closing the iterator stops it there.

        The generator is at most 64 items ahead of its reader.
        """
        function = self._function
        function.check_arguments(args, kwargs)
        session, route = function.route("stream")
        return StreamResults(StreamRun(session, route, args, kwargs))

    @overload
    def aio(self: StreamMethod[P, Iterator[T]], *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]: ...
    @overload
    def aio(self: StreamMethod[P, AsyncIterator[T]], *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]: ...
    @overload
    def aio(self: StreamMethod[P, Iterable[T]], *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]: ...
    @overload
    def aio(self: StreamMethod[..., Any], *args: Any, **kwargs: Any) -> AsyncIterator[Any]: ...
    def aio(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """Run the generator there and yield its items, for an event loop."""
        self._function.check_arguments(args, kwargs)
        return _stream_async(self._function, args, kwargs)


class SpawnMethod(_Method[P, R_co]):
    """``f.spawn(x)`` and ``await f.spawn.aio(x)``."""

    __slots__ = ()

    @overload
    def __call__(self: SpawnMethod[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> Call[T]: ...
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Call[R_co]: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Call[Any]:
        """Make a call that goes on by itself and return its future, once the call is safe with the server.

        Raises:
            Overloaded: the function's queue is full.
        """
        self._function.check_arguments(args, kwargs)
        session, route = self._function.route("spawn")
        return spawn(session, route, args, kwargs)

    @overload
    async def aio(self: SpawnMethod[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> Call[T]: ...
    @overload
    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> Call[R_co]: ...
    async def aio(self, *args: Any, **kwargs: Any) -> Call[Any]:
        """Make a call that goes on by itself and return its future."""
        return cast("Call[Any]", await asyncio.to_thread(self._function.spawn, *args, **kwargs))


class SpawnMapMethod(_Method[P, R_co]):
    """``f.spawn_map(xs)`` and ``await f.spawn_map.aio(xs)``."""

    __slots__ = ()

    @overload
    def __call__(
        self: SpawnMapMethod[P, Coroutine[Any, Any, T]], inputs: Iterable[Any], /, *more: Iterable[Any]
    ) -> list[Call[T]]: ...
    @overload
    def __call__(self, inputs: Iterable[Any], /, *more: Iterable[Any]) -> list[Call[R_co]]: ...
    def __call__(self, inputs: Iterable[Any], /, *more: Iterable[Any], **named: Any) -> list[Call[Any]]:
        """Make a call that goes on by itself for each input and return their futures; waits while the queue is full."""
        _check_inputs(self._function, "spawn_map", (inputs, *more), named)
        session, route = self._function.route("spawn_map")
        return spawn_many(session, route, zipped(inputs, more))

    async def aio(self, inputs: Iterable[Any], /, *more: Iterable[Any]) -> list[Call[Any]]:
        """Make a call that goes on by itself for each input and return their futures."""
        return cast("list[Call[Any]]", await asyncio.to_thread(self._function.spawn_map, inputs, *more))


def _check_inputs(
    function: Function[..., Any], method: str, inputs: tuple[Any, ...], named: Mapping[str, object]
) -> None:
    what = f"{function.name}.{method}"
    if named:
        names = ", ".join(named)
        raise TypeError(f"{what} has no option {names}. Give several iterables by position: {what}(xs, ys).")
    for one in inputs:
        if not isinstance(one, (Iterable, AsyncIterable)) and not hasattr(one, "__getitem__"):
            raise TypeError(f"{what} takes iterables, got {type(one).__name__}.")
    if method != "starmap":
        try:
            function.check_count(len(inputs))
        except TypeError as error:
            hint = f" Inputs that are tuples of arguments go to {function.name}.starmap(…)." if len(inputs) == 1 else ""
            raise TypeError(f"{error}{hint}") from None


def _checked(function: Function[..., Any], inputs: Iterable[Iterable[Any]]) -> Iterator[tuple[Any, ...]]:
    """Yield the tuples of a starmap, as far as the function can be called with them."""
    for given in inputs:
        args = tuple(given)
        function.check_count(len(args))
        yield args


def _map(
    function: Function[..., Any],
    method: str,
    inputs: Iterator[tuple[Any, ...]],
    *,
    ordered: bool,
    return_exceptions: bool,
    total: int | None,
) -> MapResults[Any]:
    session, route = function.route(method)
    run = MapRun(session, route, inputs, ordered=ordered, return_exceptions=return_exceptions, total=total)
    return MapResults(run)


async def _map_async(
    function: Function[..., Any],
    method: str,
    inputs: Iterator[tuple[Any, ...]],
    *,
    ordered: bool,
    return_exceptions: bool,
    total: int | None,
) -> AsyncIterator[Any]:
    session, route = await function.route_async(method)
    bell = LoopBell()
    run = MapRun(session, route, inputs, ordered=ordered, return_exceptions=return_exceptions, bell=bell, total=total)
    results: AsyncMapResults[Any] = AsyncMapResults(run, bell, session)
    try:
        async for result in results:
            yield result
    finally:
        run.close()


async def _stream_async(
    function: Function[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> AsyncIterator[Any]:
    session, route = await function.route_async("stream")
    bell = LoopBell()
    run = StreamRun(session, route, args, kwargs, bell=bell)
    results: AsyncStreamResults[Any] = AsyncStreamResults(run, bell, session)
    try:
        async for item in results:
            yield item
    finally:
        run.close()


def _fed(inputs: AsyncIterable[T]) -> Iterator[T]:
    """Pull an async iterable on its own loop, from the feeder's thread."""
    loop = asyncio.get_running_loop()
    iterator = inputs.__aiter__()

    async def pull() -> tuple[bool, Any]:
        try:
            return True, await iterator.__anext__()
        except StopAsyncIteration:
            return False, None

    def feed() -> Iterator[T]:
        while True:
            more, item = asyncio.run_coroutine_threadsafe(pull(), loop).result()
            if not more:
                return
            yield item

    return feed()
