"""What an endpoint may take and return beside plain values: the request itself, a response, an uploaded file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from io import SEEK_CUR, SEEK_END, SEEK_SET, BufferedReader, RawIOBase
from os import PathLike
from typing import Any, BinaryIO

from stoker.protocol.encoded import Buffer


class Headers(Mapping[str, str]):
    """The headers of a request, by names in whatever case; several of one name are joined by commas."""

    def __init__(self, pairs: list[tuple[str, str]] | Callable[[], list[tuple[str, str]]]) -> None:
        """``pairs``: or what returns them, once somebody wants to know: most functions do not."""
        self._pairs = pairs
        self._read: dict[str, str] | None = None

    @property
    def _values(self) -> dict[str, str]:
        if self._read is None:
            values: dict[str, str] = {}
            self._read = values
            for name, value in self._pairs() if callable(self._pairs) else self._pairs:
                key = name.lower()
                values[key] = f"{values[key]}, {value}" if key in values else value
        return self._read

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Headers({self._values!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Headers, (list(self._values.items()),)


class _Bytes:
    """What came as bytes, perhaps in a file that is mapped: read where it lies, or copied when it is asked for."""

    def __init__(self, data: Buffer) -> None:
        self._view = memoryview(data).toreadonly().cast("B")

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return len(self._view)

    @property
    def view(self) -> memoryview:
        """The bytes, not copied."""
        return self._view

    def open(self) -> BinaryIO:
        """Return a file to read it from, a piece at a time, without a copy of all of it."""
        return BufferedReader(_Reader(self._view))

    def save(self, path: str | PathLike[str]) -> None:
        """Write it to a file of this name, which replaces one that is there."""
        with open(path, "wb") as file:  # noqa: PTH123 - a path of whatever kind
            file.write(self._view)


class Request(_Bytes):
    """The HTTP request that an endpoint answers: for a parameter that is annotated with this type.

    ``path`` is what follows the endpoint's own address, ``query`` the text after the question mark, ``client`` the
    address of who asked. A big ``body`` is copied each time that it is asked for: `open` reads it where it lies.
    """

    def __init__(
        self,
        method: str,
        path: str,
        query: str,
        headers: Headers,
        body: Buffer = b"",
        *,
        client: str = "",
        content_type: str | None = None,
    ) -> None:
        """``content_type``: what the headers say of it, where that is known without reading them."""
        super().__init__(body)
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.client = client
        self._content_type = content_type

    @property
    def content_type(self) -> str:
        """What the body is, as the header says; empty where it does not."""
        return self.headers.get("content-type", "") if self._content_type is None else self._content_type

    @property
    def body(self) -> bytes:
        """All of the body."""
        return bytes(self._view)

    def __repr__(self) -> str:
        return f"Request({self.method} {self.path!r}, {self.size} bytes)"


@dataclass(frozen=True)
class Response:
    """An answer with a status, headers and a media type of its own.

    ``body`` is bytes, a text as UTF-8, None for nothing, or whatever else has a form in JSON.
    """

    body: Any = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str = ""


class File(_Bytes):
    """An uploaded file: a part of a form, or a whole body. ``name`` is what the sender called it: never use it as a
    path. A big one's ``content`` is copied each time that it is asked for: `open` reads it where it lies."""

    def __init__(self, content: Buffer, name: str = "", media_type: str = "application/octet-stream") -> None:
        super().__init__(content)
        self.name = name
        self.media_type = media_type

    @property
    def content(self) -> bytes:
        """All of it."""
        return bytes(self._view)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, File):
            return NotImplemented
        return (self._view, self.name, self.media_type) == (other._view, other.name, other.media_type)

    def __hash__(self) -> int:
        return hash((self.size, self.name, self.media_type))

    def __repr__(self) -> str:
        return f"File({self.name!r}, {self.media_type}, {self.size} bytes)"

    def __reduce__(self) -> tuple[Any, ...]:
        return File, (self.content, self.name, self.media_type)


class _Reader(RawIOBase):
    def __init__(self, view: memoryview) -> None:
        super().__init__()
        self._view = view
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), len(self._view) - self._at)
        buffer[:count] = self._view[self._at : self._at + count]
        self._at += count
        return count

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        start = {SEEK_SET: 0, SEEK_CUR: self._at, SEEK_END: len(self._view)}[whence]
        if not start + offset >= 0:
            raise ValueError(f"there is no byte {start + offset}")
        self._at = min(start + offset, len(self._view))
        return self._at

    def tell(self) -> int:
        return self._at
