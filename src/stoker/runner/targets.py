"""What a worker runs for a call: the function that its pool is of, or one of the methods of a class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from stoker.protocol.zygotes import ZygoteConfig
from stoker.types import BatchSpec


class Target(NamedTuple):
    """A callable, and how it is called: ``is_generator`` yields, ``is_async`` is awaited or iterated as such."""

    call: Callable[..., Any]
    is_generator: bool = False
    is_async: bool = False
    batch: BatchSpec | None = None  # it takes lists, of inputs of several calls


class Code(Protocol):
    """All that a pool's calls may run."""

    has_async: bool  # some of it is: its worker has an event loop

    def target(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Target, tuple[Any, ...], dict[str, Any]]:
        """Return what these arguments are for, and those that are its own."""


class FunctionCode:
    """The code of a pool of one function: all arguments are its own."""

    def __init__(self, config: ZygoteConfig, function: Callable[..., Any]) -> None:
        self.has_async = config.is_async
        self._target = Target(function, config.kind == "generator", config.is_async, config.batch)

    def target(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Target, tuple[Any, ...], dict[str, Any]]:
        return self._target, args, kwargs
