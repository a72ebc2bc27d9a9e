"""A worker's two connections: opened together, given up together, opened again together.

The control thread alone opens them, so that a worker whose main thread is busy in user code is back with a restarted
server at once. Whoever finds one broken says so with `report_broken` and waits for the next.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

from stoker.errors import StokerError
from stoker.protocol.input_messages import AskInputs
from stoker.protocol.messages import Held, StartFailed, Welcome
from stoker.protocol.zygotes import ZygoteConfig
from stoker.runner.attempts import Desk
from stoker.runner.config import RECONNECT_SECONDS
from stoker.runner.outbox import EncodedFrame, Outbox
from stoker.transport.current import FINGERPRINT_VARIABLE, SERVER_VARIABLE
from stoker.transport.segments import SegmentDir
from stoker.transport.sockets import FrameSocket, connect_unix, greet

GREETING_SECONDS = 10.0  # a server that accepts and says nothing is stuck, or is not one


class Abandoned(Exception):
    """The server stayed away past the grace."""


class Links:
    """See the module. ``number`` counts connections; the loops compare it with the one they read from."""

    def __init__(
        self,
        config: ZygoteConfig,
        *,
        worker: str,
        token: str,
        desk: Desk,
        outbox: Outbox,
        asking: Callable[[], Sequence[AskInputs]],
    ) -> None:
        """``asking`` tells what has been asked for and has not all come."""
        self.lease: FrameSocket | None = None
        self.control: FrameSocket | None = None
        self.number = 0
        self._config = config
        self._worker = worker
        self._token = token
        self._grace = config.grace
        self._desk = desk
        self._outbox = outbox
        self._asking = asking
        self._broken = 0

    @property
    def is_broken(self) -> bool:
        return self.number <= self._broken

    def report_broken(self, number: int) -> None:
        """Say that the connection of this number is no use any more."""
        self._broken = max(self._broken, number)

    def restore(self) -> None:
        """Connect, again if need be, and say what is held.

        Raises:
            Abandoned: nobody was there for the grace.
        """
        self._give_up()
        deadline = time.monotonic() + self._grace
        while True:
            try:
                self._connect()
            except (StokerError, OSError) as error:
                # A server that rejects us may know us in a moment: it restarts, and learns from its agents who runs.
                if time.monotonic() >= deadline:
                    raise Abandoned(str(error)) from error
                time.sleep(RECONNECT_SECONDS)
            else:
                return

    def refuse(self, message: StartFailed) -> None:
        """Tell the server, and nothing else, that no worker comes of this process; return when it has heard it."""
        deadline = time.monotonic() + GREETING_SECONDS
        while time.monotonic() < deadline:
            try:
                link, _ = self._open("control")
            except (StokerError, OSError):
                time.sleep(RECONNECT_SECONDS)  # it is being restarted
                continue
            try:
                link.settimeout(GREETING_SECONDS)
                link.send(message)
                link.receive()  # it closes the link
            except (StokerError, OSError):
                pass
            finally:
                link.close()
            return

    def _connect(self) -> None:
        lease, welcome = self._open("worker")
        try:
            control, _ = self._open("control")
        except (StokerError, OSError):
            lease.close()
            raise
        self._outbox.segments = self._segments(welcome)
        self._outbox.sends_segments = bool(self._config.server)
        number = self.number + 1
        ids, attempts, ages = self._desk.reconnect(number, time.monotonic())
        held = Held(ids, attempts, fresh=number == 1, gang=self._desk.seat, ages=ages)
        try:
            asked = [EncodedFrame.of(message, []) for message in self._asking()]
            self._outbox.attach(lease, [EncodedFrame.of(held, []), *asked])
        except StokerError:
            lease.close()
            control.close()
            raise
        self.lease, self.control = lease, control
        self.number = number

    def _open(self, role: str) -> tuple[FrameSocket, Welcome]:
        link = self._dial()
        try:
            version = sys.version.partition(" ")[0]
            welcome = greet(link, role=role, name=self._worker, token=self._token, python=version)
        except (StokerError, OSError):
            link.close()
            raise
        link.settimeout(None)
        return link, welcome

    def _dial(self) -> FrameSocket:
        config = self._config
        if not config.server:
            return connect_unix(config.server_socket, timeout=GREETING_SECONDS)
        from stoker.transport.addresses import parse_address  # with `ssl`: only who uses the network needs them
        from stoker.transport.tcp import connect_tcp

        trust = None
        if config.fingerprint:
            from stoker.transport.tls import Trust, parse_fingerprint

            trust = Trust(parse_fingerprint(config.fingerprint, option=FINGERPRINT_VARIABLE))
        return connect_tcp(parse_address(config.server, option=SERVER_VARIABLE), trust, timeout=GREETING_SECONDS)

    def _segments(self, welcome: Welcome) -> SegmentDir | None:
        """Return where big payloads lie: the server's directory, or this node's where that is another machine's."""
        if self._config.server:
            from stoker.transport.node_segments import NodeSegments

            return NodeSegments(self._config.segments, self._config.payload_socket)
        return SegmentDir(welcome.segments, spill=welcome.spill or None) if welcome.segments else None

    def _give_up(self) -> None:
        if self.lease is not None:
            # Its reader closes it, which may be polling it now; whoever is stuck in sending gets an error.
            self.lease.shutdown()
        if self.control is not None:
            self.control.close()
        self.lease = self.control = None

    def close_in_child(self) -> None:
        """Close a forked child's copies; the connections stay the parent's."""
        for link in (self.lease, self.control):
            if link is not None:
                link.close()


class Inbox:
    """The reading end of the lease connection, for a loop: what came is handed on, whatever connection it came on."""

    def __init__(self, links: Links, on_message: Callable[[object, list[memoryview], int], None]) -> None:
        self._links = links
        self._on_message = on_message
        self._link: FrameSocket | None = None
        self._number = 0

    @property
    def fileno(self) -> int | None:
        """What to wait on; None while there is no connection."""
        if self._number != self._links.number or self._links.is_broken:
            self._leave()
            if not self._links.is_broken:
                self._link, self._number = self._links.lease, self._links.number
        return None if self._link is None else self._link.fileno()

    @property
    def number(self) -> int:
        """The connection that is read."""
        return self._number

    def read(self) -> bool:
        """Hand on all that has come. False when the connection turns out to be broken."""
        if self._link is None:
            return False
        try:
            for received in self._link.receive_ready():
                sizes = getattr(received.message, "sizes", None)
                self._on_message(received.message, received.parts() if sizes else [], self._number)
        except (StokerError, OSError):
            self._links.report_broken(self._number)
            return False
        return True

    def _leave(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None
