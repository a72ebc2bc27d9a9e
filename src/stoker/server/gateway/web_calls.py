"""Calls that come over HTTP: a session for each token, so that the queues are fair between tokens, and who waits.

To the core such a session is a client like any other, which never leaves.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from stoker.core import crash_loops
from stoker.core import events as e
from stoker.core.calls import Delivery, Payload, Result, Segment
from stoker.core.intake import STREAM_WINDOW_ITEMS
from stoker.errors import ProtocolError
from stoker.protocol import messages as m
from stoker.protocol.web_calls import WebAnswer, decode_answer
from stoker.server.gateway.problems import Problem
from stoker.server.gateway.replies import Failed
from stoker.server.sessions import Session
from stoker.server.web_records import HTTP_SESSIONS
from stoker.types import ErrorInfo, FunctionSpec, Outcome

if TYPE_CHECKING:
    from stoker.server.server import Server

PUBLIC = "public"  # who comes without a token
DECIDED_TOGETHER = 8  # things asked for: a message costs about as much as one more
WHOLE_READ_BYTES = 4 << 20  # a bigger answer's file is read beside the loop


def session_name(holder: str) -> str:
    """Return the name of the session of a token's calls."""
    return f"{HTTP_SESSIONS}{holder}"


def lost_answer() -> Problem:
    return Problem(500, "StokerError", "The answer of the call was lost on its way. Ask again.")


class WebCall:
    """One call and who waits for it: its end, and of a stream what has come so far."""

    __slots__ = ("_news", "id", "is_accepted", "is_refused", "items", "key", "on_end", "read", "result", "session")

    def __init__(self, call_id: str, key: str, session: WebSession) -> None:
        self.id = call_id
        self.key = key
        self.session = session
        self.items: deque[Payload] = deque()
        self.read = 0
        self.result: Result | None = None
        self.is_accepted = False
        self.is_refused = False  # it was never taken in: nothing here remembers it
        self.on_end: Callable[[], None] | None = None  # called once, when it is over
        self._news: asyncio.Future[None] | None = None

    @property
    def told_id(self) -> str:
        """Its id for who asked; none of what became no call."""
        return "" if self.is_refused else self.id

    def refuse(self, error: ErrorInfo) -> None:
        self.is_refused = True
        self.result = Result(Outcome.ERROR, error=error)

    async def wait(self) -> None:
        """Return when there is something new: an item, or the end."""
        if self.items or self.result is not None:
            return
        self._news = asyncio.get_running_loop().create_future()
        await self._news

    async def wait_accepted(self) -> None:
        """Return when it is written down, or refused."""
        while not self.is_accepted and self.result is None:
            self._news = asyncio.get_running_loop().create_future()
            await self._news

    def tell(self) -> None:
        if self.on_end is not None and self.result is not None:
            on_end, self.on_end = self.on_end, None
            on_end()
        if self._news is not None and not self._news.done():
            self._news.set_result(None)


class WebSession(Session):
    """The calls of one token. What is settled goes to who waits for it at once: nothing is kept for later."""

    def __init__(self, name: str, holder: str, *, discard: Callable[[Sequence[Payload]], None]) -> None:
        super().__init__(name, holder=holder)
        self.open: dict[str, WebCall] = {}
        self._discard = discard  # of what came for calls that nobody waits for any more

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            call = self.open.pop(delivery.id, None)
            if call is None:
                if delivery.call is not None and not delivery.call.detached:  # else it is the store's
                    self._discard([delivery.result.payload])
            else:
                call.result = delivery.result
                call.tell()

    def deliver_items(self, call_id: str, attempt: int, first: int, items: Sequence[Payload]) -> None:
        call = self.open.get(call_id)
        if call is None:
            self._discard(items)
        else:
            call.items.extend(items)
            call.tell()

    def show_out(self, error: ErrorInfo) -> None:
        calls = [*self.open.values()]
        self.open.clear()  # what else is said of them is nobody's
        for call in calls:
            call.result = Result(Outcome.ERROR, error=error)
            call.tell()

    def send(self, message: Any, parts: Sequence[Any] = ()) -> None:
        """Take what a client would be told; windows are for maps, which nobody makes here."""
        if isinstance(message, m.Accepted):
            for call_id in message.ids:
                if (call := self.open.get(call_id)) is not None:
                    call.is_accepted = True
                    call.tell()
        elif isinstance(message, m.RefusedCalls):
            for call_id in message.ids:
                if (call := self.open.pop(call_id, None)) is not None:
                    call.refuse(message.error)
                    call.tell()


class _Together(NamedTuple):
    """Calls on their way to the core which it takes in as one, looking once at what does not differ: others may join.

    ``common``: their client, function, method and priority.
    """

    common: tuple[str, str, str, int]
    ids: list[str]
    payloads: list[Payload]
    traces: list[str]


class WebCalls:
    """See the module."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._prefix = f"h{server.epoch}{secrets.token_hex(4)}"
        self._numbers = itertools.count(1)
        self._events: list[e.Event] = []
        self._asked = 0  # things that these are
        self._together: _Together | None = None  # the last of them

    def submit(
        self,
        spec: FunctionSpec,
        key: str,
        payload: Payload,
        *,
        holder: str,
        deadline: float | None,
        kind: str = "call",
        detached_as: str = "",
        named: str = "",
        method: str = "",
        trace: str = "",
    ) -> WebCall:
        """Make a call; ``deadline`` is in seconds from now, ``kind`` as in `Submitted`. A refusal is its result.

        ``method`` is that of a class. ``named``: its id, if it is to have one that was made for it.
        ``detached_as``: the same, if it is to go on by itself and its result to be kept.
        """
        server = self._server
        session = self._session(holder)
        call = WebCall(detached_as or named or f"{self._prefix}.{next(self._numbers):08x}", key, session)
        session.open[call.id] = call
        refusal = crash_loops.refusal(server.plane.state, key, now=server.now()) if not detached_as else None
        if refusal is not None:
            del session.open[call.id]
            server.discard([payload])
            call.refuse(refusal)
            return call
        seconds = deadline if deadline is not None else spec.options.deadline
        if seconds is None and kind == "call" and not detached_as and not server.functions.beside:
            self._submit_together((session.name, key, method, spec.options.priority), call.id, payload, trace)
            return call
        self._decide_soon(
            e.Submitted(
                client=session.name,
                function=key,
                ids=[call.id],
                payloads=[payload],
                kind=kind,
                detached=bool(detached_as),
                deadline=None if seconds is None else server.now() + seconds,
                priority=spec.options.priority,
                method=method,
                trace=trace,
            )
        )
        if detached_as or server.functions.beside:
            self._decide()  # who asks with the same key next is to find it, and a shadow what was taken in
        if server.functions.beside:
            server.shadows.mirror(key, [call.id], [payload], kind=kind, method=method)
        return call

    def _submit_together(self, common: tuple[str, str, str, int], call_id: str, payload: Payload, trace: str) -> None:
        together = self._together
        if together is not None and together.common == common:
            together.ids.append(call_id)
            together.payloads.append(payload)
            together.traces.append(trace)
            self._asked += 1
            if self._asked >= DECIDED_TOGETHER:
                self._decide()
            return
        one = _Together(common, [call_id], [payload], [trace])
        client, function, method, priority = common
        self._decide_soon(
            e.Submitted(client, function, one.ids, one.payloads, priority=priority, method=method, traces=one.traces)
        )
        if self._events:
            self._together = one

    def _session(self, holder: str) -> WebSession:
        name = session_name(holder)
        found = self._server.sessions.get(name)
        if not isinstance(found, WebSession):
            found = self._server.sessions[name] = WebSession(name, holder, discard=self._server.discard)
        return found

    @staticmethod
    def let_go(call: WebCall) -> None:
        """Wait for a call no more, which goes on by itself."""
        call.session.open.pop(call.id, None)

    def cancel(self, call: WebCall) -> None:
        """Nobody waits for a call any more."""
        if call.session.open.pop(call.id, None) is not None:
            self._decide_soon(e.CancelAsked([call.id], reason="its client has hung up"))
        if call.result is None:
            call.result = Result(Outcome.CANCELLED)  # what waits for it here must not wait for ever
            call.tell()
        self._server.discard([*call.items])
        call.items.clear()

    def take_item(self, call: WebCall) -> Payload:
        """Return the next item of a stream, and let its generator go on."""
        item = call.items.popleft()
        call.read += 1
        if call.id in call.session.open:
            self._decide_soon(e.StreamRead(call.id, call.read + STREAM_WINDOW_ITEMS))
        return item

    def discard_result(self, call: WebCall) -> None:
        """Let go of how a call has ended, once that is told."""
        if call.result is not None:
            self._server.discard([call.result.payload])

    async def bytes_of(self, payload: Payload, *, is_kept: bool = False) -> bytes | memoryview | None:
        """Return a payload's bytes, and let go of it unless it is the store's; None where its file is gone."""
        if not isinstance(payload, Segment):
            return payload
        files = self._server.files

        def read() -> bytes | None:
            for directory in (files.segments, files.spill):
                try:
                    return (directory / payload.name).read_bytes()
                except FileNotFoundError:
                    continue
            return None

        try:
            return read() if payload.size <= WHOLE_READ_BYTES else await asyncio.to_thread(read)
        finally:
            if not is_kept:
                self._server.discard([payload])

    async def answer_in(self, call_id: str, payload: Payload, *, is_kept: bool = False) -> WebAnswer:
        """Return the answer that a payload is.

        Raises:
            Failed: its bytes are gone, or are none, as a rank of a gang may send.
        """
        data = await self.bytes_of(payload, is_kept=is_kept)
        try:
            if data is not None:
                return decode_answer(data)
        except ProtocolError:
            pass
        raise Failed(lost_answer(), call_id)

    def _decide_soon(self, event: e.Event) -> None:
        """Feed an event to the core once this turn of the loop is over.

        What requests have asked for in it is decided together, in its order, and a worker is sent it as one message;
        of many the first are, so that it begins to read them while the others are read here.
        """
        self._together = None  # what is asked for from now on comes after this
        self._events.append(event)
        self._asked += 1
        if len(self._events) == 1:
            self._server.loop.call_soon(self._decide)
        elif self._asked >= DECIDED_TOGETHER:
            self._decide()

    def _is_there(self, key: str) -> bool:
        """Tell whether an app has not been stopped since."""
        spec = self._server.functions.specs.get(key)
        return spec is not None and self._server.functions.names_of(spec.app) is not None

    def _decide(self) -> None:
        events, self._events, self._asked, self._together = self._events, [], 0, None
        if not events:
            return
        server, pools = self._server, self._server.plane.state.pools
        late = [
            at
            for at, event in enumerate(events)
            if type(event) is e.Submitted and event.function not in pools and self._is_there(event.function)
        ]
        if late:
            self._decide_late(events, late)
        else:
            server.decide(*events)
        server.flush()

    def _decide_late(self, events: list[e.Event], late: Sequence[int]) -> None:
        """Decide these, some of which are for versions that were replaced after the request was let in, as while its
        body came."""
        functions = self._server.functions
        with self._server.together():
            revived = [functions.revive(cast("e.Submitted", events[at]).function) for at in late]
            for at, key in zip(late, revived, strict=True):
                events[at] = cast("e.Submitted", events[at])._replace(function=key)
            self._server.decide(*events)
            for key in revived:
                functions.let_go(key)
