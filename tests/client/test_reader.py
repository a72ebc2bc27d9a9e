from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

from stoker._version import __version__
from stoker.client.connection import Connection, SocketEndpoint
from stoker.client.dispatch import Dispatcher
from stoker.client.reader import Reader
from stoker.protocol.frames import encode_prefix
from stoker.protocol.messages import Reply, Welcome
from stoker.protocol.structure import encode_header
from stoker.transport.sockets import FrameSocket


def frame(message: object) -> bytes:
    kind, header = encode_header(message)
    return encode_prefix(kind, len(header), 0) + header


def test_what_comes_in_one_piece_with_the_welcome_is_heard(runtime_dir: Path) -> None:
    """After a reconnect that may be all that ever comes."""
    runtime_dir.mkdir(exist_ok=True)
    path = runtime_dir / "s"
    over = threading.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            sock, _ = listener.accept()
            FrameSocket(sock).receive()
            sock.sendall(frame(Welcome(__version__, "s", 1)) + frame(Reply(1, "answer")))
            over.wait(10)
            sock.close()

        server = threading.Thread(target=serve)
        server.start()
        connection = Connection(SocketEndpoint(str(path)), "c-1")
        request = connection.request("anything", {})
        connection.dial()
        reader = Reader(connection, Dispatcher(connection, print, on_channel=print))
        reader.wait(request.waiter, time.monotonic() + 10)
        assert request.reply is not None
        assert request.reply.result == "answer"
        reader.close()
        over.set()
        server.join()
    path.unlink()
