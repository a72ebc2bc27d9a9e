"""Requests that are in flight when the server stops."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stoker.cli.server import _interrupted
from stoker.server.gateway.connections import Connections


class Stuck:
    """An app that answers nothing, or a part of it, until its client has gone."""

    def __init__(self) -> None:
        self.asked = asyncio.Semaphore(0)
        self.ended: list[str] = []

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        if scope["path"] == "/half":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
        self.asked.release()
        while (await receive())["type"] != "http.disconnect":
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        self.ended.append(scope["path"])


def test_who_is_not_answered_when_the_server_stops_is_told_and_half_an_answer_is_cut() -> None:
    async def scenario() -> tuple[list[bytes], list[str]]:
        app = Stuck()
        connections = Connections(app)  # type: ignore[arg-type] # a gateway's app is all that is used here
        listener = await asyncio.get_running_loop().create_server(connections.make, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        clients = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        for (_, writer), path in zip(clients, ("none", "half"), strict=True):
            writer.write(b"GET /%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path.encode())
            await app.asked.acquire()
        listener.close()
        connections.close()
        await connections.drained(0.0)
        answers = []
        for reader, writer in clients:
            try:
                answers.append(await reader.read())
            except ConnectionResetError:
                answers.append(b"reset")
            writer.close()
        return answers, app.ended

    (told, cut), ended = asyncio.run(scenario())
    assert told.startswith(b"HTTP/1.1 503 ") and b"\r\nretry-after: 5\r\n" in told and b"Ask again" in told
    assert b'"type":"Stopping"' in told
    assert told.count(b"HTTP/1.1 ") == 1
    assert b" 503 " not in cut
    assert sorted(ended) == ["/half", "/none"]


@pytest.mark.parametrize(
    ("running", "once", "http", "said"),
    [
        (0, 0, 0, ""),
        (2, 0, 2, "2 running calls of HTTP clients are answered 503 unless they end within seconds."),
        (
            3,
            1,
            1,
            "1 running call is interrupted and starts again when the server is back; 1 may not run twice "
            "(lost_retries=0) and fails; 1 of HTTP clients is answered 503 unless it ends within seconds.",
        ),
    ],
)
def test_what_a_stop_does_to_calls_is_said_by_kind(running: int, once: int, http: int, said: str) -> None:
    assert _interrupted({"running": running, "running_once": once, "running_http": http}) == said
