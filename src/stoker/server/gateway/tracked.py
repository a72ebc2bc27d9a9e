"""A request on its way through the gateway: its ids, where it leads, when it began, and what was answered.

Its id (``X-Request-Id``) and the trace that it belongs to (``traceparent``, W3C) are taken over from who asks, or made,
and the answer names them. The function sees them among the headers; a trace only if it came, or is recorded here: one
that is neither would have the function's own tracing believe that somebody had decided for it whether it is recorded.
https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import os
import random
import re
from typing import TYPE_CHECKING, Any

from stoker.protocol.encoded import Buffer
from stoker.protocol.traces import Trace, parse_trace
from stoker.server.gateway.replies import CALL_ID
from stoker.server.metrics.tally import UNKNOWN, Labels, OfVersion

REQUEST_ID = b"x-request-id"
PARENT, STATE = b"traceparent", b"tracestate"
HUNG_UP = 499  # as proxies log it: who asked did not wait for the answer
FAILED = 500
_OURS = frozenset({REQUEST_ID, PARENT})
_TRACE_ID = slice(3, 35)  # in a traceparent
_draw = random.Random(os.urandom(32)).getrandbits  # ids are to differ, and nothing hangs on their being guessed
_ID = re.compile(rb"[!-~]{1,128}")

if TYPE_CHECKING:
    from opentelemetry.trace import Span

Scope = dict[str, Any]


class Tracked:
    """See the module. It is the ``send`` of ASGI for whoever answers the request; ``labels`` say where it leads."""

    __slots__ = (
        "_scope",
        "_send",
        "began",
        "call_id",
        "labels",
        "parent",
        "refusal",
        "request_id",
        "span",
        "status",
        "traceparent",
        "version",
    )

    def __init__(self, scope: Scope, headers: dict[bytes, bytes], send: Any, *, now: float) -> None:
        """Have the request's headers say what the function is to see. ``now``: seconds of any clock."""
        self._scope = scope
        self._send = send
        self.began = now
        self.labels: Labels = UNKNOWN
        self.status = 0
        self.version: OfVersion | None = None  # that answers, while there are two
        self.call_id = ""  # of the call that has answered, if one did
        self.refusal: Buffer = b""  # the body of an answer of 4xx, or how it begins
        self.span: Span | None = None
        given, asked = headers.get(PARENT), headers.get(REQUEST_ID, b"")
        self.parent = parse_trace(given.decode("latin-1")) if given is not None else None
        self.traceparent = str(self.parent) if self.parent is not None else _new_trace()
        self.request_id = asked if asked and _ID.fullmatch(asked) else self.traceparent[_TRACE_ID].encode()
        if given is not None and self.parent is None:
            self._put({PARENT: b"", STATE: b"", REQUEST_ID: self.request_id})
        elif self.request_id is not asked and asked:
            self._put({REQUEST_ID: self.request_id})
        elif self.request_id is not asked:
            scope["headers"] = [*scope["headers"], (REQUEST_ID, self.request_id)]

    def _put(self, changed: dict[bytes, bytes]) -> None:
        """Have the request say this, once each, whatever it said; of what is empty nothing."""
        kept = [pair for pair in self._scope["headers"] if pair[0] not in changed]
        self._scope["headers"] = [*kept, *((name, value) for name, value in changed.items() if value)]

    def sends_by(self, send: Any) -> None:
        """Have the answer go out so."""
        self._send = send

    def belongs_to(self, trace: Trace) -> None:
        """Have the request, and what is made of it, be a part of this span, which is recorded here."""
        self.traceparent = str(trace)
        self._put({PARENT: self.traceparent.encode()})

    async def __call__(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            self.status = message["status"]
            message["headers"] = self._told(message["headers"])
        elif kind == "websocket.http.response.start":
            self.status = message["status"]
        elif kind == "websocket.accept":
            self.status = 101
        elif 400 <= self.status < 500 and not self.refusal:
            self.refusal = message.get("body", b"")
        await self._send(message)

    def _told(self, headers: Any) -> list[tuple[bytes, bytes]]:
        """Return the headers of an answer, with ours where it has none of its own."""
        ours = [(REQUEST_ID, self.request_id), (PARENT, self.traceparent.encode())]
        for name, value in headers:
            if name in _OURS:
                ours = [pair for pair in ours if pair[0] != name]
            elif name == CALL_ID:
                self.call_id = value.decode("latin-1")
        return [*headers, *ours]

    @property
    def asked(self) -> tuple[str, bytes]:
        """Return the method and the path, as it was written."""
        return self._scope.get("method", "GET"), self._scope["raw_path"]

    @property
    def outcome(self) -> int:
        """Return the status to be counted."""
        connection = self._scope.get("stoker.connection")
        cycle = connection.cycle if connection is not None else None
        return HUNG_UP if cycle is not None and cycle.disconnected else self.status or FAILED


def _new_trace() -> str:
    """Return a trace that nobody has recorded so far."""
    drawn = _draw(192).to_bytes(24, "big").hex()
    return f"00-{drawn[:32]}-{drawn[32:]}-00"
