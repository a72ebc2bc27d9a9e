"""What an endpoint returned, as the answer to its request; what a generator yields, as a stream of events or lines."""

from __future__ import annotations

import io
import re
from typing import Any

from stoker.protocol.encoded import Buffer
from stoker.protocol.web_calls import WebAnswer, encode_answer
from stoker.web.encoding import to_json
from stoker.web.interface import is_image
from stoker.web.things import Response

JSON = "application/json"
EVENTS = "text/event-stream"
LINES = "application/x-ndjson"
THE_SERVERS = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "upgrade", "trailer"}
)  # they say where it ends
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")


def answer_of(value: Any) -> bytes:
    """Return the payload of an answer.

    Raises:
        TypeError: the value has no form in JSON.
    """
    if isinstance(value, Response):
        return _of_response(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _encoded(200, "application/octet-stream", value)
    if is_image(type(value)) or is_image(type(value).__mro__[-2]):
        out = io.BytesIO()
        value.save(out, "PNG")
        return _encoded(200, "image/png", out.getvalue())
    return _encoded(200, JSON, to_json(value))


def error_answer(status: int, kind: str, message: str, *, call_id: str, path: str = "") -> bytes:
    """Return the payload of an answer that says what is wrong with a request."""
    error = {"type": kind, "message": message, "call_id": call_id, **({"path": path} if path else {})}
    return _encoded(status, JSON, to_json({"error": error}))


def _of_response(response: Response) -> bytes:
    body, default = _body_of(response.body)
    headers = [(str(name).lower(), str(value)) for name, value in response.headers.items()]
    if response.media_type or not any(name == "content-type" for name, _ in headers):
        headers = [pair for pair in headers if pair[0] != "content-type"]
        headers.append(("content-type", response.media_type or default))
    if not 200 <= response.status <= 599:
        raise ValueError(f"a Response's status is from 200 to 599, not {response.status}")
    for name, value in headers:
        if name in THE_SERVERS:
            raise ValueError(f"a Response's header {name!r} is the server's to set")
        if not is_header(name, value):
            raise ValueError(f"{name!r}: {value!r} is no header of HTTP")
    return encode_answer(WebAnswer(response.status, headers, body))


def _body_of(given: Any) -> tuple[Buffer, str]:
    """Return a body's bytes, and their media type where the response names none."""
    if isinstance(given, str):
        return given.encode(), "text/plain; charset=utf-8"
    if given is None or isinstance(given, (bytes, bytearray, memoryview)):
        return given or b"", "application/octet-stream"
    return to_json(given), JSON


def is_header(name: str, value: str) -> bool:
    """Tell whether a header may go out so (RFC 9110, section 5)."""
    return _NAME.fullmatch(name) is not None and _VALUE.fullmatch(value) is not None


def _encoded(status: int, media_type: str, body: Buffer) -> bytes:
    return encode_answer(WebAnswer(status, [("content-type", media_type)], body))


class StreamEncoder:
    """Encodes what a generator yields, one payload each: server-sent events, or lines of JSON.

    An event's id is the call's and its number in it, so that a client which comes again says where it was.
    """

    def __init__(self, accept: str, *, call_id: str) -> None:
        self._in_lines = LINES in accept
        self._call_id = call_id.encode()
        self._count = 0

    def __call__(self, item: Any) -> bytes:
        text = to_json(item)
        piece = text + b"\n" if self._in_lines else b"id: %s:%d\ndata: %s\n\n" % (self._call_id, self._count, text)
        self._count += 1
        if self._count > 1:
            return piece
        media_type = LINES if self._in_lines else EVENTS
        headers = [("content-type", media_type), ("cache-control", "no-store")]
        return encode_answer(WebAnswer(200, headers, piece))
