"""The zygote: imports one function's module, and forks workers from that state until its agent closes the link.

It has one thread, and keeps to it. With ``ZygoteConfig.fresh`` there is no zygote: this process becomes the worker.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Iterator
from typing import NoReturn

from stoker.errors import ProtocolError
from stoker.protocol.zygotes import (
    Exited,
    Failed,
    Fork,
    Forked,
    NotForked,
    Ready,
    ZygoteConfig,
    ZygoteMessage,
    decode_line,
    encode_line,
)
from stoker.runner import pools, process
from stoker.runner.instances import ClassCode, HookFailed
from stoker.runner.loading import describe_failure, enter_directory, load_function, set_import_path
from stoker.runner.output import Output
from stoker.runner.targets import Code, FunctionCode
from stoker.runner.worker import Worker
from stoker.transport.current import loading
from stoker.types import ErrorInfo

LINE_BYTES = 1 << 16


class Link:
    """The line-wise link to the agent."""

    def __init__(self, fd: int) -> None:
        self._sock = socket.socket(fileno=fd)
        self._sock.set_inheritable(False)
        self._buffer = b""

    def fileno(self) -> int:
        return self._sock.fileno()

    def receive(self) -> ZygoteMessage:
        """Return the next message; the process ends when the agent has closed the link."""
        while b"\n" not in self._buffer:
            self._fill()
        line, _, self._buffer = self._buffer.partition(b"\n")
        return decode_line(line)

    def receive_ready(self) -> Iterator[ZygoteMessage]:
        """Yield what one read brings."""
        self._fill()
        while b"\n" in self._buffer:
            line, _, self._buffer = self._buffer.partition(b"\n")
            yield decode_line(line)

    def _fill(self) -> None:
        try:
            data = self._sock.recv(LINE_BYTES)
        except ConnectionError:
            data = b""
        if not data:
            os._exit(0)  # at once, without exit hooks: those belong to the workers that were forked from here
        self._buffer += data

    def send(self, message: ZygoteMessage) -> None:
        try:
            self._sock.sendall(encode_line(message))
        except (BrokenPipeError, ConnectionResetError):
            os._exit(0)

    def close(self) -> None:
        self._sock.close()


def main(link_fd: int, worker_path: str) -> NoReturn:
    """Run until the end of the process."""
    link = Link(link_fd)
    started = time.monotonic()
    config = link.receive()
    if not isinstance(config, ZygoteConfig):
        raise ProtocolError(f"A zygote's first line must be its config, not {type(config).__name__}.")
    os.environ.update(config.env)
    if config.fresh is None:
        pools.hold_to_one_thread()
        process.end_with_parent()
        _serve_zygote(link, config, worker_path, started)
    _run_fresh(link, config, config.fresh, worker_path, started)


def _load(link: Link, config: ZygoteConfig, worker_path: str) -> Code:
    """Return the code, of a class with its instance, or tell the agent why there is none and exit."""
    try:
        set_import_path(config, worker_path)
        enter_directory(config)
        with loading(config.label):
            function = load_function(config)
            if config.kind != "class":
                return FunctionCode(config, function)
            code = ClassCode(config, function)
            code.before_fork()
            return code
    except HookFailed as failed:
        link.send(Failed(failed.error))
        os._exit(1)
    except BaseException as error:  # noqa: BLE001 - a module may raise anything, SystemExit included
        link.send(Failed(describe_failure(error)))
        os._exit(1)


def _run_fresh(link: Link, config: ZygoteConfig, order: Fork, worker_path: str, started: float) -> NoReturn:
    process.become_worker(order)
    threads = process.set_thread_environment(config, order)
    output = Output.install()
    code = _load(link, config, worker_path)
    link.send(Ready(threads=process.reasons_against_fork()[0], forkable=False, seconds=time.monotonic() - started))
    link.close()
    Worker(config, order, code, output, threads=threads, forked=False).run()


def _serve_zygote(link: Link, config: ZygoteConfig, worker_path: str, started: float) -> NoReturn:
    output = Output.install()
    code = _load(link, config, worker_path)
    output.end_call("")
    pools.find_pools()
    process.freeze_heap()
    threads, reason = process.reasons_against_fork(has_hooks=config.kind == "class")
    link.send(Ready(threads=threads, forkable=not reason, seconds=time.monotonic() - started, reason=reason))
    Zygote(link, config, code, output).serve()


class Zygote:
    """See the module."""

    def __init__(self, link: Link, config: ZygoteConfig, code: Code, output: Output) -> None:
        self._link = link
        self._config = config
        self._code = code
        self._output = output
        self._workers: dict[int, str] = {}
        self._ends, self._ends_in = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._old_fd = signal.set_wakeup_fd(self._ends_in, warn_on_full_buffer=False)
        self._old_handler = signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> NoReturn:
        selector = selectors.DefaultSelector()
        selector.register(self._link.fileno(), selectors.EVENT_READ)
        selector.register(self._ends, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd == self._ends:
                    os.read(self._ends, 4096)
                    self._collect()
                else:
                    for order in self._link.receive_ready():
                        self._obey(order, selector)

    def _obey(self, order: ZygoteMessage, selector: selectors.BaseSelector) -> None:
        if not isinstance(order, Fork):
            raise ProtocolError(f"A zygote forks, it does not know {type(order).__name__}.")
        try:
            pid = os.fork()
        except OSError as error:
            message = f"{self._config.label}: the kernel refused another process: {error.strerror}."
            self._link.send(NotForked(order.worker, ErrorInfo("StartupError", message)))
            return
        if pid == 0:
            self._become(order, selector)
        self._workers[pid] = order.worker
        self._link.send(Forked(order.worker, pid))

    def _become(self, order: Fork, selector: selectors.BaseSelector) -> NoReturn:
        """Be a worker from here on; never return into the zygote's loop, whatever happens."""
        try:
            signal.signal(signal.SIGCHLD, self._old_handler or signal.SIG_DFL)
            signal.set_wakeup_fd(self._old_fd)
            selector.close()
            self._link.close()
            os.close(self._ends)
            os.close(self._ends_in)
            process.become_worker(order)
            threads = process.set_thread_environment(self._config, order)
            pools.raise_pools(threads, order.cpus)
            process.reseed()
            self._output.rebind()
            Worker(self._config, order, self._code, self._output, threads=threads, forked=True).run()
        except BaseException:  # noqa: BLE001 - the outermost frame of a process: what went wrong goes to its log
            sys.excepthook(*sys.exc_info())
        os._exit(1)

    def _collect(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            worker = self._workers.pop(pid, None)
            if worker is not None:
                cpu = usage.ru_utime + usage.ru_stime
                self._link.send(Exited(worker, pid, status, cpu, usage.ru_maxrss << 10))
