"""`endpoint`: what makes a function one that is called over HTTP."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from stoker.errors import InvalidOption
from stoker.types import WebSpec
from stoker.web.interface import Interface
from stoker.web.openapi import describe

F = TypeVar("F", bound="Callable[..., Any]")

MARK = "__stoker_web__"  # on a function: the `Endpoint` that it was decorated with
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
            InvalidOption: the function takes what no request could give.
        """
        interface = Interface(function, [self.method], label=label, is_method=is_method, is_batched=is_batched)
        return WebSpec(
            methods=[self.method],
            requires_token=self.requires_token,
            cors=list(self.cors),
            headers=dict(self.headers),
            openapi=describe(function, interface, method=self.method, streams=streams),
        )


def endpoint(
    *,
    method: str = "POST",
    requires_token: bool = True,
    cors: Sequence[str] | str = (),
    headers: Mapping[str, str] | None = None,
) -> EndpointDecorator:
    """Have a function called over HTTP, at ``/<app>/<function>`` of the server that it is deployed to.

        @app.function()
        @stoker.endpoint()
        def predict(x: float, y: float = 0.0) -> float: ...

    A request's JSON becomes its arguments, by their annotations; what it returns is JSON. A generator streams.

    Args:
        method: of HTTP: GET and DELETE take arguments from the query, POST, PUT and PATCH from a body.
        requires_token: False lets anybody call it who reaches the server.
        cors: origins (``"https://example.org"``, or ``"*"``) whose pages may call it.
        headers: that each of its answers has besides.

    Raises:
        InvalidOption: one of them is malformed.
    """
    if not isinstance(method, str) or method.upper() not in HTTP_METHODS:
        raise InvalidOption(f"endpoint(method={method!r}) is none of {', '.join(HTTP_METHODS)}.")
    origins = (cors,) if isinstance(cors, str) else tuple(cors)
    for origin in origins:
        if origin != "*" and not re.fullmatch(r"https?://[^/\s,]+", str(origin)):
            raise InvalidOption(f'endpoint(cors=…): {origin!r} is no origin. Write "https://host", or "*" for all.')
    for name, value in (headers or {}).items():
        if not _HEADER.fullmatch(str(name)) or not isinstance(value, str) or re.search(r"[\r\n\0]", value):
            raise InvalidOption(f"endpoint(headers=…): {name!r}: {value!r} is no header of HTTP.")
    made = Endpoint(method.upper(), bool(requires_token), origins, dict(headers or {}))

    def mark(function: F) -> F:
        if not callable(function) or hasattr(function, "raw_f"):
            raise InvalidOption(
                "@stoker.endpoint(…) stands below @app.function(…), right above the function: it is the other way "
                "about here."
            )
        setattr(function, MARK, made)
        return function

    return mark


def endpoint_of(function: Callable[..., Any]) -> Endpoint | None:
    """Return what a function was decorated with, if it was."""
    found = getattr(function, MARK, None)
    return found if isinstance(found, Endpoint) else None


def web_spec(function: Callable[..., Any], *, label: str, streams: bool, is_batched: bool = False) -> WebSpec | None:
    """Return how a function is reached over HTTP; None where it is not."""
    made = endpoint_of(function)
    return None if made is None else made.to_spec(function, label=label, streams=streams, is_batched=is_batched)
