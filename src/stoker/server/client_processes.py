"""The processes of clients on this machine, watched: one that has ended will not come back, so nobody waits for it.

Its connection says less. It closes for other reasons too, after which the client has its grace; and it stays open when
its process has ended and left a forked child that holds the same socket.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable


class ClientProcesses:
    """``ended`` is called with the name of a session whose process has ended."""

    def __init__(self, ended: Callable[[str], None]) -> None:
        self._ended = ended
        self._watched: dict[str, int] = {}

    def watch(self, session: str, pid: int) -> None:
        """Watch the process that a session's connection came from; 0 is one of another pid namespace, not watched."""
        self.forget(session)
        if pid <= 0:
            return
        try:
            fd = os.pidfd_open(pid)
        except OSError:
            return  # gone already, which its connection tells; or no file descriptor is left
        self._watched[session] = fd
        asyncio.get_running_loop().add_reader(fd, self._on_end, session)

    def forget(self, session: str) -> None:
        fd = self._watched.pop(session, -1)
        if fd >= 0:
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)

    def close(self) -> None:
        for session in list(self._watched):
            self.forget(session)

    def _on_end(self, session: str) -> None:
        self.forget(session)
        self._ended(session)
