"""An instance of a class in this process, for calls that run here: its enter hooks have run once, its exit hooks will.

Hooks that are coroutines run on the loop of the first async method that is called, or on one of their own.
"""

from __future__ import annotations

import asyncio
import atexit
import inspect
import sys
import threading
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from stoker.client.lifecycle import ENTER, EXIT, hooks_of, make_instance


class Here:
    """See the module."""

    def __init__(self, kind: type | None, parameters: dict[str, Any], *, label: str) -> None:
        self._kind = kind
        self._parameters = parameters
        self._label = label
        self._lock = threading.RLock()
        self._made: Any = None
        self._left: list[str] = []  # enter hooks that have not run yet
        self._entering: asyncio.Lock | None = None

    def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, batched: bool) -> Any:
        """Call a method; of an async one return its coroutine, or its async generator."""
        assert self._kind is not None
        function = inspect.unwrap(getattr(self._kind, name))
        if batched:
            args, kwargs = _listed(args, kwargs)
        if inspect.isasyncgenfunction(function):
            return self._generate(name, args, kwargs)
        if inspect.iscoroutinefunction(function):
            return self._await(name, args, kwargs, batched=batched)
        result = getattr(self._entered(), name)(*args, **kwargs)
        return only_one(result, label=f"{self._label}.{name}") if batched else result

    async def _await(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, batched: bool) -> Any:
        result = await getattr(await self._entered_async(), name)(*args, **kwargs)
        return only_one(result, label=f"{self._label}.{name}") if batched else result

    async def _generate(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> AsyncIterator[Any]:
        async for item in getattr(await self._entered_async(), name)(*args, **kwargs):
            yield item

    def _entered(self) -> Any:
        with self._lock:
            made = self._instance()
            while self._left:
                outcome = getattr(made, self._left[0])()
                if inspect.iscoroutine(outcome):
                    _run(outcome)
                del self._left[0]
            return made

    async def _entered_async(self) -> Any:
        with self._lock:
            made = self._instance()
            entering = self._entering = self._entering or asyncio.Lock()
        if self._left:
            async with entering:
                while self._left:
                    outcome = getattr(made, self._left[0])()
                    if inspect.iscoroutine(outcome):
                        await outcome
                    del self._left[0]
        return made

    def _instance(self) -> Any:
        if self._made is None:
            kind = self._kind
            assert kind is not None
            self._made = make_instance(kind, self._parameters)
            self._left = [*hooks_of(kind, ENTER, snapshot=True), *hooks_of(kind, ENTER)]
            if any(hooks_of(kind, EXIT)):
                atexit.register(self.leave)
        return self._made

    def leave(self) -> None:
        """Run the exit hooks of the instance, if one was made; the next call makes another."""
        atexit.unregister(self.leave)
        with self._lock:
            made, self._made, self._entering = self._made, None, None
        if made is None:
            return
        for name in hooks_of(type(made), EXIT):
            try:
                outcome = getattr(made, name)()
                if inspect.iscoroutine(outcome):
                    _run(outcome)
            except Exception:  # noqa: BLE001 - the next hook is not to suffer for this one
                sys.excepthook(*sys.exc_info())


def only_one(result: Any, *, label: str) -> Any:
    """Return the one item of what a batched method returned for one."""
    if not isinstance(result, list) or len(result) != 1:
        shown = f"{len(result)} items" if isinstance(result, list) else f"a {type(result).__name__}"
        raise ValueError(f"{label} takes lists and returns lists of the same length: for 1 item it returned {shown}.")
    return result[0]


def _listed(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tuple([one] for one in args), {name: [one] for name, one in kwargs.items()}


def _run(outcome: Coroutine[Any, Any, Any]) -> None:
    """Run a coroutine to its end, whether or not a loop runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(outcome)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="stoker-hook") as aside:
        aside.submit(asyncio.run, outcome).result()
