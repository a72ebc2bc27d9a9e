"""Runs an app of WSGI (PEP 3333) in the threads of its worker."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote_to_bytes

from stoker.errors import InvalidRequest
from stoker.protocol.web_calls import WebAnswer, WebRequest, encode_answer
from stoker.runner.app_kinds import check_kind
from stoker.runner.exchanges import PIECE_BYTES, ThreadExchange
from stoker.web.answers import is_header


class WsgiApp:
    """See the module."""

    def __init__(self, make: Callable[[], Any], *, label: str) -> None:
        self._make = make
        self._label = label
        self._app: Any = None

    def start(self) -> None:
        app = self._make()
        if not callable(app):
            raise InvalidRequest(
                f"{self._label} is to return a WSGI app, such as Flask(__name__), and has returned {app!r:.100}."
            )
        check_kind(app, "wsgi", label=self._label)
        self._app = app

    def stop(self) -> None:
        """WSGI tells an app nothing of its end."""

    def serve(self, exchange: ThreadExchange) -> bytes:
        if exchange.request.kind != "http":
            return encode_answer(WebAnswer(426, [("content-type", "text/plain")], b"WSGI knows no WebSockets."))
        answer = _Answer(exchange)
        found = self._app(environ_of(exchange), answer.start)
        try:
            return answer.send_all(found, label=self._label)
        finally:
            close = getattr(found, "close", None)
            if close is not None:
                close()


class _Answer:
    """One answer: its head is held back until the first byte of its body, as the PEP asks."""

    def __init__(self, exchange: ThreadExchange) -> None:
        self._exchange = exchange
        self._head: WebAnswer | None = None
        self._has_head = False

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], None]:
        """Take the head; with ``exc_info`` another one, in place of one that has not gone out."""
        if exc_info is not None and self._has_head and self._head is None:
            raise exc_info[1].with_traceback(exc_info[2])
        if exc_info is None and self._has_head:
            raise AssertionError("start_response() was called twice")
        code = int(status.split(" ", 1)[0])
        if not 200 <= code <= 599:
            raise ValueError(f"an answer's status is from 200 to 599, not {status!r:.40}")
        pairs = [(name.lower(), value) for name, value in headers]
        for name, value in pairs:
            if not is_header(name, value):
                raise ValueError(f"{name!r}: {value!r} is no header of HTTP")
        self._has_head = True
        self._head = WebAnswer(code, pairs)
        return self._write

    def _write(self, data: bytes) -> None:
        if data:
            head, self._head = self._head, None
            self._exchange.send(bytes(data), head)

    def send_all(self, pieces: Any, *, label: str) -> bytes:
        """Send what an app returned, or return it, where that is all in one piece.

        Raises:
            RuntimeError: it has returned without a status.
        """
        source: Iterator[bytes] = iter(pieces)
        first = next((bytes(piece) for piece in source if piece), b"")
        if not self._has_head:
            raise RuntimeError(f"The WSGI app of {label} has not called start_response().")
        head = self._head
        if head is not None and len(first) <= PIECE_BYTES and self._is_all(first, pieces, head):
            self._head = None
            return encode_answer(WebAnswer(head.status, head.headers, first))
        self._write(first)
        for piece in source:
            self._write(piece)
        if self._head is not None:
            return encode_answer(WebAnswer(self._head.status, self._head.headers))
        return b""

    @staticmethod
    def _is_all(first: bytes, pieces: Any, head: WebAnswer) -> bool:
        if not first or (isinstance(pieces, (list, tuple)) and len(pieces) == 1):
            return True
        return any(name == "content-length" and value.strip() == str(len(first)) for name, value in head.headers)


def environ_of(exchange: ThreadExchange) -> dict[str, Any]:
    """Return what an app is told of a request."""
    request = exchange.request
    host, _, port = _host_of(request).rpartition(":")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": unquote_to_bytes(request.root).decode("latin-1"),
        "PATH_INFO": unquote_to_bytes(request.path).decode("latin-1"),
        "RAW_URI": request.root + request.path + (f"?{request.query}" if request.query else ""),
        "QUERY_STRING": request.query,
        "SERVER_NAME": host or port,
        "SERVER_PORT": port if host else ("443" if request.scheme == "https" else "80"),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": request.client,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": request.scheme,
        "wsgi.input": io.BufferedReader(_Body(exchange), 64 << 10),
        "wsgi.input_terminated": True,  # it ends by itself, whatever its length
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for name, value in request.headers:
        key = name.upper().replace("-", "_")
        if key not in {"CONTENT_TYPE", "CONTENT_LENGTH"}:
            key = f"HTTP_{key}"
        if "_" not in name:  # one that is written with underscores would pass for the other
            environ[key] = f"{environ[key]},{value}" if key in environ else value
    return environ


def _host_of(request: WebRequest) -> str:
    return next((value for name, value in request.headers if name == "host"), "localhost")


class _Body(io.RawIOBase):
    """A request's body, as a file that is read once."""

    def __init__(self, exchange: ThreadExchange) -> None:
        super().__init__()
        self._exchange = exchange
        self._left = memoryview(bytes(exchange.request.body))
        self._is_over = not exchange.request.has_more

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left and not self._is_over:
            piece = self._exchange.receive()
            self._is_over = piece is None
            self._left = memoryview(piece or b"")
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count
