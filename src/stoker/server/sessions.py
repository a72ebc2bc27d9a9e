"""Clients: their sessions, which outlive connections by the grace, and what they say."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stoker.core import events as e
from stoker.core.calls import Delivery, Payload, Result, Segment
from stoker.core.commands import TellRefused
from stoker.core.intake import STREAM_WINDOW_ITEMS
from stoker.core.outbox import Outbox
from stoker.errors import ProtocolError
from stoker.protocol import messages as m
from stoker.protocol.frames import BODY_MAX_BYTES
from stoker.protocol.messages import Segments
from stoker.protocol.traces import checked_trace
from stoker.server import payloads, token_limits
from stoker.server.execution import error_info
from stoker.server.link import Link
from stoker.server.once import Said
from stoker.server.payloads import PayloadFiles
from stoker.server.spool import FileBody, Spool
from stoker.types import ErrorInfo, FunctionSpec, Outcome

if TYPE_CHECKING:
    from stoker.server.server import Server

FRAME_BYTES = 8 << 20  # of results in one frame: what is told at once may be more than a frame can hold
SAYS_AGAIN_SECONDS = 5.0  # after its greeting a client has sent again what it had open
PRIORITY_MAX = 1 << 31  # more than anybody needs; a number that the store could not hold would refuse others' calls too


@dataclass(slots=True)
class Stream:
    """Items sent to a reader that has not said yet that it has read them: sent again after a reconnect."""

    attempt: int
    items: deque[tuple[int, Payload]] = field(default_factory=deque)


@dataclass(slots=True, eq=False)
class Session:
    """One client program, or the client of one worker (``owner``)."""

    name: str
    owner: str = ""
    holder: str = ""  # the id of the token with which it came over TCP
    is_remote: bool = False  # it came over TCP: what it sends lies in frames
    files: PayloadFiles | None = None  # set for one that cannot open segments: it is sent what lies in them
    parent: str = ""  # the call of its worker for which it asked last: its output goes where that one's goes
    link: Link | None = None
    outbox: Outbox = field(default_factory=Outbox)
    streams: dict[str, Stream] = field(default_factory=dict)
    runs: set[tuple[str, str]] = field(default_factory=set)
    follows: list[dict[str, str]] = field(default_factory=list)
    said: dict[int, Said] = field(default_factory=dict)  # requests that must not be carried out twice, by id
    left_at: float = 0.0
    connection: int = 0  # how many it had
    resubmits_until: float = 0.0  # it may send again what an earlier term of the server has accepted

    def show_out(self, error: ErrorInfo) -> None:
        """Tell who waits for its calls that it is let in no longer; a program is told by its link."""

    def send(self, message: Any, parts: Sequence[Any] = ()) -> None:
        """Send, if the client is there; what must not be lost goes through the outbox."""
        if self.link is not None:
            self.link.send(message, parts)

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        """Send settled calls, and keep them until they are acknowledged."""
        if self.link is None:
            self.outbox.add(deliveries)
            return
        if self.files is not None:
            deliveries = [_readable(delivery, self.files) for delivery in deliveries]
        sizes, segments, parts = self._packed(d.result.payload for d in deliveries)
        if len(sizes) > 1 and sum(sizes) > FRAME_BYTES:
            half = len(sizes) // 2
            self.deliver(deliveries[:half])
            self.deliver(deliveries[half:])
            return
        seq = self.outbox.add(deliveries)
        errors = {str(i): d.result.error for i, d in enumerate(deliveries) if d.result.error is not None}
        ids = [d.id for d in deliveries]
        outcomes = [int(d.result.outcome) for d in deliveries]
        printed = [i for i, d in enumerate(deliveries) if d.result.printed]
        self.link.send(m.Results(seq, ids, outcomes, sizes, segments=segments, errors=errors, printed=printed), parts)

    def deliver_items(self, call_id: str, attempt: int, first: int, items: Sequence[Payload]) -> None:
        stream = self.streams.setdefault(call_id, Stream(attempt))
        stream.attempt = attempt
        stream.items.extend(enumerate(items, first))
        self._send_items(call_id, attempt, first, items)

    def _send_items(self, call_id: str, attempt: int, first: int, items: Sequence[Payload]) -> None:
        gone = next((item for item in items if self.files is not None and not _is_there(item, self.files)), None)
        if gone is not None:
            self.send(m.RefusedCalls([call_id], _gone(gone)))
            return
        sizes, segments, parts = self._packed(items)
        self.send(m.Items(call_id, attempt, first, sizes, segments), parts)

    def _packed(self, loads: Iterable[Payload]) -> tuple[list[int], Segments, list[Any]]:
        """Return the columns and the parts of a message that this client can open."""
        if self.files is None:
            return payloads.pack(loads)
        files = self.files
        bodies = [FileBody(files, load) if isinstance(load, Segment) else load for load in loads]
        return [len(body) for body in bodies], {}, list(bodies)

    def read_upto(self, call_id: str, number: int) -> list[Payload]:
        """Return the items before that number: their reader has them."""
        stream = self.streams.get(call_id)
        done: list[Payload] = []
        while stream is not None and stream.items and stream.items[0][0] < number:
            done.append(stream.items.popleft()[1])
        return done

    def close_stream(self, call_id: str) -> list[Payload]:
        """Forget a stream whose end its reader has, or will never have; return its items that were still kept."""
        stream = self.streams.pop(call_id, None)
        return [payload for _, payload in stream.items] if stream is not None else []

    def owed_payloads(self) -> list[Payload]:
        """Return every payload that this client has still to have."""
        items = [payload for stream in self.streams.values() for _, payload in stream.items]
        return [delivery.result.payload for delivery in self.outbox.owed()] + items

    def resend(self) -> None:
        """Send again, on a new connection, all that is not acknowledged."""
        for call_id, stream in self.streams.items():
            if stream.items:
                self._send_items(call_id, stream.attempt, stream.items[0][0], [p for _, p in stream.items])
        again = self.outbox.reconnect()
        if again:
            self.deliver(again)


class ClientPeer:
    """What a client's messages mean."""

    def __init__(self, server: Server, session: Session, link: Link) -> None:
        self._server = server
        self._session = session
        self._link = link
        now = server.now()
        self._says_again_until = now + SAYS_AGAIN_SECONDS if session.resubmits_until > now else 0.0
        self._handlers: dict[type[Any], Callable[[Any, memoryview], None]] = {
            m.Submit: self._submit,
            m.Ack: self._ack,
            m.Cancel: self._cancel,
            m.StreamCredit: self._stream_credit,
            m.Watch: self._watch,
            m.Request: self._request,
            m.PutBlob: self._put_blob,
            m.AskChannel: self._ask_channel,
        }

    def received(self, message: Any, body: memoryview) -> None:
        handler = self._handlers.get(type(message))
        if handler is None:
            raise ProtocolError(f"A client does not send {type(message).__name__}.")
        handler(message, body)

    def closed(self) -> None:
        if self._session.link is self._link:
            self._server.client_gone(self._session)

    def _submit(self, message: m.Submit, body: memoryview) -> None:
        session, ids = self._session, message.ids
        if len(set(ids)) != len(ids) or len(ids) != len(message.sizes):
            raise ProtocolError("The ids and sizes of a Submit do not belong together.")
        if session.is_remote and message.segments:
            raise ProtocolError("A client over TCP shares no segments with the server: its payloads come in frames.")
        self._take(message, payloads.unpack(message.sizes, message.segments, body))

    def received_in_parts(self, message: Any, spool: Spool) -> None:
        """Deal with a message whose body came in parts, and may be bigger than memory; it is the receiver's now."""
        if isinstance(message, m.PutBlob) and spool.size <= BODY_MAX_BYTES:
            self._server.put_blob(self._link, message, spool)
            return
        try:
            if not isinstance(message, m.Submit) or len(message.ids) != 1 or message.sizes != [spool.size]:
                raise ProtocolError(f"A body of {spool.size} bytes in parts does not belong to this message.")
            if spool.failure is not None:
                self._session.send(m.RefusedCalls(message.ids, error_info(spool.failure)))
            else:
                self._take(message, [spool.keep()])
        finally:
            spool.close()

    def _take(self, message: m.Submit, loads: list[Payload]) -> None:
        """Take calls in, with their payloads."""
        server, session, ids = self._server, self._session, message.ids
        if abs(message.priority) > PRIORITY_MAX:
            raise ProtocolError(f"A priority is a number from -{PRIORITY_MAX} to {PRIORITY_MAX}.")
        if message.acked:
            self.acknowledged(message.acked)
        if message.parent:
            session.parent = message.parent
        if message.detached and session.resubmits_until > server.now():
            ids, fresh = server.not_accepted_before(session, ids, loads)
            if session.is_remote:  # files of this submission only; a local client's are those of the first
                server.discard([load for load in loads if isinstance(load, Segment) and load not in fresh])
            loads = fresh
        if len(session.outbox) and any(call_id in session.outbox for call_id in ids):
            # Sent again by a client that reconnected, while its result is on its way: that answers it.
            server.discard([load for call_id, load in zip(ids, loads, strict=True) if call_id in session.outbox])
            kept = [i for i, call_id in enumerate(ids) if call_id not in session.outbox]
            ids, loads = [ids[i] for i in kept], [loads[i] for i in kept]
        is_part = bool(session.owner or message.parent)
        is_own = is_part and server.traffic.is_own(message.function, session, message.parent)
        function = message.function if is_own else server.functions.newest(message.function)
        spec = server.functions.ensure(function)
        if session.holder:
            ids, loads = self._allowed(spec, ids, loads)
            if not ids:
                return
        if is_own:
            self._submit_own(function, message, ids, loads)
        elif server.functions.beside and not message.channel:
            for pool, some, their in server.traffic.divided(function, ids, loads, parent=message.parent):
                self._submit_to(pool, message, some, their)
                server.shadows.mirror(pool, some, their, kind=message.kind, method=message.method)
        else:
            self._submit_to(server.traffic.goes_on(function) or function, message, ids, loads)

    def _submit_own(self, function: str, message: m.Submit, ids: Sequence[str], loads: Sequence[Payload]) -> None:
        """Take in what a version calls of its own functions, be it the current one or not."""
        functions = self._server.functions
        if function not in functions.outdated:
            self._submit_to(function, message, ids, loads)
            return
        with self._server.together():
            pool = functions.revive(function)
            self._submit_to(pool, message, ids, loads)
            functions.let_go(pool)

    def _submit_to(self, function: str, message: m.Submit, ids: Sequence[str], loads: Sequence[Payload]) -> None:
        server, spec = self._server, self._server.functions.specs.get(function)
        deadline = message.deadline
        if deadline is None and spec is not None:
            deadline = spec.options.deadline
        server.decide(
            e.Submitted(
                client=self._session.name,
                function=function,
                ids=ids,
                payloads=loads,
                kind=message.kind,
                detached=message.detached,
                deadline=None if deadline is None else server.now() + deadline,
                priority=message.priority or (spec.options.priority if spec else 0),
                parent=message.parent,
                again=not message.detached and self._says_again_until > server.now(),
                channel="" if message.detached else message.channel,
                method=message.method if spec is not None and message.method in spec.methods else "",
                trace=checked_trace(message.trace) if message.trace else "",
            )
        )

    def _allowed(
        self, spec: FunctionSpec | None, ids: list[str], loads: list[Payload]
    ) -> tuple[list[str], list[Payload]]:
        """Return the calls that the program's token allows; the others are refused."""
        refused, error = token_limits.refusal(self._server, self._session, spec, ids)
        if not refused:
            return ids, loads
        self._session.send(m.RefusedCalls(list(refused), error))
        self._server.tally.refused(TellRefused(self._session.name, list(refused), error, spec.key if spec else ""))
        out = {*refused}
        kept = [i for i, call_id in enumerate(ids) if call_id not in out]
        self._server.discard([load for call_id, load in zip(ids, loads, strict=True) if call_id in out])
        return [ids[i] for i in kept], [loads[i] for i in kept]

    def _ack(self, message: m.Ack, body: memoryview) -> None:
        self.acknowledged(message.seq)

    def acknowledged(self, seq: int) -> None:
        """Forget the results up to a frame of this connection, or of the one before where nothing was sent yet."""
        done = self._session.outbox.acknowledge(seq)
        self._server.discard([d.result.payload for d in done if d.call is not None and not d.call.detached])
        if self._session.streams:
            # Only now: a reader that reconnects is sent its last items together with the end of the stream.
            for delivery in done:
                self._server.discard(self._session.close_stream(delivery.id))

    def _cancel(self, message: m.Cancel, body: memoryview) -> None:
        token_limits.cancel(self._server, self._session, message.ids, reason=message.reason, force=message.force)

    def _stream_credit(self, message: m.StreamCredit, body: memoryview) -> None:
        self._server.discard(self._session.read_upto(message.id, message.upto - STREAM_WINDOW_ITEMS))
        self._server.decide(e.StreamRead(message.id, message.upto))

    def _watch(self, message: m.Watch, body: memoryview) -> None:
        self._server.watches.watch(self._session, message.ids)

    def _request(self, message: m.Request, body: memoryview) -> None:
        self._server.answer(self._session, self._link, message)

    def _ask_channel(self, message: m.AskChannel, body: memoryview) -> None:
        if self._session.is_remote:
            self._link.send(m.Channel(message.function))  # a worker's socket is on its own machine
            return
        self._server.decide(e.ChannelAsked(self._session.name, message.function))

    def _put_blob(self, message: m.PutBlob, body: memoryview) -> None:
        self._server.put_blob(self._link, message, bytes(body))


def _readable(delivery: Delivery, files: PayloadFiles) -> Delivery:
    """Return a delivery as it can be sent: one whose file is gone as an error."""
    payload = delivery.result.payload
    if _is_there(payload, files):
        return delivery
    return delivery._replace(result=Result(Outcome.ERROR, error=_gone(payload)))


def _is_there(payload: Payload, files: PayloadFiles) -> bool:
    return not isinstance(payload, Segment) or files.has(payload)


def _gone(payload: Payload) -> ErrorInfo:
    size = payload.size if isinstance(payload, Segment) else len(payload)
    return ErrorInfo("NotFound", f"A payload of {size} bytes is gone: its file was removed. Run the call again.")
