"""Plain requests: a small body comes, an endpoint's one answer goes. Most are plain, and they take the short way here.

A request becomes a call as soon as its last byte is here, and its answer is written as soon as the call has ended, in
one piece: no task waits for either. What is decided on the way is decided by the same parts as in `Gateway`, in the
same order, and said in the same words. What takes more than that is left to it: later answers, streams, web apps,
pages of other origins, bodies of some size, versions beside the current one, traces that are recorded, and whatever is
wrong with a request before it has a route.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from stoker.core.calls import Result, Segment
from stoker.errors import ProtocolError
from stoker.protocol.encoded import Buffer
from stoker.protocol.web_calls import join_request, read_answer_header, split_answer
from stoker.server.gateway import versions
from stoker.server.gateway.heads import check_host, deadline_of
from stoker.server.gateway.plain_heads import (
    HEADER_BYTES,
    KEPT_BYTES,
    KEPT_HEADS,
    Leads,
    PlainHead,
    line_of,
    read_head,
    seen_by_function,
)
from stoker.server.gateway.problems import Pairs, Problem, problem_of
from stoker.server.gateway.replies import CALL_ID, JSON, Failed, encoded_pairs, send_answer, send_bytes
from stoker.server.gateway.routing import Route, Routes
from stoker.server.gateway.shedding import Refused, Shedding
from stoker.server.gateway.token_door import TokenDoor
from stoker.server.gateway.tracked import FAILED, HUNG_UP, PARENT, REQUEST_ID, Tracked
from stoker.server.gateway.web_calls import WebCall, WebCalls, lost_answer
from stoker.types import Outcome

if TYPE_CHECKING:
    from stoker.server.client_tokens import ClientToken
    from stoker.server.gateway.connections import Connection
    from stoker.server.server import Server

CACHED_BYTES = 512  # of an answer's header that is remembered as it is written
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*")
_THE_SERVERS = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"trailer"})
_NO_BODY = frozenset({204, 304})
_KEEPS = frozenset({b"connection", b"proxy-connection"})
log = logging.getLogger(__name__)


class PlainRequests:
    """See the module. ``count`` is told of each request that is over; ``is_local``: see `check_host`."""

    def __init__(
        self,
        server: Server,
        *,
        calls: WebCalls,
        routes: Routes,
        door: TokenDoor,
        shedding: Shedding,
        count: Callable[[Tracked], None],
        is_local: bool,
    ) -> None:
        self.server = server
        self.calls = calls
        self.door = door
        self.shedding = shedding
        self.count = count
        self._known_head = lru_cache(maxsize=KEPT_HEADS)(read_head)  # its own: a head leads to what is deployed here
        self._routes = routes
        self._is_local = is_local

    def begin(self, connection: Connection, *, size: int) -> PlainRequest | None:
        """Return the request whose headers have come, if it is plain. ``size``: their bytes, with the URL's."""
        parser, server = connection.parser, self.server
        if server.functions.beside or server.spans is not None or connection.flow.write_paused:
            return None
        if parser.should_upgrade() or not parser.should_keep_alive():
            return None
        is_short = size + HEADER_BYTES * len(connection.headers) <= KEPT_BYTES
        read = self._known_head if is_short else read_head
        head = read(parser.get_method(), connection.url, tuple(connection.headers))
        if head is None or (not _KEEPS.isdisjoint(head.headers) and parser.get_http_version() != "1.1"):
            return None  # without such a header only connections of 1.1 are kept
        method = head.method
        connection.scope["method"], connection.scope["raw_path"] = method, head.raw_path
        now = time.monotonic()
        refused = self.shedding.find(head.key, now=now)
        if refused is not None and method != "HEAD":  # whose answers have no bodies
            return PlainRequest(self, connection, refused.route, head, now=now, refused=refused)
        try:
            leads = self._leads(head)
            if leads is None or server.traffic.goes_on(leads.route.key):
                return None
            route = leads.route
            token = self.door.checked(route, head.headers)  # before its body: of who may not come in nothing is held
        except Problem:
            return None
        request = PlainRequest(self, connection, route, head, now=now)
        request.rest, request.token, request.is_short = leads.rest, token, is_short
        return request

    def _leads(self, head: PlainHead) -> Leads | None:
        """Return where a head leads, looked up once until something changes; None if its request is not plain there.

        Raises:
            Problem: it leads nowhere, or its host is none of this server's.
        """
        generation = self.server.functions.generation
        if head.leads is not None and head.leads.generation == generation:
            return head.leads
        host = head.headers.get(b"host", b"")
        check_host(host, is_local=self._is_local)
        route, rest = self._routes.find(head.path, host)
        if not route.is_plain or head.method not in route.web.methods:
            return None
        head.leads = Leads(generation, route, rest)
        return head.leads


class Head(NamedTuple):
    """An answer's status, its headers as they are written, and their names."""

    status: int
    lines: bytes
    names: frozenset[bytes]


class _Unheard:
    """An event that nobody waits for."""

    @staticmethod
    def set() -> None:
        pass


class Answered:
    """What is left of a plain request: to its connection a cycle that is over."""

    message_event = _Unheard()
    scope: Mapping[str, Any] = MappingProxyType({"http_version": "1.1"})
    response_started = response_complete = keep_alive = True
    more_body = disconnected = False


ANSWERED = Answered()


class PlainRequest:
    """One of them. To its connection it is what uvicorn calls a cycle."""

    __slots__ = (
        *(
            "_call",
            "_connection",
            "_extra",
            "_has_route",
            "_head",
            "_of",
            "_refused",
            "_route",
            "_tracked",
            "disconnected",
        ),
        *("body", "is_late", "is_short", "keep_alive", "method", "more_body", "response_complete", "response_started"),
        *("rest", "scope", "token"),
    )
    message_event = _Unheard()

    def __init__(
        self,
        of: PlainRequests,
        connection: Connection,
        route: Route,
        head: PlainHead,
        *,
        now: float,
        refused: Refused | None = None,
    ) -> None:
        self._of = of
        self._connection = connection
        self._route = route
        self._head = head
        self.method = head.method
        self._refused = refused
        self._has_route = False  # it was let in: its answer has what the endpoint's answers have
        self._extra: Pairs = []
        self._call: WebCall | None = None
        scope: Any = connection.scope
        self.scope = scope
        self._tracked = Tracked(scope, head.headers, None, now=now)
        self._tracked.labels = route.labels
        self.rest = ""
        self.is_short = False  # its head: what is made of it may be remembered
        self.token: ClientToken | None = None
        self.is_late = False  # its body has not come with its head
        self.body = bytearray()
        self.more_body = True
        self.keep_alive = True
        self.disconnected = False
        self.response_started = False
        self.response_complete = False
        connection.on_lost = self._lost

    def complete(self) -> None:
        """All of the request has come: have it answered."""
        if not self.more_body:
            return  # what has come to its end is something else, which nobody answers while this is being answered
        self.more_body = False
        if self.response_complete or self.disconnected:
            return  # it was turned away meanwhile
        try:
            self._ask()
        except Exception:  # the parser would take it for the client's fault
            log.exception("a request failed in the server")
            problem = Problem(500, "StokerError", "The server failed at this request; its log says how.", closes=True)
            self._tell(problem)

    def _ask(self) -> None:
        if self._refused is not None:
            self._refuse(self._refused)
            return
        try:
            call = self._call = self._submit()
        except Problem as problem:
            self._tell(problem)
            return
        if call.result is not None:
            self._ended()
        else:
            call.on_end = self._ended

    def _submit(self) -> WebCall:
        of, route = self._of, self._route
        if self.is_late:  # see `TokenDoor`
            self.token = of.door.checked(route, self._head.headers)
        holder = of.door.counted(self.token, self._extra)
        self._has_route = True
        deadline = deadline_of(self._head.headers)
        return of.calls.submit(
            route.spec,
            route.key,
            self._payload(),
            holder=holder,
            deadline=deadline,
            kind=route.kind,
            method=route.method,
            trace=self._tracked.traceparent,
        )

    def _payload(self) -> bytes:
        client, head = self._connection.client, self._head
        line = (line_of if self.is_short else line_of.__wrapped__)(
            head, self.rest, client[0] if client else "", self._route.method
        )
        if head.seen is not None:
            seen = b'%b%b"]]' % (head.seen, self._tracked.request_id)
        else:
            seen = seen_by_function(self.scope["headers"])
        body, self.body = self.body, bytearray()
        return join_request(line, seen, body)

    def _learn(self, result: Result) -> None:
        deadline = deadline_of(self._head.headers)
        self._of.shedding.learn(self._head.key, result, deadline=deadline, route=self._route, now=time.monotonic())

    def _lost(self) -> None:
        """Its client has hung up."""
        if self._call is not None:
            self._of.calls.cancel(self._call)
        elif not self.response_complete:
            self._over(HUNG_UP)

    # Answers

    def _ended(self) -> None:
        try:
            self._answer()
        except Exception:
            log.exception("a request was not answered")
            self._cut()

    def _answer(self) -> None:
        """Say what has come of the call, now that it is over."""
        call = self._call
        assert call is not None and call.result is not None
        result, payload = call.result, call.result.payload
        if self.disconnected:
            self._of.server.discard([payload])
            self._over(HUNG_UP)
        elif result.outcome is not Outcome.VALUE:
            self._of.server.discard([payload])
            if result.error is not None:
                self._learn(result)
            if call.is_refused:
                self._call = None  # `calls show` knows none of its id
            self._tell(problem_of(result.outcome, result.error))
        elif isinstance(payload, Segment) or self._connection.flow.write_paused:
            self._connection.on_lost = None
            self._connection.go_on(self, self._answer_slowly)
        else:
            try:
                head, body = _read(payload)
            except ProtocolError:
                self._tell(lost_answer())
                return
            if 400 <= head.status < 500:
                self._tracked.refusal = body
            self._write(head, body)

    async def _answer_slowly(self, scope: Any, receive: Any, send: Any) -> None:
        """Write an answer whose bytes have to be read first, or to a client that does not read what it is sent."""
        call, tracked = self._call, self._tracked
        assert call is not None and call.result is not None
        extra = [*self._extra, *versions.version_of(self._route), *self._route.told, (CALL_ID, call.id.encode())]
        tracked.sends_by(send)
        try:
            await send_answer(tracked, await self._of.calls.answer_in(call.id, call.result.payload), extra)
        except Failed as failed:
            problem = failed.problem
            told = [(name.encode(), value.encode()) for name, value in problem.headers.items()]
            await send_bytes(tracked, problem.status, JSON, problem.body(call_id=call.id), [*told, *extra])
        finally:
            self._of.count(tracked)

    def _tell(self, problem: Problem) -> None:
        """Say why there is no answer."""
        told = [b"content-type: application/json\r\n"]
        told += [b"%b: %b\r\n" % (name.encode(), value.encode()) for name, value in problem.headers.items()]
        if problem.headers.get("connection") == "close":
            self.keep_alive = False
            del told[-1]  # it is said below
        body = problem.body(call_id=self._call.id if self._call is not None else "")
        self._write(Head(problem.status, b"".join(told), frozenset()), body)

    def _refuse(self, refused: Refused) -> None:
        """Say what such a request was told a moment ago."""
        self._of.server.tally.shed(refused.route.key)
        if not self.keep_alive or self._connection.transport.is_closing():
            self._tell(refused.problem)
            return
        self._connection.transport.write(refused.whole)
        self._over(refused.problem.status)

    def _write(self, head: Head, body: Buffer) -> None:
        """Write an answer in one piece."""
        transport, tracked = self._connection.transport, self._tracked
        if transport.is_closing() or self._connection.parser is None:
            self._over(HUNG_UP)
            return
        status, lines, names = head
        has_body, call = status not in _NO_BODY, self._call
        told = (
            STATUS_LINE[status],
            lines,
            b"content-length: %d\r\n" % len(body) if has_body else b"",
            self._route.lines if self._has_route else b"",
            b"".join([b"%b: %b\r\n" % pair for pair in self._extra]) if self._extra else b"",
            b"x-stoker-call-id: %b\r\n" % call.id.encode() if call is not None else b"",
            b"" if REQUEST_ID in names else b"x-request-id: %b\r\n" % tracked.request_id,
            b"" if PARENT in names else b"traceparent: %b\r\n" % tracked.traceparent.encode(),
            b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n",
            body if has_body else b"",
        )
        transport.write(b"".join(told))
        self._over(status)

    def _over(self, status: int) -> None:
        """Let the connection go on."""
        self.response_started = self.response_complete = True
        tracked, connection = self._tracked, self._connection
        tracked.status = status
        if self._call is not None:
            tracked.call_id = self._call.id
        connection.on_lost = None
        self._of.count(tracked)
        if not self.keep_alive:
            connection.transport.close()
        connection.answered(self)

    def _cut(self) -> None:
        self._connection.on_lost = None
        self._connection.cut()
        self._tracked.status = FAILED
        try:
            self._of.count(self._tracked)
        except Exception:  # it may be what has failed, and others' calls are told after this
            log.exception("a request was not counted")


def _read(payload: bytes | memoryview) -> tuple[Head, Buffer]:
    """Return an answer's head and its body.

    Raises:
        ProtocolError: it is none.
    """
    header, body = split_answer(payload)
    return (_head(header) if len(header) <= CACHED_BYTES else _head.__wrapped__(header)), body


@lru_cache(maxsize=1024)  # an endpoint's answers differ in their bodies
def _head(header: bytes) -> Head:
    status, headers = read_answer_header(header)
    pairs = [(name.lower(), value) for name, value in encoded_pairs(headers)]
    for name, value in pairs:
        if _NAME.fullmatch(name) is None or _VALUE.fullmatch(value) is None or name in _THE_SERVERS:
            raise ProtocolError(f"An answer's header {name!r:.80} may not go out.")
    if status not in STATUS_LINE:
        raise ProtocolError(f"An answer's status is not {status}.")
    lines = [b"%b: %b\r\n" % pair for pair in pairs if pair[0] != b"content-length"]
    return Head(status, b"".join(lines), frozenset(name for name, _ in pairs))
