"""The server's end of an agent's link, and an agent as a process, for tests."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from stoker._version import __version__
from stoker.engine.local.config import AgentConfig
from stoker.protocol.frames import FrameReader, encode_prefix
from stoker.protocol.messages import Hello, StartWorker, Welcome
from stoker.protocol.structure import decode_header, encode_header
from stoker.types import CodeRef, FunctionSpec, ImageSpec, LocalPython, OptionsSpec
from tests.engine.waiting import PATIENCE_SECONDS, until

T = TypeVar("T")


class FakeServer:
    """Listens on a run's socket, welcomes the agent, keeps every message it sends."""

    def __init__(self, socket_path: Path, *, term: int = 1) -> None:
        self.path = socket_path
        self.term = term
        self.segments = ""
        self.hello: Hello | None = None
        self.messages: list[Any] = []
        self.on_hello: Callable[[FakeServer, Hello], None] = lambda server, hello: None
        self.on_message: Callable[[Any], object] = self.messages.append
        self.on_gone: Callable[[], None] = lambda: None
        self._server: asyncio.Server | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._agents: list[asyncio.StreamWriter] = []
        self.workers: list[Hello] = []

    async def listen(self) -> None:
        self.path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, str(self.path))

    async def close(self) -> None:
        """Go away as a killed server does, leaving the socket's file."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.drop()
        await asyncio.sleep(0)

    def drop(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames = FrameReader()
        try:
            while data := await reader.read(1 << 18):
                for frame in frames.feed(data):
                    message = decode_header(frame.kind, frame.header)
                    if isinstance(message, Hello) and message.role != "agent":
                        self.workers.append(message)
                        write(writer, Welcome(__version__, "s-test", self.term))
                    elif isinstance(message, Hello):
                        self.hello = message
                        self._writer = writer
                        self._agents.append(writer)
                        self.send(Welcome(__version__, "s-test", self.term, segments=self.segments))
                        self.on_hello(self, message)
                    elif writer is self._writer:
                        self.on_message(message)
        except ConnectionError:
            pass
        finally:
            if self._writer is writer:
                self._writer = None
            if writer in self._agents:
                self.on_gone()
            writer.close()

    def send(self, message: Any) -> None:
        if self._writer is not None:
            write(self._writer, message)

    def all(self, kind: type[T], **fields: Any) -> list[T]:
        return [
            one
            for one in self.messages
            if isinstance(one, kind) and all(getattr(one, name) == value for name, value in fields.items())
        ]

    async def get(self, kind: type[T], *, patience: float = PATIENCE_SECONDS, **fields: Any) -> T:
        """Return the first message of this kind with these fields, as soon as it is there."""
        found = await until(lambda: self.all(kind, **fields), what=f"{kind.__name__} {fields}", patience=patience)
        return found[0]


def write(writer: asyncio.StreamWriter, message: Any) -> None:
    kind, header = encode_header(message)
    writer.write(encode_prefix(kind, len(header), 0) + header)


def function(*, name: str = "f", body: str = "", load: str = "", image: ImageSpec, **options: Any) -> FunctionSpec:
    """Return a function for the stub runner: the source that its zygote and its workers run."""
    env = {"STUB_WORKER": body} if body else {}
    if load:
        env["STUB_IMPORT"] = load
    env.update(options.pop("env", {}))
    return FunctionSpec("app", name, CodeRef(module="m", qualname=name), image, OptionsSpec(env=env, **options))


def local_image() -> ImageSpec:
    from stoker.fingerprint import fingerprint

    path = [entry for entry in sys.path if entry]
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return ImageSpec(python, LocalPython(sys.executable, path, fingerprint(sys.executable, path)))


def order(worker: str, function: FunctionSpec, *, term: int = 1, cpus: float = 1.0, memory: int = 0) -> StartWorker:
    return StartWorker(term, worker, function, f"token-{worker}", cpus, memory)


class AgentProcess:
    """An agent, started as the server starts it."""

    def __init__(self, config: AgentConfig, *, env: dict[str, str] | None = None) -> None:
        words = [
            f"--run-dir={config.run_dir}",
            f"--state-dir={config.state_dir}",
            f"--server-socket={config.server_socket}",
            f"--mode={config.mode}",
            f"--grace={config.grace}",
            f"--limits={config.limits}",
            f"--runner={config.runner}",
            f"--node={config.node}",
            *(["--until-stdin-closes"] if config.until_stdin_closes else []),
        ]
        command = [sys.executable, "-m", "stoker.engine.local.agent", *words]
        self._process = subprocess.Popen(command, env={**os.environ, **(env or {})}, stdin=subprocess.PIPE)
        self.pid = self._process.pid

    def close_stdin(self) -> None:
        """Be an owner that has ended."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    async def end(self) -> None:
        """Terminate it and wait until it has ended everything."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        await self.wait()

    async def wait(self) -> int:
        await until(lambda: self._process.poll() is not None, what="the agent's end")
        self.close_stdin()
        return self._process.wait()
