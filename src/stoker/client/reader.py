"""Who reads the connection: the thread that waits, so that a call costs no hop between threads.

Of the threads that wait, one leads: it reads, and hands others what is theirs. When it has what it wanted it leaves,
and another follower leads on. Where nobody waits (a loop's futures, output to be printed, a server that would stop
because nobody listens) a background thread leads, after a pause without a foreground reader, and gives way when asked.

The mutex guards who leads and who follows, nothing else; nothing that blocks happens under it.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from stoker.client.calls import Waiter
from stoker.client.connection import Connection
from stoker.errors import ConnectionFailed, ProtocolError, StokerError
from stoker.transport.sockets import Received

BACKGROUND_AFTER_SECONDS = 0.01  # longer than a program pauses between two calls in a row
BACKGROUND_MAX_NAP_SECONDS = 0.5  # while one foreground reader stays
CLOSE_SECONDS = 2.0  # for other threads' waits to end with the session
ACK_IDLE_SECONDS = 0.05  # longer than it takes to send the next call, which carries the acknowledgement

Dispatch: TypeAlias = Callable[[Received], None]


class Reader:
    """Lets any number of threads wait on one connection."""

    def __init__(self, connection: Connection, dispatch: Dispatch) -> None:
        self._connection = connection
        self._dispatch = dispatch
        self._mutex = threading.Lock()
        self._leader: Waiter | None = None
        self._leading = 0  # its thread
        self._followers: dict[Waiter, None] = {}  # in the order in which they came
        self._left_at = 0.0
        self._tenure = 0
        self._nap = BACKGROUND_AFTER_SECONDS
        self._background = Waiter()
        self._nudge = threading.Event()
        self._wake_in, self._wake_out = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poller = select.poll()
        self._poller.register(self._wake_in, select.POLLIN)
        self._polled: int | None = None
        self._chores: deque[Callable[[], None]] = deque()
        self._closed = False
        self._closer: threading.Thread | None = None
        self.failure: StokerError | None = None
        self._thread = threading.Thread(target=self._run_background, name="stoker-reader", daemon=True)
        self._thread.start()

    def wait(self, waiter: Waiter, deadline: float | None = None) -> None:
        """Return when the waiter was notified, when the time is over, or when the session has failed."""
        while not waiter.ready and self.failure is None:
            if deadline is not None and time.monotonic() >= deadline:
                return
            try:
                if self._take_lead(waiter):
                    self._lead(waiter, deadline)
                else:
                    self._follow(waiter, deadline)
            finally:
                if self._leader is waiter:  # asked, not remembered: Ctrl-C may come before anything could be noted
                    self._leave()

    def later(self, chore: Callable[[], None]) -> None:
        """Have something done soon by whoever reads. Takes no lock: it may be called from a finalizer."""
        self._chores.append(chore)
        self._poke()

    def want_background(self) -> None:
        """Tell that somebody waits who cannot read, as an event loop."""
        if self._leader is None:
            self._left_at = 0.0
            self._nudge.set()

    def close(self) -> None:
        """End the background thread."""
        self._closer = threading.current_thread()
        self._closed = True
        self._nudge.set()
        self._poke()
        give_up = time.monotonic() + CLOSE_SECONDS
        if threading.current_thread() is not self._thread:
            self._thread.join(CLOSE_SECONDS)  # it may be in the middle of dialling a host that does not answer
        self._wait_unread(give_up)
        self._connection.drop()
        os.close(self._wake_in)
        os.close(self._wake_out)

    def _wait_unread(self, give_up: float) -> None:
        """Let threads that still read find out that the session is over, before its file descriptors go."""
        while self._leader is not None and time.monotonic() < give_up:
            self._poke()
            time.sleep(0.001)

    def fail(self, error: StokerError) -> None:
        """End every wait: the server is gone for good."""
        self.failure = error
        self._connection.fail_all(error)
        with self._mutex:
            followers = list(self._followers)
        for waiter in followers:
            waiter.wake()

    def _take_lead(self, waiter: Waiter) -> bool:
        me = threading.get_ident()
        with self._mutex:
            # A thread that finds itself leading was interrupted, by a second Ctrl-C, before it could leave.
            if self._leader is None or self._leading == me:
                self._leading = me
                self._leader = waiter
                self._tenure += 1
                return True
        return False

    def _leave(self) -> None:
        with self._mutex:
            self._leading = 0
            self._leader = None
            self._left_at = time.monotonic()
            self._promote()
        if self._nap > BACKGROUND_AFTER_SECONDS:
            self._nudge.set()

    def _promote(self) -> None:
        """Wake a follower to lead on, or let the background thread know. The mutex is held."""
        if self._leader is None and self._followers:
            waiter = next(iter(self._followers))
            del self._followers[waiter]
            waiter.wake()

    def _follow(self, waiter: Waiter, deadline: float | None) -> None:
        waiter.prepare()
        with self._mutex:
            if self._leader is None:
                return
            self._followers[waiter] = None
            if self._leader is self._background:
                self._poke()
        try:
            if not waiter.ready and self.failure is None:
                waiter.park(None if deadline is None else deadline - time.monotonic())
        finally:
            with self._mutex:
                chosen = self._followers.pop(waiter, waiter) is not None
                if chosen and (waiter.ready or self.failure is not None or deadline is not None):
                    self._promote()  # chosen to lead, with no need to any more: the next one must

    def _lead(self, waiter: Waiter, deadline: float | None) -> None:
        while not waiter.ready and not self._closed and self.failure is None and self._leader is waiter:
            if waiter is self._background and self._followers:
                return
            if not self._read_some(deadline):
                return

    def _read_some(self, deadline: float | None) -> bool:
        """Deal with what comes next; false when the time is over or the session has failed."""
        connection = self._connection
        link = connection.link
        try:
            if link is None:
                raise ConnectionFailed("The connection is broken.")
            if link.fileno() != self._polled:
                self._poll_link(link.fileno())
            # What came in one piece with the answer to our greeting is here already, and nothing may follow it.
            if not (link.has_buffered or self._wait_readable(deadline)):
                return deadline is None or time.monotonic() < deadline
        except ConnectionFailed:
            return self._reconnect(deadline)
        return self._receive(deadline)

    def _receive(self, deadline: float | None) -> bool:
        link = self._connection.link
        assert link is not None
        try:
            for received in link.receive_ready():
                self._dispatch(received)
        except (ConnectionFailed, ProtocolError):
            return self._reconnect(deadline)
        except BaseException:
            link.shutdown()  # Ctrl-C between reading and dispatching: what was read is lost, the server sends it again
            raise
        if self._chores:
            self.do_chores()
        return True

    def _wait_readable(self, deadline: float | None) -> bool:
        unacked = self._connection.unacked
        timeout = ACK_IDLE_SECONDS if unacked else None
        if deadline is not None:
            left = max(deadline - time.monotonic(), 0.0)
            timeout = left if timeout is None else min(left, timeout)
        found = self._poller.poll(None if timeout is None else int(timeout * 1000) + 1)
        if not found and unacked:
            self._connection.acknowledge()
        readable = False
        for fd, _ in found:
            if fd == self._wake_in:
                self._drain_pipe()
                self.do_chores()
            else:
                readable = True
        return readable

    def _poll_link(self, fd: int) -> None:
        if self._polled is not None:
            self._poller.unregister(self._polled)
        self._poller.register(fd, select.POLLIN)
        self._polled = fd

    def _reconnect(self, deadline: float | None) -> bool:
        if self._closed or self.failure is not None:
            return False
        if self._polled is not None:
            self._poller.unregister(self._polled)
            self._polled = None
        try:
            return self._connection.redial(deadline=deadline, given_up=lambda: self._closed)
        except StokerError as error:
            self.fail(error)
            return False

    def do_chores(self) -> None:
        """Do what `later` was asked for; at the end of a session nobody may be reading who would."""
        while True:
            try:
                chore = self._chores.popleft()
            except IndexError:
                return  # there is none, or another thread was quicker
            chore()

    def _poke(self) -> None:
        if self._closed and threading.current_thread() is not self._closer:
            return  # the pipe may be gone, its number somebody else's
        try:
            os.write(self._wake_out, b"x")
        except BlockingIOError:
            pass  # full: whoever reads is woken anyway

    def _drain_pipe(self) -> None:
        try:
            os.read(self._wake_in, 4096)
        except BlockingIOError:
            pass

    def _run_background(self) -> None:
        tenure = -1
        while not self._closed and self.failure is None:
            self._nudge.wait(self._nap)
            self._nudge.clear()
            idle = self._leader is None and time.monotonic() - self._left_at >= BACKGROUND_AFTER_SECONDS
            if idle and not self._followers and self._take_lead(self._background):
                try:
                    self._lead(self._background, None)
                finally:
                    self._leave()
                self._nap = BACKGROUND_AFTER_SECONDS
            elif self._tenure == tenure and self._leader is not None:
                self._nap = min(2 * self._nap, BACKGROUND_MAX_NAP_SECONDS)
            else:
                self._nap, tenure = BACKGROUND_AFTER_SECONDS, self._tenure
