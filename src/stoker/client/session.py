"""The session: this process's tie to a server. One per process, opened when first needed, shared by all threads.

It goes to the server that is named (`stoker.client.endpoints`), else to the user's persistent server, else it starts
one of its own. A forked child gets a session of its own, to the same server.
"""

from __future__ import annotations

import atexit
import itertools
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from stoker.client import notices
from stoker.client.calls import GONE, Pending, Route, Settled, Sink, Slot, Waiter
from stoker.client.channel import Channels
from stoker.client.connection import Connection, Endpoint, OpenRequest
from stoker.client.dispatch import DEFAULT_WINDOW_CALLS, Dispatcher
from stoker.client.embedded import EmbeddedServer
from stoker.client.endpoints import configured_endpoint, local_endpoint
from stoker.client.goodbye import SHUTDOWN_SECONDS, say_goodbye
from stoker.client.ids import call_ids, stamped_id
from stoker.client.reader import Reader
from stoker.errors import ConnectionFailed, InvalidRequest, NotFound, StokerError, from_wire
from stoker.protocol.channel_frames import PAYLOAD_MAX_BYTES
from stoker.protocol.encoded import Encoded
from stoker.protocol.frames import Buffer
from stoker.protocol.messages import Cancel, PutBlob, StreamCredit
from stoker.protocol.payload import encode_call
from stoker.transport.current import being_loaded, current_call
from stoker.transport.segments import INLINE_MAX_BYTES

OUTPUT_SECONDS = 1.0  # how long a call's result waits for its output
OUTPUT_PAUSE_SECONDS = 10.0  # after a wait in vain, for which results do not wait for their output


class Session:
    """Calls, requests and blobs over one connection."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.id = stamped_id("c-")
        self.endpoint = endpoint
        self.connection = Connection(endpoint, self.id)
        self.channels = Channels(self)
        self.dispatcher = Dispatcher(self.connection, notices.show, self.channels.offered)
        self.new_call_id = call_ids(self.id)
        self.connection.dial()
        self.reader = Reader(self.connection, self.dispatcher)
        self._closed = False
        self._no_output_before = 0.0
        self.holders = 0  # `app.run()` blocks that are open
        self._renewals = itertools.count(1)

    @property
    def embedded(self) -> bool:
        return isinstance(self.endpoint, EmbeddedServer)

    @property
    def freezes(self) -> bool:
        """Tell whether workers may be started where this program's own environment is not."""
        welcome = self.connection.welcome
        return welcome is not None and welcome.freeze

    @property
    def usable(self) -> bool:
        """Tell whether this is still this process's session."""
        return _session is self and self.reader.failure is None

    @property
    def output_missing(self) -> bool:
        """Tell whether the last wait for what a call had printed was in vain."""
        return self._no_output_before > 0

    @property
    def failed(self) -> bool:
        return self.reader.failure is not None

    def pending(self, route: Route, sink: Sink, args: Sequence[Any], kwargs: dict[str, Any], tag: int = 0) -> Pending:
        """Encode one call's input.

        Raises:
            SerializationError: an argument cannot travel; it says which.
        """
        return self.packed(route, sink, encode_call(route.arguments(args), kwargs), tag)

    def packed(self, route: Route, sink: Sink, encoded: Encoded, tag: int = 0) -> Pending:
        """Make a call of an encoded input, putting a big one into shared memory."""
        pending = Pending(self.new_call_id(), route, sink, tag)
        if encoded.size <= INLINE_MAX_BYTES or self.connection.segments is None:
            pending.data = encoded.to_bytes()
        else:
            pending.encoded = encoded
            pending.segment = f"{pending.id}.a"
            self.connection.segments.write(pending.segment, encoded.parts)
        return pending

    def submit(self, pendings: list[Pending]) -> None:
        """Send calls of one route.

        Raises:
            ConnectionFailed: the server is gone for good.
        """
        if self.reader.failure is not None:
            self._discard_segments(pendings)
            raise self.reader.failure
        self.connection.submit(pendings)

    def submit_again(self, pending: Pending) -> None:
        """Send a call that was refused once more. With the refusal its segment went, perhaps only now."""
        if pending.encoded is not None and self.connection.segments is not None:
            pending.segment = f"{pending.id}.a{next(self._renewals)}"
            self.connection.segments.write(pending.segment, pending.encoded.parts)
        self.submit([pending])

    def _discard_segments(self, pendings: list[Pending]) -> None:
        """Remove what was never sent: of segments that were sent, the server is the owner."""
        for pending in pendings:
            if pending.segment and self.connection.segments is not None:
                self.connection.segments.delete(pending.segment)

    def call(self, route: Route, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[str, Settled]:
        """Make an attached call and wait until it is settled; return its id with its end. Ctrl-C cancels it."""
        encoded = encode_call(route.arguments(args), kwargs)
        channel = self.channels.find(route)
        if channel is not None and encoded.size <= PAYLOAD_MAX_BYTES:
            done = channel.call(route, encoded.to_bytes())
            if done is not None:
                return done
        slot = Slot()
        pending = self.packed(route, slot, encoded)
        try:
            self.submit([pending])
            self.reader.wait(slot)
        except BaseException:
            self.cancel([pending])
            raise
        self.channels.missed(route)
        return pending.id, self.settled(slot)

    def settled(self, slot: Slot) -> Settled:
        """Return how a call ended that was waited for.

        Raises:
            ConnectionFailed: the server is gone for good.
        """
        if slot.settled is None:
            raise self.reader.failure or GONE
        if slot.settled.printed:
            self.await_output()
        return slot.settled

    def await_output(self) -> None:
        """Return when what calls that ended have printed is shown: it comes by another way than their results.

        Within a call, whoever made that one waits: there is the screen.
        """
        call = current_call()
        if call is not None:
            call.printed = True
        elif notices.screen.show_output and time.monotonic() >= self._no_output_before:
            try:
                self.request("flush", timeout=OUTPUT_SECONDS)
                self._no_output_before = 0.0
            except (StokerError, TimeoutError):
                # A map of calls that print must not wait so long for each of them.
                self._no_output_before = time.monotonic() + OUTPUT_PAUSE_SECONDS

    def cancel(self, pendings: Sequence[Pending], *, reason: str = "user", force: bool = False) -> None:
        """Cancel calls that are open; those that are settled stay as they are."""
        ids = [p.id for p in pendings if self.connection.calls.get(p.id) is not None]
        for pending in pendings:
            pending.cancelled = reason
        if ids:
            self.connection.send(Cancel(ids, reason, force))

    def abandon(self, pendings: Sequence[Pending], *, reason: str) -> None:
        """Cancel calls and forget them: their results are dropped when they come."""
        ids = [p.id for p in pendings if self.connection.calls.pop(p.id, None) is not None]
        if ids:
            self.connection.send(Cancel(ids, reason))

    def grant(self, pending: Pending, upto: int) -> None:
        """Give the writer of a stream room up to an item number."""
        pending.upto = upto
        self.connection.send(StreamCredit(pending.id, upto))

    def window(self, function: str) -> int:
        """Return how many calls a map of this function may have outstanding or unread."""
        return self.dispatcher.windows.get(function, DEFAULT_WINDOW_CALLS)

    def request(self, verb: str, params: dict[str, Any] | None = None, *, timeout: float | None = None) -> Any:
        """Ask the server something and return its answer.

        Raises:
            TimeoutError: no answer came in time.
            StokerError: the server's own answer.
        """
        return self.answer(self.connection.request(verb, params or {}), timeout=timeout)

    def request_kept(self, what: str, verb: str, params: dict[str, Any]) -> Any:
        """Ask for what a lasting server keeps; see `lasting`.

        Raises:
            NotFound: the server does not know it, or is this program's own.
        """
        try:
            return self.request(verb, params)
        except NotFound as error:
            if self.embedded and type(error) is NotFound:
                raise NotFound(f"{no_server(what)} {error}") from None
            raise

    def tell(self, verb: str, params: dict[str, Any]) -> None:
        """Send a request whose answer does not matter."""
        self.connection.request(verb, params)

    def put_blob(self, digest: str, data: Buffer) -> OpenRequest:
        """Send a blob; `answer` tells when the server has it."""
        return self.connection.ask(PutBlob(self.connection.next_request_id(), digest), [data])

    def answer(self, request: OpenRequest, *, timeout: float | None = None) -> Any:
        """Wait for the reply to a request."""
        self.reader.wait(request.waiter, None if timeout is None else time.monotonic() + timeout)
        reply = request.reply
        if reply is None:
            self.connection.requests.pop(request.message.id, None)
            if self.reader.failure is not None:
                raise self.reader.failure
            raise TimeoutError(f"The server gave no answer within {timeout} s.")
        if reply.error is not None:
            raise from_wire(reply.error.type_name, reply.error.message, reply.error.fields)
        return reply.result

    def wait(self, waiter: Waiter, deadline: float | None = None) -> None:
        """Wait for news; raises once the server is gone for good."""
        self.reader.wait(waiter, deadline)
        if self.reader.failure is not None and not waiter.ready:
            raise self.reader.failure

    def close(self) -> None:
        """End the session: output is flushed, an embedded server ends, whoever still waits is told. Twice is fine."""
        if self._closed:
            return
        self._closed = True
        unfinished = self.connection.calls.unfinished_spawns()
        if not self.failed:
            say_goodbye(self)
        self.channels.close()
        self.reader.fail(self.reader.failure or GONE)
        self.reader.close()
        if isinstance(self.endpoint, EmbeddedServer):
            self.endpoint.end(timeout=SHUTDOWN_SECONDS)
            if unfinished:
                notices.warn(
                    f"{unfinished} spawned call(s) had not finished and were cancelled with this program's own server. "
                    "Start one that stays (`stoker server start`) for calls that outlive the program."
                )


_lock = threading.RLock()
_session: Session | None = None
_inherited: Endpoint | None = None  # a forked child's way to its parent's server


def current() -> Session:
    """Return this process's session; opens it where there is none.

    Raises:
        ConnectionFailed: no server could be reached or started.
    """
    found = _session
    if found is not None and found.reader.failure is None:
        return found
    return _open()


def lasting(what: str) -> Session:
    """Return the session to ask for what a server keeps beyond a program: ``what``, for people.

    Raises:
        NotFound: no server runs that could have kept it, and none is started in vain.
    """
    if (_session is None or _session.failed) and _inherited is None and persistent_endpoint() is None:
        raise NotFound(no_server(what))
    return current()


def no_server(what: str) -> str:
    """Say why an embedded server, or none, does not know what was asked for."""
    return f"No server runs, and {what} are with it: start it with `stoker server start`."


def current_if_open() -> Session | None:
    return _session


def _open() -> Session:
    global _session
    if label := being_loaded():
        raise InvalidRequest(
            f"The module of {label} runs an app or calls a function while a worker imports it, and so would every "
            'worker in turn. Put that under `if __name__ == "__main__":`, or into a function; of a class, into an '
            "@stoker.enter() without snapshot."
        )
    with _lock:
        if _session is not None and _session.failed:
            _end(_session)
        if _session is None:
            _session = Session(_inherited or find_endpoint())
        return _session


def find_endpoint() -> Endpoint:
    """Return the server to talk to; starts one for this program where there is none.

    Raises:
        ConnectionFailed: no server could be started.
    """
    return persistent_endpoint() or EmbeddedServer.start()


def persistent_endpoint() -> Endpoint | None:
    """Return the server that outlives programs: the one that is named, else the user's own if it listens."""
    return configured_endpoint() or local_endpoint()


@contextmanager
def held() -> Iterator[Session]:
    """Keep the session open for a block; it is closed at the end of the outermost one."""
    with _lock:
        session = current()
        session.holders += 1
    try:
        yield session
    finally:
        with _lock:
            session.holders -= 1
            last = session.holders == 0
        if last:
            close(session)


@contextmanager
def redirected(endpoint: Endpoint) -> Iterator[None]:
    """For a block, go to this server, whatever runs; the session that was there before is there again afterwards."""
    global _session, _inherited
    with _lock:
        before, _session, _inherited = (_session, _inherited), None, endpoint
    try:
        yield
    finally:
        close()
        with _lock:
            _session, _inherited = before


def require_persistent() -> Session:
    """Return a session with a server that outlives this program.

    Raises:
        ConnectionFailed: there is none.
    """
    if _session is None and _inherited is None and persistent_endpoint() is None:
        raise ConnectionFailed("No persistent server runs. Start one with `stoker server start`, then deploy again.")
    session = current()
    if session.embedded:
        raise ConnectionFailed(
            "This program runs on a server of its own, which ends with it. Deploy outside `app.run()`, with a server "
            "that was started by `stoker server start`."
        )
    return session


def close(session: Session | None = None) -> None:
    """Close the session, if there is one; the next call opens another."""
    with _lock:
        found = session or _session
        if found is not None:
            _end(found)


def _end(session: Session) -> None:
    global _session
    if _session is session:
        _session = None
    session.close()


def _forget_in_child() -> None:
    """Leave the parent's session alone: its socket, its server and its threads are not this process's."""
    global _session, _lock, _inherited
    old, _session, _lock = _session, None, threading.RLock()
    if old is not None:
        _inherited = old.endpoint.inherited()
        old.holders = 0


os.register_at_fork(after_in_child=_forget_in_child)
atexit.register(close)
