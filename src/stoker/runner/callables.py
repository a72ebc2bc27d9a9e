"""What of a user's code is called: for a call, and by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from stoker.types import BatchSpec, HealthSpec


class Target(NamedTuple):
    """A callable, and how it is called: ``is_generator`` yields, ``is_async`` is awaited or iterated as such."""

    call: Callable[..., Any]
    is_generator: bool = False
    is_async: bool = False
    batch: BatchSpec | None = None  # it takes lists, of inputs of several calls
    method: str = ""  # of a class
    is_exchange: bool = False  # it is given an exchange, and answers by that


class Hook(NamedTuple):
    """What is run by itself when a worker begins or ends. It may return a coroutine."""

    name: str
    call: Callable[[], Any]
    what: str = ""  # what it is called where it fails; empty for a class's hook


class Check(NamedTuple):
    """What a class has run to tell whether its worker is still good; see `stoker.runner.checks`."""

    name: str
    call: Callable[[], Any]
    spec: HealthSpec
    is_async: bool = False
