"""Whatever comes between a plain request and its answer: each is answered once, in order, with what is its own."""

from __future__ import annotations

import asyncio
import random
import re
import time
from types import SimpleNamespace
from typing import Any

import pytest

from stoker.core.calls import Result
from stoker.protocol.web_calls import WebRequest
from stoker.types import ErrorInfo, Outcome
from tests.serving.plain_stage import Stage, Wire, echoed, says_long

GET = b"GET /a/f?n=%d HTTP/1.1\r\nHost: x\r\n"
SEEDS = 4000


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def answers(wire: Wire) -> list[tuple[int, bytes]]:
    """Return the statuses and bodies of what was written; it has to be nothing else."""
    left, found = wire.written.replace(b"HTTP/1.1 102 Processing\r\n\r\n", b""), []
    while left:
        head = re.match(rb"HTTP/1\.1 (\d+) [^\r]*\r\n(.*?)\r\n\r\n", left, re.DOTALL)
        assert head is not None, left[:100]
        size = int((re.search(rb"content-length: (\d+)", head[2]) or [b"", b"0"])[1])
        found.append((int(head[1]), left[head.end() : head.end() + size]))
        left = left[head.end() + size :]
    return found


@pytest.mark.parametrize("more", [b"", b"Origin: https://x\r\n"])
async def test_half_a_head_behind_a_request_survives_its_answer(more: bytes) -> None:
    stage = Stage()
    connection, wire = stage.connect()
    connection.data_received(GET % 1 + b"\r\n" + GET % 2 + b"X-A: 1\r\n")
    stage.calls.end(0)
    connection.data_received(more + b"X-B: 2\r\n\r\n")
    if not more:
        assert {"host", "x-a", "x-b"} <= {name for name, _ in stage.calls.asked[1].headers}
        stage.calls.end(1)
    await turns()
    assert answers(wire) == [(200, b"n=1|"), (200, b"n=2|")]


async def test_an_upgrade_behind_a_request_asks_nothing_again() -> None:
    stage = Stage()
    connection, wire = stage.connect()
    connection.data_received(b"POST /a/f?n=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
    connection.data_received(GET % 2 + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n")
    await turns()
    assert len(stage.calls.made) == 1 and stage.calls.cancelled == ["c0"]
    assert [status for status, _ in answers(wire)] == [400] and stage.counted == [499]


async def test_an_answer_to_head_has_no_body() -> None:
    stage = Stage()
    error = ErrorInfo("Overloaded", "too many", fields={"reason": "deadline", "retry_after": 2.0})
    for method in ("HEAD", "GET"):
        key = stage.shedding.key(method, "/a/f", {b"host": b"x"})
        refused = Result(Outcome.ERROR, error=error)
        stage.shedding.learn(key, refused, deadline=50.0, route=stage.route, now=time.monotonic() + 5.0)
    connection, wire = stage.connect()
    connection.data_received((GET % 1).replace(b"GET", b"HEAD") + b"\r\n")
    await turns()
    assert wire.written.startswith(b"HTTP/1.1 200 ") and wire.written.endswith(b"\r\n\r\n")
    wire.written = b""
    connection.data_received(GET % 1 + b"\r\n")
    assert [status for status, _ in answers(wire)] == [503] and stage.counted == [503]


@pytest.mark.parametrize("next_is", ["asked", "the end"])
async def test_an_answer_without_a_body_goes_out_before_what_comes_in_the_same_turn(next_is: str) -> None:
    async def only_a_head(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        await send({"type": "http.response.body", "body": b"not a word"})
        if next_is == "asked":  # a loop reads before it comes to what was to be called soon
            connection.data_received(GET % 2 + b"\r\n")
        elif not connection.eof_received():
            wire.close()

    stage = Stage(only_a_head, at_once=echoed)
    connection, wire = stage.connect()
    connection.data_received((GET % 1).replace(b"GET", b"HEAD") + b"\r\n")
    await turns()
    head, _, left = wire.written.partition(b"\r\n\r\n")
    assert head == b"HTTP/1.1 200 OK\r\ncontent-length: 9"
    wire.written = left
    assert answers(wire) == ([(200, b"n=2|")] if next_is == "asked" else [])


class Slowly:
    """Answers in two pieces; the second one waits until it is let go."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"6")]})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await self.let_go.wait()
        await send({"type": "http.response.body", "body": b"two"})


async def test_nothing_is_said_in_the_middle_of_an_answer() -> None:
    slowly = Slowly()
    stage = Stage(slowly)
    connection, wire = stage.connect()
    connection.data_received(GET % 1 + b"Origin: x\r\n\r\n" + GET % 2 + b"Origin: x\r\n\r\n")
    await turns()
    assert connection.eof_received(), "both are answered"
    connection.check(0.0)
    assert wire.written.endswith(b"\r\n\r\none")
    slowly.let_go.set()
    await turns(30)
    assert answers(wire) == [(200, b"onetwo")] * 2 and wire.is_lost


async def test_who_says_nonsense_in_the_middle_of_an_answer_takes_nothing_for_the_rest_of_it() -> None:
    slowly = Slowly()
    stage = Stage(slowly)
    connection, wire = stage.connect()
    connection.data_received(GET % 1 + b"Origin: x\r\n\r\n")
    await turns()
    connection.data_received(b"\x00 nonsense\r\n\r\n")
    assert wire.is_closing() and wire.written.endswith(b"\r\n\r\none")
    slowly.let_go.set()
    await turns()
    assert wire.is_lost and stage.connections.refused[400] == 1


async def test_a_head_that_is_known_leads_where_it_does_now() -> None:
    stage = Stage()
    connection, _ = stage.connect()
    for number, key in enumerate(["old", "new", "new"]):
        stage.route = SimpleNamespace(**{**vars(stage.route), "key": key})
        stage.functions.generation += key != "old"
        connection.data_received(GET % 1 + b"\r\n")
        stage.calls.end(number)
    assert [call.key for call in stage.calls.made] == ["old", "new", "new"]


async def test_what_fails_in_the_server_is_not_called_the_clients_fault() -> None:
    def fails(_: WebRequest) -> Result:
        raise RuntimeError("disk full")

    stage = Stage(at_once=fails)
    connection, wire = stage.connect()
    connection.data_received(GET % 1 + b"\r\n")
    await turns()
    assert [status for status, _ in answers(wire)] == [500] and stage.counted == [500] and wire.is_lost


async def test_a_client_that_hangs_up_before_its_body_is_there_is_counted() -> None:
    stage = Stage()
    connection, wire = stage.connect()
    connection.data_received(b"POST /a/f HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nab")
    wire.hang_up()
    assert stage.counted == [499] and not stage.calls.made


@pytest.mark.parametrize("is_revoked", [True, False])
async def test_a_token_is_looked_at_again_when_the_body_has_come_later(is_revoked: bool) -> None:
    stage = Stage(at_once=echoed)
    connection, wire = stage.connect()
    post = b"POST /a/f HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n"
    connection.data_received(post + b"abc")
    assert stage.looked_at == 1
    for data in (post, b"a", b"b"):
        connection.data_received(data)
    stage.is_let_in = not is_revoked
    connection.data_received(b"c")
    assert stage.looked_at == 3 and len(stage.calls.made) == 2 - is_revoked
    assert [status for status, _ in answers(wire)] == [200, 401 if is_revoked else 200]


async def test_nothing_is_kept_of_what_was_answered() -> None:
    stage = Stage()
    connection, wire = stage.connect()
    connection.data_received(GET % 1 + b"\r\n")
    connection.flow.pause_writing()
    stage.calls.end(0)
    await turns()
    assert not wire.written
    connection.flow.resume_writing()
    await turns()
    assert answers(wire) == [(200, b"n=1|")] and connection.on_lost is None
    connection.data_received(GET % 2 + b"\r\n")
    stage.calls.end(1)
    assert (connection.url, connection.headers, connection.on_lost) == (b"", [], None)


class Story:
    """Requests of both kinds on one connection, cut anywhere, answered whenever; and perhaps an end at any moment."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.open: list[asyncio.Future[None]] = []
        instant = self.random.random() < 0.2
        chance = self.random
        self.stage = Stage(self.long, lambda asked: echoed(asked) if instant and chance.random() < 0.5 else None)
        self.connection, self.wire = self.stage.connect()
        self.data, self.wanted = b"", []
        for i in range(self.random.randint(1, 5)):
            body = b"b%d" % i * self.random.randint(0, 20)
            more = b"" if self.random.random() < 0.7 else b"Origin: o\r\n"
            filler = b"y" * self.random.randint(0, 30)
            self.wanted.append(b"n=%d|%b" % (i, body))
            self.data += b"POST /a/f?n=%d HTTP/1.1\r\nHost: x\r\nX-Filler: %b\r\n%b" % (i, filler, more)
            self.data += b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        self.end = self.random.choice(["none"] * 4 + ["hangs up", "is half closed", "stops"])
        self.ends_at = self.random.randint(0, len(self.data)) if self.end != "none" else len(self.data) + 1

    async def long(self, scope: Any, receive: Any, send: Any) -> None:
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.open.append(answer)
        await answer
        await says_long(scope, receive, send)

    async def tell(self) -> None:
        at, is_over = 0, False
        for _ in range(400):
            chance = self.random.random()
            if self.wire.is_lost or (self.end == "none" and len(answers(self.wire)) == len(self.wanted)):
                return
            if not is_over and at >= min(self.ends_at, len(self.data)) and self.end != "none" and chance < 0.3:
                is_over, at = True, self._end(at)
            elif chance < 0.5 and at < len(self.data) and self.wire.is_read and not self.wire.is_closing():
                upto = min(len(self.data), at + self.random.choice([1, 5, 20, 60, 400]))
                self.wire.protocol.data_received(self.data[at:upto])
                at = upto
            elif chance < 0.7:
                self._answer_some()
            else:
                await turns(self.random.randint(1, 4))

    def _end(self, at: int) -> int:
        if self.end == "hangs up":
            self.wire.hang_up()
        elif self.end == "stops":
            self.stage.connections.close()
        elif self.wire.protocol.eof_received():
            return len(self.data)
        else:
            self.wire.close()
            return len(self.data)
        return at

    def _answer_some(self) -> None:
        calls = self.stage.calls
        left = [i for i, call in enumerate(calls.made) if call.result is None]
        if left:
            calls.end(self.random.choice(left))
        waiting = [answer for answer in self.open if not answer.done()]
        if waiting:
            waiting[0].set_result(None)

    async def finish(self) -> None:
        await turns(60)
        if not self.wire.is_lost:
            self.wire.hang_up()
        for answer in self.open:
            if not answer.done():
                answer.set_result(None)
        await turns(20)


@pytest.mark.parametrize("block", range(4))
async def test_each_request_is_answered_once_in_order(block: int) -> None:
    for seed in range(block * SEEDS // 4, (block + 1) * SEEDS // 4):
        story = Story(seed)
        await story.tell()
        await turns(60)
        said = answers(story.wire)
        was_lost = story.wire.is_lost
        await story.finish()
        good = [body for status, body in said if status == 200]
        # What a client that goes in the middle of the last answer has of it may be less than all.
        whole = good[:-1] if was_lost and story.end != "none" else good
        assert whole == story.wanted[: len(whole)], seed
        assert len(good) == len(said), seed
        assert story.end != "none" or good == story.wanted, seed
        queries = [asked.query for asked in story.stage.calls.asked]
        assert len(set(queries)) == len(queries), seed
        assert all(call.result is not None for call in story.stage.calls.made), seed
        assert len(story.stage.counted) >= len(queries), seed


async def test_many_short_headers_are_not_remembered() -> None:
    stage = Stage()
    connection, wire = stage.connect()
    connection.data_received(GET % 1 + b"a:\r\n" * 1000 + b"\r\n")
    stage.calls.end(0)
    assert [status for status, _ in answers(wire)] == [200]
    assert stage.plain._known_head.cache_info().currsize == 0
    connection.data_received(GET % 1 + b"a:\r\n" * 10 + b"\r\n")
    assert stage.plain._known_head.cache_info().currsize == 1
