"""A runner process that is started before anybody asked for it: the first function of a program is loaded into it.

Starting an interpreter and importing the runner takes as long as all else between a program's start and its first
result. An embedded run's agent therefore begins with one process for the environment that most first functions use,
the caller's own, while its server is still importing. It waits for its configuration like any other; when none that
fits comes within a while, it is ended.
"""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

from stoker.engine.local import processes

UNUSED_SECONDS = 30.0  # after which a program's first function has come, or is of another environment
LINK_FD = 3
READ_AT_START = ("PYTHON", "LD_", "MALLOC_", "GLIBC_")  # variables that a process reads before it can be told of others


def spawn_runner(python: str, worker_path: Path, *, environment: dict[str, str], link: int, log: Path) -> int:
    """Start a process of the runner, its link at `LINK_FD`, and return its pid; raises `OSError`."""
    program = str(worker_path / "stoker" / "runner" / "bootstrap.py")
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
        (os.POSIX_SPAWN_DUP2, link, LINK_FD),
    ]
    return os.posix_spawn(
        python,
        [python, "-s", program, str(LINK_FD)],
        environment,
        file_actions=actions,
        setsid=True,
        setsigmask=[],
        setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGXFSZ],
    )


class Standby:
    """See the module. It is either taken, once, or ended."""

    def __init__(self, python: str, worker_path: Path, *, environment: dict[str, str], log: Path) -> None:
        self.log = log
        self._python = python
        self._worker_path = worker_path
        self._environment = environment
        ours, theirs = socket.socketpair()
        with theirs:
            self.pid = spawn_runner(python, worker_path, environment=environment, link=theirs.fileno(), log=log)
        self._socket: socket.socket | None = ours

    def fits(self, python: str, worker_path: Path, *, environment: dict[str, str], told: dict[str, str]) -> bool:
        """Tell whether a process started with this would be the same once it is ``told`` its variables."""
        if self._socket is None or (python, worker_path) != (self._python, self._worker_path):
            return False
        ours = self._environment
        other = {name for name in ours.keys() | environment.keys() if ours.get(name) != environment.get(name)}
        return all(name in told and not name.startswith(READ_AT_START) for name in other)

    def take(self) -> socket.socket:
        """Return the link to it; from here on it is the taker's."""
        taken, self._socket = self._socket, None
        assert taken is not None, "a standby is taken once"
        return taken

    def end(self) -> None:
        """End it, unless it was taken."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            processes.signal_group(self.pid, signal.SIGKILL)
            try:
                os.waitpid(self.pid, 0)
            except ChildProcessError:
                pass  # collected already, with the other children of this agent
            self.log.unlink(missing_ok=True)
