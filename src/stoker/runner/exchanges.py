"""One request and its answer, for code that reads the one and writes the other bit by bit: apps of ASGI and WSGI."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from stoker.errors import StokerError
from stoker.protocol.web_calls import WebAnswer, WebRequest, encode_answer
from stoker.runner.attempts import Attempt
from stoker.types import InputEnd

if TYPE_CHECKING:
    from stoker.runner.generators import Host, Sender
    from stoker.runner.incoming import AllIncoming, Incoming
    from stoker.runner.outbox import Outbox, Stream

PIECE_BYTES = 128 << 10  # of an answer: it travels in the frame, and many of them are on their way
WINDOW_BYTES = 2 << 20  # of an answer that its reader has not had: kept here and in the server, for each slow reader


class Hosting(Protocol):
    """What an exchange uses of its worker."""

    outbox: Outbox
    sender: Sender
    incoming: AllIncoming


class ClientGone(OSError):  # as of ASGI 2.4
    """The client has hung up before all of its request had come, or its call was ended otherwise."""


class _Exchange:
    """What both kinds have in common. An answer of one piece is the call's value, any other is a stream of pieces."""

    def __init__(self, host: Hosting, attempt: Attempt, request: WebRequest) -> None:
        self.request = request
        self.attempt = attempt
        self._host = host
        self._stream: Stream | None = None
        has_inputs = request.has_more or request.kind != "http"
        self._incoming: Incoming | None = host.incoming.open(attempt) if has_inputs else None

    @property
    def has_begun(self) -> bool:
        """Tell whether part of the answer is on its way."""
        return self._stream is not None

    @property
    def stream(self) -> Stream:
        if self._stream is None:
            self._stream = self._host.outbox.open_stream(self.attempt, window_bytes=WINDOW_BYTES)
        return self._stream

    def close(self) -> None:
        if self._stream is not None:
            self._host.outbox.flush_items(self._stream)
        if self._incoming is not None:
            self._host.incoming.close(self.attempt)

    def _put(self, piece: bytes) -> None:
        self._host.sender.send(self.stream, piece)

    def _ended(self) -> None:
        """Raise why nothing more comes, unless that is as it should be."""
        assert self._incoming is not None
        if self._incoming.end is InputEnd.GONE:
            raise ClientGone
        if self._incoming.end is InputEnd.LOST:
            raise StokerError(
                "What is left of this request cannot be had: an earlier attempt at it has read some of its body and is "
                "gone, or its connection was cut. Send the request again."
            )


def pieces_of(head: WebAnswer | None, body: bytes) -> list[bytes]:
    """Return what goes out for a body, in pieces that fit a frame: the head goes with the first."""
    parts = [body[at : at + PIECE_BYTES] for at in range(0, len(body), PIECE_BYTES)] or [b""]
    if head is not None:
        parts[0] = encode_answer(WebAnswer(head.status, head.headers, parts[0]))
    return [part for part in parts if part]


class TaskExchange(_Exchange):
    """An exchange for a task of an event loop."""

    def __init__(self, host: Hosting, attempt: Attempt, request: WebRequest) -> None:
        super().__init__(host, attempt, request)
        self.room = asyncio.Event()
        self._news = asyncio.Event()
        if self._incoming is not None:
            self._incoming.on_news = self._news.set

    async def receive(self) -> bytes | None:
        """Return the next piece of what comes; None after the last.

        Raises:
            ClientGone: the client has hung up in the middle of it.
            StokerError: an earlier attempt has had some of it.
        """
        incoming = self._incoming
        if incoming is None:
            return None
        while True:
            piece = incoming.take()
            if piece is not None:
                return piece
            if incoming.end is not InputEnd.OPEN:
                self._ended()
                return None
            incoming.ask()
            self._news.clear()
            if not incoming.has_news:
                await self._news.wait()

    async def send(self, body: bytes, head: WebAnswer | None = None) -> None:
        """Send part of the answer, as its client has room for it."""
        for piece in pieces_of(head, body):
            await self.send_whole(piece)

    def end(self, last: bytes = b"") -> None:
        """Say that the answer is complete, though the app has not returned. ``last`` is what is left of it."""
        if last:
            self._put(last)
        self._put(b"")

    def hear_no_more(self) -> None:
        """Have whoever waits in `receive` told that nothing more comes."""
        if self._incoming is not None:
            self._incoming.put([], InputEnd.COMPLETE)

    async def send_whole(self, piece: bytes) -> None:
        """Send a piece as it is: a message of a WebSocket, say.

        Raises:
            ClientGone: nobody wants it any more.
        """
        attempt = self.attempt
        if attempt.interrupt is not None:
            # Its cancellation comes by the event loop: an app that only sends would go on, into all memory there is.
            while not attempt.raised:
                await asyncio.sleep(0)
            raise ClientGone
        self._put(piece)
        while not self.stream.has_room and attempt.interrupt is None:
            self.room.clear()
            await self.room.wait()


class ThreadExchange(_Exchange):
    """An exchange for a thread that may wait."""

    def __init__(self, host: Hosting, attempt: Attempt, request: WebRequest, *, waits: Host) -> None:
        super().__init__(host, attempt, request)
        self._waits = waits

    def receive(self) -> bytes | None:
        """As `TaskExchange.receive`."""
        incoming = self._incoming
        if incoming is None:
            return None
        while True:
            self._check_interrupt()  # what has come is not all: an end would be taken for the body's
            piece = incoming.take()
            if piece is not None:
                return piece
            if incoming.end is not InputEnd.OPEN:
                self._ended()
                return None
            incoming.ask()
            self._waits.leave_user_code()
            self._waits.wait_for_input(incoming)
            self._waits.enter_user_code(self.attempt)

    def send(self, body: bytes, head: WebAnswer | None = None) -> None:
        """As `TaskExchange.send`."""
        for piece in pieces_of(head, body):
            self._put(piece)
            if not self.stream.has_room and self.attempt.interrupt is None:
                self._waits.leave_user_code()
                self._waits.wait_for_room(self.stream)
                self._waits.enter_user_code(self.attempt)
            self._check_interrupt()

    def _check_interrupt(self) -> None:
        if self.attempt.interrupt is not None:
            self.attempt.raised = True  # so that this is what is said of the attempt, not what comes of it in the app
            raise ClientGone
