"""What generators yield, on its way out: server-sent events or lines of JSON, as far as the client reads."""

from __future__ import annotations

from typing import Any

from stoker.core.calls import Segment
from stoker.protocol.web_calls import WebAnswer
from stoker.server.gateway.problems import Pairs, problem_of
from stoker.server.gateway.replies import Failed, encoded_pairs, send_answer, send_head, send_piece
from stoker.server.gateway.web_calls import WebCall, WebCalls
from stoker.types import Outcome

EVENTS = "text/event-stream"


def is_in_events(head: WebAnswer) -> bool:
    """Tell whether a stream is one of server-sent events; else it has lines of JSON."""
    return ("content-type", EVENTS) in head.headers


async def send_stream(calls: WebCalls, call: WebCall, send: Any, extra: Pairs) -> None:
    """Answer with what a call yields, to its end."""
    await call.wait()
    if not call.items:
        await send_without_items(calls, call, send, extra)
        return
    first = await calls.answer_in(call.id, calls.take_item(call))
    await send_head(send, first.status, [*encoded_pairs(first.headers), *extra])
    await send_piece(send, first.body)
    while True:
        while call.items:
            data = await calls.bytes_of(calls.take_item(call))
            await send_piece(send, data or b"")
        if call.result is not None:
            break
        await call.wait()
    calls.discard_result(call)
    await send_last(send, end_of(call, in_events=is_in_events(first)))


async def send_without_items(calls: WebCalls, call: WebCall, send: Any, extra: Pairs) -> None:
    """Answer for a stream that ended before its first item: refused, failed, or with nothing in it.

    Raises:
        Failed: it ended without a value.
    """
    result = call.result
    assert result is not None
    if result.outcome is not Outcome.VALUE:
        raise Failed(problem_of(result.outcome, result.error), call.told_id)
    if isinstance(result.payload, Segment) or len(result.payload):
        # It was refused before the generator began.
        await send_answer(send, await calls.answer_in(call.id, result.payload), extra)
        return
    await send_head(send, 200, [(b"content-type", EVENTS.encode()), *extra])
    await send_last(send, end_of(call, in_events=True))


def end_of(call: WebCall, *, in_events: bool) -> bytes:
    """Return what a stream ends with: that it is done, or what was raised."""
    result = call.result
    assert result is not None
    if result.outcome is Outcome.VALUE:
        return b"event: done\ndata: null\n\n" if in_events else b""
    return error_in(problem_of(result.outcome, result.error).body(call_id=call.id), in_events=in_events)


def error_in(body: bytes, *, in_events: bool) -> bytes:
    """Return an error as the last item of a stream."""
    return b"event: error\ndata: %s\n\n" % body if in_events else body + b"\n"


async def send_last(send: Any, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": False})
