"""A network that loses what a test tells it to: a proxy before one TCP port."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType


class CuttingProxy:
    """Hands bytes on, both ways, until it is told otherwise.

    ``lose_answer_to``: the request that holds these bytes is handed on, and its answer is not: both ends are cut.
    ``hold``: the request that holds these bytes stays here, and the client is cut; `release` hands it on. Each once.
    ``refusing``: new connections are closed at once. ``spoil``: so many answers of more than 64 KiB at a time have a
    byte changed. ``passing``: while it is cleared nothing passes, and nobody is told. ``answered`` counts bytes.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.refusing = False
        self.lose_answer_to = b""
        self.hold = b""
        self.held: list[tuple[socket.socket, bytes]] = []
        self.lost = 0
        self.spoil = 0
        self.answered = 0
        self.passing = threading.Event()
        self.passing.set()
        self._open: set[socket.socket] = set()
        self._closed = False
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def __enter__(self) -> CuttingProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closed = True
        self.passing.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for server, _ in self.held:
            server.close()
        self.cut()

    def cut(self) -> None:
        """Break every connection there is."""
        for sock in list(self._open):
            _close(sock)

    def release(self) -> bytes:
        """Hand on what was held; return what the server answers, empty where it has gone."""
        server, data = self.held.pop()
        try:
            server.sendall(data)
            server.settimeout(10)
            return server.recv(65536)
        except OSError:
            return b""
        finally:
            server.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refusing:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            self._open |= {client, server}
            threading.Thread(target=self._requests, args=(client, server), daemon=True).start()
            threading.Thread(target=self._answers, args=(client, server), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 20):
                self.passing.wait()
                if self.hold and self.hold in data:
                    self.hold = b""
                    self._open.discard(server)
                    self.held.append((server, data))
                    _close(client)
                    return
                if self.lose_answer_to and self.lose_answer_to in data:
                    self.lose_answer_to = b""
                    self._open.discard(client)  # its answers are nobody's
                    server.sendall(data)
                    return
                server.sendall(data)
        self._end(client, server)

    def _answers(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 20):
                if client not in self._open:
                    self.lost += 1
                    break
                self.passing.wait()
                if self.spoil and len(data) > 64 << 10:
                    self.spoil -= 1
                    data = data[:-1000] + bytes([data[-1000] ^ 1]) + data[-999:]
                self.answered += len(data)
                client.sendall(data)
        if any(server is held for held, _ in self.held):
            return
        self._end(client, server)

    def _end(self, client: socket.socket, server: socket.socket) -> None:
        if any(server is held for held, _ in self.held):
            return
        for sock in (client, server):
            self._open.discard(sock)
            _close(sock)


def _close(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
