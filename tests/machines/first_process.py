"""The first process of a machine: makes its files its own, says so, and reaps what nobody else does.

``python first_process.py SPEC``, in namespaces of its own. It ends with its standard input; where it is process 1 of
its machine, the kernel ends everything else with it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

MS_BIND = 4096
OWN = ("/tmp", "/var/tmp", "/dev/shm", "/home")  # nothing there is another machine's
libc = ctypes.CDLL(None, use_errno=True)


def main(spec: dict[str, Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _own_files(spec["keep"], Path(spec["home"]))
    socket.sethostname(spec["name"])
    hosts = Path("/tmp/hosts")
    hosts.write_text(spec["hosts"])
    _mount(str(hosts), "/etc/hosts", flags=MS_BIND)
    print("ready", flush=True)
    signal.signal(signal.SIGCHLD, lambda number, frame: _reap())
    while os.read(0, 1024):
        pass


def _own_files(keep: list[str], home: Path) -> None:
    """Have an empty directory in place of each of ``OWN``, with what is to be kept back in its place."""
    below = [path for path in keep if any(path.startswith(f"{own}/") for own in OWN)]
    seen = [(os.open(path, os.O_PATH | os.O_DIRECTORY), path) for path in below]
    for own in OWN:
        if Path(own).is_dir():
            _mount("tmpfs", own, kind="tmpfs", data="mode=1777")
    for fd, path in seen:
        Path(path).mkdir(parents=True, exist_ok=True)
        _mount(f"/proc/self/fd/{fd}", path, flags=MS_BIND)
        os.close(fd)
    home.mkdir(mode=0o700)


def _mount(source: str, target: str, *, kind: str = "", flags: int = 0, data: str = "") -> None:
    if libc.mount(source.encode(), target.encode(), kind.encode() or None, flags, data.encode() or None):
        number = ctypes.get_errno()
        raise OSError(number, f"mount {source}: {os.strerror(number)}", target)


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
