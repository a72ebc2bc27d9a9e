"""What an endpoint may take and return beside plain values: the request itself, a response, an uploaded file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


class Headers(Mapping[str, str]):
    """The headers of a request, by names in whatever case; several of one name are joined by commas."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._values: dict[str, str] = {}
        for name, value in pairs:
            key = name.lower()
            self._values[key] = f"{self._values[key]}, {value}" if key in self._values else value

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self):  # type: ignore[no-untyped-def] # as of Mapping
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Headers({self._values!r})"


@dataclass(frozen=True)
class Request:
    """The HTTP request that an endpoint answers: for a parameter that is annotated with this type.

    ``path`` is what follows the endpoint's own address, ``query`` the text after the question mark.
    """

    method: str
    path: str
    query: str
    headers: Headers
    body: bytes
    client: str = ""  # the address of who asked


@dataclass(frozen=True)
class Response:
    """An answer with a status, headers and a media type of its own; ``body`` is bytes, or a text as UTF-8."""

    body: bytes | str = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str = ""


@dataclass(frozen=True)
class File:
    """An uploaded file: a part of a form, or a whole body. ``name`` is what the sender called it: never use it as a
    path."""

    content: bytes
    name: str = ""
    media_type: str = "application/octet-stream"
