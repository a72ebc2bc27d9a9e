"""A runner for tests of the agent: it speaks the zygote link, and runs Python source from the function's env.

``STUB_IMPORT`` is run where the module would be imported, ``STUB_WORKER`` in each worker in place of its loop; a worker
without one sleeps. ``STUB_FORKABLE=no`` makes a zygote that cannot fork.
"""

from __future__ import annotations

import importlib.util
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from typing import Any


def main() -> None:
    link = socket.socket(fileno=int(sys.argv[1]))
    data = b""
    while b"\n" not in data:
        data += link.recv(1 << 16)
    line, _, pending = data.partition(b"\n")
    config = json.loads(line)
    for name, value in config["env"].items():
        os.environ[name] = value
    began = time.monotonic()
    try:
        exec(os.environ.get("STUB_IMPORT", ""), {"__name__": config["code"]["module"]})
    except Exception as error:
        info = {"type_name": f"builtins.{type(error).__name__}", "message": str(error)}
        info["traceback"] = traceback.format_exc()
        say(link, "Failed", error=info)
        sys.exit(1)
    forkable = os.environ.get("STUB_FORKABLE", "yes") == "yes"
    seconds = time.monotonic() - began
    say(link, "Ready", threads=1, forkable=forkable, seconds=seconds, reason="" if forkable else "it has 9 threads")
    if config["fresh"]:
        link.close()
        become_worker(config["fresh"], own_process=False)
    serve(link, pending)


def serve(link: socket.socket, pending: bytes) -> None:
    workers: dict[int, str] = {}
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    while True:
        readable = select.select([link.fileno(), wake], [], [])[0]
        if wake in readable:
            os.read(wake, 4096)
        reap(link, workers)
        if link.fileno() in readable:
            data = link.recv(1 << 16)
            if not data:
                os._exit(0)
            pending += data
            while b"\n" in pending:
                line, _, pending = pending.partition(b"\n")
                fork(link, json.loads(line), workers)


def fork(link: socket.socket, order: dict[str, Any], workers: dict[int, str]) -> None:
    pid = os.fork()
    if not pid:
        signal.set_wakeup_fd(-1)
        become_worker(order, own_process=True)
    workers[pid] = str(order["worker"])
    say(link, "Forked", worker=order["worker"], pid=pid)


def reap(link: socket.socket, workers: dict[int, str]) -> None:
    while workers:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        if pid in workers:
            cpu = usage.ru_utime + usage.ru_stime
            peak = usage.ru_maxrss << 10
            say(link, "Exited", worker=workers.pop(pid), pid=pid, status=status, cpu_seconds=cpu, peak_memory=peak)


def become_worker(order: dict[str, Any], *, own_process: bool) -> None:
    if own_process:
        os.setsid()
        spec = importlib.util.spec_from_file_location("marks", os.path.join(os.path.dirname(__file__), "marks.py"))  # noqa: PTH118, PTH120
        marks = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
        spec.loader.exec_module(marks)  # type: ignore[union-attr]
        assert marks.show("STOKER_WORKER", str(order["worker"]), blank="_" * 64)
        log = os.open(str(order["log"]), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
    for path in order["cgroups"]:
        with open(path, "w") as file:  # noqa: PTH123
            file.write(str(os.getpid()))
    os.environ.update(order["env"])
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        exec(os.environ.get("STUB_WORKER", "import time; time.sleep(600)"), {"__name__": "worker"})
    except SystemExit as error:
        os._exit(error.code if isinstance(error.code, int) else 1)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)


def say(link: socket.socket, message: str, **fields: object) -> None:
    link.sendall(json.dumps({"message": message, **fields}).encode() + b"\n")


if __name__ == "__main__":
    main()
