"""Results and items on their way to the server: batched, numbered, and held until they are acknowledged.

Locks: `Desk.lock` guards what is pending; ``_sending`` keeps frames in the order of their numbers, and is taken first.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from stoker.errors import ConnectionFailed, NotFound, StokerError
from stoker.protocol.encoded import Buffer, Encoded
from stoker.protocol.frames import encode_prefix
from stoker.protocol.messages import Items, PutSegment, Results
from stoker.protocol.structure import encode_header
from stoker.runner.attempts import Attempt, Desk, Key
from stoker.runner.config import BATCH_MAX
from stoker.transport.segments import INLINE_MAX_BYTES, SegmentDir
from stoker.transport.sockets import FrameSocket
from stoker.types import ErrorInfo, Outcome

EMPTY = Encoded([b""], 0)
BATCH_BYTES = 4 << 20  # of payload in one frame; more gains nothing and delays what is in it

Payload: TypeAlias = "bytes | tuple[str, int]"  # what travels in the frame, or the name and size of a segment


class EncodedFrame(NamedTuple):
    """A frame ready to be sent, as often as it takes."""

    head: bytes
    parts: list[Buffer]
    segments: list[str] = []  # named in it  # noqa: RUF012 - never changed
    seq: int = 0

    @classmethod
    def of(cls, message: Any, parts: list[Buffer]) -> EncodedFrame:
        kind, header = encode_header(message)
        found = getattr(message, "segments", None)
        segments = [str(name) for name, _ in found.values()] if found else []
        head = encode_prefix(kind, len(header), sum(map(len, parts))) + header
        return cls(head, parts, segments, getattr(message, "seq", 0))


class Columns:
    """Payloads side by side, as messages have them."""

    __slots__ = ("bytes", "parts", "segments", "sizes")

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.parts: list[Buffer] = []
        self.segments: dict[str, list[str | int]] = {}
        self.bytes = 0

    def add(self, payload: Payload) -> None:
        if type(payload) is bytes:
            size = len(payload)
            self.sizes.append(size)
            if size:
                self.parts.append(payload)
                self.bytes += size
        else:
            self.segments[str(len(self.sizes))] = list(payload)
            self.sizes.append(0)


class ResultBatch(Columns):
    """Results that are not yet sent. ``since`` is when the first came."""

    __slots__ = ("attempts", "batches", "errors", "ids", "outcomes", "printed", "seconds", "since")

    def __init__(self, since: float) -> None:
        super().__init__()
        self.since = since
        self.ids: list[str] = []
        self.attempts: list[int] = []
        self.outcomes: list[int] = []
        self.seconds: list[float] = []
        self.errors: dict[str, ErrorInfo] = {}
        self.printed: list[int] = []
        self.batches: list[int] = []

    def frame(self, seq: int) -> EncodedFrame:
        message = Results(
            seq=seq,
            ids=self.ids,
            outcomes=self.outcomes,
            sizes=self.sizes,
            attempts=self.attempts,
            seconds=self.seconds,
            segments=self.segments,
            errors=self.errors,
            printed=self.printed,
            batches=self.batches if any(self.batches) else [],
        )
        return EncodedFrame.of(message, self.parts)


class Unacknowledged(NamedTuple):
    seq: int
    keys: list[Key]
    frame: EncodedFrame


class SentItems(NamedTuple):
    end: int  # one past its last item
    bytes: int
    frame: EncodedFrame


class Stream:
    """The items of one attempt: those pending, and those sent that the reader may not have had.

    ``window_bytes``: how many of the latter there may be, beside what its credit says; the last item may go beyond.
    """

    def __init__(self, attempt: Attempt, window_bytes: float = float("inf")) -> None:
        self.attempt = attempt
        self.window_bytes = window_bytes
        self.sent_bytes = 0  # counted by who sends, under its lock
        self.had_bytes = 0  # counted by who reads what credit there is
        self.window = attempt.credit
        self.upto = attempt.credit
        self.next = 0
        self.first_pending = 0
        self.pending = Columns()
        self.since = 0.0
        self.sent_at = 0.0
        self.sent: deque[SentItems] = deque()

    @property
    def has_room(self) -> bool:
        return self.next < self.upto and self.sent_bytes - self.had_bytes < self.window_bytes

    def credit(self, upto: int) -> list[EncodedFrame]:
        """Take more credit; return what the reader has had, going by its window: it need not be sent again."""
        self.upto = max(self.upto, upto)
        done = []
        while self.sent and self.sent[0].end <= self.upto - self.window:
            had = self.sent.popleft()
            self.had_bytes += had.bytes
            done.append(had.frame)
        return done


class Outbox:
    """See the module. Every method may be called from any thread."""

    def __init__(self, desk: Desk, worker: str) -> None:
        self.segments: SegmentDir | None = None
        self.sends_segments = False  # the server is on another machine: it has our segments by being sent them
        self.sent = 0  # frames of results, for tests and for people
        self._desk = desk
        self._worker = worker
        self._link: FrameSocket | None = None
        self._sending = threading.Lock()
        self._pending: ResultBatch | None = None
        self._leaving: ResultBatch | None = None  # no longer pending, and not yet among those that are sent
        self._seq = 0
        self._made = 0
        self._unacknowledged: deque[Unacknowledged] = deque()
        self._streams: dict[Key, Stream] = {}

    # -- payloads

    def store(self, encoded: Encoded) -> Payload:
        """Return a payload as it will travel; a big one is written to a segment now.

        Raises:
            StokerError: there is no room for it.
        """
        if encoded.size <= INLINE_MAX_BYTES or self.segments is None:
            return encoded.to_bytes()
        with self._desk.lock:
            self._made += 1
            name = f"r-{self._worker}-{self._made}"
        return name, self.segments.write(name, encoded.parts)

    # -- results

    def add(
        self, attempt: Attempt, outcome: Outcome, payload: Payload, now: float, error: ErrorInfo | None = None
    ) -> ResultBatch:
        """Note a finished attempt; return the batch that it is in. ``now`` is of `time.monotonic`."""
        with self._desk.lock:
            self._desk.running.pop(attempt.key, None)
            batch = self._pending
            if batch is None:
                batch = self._pending = ResultBatch(now)
            if error is not None:
                batch.errors[str(len(batch.ids))] = error
            if attempt.printed:
                batch.printed.append(len(batch.ids))
            batch.ids.append(attempt.id)
            batch.batches.append(attempt.batch)
            batch.attempts.append(attempt.number)
            batch.outcomes.append(outcome.value)
            batch.seconds.append((attempt.ended or now) - attempt.started if attempt.started else 0.0)
            batch.add(payload)
        attempt.body = _NO_BODY
        return batch

    def add_values(self, encoded: Sequence[tuple[Attempt, Payload]], now: float) -> None:
        """Note attempts that have finished together, with a value each."""
        value = Outcome.VALUE.value
        with self._desk.lock:
            running, batch = self._desk.running, self._pending
            if batch is None:
                batch = self._pending = ResultBatch(now)
            for attempt, payload in encoded:
                running.pop(attempt.key, None)
                if attempt.printed:
                    batch.printed.append(len(batch.ids))
                batch.ids.append(attempt.id)
                batch.batches.append(attempt.batch)
                batch.attempts.append(attempt.number)
                batch.outcomes.append(value)
                batch.seconds.append((attempt.ended or now) - attempt.started if attempt.started else 0.0)
                batch.add(payload)
                attempt.body = _NO_BODY

    def is_due(self, batch: ResultBatch, now: float, *, remaining: int) -> bool:
        """Tell whether a batch should go now, with ``remaining`` attempts waiting here.

        Half of what was leased is enough: then the server can send more before the worker has run dry.
        """
        count = len(batch.ids)
        if not remaining or count >= BATCH_MAX or batch.bytes > BATCH_BYTES:
            return True
        return count >= remaining and (count >= _WORTH_A_FRAME or now - batch.since > _WORTH_A_FRAME_SECONDS)

    def flush(self) -> None:
        """Send what is pending. A broken connection is no error: it is sent again on the next."""
        if self._pending is None:
            return
        with self._sending:
            batch = self._take_pending()
            if batch is None:
                return
            self._seq += 1
            frame = batch.frame(self._seq)
            keys = list(zip(batch.ids, batch.attempts, strict=True))
            self._unacknowledged.append(Unacknowledged(self._seq, keys, frame))
            self._leaving = None
            self._send(frame)

    def _take_pending(self) -> ResultBatch | None:
        with self._desk.lock:
            batch, self._pending = self._pending, None
            self._leaving = batch
            return batch

    def flush_due(self, now: float, *, after: float) -> float | None:
        """Send results and items that have waited for ``after`` seconds; return when the next will have."""
        due: list[float] = []
        batch = self._pending
        if batch is not None:
            if now - batch.since >= after:
                self.flush()
            else:
                due.append(batch.since + after)
        for stream in list(self._streams.values()):
            if stream.pending.sizes:
                if now - stream.since >= after:
                    self.flush_items(stream)
                else:
                    due.append(stream.since + after)
        return min(due, default=None)

    def acknowledged(self, seq: int) -> None:
        """Forget results up to this number."""
        while self._unacknowledged and self._unacknowledged[0].seq <= seq:
            done = self._unacknowledged.popleft()
            self._let_go(done.frame)
            for key in done.keys if self._streams else ():
                stream = self._streams.pop(key, None)
                for item in stream.sent if stream is not None else ():
                    self._let_go(item.frame)

    @property
    def is_empty(self) -> bool:
        """Tell whether all results are acknowledged."""
        with self._sending:  # what another thread is about to send is neither pending nor sent yet
            return self._pending is None and not self._unacknowledged

    def finished_keys(self) -> set[Key]:
        """Return the attempts that have finished and are not acknowledged. The desk's lock is held."""
        found: set[Key] = set()
        for batch in (self._pending, self._leaving):
            if batch is not None:
                found.update(zip(batch.ids, batch.attempts, strict=True))
        for sent in list(self._unacknowledged):
            found.update(sent.keys)
        return found

    # -- items

    def open_stream(self, attempt: Attempt, *, window_bytes: float = float("inf")) -> Stream:
        stream = self._streams[attempt.key] = Stream(attempt, window_bytes)
        return stream

    def credit(self, call_id: str, upto: int) -> list[Stream]:
        """Give a call's streams more credit; return them."""
        found = [stream for stream in list(self._streams.values()) if stream.attempt.id == call_id]
        for stream in found:
            for frame in stream.credit(upto):
                self._let_go(frame)
        return found

    def add_item(self, stream: Stream, payload: Payload, now: float) -> None:
        """Note an item. The first after a pause goes at once, the others in company."""
        with self._desk.lock:
            if not stream.pending.sizes:
                stream.first_pending = stream.next
                stream.since = now
            stream.pending.add(payload)
            stream.next += 1

    def flush_items(self, stream: Stream) -> None:
        with self._sending:
            with self._desk.lock:
                columns, stream.pending = stream.pending, Columns()
                first = stream.first_pending
            if not columns.sizes:
                return
            message = Items(
                id=stream.attempt.id,
                attempt=stream.attempt.number,
                first=first,
                sizes=columns.sizes,
                segments=columns.segments,
            )
            frame = EncodedFrame.of(message, columns.parts)
            stream.sent.append(SentItems(first + len(columns.sizes), columns.bytes, frame))
            stream.sent_bytes += columns.bytes
            stream.sent_at = time.monotonic()
            self._send(frame)

    def say(self, message: Any) -> None:
        """Tell the server something that must come before the results that follow."""
        with self._sending:
            self._send(EncodedFrame.of(message, []))

    # -- connections

    def attach(self, link: FrameSocket, hello: list[EncodedFrame]) -> None:
        """Use a new connection: say all that was not acknowledged on it, then these frames.

        A server that was restarted leases nothing before its workers have said what they hold: what they have finished
        must be there by then, or it would be run again.

        Raises:
            ConnectionFailed: it is broken already.
        """
        with self._sending:
            self._link = None
            for stream in list(self._streams.values()):
                for item in list(stream.sent):
                    self._send_on(link, item.frame)
            for sent in list(self._unacknowledged):
                self._send_on(link, sent.frame)
            for frame in hello:
                self._send_on(link, frame)
            self._link = link

    def _send(self, frame: EncodedFrame) -> None:
        self.sent += 1
        if self._link is not None:
            try:
                self._send_on(self._link, frame)
            except (ConnectionFailed, TimeoutError):
                self._link = None  # the control thread brings another, and sends it all again

    def _send_on(self, link: FrameSocket, frame: EncodedFrame) -> None:
        """Send a frame, after the segments that it names where the server cannot open them."""
        if self.sends_segments and self.segments is not None:
            for name in frame.segments:
                try:
                    view = self.segments.local(name)
                except NotFound:
                    continue  # the server finds that it has no such payload: the attempt counts as lost
                link.send(PutSegment(name, [len(view)], frame.seq), [view])
        link.send_frame(frame.head, frame.parts)

    def _let_go(self, frame: EncodedFrame) -> None:
        """Remove the segments of a frame that the server has; on its own machine they are its own."""
        if self.sends_segments and self.segments is not None:
            for name in frame.segments:
                self.segments.delete(name)


def unsendable(error: StokerError) -> ErrorInfo:
    """Describe why a value could not travel."""
    return ErrorInfo(type(error).__name__, str(error), fields=error.fields)


_NO_BODY = memoryview(b"")
_WORTH_A_FRAME = 64  # results: a frame costs as much as ten short calls
_WORTH_A_FRAME_SECONDS = 0.001
