"""Functions that make an app of ASGI or WSGI, or start a server: made when a worker begins, asked for each request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from stoker.errors import StartupError
from stoker.runner.callables import Hook, Target
from stoker.types import WebSpec


class WebApp(Protocol):
    """One app in a worker."""

    def start(self) -> Any:
        """Make it; what it returns may be a coroutine."""

    def stop(self) -> Any:
        """Tell it that the worker ends."""

    def serve(self, exchange: Any) -> Any:
        """Answer a request; returns the answer, or its last piece."""


class Made:
    """A web app as the code of a pool has it: when it is made and ended, and what its calls run."""

    def __init__(self, app: WebApp, what: str, *, is_async: bool, method: str = "") -> None:
        self.enter_hook = Hook(method, app.start, what)
        self.exit_hook = Hook(method, app.stop, f"{what} on its way out")
        self.target = Target(app.serve, is_async=is_async, method=method, is_exchange=True)


def web_app(spec: WebSpec, make: Callable[..., Any], *, label: str, method: str = "") -> Made:
    """Return what serves a function, or a method, that makes an app.

    Raises:
        StartupError: this version of Stoker knows no such apps.
    """
    if spec.app == "asgi":
        from stoker.runner.asgi import AsgiApp

        return Made(AsgiApp(make, label=label), "ASGI app", is_async=True, method=method)
    if spec.app == "wsgi":
        from stoker.runner.wsgi import WsgiApp

        return Made(WsgiApp(make, label=label), "WSGI app", is_async=False, method=method)
    if spec.app == "server":
        from stoker.runner.web_server import WebServer

        return Made(WebServer(make, spec.port, label=label), "web server", is_async=True, method=method)
    raise StartupError(f"{label}: {spec.app!r} is no kind of web app that is known here.", function=label)
