"""A call that came over HTTP: its request as a payload, and its answer. Data only, so that the server may read answers.

    b"W" length:u32 header body      the request: a header of JSON and the body as it came
    b"R" length:u32 header body      the answer: its status and headers, and the body or the first piece of a stream

Pickles begin otherwise, so a worker tells the two kinds of calls apart by the first byte.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from stoker.errors import ProtocolError
from stoker.protocol.encoded import Buffer

_HEAD = struct.Struct("<cI")
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode
_REQUEST = b"W"
_ANSWER = b"R"


@dataclass(frozen=True)
class WebRequest:
    """``path`` is what follows the function's own address, ``root``, as it was written, with its escapes.

    ``target`` is the method, of a class's pool. ``kind``: ``http`` · ``websocket``, whose messages are its inputs and
    items, see `SocketMessage` · ``upgrade``, bytes both ways as they come. With ``has_more`` the body is not here: it
    comes in pieces, which are asked for.
    """

    method: str
    path: str = ""
    query: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    client: str = ""
    target: str = ""
    body: Buffer = b""
    kind: str = "http"
    scheme: str = "http"
    root: str = ""
    has_more: bool = False


@dataclass(frozen=True)
class WebAnswer:
    """What goes back; of a stream, what goes first."""

    status: int
    headers: list[tuple[str, str]]
    body: Buffer = b""


def encode_request(request: WebRequest, *, body: Buffer | None = None) -> bytes:
    """Return a request as a payload, with this body in place of its own."""
    header: list[Any] = [request.method, request.path, request.query, request.headers, request.client, request.target]
    header += [request.kind, request.scheme, request.root, request.has_more]
    return _join(_REQUEST, header, request.body if body is None else body)


def request_payload(
    method: str,
    path: str,
    query: str,
    headers: list[tuple[str, str]],
    *,
    client: str,
    target: str,
    body: Buffer,
    dumps: Callable[[Any], bytes],
) -> bytes:
    """Return a request of kind ``http`` as a payload, as `encode_request` does, by a faster encoder of JSON."""
    text = dumps([method, path, query, headers, client, target, "http", "http", "", False])
    return b"".join((_HEAD.pack(_REQUEST, len(text)), text, body))


def is_request(payload: Buffer) -> bool:
    return len(payload) > 0 and payload[0] == _REQUEST[0]


def decode_request(payload: Buffer) -> WebRequest:
    """Read a request.

    Raises:
        ProtocolError: it is none.
    """
    text, body = _split(_REQUEST, payload)
    header = _list_of(text)
    try:
        method, path, query, headers, client, target, kind, scheme, root, has_more = header
        pairs = [(str(name), str(value)) for name, value in headers]
    except (TypeError, ValueError):
        raise ProtocolError("The header of a request over HTTP is malformed.") from None
    return WebRequest(method, path, query, pairs, client, target, body, kind, scheme, root, bool(has_more))


def encode_answer(answer: WebAnswer) -> bytes:
    return _join(_ANSWER, [answer.status, answer.headers], answer.body)


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
    return _split(_ANSWER, payload)


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


def _join(kind: bytes, header: list[Any], body: Buffer) -> bytes:
    text = _ENCODE(header).encode()
    return b"".join((_HEAD.pack(kind, len(text)), text, body))


def _split(kind: bytes, payload: Buffer) -> tuple[bytes, memoryview]:
    view = memoryview(payload)
    if len(view) < _HEAD.size:
        raise ProtocolError("A payload that came over HTTP is truncated.")
    found, length = _HEAD.unpack_from(view)
    end = _HEAD.size + length
    if found != kind or end > len(view):
        raise ProtocolError(f"These bytes are no {'request' if kind == _REQUEST else 'answer'} over HTTP.")
    return bytes(view[_HEAD.size : end]), view[end:]


def _list_of(text: bytes) -> list[Any]:
    try:
        header = json.loads(text)
    except ValueError:
        raise ProtocolError("The header of a payload that came over HTTP is no JSON.") from None
    if not isinstance(header, list):
        raise ProtocolError("The header of a payload that came over HTTP is no list.")
    return header
