"""Programmable compute for machine learning, on hardware you own.

    import stoker

    app = stoker.App("digits")

    @app.function(image=stoker.Image.python("3.11").pip_install("scikit-learn"), cpu=1, memory="1GiB")
    def accuracy(c: float) -> float: ...

    with app.run():
        scores = list(accuracy.map([0.1, 1.0, 10.0]))

The names are loaded when they are first used: a server and a zygote import `stoker`, and need none of the client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stoker._version import __version__

if TYPE_CHECKING:
    from stoker import clusters as clusters
    from stoker.client.app import App, LocalEntrypoint
    from stoker.client.batches import Batch
    from stoker.client.call import Call, TimelineEntry, gather
    from stoker.client.call_info import CallInfo, call_info
    from stoker.client.classes import Cls
    from stoker.client.function import Function
    from stoker.client.gangs import Gang, GangInfo, gang_info
    from stoker.client.health import healthy
    from stoker.client.image import Image
    from stoker.client.lifecycle import enter, exit, method, parameter
    from stoker.client.notices import enable_output
    from stoker.client.options import FunctionOptions, Retries
    from stoker.client.web import asgi_app, endpoint, web_server, wsgi_app
    from stoker.errors import (
        CallCancelled,
        CallError,
        CallTimeout,
        ConnectionFailed,
        DeadlineExceeded,
        ImageBuildError,
        InterpreterNotFound,
        InvalidOption,
        InvalidRequest,
        NotFound,
        NotRunning,
        OutOfMemory,
        Overloaded,
        PermissionDenied,
        RateLimited,
        RemoteError,
        ResultExpired,
        SerializationError,
        StartupError,
        StokerError,
        StoreError,
        Unschedulable,
        VersionMismatch,
        WorkerLost,
    )
    from stoker.protocol.remote_value import RemoteValue
    from stoker.types import CallState
    from stoker.web.things import File, Request, Response

_PLACES = {
    "stoker.client.app": ("App", "LocalEntrypoint"),
    "stoker.client.batches": ("Batch",),
    "stoker.client.call": ("Call", "TimelineEntry", "gather"),
    "stoker.client.call_info": ("CallInfo", "call_info"),
    "stoker.client.classes": ("Cls",),
    "stoker.client.function": ("Function",),
    "stoker.client.gangs": ("Gang", "GangInfo", "gang_info"),
    "stoker.client.health": ("healthy",),
    "stoker.client.image": ("Image",),
    "stoker.client.lifecycle": ("enter", "exit", "method", "parameter"),
    "stoker.client.notices": ("enable_output",),
    "stoker.client.options": ("FunctionOptions", "Retries"),
    "stoker.client.web": ("asgi_app", "endpoint", "web_server", "wsgi_app"),
    "stoker.errors": (
        "CallCancelled",
        "CallError",
        "CallTimeout",
        "ConnectionFailed",
        "DeadlineExceeded",
        "ImageBuildError",
        "InterpreterNotFound",
        "InvalidOption",
        "InvalidRequest",
        "NotFound",
        "NotRunning",
        "OutOfMemory",
        "Overloaded",
        "PermissionDenied",
        "RateLimited",
        "RemoteError",
        "ResultExpired",
        "SerializationError",
        "StartupError",
        "StokerError",
        "StoreError",
        "Unschedulable",
        "VersionMismatch",
        "WorkerLost",
    ),
    "stoker.protocol.remote_value": ("RemoteValue",),
    "stoker.types": ("CallState",),
    "stoker.web.things": ("File", "Request", "Response"),
}
_MODULES = ("clusters",)  # public, and found here without an import of their own
_PLACE_OF = {name: module for module, names in _PLACES.items() for name in names}

__all__ = [
    "App",
    "Batch",
    "Call",
    "CallCancelled",
    "CallError",
    "CallInfo",
    "CallState",
    "CallTimeout",
    "Cls",
    "ConnectionFailed",
    "DeadlineExceeded",
    "File",
    "Function",
    "FunctionOptions",
    "Gang",
    "GangInfo",
    "Image",
    "ImageBuildError",
    "InterpreterNotFound",
    "InvalidOption",
    "InvalidRequest",
    "LocalEntrypoint",
    "NotFound",
    "NotRunning",
    "OutOfMemory",
    "Overloaded",
    "PermissionDenied",
    "RateLimited",
    "RemoteError",
    "RemoteValue",
    "Request",
    "Response",
    "ResultExpired",
    "Retries",
    "SerializationError",
    "StartupError",
    "StokerError",
    "StoreError",
    "TimelineEntry",
    "Unschedulable",
    "VersionMismatch",
    "WorkerLost",
    "__version__",
    "call_info",
    "enable_output",
    "asgi_app",
    "endpoint",
    "web_server",
    "wsgi_app",
    "enter",
    "exit",
    "gang_info",
    "gather",
    "healthy",
    "method",
    "parameter",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _MODULES:
        return import_module(f"stoker.{name}")
    module = _PLACE_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'stoker' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(module), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
