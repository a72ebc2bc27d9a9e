"""Connections of HTTP clients: uvicorn's, with limits on what a client may send, and on how slowly.

A request's line and headers have 32 KiB and ten seconds, a body goes on coming, and an answer goes on being read: who
keeps neither up is disconnected. One sweep a second looks at all connections, so that a request sets no timers.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from stoker.protocol.web_calls import SOCKET_MESSAGE_BYTES
from stoker.server.gateway.lingering import Lingering
from stoker.server.gateway.plain import ANSWERED, Answered, PlainRequest, PlainRequests
from stoker.server.gateway.problems import error_body, whole_answer
from stoker.server.gateway.sockets import Socket
from stoker.server.gateway.tunnels import Tunnel
from stoker.server.gateway.unread import Unread

if TYPE_CHECKING:
    from stoker.server.gateway.gateway import Gateway

HEAD_BYTES = 32 << 10
HEAD_SECONDS = 10.0
BODY_SECONDS = 30.0  # without a byte of a body that is not complete
KEEP_ALIVE_SECONDS = 75
PONG_SECONDS = 60.0  # for a client of one to answer a ping, which is sent it every 20 s
CONNECTIONS_MAX = 20_000
SWEEP_SECONDS = 1.0
RETRY_SECONDS = 5  # after which who was not answered because the server stops may ask again
TURNED_AWAY_SECONDS = 1.0  # for those to read that
LAGS = 15  # sweeps: as often as one is usually asked for its metrics
log = logging.getLogger(__name__)


class Corked:
    """The transport as one answer writes to it: its head goes out with what follows at once, in one write.

    Nothing is held of an answer that is complete: the next one may be written before the loop's next turn.
    """

    __slots__ = ("_connection", "_held", "_is_begun", "_transport")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._transport = connection.transport
        self._is_begun = False
        self._held = b""

    def write(self, data: bytes) -> None:
        if self._held:
            self._transport.write(self._held + data)
            self._held = b""
        elif self._is_begun or data.startswith(b"HTTP/1.1 100"):
            self._transport.write(data)
        else:
            self._is_begun = self._connection.is_in_answer = True
            self._held = data
            self._connection.loop.call_soon(self._flush)  # nothing has followed in this turn of the loop

    def _flush(self) -> None:
        if self._held:
            self._transport.write(self._held)
            self._held = b""

    def complete(self) -> None:
        """The answer is: an answer without a body is its head alone."""
        self._flush()
        self._connection.is_in_answer = False
        self._connection.on_response_complete()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self._flush()
        self._connection.close_in_order()


class Connection(HttpToolsProtocol):
    """See the module. ``on_lost`` is called when the client hangs up before its answer is complete."""

    def __init__(
        self,
        config: Config,
        state: ServerState,
        gateway: Gateway,
        refused: Counter[int],
        *,
        plain: PlainRequests | None = None,
    ) -> None:
        super().__init__(config, state, {})
        self._gateway = gateway
        self._plain = plain
        self._refused = refused
        self.on_lost: Callable[[], None] | None = None
        self._now = self.loop.time
        self._head_bytes = 0
        self._in_head = False
        self._since = self._now()  # when the last byte of a body came, or the first one of a head
        self._unread = Unread()
        self.is_in_answer = False  # part of one is written: what else is written would be taken for more of it
        self._is_half_closed = False
        self._fault: tuple[int, str, str] | None = None  # what is wrong with a head that the parser was told to refuse

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS_MAX:
            said = f"This server holds {CONNECTIONS_MAX} connections and takes no more now."
            self._refuse(503, "Overloaded", said, lingers=False)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        on_lost, self.on_lost = self.on_lost, None
        if on_lost is not None:
            on_lost()

    def eof_received(self) -> bool:  # type: ignore[override] # as of asyncio: true keeps the connection
        """Answer a client that says no more what it has asked; one in the middle of a request is let go.

        It may as well be gone altogether, which shows when something is sent to it: see `check`.
        """
        if self._last is None or self._last.response_complete or self._in_head or self.awaits_body:
            return False
        if self._last.scope["http_version"] != "1.1" or self.transport.get_extra_info("sslcontext") is not None:
            return False  # it knows of no answers that come before the answer, or cannot be half closed
        self._last.keep_alive = False
        self._is_half_closed = True
        self._probe()
        return True

    def _probe(self) -> None:
        """Say that its request is being worked on, which whoever has hung up refuses."""
        if self._last is not None and not self._last.response_started and not self.is_in_answer:
            self.transport.write(b"HTTP/1.1 102 Processing\r\n\r\n")

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if not self._in_head:
            self._since = self._now()  # of a head its first byte counts: a trickle of them would go on for ever
        last: Any = self.cycle
        if last is None or not last.more_body:
            self._in_head = True
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES + len(data):
                self._refuse(*self._too_long())
                return
        elif isinstance(last, PlainRequest):
            last.is_late = True
        try:
            super().data_received(data)
        except (UnicodeDecodeError, ValueError):  # in a path, which the parser lets through
            self.send_400_response("")

    @property
    def _last(self) -> RequestResponseCycle | PlainRequest | Answered | None:
        return self.cycle

    @property
    def awaits_body(self) -> bool:
        """Tell whether more is to come of the request that came last."""
        return self._last is not None and self._last.more_body

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["stoker.connection"] = self  # type: ignore[typeddict-unknown-key]

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        size, hosts = len(self.url), 0
        for name, value in self.headers:
            size += len(name) + len(value)
            hosts += name == b"host"
        if size > HEAD_BYTES:
            self._fault = self._too_long()
            raise httptools.HttpParserError("too many headers")
        if hosts > 1:
            self._fault = 400, "BadRequest", "A request of HTTP/1.1 names one Host, not several."
            raise httptools.HttpParserError("two hosts")  # one was looked at here, another would be by who answers
        before = self.cycle
        if self._plain is not None and (before is None or before.response_complete):
            plain = self._begin_plain(self._plain, size)
            if plain is not None:
                self.cycle = plain  # type: ignore[assignment]
                return
        super().on_headers_complete()
        if self.cycle is not before:  # else it is to be upgraded
            corked = Corked(self)
            self.cycle.transport, self.cycle.on_response = corked, corked.complete  # type: ignore[assignment]

    def _begin_plain(self, plain: PlainRequests, size: int) -> PlainRequest | None:
        try:
            return plain.begin(self, size=size)
        except Exception:  # the parser would take it for the client's fault
            log.exception("a request takes the long way")
            return None

    def on_body(self, body: bytes) -> None:
        last: object = self.cycle
        if isinstance(last, PlainRequest):
            last.body += body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        last: object = self.cycle
        if isinstance(last, PlainRequest):
            last.complete()
            return
        super().on_message_complete()
        if self._last is not None:
            self._last.more_body = False  # also of one that was answered before all of it had come

    def go_on(self, request: PlainRequest, answer: Callable[[Any, Any, Any], Any]) -> None:
        """Have ``answer``, an application of ASGI, answer a request that turned out to take more than one write."""
        corked = Corked(self)
        cycle = RequestResponseCycle(
            scope={**request.scope, "method": request.method},  # type: ignore[typeddict-item]
            transport=corked,  # type: ignore[arg-type]
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=[],
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=request.keep_alive,
            on_response=corked.complete,
        )
        cycle.more_body = False
        if self._last is request:
            self.cycle = cycle
        self._start_asgi_task(cycle, answer)

    def answered(self, request: PlainRequest) -> None:
        """Go on after a plain request, of which nothing is kept: most connections are idle."""
        if self._last is request:
            self.cycle = ANSWERED  # type: ignore[assignment]
            if self.scope is request.scope:  # else the head of the next one has begun to come
                self.url = b""
                self.headers = []
                self.scope = {}  # type: ignore[typeddict-item]
        self.on_response_complete()

    def on_response_complete(self) -> None:
        """Go on to what was asked meanwhile. The sweep looks for what is idle: a timer for each answer is not free."""
        self._since = self._now()
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)

    def pause_writing(self) -> None:
        self._unread.is_full(self._now())
        super().pause_writing()

    def resume_writing(self) -> None:
        self._unread.has_room()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self._refuse(*(self._fault or (400, "BadRequest", "What came is no request of HTTP/1.1.")))

    def _too_long(self) -> tuple[int, str, str]:
        """Return what is said of a head that is: of its URL, where that is most of it."""
        if 2 * len(self.url) > HEAD_BYTES:
            said = f"The URL is too long: it and the headers have {HEAD_BYTES} bytes at most, together."
            return 414, "BadRequest", f"{said} What is longer goes into a body, by POST."
        return 431, "BadRequest", f"The headers of a request have {HEAD_BYTES} bytes at most."

    def _refuse(self, status: int, kind: str, message: str, *, lingers: bool = True) -> None:
        self._refused[status] += 1
        if self.transport.is_closing():
            return
        if self.is_in_answer:
            self.cut()
        else:
            self.transport.write(whole_answer(status, error_body(kind, message)))
            if lingers and (self._last is None or self._last.response_complete):
                self._linger()
            else:
                self.transport.close()  # with what is being answered: it was asked by who sends nonsense now

    def close_in_order(self) -> None:
        """Close after an answer; of a request that has not come to its end, once its client has read that."""
        last = self._last
        if last is not None and last.response_complete and last.more_body and not self.transport.is_closing():
            self._linger()
        else:
            self.transport.close()

    def _linger(self) -> None:
        self.connection_lost(ConnectionAbortedError())  # to all here it is over
        Lingering(self.transport, self.connections, now=self._now())

    def cut(self) -> None:
        """End the connection in the middle of an answer, so that nobody takes what has come for all of it."""
        if self._last is not None:
            self._last.response_complete = True  # nothing more will come of it
        self.transport.abort()

    def turn_away(self) -> bool:
        """Answer that the server stops; false where an answer has begun, or one before it has."""
        last = self._last
        if last is None or last.response_started or self.pipeline or self.transport.is_closing():
            return False
        said = "The server is being stopped, and this request was not answered before that. What it asked for may have "
        body = error_body("Stopping", f"{said}begun; it was ended. Ask again when the server is back.")
        last.disconnected = True  # what its call still says is not written behind this
        self.transport.write(whole_answer(503, body, headers=[(b"retry-after", b"%d" % RETRY_SECONDS)]))
        self.transport.close()
        return True

    def handle_websocket_upgrade(self) -> None:
        try:
            url = httptools.parse_url(self.url)
        except httptools.HttpParserError:
            url = None
        is_free = self._last is None or self._last.response_complete  # else answers would be written into each other
        if url is None or not url.path or not url.path.isascii() or not is_free:
            self.send_400_response("")
            return
        raw_path = url.path
        self.scope["path"] = unquote(raw_path.decode("ascii"))
        self.scope["raw_path"] = raw_path
        self.scope["query_string"] = url.query or b""
        if not self._gateway.wants_tunnel(self.scope):  # type: ignore[arg-type]
            super().handle_websocket_upgrade()
            return
        self.connections.discard(self)
        tunnel = Tunnel(self.transport, self.connections)
        self.transport.set_protocol(tunnel)
        task = self.loop.create_task(self._gateway.tunnel(self.scope, tunnel))  # type: ignore[arg-type]
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing: other upgrades are offers, which are declined by an answer of HTTP/1.1."""

    def check(self, now: float) -> None:
        """Disconnect a client that is too slow."""
        if self._is_half_closed:
            self._probe()
        if self.flow.read_paused:
            self._since = now  # it may be saying more, which is not read: who answers has no room for it
        if self._in_head and now - self._since > HEAD_SECONDS:
            self._refuse(408, "BadRequest", f"A request's headers have {HEAD_SECONDS:.0f} s to come.")
        elif self.awaits_body and now - self._since > BODY_SECONDS:
            self.transport.abort()
        elif self._last is None and now - self._since > HEAD_SECONDS:
            self.transport.close()  # it has connected and said nothing
        elif self._is_idle() and now - self._since > KEEP_ALIVE_SECONDS:
            self.transport.close()
        self._unread.check(self.transport, now)

    def _is_idle(self) -> bool:
        """Tell whether nothing is asked."""
        return self._last is not None and self._last.response_complete


class Connections:
    """All of them, and the sweep."""

    def __init__(self, gateway: Gateway, *, plain: PlainRequests | None = None) -> None:
        self._gateway = gateway
        self._plain = plain
        self._config = Config(
            gateway,
            loop="none",
            http=Connection,
            ws=Socket,
            ws_max_size=SOCKET_MESSAGE_BYTES,
            ws_ping_timeout=PONG_SECONDS,
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            date_header=False,
            proxy_headers=False,  # who asks is who has connected: nobody is believed who says otherwise
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            interface="asgi3",
        )
        self._config.load()
        # It would write down each WebSocket, with its query, in which browsers have to send what else is a header.
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        self._state = ServerState()
        self._lags: deque[float] = deque(maxlen=LAGS)
        self.refused: Counter[int] = Counter()  # by status: what was no request, or came too slowly

    def __len__(self) -> int:
        return len(self._state.connections)

    def make(self) -> Connection:
        return Connection(self._config, self._state, self._gateway, self.refused, plain=self._plain)

    @property
    def lag(self) -> float:
        """Return by how many seconds the loop was late, at most, in the last sweeps."""
        return max(self._lags, default=0.0)

    async def sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + SWEEP_SECONDS
            await asyncio.sleep(SWEEP_SECONDS)
            now = loop.time()
            self._lags.append(max(0.0, now - due))
            for connection in list(self._state.connections):
                if isinstance(connection, (Connection, Socket, Tunnel, Lingering)):
                    connection.check(now)

    def close(self) -> None:
        """Take no further request; what is being answered is answered."""
        for connection in list(self._state.connections):
            connection.shutdown()

    async def drained(self, seconds: float) -> None:
        """Return when all have been answered, or the time is over: then they are turned away, or cut."""
        await self._gone(seconds)
        for connection in list(self._state.connections):
            if not (isinstance(connection, Connection) and connection.turn_away()):
                connection.transport.abort()
        await self._gone(TURNED_AWAY_SECONDS)
        for connection in list(self._state.connections):
            connection.transport.abort()
        while self._state.tasks:
            await asyncio.gather(*self._state.tasks, return_exceptions=True)

    async def _gone(self, seconds: float) -> None:
        """Return when there is no connection, or the time is over."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + seconds
        while self._state.connections and loop.time() < give_up:
            for connection in list(self._state.connections):
                if isinstance(connection, Lingering):
                    connection.shutdown()
            await asyncio.sleep(0.01)
