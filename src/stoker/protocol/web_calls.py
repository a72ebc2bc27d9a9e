"""A call that came over HTTP: its request as a payload, and its answer. Data only, so that the server may read answers.

    b"W" line:u32 headers:u32 line headers body    the request: what it asks for, and its headers, both JSON; the body
                                                   as it came
    b"R" length:u32 header body                    the answer: its status and headers, and the body or the first piece
                                                   of a stream

The lines of a client's requests are mostly the same, so they are parsed once; headers are parsed for who wants them.
Pickles begin otherwise, so a worker tells the two kinds of calls apart by the first byte.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from stoker.errors import ProtocolError
from stoker.protocol.encoded import Buffer

_HEAD = struct.Struct("<cI")
_REQUEST_HEAD = struct.Struct("<cII")
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode
_REQUEST = b"W"
_ANSWER = b"R"
VALUE_FOLLOWS = ", not "  # in a ValidationError's message: what follows is of the value that came, for its sender alone
_LINE_KEPT_BYTES = 1024  # a longer line is parsed each time

Headers = list[tuple[str, str]]


class WebRequest:
    """``path`` is what follows the function's own address, ``root``, as it was written, with its escapes.

    ``target`` is the method, of a class's pool. ``kind``: ``http`` · ``websocket``, whose messages are its inputs and
    items, see `SocketMessage` · ``upgrade``, bytes both ways as they come. With ``has_more`` the body is not here: it
    comes in pieces, which are asked for. ``accept`` and ``content_type`` are what its headers say of those.
    """

    __slots__ = (
        *("_encoded", "_headers", "accept", "body", "client", "content_type", "has_more", "kind", "method", "path"),
        *("query", "root", "scheme", "target"),
    )

    def __init__(  # noqa: PLR0917 - in the order in which they are thought of
        self,
        method: str,
        path: str = "",
        query: str = "",
        headers: Sequence[tuple[str, str]] = (),
        client: str = "",
        target: str = "",
        body: Buffer = b"",
        kind: str = "http",
        scheme: str = "http",
        root: str = "",
        has_more: bool = False,
    ) -> None:
        self._headers: Headers | None = list(headers)
        self._encoded = b""
        self.method = method
        self.path = path
        self.query = query
        self.client = client
        self.target = target
        self.body = body
        self.kind = kind
        self.scheme = scheme
        self.root = root
        self.has_more = has_more
        self.accept = _first(headers, "accept")
        self.content_type = _first(headers, "content-type")

    @property
    def headers(self) -> Headers:
        """The headers, in their order; read when they are asked for.

        Raises:
            ProtocolError: they are malformed.
        """
        if self._headers is None:
            try:
                self._headers = [(str(name), str(value)) for name, value in _list_of(self._encoded)]
            except (TypeError, ValueError):
                raise ProtocolError("The headers of a request over HTTP are malformed.") from None
        return self._headers

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, WebRequest):
            return NotImplemented
        return (_line_of(self), self.headers, self.body) == (_line_of(other), other.headers, other.body)

    __hash__ = None  # type: ignore[assignment] # as of what can be changed

    def __repr__(self) -> str:
        return f"WebRequest({_line_of(self)}, headers={self.headers}, body={len(self.body)} bytes)"


def _line_of(request: WebRequest) -> list[Any]:
    one = request
    asked = [one.method, one.path, one.query, one.client, one.target, one.kind, one.scheme, one.root, one.has_more]
    return [*asked, one.accept, one.content_type]


def _first(headers: Sequence[tuple[str, str]], name: str) -> str:
    for key, value in headers:
        if key.lower() == name:
            return value
    return ""


@dataclass(frozen=True)
class WebAnswer:
    """What goes back; of a stream, what goes first."""

    status: int
    headers: list[tuple[str, str]]
    body: Buffer = b""


def encode_request(request: WebRequest, *, body: Buffer | None = None) -> bytes:
    """Return a request as a payload, with this body in place of its own."""
    line, headers = _ENCODE(_line_of(request)).encode(), _ENCODE(request.headers).encode()
    return join_request(line, headers, request.body if body is None else body)


def request_line(
    method: str,
    path: str,
    query: str,
    *,
    client: str,
    target: str,
    accept: str,
    content_type: str,
    dumps: Callable[[Any], bytes],
) -> bytes:
    """Return the line of a request of kind ``http``, as `encode_request` does, by a faster encoder of JSON."""
    return dumps([method, path, query, client, target, "http", "http", "", False, accept, content_type])


def join_request(line: bytes, headers: bytes, body: Buffer) -> bytes:
    """Return a request as a payload: its line, its headers as a list of pairs in JSON, and its body."""
    return b"".join((_REQUEST_HEAD.pack(_REQUEST, len(line), len(headers)), line, headers, body))


def is_request(payload: Buffer) -> bool:
    return len(payload) > 0 and payload[0] == _REQUEST[0]


def decode_request(payload: Buffer) -> WebRequest:
    """Read a request.

    Raises:
        ProtocolError: it is none.
    """
    view = memoryview(payload)
    if len(view) < _REQUEST_HEAD.size:
        raise ProtocolError("A payload that came over HTTP is truncated.")
    kind, line_size, headers_size = _REQUEST_HEAD.unpack_from(view)
    at = _REQUEST_HEAD.size + line_size
    end = at + headers_size
    if kind != _REQUEST or end > len(view):
        raise ProtocolError("These bytes are no request over HTTP.")
    line = bytes(view[_REQUEST_HEAD.size : at])
    request = WebRequest.__new__(WebRequest)
    (
        request.method,
        request.path,
        request.query,
        request.client,
        request.target,
        request.kind,
        request.scheme,
        request.root,
        request.has_more,
        request.accept,
        request.content_type,
    ) = _line(line) if line_size <= _LINE_KEPT_BYTES else _line.__wrapped__(line)
    request._headers, request._encoded, request.body = None, bytes(view[at:end]), view[end:]
    return request


@lru_cache(maxsize=256)
def _line(text: bytes) -> tuple[str, str, str, str, str, str, str, str, bool, str, str]:
    try:
        method, path, query, client, target, kind, scheme, root, has_more, accept, content_type = _list_of(text)
    except (TypeError, ValueError):
        raise ProtocolError("The line of a request over HTTP is malformed.") from None
    return method, path, query, client, target, kind, scheme, root, bool(has_more), accept, content_type


def encode_answer(answer: WebAnswer) -> bytes:
    if len(answer.headers) == 1:
        text = _one_header(answer.status, *answer.headers[0])
    else:
        text = _ENCODE([answer.status, answer.headers]).encode()
    return b"".join((_HEAD.pack(_ANSWER, len(text)), text, answer.body))


@lru_cache(maxsize=64)
def _one_header(status: int, name: str, value: str) -> bytes:
    """Return the header of an answer with one header of its own, as most have: its media type."""
    return _ENCODE([status, [(name, value)]]).encode()


def decode_answer(payload: Buffer) -> WebAnswer:
    """Read an answer.

    Raises:
        ProtocolError: it is none.
    """
    text, body = split_answer(payload)
    return WebAnswer(*read_answer_header(text), body)


def split_answer(payload: Buffer) -> tuple[bytes, memoryview]:
    """Return an answer's header, as it travels, and its body.

    Raises:
        ProtocolError: it is none.
    """
    view = memoryview(payload)
    if len(view) < _HEAD.size:
        raise ProtocolError("A payload that came over HTTP is truncated.")
    kind, length = _HEAD.unpack_from(view)
    end = _HEAD.size + length
    if kind != _ANSWER or end > len(view):
        raise ProtocolError("These bytes are no answer over HTTP.")
    return bytes(view[_HEAD.size : end]), view[end:]


def read_answer_header(text: bytes) -> tuple[int, list[tuple[str, str]]]:
    """Return the status and the headers.

    Raises:
        ProtocolError: it is no header of an answer.
    """
    try:
        status, headers = _list_of(text)
        return int(status), [(str(name), str(value)) for name, value in headers]
    except (TypeError, ValueError, OverflowError):
        raise ProtocolError("The header of an answer over HTTP is malformed.") from None


SOCKET_MESSAGE_BYTES = 16 << 20  # of a WebSocket, each way
REASON_BYTES = 123  # of a closing frame, as of RFC 6455
_TEXT, _BYTES, _CLOSE = b"t", b"b", b"c"
_CLOSING = struct.Struct(">cH")


@dataclass(frozen=True)
class SocketMessage:
    """A message of a WebSocket: a text, or bytes, or its end by a status code, with a reason."""

    text: str | None = None
    data: bytes | None = None
    code: int = 0
    reason: str = ""


def encode_message(message: SocketMessage) -> bytes:
    """Return a message as a piece: its kind in one byte, and what it says."""
    if message.code:
        reason = message.reason.encode()[:REASON_BYTES].decode("utf-8", "ignore")  # no half of a character
        return _CLOSING.pack(_CLOSE, message.code) + reason.encode()
    return _TEXT + message.text.encode() if message.text is not None else b"".join((_BYTES, message.data or b""))


def decode_message(piece: Buffer) -> SocketMessage:
    """Read a message.

    Raises:
        ProtocolError: it is none.
    """
    data = bytes(piece)
    try:
        if data[:1] == _TEXT:
            return SocketMessage(text=data[1:].decode())
        if data[:1] == _BYTES:
            return SocketMessage(data=data[1:])
        if data[:1] == _CLOSE:
            code = int(_CLOSING.unpack_from(data)[1])
            return SocketMessage(code=code, reason=data[_CLOSING.size :].decode("utf-8", "replace"))
    except (UnicodeDecodeError, struct.error):
        pass
    raise ProtocolError("What came is no message of a WebSocket.")


def _list_of(text: bytes) -> list[Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise ProtocolError("The header of a payload that came over HTTP is no JSON.") from None
    if not isinstance(header, list):
        raise ProtocolError("The header of a payload that came over HTTP is no list.")
    return header
