"""A client's end of a channel: a worker that takes its single calls directly, past the server.

A thread that makes one call after another is lent one, if the server can spare a worker. A call that is not answered at
once is handed over: submitted like any other, with the channel's name, so that the server knows whom to ask for it. Its
end may still come by the channel.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from typing import TYPE_CHECKING

from stoker.client.calls import Pending, Route, Settled, Slot, Waiter
from stoker.errors import ConnectionFailed, PermissionDenied, ProtocolError, StokerError
from stoker.protocol import messages
from stoker.protocol.channel_frames import ANSWER, VALUE_HEADER, call_frame
from stoker.protocol.frames import FrameReader, encode_prefix
from stoker.protocol.structure import decode_header, encode_header
from stoker.transport import abstract
from stoker.types import Outcome

if TYPE_CHECKING:
    from stoker.client.session import Session

PATIENCE_SECONDS = 0.01  # for an answer: five times what a call that is lent a worker may take
LOOK_SECONDS = 0.25  # afterwards the end may also come from the server: how often that is looked at
ASK_AFTER_CALLS = 8  # in a row; a channel costs as much as two calls
ASK_AGAIN_FACTOR = 4  # more calls before the next try, where there was none to be had or it did not last
ASK_MAX_CALLS = 4096
IN_A_ROW_SECONDS = 0.1  # between two calls
WORTHWHILE_CALLS = 64  # a channel that was used for fewer did not last
OFFER_SECONDS = 0.02  # for the answer to come, some round trips
UNUSED_SECONDS = 5.0  # the server takes a worker back sooner, if it can
USES_MAX = 1000  # functions that are remembered
RECEIVE_BYTES = 256 << 10

_VALUE = int(Outcome.VALUE)


class Channel:
    """See the module. Whoever holds ``lock`` has the channel for one call."""

    def __init__(self, session: Session, offer: messages.Channel, sock: socket.socket) -> None:
        self.id = offer.channel
        self.function = offer.function
        self.calls = 0
        self._session = session
        self._sock = sock
        self._lock = threading.Lock()
        self._frames = FrameReader()
        self.last = time.monotonic()
        # By Python's own clock: the kernel's would start again after each signal, and a profiler sends many.
        sock.settimeout(PATIENCE_SECONDS)

    def call(self, route: Route, payload: bytes) -> tuple[str, Settled] | None:
        """Make a call and return its id and its end; None if another thread has the channel."""
        if not self._lock.acquire(blocking=False):
            return None
        try:
            self.last = time.monotonic()
            return self._call(route, payload)
        finally:
            self._lock.release()

    def _call(self, route: Route, payload: bytes) -> tuple[str, Settled]:
        session = self._session
        call_id = session.new_call_id()
        name = ""  # of the channel, once the worker may have read the call
        try:
            try:
                self._sock.sendall(call_frame(call_id, payload, trace=route.trace), socket.MSG_NOSIGNAL)
                name = self.id
                answer = self._receive()
            except ConnectionResetError:
                name = ""  # as the kernel says it: the worker closed with the call unread
            except (OSError, ProtocolError):
                pass  # nothing in time, or nothing ever again
            else:
                if answer is not None:
                    self.calls += 1
                    if answer.printed:
                        session.await_output()
                    return call_id, answer
        except BaseException:
            self._give_up(call_id, route, payload)
            raise
        return call_id, self._wait_longer(call_id, route, payload, name)

    def _wait_longer(self, call_id: str, route: Route, payload: bytes, name: str) -> Settled:
        """Wait for the end of a call, wherever it comes from."""
        session, slot = self._session, Slot()
        pending = self._hand_over(call_id, route, payload, slot, name)
        try:
            answer = self._listen(slot) if name else None
            if answer is not None:
                session.connection.calls.pop(call_id, None)
                slot.settled = answer
            else:
                session.reader.wait(slot)
        except BaseException:
            session.abandon([pending], reason="user")
            raise
        finally:
            self.close()
        return session.settled(slot)

    def _hand_over(self, call_id: str, route: Route, payload: bytes, slot: Slot, name: str) -> Pending:
        session = self._session
        session.channels.drop(self)
        pending = Pending(call_id, route, slot)
        pending.data, pending.channel = payload, name
        session.submit([pending])
        session.reader.want_background()
        return pending

    def _give_up(self, call_id: str, route: Route, payload: bytes) -> None:
        """Have a call ended that somebody has interrupted; the server must know it for that."""
        with contextlib.suppress(StokerError):  # what interrupted it is what is to be told
            self._session.abandon([self._hand_over(call_id, route, payload, Slot(), self.id)], reason="user")
        self.close()

    def _listen(self, slot: Slot) -> Settled | None:
        """Return what comes by the channel; None when nothing more will, or the server was quicker."""
        self._sock.settimeout(LOOK_SECONDS)
        while not slot.ready and not self._session.failed:
            try:
                return self._receive()
            except TimeoutError:
                continue
            except (OSError, ProtocolError):
                return None
        return None

    def _receive(self) -> Settled | None:
        """Return the answer to the call; None if the server will tell.

        Raises:
            TimeoutError: there is none yet.
            ConnectionResetError: the call was not read, and will not be.
            OSError: there will be no answer here.
        """
        while True:
            data = self._sock.recv(RECEIVE_BYTES)
            if not data:
                raise ConnectionAbortedError("the worker has closed the channel")
            for kind, header, body in self._frames.feed(data):
                if kind != ANSWER:
                    raise ProtocolError("A worker answers calls on a channel, and says nothing else.")
                if header == VALUE_HEADER:
                    return Settled(_VALUE, body)
                answer: messages.ChannelAnswer = decode_header(kind, header)
                if answer.elsewhere:
                    return None
                return Settled(answer.outcome, body, answer.error, answer.printed)

    def is_dead(self) -> bool:
        """Tell whether the worker has closed it, where nobody is in a call."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            poller = select.poll()
            poller.register(self._sock, select.POLLIN)
            return bool(poller.poll(0))  # nothing is under way, so it is the end that could be read
        except (OSError, ValueError):
            return True
        finally:
            self._lock.release()

    def end(self) -> None:
        """Close it; a thread that is in a call finds out, and does it."""
        if self._lock.acquire(blocking=False):
            self.close()
        else:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let the worker know that nothing more comes; a forked child may hold a copy of the socket."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the worker was quicker
        self._sock.close()


class _Use:
    """How a function was called lately without a channel."""

    __slots__ = ("count", "last", "wanted")

    def __init__(self) -> None:
        self.count = 0
        self.last = 0.0
        self.wanted = ASK_AFTER_CALLS


class Channels:
    """A session's channels, one a function, and when to ask for one."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._open: dict[str, Channel] = {}
        self._uses: dict[str, _Use] = {}
        self._asked: dict[str, Waiter] = {}
        self._parent = ""
        self._closed = False

    def find(self, route: Route) -> Channel | None:
        """Return the channel for such a call; None if it goes by the server."""
        channel = self._open.get(route.function)
        # The server learns from calls that it sees for which call of its worker a client works now.
        if channel is None or route.parent != self._parent or route.priority:
            return None
        return channel

    def missed(self, route: Route) -> None:
        """Note a call that went by the server; ask for a channel where there were many in a row."""
        self._parent = route.parent
        use = self._uses.get(route.function)
        if use is None:
            if len(self._uses) >= USES_MAX:
                self._uses.clear()
            use = self._uses[route.function] = _Use()
        now = time.monotonic()
        use.count = use.count + 1 if now - use.last < IN_A_ROW_SECONDS else 1
        use.last = now
        if use.count < use.wanted or not self._session.connection.segments:
            return
        self._drop_unusable(now)
        if route.function not in self._open and route.function not in self._asked:
            use.count = 0
            use.wanted = min(use.wanted * ASK_AGAIN_FACTOR, ASK_MAX_CALLS)
            self._ask(route.function)

    def _drop_unusable(self, now: float) -> None:
        """Let go of channels that their workers have closed, and of one that an interrupted call has left taken."""
        for channel in list(self._open.values()):
            if channel.is_dead() or now - channel.last >= UNUSED_SECONDS:
                self.drop(channel)
                channel.close()

    def _ask(self, function: str) -> None:
        """Ask for a channel. The next call waits for the answer: sent to the server, it would take the worker back."""
        waiter = self._asked[function] = Waiter()
        self._session.connection.send(messages.AskChannel(function))
        try:
            self._session.reader.wait(waiter, time.monotonic() + OFFER_SECONDS)
        finally:
            self._asked.pop(function, None)

    def offered(self, offer: messages.Channel) -> None:
        """Take the answer. It runs on the thread that reads, and waits for nothing."""
        if offer.channel:
            self._connect(offer)
        waiter = self._asked.get(offer.function)
        if waiter is not None:
            waiter.notify()

    def _connect(self, offer: messages.Channel) -> None:
        try:
            sock = abstract.connect(offer.address)
        except (ConnectionFailed, PermissionDenied):
            return  # it was taken back meanwhile; calls go by the server
        try:
            hello = encode_header(messages.ChannelHello(offer.key))
            sock.sendall(encode_prefix(hello[0], len(hello[1]), 0) + hello[1], socket.MSG_NOSIGNAL)
        except OSError:
            sock.close()
            return
        except BaseException:
            sock.close()
            raise
        if self._closed or offer.function in self._open:
            sock.close()  # the worker sees that nobody wants it any more
        else:
            self._open[offer.function] = Channel(self._session, offer, sock)

    def drop(self, channel: Channel) -> None:
        """Use a channel no more."""
        if self._open.get(channel.function) is channel:
            del self._open[channel.function]
            use = self._uses.get(channel.function)
            if use is not None and channel.calls >= WORTHWHILE_CALLS:
                use.wanted = ASK_AFTER_CALLS

    def close(self) -> None:
        """Close all; a thread that is in a call finds out by itself."""
        self._closed = True
        while self._open:
            _, channel = self._open.popitem()
            channel.end()
