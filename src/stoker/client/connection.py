"""One connection to a server, through reconnects: what was sent and not answered is sent again.

Two guarantees hold it together. A call is put among the open ones and sent under one lock, which a reconnect takes as
well: each call is sent exactly once per connection. And a send that is cut short (Ctrl-C in the middle of a frame)
breaks the connection on purpose, because nothing could be read in a stream with half a frame in it.
"""

from __future__ import annotations

import itertools
import platform
import select
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from stoker.client.calls import OpenCalls, Pending, Sinks, Waiter, frames_of, submit_of
from stoker.errors import ConnectionFailed, NotFound, PermissionDenied, StokerError, VersionMismatch
from stoker.protocol.frames import Buffer
from stoker.protocol.messages import Ack, Cancel, Reply, Request, StreamCredit, Watch, Welcome
from stoker.transport.current import worker_identity
from stoker.transport.segments import INLINE_MAX_BYTES, SegmentDir
from stoker.transport.sockets import FrameSocket, connect_unix, greet

ACK_EVERY_FRAMES = 64  # a server keeps at most so many frames for a client that only listens
ACK_EVERY_BYTES = 1 << 20  # what came over a network comes again after a reconnect, if it is not acknowledged
DIAL_TIMEOUT_SECONDS = 20.0  # for a greeting: a server that is busy restarting answers late
REDIAL_FIRST_DELAY_SECONDS = 0.01
REDIAL_MAX_DELAY_SECONDS = 0.5


class Endpoint(Protocol):
    """Where a server listens, and how to bring it back."""

    @property
    def path(self) -> str: ...

    @property
    def token(self) -> str: ...

    @property
    def is_remote(self) -> bool:
        """Tell whether the server cannot see this process end, and shares no memory with it."""

    def connect(self, *, timeout: float) -> FrameSocket:
        """Connect, without a greeting.

        Raises:
            ConnectionFailed: nobody answers.
            PermissionDenied: who answers is not to be believed.
        """

    def revive(self) -> None:
        """Start the server again if it is this process's own and has ended; else do nothing."""

    def inherited(self) -> Endpoint:
        """Return a forked child's way to the same server."""


@dataclass(frozen=True)
class SocketEndpoint:
    """A server that somebody else runs."""

    path: str
    token: str = ""

    @property
    def is_remote(self) -> bool:
        return False

    def connect(self, *, timeout: float) -> FrameSocket:
        return connect_unix(self.path, timeout=timeout)

    def revive(self) -> None:
        return None

    def inherited(self) -> Endpoint:
        return self


@dataclass
class OpenRequest:
    """A request that waits for its reply, with the body it was sent with."""

    message: Any
    parts: Sequence[Buffer] = ()
    waiter: Waiter = field(default_factory=Waiter)
    reply: Reply | None = None
    body: Buffer = b""


class Connection:
    """The link to the server, and what has to be said again when it breaks."""

    def __init__(self, endpoint: Endpoint, name: str) -> None:
        self.endpoint = endpoint
        self.name = name
        self.calls = OpenCalls()
        self.requests: dict[int, OpenRequest] = {}
        self.standing: dict[str, dict[str, Any]] = {}  # registrations, said again to a server that was restarted
        self.link: FrameSocket | None = None
        self.welcome: Welcome | None = None
        self.segments: SegmentDir | None = None
        self._brought: SegmentDir | None = None
        self.generation = 0
        self.seen = 0  # the newest `Results.seq` that was dealt with
        self._acked = 0
        self._unacked_bytes = 0  # of results that came in frames
        self.closing = False  # the server was asked to end: its going away is no fault
        self._sendable = False
        self.lost_at: float | None = None  # by the monotonic clock; None while there is a connection
        self.dial_timeout = DIAL_TIMEOUT_SECONDS
        self._lock = threading.Lock()
        self._request_ids = itertools.count(1)

    @property
    def readable(self) -> SegmentDir | None:
        """Where segments lie that the server names: its own directory, or a worker's node's."""
        return self.segments or self._brought

    def dial(self) -> None:
        """Connect, greet, and send what is open.

        Raises:
            ConnectionFailed: nobody answers; `redial` is the patient form.
        """
        link = self.endpoint.connect(timeout=self.dial_timeout)
        try:
            welcome = greet(
                link,
                role="client",
                name=self.name,
                token=self.endpoint.token,
                term=self.welcome.term if self.welcome else 0,
                python=platform.python_version(),
                connection=self.welcome.connection if self.welcome else 0,
                seen=self.seen,
            )
            link.settimeout(None)
        except BaseException:
            link.close()
            raise
        with self._lock:
            restarted = self.welcome is not None and self.welcome.term != welcome.term
            self.link, self.welcome = link, welcome
            self.segments = SegmentDir(welcome.segments, spill=welcome.spill or None) if welcome.segments else None
            self._brought = _of_this_node()
            self.seen = self._acked = self._unacked_bytes = 0
            self.generation += 1
            self.lost_at = None
            if not (self.endpoint.is_remote and self.calls):
                self._sendable = True
                self._say_again(welcome, registrations=restarted)
                return
        # Whole inputs, which take their time on a network. Meanwhile somebody must read, or two ends that both send
        # would wait for each other; until it is done, what is submitted waits to be said with the rest.
        sending = threading.Thread(
            target=self._catch_up, args=(link, welcome, restarted), name="stoker-resend", daemon=True
        )
        sending.start()

    def _catch_up(self, link: FrameSocket, welcome: Welcome, restarted: bool) -> None:
        with self._lock:
            if self.link is link:
                self._sendable = True
                self._say_again(welcome, registrations=restarted)

    def redial(self, *, deadline: float | None = None, given_up: Callable[[], bool] = lambda: False) -> bool:
        """Connect again, for as long as the server keeps what this client is owed; whether there is a connection.

        It stops trying at ``deadline``, or when it is ``given_up``; the next one goes on.

        Raises:
            ConnectionFailed: the server did not come back.
        """
        self.drop()
        if self.closing:
            raise ConnectionFailed("The server closed the connection at the end of the session.")
        grace = self.welcome.grace if self.welcome else 0.0
        if self.lost_at is None:
            self.lost_at = time.monotonic()
        delay = REDIAL_FIRST_DELAY_SECONDS
        while not given_up():
            try:
                self.endpoint.revive()
                self.dial()
                if given_up():  # meanwhile: nobody reads it any more, nor waits for this thread
                    self.drop()
                return True
            except (VersionMismatch, PermissionDenied):
                raise
            except (ConnectionFailed, TimeoutError) as error:
                if time.monotonic() >= self.lost_at + grace:
                    raise ConnectionFailed(
                        f"The server at {self.endpoint.path} went away and did not come back within {grace:.0f} s "
                        f"({error}). Calls that were open are lost to this program; run it again."
                    ) from error
            if deadline is not None and time.monotonic() + delay >= deadline:
                time.sleep(max(0.0, deadline - time.monotonic()))
                return False
            time.sleep(delay)
            delay = min(2 * delay, REDIAL_MAX_DELAY_SECONDS)
        return False

    def drop(self) -> None:
        """Close the link, if any; what is submitted from now on waits for the next one."""
        with self._lock:
            self._sendable = False
            if self.link is not None:
                self.link.close()
                self.link = None

    def break_link(self) -> None:
        """Make the reader find the connection broken; safe from any thread."""
        link = self.link
        if link is not None:
            link.shutdown()

    def submit(self, pendings: list[Pending]) -> None:
        """Send calls of one route, and keep them open until they are settled."""
        with self._lock:
            self.calls.add(pendings)
            for batch in (pendings,) if _is_one_frame(pendings) else frames_of(pendings):
                if self._sendable:
                    message, parts = submit_of(batch, acked=self.seen)
                    self._acked = self.seen
                    self._send(message, parts)

    def send(self, message: Any, parts: Sequence[Buffer] = ()) -> None:
        """Send what needs no repeating; while there is no connection it is dropped."""
        with self._lock:
            if self._sendable:
                self._send(message, parts)

    def watch(self, pending: Pending) -> None:
        """Ask for the result of a detached call of somebody else's."""
        with self._lock:
            known = self.calls.get(pending.id)
            if known is not None:
                known.sink = Sinks(known.sink, pending.sink)
                if self.calls.get(pending.id) is known:
                    return  # else it was settled meanwhile, and perhaps told its old sink only: ask
            self.calls.add_one(pending)
            if self._sendable:
                self._send(Watch([pending.id]))

    def request(self, verb: str, params: dict[str, Any]) -> OpenRequest:
        """Send a request; it is sent again after a reconnect, so verbs must bear being said twice."""
        return self.ask(Request(next(self._request_ids), verb, params))

    def ask(self, message: Any, parts: Sequence[Buffer] = ()) -> OpenRequest:
        """Send a message that has an ``id`` and is answered by `Reply`."""
        found = OpenRequest(message, parts)
        with self._lock:
            self.requests[message.id] = found
            if self._sendable:
                self._send(message, parts)
        return found

    def next_request_id(self) -> int:
        return next(self._request_ids)

    @property
    def unacked(self) -> bool:
        return self.seen > self._acked

    def acknowledge(self) -> None:
        """Tell the server what was dealt with, unless sending would wait: the reader must never wait for a send."""
        if self.seen > self._acked and self._lock.acquire(blocking=False):
            try:
                if self._sendable and self.link is not None and _writable(self.link.fileno()):
                    self._acked = self.seen
                    self._unacked_bytes = 0
                    self._send(Ack(self._acked))
            finally:
                self._lock.release()

    def saw(self, seq: int, size: int = 0) -> None:
        """Note that a `Results` frame of so many bytes is dealt with, and acknowledge where many are."""
        self.seen = seq
        self._unacked_bytes += size
        if seq - self._acked >= ACK_EVERY_FRAMES or self._unacked_bytes >= ACK_EVERY_BYTES:
            self.acknowledge()

    def fail_all(self, error: StokerError) -> None:
        """End everything that is open with an error, and wake whoever reads."""
        with self._lock:
            self._sendable = False
        self.break_link()
        self.calls.fail_all(error)
        while self.requests:
            _, request = self.requests.popitem()
            request.waiter.notify()

    def _send(self, message: Any, parts: Sequence[Buffer] = ()) -> None:
        assert self.link is not None
        try:
            self.link.send(message, parts)
        except (ConnectionFailed, TimeoutError):
            self._sendable = False
            self.link.shutdown()  # the reader finds out and connects again; what was sent is among the open calls
        except BaseException:
            self._sendable = False
            self.link.shutdown()
            raise

    def _say_again(self, welcome: Welcome, *, registrations: bool) -> None:
        if registrations:
            for params in [*self.standing.values()]:  # other threads register meanwhile
                self._send(Request(next(self._request_ids), "register", params))
        for request in list(self.requests.values()):
            self._send(request.message, request.parts)
        for batch in self.calls.to_submit(known=frozenset(welcome.known)):
            self._restore_segments(batch)
            message, parts = submit_of(batch, acked=0)
            self._send(message, parts)
        if watched := self.calls.watched():
            self._send(Watch(watched))
        for call_id, upto in self.calls.credits():
            self._send(StreamCredit(call_id, upto))
        for reason, ids in self.calls.cancelled().items():
            self._send(Cancel(ids, reason))

    def _restore_segments(self, batch: list[Pending]) -> None:
        for pending in batch:
            if pending.encoded is None or self.segments is None:
                continue
            if not _is_there(self.segments, pending.segment):
                self.segments.write(pending.segment, pending.encoded.parts)


def _of_this_node() -> SegmentDir | None:
    """Return where a worker's agent brings payloads to, if its server is on another machine."""
    identity = worker_identity()
    if identity is None or not identity.segments:
        return None
    from stoker.transport.node_segments import NodeSegments

    return NodeSegments(identity.segments, identity.payload_socket)


def _is_there(segments: SegmentDir, name: str) -> bool:
    try:
        segments.map(name)
    except NotFound:
        return False
    return True


def _writable(fd: int) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    return bool(poller.poll(0))


def _is_one_frame(pendings: list[Pending]) -> bool:
    """Tell whether calls that were just made travel together: mostly they do, and need not be looked at one by one."""
    return len(pendings) == 1 or sum([len(pending.data) for pending in pendings]) <= INLINE_MAX_BYTES
