"""Answers on their way out, and bodies on their way in: messages of ASGI."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from stoker.protocol.encoded import Buffer
from stoker.protocol.web_calls import WebAnswer
from stoker.server.gateway.problems import Pairs, Problem

JSON = b"application/json"
CALL_ID = b"x-stoker-call-id"
PIECE_BYTES = 256 << 10  # of an answer's body, written at once


class Failed(Exception):
    """A call that ended without a value."""

    def __init__(self, problem: Problem, call_id: str) -> None:
        super().__init__(str(problem))
        self.problem = problem
        self.call_id = call_id


async def body_of(receive: Any) -> AsyncIterator[bytes]:
    """Yield a request's body as it comes.

    Raises:
        Problem: the client has hung up in the middle of it.
    """
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Problem(400, "BadRequest", "The request's body ended before it was complete.", closes=True)
        yield message["body"]
        if not message["more_body"]:
            return


def encoded_pairs(headers: list[tuple[str, str]]) -> Pairs:
    return [(name.encode("latin-1", "replace"), value.encode("latin-1", "replace")) for name, value in headers]


async def send_answer(send: Any, answer: WebAnswer, extra: Pairs) -> None:
    size = len(answer.body)
    length = [] if answer.status in {204, 304} else [(b"content-length", b"%d" % size)]
    pairs = [pair for pair in encoded_pairs(answer.headers) if pair[0] != b"content-length"]
    await send_head(send, answer.status, [*pairs, *length, *extra])
    body = answer.body if length else b""
    if size <= PIECE_BYTES:
        await send({"type": "http.response.body", "body": bytes(body), "more_body": False})
        return
    view = memoryview(body)
    for at in range(0, size, PIECE_BYTES):
        await send_piece(send, view[at : at + PIECE_BYTES])
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def send_bytes(send: Any, status: int, media_type: bytes, body: bytes, extra: Pairs | None = None) -> None:
    headers = [] if status == 204 else [(b"content-type", media_type), (b"content-length", b"%d" % len(body))]
    await send_head(send, status, [*headers, *(extra or [])])
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def send_head(send: Any, status: int, headers: Pairs) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def send_piece(send: Any, data: Buffer) -> None:
    if len(data):
        await send({"type": "http.response.body", "body": bytes(data), "more_body": True})
