"""A server in a thread: speaks the real protocol, and runs functions for real, in this process.

It keeps what the protocol says a server keeps: results until they are acknowledged, calls it knows by id. `restart`
closes everything as a killed server would, and listens on the same socket again.
"""

from __future__ import annotations

import asyncio
import inspect
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from stoker.client.app import find_function
from stoker.client.classes import Cls
from stoker.client.here import Here
from stoker.errors import ConnectionFailed, NotFound, StokerError
from stoker.protocol.encoded import Encoded
from stoker.protocol.messages import (
    Accepted,
    Ack,
    Cancel,
    Items,
    Notice,
    PutBlob,
    RefusedCalls,
    Reply,
    Request,
    Results,
    StreamCredit,
    Submit,
    Watch,
    Welcome,
    Window,
)
from stoker.protocol.payload import decode_call, encode_value
from stoker.protocol.remote_exceptions import encode_exception
from stoker.protocol.structure import structured
from stoker.transport.segments import INLINE_MAX_BYTES, SegmentDir
from stoker.transport.sockets import FrameSocket, Received
from stoker.types import ErrorInfo, FunctionSpec, Outcome

RESULTS_A_FRAME = 64


class Gate(threading.Event):
    """An event that functions wait for; it may be referred to by a function that travels by value."""

    _all: ClassVar[dict[int, Gate]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        self._all[id(self)] = self
        return self._all.__getitem__, (id(self),)


class Link:
    """One client's connection, with the results it is owed."""

    def __init__(self, sock: socket.socket) -> None:
        self.frames = FrameSocket(sock)
        self.seq = 0
        self.client = ""
        self.lock = threading.Lock()


class FakeServer:
    """Listens in a directory; ``functions`` are what it runs, by name, before those of the apps of this process."""

    def __init__(self, directory: Path, *, threads: int = 4) -> None:
        self.path = str(directory / "server.sock")
        self.segments = SegmentDir(directory / "segments")
        self.segments.path.mkdir(exist_ok=True)
        self.functions: dict[str, Callable[..., Any]] = {}
        self.specs: dict[str, FunctionSpec] = {}
        self.requests: list[Request] = []
        self.submits: list[Submit] = []
        self.cancels: list[Cancel] = []
        self.acks: list[int] = []
        self.blobs: set[str] = set()
        self.ran: list[str] = []
        self.refusals: deque[ErrorInfo] = deque()
        self.window: int | None = None
        self.term = 1
        self.grace = 5.0
        self.hold_results = False
        self._settled: dict[str, tuple[int, Encoded | None, ErrorInfo | None]] = {}
        self._known: set[str] = set()
        self._credits: dict[str, int] = {}
        self._credit = threading.Condition()
        self._cancelled: set[str] = set()
        self._links: list[Link] = []
        self._instances: dict[str, Here] = {}  # of classes, by pool
        self._making = threading.Lock()
        self._owed: dict[str, str] = {}
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="fake-worker")
        self._listener = self._listen()

    def _listen(self) -> socket.socket:
        Path(self.path).unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(self.path)
        listener.listen(16)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def close(self) -> None:
        self._drop_links()
        with self._credit:
            self._cancelled |= self._known
            self._credit.notify_all()
        self._pool.shutdown(wait=True)
        for here in self._instances.values():
            here.leave()

    def restart(self, *, forget: bool = False) -> None:
        """Break every connection and listen again, as a new term; with ``forget`` nothing is known any more."""
        self._drop_links()
        self.term += 1
        if forget:
            self._known.clear()
            self._settled.clear()
        self._listener = self._listen()

    def _drop_links(self) -> None:
        if self._listener.fileno() >= 0:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        for link in self._links:
            link.frames.shutdown()
        self._links.clear()

    def notify(self, kind: str, **data: Any) -> None:
        for link in list(self._links):
            link.frames.send(Notice(kind, data))

    def release_results(self) -> None:
        self.hold_results = False
        for link in list(self._links):
            self._deliver(link, [i for i in self._settled if self._owed.get(i) == link.client])

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(Link(sock),), daemon=True).start()

    def _serve(self, link: Link) -> None:
        try:
            link.client = link.frames.receive().message.name
            link.frames.send(Welcome("0", "fake", self.term, segments=str(self.segments.path), grace=self.grace))
            self._links.append(link)
            while True:
                self._handle(link, link.frames.receive())
        except (ConnectionFailed, OSError):
            pass
        finally:
            if link in self._links:
                self._links.remove(link)
            link.frames.close()

    def _handle(self, link: Link, received: Received) -> None:
        message = received.message
        if isinstance(message, Submit):
            self._submit(link, message, received.parts())
        elif isinstance(message, Request):
            self._request(link, message)
        elif isinstance(message, PutBlob):
            self.blobs.add(message.digest)
            link.frames.send(Reply(message.id))
        elif isinstance(message, Ack):
            self.acks.append(message.seq)
        elif isinstance(message, Cancel):
            self._cancel(link, message)
        elif isinstance(message, StreamCredit):
            with self._credit:
                self._credits[message.id] = message.upto
                self._credit.notify_all()
        elif isinstance(message, Watch):
            for call_id in message.ids:
                self._owed[call_id] = link.client
            self._deliver(link, [i for i in message.ids if i in self._settled])

    def _cancel(self, link: Link, message: Cancel) -> None:
        self.cancels.append(message)
        with self._credit:
            self._cancelled.update(message.ids)
            self._credit.notify_all()
        open_ids = [i for i in message.ids if i in self._known and i not in self._settled]
        for call_id in open_ids:
            self._settle(call_id, Outcome.CANCELLED, None, None)

    def _request(self, link: Link, message: Request) -> None:
        self.requests.append(message)
        params = message.params
        result: Any = None
        error: ErrorInfo | None = None
        if message.verb in {"register", "deploy"}:
            specs = [structured(FunctionSpec, spec) for spec in params["functions"]]
            self.specs.update((spec.key, spec) for spec in specs)
            result = {"keys": {spec.name: spec.key for spec in specs}, "version": 1}
            if self.window is not None:
                for spec in specs:
                    link.frames.send(Window(spec.key, self.window))
        elif message.verb == "blobs_missing":
            result = [digest for digest in params["digests"] if digest not in self.blobs]
        elif message.verb == "lookup":
            found = [s for s in self.specs.values() if (s.app, s.name) == (params["app"], params["name"])]
            if found:
                result = {"key": found[-1].key, "spec": _document(found[-1])}
            else:
                error = ErrorInfo("NotFound", f"There is no function {params['name']} in {params['app']}.")
        elif message.verb == "call":
            result = {
                "state": self._state_of(params["id"]),
                "timeline": [{"at": 1.0, "event": "queued", "detail": "waits for a worker"}],
                "why": "waits for a worker",
            }
        elif message.verb == "logs":
            result = {"lines": [{"text": "hello"}]}
        link.frames.send(Reply(message.id, result, error))

    def _state_of(self, call_id: str) -> str:
        outcome = self._settled[call_id][0] if call_id in self._settled else None
        ended = {Outcome.VALUE: "succeeded", Outcome.CANCELLED: "cancelled"}
        return "queued" if outcome is None else ended.get(Outcome(outcome), "failed")

    def _submit(self, link: Link, message: Submit, parts: list[memoryview]) -> None:
        self.submits.append(message)
        if self.refusals:
            for name, _ in message.segments.values():
                self.segments.delete(str(name))
            link.frames.send(RefusedCalls(message.ids, self.refusals.popleft()))
            return
        if message.detached:
            link.frames.send(Accepted(message.ids))
        again = []
        for i, call_id in enumerate(message.ids):
            self._owed[call_id] = link.client
            if call_id in self._settled:
                again.append(call_id)
            elif call_id not in self._known:
                self._known.add(call_id)
                data: Any = bytes(parts[i])
                if str(i) in message.segments:
                    name = str(message.segments[str(i)][0])
                    data = self.segments.map(name)
                    self.segments.delete(name)
                self._pool.submit(self._run, call_id, message, data)
        self._deliver(link, again)

    def _function_of(self, spec: FunctionSpec) -> Callable[..., Any]:
        given = self.functions.get(spec.name)
        if given is not None:
            return given
        found = find_function(spec.app, spec.name)
        if found is None:
            raise NotFound(f"{spec.label} is not defined in this process.")
        return self._instance(spec, found) if isinstance(found, Cls) else found.raw_f

    def _instance(self, spec: FunctionSpec, cls: Cls[Any]) -> Callable[..., Any]:
        """Return what runs the method that a call names; a pool's calls share an instance, as in one worker."""
        with self._making:
            here = self._instances.get(spec.key)
            if here is None:
                here = self._instances[spec.key] = Here(cls.raw_f, spec.parameters, label=spec.label)

        def run(method: str, *args: Any, **kwargs: Any) -> Any:
            return here.call(method, args, kwargs, batched=spec.methods[method].batch is not None)

        return run

    def _run(self, call_id: str, message: Submit, data: Any) -> None:
        self.ran.append(call_id)
        if call_id in self._cancelled:
            return
        try:
            function = self._function_of(self.specs[message.function])
            args, kwargs = decode_call(data)
            if message.kind == "stream":
                self._stream(call_id, function(*args, **kwargs))
                value = None
            else:
                value = function(*args, **kwargs)
                if inspect.iscoroutine(value):
                    value = asyncio.run(value)
            encoded = encode_value(value)
        except StokerError as error:
            self._settle(call_id, Outcome.ERROR, None, ErrorInfo(type(error).__name__, str(error), fields=error.fields))
        except BaseException as error:  # noqa: BLE001 - whatever a function raises is its call's end
            payload, info = encode_exception(error)
            self._settle(call_id, Outcome.ERROR, payload, info)
        else:
            self._settle(call_id, Outcome.VALUE, encoded, None)

    def _stream(self, call_id: str, generator: Any) -> None:
        if hasattr(generator, "__aiter__"):
            generator = _sync(generator)
        for number, item in enumerate(generator):
            with self._credit:
                while number >= self._credits.get(call_id, 64) and call_id not in self._cancelled:
                    self._credit.wait()
            if call_id in self._cancelled:
                generator.close()
                return
            data = encode_value(item).to_bytes()
            for link in [one for one in self._links if one.client == self._owed[call_id]]:
                link.frames.send(Items(call_id, 1, number, [len(data)]), [data])

    def _settle(self, call_id: str, outcome: Outcome, encoded: Encoded | None, error: ErrorInfo | None) -> None:
        if call_id in self._settled:
            return
        self._settled[call_id] = (int(outcome), encoded, error)
        if not self.hold_results:
            for link in [one for one in list(self._links) if one.client == self._owed[call_id]]:
                self._deliver(link, [call_id])

    def _deliver(self, link: Link, ids: list[str]) -> None:
        for at in range(0, len(ids), RESULTS_A_FRAME):
            self._deliver_some(link, ids[at : at + RESULTS_A_FRAME])

    def _deliver_some(self, link: Link, ids: list[str]) -> None:
        with link.lock:
            link.seq += 1
            message = Results(link.seq, ids, [], [])
            parts: list[bytes] = []
            for i, call_id in enumerate(ids):
                outcome, encoded, error = self._settled[call_id]
                data = encoded.to_bytes() if encoded is not None else b""
                message.outcomes.append(outcome)
                if len(data) > INLINE_MAX_BYTES:
                    name = f"{call_id}.r{link.seq}"
                    self.segments.write(name, [data])
                    message.segments[str(i)] = [name, len(data)]
                    data = b""
                message.sizes.append(len(data))
                parts.append(data)
                if error is not None:
                    message.errors[str(i)] = error
            try:
                link.frames.send(message, parts)
            except ConnectionFailed:
                pass  # it will ask again


def _sync(generator: Any) -> Iterator[Any]:
    loop = asyncio.new_event_loop()
    try:
        while True:
            try:
                yield loop.run_until_complete(generator.__anext__())
            except StopAsyncIteration:
                return
    finally:
        loop.close()


def _document(spec: FunctionSpec) -> Any:
    from dataclasses import asdict

    return asdict(replace(spec))
