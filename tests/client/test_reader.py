from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker._version import __version__
from stoker.client.calls import Waiter
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


@pytest.fixture
def reader(runtime_dir: Path) -> Iterator[tuple[Reader, Connection]]:
    """A reader whose server answers the first request as soon as it has greeted."""
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
        connection.dial()
        found = Reader(connection, Dispatcher(connection, print, on_channel=print))
        yield found, connection
        found.close()
        over.set()
        server.join()
    path.unlink()


def test_what_comes_in_one_piece_with_the_welcome_is_heard(reader: tuple[Reader, Connection]) -> None:
    """After a reconnect that may be all that ever comes."""
    found, connection = reader
    request = connection.request("anything", {})
    found.wait(request.waiter, time.monotonic() + 10)
    assert request.reply is not None
    assert request.reply.result == "answer"


@pytest.mark.parametrize("where", ["_take_lead", "_leave"])
def test_a_wait_that_was_interrupted_holds_no_other_up(
    reader: tuple[Reader, Connection], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C comes just after a thread was made the leader, or, a second time, while it leaves."""
    found, _ = reader
    taking = getattr(found, where)

    def interrupted(*arguments: object) -> None:
        monkeypatch.undo()
        if where == "_take_lead":
            taking(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(found, where, interrupted)
    with pytest.raises(KeyboardInterrupt):
        found.wait(Waiter(), time.monotonic() + 0.01)
    waiter = Waiter()
    found.later(waiter.notify)  # whoever reads does it
    found.wait(waiter, time.monotonic() + 10)
    assert waiter.ready
