"""What a worker runs for a call: the function that its pool is of, or one of the methods of a class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from stoker.protocol.zygotes import ZygoteConfig
from stoker.runner.callables import Check, Hook, Target


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

    check: Check | None = None

    def __init__(self, config: ZygoteConfig, function: Callable[..., Any]) -> None:
        self.has_async = config.is_async
        self.enter_hooks: Sequence[Hook] = ()
        self.exit_hooks: Sequence[Hook] = ()
        self._target = Target(function, config.kind == "generator", config.is_async, config.batch)
        if config.web is not None and config.web.app:
            from stoker.runner.web_apps import web_app  # most functions need none of it

            app = web_app(config.web, function, label=config.label)
            self.enter_hooks, self.exit_hooks = [app.enter_hook], [app.exit_hook]
            self._target = app.target

    def target(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Target, tuple[Any, ...], dict[str, Any]]:
        return self._target, args, kwargs
