"""Zygotes: one process for each function, which has imported it and forks its workers.

`RunnerProcess` is one process of the runner and the link to it, a zygote or a worker started fresh. `Zygotes` keeps
them: one is started when it is first needed, the least recently used go when there are too many, and those that nobody
needs go after a while. A zygote's end ends none of its workers.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from stoker.engine.local import processes
from stoker.engine.local.config import RUN_MARKER
from stoker.engine.local.log_files import last_lines
from stoker.engine.local.standby import Standby, spawn_runner
from stoker.errors import ProtocolError, StartupError
from stoker.protocol.zygotes import (
    MARK_BLANK,
    THREAD_VARIABLES,
    WORKER_MARKER,
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
from stoker.types import ErrorInfo, digest_of

ZYGOTES_MAX = 8
ZYGOTES_MEMORY_SHARE = 0.25  # of the node, for what they hold of their own
ZYGOTE_IDLE_SECONDS = 600.0  # after its last worker has gone
_MISSING_MODULE = re.compile(r"No module named '([^']+)'")
LINE_BYTES = 8 << 20  # a config has a whole `sys.path` and an environment in it; an error its traceback
KILLS = frozenset({signal.SIGKILL, signal.SIGTERM})  # what code does not do to itself by accident
UNWANTED_VARIABLES = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP")
INTERNAL_PREFIX = "STOKER_"
PUBLIC_VARIABLES = frozenset({"STOKER_HOME", "STOKER_RUNTIME_DIR", "STOKER_NODE_CPUS", "STOKER_NODE_MEMORY"})


class StartRefusal(Exception):
    """A worker cannot be started; ``error`` is what its callers are told."""

    def __init__(self, error: ErrorInfo) -> None:
        super().__init__(error.message)
        self.error = error


class KilledWhileLoading(StartRefusal):
    """Somebody killed the process before the function was loaded, which says nothing about the function."""


@dataclass(frozen=True)
class Launch:
    """All it takes to start a process of the runner for one function."""

    python: str
    worker_path: Path
    config: ZygoteConfig
    base: dict[str, str]  # the variables that the environment gives its processes
    run: str  # the value of `RUN_MARKER`
    startup_timeout: float

    @cached_property
    def key(self) -> str:
        """Functions that share this share a zygote."""
        return digest_of([self.python, str(self.worker_path), asdict(self.config)])[:24]

    def environment(self, *, worker: str) -> dict[str, str]:
        """Return what the process is started with: the environment's variables, the function's, one thread each."""
        marks = {RUN_MARKER: self.run, WORKER_MARKER: worker}
        return {**self.base, **self.config.env, **dict.fromkeys(THREAD_VARIABLES, "1"), **marks}


def clean_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the agent's own variables as user code may see them: without Stoker's internals and Python's settings."""
    return {
        name: value
        for name, value in environ.items()
        if name not in UNWANTED_VARIABLES and (not name.startswith(INTERNAL_PREFIX) or name in PUBLIC_VARIABLES)
    }


def first_environment(base: Mapping[str, str], *, run: str) -> dict[str, str]:
    """Return what a zygote is started with whose function asks for no variables of its own."""
    return {**base, **dict.fromkeys(THREAD_VARIABLES, "1"), RUN_MARKER: run, WORKER_MARKER: MARK_BLANK}


class RunnerProcess:
    """One process of the runner."""

    def __init__(
        self,
        launch: Launch,
        *,
        log: Path,
        fresh: Fork | None = None,
        on_gone: Callable[[], None] = lambda: None,
        standby: Standby | None = None,
    ) -> None:
        self.launch = launch
        self.on_gone = on_gone
        self.log = log if standby is None else standby.log
        self.used = time.monotonic()
        self.workers: set[str] = set()
        self.gone = asyncio.Event()
        self.status: int | None = None
        self._config = replace(launch.config, fresh=fresh)
        loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[Ready | Failed] = loop.create_future()
        self._forks: dict[str, asyncio.Future[Forked | NotForked]] = {}
        self._exits: dict[str, asyncio.Future[Exited]] = {}
        if standby is not None:
            self.pid, self._socket = standby.pid, standby.take()
        else:
            self._socket, theirs = socket.socketpair()
            with theirs:
                self.pid = self._spawn(theirs.fileno(), fresh.worker if fresh else MARK_BLANK)
        self._writer: asyncio.StreamWriter | None = None
        self._protocol_error = ""
        self._watch = processes.Watch(self.pid)
        self._is_worker = fresh is not None
        self._task = loop.create_task(self._run(), name=f"runner process {self.pid}")

    def _spawn(self, link: int, worker: str) -> int:
        launch = self.launch
        environment = launch.environment(worker=worker)
        try:
            return spawn_runner(launch.python, launch.worker_path, environment=environment, link=link, log=self.log)
        except OSError as error:
            raise StartRefusal(
                ErrorInfo(
                    "StartupError",
                    f"{launch.config.label}: its interpreter does not start. If the environment was removed by hand, "
                    "`stoker images prune` forgets it and the next start builds it. The details:\n"
                    f"{launch.python}: {error}",
                )
            ) from error

    @property
    def alive(self) -> bool:
        return not self._watch.ended

    async def ready(self) -> Ready:
        """Return when the function is loaded.

        Raises:
            KilledWhileLoading: it was killed from outside; another one may do it.
            StartRefusal: it cannot be, or not within the startup timeout.
        """
        label, limit = self.launch.config.label, self.launch.startup_timeout
        try:
            answer = await asyncio.wait_for(asyncio.shield(self._ready), limit)
        except TimeoutError:
            self.kill()
            message = f"{label} did not load within its startup_timeout of {limit:g} s. Its output until then:\n"
            raise StartRefusal(ErrorInfo("StartupError", message + self._last_output())) from None
        if isinstance(answer, Failed):
            refusal = KilledWhileLoading if self._was_killed else StartRefusal
            raise refusal(_startup_error(label, answer.error))
        return answer

    @property
    def _was_killed(self) -> bool:
        return self.status is not None and os.WIFSIGNALED(self.status) and os.WTERMSIG(self.status) in KILLS

    async def fork(self, order: Fork) -> int:
        """Fork a worker and return its pid.

        Raises:
            StartRefusal: the kernel refused.
            ConnectionResetError: the zygote is gone; another one may do it.
        """
        future: asyncio.Future[Forked | NotForked] = asyncio.get_running_loop().create_future()
        self._forks[order.worker] = future
        self._exits[order.worker] = asyncio.get_running_loop().create_future()
        self._write(order)
        try:
            answer = await asyncio.shield(future)
        except asyncio.CancelledError:
            future.add_done_callback(_kill_unwanted)
            raise
        if isinstance(answer, NotForked):
            raise StartRefusal(answer.error)
        self.used = time.monotonic()
        self.workers.add(order.worker)
        return answer.pid

    async def exited(self, worker: str) -> Exited | None:
        """Return how a forked worker ended, None where the zygote went away and left it to us."""
        future = self._exits.get(worker)
        if future is None:
            return None
        gone = asyncio.create_task(self.gone.wait(), name=f"wait for zygote {self.pid}")
        waiting: set[asyncio.Future[Any]] = {future, gone}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        self.workers.discard(worker)
        self._exits.pop(worker, None)
        self.used = time.monotonic()
        return future.result() if future.done() and not future.cancelled() else None

    def close(self) -> None:
        """End it: a zygote exits when its link closes."""
        self._task.cancel()

    def kill(self) -> None:
        processes.signal_group(self.pid, signal.SIGKILL)

    async def wait_gone(self) -> None:
        await asyncio.gather(self._task, return_exceptions=True)
        await self.gone.wait()

    def memory(self) -> int:
        """Return the bytes that it holds of its own."""
        return processes.anonymous_memory(self.pid)

    def _write(self, message: ZygoteMessage) -> None:
        if self._writer is None or self._writer.is_closing():
            raise ConnectionResetError("the zygote is gone")
        self._writer.write(encode_line(message))

    async def _run(self) -> None:
        try:
            reader, self._writer = await asyncio.open_unix_connection(sock=self._socket, limit=LINE_BYTES)
            self._write(self._config)
            while line := await reader.readline():
                self._take(decode_line(line))
        except (ConnectionError, ProtocolError, ValueError) as error:
            self._protocol_error = str(error)
        finally:
            if self._writer is not None:
                self._writer.close()
            self._ended = asyncio.get_running_loop().create_task(self._end(), name=f"end of runner process {self.pid}")

    async def _end(self) -> None:
        """Collect the process after its link has closed; a worker that was started fresh is others' to collect."""
        if not (self._is_worker and self._ready.done() and isinstance(self._ready.result(), Ready)):
            await self._watch.wait()
            found = processes.reap(self.pid)
            self.status = found.status if found else None
        if not self._ready.done():
            self._ready.set_result(Failed(self._sudden_end()))
        self._watch.close()
        self.gone.set()
        for fork in self._forks.values():
            if not fork.done():
                fork.set_exception(ConnectionResetError("the zygote is gone"))
                fork.exception()  # nobody may be waiting any more
        self.on_gone()

    def _sudden_end(self) -> ErrorInfo:
        how = self._protocol_error or "it ended"
        if self.status is not None and (os.WIFSIGNALED(self.status) or not self._protocol_error):
            how = processes.explain(self.status)[1]
        message = f"its process ended while it loaded ({how}). Its output until then:\n{self._last_output()}"
        return ErrorInfo("StartupError", f"{self.launch.config.label}: {message}")

    def _last_output(self) -> str:
        return "\n".join(line.text for line in last_lines(self.log)) or "(none)"

    def _take(self, message: ZygoteMessage) -> None:
        if isinstance(message, Ready | Failed):
            if not self._ready.done():
                self._ready.set_result(message)
        elif isinstance(message, Forked | NotForked):
            future = self._forks.pop(message.worker, None)
            if future is not None and not future.done():
                future.set_result(message)
        elif isinstance(message, Exited) and message.worker in self._exits:
            self._exits[message.worker].set_result(message)


def _kill_unwanted(future: asyncio.Future[Forked | NotForked]) -> None:
    if not future.cancelled() and future.exception() is None and isinstance(answer := future.result(), Forked):
        processes.send_signal(answer.pid, signal.SIGKILL)


def _startup_error(label: str, error: ErrorInfo) -> ErrorInfo:
    """Return a user's exception as what callers are told; Stoker's own errors say it well already."""
    if "." not in error.type_name and error.type_name.endswith("Error") and error.type_name == StartupError.__name__:
        return error
    name = error.name
    message = f"{label} could not be loaded: {name}: {error.message}"
    missing = _MISSING_MODULE.match(error.message) if name == "ModuleNotFoundError" else None
    if missing:
        message += (
            f". Its environment has no {missing[1]!r}: add it to the image (.pip_install), or import it only in "
            "the functions whose images have it; if it is a file of your own, put it beside the script or name it with "
            ".add_local_python_source."
        )
    if error.traceback:
        message += f"\n{error.traceback.rstrip()}"
    return ErrorInfo("StartupError", message, error.traceback, error.mro, error.fields)


class Zygotes:
    """The zygotes of this node, by `Launch.key`."""

    def __init__(self, *, memory: int) -> None:
        self._memory = int(memory * ZYGOTES_MEMORY_SHARE)
        self._live: dict[str, RunnerProcess] = {}
        self._ending: set[RunnerProcess] = set()
        self._unforkable: dict[str, str] = {}
        self.standby: Standby | None = None

    def take_standby(self, launch: Launch) -> Standby | None:
        """Return the process that waits for a first function, if this launch's would be the same."""
        standby = self.standby
        environment = launch.environment(worker=MARK_BLANK)
        if standby is None or not standby.fits(
            launch.python, launch.worker_path, environment=environment, told=launch.config.env
        ):
            return None
        self.standby = None
        return standby

    def end_standby(self) -> None:
        """End the process that waits for a first function; nothing that fits it has come."""
        if self.standby is not None:
            self.standby.end()
            self.standby = None

    def unforkable(self, key: str) -> str:
        """Return why workers of this launch must start fresh, nothing if they need not as far as is known."""
        return self._unforkable.get(key, "")

    def find(self, key: str) -> RunnerProcess | None:
        """Return a launch's zygote, which may not be ready yet."""
        zygote = self._live.get(key)
        return zygote if zygote is not None and zygote.alive else None

    def add(self, zygote: RunnerProcess) -> None:
        """Keep a zygote; others go for it where there are too many."""
        self._live[zygote.launch.key] = zygote
        self._make_room(besides=zygote)

    def refuse(self, zygote: RunnerProcess, reason: str) -> None:
        """Never fork from launches like this one's again."""
        self._unforkable[zygote.launch.key] = reason
        self.end(zygote)

    def end(self, zygote: RunnerProcess) -> None:
        if self._live.get(zygote.launch.key) is zygote:
            del self._live[zygote.launch.key]
        if not zygote.gone.is_set():
            zygote.close()
            self._ending.add(zygote)
        self._ending = {one for one in self._ending if not one.gone.is_set()}

    def end_idle(self) -> None:
        """End those that nobody has needed for long; to be called now and then while there are any."""
        now = time.monotonic()
        for zygote in list(self._live.values()):
            if not zygote.alive or (not zygote.workers and now - zygote.used > ZYGOTE_IDLE_SECONDS):
                self.end(zygote)

    @property
    def live(self) -> list[RunnerProcess]:
        return list(self._live.values())

    async def close(self) -> None:
        """End all of them and return when they are gone."""
        self.end_standby()
        for zygote in self.live:
            self.end(zygote)
        for zygote in list(self._ending):
            try:
                await asyncio.wait_for(zygote.gone.wait(), 1.0)
            except TimeoutError:
                zygote.kill()
                await zygote.gone.wait()

    def _make_room(self, *, besides: RunnerProcess) -> None:
        others = sorted((one for one in self._live.values() if one is not besides), key=lambda one: one.used)
        while others and (len(others) >= ZYGOTES_MAX or sum(one.memory() for one in others) > self._memory):
            self.end(others.pop(0))
