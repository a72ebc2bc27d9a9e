"""Requests for functions' own web apps: handed on as they are, answered as they say, both bit by bit where long.

A body that is here when the request is, or will be soon, travels with it, and can be read again after a worker was
lost. A bigger one is passed on as the worker asks for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stoker.protocol.web_calls import (
    SocketMessage,
    WebAnswer,
    WebRequest,
    decode_message,
    encode_message,
    encode_request,
)
from stoker.server.feeds import CallFeed
from stoker.server.gateway.problems import Pairs, Problem, problem_of
from stoker.server.gateway.replies import PIECE_BYTES, Failed, encoded_pairs, send_head, send_piece
from stoker.server.gateway.routing import Route
from stoker.server.gateway.sockets import when_lost
from stoker.server.gateway.web_calls import WebCall, WebCalls
from stoker.types import InputEnd, Outcome

if TYPE_CHECKING:
    from stoker.server.gateway.tracked import Tracked
    from stoker.server.gateway.tunnels import Tunnel
    from stoker.server.server import Server

WHOLE_BYTES = 256 << 10  # of a body that says its length: waited for, and sent whole
BEGIN_SECONDS = 0.05  # for another one to begin to come: its app may have something to say before
CLOSING_SECONDS = 10.0  # for an app to return after the client of its WebSocket or tunnel has gone
NO_BODY = frozenset({204, 304})
LENGTH_DIGITS = 15
NOT_PASSED_ON = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})
CUT = 500  # as which an answer counts that breaks off
SWITCHING = 101
NORMAL, GOING_AWAY, AGAINST_THE_RULES, SERVER_ERROR = 1000, 1001, 1008, 1011

Scope = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """What is asked for, in whose name, and in how many seconds it is to be answered."""

    route: Route
    holder: str
    deadline: float | None
    trace: str = ""


def moved_to(route: Route, scope: Scope) -> str:
    """Return where an app's own address is, of which the last slash was left out: links in its pages go from there."""
    root, rest = split_path(route, scope)
    if rest or scope["method"] not in {"GET", "HEAD"}:
        return ""
    query = scope["query_string"].decode("latin-1")
    return f"{root}/" + (f"?{query}" if query else "")


def split_path(route: Route, scope: Scope) -> tuple[str, str]:
    """Return the path of a function, and what follows it, as they were written."""
    if route.is_by_host:
        return "", scope["raw_path"].decode("latin-1")
    parts = scope["raw_path"].decode("latin-1").split("/")
    count = 4 if route.method else 3  # the first is empty
    return "/".join(parts[:count]), "".join(f"/{part}" for part in parts[count:])


def request_of(
    asked: Asked, scope: Scope, *, kind: str = "http", body: bytes = b"", has_more: bool = False
) -> WebRequest:
    """Return a request as it travels. The token is Stoker's alone."""
    route = asked.route
    root, rest = split_path(route, scope)
    hides = route.web.requires_token
    return WebRequest(
        method=scope.get("method", "GET"),
        path=rest or "/",
        query=scope["query_string"].decode("latin-1"),
        headers=[
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in scope["headers"]
            if not hides or name != b"authorization"
        ],
        client=scope["client"][0] if scope["client"] else "",
        target=route.method,
        body=body,
        kind=kind,
        scheme="https" if scope["scheme"] in {"https", "wss"} else "http",
        root=root,
        has_more=has_more,
    )


class Exchanges:
    """See the module."""

    def __init__(self, server: Server, calls: WebCalls) -> None:
        self._server = server
        self._calls = calls

    def _submit(self, asked: Asked, request: WebRequest) -> WebCall:
        route = asked.route
        return self._calls.submit(
            *(route.spec, route.key, encode_request(request)),
            holder=asked.holder,
            deadline=asked.deadline,
            kind=route.kind,
            method=route.method,
            trace=asked.trace,
        )

    # Requests

    async def answer(
        self,
        asked: Asked,
        scope: Scope,
        receive: Any,
        send: Any,
        extra: Pairs,
        *,
        check_again: Callable[[], None],
    ) -> None:
        """Have a request answered. ``check_again``: whether it is still let in, once what is waited for is here.

        Raises:
            Problem: its body ends too early; or it is let in no more.
            Failed: the call did, before an answer began.
        """
        body, has_more = await _first_of_body(scope, receive)
        check_again()
        call = self._submit(asked, request_of(asked, scope, body=b"" if has_more else body, has_more=has_more))
        extra = [*extra, (b"x-stoker-call-id", call.id.encode())]
        connection = scope["stoker.connection"]
        mine = connection.on_lost = lambda: self._calls.cancel(call)
        try:
            if has_more:
                async with self._fed(call, receive, body):
                    await self._pass_on(call, scope, send, extra)
            else:
                await self._pass_on(call, scope, send, extra)
        finally:
            if connection.on_lost is mine:  # else the next request on it has come
                connection.on_lost = None
            self._calls.cancel(call)

    @asynccontextmanager
    async def _fed(self, call: WebCall, receive: Any, first: bytes) -> AsyncIterator[None]:
        """Pass on what is left of a body, which began with ``first``."""
        feed = self._server.feeds.open(call.id)
        feed.add(first)
        passing = asyncio.create_task(_pass_body(feed, receive), name=f"body of {call.id}")
        try:
            yield
        finally:
            self._server.feeds.close(call.id)
            passing.cancel()
            await asyncio.gather(passing, return_exceptions=True)

    async def _pass_on(self, call: WebCall, scope: Scope, send: Any, extra: Pairs) -> None:
        first, is_whole = await self._first_of(call)
        pairs = [pair for pair in encoded_pairs(first.headers) if pair[0] not in NOT_PASSED_ON]
        left = _length_of(pairs, call.id)
        others = [pair for pair in pairs if pair[0] != b"content-length"]
        has_body = scope["method"] != "HEAD" and first.status not in NO_BODY
        if is_whole and left is None and (has_body or first.body):
            left = len(first.body)
        length = [(b"content-length", b"%d" % left)] if left is not None and first.status not in NO_BODY else []
        await send_head(send, first.status, [*others, *length, *extra])
        if is_whole and has_body and left == len(first.body):
            await send({"type": "http.response.body", "body": bytes(first.body), "more_body": False})
            return
        is_complete = False
        async for piece in self._pieces(call, first):
            if not piece:
                is_complete = True  # its app may go on, in the background
                break
            if left is not None and has_body:
                left -= len(piece)
                if left < 0:
                    break
            if has_body:
                await send_piece(send, piece)
        is_well = is_complete or (call.result is not None and call.result.outcome is Outcome.VALUE)
        if not is_well or (left and has_body):
            scope["stoker.connection"].cut()  # so that nobody takes what has come for all, or for no more than was said
            send.status = CUT
            return
        self._calls.let_go(call)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _first_of(self, call: WebCall) -> tuple[WebAnswer, bool]:
        """Return an answer's head with what comes first of its body, and whether that is all.

        Raises:
            Failed: there is none.
        """
        await call.wait()
        if call.items:
            return await self._calls.answer_in(call.id, self._calls.take_item(call)), False
        result = call.result
        assert result is not None
        if result.outcome is not Outcome.VALUE:
            self._server.discard([result.payload])
            raise Failed(problem_of(result.outcome, result.error), call.told_id)
        return await self._calls.answer_in(call.id, result.payload), True

    async def _pieces(self, call: WebCall, first: WebAnswer) -> AsyncIterator[bytes]:
        """Yield what the call says, until it has ended; the first is here already. An empty piece ends the answer."""
        for at in range(0, len(first.body), PIECE_BYTES):
            yield bytes(first.body[at : at + PIECE_BYTES])
        async for piece in self._rest(call):
            yield piece

    async def _rest(self, call: WebCall) -> AsyncIterator[bytes]:
        while True:
            while call.items:
                piece = await self._calls.bytes_of(self._calls.take_item(call))
                if piece is None:
                    self._calls.cancel(call)  # part of it is lost: nobody can have the whole
                    return
                yield bytes(piece)
            if call.result is not None:
                return
            await call.wait()

    # WebSockets

    async def talk(self, asked: Asked, scope: Scope, receive: Any, send: Tracked, extra: Pairs) -> None:
        """Have a WebSocket's messages passed on, both ways, until one side closes it.

        Raises:
            Failed: the call has, before it was accepted.
        """
        call = self._submit(asked, request_of(asked, scope, kind="websocket"))
        send.call_id = call.id
        feed = self._server.feeds.open(call.id)
        hearing = asyncio.create_task(self._hear(feed, receive), name=f"websocket of {call.id}")
        when_lost(scope, lambda: self._cancel_soon(call))
        try:
            first, _ = await self._first_of(call)
            pairs = encoded_pairs(first.headers)
            if first.status != SWITCHING:
                await self._deny(call, first, send, extra)
                return
            chosen = [value.decode("latin-1") for name, value in pairs if name == b"sec-websocket-protocol"]
            others = [pair for pair in pairs if pair[0] != b"sec-websocket-protocol"]
            accept = {"type": "websocket.accept", "headers": [*others, *extra]}
            await send(accept | ({"subprotocol": chosen[0]} if chosen else {}))
            await self._speak(call, send)
        finally:
            self._server.feeds.close(call.id)
            hearing.cancel()
            await asyncio.gather(hearing, return_exceptions=True)
            self._calls.cancel(call)

    def _cancel_soon(self, call: WebCall) -> None:
        """Give an app some time to see that its client has gone, and to return."""
        if call.result is None:
            self._server.loop.call_later(CLOSING_SECONDS, self._calls.cancel, call)

    async def _deny(self, call: WebCall, first: WebAnswer, send: Any, extra: Pairs) -> None:
        headers = [*encoded_pairs(first.headers), *extra]
        await send({"type": "websocket.http.response.start", "status": first.status, "headers": headers})
        async for piece in self._pieces(call, first):
            if not piece:
                break
            await send({"type": "websocket.http.response.body", "body": piece, "more_body": True})
        self._calls.let_go(call)
        await send({"type": "websocket.http.response.body", "body": b""})

    async def _speak(self, call: WebCall, send: Any) -> None:
        """Pass on what the app says until it closes the WebSocket, after which it may go on, or ends.

        What it says to a client that has gone is dropped: it will be told so, or sees it for itself.
        """
        async for piece in self._rest(call):
            said = decode_message(piece)
            if said.code:
                self._calls.let_go(call)
            with suppress(OSError):
                if said.code:
                    await send({"type": "websocket.close", "code": said.code, "reason": said.reason})
                    return
                await send({"type": "websocket.send", "text": said.text, "bytes": said.data})
        with suppress(OSError):
            await send(_closing(call))

    async def _hear(self, feed: CallFeed, receive: Any) -> None:
        while True:
            await feed.wait_for_room()
            message = await receive()
            if message["type"] == "websocket.disconnect":
                code, reason = message.get("code") or GOING_AWAY, message.get("reason") or ""
                feed.add(encode_message(SocketMessage(code=code, reason=reason)))
                feed.end(InputEnd.COMPLETE)
                return
            if message["type"] == "websocket.receive":
                feed.add(encode_message(SocketMessage(text=message.get("text"), data=message.get("bytes"))))

    # Other upgrades

    async def tunnel(self, asked: Asked, scope: Scope, tunnel: Tunnel, tracked: Tracked) -> None:
        """Pass bytes on both ways between a client and a server of a function's own, from the head of its answer on.

        Raises:
            Failed: the call has, before anything came of it.
        """
        call = self._submit(asked, request_of(asked, scope, kind="upgrade"))
        tracked.call_id = call.id
        feed = self._server.feeds.open(call.id)
        hearing = asyncio.create_task(_hear_bytes(feed, tunnel), name=f"tunnel of {call.id}")
        tunnel.when_lost(lambda: self._cancel_soon(call))
        try:
            await call.wait()
            result = call.result
            if not call.items and result is not None and result.outcome is not Outcome.VALUE:
                raise Failed(problem_of(result.outcome, result.error), call.told_id)
            async for piece in self._rest(call):
                await tunnel.write(piece)
        finally:
            self._server.feeds.close(call.id)
            hearing.cancel()
            await asyncio.gather(hearing, return_exceptions=True)
            self._calls.cancel(call)


def _closing(call: WebCall) -> dict[str, Any]:
    """Return the end of a WebSocket whose app has ended without closing it, or was ended."""
    result = call.result
    if result is not None and result.outcome is Outcome.VALUE:
        return {"type": "websocket.close", "code": NORMAL}
    error = result.error if result is not None else None
    if error is not None and error.type_name == "PermissionDenied":  # its token is none any more
        return {"type": "websocket.close", "code": AGAINST_THE_RULES, "reason": error.message}
    return {"type": "websocket.close", "code": SERVER_ERROR}


async def _first_of_body(scope: Scope, receive: Any) -> tuple[bytes, bool]:
    """Return a request's body, or what is here of one that is long or of unknown length, and whether more is to come.

    Raises:
        Problem: it ends too early.
    """
    is_long = scope["stoker.connection"].awaits_body and not _is_short(scope["headers"])
    pieces: list[bytes] = []
    while True:
        try:
            message = await (asyncio.wait_for(receive(), BEGIN_SECONDS) if is_long else receive())
        except asyncio.TimeoutError:
            return b"", True
        if message["type"] == "http.disconnect":
            raise Problem(400, "BadRequest", "The request's body ended before it was complete.", closes=True)
        pieces.append(message["body"])
        if is_long or not message["more_body"]:
            return b"".join(pieces), bool(message["more_body"])


def _is_short(headers: Pairs) -> bool:
    length = next((value for name, value in headers if name == b"content-length"), None)
    return length is not None and int(length) <= WHOLE_BYTES


async def _pass_body(feed: CallFeed, receive: Any) -> None:
    while True:
        await feed.wait_for_room()
        message = await receive()
        if message["type"] == "http.disconnect":
            feed.end(InputEnd.GONE)
            return
        feed.add(message["body"])
        if not message["more_body"]:
            feed.end(InputEnd.COMPLETE)
            return


async def _hear_bytes(feed: CallFeed, tunnel: Tunnel) -> None:
    while True:
        await feed.wait_for_room()
        data = await tunnel.read()
        if not data:
            feed.end(InputEnd.COMPLETE)
            return
        feed.add(data)


def _length_of(pairs: Pairs, call_id: str) -> int | None:
    """Return what an answer says of its length; None where it does not.

    Raises:
        Failed: it says nothing that could be believed.
    """
    found = {value.strip() for name, value in pairs if name == b"content-length"}
    if not found:
        return None
    value = found.pop()
    if found or not value.isdigit() or len(value) > LENGTH_DIGITS:
        said = "The app's answer has a Content-Length that is none, or two of them."
        raise Failed(Problem(500, "StokerError", said), call_id)
    return int(value)
