"""A server of this program's own: started when there is no other, ended with the program.

Its run directory holds a lock file, locked while this process lives, so that others can tell and sweep what a killed
program left. The server is in a session of its own: Ctrl-C in the terminal reaches this program only, which then
cancels and shuts down in order. It watches this process by its pid and ends by itself should we be killed.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import stoker
from stoker import paths
from stoker.client.connection import SocketEndpoint
from stoker.client.ids import stamped_id
from stoker.errors import ConnectionFailed, from_wire
from stoker.transport.sockets import FrameSocket, connect_unix

START_TIMEOUT_SECONDS = 60.0  # a cold disk and a busy machine; half a second is usual
RESTARTS_PER_MINUTE = 5  # past it the server is broken, and starting it again does not help
LOG_TAIL_BYTES = 2000


class EmbeddedServer:
    """The endpoint of a server that is a child of this process."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = str(directory / "server.sock")
        self.token = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()
        self._starts: deque[float] = deque(maxlen=RESTARTS_PER_MINUTE + 1)
        self._lock = _lock_run(directory)

    @classmethod
    def start(cls) -> EmbeddedServer:
        """Start a server and wait until it listens.

        Raises:
            ConnectionFailed: it did not start; the message has its own words.
        """
        sweep()
        server = cls(paths.private_dir(paths.runs() / stamped_id("r-")))
        try:
            server._spawn()
        except BaseException:
            server.end(timeout=0.0)
            raise
        return server

    @property
    def is_remote(self) -> bool:
        return False

    def connect(self, *, timeout: float) -> FrameSocket:
        return connect_unix(self.path, timeout=timeout)

    def inherited(self) -> SocketEndpoint:
        return SocketEndpoint(self.path, self.token)

    @property
    def pid(self) -> int:
        """The server's process id, 0 when none was started."""
        return self._process.pid if self._process else 0

    def revive(self) -> None:
        """Start the server again on the same socket if it has ended.

        Raises:
            ConnectionFailed: it ended too often within a minute.
        """
        if self._process is not None and self._process.poll() is None:
            return
        full = len(self._starts) > RESTARTS_PER_MINUTE
        if full and time.monotonic() - self._starts[0] < 60.0:
            raise ConnectionFailed(
                f"This program's server ended {len(self._starts)} times within a minute and is not started again. "
                f"The end of {self.directory / 'server.log'}:\n{self._log_tail()}"
            )
        self._spawn()

    def end(self, *, timeout: float) -> None:
        """Wait for the server to end after its `shutdown`, end it by force if it does not, and sweep its files."""
        if os.getpid() != self._owner:
            return
        process = self._process
        if process is not None:
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                _end_process(process)
        _remove_run(self.directory)
        os.close(self._lock)

    def _spawn(self) -> None:
        self._starts.append(time.monotonic())
        ready, ready_out = os.pipe()
        try:
            with (self.directory / "server.log").open("ab") as log:
                self._process = subprocess.Popen(
                    self._command(ready_out),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(ready_out,),
                    start_new_session=True,
                    env=_environment(),
                )
        finally:
            os.close(ready_out)
        with open(ready, "rb", buffering=0) as pipe:  # noqa: PTH123 - a file descriptor
            self._check_ready(_read_line(pipe.fileno(), START_TIMEOUT_SECONDS))

    def _command(self, ready_fd: int) -> list[str]:
        # -P: a user's `queue.py` in the working directory must not stand in for the standard library's.
        isolation = ["-P"] if sys.version_info >= (3, 11) else []
        arguments = ["--embedded", "--run-dir", str(self.directory), "--parent-pid", str(os.getpid())]
        return [sys.executable, *isolation, "-m", "stoker.server", *arguments, "--ready-fd", str(ready_fd)]

    def _check_ready(self, line: bytes) -> None:
        if not line:
            process = self._process
            status = process.poll() if process else None
            what = f"ended with status {status}" if status is not None else "gave no sign of life"
            raise ConnectionFailed(f"This program's server {what} before it listened:\n{self._log_tail()}")
        try:
            answer = json.loads(line)
        except ValueError:
            answer = {"error": {"type_name": "ConnectionFailed", "message": line.decode(errors="replace")}}
        if error := answer.get("error"):
            raise from_wire(str(error.get("type_name", "ConnectionFailed")), str(error.get("message", "")))

    def _log_tail(self) -> str:
        try:
            data = (self.directory / "server.log").read_bytes()
        except OSError:
            return "(it wrote no log)"
        return data[-LOG_TAIL_BYTES:].decode(errors="replace").strip() or "(its log is empty)"


def sweep() -> None:
    """Remove what programs left that were killed: run directories whose lock nobody holds, with their segments."""
    for directory in paths.runs().iterdir():
        try:
            lock = _lock_run(directory)
        except (BlockingIOError, FileNotFoundError, NotADirectoryError):
            continue
        _remove_run(directory)
        os.close(lock)


def segments_of(directory: Path) -> Path:
    """Return where the server of a run directory keeps payload segments in shared memory."""
    return paths.SHM_ROOT / f"stoker-{os.getuid()}-{directory.name}"


def _remove_run(directory: Path) -> None:
    shutil.rmtree(segments_of(directory), ignore_errors=True)
    shutil.rmtree(paths.scratch(directory), ignore_errors=True)
    shutil.rmtree(directory, ignore_errors=True)


def _lock_run(directory: Path) -> int:
    """Lock a run directory for as long as this process lives; raises `BlockingIOError` where another has it."""
    fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def _read_line(fd: int, timeout: float) -> bytes:
    """Return what the server says of its start; empty when it ended, or said nothing in time."""
    line = b""
    give_up = time.monotonic() + timeout
    while not line.endswith(b"\n"):
        left = give_up - time.monotonic()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            return b""
        chunk = os.read(fd, 65536)
        if not chunk:
            break
        line += chunk
    return line


def _end_process(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(2.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _environment() -> dict[str, str]:
    """Return the server's environment: Stoker is importable there from where it was imported here."""
    root = str(Path(stoker.__file__).resolve().parent.parent)
    given = os.environ.get("PYTHONPATH", "")
    return {**os.environ, "PYTHONPATH": f"{given}{os.pathsep}{root}" if given else root}
