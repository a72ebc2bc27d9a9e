"""The heads of plain requests, each worked out once for all requests that have the same: clients repeat themselves.

Of most requests of a connection nothing in the head differs, so what it says is looked at once: where it leads, how
long the body is, and what the function is to see of it. What is in doubt with each request anew (who may come in, when
the answer is due) is none of this, and where it leads only until something is deployed.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

import httptools
import msgspec

from stoker.protocol.web_calls import request_line
from stoker.server.gateway.routing import Route
from stoker.server.gateway.shedding import Key, Shedding
from stoker.server.gateway.tracked import PARENT, REQUEST_ID, STATE

BODY_BYTES = 256 << 10  # of a request: a bigger one is written to a file as it comes
KEPT_BYTES = 3072  # of a head that is remembered, on the wire and for its headers: what is kept is a few times that
HEADER_BYTES = 100  # for each, however short it is
KEPT_HEADS = 512
_LEFT = frozenset(
    {
        *(b"origin", b"prefer", b"idempotency-key", b"last-event-id", b"x-stoker-callback", b"x-stoker-version"),
        *(b"expect", b"transfer-encoding", b"upgrade"),
    }
)  # a request that says one of these is not plain
_IDS = frozenset({REQUEST_ID, PARENT, STATE})
_SECRET = b"authorization"  # the token is Stoker's alone
_dumps = msgspec.json.Encoder().encode

Headers = tuple[tuple[bytes, bytes], ...]


class Leads(NamedTuple):
    """Where a head leads as of one `Functions.generation`, and what of the path is below that."""

    generation: int
    route: Route
    rest: str


class PlainHead:
    """What a head says. ``headers`` has the first of each name; ``key``: see `Shedding.key`; ``leads`` is for whoever
    looks that up."""

    __slots__ = ("accept", "content_type", "headers", "key", "leads", "method", "path", "query", "raw_path", "seen")

    def __init__(self, method: bytes, url: bytes, headers: Headers, first: dict[bytes, bytes]) -> None:
        """Read one.

        Raises:
            ValueError, AttributeError, httptools.HttpParserError: the URL is none.
        """
        self.leads: Leads | None = None
        parsed = httptools.parse_url(url)
        path = parsed.path.decode("ascii")
        self.method = method.decode("ascii")
        self.path = unquote(path) if "%" in path else path
        self.raw_path: bytes = parsed.path
        self.query = (parsed.query or b"").decode("ascii", "replace")
        self.headers = first
        self.key: Key | None = Shedding.key(self.method, self.path, self.headers)
        self.accept = self.headers.get(b"accept", b"").decode("latin-1")
        self.content_type = self.headers.get(b"content-type", b"").decode("latin-1")
        # With an id that is made for each request: the function sees the same otherwise. None if it brings its own.
        self.seen = seen_by_function([*headers, (REQUEST_ID, b"")])[: -len(b'"]]')] if self._is_without_ids else None

    @property
    def _is_without_ids(self) -> bool:
        return _IDS.isdisjoint(self.headers)


def read_head(method: bytes, url: bytes, headers: Headers) -> PlainHead | None:
    """Return what a head says; None if its request is not plain."""
    first = dict(reversed(headers))  # of each name
    length = first.get(b"content-length", b"0")
    if not _LEFT.isdisjoint(first) or not length.isdigit() or int(length) > BODY_BYTES:
        return None
    try:
        return PlainHead(method, url, headers, first)
    except (ValueError, AttributeError, httptools.HttpParserError):
        return None


def seen_by_function(headers: Headers | list[tuple[bytes, bytes]]) -> bytes:
    """Return the headers that a function sees, as they travel."""
    return _dumps([(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers if name != _SECRET])


@lru_cache(maxsize=KEPT_HEADS)
def line_of(head: PlainHead, rest: str, client: str, target: str) -> bytes:
    """Return the line of a request, as it travels: ``rest`` is its path below the function's."""
    return request_line(
        *(head.method, rest, head.query),
        client=client,
        target=target,
        accept=head.accept,
        content_type=head.content_type,
        dumps=_dumps,
    )
