"""What has a function answer requests over HTTP: `endpoint`, `asgi_app`, `wsgi_app`, `web_server`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol, TypeVar, overload

from stoker.client.names import names_checked
from stoker.errors import InvalidOption
from stoker.quantities import parse_duration
from stoker.types import WebSpec
from stoker.web.answers import THE_SERVERS
from stoker.web.interface import Interface
from stoker.web.openapi import describe

F = TypeVar("F", bound="Callable[..., Any]")

MARK = "__stoker_web__"  # on a function: the `Endpoint` or `WebApp` that it was decorated with
TASKS_AT_ONCE = 100
THREADS_AT_ONCE = 16
PORT_MAX = 65535
RESUME_MAX_SECONDS = 3600.0
HTTP_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_HEADER = re.compile(r"[A-Za-z0-9-]+")


class EndpointDecorator(Protocol):
    """What ``@stoker.endpoint(…)`` returns: the function stays what it is."""

    def __call__(self, function: F, /) -> F: ...


@dataclass(frozen=True)
class Endpoint:
    """How a function is reached over HTTP, as it was stated."""

    method: str
    requires_token: bool
    cors: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    resume: float = 0.0

    def to_spec(
        self,
        function: Callable[..., Any],
        *,
        label: str,
        streams: bool,
        is_method: bool = False,
        is_batched: bool = False,
    ) -> WebSpec:
        """Return the checked form that travels, with what the page of its app says of it.

        Raises:
            InvalidOption: the function takes what no request could give, or an annotation means nothing.
        """
        if self.resume and not streams:
            raise InvalidOption(
                f"{label}: endpoint(resume=…) is for streams, which a generator makes; this function yields nothing."
            )
        if is_method:
            _check_self(function, label)
        try:
            interface = Interface(
                function, [self.method], label=label, is_method=is_method, is_batched=is_batched, runs_elsewhere=True
            )
        except InvalidOption as error:  # it is looked at when it is deployed, far from where it is written
            raise InvalidOption(f"{error}{_place(function)}") from None
        return WebSpec(
            methods=[self.method],
            requires_token=self.requires_token,
            cors=list(self.cors),
            headers=dict(self.headers),
            openapi=describe(function, interface, method=self.method, streams=streams),
            resume=self.resume,
        )


def _place(function: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f" It is written at {code.co_filename}:{code.co_firstlineno}." if code is not None else ""


def _check_self(function: Callable[..., Any], label: str) -> None:
    """Refuse a method that has forgotten its own object: the first argument of a request would be taken for that."""
    first = next(iter(inspect.signature(function).parameters), "")
    if first not in {"self", "this"} and not first.startswith("_"):
        shown = f"its first parameter is {first!r}" if first else "it takes nothing"
        raise InvalidOption(
            f"{label} is a method, and {shown}, where the object stands: write def {function.__name__}(self"
            f"{f', {first}' if first else ''})."
        )


@overload
def endpoint(function: F, /) -> F: ...
@overload
def endpoint(
    *,
    method: str = ...,
    requires_token: bool = ...,
    cors: Sequence[str] | str = ...,
    headers: Mapping[str, str] | None = ...,
    resume: str | float | timedelta | None = ...,
) -> EndpointDecorator: ...
@names_checked
def endpoint(
    function: Any = None,
    /,
    *,
    method: str = "POST",
    requires_token: bool = True,
    cors: Sequence[str] | str = (),
    headers: Mapping[str, str] | None = None,
    resume: str | float | timedelta | None = None,
) -> Any:
    """Have a function called over HTTP, at ``/<app>/<function>`` of the server that it is deployed to.

    With or without parentheses.

        @app.function()
        @stoker.endpoint()
        def predict(x: float, y: float = 0.0) -> float: ...

    A request's JSON becomes its arguments, by their annotations; what it returns is JSON. A generator streams.

    Args:
        method: of HTTP: GET and DELETE take arguments from the query, POST, PUT and PATCH from a body.
        requires_token: False lets anybody call it who reaches the server.
        cors: origins (``"https://example.org"``, or ``"*"``) whose pages may call it.
        headers: that each of its answers has besides.
        resume: for a generator, how long its stream waits for a client that has gone to come again with
            ``Last-Event-ID``, and go on at the next item: a duration up to an hour. Without it a client that hangs up
            ends the call.

    Raises:
        InvalidOption: one of them is malformed.
    """
    if not isinstance(method, str) or method.upper() not in HTTP_METHODS:
        raise InvalidOption(f"endpoint(method={method!r}) is none of {', '.join(HTTP_METHODS)}.")
    origins = _origins(cors, "endpoint")
    for name, value in (headers or {}).items():
        if not _HEADER.fullmatch(str(name)) or not isinstance(value, str) or re.search(r"[\r\n\0]", value):
            raise InvalidOption(f"endpoint(headers=…): {name!r}: {value!r} is no header of HTTP.")
        if name.lower() in THE_SERVERS | {"content-length"}:
            raise InvalidOption(f"endpoint(headers=…): {name!r} is the server's to set: it says where an answer ends.")
    waits = 0.0 if resume is None else parse_duration(resume, option="endpoint(resume)")
    if waits > RESUME_MAX_SECONDS:
        raise InvalidOption(
            f"endpoint(resume={resume!r}): a stream holds its place in a worker while it waits, an hour at most."
        )
    made = Endpoint(method.upper(), bool(requires_token), origins, dict(headers or {}), waits)
    return _marking(made, "endpoint", function)


@dataclass(frozen=True)
class WebApp:
    """A function that makes what answers requests, as it was stated. ``kind``: ``asgi`` · ``wsgi`` · ``server``."""

    kind: str
    requires_token: bool
    cors: tuple[str, ...] = ()
    port: int = 0

    @property
    def is_async(self) -> bool:
        return self.kind != "wsgi"

    @property
    def concurrency(self) -> int:
        """How many requests a worker answers at once where nothing else is said."""
        return TASKS_AT_ONCE if self.is_async else THREADS_AT_ONCE

    def to_spec(
        self,
        function: Callable[..., Any],
        *,
        label: str,
        streams: bool,
        is_method: bool = False,
        is_batched: bool = False,
    ) -> WebSpec:
        """Return the checked form that travels.

        Raises:
            InvalidOption: the function takes what nobody could give it, or is none that returns an app.
        """
        name = f"{self.kind}_app" if self.kind != "server" else "web_server"
        if streams or is_batched:
            what = "yields" if streams else "takes batches"
            raise InvalidOption(
                f"{label} {what}; a function under @stoker.{name}() makes the app, once, and returns it."
            )
        parameters = list(inspect.signature(function).parameters.values())[1 if is_method else 0 :]
        given = {"port"} if self.kind == "server" else set()
        needed = [p.name for p in parameters if p.default is p.empty and p.name not in given and not _is_rest(p)]
        if needed:
            raise InvalidOption(
                f"{label}: a function under @stoker.{name}() is called once, as a worker begins, without arguments; "
                f"nobody could give it {needed[0]!r}."
            )
        if self.kind == "server" and not self.port and "port" not in {p.name for p in parameters}:
            raise InvalidOption(
                f"{label}: where does its server listen? Have it take the port that Stoker finds, as in def "
                f"{function.__name__}(port), or name one: @stoker.web_server(port=8000)."
            )
        return WebSpec(
            methods=[*HTTP_METHODS, "HEAD", "OPTIONS"],
            requires_token=self.requires_token,
            cors=list(self.cors),
            app=self.kind,
            port=self.port,
        )


def _is_rest(parameter: inspect.Parameter) -> bool:
    return parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}


@overload
def asgi_app(function: F, /) -> F: ...
@overload
def asgi_app(*, requires_token: bool = ..., cors: Sequence[str] | str = ...) -> EndpointDecorator: ...
@names_checked
def asgi_app(function: Any = None, /, *, requires_token: bool = True, cors: Sequence[str] | str = ()) -> Any:
    """Have an ASGI app (FastAPI, Starlette, …) answer all requests below ``/<app>/<function>``, and its WebSockets.

        @app.function()
        @stoker.asgi_app()
        def site():
            return FastAPI()

    The function is called once, as a worker begins, in its environment; it may be async. A worker answers 100 requests
    at once unless ``concurrency=`` says otherwise.

    Args:
        requires_token: False lets anybody ask it who reaches the server, and leaves ``Authorization`` to the app.
        cors: origins whose pages may ask it, as of `endpoint`; an app that deals with that itself leaves it out.

    Raises:
        InvalidOption: one of them is malformed.
    """
    return _marking(WebApp("asgi", bool(requires_token), _origins(cors, "asgi_app")), "asgi_app", function)


@overload
def wsgi_app(function: F, /) -> F: ...
@overload
def wsgi_app(*, requires_token: bool = ..., cors: Sequence[str] | str = ...) -> EndpointDecorator: ...
@names_checked
def wsgi_app(function: Any = None, /, *, requires_token: bool = True, cors: Sequence[str] | str = ()) -> Any:
    """Have a WSGI app (Flask, Django, …) answer all requests below ``/<app>/<function>``; as `asgi_app`.

    Its requests run in threads, 16 at once in a worker unless ``concurrency=`` says otherwise.
    """
    return _marking(WebApp("wsgi", bool(requires_token), _origins(cors, "wsgi_app")), "wsgi_app", function)


@overload
def web_server(function: F, /) -> F: ...
@overload
def web_server(
    *, port: int | None = ..., requires_token: bool = ..., cors: Sequence[str] | str = ...
) -> EndpointDecorator: ...
@names_checked
def web_server(
    function: Any = None,
    /,
    *,
    port: int | None = None,
    requires_token: bool = True,
    cors: Sequence[str] | str = (),
) -> Any:
    """Have a server that the function starts answer all requests below ``/<app>/<function>``, in whatever language.

        @app.function()
        @stoker.web_server()
        def files(port: int):
            return subprocess.Popen(["python3", "-m", "http.server", str(port)])

    The function is called once, as a worker begins, and returns when it has started the server; the worker takes
    requests once that listens, on 127.0.0.1, which has ``startup_timeout=``. If it returns the `subprocess.Popen`, that
    is watched, and ended with the worker. Requests reach it without the path of the function, which is in
    ``X-Forwarded-Prefix``.

    Args:
        port: where it will listen; left out, each worker finds a free one, and passes it as ``port`` and in ``PORT``.
        requires_token: as of `asgi_app`.
        cors: as of `asgi_app`.

    Raises:
        InvalidOption: one of them is malformed.
    """
    if port is not None and (not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= PORT_MAX):
        raise InvalidOption(f"web_server(port={port!r}) is no port from 1 to {PORT_MAX}.")
    made = WebApp("server", bool(requires_token), _origins(cors, "web_server"), port or 0)
    return _marking(made, "web_server", function)


def _origins(cors: Sequence[str] | str, name: str) -> tuple[str, ...]:
    origins = (cors,) if isinstance(cors, str) else tuple(cors)
    for origin in origins:
        if origin != "*" and not re.fullmatch(r"https?://[^/\s,]+", str(origin)):
            raise InvalidOption(f'{name}(cors=…): {origin!r} is no origin. Write "https://host", or "*" for all.')
    return origins


def _marking(made: Endpoint | WebApp, name: str, function: Any) -> Any:
    """Return the decorator; where it stood without parentheses, the ``function`` that it has marked."""

    def mark(function: F) -> F:
        if not callable(function) or hasattr(function, "raw_f"):
            raise InvalidOption(
                f"@stoker.{name}(…) stands below @app.function(…), right above the function: it is the other way "
                "about here."
            )
        if hasattr(function, MARK):
            raise InvalidOption(f"@stoker.{name}(…): the function is reached over HTTP in another way already.")
        setattr(function, MARK, made)
        return function

    return mark if function is None else mark(function)


def endpoint_of(function: Callable[..., Any]) -> Endpoint | WebApp | None:
    """Return what a function was decorated with, if it was."""
    found = getattr(function, MARK, None)
    return found if isinstance(found, (Endpoint, WebApp)) else None


def web_spec(function: Callable[..., Any], *, label: str, streams: bool, is_batched: bool = False) -> WebSpec | None:
    """Return how a function is reached over HTTP; None where it is not."""
    made = endpoint_of(function)
    return None if made is None else made.to_spec(function, label=label, streams=streams, is_batched=is_batched)


def web_app_of(function: Callable[..., Any]) -> WebApp | None:
    """Return how a function makes a web app, if it does."""
    found = endpoint_of(function)
    return found if isinstance(found, WebApp) else None
