"""What is done with each message of the server, on the thread that reads. No user code runs here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stoker.client.calls import REFUSED, Settled
from stoker.client.connection import Connection
from stoker.errors import ProtocolError, StokerError
from stoker.protocol.frames import Buffer, split_body
from stoker.protocol.messages import Accepted, Channel, Items, Notice, RefusedCalls, Reply, Results, Segments, Window
from stoker.transport.sockets import Received
from stoker.types import ErrorInfo, Outcome

DEFAULT_WINDOW_CALLS = 1000  # before the server's first `Window`


class Dispatcher:
    """Hands messages to those they are for."""

    def __init__(
        self, connection: Connection, on_notice: Callable[[Notice], None], on_channel: Callable[[Channel], None]
    ) -> None:
        self._connection = connection
        self._on_notice = on_notice
        self._on_channel = on_channel
        self.windows: dict[str, int] = {}
        self._handlers: dict[type[Any], Callable[[Any, Buffer], None]] = {
            Results: self._results,
            Accepted: self._accepted,
            RefusedCalls: self._refused,
            Items: self._items,
            Window: self._window,
            Notice: self._notice,
            Reply: self._reply,
            Channel: self._channel,
        }

    def __call__(self, received: Received) -> None:
        message, body = received
        handler = self._handlers.get(type(message))
        if handler is None:
            raise ProtocolError(f"The server sent a {type(message).__name__}, which is not for clients.")
        handler(message, body)

    def _results(self, message: Results, body: Buffer) -> None:
        if message.seq <= self._connection.seen:
            return
        parts: list[Any] = split_body(body, message.sizes)
        if not len(parts) == len(message.ids) == len(message.outcomes):
            raise ProtocolError("The columns of a Results frame have different lengths.")
        gone = self._map_segments(message.segments, parts, message.ids) if message.segments else None
        pop = self._connection.calls.pop
        errors, printed = message.errors, frozenset(message.printed)
        for i, (call_id, outcome) in enumerate(zip(message.ids, message.outcomes, strict=True)):
            pending = pop(call_id, None)
            if pending is not None:
                error = errors.get(str(i)) if errors else None
                if gone and i in gone:
                    pending.sink.settle(pending, Settled(Outcome.ERROR, b"", gone[i]))
                else:
                    pending.sink.settle(pending, Settled(outcome, parts[i], error, i in printed))
        # Last: once acknowledged, the server forgets these results and unlinks their segments.
        self._connection.saw(message.seq, len(body))

    def _map_segments(self, segments: Segments, parts: list[Any], ids: list[str]) -> dict[int, ErrorInfo]:
        """Put mappings in their places; return why there are none, by place: that is its call's error only."""
        gone: dict[int, ErrorInfo] = {}
        directory = self._connection.readable
        if directory is None:
            raise ProtocolError("The server sent a segment to a client without a segment directory.")
        for key, (name, size) in segments.items():
            if self._connection.calls.get(ids[int(key)]) is not None:
                try:
                    parts[int(key)] = directory.map(str(name))[: int(size)]
                except StokerError as error:
                    gone[int(key)] = ErrorInfo(type(error).__name__, str(error), fields=error.fields)
        return gone

    def _accepted(self, message: Accepted, body: Buffer) -> None:
        for call_id in message.ids:
            pending = self._connection.calls.get(call_id)
            if pending is not None and not pending.accepted:
                pending.accepted = True
                pending.data, pending.encoded, pending.segment = b"", None, ""
                pending.sink.accept(pending)

    def _refused(self, message: RefusedCalls, body: Buffer) -> None:
        for call_id in message.ids:
            pending = self._connection.calls.pop(call_id, None)
            if pending is not None:
                pending.sink.settle(pending, Settled(REFUSED, b"", message.error))

    def _items(self, message: Items, body: Buffer) -> None:
        pending = self._connection.calls.get(message.id)
        if pending is None or message.attempt < pending.attempt:
            return
        pending.attempt = message.attempt
        parts: list[Any] = split_body(body, message.sizes)
        if message.segments:
            gone = self._map_segments(message.segments, parts, [message.id] * len(parts))
            if gone:
                self._connection.calls.pop(message.id, None)
                pending.sink.settle(pending, Settled(Outcome.ERROR, b"", next(iter(gone.values()))))
                return
        pending.sink.items(pending, message.first, parts)

    def _window(self, message: Window, body: Buffer) -> None:
        self.windows[message.function] = message.size

    def _notice(self, message: Notice, body: Buffer) -> None:
        self._on_notice(message)

    def _channel(self, message: Channel, body: Buffer) -> None:
        self._on_channel(message)

    def _reply(self, message: Reply, body: Buffer) -> None:
        request = self._connection.requests.pop(message.id, None)
        if request is not None:
            request.reply, request.body = message, body
            request.waiter.notify()
