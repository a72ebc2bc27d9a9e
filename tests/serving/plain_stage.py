"""The gateway's connections without a server behind them: plain requests become calls that a test ends as it likes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from stoker.core.calls import Result
from stoker.protocol.web_calls import WebAnswer, WebRequest, decode_answer, decode_request, encode_answer
from stoker.server.gateway.connections import Connection, Connections
from stoker.server.gateway.plain import PlainRequests
from stoker.server.gateway.problems import Problem
from stoker.server.gateway.shedding import Shedding
from stoker.server.gateway.web_calls import WebCall
from stoker.server.metrics.tally import Labels
from stoker.types import Outcome


class Wire(asyncio.Transport):
    """A transport that keeps what was written, and has its protocol told of its end as a loop does."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_read = True
        self.is_lost = False
        self.protocol: Any = None
        self._is_closing = False

    def write(self, data: Any) -> None:
        if not self._is_closing:
            self.written += bytes(data)

    def write_eof(self) -> None:
        """Nothing: what is read back is all that was written."""

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            asyncio.get_running_loop().call_soon(self._lose, None)

    def abort(self) -> None:
        self.close()

    def hang_up(self) -> None:
        """The client has gone."""
        self._is_closing = True
        self._lose(ConnectionResetError())

    def _lose(self, why: Exception | None) -> None:
        if not self.is_lost:
            self.is_lost = True
            self.protocol.connection_lost(why)

    def pause_reading(self) -> None:
        self.is_read = False

    def resume_reading(self) -> None:
        self.is_read = True

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol


class Calls:
    """Stands for `WebCalls`: what was asked for, in order. ``at_once`` may end a call before it is waited for."""

    def __init__(self, at_once: Callable[[WebRequest], Result | None]) -> None:
        self.made: list[WebCall] = []
        self.asked: list[WebRequest] = []
        self.cancelled: list[str] = []
        self._at_once = at_once

    def submit(self, spec: Any, key: str, payload: bytes, **options: Any) -> WebCall:
        session: Any = SimpleNamespace(open={})
        call = WebCall(f"c{len(self.made)}", key, session)
        self.made.append(call)
        self.asked.append(decode_request(payload))
        call.result = self._at_once(self.asked[-1])
        return call

    def cancel(self, call: WebCall) -> None:
        self.cancelled.append(call.id)
        if call.result is None:
            call.result = Result(Outcome.CANCELLED)
            call.tell()

    async def answer_in(self, call_id: str, payload: Any) -> WebAnswer:
        return decode_answer(payload)

    def end(self, index: int) -> None:
        """Have a call end with what it was asked."""
        self.made[index].result = echoed(self.asked[index])
        self.made[index].tell()


class Stage:
    """``long``: an app of ASGI, for what is not plain. ``counted`` has the statuses of plain requests that are over."""

    def __init__(self, long: Any = None, at_once: Callable[[WebRequest], Result | None] = lambda _: None) -> None:
        self.calls = Calls(at_once)
        self.counted: list[int] = []
        self.shedding = Shedding()
        self.is_let_in = True
        self.looked_at = 0  # tokens
        self.route: Any = SimpleNamespace(
            spec=SimpleNamespace(options=SimpleNamespace(deadline=None), version=0),
            key="k",
            web=SimpleNamespace(methods=["GET", "POST"]),
            method="",
            is_plain=True,
            labels=Labels("a", "f"),
            told=[],
            lines=b"",
            kind="call",
        )
        self.functions = SimpleNamespace(beside={}, generation=0)
        server: Any = SimpleNamespace(
            functions=self.functions,
            spans=None,
            traffic=SimpleNamespace(goes_on=lambda key: ""),
            tally=SimpleNamespace(shed=lambda key: None),
            discard=lambda loads: None,
        )
        routes: Any = SimpleNamespace(find=lambda path, host: (self.route, ""))
        door: Any = SimpleNamespace(checked=self._checked, counted=lambda token, extra: "public")
        self.plain = PlainRequests(
            server,
            calls=self.calls,  # type: ignore[arg-type] # what it needs of them
            routes=routes,
            door=door,
            shedding=self.shedding,
            count=lambda tracked: self.counted.append(tracked.outcome),
            is_local=False,
        )
        app: Any = long or says_long
        self.connections = Connections(app, plain=self.plain)

    def _checked(self, route: Any, headers: dict[bytes, bytes]) -> None:
        self.looked_at += 1
        if not self.is_let_in:
            raise Problem(401, "PermissionDenied", "This token is not known here.")

    def connect(self) -> tuple[Connection, Wire]:
        connection, wire = self.connections.make(), Wire()
        wire.protocol = connection
        connection.connection_made(wire)
        return connection, wire


def echoed(request: WebRequest) -> Result:
    """Return how a call ends that says what it was asked."""
    said = f"{request.query}|".encode() + bytes(request.body)
    return Result(Outcome.VALUE, encode_answer(WebAnswer(200, [("content-type", "text/plain")], said)))


async def says_long(scope: Any, receive: Any, send: Any) -> None:
    """Answer as `echoed` does."""
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return
        body += message["body"]
        if not message["more_body"]:
            break
    said = scope["query_string"] + b"|" + body
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(said))]})
    await send({"type": "http.response.body", "body": said})
