"""A server in this process, on a loop of its own thread, with scripted clients and workers on real Unix sockets."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from stoker.blobs.base import BlobStore
from stoker.core.state import Limits
from stoker.errors import ConnectionFailed, StoreError, from_wire
from stoker.protocol import messages as m
from stoker.protocol.frames import Buffer
from stoker.server.config import ServerConfig
from stoker.server.doors import TcpDoor
from stoker.server.link import Link
from stoker.server.server import Server
from stoker.server.serving import open_door
from stoker.store.base import Deployment, ProgressRow, RowsRefused, Store, StoreUnavailable, Write
from stoker.testing.seams import FakeEngine, MemoryBacking, MemoryBlobStore, MemoryStore
from stoker.transport.addresses import Address
from stoker.transport.sockets import FrameSocket, connect_unix, greet
from stoker.transport.tcp import connect_tcp
from stoker.transport.tls import Trust
from stoker.types import FunctionSpec
from tests.core.world import spec as core_spec
from tests.waiting import wait_until

T = TypeVar("T")
PATIENCE_SECONDS = 10.0


def spec(name: str = "f", *, run_id: str = "r1", kind: str = "function", **options: Any) -> FunctionSpec:
    return replace(core_spec(name, **options), run_id=run_id, kind=kind)


class GatedStore(MemoryStore):
    """A store whose commits wait at a gate, or are refused."""

    def __init__(self, backing: MemoryBacking | None = None) -> None:
        super().__init__(backing)
        self.gate = threading.Event()
        self.gate.set()
        self.deploying = threading.Event()
        self.deploying.set()
        self.refusing = ""
        self.away = 0  # so many writes find that it cannot be reached
        self.poisoned: set[str | bytes] = set()  # ids, and payloads, of rows that are refused whatever else is written
        self.commits: list[list[Write]] = []

    def write(self, epoch: int, rows: Sequence[Write]) -> None:
        assert self.gate.wait(PATIENCE_SECONDS)
        if self.away:
            self.away -= 1
            raise StoreUnavailable("it is away")
        if self.refusing:
            raise StoreError(self.refusing)
        if any(
            row.id in self.poisoned or row.payload in self.poisoned for row in rows if not isinstance(row, ProgressRow)
        ):
            raise RowsRefused("it is poisoned")
        super().write(epoch, rows)
        self.commits.append(list(rows))

    def deploy(self, *arguments: Any, **named: Any) -> Deployment:
        assert self.deploying.wait(PATIENCE_SECONDS)
        return super().deploy(*arguments, **named)


class Running:
    """A server that runs until `stop`."""

    def __init__(
        self,
        root: Path,
        *,
        store: Store | None = None,
        engine: FakeEngine | None = None,
        limits: Limits | None = None,
        listen: Address | None = None,
        payload_blobs: BlobStore | None = None,
    ) -> None:
        self._payload_blobs = payload_blobs
        self.store = store or MemoryStore()
        self.engine = engine or FakeEngine()
        self.config = ServerConfig(
            "persistent", root / "run", root / "state", root / "shm", retention=3600.0, listen=listen
        )
        for place in (self.config.run_dir, self.config.state_dir):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._peers: list[Peer] = []
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(limits,), name="server under test")
        self._thread.start()
        assert self._ready.wait(PATIENCE_SECONDS)
        if self._failure is not None:
            raise self._failure

    def _run(self, limits: Limits | None) -> None:
        try:
            uvloop.run(self._serve(limits))
        except BaseException as error:
            self._failure = error
            self._ready.set()

    async def _serve(self, limits: Limits | None) -> None:
        self.loop = asyncio.get_running_loop()
        self.done = asyncio.Event()
        epoch = self.store.begin_term()
        self.server = server = Server(
            config=self.config,
            store=self.store,
            blobs=MemoryBlobStore(),
            engine=self.engine,
            epoch=epoch,
            payload_blobs=self._payload_blobs,
        )
        if limits is not None:
            server.plane.state.limits = limits
        self.config.socket.unlink(missing_ok=True)
        listener = await self.loop.create_unix_server(lambda: Link(server, server.links), str(self.config.socket))
        server.door = await open_door(self.config, server)
        await server.begin()
        self._ready.set()
        await self.done.wait()
        listener.close()
        if server.door is not None:
            server.door.close()
        await server.end()

    def stop(self) -> None:
        """End the server; whatever a test left at a gate goes on first."""
        if isinstance(self.store, GatedStore):
            self.store.gate.set()
            self.store.deploying.set()
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.done.set)
            self._thread.join(PATIENCE_SECONDS)
        for peer in self._peers:
            peer.frames.close()
        assert not self._thread.is_alive()
        if self._failure is not None:
            raise self._failure

    def on_loop(self, work: Callable[[], T]) -> T:
        """Do something in the server's thread and return what it returned."""

        async def run() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(PATIENCE_SECONDS)

    def connect(self) -> FrameSocket:
        """Connect without a greeting."""
        return self._adopt(Peer(connect_unix(str(self.config.socket), timeout=PATIENCE_SECONDS))).frames

    def client(self, name: str = "c-1", *, token: str = "") -> Peer:
        peer = self._adopt(Peer(connect_unix(str(self.config.socket), timeout=PATIENCE_SECONDS)))
        peer.welcome = greet(peer.frames, role="client", name=name, token=token)
        return peer

    @property
    def door(self) -> TcpDoor:
        """The door to the network."""
        assert self.server.door is not None
        return self.server.door

    def token(self, name: str = "somebody") -> str:
        """Make a token for programs that come over TCP."""
        return self.on_loop(lambda: self.server.client_tokens.create(name))[1]

    def remote(self, name: str = "c-1", *, token: str = "", trust: Trust | None = None) -> Peer:
        """Connect over TCP, with a token of its own where none is given."""
        address = Address("127.0.0.1", self.door.address.port)
        peer = self._adopt(Peer(connect_tcp(address, trust, timeout=PATIENCE_SECONDS)))
        peer.welcome = greet(peer.frames, role="client", name=name, token=token or self.token(f"token of {name}"))
        return peer

    def knock(self) -> socket.socket:
        """Connect over TCP, and say nothing; the test closes it."""
        return socket.create_connection(("127.0.0.1", self.door.address.port), PATIENCE_SECONDS)

    def worker(
        self, worker: str = "", *, held: Sequence[tuple[str, int]] = (), fresh: bool = True, remote: bool = False
    ) -> ScriptedWorker:
        """Connect as a worker that the engine was told to start; by default the newest one. ``remote``: over TCP."""
        if not worker:
            worker = wait_until(lambda: next(reversed(self.engine.specs), ""), message="a worker was ordered")
        made = ScriptedWorker(self, worker, remote=remote)
        made.leases.frames.send(m.Held([i for i, _ in held], [n for _, n in held], fresh=fresh))
        return made

    def _adopt(self, peer: Peer) -> Peer:
        self._peers.append(peer)
        return peer

    def register(self, client: Peer, *specs: FunctionSpec) -> dict[str, str]:
        answer = client.ask(
            "register", app=specs[0].app, run_id=specs[0].run_id, functions=[asdict(one) for one in specs]
        )
        keys: dict[str, str] = answer["keys"]
        return keys

    def segments(self) -> set[str]:
        """Return the names of the payloads in shared memory."""
        return {path.name for path in self.config.segments.iterdir() if path.is_file()}


class Peer:
    """One end of a connection. What came and was not asked for yet is kept."""

    def __init__(self, frames: FrameSocket) -> None:
        self.frames = frames
        self.welcome: m.Welcome | None = None
        self._came: deque[tuple[Any, list[bytes]]] = deque()
        self._results: dict[str, tuple[int, Any]] = {}
        self._requests = 0

    def send(self, message: Any, *parts: Buffer) -> None:
        self.frames.send(message, parts)

    def submit(self, key: str, ids: Sequence[str], *data: bytes, **fields: Any) -> None:
        parts = data or tuple(f"in {call_id}".encode() for call_id in ids)
        self.send(m.Submit(key, list(ids), list(map(len, parts)), **fields), *parts)

    def receive(self, kind: type[T]) -> tuple[T, list[bytes]]:
        """Return the next message of a kind with its parts; others that come meanwhile wait for their turn."""
        return self.receive_any(kind)

    def receive_any(self, *kinds: type[Any]) -> tuple[Any, list[bytes]]:
        """Return the next message of any of these kinds, likewise."""
        for at, (message, parts) in enumerate(self._came):
            if isinstance(message, kinds):
                del self._came[at]
                return message, parts
        while True:
            received = self.frames.receive()
            parts = [bytes(part) for part in received.parts()] if getattr(received.message, "sizes", None) else []
            if isinstance(received.message, kinds):
                return received.message, parts
            self._came.append((received.message, parts))

    def get(self, kind: type[T]) -> T:
        return self.receive(kind)[0]

    def nothing(self, kind: type[Any]) -> bool:
        """Tell whether no message of a kind has come, up to the answer to a request that is sent now."""
        self.ask("blobs_missing", digests=[])
        return not any(isinstance(message, kind) for message, _ in self._came)

    def ask(self, verb: str, **params: Any) -> Any:
        """Ask a request and return its result, or raise what it was answered with."""
        self._requests += 1
        self.send(m.Request(self._requests, verb, params))
        reply = self.get(m.Reply)
        assert reply.id == self._requests
        if reply.error is not None:
            raise from_wire(reply.error.type_name, reply.error.message, reply.error.fields)
        return reply.result

    def result_of(self, call_id: str) -> tuple[int, Any]:
        """Return a call's outcome, and its value or the name of its error."""
        while call_id not in self._results:
            results, parts = self.receive(m.Results)
            for at, one in enumerate(results.ids):
                error = results.errors.get(str(at))
                self._results[one] = results.outcomes[at], error.type_name if error is not None else parts[at]
        return self._results.pop(call_id)

    def close(self) -> None:
        self.frames.shutdown()
        self.frames.close()

    def is_closed(self) -> bool:
        """Wait for the server to close the connection; what it says before is dropped."""
        try:
            while True:
                self.frames.receive()
        except ConnectionFailed:
            return True


class ScriptedWorker:
    """A worker's two sockets."""

    def __init__(self, running: Running, worker: str, *, remote: bool = False) -> None:
        token = running.server.tokens.token(worker)
        self.id = worker
        self.token = token
        self.sent = 0
        self.leases = running._adopt(Peer(_connect(running, remote=remote)))
        greet(self.leases.frames, role="worker", name=worker, token=token)
        self.control = running._adopt(Peer(_connect(running, remote=remote)))
        greet(self.control.frames, role="control", name=worker, token=token)

    def lease(self) -> tuple[m.Lease, list[bytes]]:
        return self.leases.receive(m.Lease)

    def leased(self, count: int) -> dict[str, int]:
        """Take leases until there are so many; return the attempt of each call."""
        found: dict[str, int] = {}
        while len(found) < count:
            lease, _ = self.lease()
            found.update(zip(lease.ids, lease.attempts, strict=True))
        return found

    def finish(self, attempts: dict[str, int], *data: bytes, seq: int = 0, **fields: Any) -> int:
        """Report attempts as done; return the number of the frame."""
        self.sent = seq or self.sent + 1
        ids = list(attempts)
        parts = data or tuple(f"out {call_id}".encode() for call_id in ids)
        columns: dict[str, Any] = {
            "outcomes": [0] * len(ids),
            "sizes": list(map(len, parts)),
            "attempts": list(attempts.values()),
            "seconds": [0.05] * len(ids),  # not so short that a worker is leased one ahead
        }
        self.leases.send(m.Results(self.sent, ids, **{**columns, **fields}), *parts)
        return self.sent

    def is_acknowledged(self, seq: int) -> bool:
        """Read until the server says that this frame is safe: by an acknowledgement, or on the lease it sent first."""
        while True:
            message, _ = self.leases.receive_any(m.Ack, m.Lease)
            if (message.seq if isinstance(message, m.Ack) else message.acked) >= seq:
                return True

    def close(self) -> None:
        self.leases.close()
        self.control.close()


def _connect(running: Running, *, remote: bool) -> FrameSocket:
    if remote:
        return connect_tcp(Address("127.0.0.1", running.door.address.port), timeout=PATIENCE_SECONDS)
    return connect_unix(str(running.config.socket), timeout=PATIENCE_SECONDS)
