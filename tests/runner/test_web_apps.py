"""Apps and servers in a worker, against an exchange that remembers what was said by it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, cast

import pytest

from stoker.errors import InvalidRequest, StokerError
from stoker.protocol.web_calls import (
    SOCKET_MESSAGE_BYTES,
    SocketMessage,
    WebAnswer,
    WebRequest,
    decode_answer,
    decode_message,
    encode_message,
)
from stoker.runner import web_server
from stoker.runner.asgi import AsgiApp
from stoker.runner.attempts import Attempt, Desk
from stoker.runner.exchanges import ClientGone, TaskExchange, ThreadExchange, pieces_of
from stoker.runner.interrupts import Interrupt
from stoker.runner.outbox import Outbox, Stream
from stoker.runner.web_server import WebServer
from stoker.runner.wsgi import WsgiApp


class Exchange:
    """What an app is given, with a client that says this, and ends with an exception if there is one."""

    def __init__(self, request: WebRequest, *says: bytes | Exception) -> None:
        self.request = request
        self.sent: list[bytes] = []
        self.ended = asyncio.Event()
        self._says = list(says)
        self._more = asyncio.Event()

    @property
    def has_begun(self) -> bool:
        return bool(self.sent)

    async def receive(self) -> bytes | None:
        if not self._says:
            await self._more.wait()
            return None
        said = self._says.pop(0)
        if isinstance(said, Exception):
            raise said
        return said

    async def send(self, body: bytes, head: WebAnswer | None = None) -> None:
        self.sent += pieces_of(head, body)

    async def send_whole(self, piece: bytes) -> None:
        self.sent.append(piece)

    def end(self, last: bytes = b"") -> None:
        self.sent += [last, b""] if last else [b""]
        self.ended.set()

    def hear_no_more(self) -> None:
        self._more.set()

    def complete(self) -> None:
        """Have its client say that this was all."""
        self._more.set()


def is_task(exchange: Exchange) -> TaskExchange:
    return cast("TaskExchange", exchange)


# -- ASGI

AsgiCallable = Callable[[Any, Any, Any], Awaitable[None]]


async def ask(app: AsgiCallable, exchange: Exchange) -> bytes:
    async def with_lifespan(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] != "lifespan"
        await app(scope, receive, send)

    made = AsgiApp(lambda: with_lifespan, label="apps.site")
    await made.start()
    return await made.serve(is_task(exchange))


async def answer_at_once(send: Any, *, body: bytes = b"done") -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def test_an_answer_goes_out_though_its_app_does_something_in_the_background() -> None:
    exchange = Exchange(WebRequest("GET"))

    async def app(_: Any, __: Any, send: Any) -> None:
        await answer_at_once(send)
        await exchange.ended.wait()

    assert not await ask(app, exchange)
    answer, end = exchange.sent
    assert bytes(decode_answer(answer).body) == b"done" and not end


async def test_an_answer_of_an_app_that_returns_is_its_value() -> None:
    exchange = Exchange(WebRequest("GET"))

    async def app(_: Any, __: Any, send: Any) -> None:
        await answer_at_once(send)

    assert bytes(decode_answer(await ask(app, exchange)).body) == b"done" and not exchange.sent


async def test_an_app_of_the_other_kind_is_named_with_its_decorator() -> None:
    def of_wsgi(environ: Any, start_response: Any) -> list[bytes]:
        return []

    async def of_asgi(scope: Any, receive: Any, send: Any) -> None: ...

    def of_any(*_: Any) -> list[bytes]:
        return []

    with pytest.raises(InvalidRequest, match=r"apps.site has returned an app of WSGI .*Put @stoker.wsgi_app\(\)"):
        await AsgiApp(lambda: of_wsgi, label="apps.site").start()
    with pytest.raises(InvalidRequest, match=r"apps.site has returned an app of ASGI .*Put @stoker.asgi_app\(\)"):
        WsgiApp(lambda: of_asgi, label="apps.site").start()
    WsgiApp(lambda: of_wsgi, label="apps.site").start()
    WsgiApp(lambda: of_any, label="apps.site").start()


TRACEBACK = """Traceback (most recent call last):
  File "starlette/routing.py", line 694, in lifespan
    async with self.lifespan_context(app) as maybe_state:
  File "app.py", line 8, in lifespan
    raise ConnectionError("no database")
ConnectionError: no database
"""


@pytest.mark.parametrize(
    ("message", "first"),
    [(TRACEBACK, "ConnectionError: no database"), ("no luck", "no luck"), ("", "no reason given"), ("a\nb", "a")],
)
async def test_a_lifespan_that_fails_says_first_what_it_was(message: str, first: str) -> None:
    async def app(_: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": message})

    with pytest.raises(RuntimeError) as failed:
        await AsgiApp(lambda: app, label="apps.site").start()
    told, _, rest = str(failed.value).partition("\n")
    assert told == f"its lifespan says that startup has failed: {first}"
    assert not rest or rest == message.rstrip()


async def test_a_client_that_has_gone_stays_gone() -> None:
    heard: list[str] = []

    async def app(_: Any, receive: Any, send: Any) -> None:
        heard.extend([(await receive())["type"], (await receive())["type"], (await receive())["type"]])
        await answer_at_once(send)

    await ask(app, Exchange(WebRequest("POST", has_more=True), b"half", ClientGone()))
    assert heard == ["http.request", "http.disconnect", "http.disconnect"]


@pytest.mark.parametrize("header", [(b"x-a", b"\x01"), (b"x-a", b"1\r\nx-b: 2"), (b"x a", b"1"), (b"", b"1")])
async def test_malformed_headers_are_the_apps_own_mistake(header: tuple[bytes, bytes]) -> None:
    async def app(_: Any, __: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x.fine!", b"a\tb \xe9"), header]})

    with pytest.raises(ValueError, match="no header of HTTP"):
        await ask(app, Exchange(WebRequest("GET")))


WEBSOCKET = WebRequest("GET", kind="websocket")


async def test_an_app_that_closes_its_websocket_hears_no_more() -> None:
    heard: list[Any] = []

    async def app(_: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        listening = asyncio.create_task(receive())
        await asyncio.sleep(0)
        await send({"type": "websocket.close", "code": 4001, "reason": "so"})
        heard.extend([await listening, await receive()])

    exchange = Exchange(WEBSOCKET)
    await ask(app, exchange)
    assert heard == 2 * [{"type": "websocket.disconnect", "code": 4001, "reason": "so"}]
    assert decode_message(exchange.sent[-1]) == SocketMessage(code=4001, reason="so")


@pytest.mark.parametrize("gone", [ClientGone(), StokerError("an earlier server's")])
async def test_a_websocket_that_was_cut_is_told_as_one(gone: Exception) -> None:
    async def app(_: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        assert (await receive())["text"] == "hello"
        assert (await receive())["code"] == 1006

    await ask(app, Exchange(WEBSOCKET, encode_message(SocketMessage(text="hello")), gone))


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"type": "websocket.close", "code": 1006}, "is closed with"),
        ({"type": "websocket.close", "code": 70_000}, "is closed with"),
        ({"type": "websocket.send", "bytes": b"x" * SOCKET_MESSAGE_BYTES}, "16 MiB at most"),
    ],
)
async def test_what_no_websocket_could_say_is_the_apps_own_mistake(message: dict[str, Any], said: str) -> None:
    async def app(_: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send(message)

    with pytest.raises(ValueError, match=said):
        await ask(app, Exchange(WEBSOCKET))


def test_a_reason_is_cut_between_two_characters() -> None:
    found = decode_message(encode_message(SocketMessage(code=4000, reason="é" * 100)))
    assert found.reason == "é" * 61


# -- WSGI


class Thread:
    """A worker's loop, as a thread's exchange sees it: nothing comes, and somebody ends the attempt."""

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self.incoming = self

    def open(self, _: Attempt) -> Any:
        from stoker.runner.incoming import Incoming

        self.found = Incoming(self.attempt, lambda _: None)
        self.found.put([memoryview(b"half of it")], 0)
        return self.found

    def leave_user_code(self) -> None:
        return

    def enter_user_code(self, _: Attempt) -> None:
        return

    def wait_for_input(self, _: Any) -> None:
        self.attempt.interrupt = Interrupt.TIMEOUT


def test_a_body_that_is_cut_short_is_never_taken_for_a_whole_one() -> None:
    attempt = Attempt("c.1", 1, memoryview(b""), None, 64)
    thread: Any = Thread(attempt)
    exchange = ThreadExchange(thread, attempt, WebRequest("POST", has_more=True), waits=thread)
    read: list[bytes] = []

    def app(environ: Any, _: Any) -> list[bytes]:
        read.append(environ["wsgi.input"].read(4))
        read.append(environ["wsgi.input"].read())
        return []

    made = WsgiApp(lambda: app, label="apps.classic")
    made.start()
    with pytest.raises(ClientGone):
        made.serve(exchange)
    assert read == [b"half"]
    assert attempt.raised  # so that a timeout is reported as one


@pytest.mark.parametrize("status", ["999 Odd", "100 Continue", "OK"])
def test_a_status_of_no_answer_is_refused(status: str) -> None:
    def app(_: Any, start: Any) -> list[bytes]:
        start(status, [])
        return [b""]

    made = WsgiApp(lambda: app, label="apps.classic")
    made.start()
    with pytest.raises(ValueError, match=r"status|invalid literal"):
        made.serve(cast("ThreadExchange", Exchange(WebRequest("GET"))))


# -- servers


class Upstream:
    """A server that says this, whatever it is asked, and remembers that."""

    def __init__(self, answer: bytes, *, closes: bool = True) -> None:
        self.asked = b""
        self._answer = answer
        self._closes = closes
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Upstream:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()
        for writer in self._writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self.asked = await reader.readuntil(b"\r\n\r\n")
        writer.write(self._answer)
        with suppress(OSError):
            while not self._closes and (data := await reader.read(1000)):
                self.asked += data
        writer.close()

    async def ask(self, exchange: Exchange) -> bytes:
        port = self._server.sockets[0].getsockname()[1]
        return await WebServer(lambda: None, port, label="apps.server").serve(is_task(exchange))


NO_HTTP = [
    b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1_0\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXY0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
    b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
    b"HTTP/1.1 999 Odd\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 101 + b"\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: a",
    b"hello\r\n\r\n",
    b"",
]


@pytest.mark.parametrize("answer", NO_HTTP)
async def test_what_a_server_says_is_read_strictly(answer: bytes) -> None:
    async with Upstream(answer) as upstream:
        with pytest.raises(StokerError, match="no HTTP that could be read"):
            await upstream.ask(Exchange(WebRequest("GET")))


async def test_a_server_is_told_nothing_that_its_client_could_have_made_up() -> None:
    forged = ["x-forwarded-for", "x_forwarded_for", "forwarded", "transfer_encoding", "content_length", "te", "expect"]
    headers = [("host", "a"), ("x-own", "1"), *((name, "forged") for name in forged)]
    request = WebRequest("GET", path="/a\tHTTP/1.0", query="x=\xff y", headers=headers, client="1.2.3.4", root="/w/s")
    async with Upstream(b"HTTP/1.1 204 No\r\n\r\n") as upstream:
        await upstream.ask(Exchange(request))
    line, *told = upstream.asked.decode().strip().split("\r\n")
    assert line == "GET /a%09HTTP/1.0?x=%FF%20y HTTP/1.1"
    assert sorted(told) == [
        "connection: close",
        "host: a",
        "x-forwarded-for: 1.2.3.4",
        "x-forwarded-host: a",
        "x-forwarded-prefix: /w/s",
        "x-forwarded-proto: http",
        "x-own: 1",
    ]


async def test_a_server_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_server, "STOP_SECONDS", 0.1)
    monkeypatch.setenv(web_server.PORT_VARIABLE, "")  # which is said to the server, and left as it was
    deaf = "import signal, socket, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); found = socket.socket()"
    deaf += "; found.bind(('127.0.0.1', int(sys.argv[1]))); found.listen(); signal.pause()"
    started: list[subprocess.Popen[bytes]] = []

    def make(port: int) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", deaf, str(port)], start_new_session=True))
        return started[0]

    server = WebServer(make, 0, label="apps.server")
    await server.start()
    await server.stop()
    assert started[0].wait(30) == -signal.SIGKILL


@pytest.mark.parametrize("why", [StokerError("read in part by another"), ClientGone()])
async def test_why_a_body_has_no_end_is_what_is_said(why: Exception) -> None:
    async with Upstream(b"", closes=False) as upstream:
        with pytest.raises(type(why)):
            await upstream.ask(Exchange(WebRequest("POST", has_more=True), b"half", why))


UPGRADE = WebRequest("GET", kind="upgrade", headers=[("upgrade", "websocket"), ("content-length", "5")])


async def test_an_upgrade_that_is_refused_leaves_no_way_to_the_server() -> None:
    """Else whatever a client says next would be a request that nobody has looked at."""
    refusal = b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nnever\r\n0\r\n\r\n"
    exchange = Exchange(UPGRADE, b"GET /secret HTTP/1.1\r\n\r\n")
    async with Upstream(refusal, closes=False) as upstream:
        assert not await upstream.ask(exchange)
    assert b"".join(exchange.sent) == b"HTTP/1.1 403 \r\nconnection: close\r\n\r\nnever"
    assert b"secret" not in upstream.asked and b"content-length" not in upstream.asked


async def test_a_client_that_says_no_more_still_hears_what_is_said() -> None:
    switched = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\nfirst"
    exchange = Exchange(UPGRADE, b"all that I say")
    exchange.complete()
    async with Upstream(switched, closes=False) as upstream:
        await upstream.ask(exchange)
    assert upstream.asked.endswith(b"\r\n\r\nall that I say")
    assert b"".join(exchange.sent) == switched


# -- how far an answer is ahead of who reads it


def test_an_answer_waits_for_its_reader_by_bytes_too() -> None:
    """64 messages of a WebSocket may be a gigabyte."""
    outbox = Outbox(Desk(), "w")
    attempt = Attempt("c.1", 1, memoryview(b""), None, 64)
    stream = outbox.open_stream(attempt, window_bytes=100)
    outbox.add_item(stream, b"x" * 99, 0.0)
    outbox.flush_items(stream)
    found = [stream.has_room]
    outbox.add_item(stream, b"x" * 1000, 0.0)
    outbox.flush_items(stream)
    for upto in (64, 65, 66):  # by as many were read
        outbox.credit("c.1", upto)
        found.append(stream.has_room)
    assert found == [True, False, False, True]


async def test_an_app_that_only_sends_ends_when_its_client_has_gone() -> None:
    """It leaves the event loop at no other place, so it has to there: else nobody would ever tell it."""
    attempt = Attempt("c.1", 1, memoryview(b""), None, 64)
    host: Any = Sending()
    exchange = TaskExchange(host, attempt, WebRequest("GET"))

    async def app(_: Any, __: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})

    made = AsgiApp(lambda: app, label="apps.site")
    await made.start()  # where it is no lifespan's app either
    serving = asyncio.create_task(made.serve(exchange))
    while host.count < attempt.credit:
        await asyncio.sleep(0)
    attempt.interrupt = Interrupt.CANCEL
    exchange.room.set()
    await asyncio.sleep(0)
    attempt.raised = True
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    with pytest.raises(ClientGone):
        await exchange.send(b"more")
    assert host.count == attempt.credit


class Sending:
    """A worker's way out that nobody reads."""

    def __init__(self) -> None:
        self.outbox = Outbox(Desk(), "w")
        self.sender = self
        self.incoming: Any = None
        self.count = 0

    def send(self, stream: Stream, piece: bytes) -> None:
        self.count += 1
        self.outbox.add_item(stream, piece, 0.0)
