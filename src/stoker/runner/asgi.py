"""Runs an app of ASGI 3: requests and WebSockets as its calls, its lifespan with its worker's.

https://asgi.readthedocs.io/en/latest/specs/www.html and …/specs/lifespan.html
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from stoker.errors import InvalidRequest, StokerError
from stoker.protocol.remote_exceptions import format_exception
from stoker.protocol.web_calls import (
    SOCKET_MESSAGE_BYTES,
    SocketMessage,
    WebAnswer,
    WebRequest,
    decode_message,
    encode_answer,
    encode_message,
)
from stoker.runner.app_kinds import check_kind
from stoker.runner.exchanges import PIECE_BYTES, ClientGone, TaskExchange
from stoker.runner.loading import PACKAGE_DIR
from stoker.web.answers import is_header

_VERSIONS = {"version": "3.0", "spec_version": "2.4"}
RETURN_SECONDS = 0.005  # in which an app usually returns that has answered: its answer goes out with that
_NO_CODES = frozenset({1004, 1005, 1006, 1015})  # of a WebSocket's end: they are never sent (RFC 6455, section 7.4)


class AsgiApp:
    """See the module."""

    def __init__(self, make: Callable[[], Any], *, label: str) -> None:
        self._make = make
        self._label = label
        self._app: Any = None
        self._lifespan: Lifespan | None = None

    async def start(self) -> None:
        app = self._make()
        if inspect.isawaitable(app):
            app = await app
        if not callable(app):
            raise InvalidRequest(
                f"{self._label} is to return an ASGI app, such as FastAPI(), and has returned {app!r:.100}."
            )
        check_kind(app, "asgi", label=self._label)
        self._app = app
        self._lifespan = Lifespan(app)
        await self._lifespan.start()

    async def stop(self) -> None:
        if self._lifespan is not None:
            await self._lifespan.stop()

    async def serve(self, exchange: TaskExchange) -> bytes:
        scope = scope_of(exchange.request)
        if self._lifespan is not None:
            scope["state"] = dict(self._lifespan.state)
        session: Socket | Request = Socket(exchange) if exchange.request.kind == "websocket" else Request(exchange)
        try:
            await self._app(scope, session.receive, session.send)
        except ClientGone:
            raise
        except Exception as error:
            if not session.is_complete or isinstance(session, Request):
                # An answer that is complete goes out: frameworks send the page of an error and then raise it, for
                # whoever runs them. The call has failed all the same.
                session.end()
                raise
            # A WebSocket that was closed is over, whatever its app makes of that.
            print(format_exception(error, strip=PACKAGE_DIR), end="", file=sys.stderr)
        finally:
            session.stop()
        return session.finish(self._label)


def scope_of(request: WebRequest) -> dict[str, Any]:
    """Return what an app is told of a request."""
    raw_path = request.root + request.path
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": dict(_VERSIONS),
        "http_version": "1.1",
        "method": request.method,
        "scheme": request.scheme,
        "path": unquote(raw_path),
        "raw_path": raw_path.encode("latin-1", "replace"),
        "query_string": request.query.encode("latin-1", "replace"),
        "root_path": unquote(request.root),
        "headers": [(n.encode("latin-1", "replace"), v.encode("latin-1", "replace")) for n, v in request.headers],
        "client": (request.client, 0) if request.client else None,
        "server": _server_of(request),
    }
    if request.kind == "websocket":
        del scope["method"]
        offered = [value for name, value in request.headers if name == "sec-websocket-protocol"]
        names = [name.strip() for value in offered for name in value.split(",")]
        scope |= {
            "type": "websocket",
            "scheme": "wss" if request.scheme == "https" else "ws",
            "subprotocols": [name for name in names if name],
            "extensions": {"websocket.http.response": {}},
        }
    return scope


def _server_of(request: WebRequest) -> tuple[str, int]:
    host = next((value for name, value in request.headers if name == "host"), "localhost")
    name, _, port = host.rpartition(":")
    if not name or not port.isdigit():
        return host, 443 if request.scheme == "https" else 80
    return name, int(port)


class _Session:
    """What an app receives and sends of one request, or of one WebSocket."""

    def __init__(self, exchange: TaskExchange) -> None:
        self._exchange = exchange
        self._head: WebAnswer | None = None
        self._final = b""
        self._later: asyncio.TimerHandle | None = None
        self._has_ended = False
        self.is_complete = False

    def stop(self) -> None:
        if self._later is not None:
            self._later.cancel()

    def finish(self, label: str) -> bytes:
        """Return the call's value, once the app has returned.

        Raises:
            RuntimeError: it has not answered.
        """
        if not self.is_complete:
            said = "in the middle of its answer" if self._exchange.has_begun else "without an answer"
            raise RuntimeError(f"The ASGI app of {label} has returned {said}.")
        return self._final

    async def _begin(self, message: dict[str, Any]) -> None:
        self._head = WebAnswer(_status(message["status"]), _pairs(message.get("headers", ())))

    async def _continue(self, message: dict[str, Any]) -> bool:
        """Take a piece of the body; whether it is the last one."""
        body = bytes(message.get("body", b""))
        is_last = not message.get("more_body", False)
        head, self._head = self._head, None
        if head is not None and is_last and len(body) <= PIECE_BYTES:
            self._final = encode_answer(WebAnswer(head.status, head.headers, body))
        else:
            await self._exchange.send(body, head)
        self.is_complete = is_last
        if is_last:
            self._later = asyncio.get_running_loop().call_later(RETURN_SECONDS, self.end)
        return is_last

    def end(self) -> None:
        """Send the end of an answer that is complete, once: its app goes on in the background, or raises."""
        if not self.is_complete or self._has_ended:
            return
        self._has_ended = True
        last, self._final = self._final, b""
        self._exchange.end(last)


class Request(_Session):
    """One request over HTTP."""

    def __init__(self, exchange: TaskExchange) -> None:
        super().__init__(exchange)
        self._body: bytes | None = None if exchange.request.has_more else bytes(exchange.request.body)
        self._is_read = False
        self._has_started = False
        self._end_of_client = asyncio.Event()  # of what it waits for, or of itself

    async def receive(self) -> dict[str, Any]:
        if self._is_read:
            # A client that hangs up cancels the call, and this with it: what is left to say is that the answer is out.
            if not self.is_complete:
                await self._end_of_client.wait()
            return {"type": "http.disconnect"}
        if self._body is not None:
            self._is_read = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        try:
            piece = await self._exchange.receive()
        except ClientGone:
            self._is_read = True
            self._end_of_client.set()
            return {"type": "http.disconnect"}
        self._is_read = piece is None
        return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

    async def send(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "http.response.start" and not self._has_started:
            self._has_started = True
            await self._begin(message)
        elif kind == "http.response.body" and self._has_started and not self.is_complete:
            if await self._continue(message):
                self._end_of_client.set()
        else:
            raise RuntimeError(f"An ASGI app cannot send {kind!r} at this point of its answer.")


class Socket(_Session):
    """One WebSocket: its messages are the exchange's pieces, each way."""

    def __init__(self, exchange: TaskExchange) -> None:
        super().__init__(exchange)
        self._is_connected = False
        self._state = "new"  # → open → closed; or → denied
        self._over: dict[str, Any] | None = None
        self._closed_by: SocketMessage | None = None  # what the app itself has closed it with

    async def receive(self) -> dict[str, Any]:
        if not self._is_connected:
            self._is_connected = True
            return {"type": "websocket.connect"}
        if self._over is None:
            try:
                piece = await self._exchange.receive()
            except (ClientGone, StokerError):
                piece = None
            said = decode_message(piece) if piece is not None else SocketMessage(code=1006)
            said = self._closed_by or said
            if said.text is not None:
                return {"type": "websocket.receive", "text": said.text}
            if said.data is not None:
                return {"type": "websocket.receive", "bytes": said.data}
            self._over = {"type": "websocket.disconnect", "code": said.code, "reason": said.reason}
        self.is_complete = True
        return self._over

    async def send(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "websocket.accept" and self._state == "new":
            headers = _pairs(message.get("headers", ()))
            if message.get("subprotocol"):
                headers += _pairs([(b"sec-websocket-protocol", str(message["subprotocol"]).encode("latin-1"))])
            self._state = "open"
            await self._exchange.send(b"", WebAnswer(101, headers))
        elif kind == "websocket.send" and self._state == "open":
            if self._over is not None:
                raise OSError("The WebSocket's client has gone.")  # as of ASGI 2.4
            text = message.get("text")
            await self._say(SocketMessage(text=text, data=None if text is not None else bytes(message["bytes"])))
        elif kind == "websocket.close" and self._state in {"new", "open"}:
            await self._close(message)
        elif kind == "websocket.http.response.start" and self._state == "new":
            self._state = "denied"
            await self._begin(message)
        elif kind == "websocket.http.response.body" and self._state == "denied":
            await self._continue(message)
        else:
            raise RuntimeError(f"An ASGI app cannot send {kind!r} to a WebSocket that is {self._state}.")

    async def _close(self, message: dict[str, Any]) -> None:
        if self._state == "new":
            self._final = encode_answer(WebAnswer(403, [("content-type", "text/plain")], b""))
        else:
            code, reason = message.get("code") or 1000, message.get("reason") or ""
            if code in _NO_CODES or not (1000 <= code <= 1014 or 3000 <= code <= 4999):
                raise ValueError(f"a WebSocket is closed with 1000 to 1014, or 3000 to 4999, not {code!r}")
            self._closed_by = SocketMessage(code=code, reason=reason)
            await self._say(self._closed_by)
            self._exchange.hear_no_more()
        self._state = "closed"
        self.is_complete = True

    async def _say(self, message: SocketMessage) -> None:
        piece = encode_message(message)
        if len(piece) > SOCKET_MESSAGE_BYTES:
            raise ValueError(
                f"a WebSocket's message has {SOCKET_MESSAGE_BYTES >> 20} MiB at most, not {len(piece)} bytes"
            )
        await self._exchange.send_whole(piece)

    def finish(self, label: str) -> bytes:
        if self._state == "open":
            self.is_complete = True  # an app may leave a socket open when it returns: that closes it
        return super().finish(label)


class Lifespan:
    """An app's ``lifespan``: it is told of its worker's beginning and end, where it cares to know.

    Raises:
        RuntimeError: it says that it cannot start.
    """

    def __init__(self, app: Any) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._to_app: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self._said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="lifespan")
        await self._tell("startup")

    async def stop(self) -> None:
        if self._task is not None and not self._task.done():
            await self._tell("shutdown")
            await asyncio.wait([self._task], timeout=1.0)

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self._app(scope, self._to_app.get, self._hear)
        except BaseException as error:  # noqa: BLE001 - what user code may raise; an app that knows no lifespan does
            await self._said.put({"type": "raised", "error": error})
        else:
            await self._said.put({"type": "returned"})

    async def _hear(self, message: dict[str, Any]) -> None:
        if not message["type"].startswith("lifespan."):  # an app that takes all for requests might go on for ever
            raise RuntimeError(f"An ASGI app cannot send {message['type']!r} to its lifespan.")
        await self._said.put(message)

    async def _tell(self, what: str) -> None:
        await self._to_app.put({"type": f"lifespan.{what}"})
        said = await self._said.get()
        if said["type"] == f"lifespan.{what}.failed":
            message = str(said.get("message") or "")
            told = f"its lifespan says that {what} has failed: {_cause_in(message) or 'no reason given'}"
            raise RuntimeError(told if told.endswith(message) else f"{told}\n{message.rstrip()}")


def _cause_in(message: str) -> str:
    """Return what a message says in one line: of a traceback, as most frameworks send it, what was raised."""
    lines = [line for line in message.splitlines() if line.strip()]
    if not any(line.startswith("Traceback (most recent call last):") for line in lines):
        return lines[0] if lines else ""
    frames = [at for at, line in enumerate(lines) if line.startswith((" ", "Traceback "))]
    return lines[min(frames[-1] + 1, len(lines) - 1)].strip()


def _status(status: Any) -> int:
    if isinstance(status, int) and 200 <= status <= 599:
        return int(status)
    raise ValueError(f"an answer's status is from 200 to 599, not {status!r}")


def _pairs(headers: Any) -> list[tuple[str, str]]:
    pairs = [(bytes(name).decode("latin-1").lower(), bytes(value).decode("latin-1")) for name, value in headers]
    for name, value in pairs:
        if not is_header(name, value):
            raise ValueError(f"{name!r}: {value!r} is no header of HTTP")
    return pairs
