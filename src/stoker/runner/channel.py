"""A worker's end of a channel: calls that one client sends straight here, and the answers.

The main thread reads and answers; the control thread opens and closes. ``lock`` orders an answer against the closing:
either it is written and named as answered, or the attempt's result goes to the server like any other.
"""

from __future__ import annotations

import hmac
import secrets
import socket
import threading
import time
from typing import TYPE_CHECKING

from stoker.errors import PermissionDenied, ProtocolError, StokerError
from stoker.protocol.channel_frames import ANSWER, CALL, PAYLOAD_MAX_BYTES, called_id, value_frame
from stoker.protocol.frames import FrameReader, encode_prefix
from stoker.protocol.messages import ChannelAnswer, ChannelCall, ChannelHello, ChannelUsed
from stoker.protocol.structure import decode_header, encode_header
from stoker.runner.attempts import Attempt, Desk, Key
from stoker.runner.config import DEFAULT_CREDIT
from stoker.transport import abstract
from stoker.types import ErrorInfo, Outcome

if TYPE_CHECKING:
    from stoker.runner.reports import Report

REPORT_SECONDS = 0.05  # the server hears of what was answered this often
REPORT_MAX = 10_000  # calls remembered while there is no server to tell
FRAME_MAX_BYTES = PAYLOAD_MAX_BYTES + 16384  # of an answer with an error's text; it fits a socket's empty buffer
ERROR_TEXT_MAX_CHARS = 200  # of what is reported for the record


class Channel:
    """See the module."""

    def __init__(self, channel_id: str, client: str, desk: Desk) -> None:
        self.id = channel_id
        self._prefix = f"{client}."
        self.key = secrets.token_hex(16)
        self.answered = ""
        self.closed = False
        self.lock = threading.Lock()
        self._listener, self.address = abstract.listen()
        self._sock: socket.socket | None = None
        self._known = False  # the peer has said the key
        self._frames = FrameReader(limit=FRAME_MAX_BYTES)
        self._desk = desk
        self._used = ChannelUsed(channel_id, [], [], [], [])
        self._used_since = 0.0

    # -- the main thread

    def fileno(self) -> int:
        """What to poll: who connects, or what comes."""
        return self._sock.fileno() if self._sock is not None else self._listener.fileno()

    def read(self) -> bool:
        """Take in what has come; false when the client has gone, or speaks another language."""
        try:
            if self._sock is None:
                self._accept()
                return True
            data = self._sock.recv(FRAME_MAX_BYTES)
            if not data:
                return False
            for kind, header, body in self._frames.feed(data):
                self._take(kind, header, memoryview(body))
        except BlockingIOError:
            return True
        except (OSError, ValueError, StokerError):
            return False
        return True

    def _accept(self) -> None:
        """Take the client's connection. The listener stays open until `release`: its number is still being polled."""
        sock, _ = self._listener.accept()
        try:
            abstract.check_user(sock)
        except PermissionDenied:
            sock.close()  # anybody can see the address; only one user may use it
            return
        sock.setblocking(False)
        with self.lock:
            self._sock = sock
            if self.closed:
                sock.shutdown(socket.SHUT_RDWR)

    def _take(self, kind: int, header: bytes, body: memoryview) -> None:
        call_id, trace = called_id(header) if kind == CALL else "", ""
        if not call_id:
            message = decode_header(kind, header)
            if isinstance(message, ChannelHello):
                self._known = hmac.compare_digest(message.key.encode(), self.key.encode())
            if not self._known or not isinstance(message, (ChannelHello, ChannelCall)):
                raise ProtocolError("That is not how a channel is used.")
            if isinstance(message, ChannelHello):
                return
            call_id, trace = message.id, message.trace
        elif not self._known:
            raise ProtocolError("A channel begins with its key.")
        if not call_id.startswith(self._prefix):
            raise ProtocolError("A client calls in its own name only.")
        attempt = Attempt(call_id, 1, body, None, DEFAULT_CREDIT)
        attempt.channel, attempt.trace = self, trace
        with self.lock:
            if not self.closed:  # else it was never read, which the server has been told
                self._desk.add(attempt)

    def answer(self, attempt: Attempt, report: Report, now: float) -> bool:
        """Answer a call that came by this channel; false if the server has to."""
        payload = report.payload
        if type(payload) is not bytes or len(payload) > PAYLOAD_MAX_BYTES:
            return False
        outcome = report.outcome
        if outcome is Outcome.VALUE and not attempt.printed:
            frame = value_frame(payload)
        else:
            frame = _frame(ChannelAnswer(int(outcome), report.error, attempt.printed), payload)
        if len(frame) > FRAME_MAX_BYTES:
            return False
        with self.lock:
            # Only what was sent whole is answered: of anything else the server has to be told.
            if attempt.channel is None or not self._send(frame):
                return False
            self._desk.done(attempt)
            self.answered = attempt.id
            self._note(attempt, outcome, report.error, now)
        return True

    def _send(self, frame: bytes) -> bool:
        try:
            if self._sock is not None:
                self._sock.sendall(frame, socket.MSG_NOSIGNAL)
        except OSError:
            return False  # the client has gone, or does not read
        return True

    def _note(self, attempt: Attempt, outcome: Outcome, error: ErrorInfo | None, now: float) -> None:
        used = self._used
        if not used.ids:
            self._used_since = now
        elif len(used.ids) >= REPORT_MAX:
            return
        if error is not None:
            used.errors[str(len(used.ids))] = ErrorInfo(error.type_name, error.message[:ERROR_TEXT_MAX_CHARS])
        used.ids.append(attempt.id)
        used.methods.append(attempt.method)
        used.outcomes.append(int(outcome))
        used.seconds.append(now - attempt.started)
        used.finished.append(time.time())

    def release(self) -> None:
        """Close the file descriptors: the main thread does, which polls them."""
        self._listener.close()
        if self._sock is not None:
            self._sock.close()

    # -- any thread

    def close(self) -> list[Key]:
        """Take no more calls; return the attempts that run on and that the server will be told the end of.

        The caller holds ``lock``, and lets go of it once the server has been told.
        """
        self.closed = True
        running = self._desk.leave_channel(self)
        if running:
            self._send(_frame(ChannelAnswer(elsewhere=True), b""))
        if self._sock is not None:
            try:
                self._sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the client was quicker
        return running

    def report_due(self) -> float | None:
        """Return when there is something to report."""
        return self._used_since + REPORT_SECONDS if self._used.ids else None

    def take_report(self) -> ChannelUsed | None:
        """Return what was answered since the last time."""
        if not self._used.ids:
            return None
        with self.lock:
            found, self._used = self._used, ChannelUsed(self.id, [], [], [], [])
        if not any(found.methods):
            found.methods.clear()
        return found


def _frame(answer: ChannelAnswer, payload: bytes) -> bytes:
    header = encode_header(answer)[1]
    return encode_prefix(ANSWER, len(header), len(payload)) + header + payload
