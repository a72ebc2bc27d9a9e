"""The instance of a class in a process, and when its hooks run.

zygote   makes the instance and runs ``enter(snapshot=True)``, before it forks
worker   runs ``enter()`` before it connects, so before its first call, and ``exit()`` after its last

A worker that starts fresh does all of it.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from stoker.client.health import check_of
from stoker.client.lifecycle import ENTER, EXIT, hooks_of, make_instance
from stoker.errors import InvalidRequest, StartupError
from stoker.protocol.zygotes import ZygoteConfig
from stoker.runner.callables import Check, Hook, Target
from stoker.runner.loading import describe_failure
from stoker.types import ErrorInfo, MethodSpec

if TYPE_CHECKING:
    from stoker.runner.web_apps import Made


class HookFailed(Exception):
    """A hook raised something; ``error`` is what the callers of the class are told."""

    def __init__(self, error: ErrorInfo) -> None:
        super().__init__(error.message)
        self.error = error


class ClassCode:
    """The code of a pool of a class: a call's first argument names the method."""

    def __init__(self, config: ZygoteConfig, kind: Any) -> None:
        """Make the instance.

        Raises:
            StartupError: that is no class.
            BaseException: whatever its ``__init__`` raises.
        """
        if not isinstance(kind, type):
            raise StartupError(
                f"{config.label}: {config.code.qualname} is a class where it was called, and a {type(kind).__name__} "
                "when it is imported. Put @app.cls() before it, and let nothing else have its name.",
                function=config.label,
            )
        self.has_async = config.is_async
        self._label = config.label
        self._kind = kind
        self._instance = make_instance(kind, config.parameters)
        self._web_apps: list[Made] = []
        self._targets = {name: self._target(name, spec) for name, spec in config.methods.items()}

    def target(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Target, tuple[Any, ...], dict[str, Any]]:
        name = args[0] if args else ""
        found = self._targets.get(name) if isinstance(name, str) else None
        if found is None:
            known = ", ".join(self._targets)
            raise InvalidRequest(f"{self._label} has no method {name!r:.100} that can be called. It has: {known}.")
        return found, args[1:], kwargs

    def before_fork(self) -> None:
        """Run what is to run before workers are forked.

        Raises:
            HookFailed: one of them raised something.
        """
        for name in hooks_of(self._kind, ENTER, snapshot=True):
            try:
                getattr(self._instance, name)()
            except BaseException as error:  # SystemExit included, as with an import
                raise HookFailed(failed_hook(self._label, f"enter(snapshot=True) hook {name}()", error)) from error

    @property
    def enter_hooks(self) -> list[Hook]:
        own = [Hook(name, getattr(self._instance, name)) for name in hooks_of(self._kind, ENTER)]
        return own + [app.enter_hook for app in self._web_apps]

    @property
    def exit_hooks(self) -> list[Hook]:
        own = [Hook(name, getattr(self._instance, name)) for name in hooks_of(self._kind, EXIT)]
        return [app.exit_hook for app in self._web_apps] + own

    @property
    def check(self) -> Check | None:
        found = check_of(self._kind)
        if found is None:
            return None
        name, spec = found
        call = getattr(self._instance, name)
        return Check(name, call, spec, inspect.iscoroutinefunction(call))

    def _target(self, name: str, spec: MethodSpec) -> Target:
        call = getattr(self._instance, name, None)
        if not callable(call):
            raise StartupError(
                f"{self._label} has no method {name!r} when it is imported where its workers run. Is another version "
                "of its module installed there?",
                function=self._label,
            )
        if spec.web is not None and spec.web.app:
            from stoker.runner.web_apps import web_app  # most classes need none of it

            app = web_app(spec.web, call, label=f"{self._label}.{name}", method=name)
            self._web_apps.append(app)
            return app.target
        return Target(call, spec.kind == "generator", spec.is_async, spec.batch, name)


def failed_hook(label: str, what: str, error: BaseException) -> ErrorInfo:
    """Return what callers are told of a hook that raised something."""
    found = describe_failure(error)
    name = found.name
    message = f"{label}: its {what} raised {name}: {found.message}"
    if found.traceback:
        message += f"\n{found.traceback.rstrip()}"
    return ErrorInfo(StartupError.__name__, message, found.traceback, found.mro)
