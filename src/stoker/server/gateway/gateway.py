"""The HTTP gateway: requests become calls, and what calls come to the answers. An ASGI application.

    /healthz                    the server lives
    /metrics                    its numbers, for Prometheus
    /<app>/docs                 what an app's endpoints take and give, for people
    /<app>/openapi.json         the same as OpenAPI 3.1
    /<app>/<function>           an endpoint
    /v1/calls/<id>              a call that was asked for to be fetched later

Bodies are opaque here: the worker reads them by the function's annotations, and makes the answer.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from stoker.core.calls import Payload
from stoker.core.disclosure import public
from stoker.errors import StokerError
from stoker.protocol.web_calls import WebAnswer, WebRequest, encode_request
from stoker.server.gateway import pages, versions
from stoker.server.gateway.exchanges import Asked, Exchanges, moved_to
from stoker.server.gateway.heads import check_host, deadline_of
from stoker.server.gateway.later import LaterCalls, Wanted
from stoker.server.gateway.plain import PlainRequests
from stoker.server.gateway.plain_heads import BODY_BYTES as INLINE_BYTES
from stoker.server.gateway.problems import Pairs, Problem, problem_of, whole_answer
from stoker.server.gateway.replies import CALL_ID, JSON, Failed, body_of, send_answer, send_bytes
from stoker.server.gateway.resuming import Resuming, new_id
from stoker.server.gateway.routing import Route, Routes, is_host_of_function
from stoker.server.gateway.shedding import Key, Refused, Shedding
from stoker.server.gateway.streams import send_stream
from stoker.server.gateway.token_door import TokenDoor
from stoker.server.gateway.tracked import Tracked
from stoker.server.gateway.tunnels import Tunnel
from stoker.server.gateway.web_calls import PUBLIC, WebCall, WebCalls
from stoker.server.metrics.exposition import Exposition
from stoker.server.metrics.tally import Labels
from stoker.server.spool import Spool
from stoker.types import Outcome

if TYPE_CHECKING:
    from stoker.server.server import Server

IN_MEMORY_BYTES = 64 << 20  # of a body: a bigger one goes to the disk, and costs no memory that is not given back
UNSIZED_BYTES = 16 << 20  # of a body that does not say how much will come
BODY_BYTES = 4 << 30
ALLOWED_HEADERS = (
    b"authorization, content-type, x-stoker-deadline, x-request-id, traceparent, prefer, idempotency-key, "
    b"x-stoker-callback, last-event-id"
)
PAGE_POLICY = (
    b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src blob:"
)
PAGES = {"/healthz": Labels("", "healthz"), "/metrics": Labels("", "metrics")}

Scope = dict[str, Any]


class Gateway:
    """See the module. ``is_local``: it listens on loopback, where it answers to no other name than this machine's."""

    def __init__(self, server: Server, *, is_local: bool) -> None:
        self._server = server
        self._is_local = is_local
        self._routes = Routes(server.functions)
        self._calls = WebCalls(server)
        self._later = LaterCalls(server, self._calls)
        self._door = TokenDoor(server)
        self.exposition: Exposition | None = None  # once there is a door, whose connections are among the numbers
        self._exchanges = Exchanges(server, self._calls)
        self._resuming = Resuming(self._calls)
        self._shedding = Shedding()
        self.plain = PlainRequests(
            server,
            calls=self._calls,
            routes=self._routes,
            door=self._door,
            shedding=self._shedding,
            count=self._count,
            is_local=is_local,
        )

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        headers = dict(reversed(scope["headers"]))  # the first of each name
        now = time.monotonic()  # the loop's own clock ticks in milliseconds
        if (refused := self._shedding.find(self._key(scope, headers), now=now)) is not None:
            await self._refuse_again(refused, send, began=now)
            return
        tracked = Tracked(scope, headers, send, now=now)
        try:
            await self._answered(scope, headers, receive, tracked)
        finally:
            self._count(tracked)

    async def _refuse_again(self, refused: Refused, send: Any, *, began: float) -> None:
        problem = refused.problem
        told = [(name.encode(), value.encode()) for name, value in problem.headers.items()]
        await send_bytes(send, problem.status, JSON, problem.body(), [*told, *refused.route.told])
        self._server.tally.shed(refused.route.key)
        self._server.tally.answered(refused.route.labels, problem.status, time.monotonic() - began)

    def _key(self, scope: Scope, headers: dict[bytes, bytes]) -> Key | None:
        return self._shedding.key(scope["method"], scope["path"], headers) if scope["type"] == "http" else None

    def _count(self, tracked: Tracked) -> None:
        self._server.tally.answered(tracked.labels, tracked.outcome, time.monotonic() - tracked.began)
        if tracked.version is not None:
            self._server.tally.answered_by(tracked.version, tracked.outcome)
        if tracked.call_id:
            records, request_id = self._server.web_records, tracked.request_id
            records.answered(tracked.call_id, *tracked.asked, tracked.status, tracked.refusal, request_id=request_id)
        if tracked.span is not None and self._server.spans is not None:
            self._server.spans.end(tracked.span, status=tracked.outcome)

    async def _answered(self, scope: Scope, headers: dict[bytes, bytes], receive: Any, send: Tracked) -> None:
        extra: Pairs = []
        call_id = ""
        if scope["type"] == "websocket":
            await self._socket(scope, headers, receive, send, extra)
            return
        try:
            await self._serve(scope, headers, receive, send, extra)
            return
        except Problem as problem:
            failure = problem
        except Failed as failed:
            failure, call_id = failed.problem, failed.call_id
            if not call_id:  # it was refused: nothing here knows a call of that id
                extra = [pair for pair in extra if pair[0] != CALL_ID]
        told = [(name.encode(), value.encode()) for name, value in failure.headers.items()]
        await send_bytes(send, failure.status, JSON, failure.body(call_id=call_id), [*told, *extra])

    async def _serve(
        self, scope: Scope, headers: dict[bytes, bytes], receive: Any, send: Tracked, extra: Pairs
    ) -> None:
        check_host(headers.get(b"host", b""), is_local=self._is_local)
        path: str = scope["path"]
        if path in PAGES and not is_host_of_function(headers.get(b"host", b"")):
            send.labels = PAGES[path]
            await self._own_page(path, scope["method"], headers, send)
            return
        app, _, page = (
            ("", "", "") if is_host_of_function(headers.get(b"host", b"")) else path.removeprefix("/").partition("/")
        )
        if page in {"docs", "openapi.json"} and scope["method"] in {"GET", "HEAD"}:
            send.labels = Labels("", page)
            await self._page(app, page, send)
            return
        if app == "v1":
            send.labels = Labels("", "calls")
            await self._fetch(scope["method"], page, headers, send)
            return
        route, rest = self._routes.find(path, headers.get(b"host", b""))
        self._track(route, scope["method"], send)
        if route.web.app:
            await self._ask_app(route, scope, receive, send, extra, headers=headers)
            return
        await self._ask_endpoint(route, scope, receive, send, extra, headers=headers, rest=rest)

    async def _ask_endpoint(
        self,
        route: Route,
        scope: Scope,
        receive: Any,
        send: Tracked,
        extra: Pairs,
        *,
        headers: dict[bytes, bytes],
        rest: str,
    ) -> None:
        """Have an endpoint answer: at once, later, or as a stream that goes on."""
        extra += self._cross_origin(route, headers)
        if scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
            await send_bytes(send, 204, b"", b"", extra)
            return
        if versions.HEADER not in headers:  # another version may take others
            self._checked_method(route, scope["method"])
        holder = self._door.admit(route, headers, extra)
        let_in = route
        connection, last = scope["stoker.connection"], headers.get(b"last-event-id", b"")
        if self._resuming.has(last):  # whichever version it is of
            await self._resuming.resume(last, route, connection, send, extra, holder=holder)
            return
        route = self._divided(route, holder, headers, send, extra)
        method = self._checked_method(route, scope["method"])
        if route.web.resume and last:
            await self._resuming.resume(last, route, connection, send, extra, holder=holder)
            return
        extra += route.told
        deadline = deadline_of(headers)
        later = await self._later.wanted(route, scope, headers, holder)
        payload = await self._payload(scope, headers, _request_of(route, scope, method, rest), receive)
        try:
            self._door.check_again({let_in.key: let_in, route.key: route}.values(), headers)
        except Problem:
            self._server.discard([payload])
            raise
        if later is not None:
            trace = send.traceparent
            await self._begin(route, payload, later, send, extra, holder=holder, deadline=deadline, trace=trace)
            return
        call = self._calls.submit(
            *(route.spec, route.key, payload),
            holder=holder,
            deadline=deadline,
            kind=route.kind,
            method=route.method,
            trace=send.traceparent,
            named=new_id() if route.web.resume else "",
        )
        extra.append((CALL_ID, call.id.encode()))
        if route.web.resume:
            await self._resuming.answer(call, route, connection, send, extra, holder=holder)
            return
        mine = connection.on_lost = lambda: self._calls.cancel(call)
        try:
            await (send_stream(self._calls, call, send, extra) if route.streams else self._single(call, send, extra))
        finally:
            if connection.on_lost is mine:  # else the next request on it has come
                connection.on_lost = None
            if call.result is not None and call.result.error is not None and not self._server.functions.beside:
                key, now = self._key(scope, headers), time.monotonic()
                self._shedding.learn(key, call.result, deadline=deadline, route=route, now=now)
            self._calls.cancel(call)  # of one that is over nothing is left to cancel

    # The server's own pages

    async def _own_page(self, path: str, method: str, headers: dict[bytes, bytes], send: Any) -> None:
        if path == "/healthz":
            await send_bytes(send, 200, JSON, b'{"status":"ok"}')
            return
        if method not in {"GET", "HEAD"}:
            raise Problem(405, "BadRequest", "/metrics is read by GET.", headers={"allow": "GET, HEAD"})
        if not self._server.config.metrics_public:
            token = self._door.known(headers.get(b"authorization", b""), label="/metrics")
            if token.is_limited:
                raise Problem(403, "PermissionDenied", f"The token {token.name!r} is for {token.scope} only.")
        if self.exposition is None:
            raise Problem(503, "StokerError", "This server's numbers are not there yet.")
        text, media_type = await self.exposition.text(headers.get(b"accept", b"").decode("latin-1"))
        await send_bytes(send, 200, media_type.encode(), text)

    # Web apps of users' own

    def _track(self, route: Route, method: str, send: Tracked) -> None:
        send.labels = route.labels
        if self._server.spans is not None:
            path = f"/{route.spec.app}/{route.path}"
            send.span = self._server.spans.begin(send, method=method, path=path)

    async def _ask_app(
        self, route: Route, scope: Scope, receive: Any, send: Tracked, extra: Pairs, *, headers: dict[bytes, bytes]
    ) -> None:
        """Have a function's own web app answer."""
        if route.web.cors:
            extra += self._cross_origin(route, headers)
            if scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
                await send_bytes(send, 204, b"", b"", extra)
                return
        if moved := moved_to(route, scope):
            await send_bytes(send, 308, JSON, b"", [(b"location", moved.encode("latin-1")), *extra])
            return
        holder = self._door.admit(route, headers, extra)
        found = self._divided(route, holder, headers, send, extra)
        asked = Asked(found, holder, deadline_of(headers), send.traceparent)

        def check_again() -> None:
            self._door.check_again({route.key: route, found.key: found}.values(), headers)

        await self._exchanges.answer(asked, scope, receive, send, extra, check_again=check_again)

    async def _socket(
        self, scope: Scope, headers: dict[bytes, bytes], receive: Any, send: Tracked, extra: Pairs
    ) -> None:
        """Have a function's own web app talk over a WebSocket, or say by an answer of HTTP why not."""
        await receive()  # that it wants to connect
        call_id = ""
        try:
            asked = self._asked(scope, headers, send, extra)
            await self._exchanges.talk(asked, scope, receive, send, extra)
            return
        except Problem as problem:
            failure = problem
        except Failed as failed:
            failure, call_id = failed.problem, failed.call_id
        told = [(name.encode(), value.encode()) for name, value in failure.headers.items() if name != "connection"]
        told.append((b"content-type", JSON))
        await send({"type": "websocket.http.response.start", "status": failure.status, "headers": told})
        await send({"type": "websocket.http.response.body", "body": failure.body(call_id=call_id)})

    def _asked(self, scope: Scope, headers: dict[bytes, bytes], send: Tracked, extra: Pairs) -> Asked:
        check_host(headers.get(b"host", b""), is_local=self._is_local)
        route, _ = self._routes.find(scope["path"], headers.get(b"host", b""))
        self._track(route, "GET", send)
        if route.web.app not in {"asgi", "server"}:
            raise Problem(426, "BadRequest", f"{route.label} speaks no WebSockets: an asgi_app() or web_server() does.")
        if route.web.cors:
            self._cross_origin(route, headers)
        holder = self._door.admit(route, headers, extra)
        return Asked(self._divided(route, holder, headers, send, extra), holder, deadline_of(headers), send.traceparent)

    def _divided(self, route: Route, holder: str, headers: dict[bytes, bytes], send: Tracked, extra: Pairs) -> Route:
        """Return the endpoint of the version that answers; ``extra`` says which one. Another one may let in less."""
        found = versions.chosen(self._server, route, headers)
        if found is not route and holder == PUBLIC:
            self._door.admit(found, headers, extra)
        extra += versions.version_of(found)
        send.version = versions.counted_as(self._server, found)
        return found

    def wants_tunnel(self, scope: Scope) -> bool:
        """Tell whether an upgraded connection goes through to a server of a function's own."""
        headers = dict(reversed(scope["headers"]))
        try:
            return self._routes.find(scope["path"], headers.get(b"host", b""))[0].web.app == "server"
        except Problem:
            return False

    async def tunnel(self, scope: Scope, tunnel: Tunnel) -> None:
        """Serve an upgraded connection, and close it."""
        headers = dict(reversed(scope["headers"]))
        tracked = Tracked(scope, headers, None, now=time.monotonic())
        tracked.status = 101
        try:
            await self._exchanges.tunnel(self._asked(scope, headers, tracked, []), scope, tunnel, tracked)
        except Problem as problem:
            tracked.status = problem.status
            await tunnel.write(whole_answer(problem.status, problem.body()))
        except Failed as failed:
            tracked.status = failed.problem.status
            await tunnel.write(whole_answer(tracked.status, failed.problem.body(call_id=failed.call_id)))
        finally:
            tunnel.transport.close()
            self._count(tracked)

    # Later

    async def _begin(
        self,
        route: Route,
        payload: Payload,
        later: Wanted,
        send: Any,
        extra: Pairs,
        *,
        holder: str,
        deadline: float | None,
        trace: str,
    ) -> None:
        call_id = later.call_id
        refusal = await self._later.begin(route, payload, later, holder=holder, deadline=deadline, trace=trace)
        if refusal is not None and refusal.outcome is not Outcome.VALUE:
            raise Failed(problem_of(refusal.outcome, refusal.error), "")  # no call has come of it
        place = f"/v1/calls/{call_id}"
        headers = [(b"location", place.encode()), (CALL_ID, call_id.encode())]
        try:
            state = await self._later.state_name(call_id)
        except (StokerError, Problem):
            state = "queued"  # it was written down, and who is told of a failure would ask once more
        told = {"call_id": call_id, "state": state, "path": place, "result_path": f"{place}/result"}
        body = msgspec.json.encode(told)
        await send_bytes(send, 202, JSON, body, [*headers, (b"preference-applied", b"respond-async"), *extra])

    async def _fetch(self, method: str, place: str, headers: dict[bytes, bytes], send: Any) -> None:
        """Answer what is asked of a call by its id."""
        kind, _, rest = place.partition("/")
        call_id, _, what = rest.partition("/")
        if kind != "calls" or not call_id or what not in {"", "result"}:
            raise Problem(404, "NotFound", "There are /v1/calls/<id> and /v1/calls/<id>/result.")
        holder = await self._holder(call_id, headers.get(b"authorization"))
        if method == "DELETE" and not what:
            cancelled = await self._later.cancel(call_id, holder)
            await send_bytes(send, 200, JSON, msgspec.json.encode({"call_id": call_id, "cancelled": cancelled}))
        elif method not in {"GET", "HEAD"}:
            raise Problem(405, "BadRequest", "A call is looked at by GET, and cancelled by DELETE.")
        elif not what:
            await send_bytes(send, 200, JSON, msgspec.json.encode(await self._later.state(call_id, holder)))
        else:
            await self._fetch_result(call_id, holder, send)

    async def _holder(self, call_id: str, given: bytes | None) -> str:
        """Return who asks of a call; a public one is asked of by anybody, with whatever token."""
        if given is None:
            return PUBLIC
        try:
            return self._door.known(given, label="This call").id
        except Problem:
            if not await self._later.is_public(call_id):
                raise
            return PUBLIC

    async def _fetch_result(self, call_id: str, holder: str, send: Any) -> None:
        result = await self._later.result(call_id, holder)
        if result is None:
            state = await self._later.state(call_id, holder)
            await send_bytes(send, 202, JSON, msgspec.json.encode(state), [(b"retry-after", b"1")])
        elif result.outcome is not Outcome.VALUE:
            raise Failed(problem_of(result.outcome, result.error), call_id)
        else:
            await send_answer(send, await self._calls.answer_in(call_id, result.payload, is_kept=True), [])

    # Who may

    def _cross_origin(self, route: Route, headers: dict[bytes, bytes]) -> Pairs:
        """Return the headers that let a page of another origin read the answer.

        Raises:
            Problem: it is none that the endpoint allows.
        """
        origin = headers.get(b"origin", b"").decode("latin-1")
        if not origin:
            return []
        if "*" not in route.web.cors and origin not in route.web.cors:
            if urlsplit(origin).netloc == headers.get(b"host", b"").decode("latin-1"):
                return []
            raise Problem(
                403,
                "PermissionDenied",
                f"Pages of {origin:.100} may not call {route.label}: it is not among its endpoint(cors=…).",
            )
        allowed = origin if "*" not in route.web.cors else "*"
        return [
            (b"access-control-allow-origin", allowed.encode("latin-1")),
            (b"access-control-allow-methods", ", ".join(route.web.methods).encode()),
            (b"access-control-allow-headers", ALLOWED_HEADERS),
            (
                b"access-control-expose-headers",
                b"x-stoker-call-id, x-stoker-version, x-request-id, traceparent, retry-after, ratelimit, "
                b"ratelimit-policy",
            ),
            (b"access-control-max-age", b"600"),
            (b"vary", b"origin"),
        ]

    def _checked_method(self, route: Route, method: str) -> str:
        asked = "GET" if method == "HEAD" else method
        if asked not in route.web.methods:
            allowed = ", ".join(route.web.methods)
            raise Problem(
                405, "BadRequest", f"{route.label} takes {allowed}, not {method:.20}.", headers={"allow": allowed}
            )
        return asked

    # Bodies

    async def _payload(self, scope: Scope, headers: dict[bytes, bytes], request: WebRequest, receive: Any) -> Payload:
        """Return the request as a payload, a big one in a file that it was written to as it came."""
        length = headers.get(b"content-length", b"")
        size = int(length) if length.isdigit() else 0
        if size > BODY_BYTES:
            raise Problem(413, "BadRequest", f"A request's body has {BODY_BYTES >> 30} GiB at most.", closes=True)
        if size > INLINE_BYTES:
            return await self._spooled(request, size, receive)
        pieces: list[bytes] = []
        total = 0
        async for piece in body_of(receive):
            total += len(piece)
            if total > UNSIZED_BYTES:
                raise Problem(
                    413,
                    "BadRequest",
                    f"A body of more than {UNSIZED_BYTES >> 20} MiB says its size first, by Content-Length.",
                    closes=True,
                )
            pieces.append(piece)
        return encode_request(request, body=b"".join(pieces))

    async def _spooled(self, request: WebRequest, size: int, receive: Any) -> Payload:
        head = encode_request(request)
        whole = len(head) + size
        with Spool(self._server.files, "http", size=whole, on_disk=whole > IN_MEMORY_BYTES) as spool:
            spool.add(whole, memoryview(head))
            async for piece in body_of(receive):
                if piece:
                    spool.add(whole, memoryview(piece))
            spool.complete(memoryview(b""))
            if spool.failure is not None:
                raise Problem(507, type(spool.failure).__name__, public(str(spool.failure)))
            return spool.keep()

    # Answers

    async def _single(self, call: WebCall, send: Any, extra: Pairs) -> None:
        await call.wait()
        answer = await self._answer_of(call)
        await send_answer(send, answer, extra)

    async def _answer_of(self, call: WebCall) -> WebAnswer:
        result = call.result
        assert result is not None
        if result.outcome is not Outcome.VALUE:
            self._server.discard([result.payload])
            raise Failed(problem_of(result.outcome, result.error), call.told_id)
        return await self._calls.answer_in(call.id, result.payload)

    async def _page(self, app: str, page: str, send: Any) -> None:
        routes = self._routes.of_app(app)
        if page == "docs":
            headers = [(b"content-security-policy", PAGE_POLICY), (b"x-content-type-options", b"nosniff")]
            await send_bytes(send, 200, b"text/html; charset=utf-8", pages.docs(app), headers)
        else:
            await send_bytes(send, 200, JSON, msgspec.json.encode(pages.openapi(app, routes)))


def _request_of(route: Route, scope: Scope, method: str, rest: str) -> WebRequest:
    """Return a request as it travels, without its body. The token is Stoker's alone."""
    return WebRequest(
        method=method,
        path=rest,
        query=scope["query_string"].decode("ascii", "replace"),
        headers=[
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in scope["headers"]
            if name != b"authorization"
        ],
        client=scope["client"][0] if scope["client"] else "",
        target=route.method,
    )
