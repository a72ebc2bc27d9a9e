"""A fake agent and a fake server around a real zygote, for the tests of the runner."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import stoker
from stoker.errors import ConnectionFailed
from stoker.protocol.frames import Buffer, encode_prefix
from stoker.protocol.messages import (
    Ack,
    CancelAttempts,
    Held,
    Hello,
    Items,
    Lease,
    Results,
    Revoked,
    StreamCredit,
    Welcome,
)
from stoker.protocol.payload import decode, encode_call
from stoker.protocol.structure import encode_header
from stoker.protocol.zygotes import (
    THREAD_VARIABLES,
    Exited,
    Failed,
    Fork,
    Forked,
    Ready,
    ZygoteConfig,
    ZygoteMessage,
    decode_line,
    encode_line,
)
from stoker.transport.sockets import FrameSocket
from stoker.types import CodeRef, ErrorInfo, Outcome

WAIT_SECONDS = 15.0
INTERPRETERS = sorted(
    path for path in Path("~/.pyenv/versions").expanduser().glob("3.1[0-9].*/bin/python") if path.exists()
) or [Path(sys.executable)]
T = TypeVar("T")


def eventually(check: Callable[[], T], *, seconds: float = WAIT_SECONDS) -> T:
    """Return the first true value of ``check``, asked again and again."""
    deadline = time.monotonic() + seconds
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"nothing came of it within {seconds} s")
        time.sleep(0.005)  # the pause of a poll, not a wait for something to have happened


def worker_path(directory: Path) -> Path:
    """Make a worker path as an agent does: links to Stoker and to the two packages that its workers need."""
    import cloudpickle
    import threadpoolctl

    target = directory / "worker-path"
    target.mkdir(exist_ok=True)
    for module in (stoker, cloudpickle, threadpoolctl):
        origin = Path(str(module.__file__))
        source = origin.parent if origin.name == "__init__.py" else origin
        (target / source.name).symlink_to(source)
    return target


def _frame(message: Any) -> bytes:
    kind, header = encode_header(message)
    return encode_prefix(kind, len(header), 0) + header


@dataclass
class Done:
    """What a worker reported of one attempt."""

    id: str
    attempt: int
    outcome: Outcome
    body: bytes
    error: ErrorInfo | None
    seq: int
    seconds: float

    @property
    def value(self) -> Any:
        return decode(self.body)


@dataclass
class Connection:
    """One worker's pair of sockets, on the server's side."""

    lease: FrameSocket
    control: FrameSocket
    hello: Hello
    held: Held
    results: list[Done] = field(default_factory=list)
    items: list[tuple[int, Any]] = field(default_factory=list)
    frames: list[Any] = field(default_factory=list)
    ack: bool = True

    def call(self, call_id: str, *args: Any, attempt: int = 1, credit: int = 0) -> None:
        self.calls([(call_id, args)], attempt=attempt, credit=credit)

    def calls(self, calls: list[tuple[str, tuple[Any, ...]]], *, attempt: int = 1, credit: int = 0) -> None:
        bodies: list[Buffer] = [encode_call(args, {}).to_bytes() for _, args in calls]
        ids = [call_id for call_id, _ in calls]
        sizes = [len(body) for body in bodies]
        self.lease.send(Lease(ids, [attempt] * len(ids), sizes, credits=[credit] * len(ids)), bodies)

    def cancel(self, call_id: str, *, reason: str = "user", grace: float = 5.0, attempt: int = 1) -> None:
        self.control.send(CancelAttempts([call_id], [attempt], grace, reason))

    def credit(self, call_id: str, upto: int) -> None:
        self.lease.send(StreamCredit(call_id, upto))

    def read(self) -> Any:
        """Take one message from the lease socket."""
        received = self.lease.receive()
        message = received.message
        self.frames.append(message)
        if isinstance(message, Results):
            parts = received.parts()
            for i, call_id in enumerate(message.ids):
                self.results.append(
                    Done(
                        call_id,
                        message.attempts[i],
                        Outcome(message.outcomes[i]),
                        bytes(parts[i]),
                        message.errors.get(str(i)),
                        message.seq,
                        message.seconds[i],
                    )
                )
            if self.ack:
                self.lease.send(Ack(message.seq))
        elif isinstance(message, Items):
            self.items += [(message.first + i, decode(part)) for i, part in enumerate(received.parts())]
        return message

    def result(self, call_id: str) -> Done:
        """Return the first result of a call, read when it comes."""
        while True:
            for done in self.results:
                if done.id == call_id:
                    return done
            self.read()

    def revoked(self) -> list[str]:
        message = self.control.receive().message
        assert isinstance(message, Revoked)
        return message.ids

    def close(self) -> None:
        self.lease.close()
        self.control.close()


class FakeServer:
    """A listener at the place where workers look for their server."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.segments = path.parent / "segments"
        self.segments.mkdir(exist_ok=True)
        self.connections: list[Connection] = []
        self.says_at_once: list[Any] = []  # on the control socket, in one write with the welcome
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.settimeout(WAIT_SECONDS)
        path.unlink(missing_ok=True)
        self._listener.bind(str(path))
        self._listener.listen()

    def accept(self) -> Connection:
        """Return the next worker that connects, greeted, read to its `Held`: what it had not told comes before."""
        lease, hello = self._accept_one("worker")
        control, second = self._accept_one("control")
        assert second.name == hello.name
        connection = Connection(lease, control, hello, Held([], []))
        while not isinstance(message := connection.read(), Held):
            assert isinstance(message, (Results, Items))
        connection.held = message
        self.connections.append(connection)
        return connection

    def _accept_one(self, role: str) -> tuple[FrameSocket, Hello]:
        sock, _ = self._listener.accept()
        sock.settimeout(WAIT_SECONDS)
        link = FrameSocket(sock)
        hello = link.receive().message
        assert isinstance(hello, Hello)
        assert hello.role == role
        welcome = Welcome("0", "server", 1, segments=str(self.segments))
        link.send_frame(b"".join(map(_frame, [welcome, *(self.says_at_once if role == "control" else [])])))
        return link, hello

    def close(self) -> None:
        """Go away as a killed server does: its door stays, nobody answers."""
        self._listener.close()
        for connection in self.connections:
            connection.close()


class FakeAgent:
    """Starts processes of the runner and talks to them; ends what it started."""

    def __init__(self, directory: Path, python: Path) -> None:
        self.directory = directory
        self.worker_path = worker_path(directory)
        self.python = python
        self.pids: list[int] = []
        self._popen: subprocess.Popen[bytes] | None = None
        self._sock: socket.socket | None = None
        self._buffer = b""

    def start(self, config: ZygoteConfig) -> Ready | Failed:
        """Start a zygote, or a fresh worker, and return its first words."""
        self.begin(config)
        message = self.receive()
        assert isinstance(message, (Ready, Failed))
        return message

    def begin(self, config: ZygoteConfig) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(WAIT_SECONDS)
        env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        env.update(dict.fromkeys(THREAD_VARIABLES, "1"))
        with theirs, (self.directory / "zygote.log").open("ab") as log:
            program = self.worker_path / "stoker" / "runner" / "bootstrap.py"
            self._popen = subprocess.Popen(
                [self.python, "-s", program, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=env,
            )
        self._sock = ours
        ours.sendall(encode_line(config))

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._popen is not None
        return self._popen

    def receive(self) -> ZygoteMessage:
        assert self._sock is not None
        while b"\n" not in self._buffer:
            data = self._sock.recv(1 << 16)
            if not data:
                raise ConnectionFailed(f"the zygote went away:\n{(self.directory / 'zygote.log').read_text()}")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return decode_line(line)

    def fork(self, order: Fork) -> int:
        assert self._sock is not None
        self._sock.sendall(encode_line(order))
        message = self.receive()
        assert isinstance(message, Forked), message
        self.pids.append(message.pid)
        return message.pid

    def exited(self) -> Exited:
        message = self.receive()
        assert isinstance(message, Exited)
        return message

    def hang_up(self) -> None:
        """Close the link, as an agent that dies."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def close(self) -> None:
        self.hang_up()
        for pid in self.pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait()


class Stage:
    """A fake agent, a fake server and one function's code."""

    def __init__(self, directory: Path, python: Path) -> None:
        self.directory = directory
        self.bundle = directory / "bundle"
        self.bundle.mkdir()
        self.server = FakeServer(directory / "server.sock")
        self.agent = FakeAgent(directory, python)
        self.log = directory / "w1.log"
        self._forks = 0

    def config(self, source: str, name: str = "f", **changes: Any) -> ZygoteConfig:
        (self.bundle / "jobs.py").write_text(textwrap.dedent(source))
        settings: dict[str, Any] = {
            "code": CodeRef("jobs", name, bundle="0"),
            "server_socket": str(self.server.path),
            "bundle_dir": str(self.bundle),
            "cwd": str(self.directory),
            "env": {"PYTHONDONTWRITEBYTECODE": "1"},
            **changes,
        }
        return ZygoteConfig("demo", name, "key", **settings)

    def order(self, **changes: Any) -> Fork:
        return Fork("w1", "secret", str(self.log), **changes)

    def worker(self, source: str, name: str = "f", **changes: Any) -> Connection:
        """Start a zygote for this source, fork one worker and return its connection."""
        ready = self.agent.start(self.config(source, name, **changes))
        assert isinstance(ready, Ready), ready
        assert ready.forkable, ready.reason
        self.agent.fork(self.order())
        return self.server.accept()

    def fresh(self, source: str, name: str = "f", **changes: Any) -> Connection:
        """Start a fresh worker for this source."""
        ready = self.agent.start(self.config(source, name, fresh=self.order(), **changes))
        assert isinstance(ready, Ready), ready
        return self.server.accept()

    def restart_server(self) -> Connection:
        """Kill the server, start another at the same place, and return the worker that comes back."""
        self.server.close()
        self.server = FakeServer(self.server.path)
        return self.server.accept()

    def records(self) -> list[tuple[str, str, str]]:
        """Return the log's records but for their times: (call id, letter, text)."""
        found = []
        for line in self.log.read_bytes().split(b"\n"):
            _, mark, record = line.partition(b"\x1e")
            if mark:
                call_id, letter, text = record.split(b"\x1f", 2)
                if letter != b"t":
                    found.append((call_id.decode(), letter.decode(), text.decode()))
        return found

    def close(self) -> None:
        self.agent.close()
        self.server.close()


@contextmanager
def staged(python: Path) -> Iterator[Stage]:
    # Kept short: a Unix socket's path has at most 107 bytes.
    directory = Path(f"/tmp/stoker-test-{os.getpid()}-{time.monotonic_ns()}")
    directory.mkdir(mode=0o700)
    stage = Stage(directory, python)
    try:
        yield stage
    finally:
        stage.close()
        shutil.rmtree(directory)
