"""A server with a door on loopback, before which stands a proxy that counts, cuts and damages; and a node's links."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from pathlib import Path

from stoker.core.calls import Segment
from stoker.engine.local.data_links import DataLinks
from stoker.transport.addresses import Address
from tests.server.harness import Running


class Wire:
    """A proxy in clear. ``sent`` counts bytes from the server; ``flips`` bytes are damaged; ``cut_after`` cuts once."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.sent = 0
        self.came = 0
        self.connections = 0
        self.flips = 0
        self.cut_after: int | None = None  # bytes from the server
        self.cut_after_came: int | None = None  # bytes to the server
        self.cuts = 0
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, name="wire", daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        for sock in list(self._open):
            self._open.discard(sock)
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    client.close()
                    continue
                self.connections += 1
                self._open |= {client, server}
                threading.Thread(target=self._up, args=(client, server), daemon=True).start()
                threading.Thread(target=self._down, args=(server, client), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 16):
                self.came += len(data)
                if self.cut_after_came is not None and self.came >= self.cut_after_came:
                    self.cut_after_came = None
                    self.cuts += 1
                    break
                server.sendall(data)
        self._end(client, server)

    def _down(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 16):
                self.sent += len(data)
                if self.cut_after is not None and self.sent >= self.cut_after:
                    self.cut_after = None
                    self.cuts += 1
                    break
                if self.flips and len(data) > 8192:  # amid a payload, not in a message
                    self.flips -= 1
                    at = len(data) // 2
                    data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
                client.sendall(data)
        self._end(client, server)

    def _end(self, *socks: socket.socket) -> None:
        for sock in socks:
            self._open.discard(sock)
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


def links_to(running: Running, wire: Wire, *, node: str = "n1") -> DataLinks:
    return DataLinks(Address("127.0.0.1", wire.port), node=node, token=running.server.node_tokens.token(node))


def put_payload(running: Running, name: str, data: bytes, *, spilled: bool = False) -> Segment:
    directory: Path = running.server.files.spill if spilled else running.server.files.segments
    (directory / name).write_bytes(data)
    return Segment(name, len(data))
