"""What a worker runs for a call: the function that its pool is of, or one of the methods of a class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from stoker.protocol.zygotes import ZygoteConfig
from stoker.types import BatchSpec, HealthSpec


class Target(NamedTuple):
    """A callable, and how it is called: ``is_generator`` yields, ``is_async`` is awaited or iterated as such."""

    call: Callable[..., Any]
    is_generator: bool = False
    is_async: bool = False
    batch: BatchSpec | None = None  # it takes lists, of inputs of several calls
    method: str = ""  # of a class


class Hook(NamedTuple):
    """What a class has run by itself, by the name of its method. It may return a coroutine."""

    name: str
    call: Callable[[], Any]


class Check(NamedTuple):
    """What a class has run to tell whether its worker is still good; see `stoker.runner.checks`."""

    name: str
    call: Callable[[], Any]
    spec: HealthSpec
    is_async: bool = False


class Code(Protocol):
    """All that a pool's calls may run."""

    has_async: bool  # some of it is: its worker has an event loop

    @property
    def enter_hooks(self) -> Sequence[Hook]:
        """Run when a worker begins."""

    @property
    def exit_hooks(self) -> Sequence[Hook]:
        """Run when a worker ends."""

    @property
    def check(self) -> Check | None:
        """Run every so often in between."""

    def target(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Target, tuple[Any, ...], dict[str, Any]]:
        """Return what these arguments are for, and those that are its own."""


class FunctionCode:
    """The code of a pool of one function: all arguments are its own."""

    enter_hooks: Sequence[Hook] = ()
    exit_hooks: Sequence[Hook] = ()
    check: Check | None = None

    def __init__(self, config: ZygoteConfig, function: Callable[..., Any]) -> None:
        self.has_async = config.is_async
        self._target = Target(function, config.kind == "generator", config.is_async, config.batch)

    def target(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Target, tuple[Any, ...], dict[str, Any]]:
        return self._target, args, kwargs
