"""One try of a callback against servers that answer badly, slowly, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from stoker.core.callback_targets import Allowed, parse_target
from stoker.core.callbacks import Answer
from stoker.server import callback_requests
from stoker.server.callback_requests import post
from stoker.server.certificates import Certificate, own_certificate

HERE = Allowed.parse("127.0.0.0/8,::1")
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def tried(serve: Serve, *, url: str = "http://127.0.0.1:{port}/a?b", allowed: Allowed = HERE) -> Answer:
    """Return what a try comes to whose server does this."""
    return asyncio.run(_tried(serve, url, allowed))


async def _tried(serve: Serve, url: str, allowed: Allowed, certificate: Certificate | None = None) -> Answer:
    ended: list[asyncio.Event] = []

    async def to_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended.append(asyncio.Event())
        mine = ended[-1]
        with suppress(OSError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        mine.set()

    context = certificate.context if certificate is not None else None
    server = await asyncio.start_server(to_the_end, "127.0.0.1", 0, ssl=context)
    async with server:
        target = parse_target(url.format(port=server.sockets[0].getsockname()[1]))
        found = await post(target, allowed, headers={"webhook-id": "h-1"}, body=b"{}")
        for one in ended:
            await one.wait()
    return found


def saying(answer: bytes, heard: list[bytes] | None = None) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got = await reader.readuntil(b"\r\n\r\n{}")
        if heard is not None:
            heard.append(got)
        writer.write(answer)
        await writer.drain()

    return serve


def test_what_is_sent_and_what_counts_of_the_answer() -> None:
    heard: list[bytes] = []
    body = b"x" * (1 << 20)
    answer = tried(saying(b"HTTP/1.1 103 Hint\r\n\r\nHTTP/1.1 202 Yes\r\nRetry-After: 7\r\n\r\n" + body, heard))
    assert answer == Answer(202, "answered 202", 7.0)
    head = heard[0].split(b"\r\n")
    assert head[0] == b"POST /a?b HTTP/1.1" and b"webhook-id: h-1" in head and b"content-length: 2" in head


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 301 No\r\nlocation: http://10.0.0.1/\r\n\r\n", "answered 301; it is not followed elsewhere"),
        (b"220 mail.example.org ESMTP\r\n\r\n", "what came back is no answer of HTTP"),
        (b"HTTP/1.1 20", "no answer: it has hung up"),
        (b"", "no answer: it has hung up"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 10_000, "no answer: its headers have more than 16 KiB"),
    ],
)
def test_answers_that_are_none(answer: bytes, said: str) -> None:
    found = tried(saying(answer))
    assert not 200 <= found.status < 300 and found.said.startswith(said)


def test_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callback_requests, "TRY_SECONDS", 0.05)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    assert tried(serve) == Answer(0, "no answer within 0.05 s")


def test_nobody_listens() -> None:
    assert "refused" in tried(saying(b""), url="http://127.0.0.1:9/").said.lower()


def test_a_name_that_leads_inside_is_refused_by_where_it_leads() -> None:
    found = tried(saying(b"HTTP/1.1 200 OK\r\n\r\n"), url="http://localhost:{port}/", allowed=Allowed())
    assert found.status == 0 and "may not go to localhost (" in found.said
    by_name = Allowed.parse("localhost")
    assert tried(saying(b"HTTP/1.1 200 OK\r\n\r\n"), url="http://localhost:{port}/", allowed=by_name).status == 200


def test_a_certificate_that_nobody_vouches_for(tmp_path: Path) -> None:
    found = asyncio.run(_tried(saying(b""), "https://127.0.0.1:{port}/", HERE, own_certificate(tmp_path)))
    assert found.status == 0 and found.said.startswith("its certificate is not trusted here: ")
