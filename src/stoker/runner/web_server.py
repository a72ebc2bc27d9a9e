"""Passes requests on to a server that user code has started in its worker, at a port of this machine.

The function starts it and returns; what it returns may be the process (a `subprocess.Popen`), which is watched then.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import io
import os
import re
import socket
from collections.abc import Callable
from http.client import HTTPException, HTTPMessage, parse_headers
from typing import Any
from urllib.parse import quote

from stoker.errors import StartupError, StokerError
from stoker.protocol.web_calls import WebAnswer, WebRequest, encode_answer
from stoker.runner.exchanges import PIECE_BYTES, ClientGone, TaskExchange
from stoker.web.answers import is_header

HOST = "127.0.0.1"
LOOK_SECONDS = 0.05  # between two looks whether it listens
STOP_SECONDS = 5.0
HEAD_BYTES = 64 << 10
HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
)
OURS = frozenset({"content-length", "expect", "forwarded"})  # said anew, or not at all; as what begins with…
FORWARDED = "x-forwarded-"
_SAFE = "".join(map(chr, range(0x21, 0x7F)))  # in a request's target, as it came
_DIGITS = re.compile(r"[0-9]{1,15}")
_CHUNK_SIZE = re.compile(rb"[0-9a-fA-F]{1,12}")
SWITCHING = 101
PORT_VARIABLE = "PORT"  # as servers are told it elsewhere


class WebServer:
    """See the module."""

    def __init__(self, make: Callable[..., Any], port: int, *, label: str) -> None:
        self._make = make
        self._port = port
        self._label = label
        self._process: Any = None

    async def start(self) -> None:
        """Have it started, and return when it listens.

        Raises:
            StartupError: its port is taken, or its process has ended.
        """
        takes_port = "port" in inspect.signature(self._make).parameters
        if self._port == 0:
            self._port = _free_port()
        elif _listens(self._port):
            raise StartupError(
                f"{self._label}: port {self._port} of this machine is taken, by another worker perhaps. "
                "Let Stoker choose one: leave port= out, and have the function take it, as in def "
                f"{self._make.__name__}(port).",
                function=self._label,
            )
        os.environ[PORT_VARIABLE] = str(self._port)
        found = self._make(port=self._port) if takes_port else self._make()
        if inspect.isawaitable(found):
            found = await found
        self._process = found if hasattr(found, "poll") and hasattr(found, "terminate") else None
        while not _listens(self._port):
            if self._process is not None and self._process.poll() is not None:
                raise StartupError(
                    f"{self._label}: the server that it started has ended, with status {self._process.returncode}, "
                    f"before it listened at port {self._port}.",
                    function=self._label,
                )
            await asyncio.sleep(LOOK_SECONDS)

    async def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        with contextlib.suppress(Exception):
            await asyncio.to_thread(self._process.wait, STOP_SECONDS)
        if self._process.poll() is None and hasattr(self._process, "kill"):
            self._process.kill()  # it may have a session of its own, so that it would not end with its worker

    async def serve(self, exchange: TaskExchange) -> bytes:
        try:
            reader, writer = await asyncio.open_connection(HOST, self._port, limit=HEAD_BYTES)
        except OSError as error:
            ended = self._process is not None and self._process.poll() is not None
            detail = f"it has ended, with status {self._process.returncode}" if ended else str(error)
            raise StokerError(f"{self._label}: the server at port {self._port} does not answer: {detail}.") from None
        try:
            writer.write(_head_of(exchange.request))
            relay = _tunnel if exchange.request.kind == "upgrade" else _relay
            return await relay(exchange, reader, writer)
        finally:
            writer.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((HOST, port)) == 0


def _head_of(request: WebRequest) -> bytes:
    """Return a request's line and headers as the server is told them."""
    is_upgrade = request.kind == "upgrade"
    target = (request.path or "/") + (f"?{request.query}" if request.query else "")
    target = quote(target.encode("latin-1", "replace"), safe=_SAFE)
    headers = [pair for pair in request.headers if _is_passed_on(pair[0])]
    host = next((value for name, value in request.headers if name == "host"), "")
    headers += [
        ("x-forwarded-for", request.client),
        ("x-forwarded-proto", request.scheme),
        ("x-forwarded-host", host),
        ("x-forwarded-prefix", request.root),
    ]
    if is_upgrade:
        upgrade = next((value for name, value in request.headers if name == "upgrade"), "websocket")
        headers += [("connection", "Upgrade"), ("upgrade", upgrade)]
    else:
        headers.append(("connection", "close"))
        headers += _framing_of(request)
    lines = [f"{request.method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")


def _is_passed_on(name: str) -> bool:
    plain = name.replace("_", "-")  # many a server takes the one for the other
    return plain not in HOP_BY_HOP and plain not in OURS and not plain.startswith(FORWARDED)


def _framing_of(request: WebRequest) -> list[tuple[str, str]]:
    length = next((value for name, value in request.headers if name == "content-length"), "")
    if not request.has_more:
        has_body = len(request.body) or length or request.method in {"POST", "PUT", "PATCH"}
        return [("content-length", str(len(request.body)))] if has_body else []
    return [("content-length", length)] if length else [("transfer-encoding", "chunked")]


async def _relay(exchange: TaskExchange, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    sending = asyncio.create_task(_send_body(exchange, writer), name="body")
    try:
        head = await _read_head(reader)
        while head.status < 200:
            head = await _read_head(reader)
        body = _Body(reader, head, exchange.request.method)
        answer = WebAnswer(head.status, head.answer_headers())
        first = await body.read()
        if first is None or body.is_over(len(first)):
            return encode_answer(WebAnswer(answer.status, answer.headers, first or b""))
        await exchange.send(first, answer)
        while (piece := await body.read()) is not None:
            await exchange.send(piece)
        return b""
    except _NO_ANSWER as error:
        raise _unread(error, sending) from None
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


_NO_ANSWER = (asyncio.IncompleteReadError, asyncio.LimitOverrunError, HTTPException, ValueError, OSError)


def _unread(error: Exception, sending: asyncio.Task[None] | None = None) -> Exception:
    """Return why there is no answer: what ended the request's body has cut the connection, too."""
    if sending is not None and sending.done() and not sending.cancelled():
        cause = sending.exception()
        if isinstance(cause, (ClientGone, StokerError)):
            return cause
    return StokerError(f"The server's answer is no HTTP that could be read: {type(error).__name__}: {error}.")


async def _send_body(exchange: TaskExchange, writer: asyncio.StreamWriter) -> None:
    request = exchange.request
    if not request.has_more:
        writer.write(bytes(request.body))
        return
    in_chunks = not any(name == "content-length" for name, _ in request.headers)
    try:
        while (piece := await exchange.receive()) is not None:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if in_chunks else piece)
            await writer.drain()
        if in_chunks:
            writer.write(b"0\r\n\r\n")
    except (ClientGone, StokerError):
        writer.transport.abort()  # it must not take for whole what has come
        raise
    except OSError:
        pass  # it has answered without reading all of it


async def _tunnel(exchange: TaskExchange, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Pass bytes on both ways until the server has ended; what it answers that does not switch is passed on alone.

    Else a client would have a connection on which it could ask for anything, in requests that nobody has looked at.
    """

    async def up() -> None:
        try:
            while (piece := await exchange.receive()) is not None:
                writer.write(piece)
                await writer.drain()
            writer.write_eof()
        except (ClientGone, StokerError):
            writer.transport.abort()
        except OSError:
            pass

    try:
        head = await _read_head(reader)
        while head.status < 200 and head.status != SWITCHING:
            head = await _read_head(reader)
        if head.status != SWITCHING:
            return await _refusal(exchange, reader, head)
    except _NO_ANSWER as error:
        raise _unread(error) from None
    await exchange.send_whole(head.raw)
    sending = asyncio.create_task(up(), name="tunnel")
    try:
        while data := await reader.read(PIECE_BYTES):
            await exchange.send_whole(data)
    except OSError:
        pass
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    return b""


async def _refusal(exchange: TaskExchange, reader: asyncio.StreamReader, head: _Head) -> bytes:
    lines = [f"HTTP/1.1 {head.status} ", *(f"{name}: {value}" for name, value in head.answer_headers())]
    await exchange.send_whole("\r\n".join([*lines, "connection: close", "", ""]).encode("latin-1", "replace"))
    body = _Body(reader, head, exchange.request.method)
    while (piece := await body.read()) is not None:
        await exchange.send_whole(piece)
    return b""


class _Head:
    """A response's status and headers; ``raw`` is how they came."""

    def __init__(self, status: int, headers: HTTPMessage, raw: bytes) -> None:
        self.status = status
        self.raw = raw
        self._headers = headers

    def get(self, name: str) -> str:
        return self._headers.get(name, "").strip()

    def answer_headers(self) -> list[tuple[str, str]]:
        found = [(name.lower(), value) for name, value in self._headers.items() if name.lower() not in HOP_BY_HOP]
        return [(name, value) for name, value in found if is_header(name, value)]


async def _read_head(reader: asyncio.StreamReader) -> _Head:
    raw = await reader.readuntil(b"\r\n\r\n")
    line, _, rest = raw.partition(b"\r\n")
    parts = line.decode("latin-1").split(" ", 2)
    if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not re.fullmatch("[1-5][0-9][0-9]", parts[1]):
        raise ValueError(f"it begins with {line[:80]!r}")
    return _Head(int(parts[1]), parse_headers(io.BytesIO(rest)), raw)


class _Body:
    """A response's body, by whichever of its three ways it says where it ends (RFC 9112, section 6.3)."""

    def __init__(self, reader: asyncio.StreamReader, head: _Head, method: str) -> None:
        self._reader = reader
        self._is_chunked = "chunked" in head.get("transfer-encoding").lower()
        length = head.get("content-length")
        if method == "HEAD" or head.status in {204, 304}:
            self._left: int | None = 0
            self._is_chunked = False
        else:
            self._left = _size(length) if length and not self._is_chunked else None
        self._in_chunk = 0

    def is_over(self, size: int) -> bool:
        """Tell whether a piece of so many bytes, read last, was all."""
        return self._left == 0 and size <= PIECE_BYTES

    async def read(self) -> bytes | None:
        """Return the next piece, None after the last."""
        if self._is_chunked:
            return await self._read_chunk()
        if self._left == 0:
            return None
        limit = PIECE_BYTES if self._left is None else min(PIECE_BYTES, self._left)
        data = await self._reader.read(limit)
        if self._left is not None:
            if not data:
                raise asyncio.IncompleteReadError(b"", self._left)
            self._left -= len(data)
        return data or None

    async def _read_chunk(self) -> bytes | None:
        if not self._in_chunk:
            line = await self._reader.readuntil(b"\n")
            size = line.split(b";", 1)[0].strip()
            if not _CHUNK_SIZE.fullmatch(size):
                raise ValueError(f"a chunk of it begins with {size[:40]!r}")
            self._in_chunk = int(size, 16)
            if not self._in_chunk:
                while (await self._reader.readuntil(b"\n")).strip():
                    pass  # trailers, which nobody is told
                return None
        data = await self._reader.read(min(PIECE_BYTES, self._in_chunk))
        if not data:
            raise asyncio.IncompleteReadError(b"", self._in_chunk)
        self._in_chunk -= len(data)
        if not self._in_chunk:
            end = await self._reader.readexactly(2)
            if end != b"\r\n":
                raise ValueError(f"a chunk of it ends with {end!r}")
        return data


def _size(length: str) -> int:
    if not _DIGITS.fullmatch(length):
        raise ValueError(f"its Content-Length is {length!r:.40}")
    return int(length)
