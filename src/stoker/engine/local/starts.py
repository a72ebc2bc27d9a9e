"""Starting workers: capacity, code, environment, zygote, fork, in this order, each no more often than needed."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stoker.blobs.base import BlobStore
from stoker.engine.local.bundles import ensure_code, names_of
from stoker.engine.local.capacity import CapacityBusy, CapacityLedger
from stoker.engine.local.config import RUN_MARKER, AgentConfig
from stoker.engine.local.ledger import WorkerEntry
from stoker.engine.local.limits import Group, Limits
from stoker.engine.local.log_files import Header, append_note
from stoker.engine.local.log_tails import LogTails
from stoker.engine.local.processes import Watch, start_time
from stoker.engine.local.workers import Running, Workers
from stoker.engine.local.zygotes import KilledWhileLoading, Launch, RunnerProcess, StartRefusal, Zygotes, clean_environ
from stoker.errors import ImageBuildError, StokerError, StoreUnavailable
from stoker.images.builder import EnvironmentBuilder
from stoker.images.code_holds import CodeHold
from stoker.images.environment import Environment, Hold
from stoker.images.halts import Wish
from stoker.images.worker_path import ensure_worker_path
from stoker.paths import SCRATCH_VARIABLE
from stoker.protocol.messages import Phase, StartFailed, StartWorker, WorkerStarted
from stoker.protocol.zygotes import THREAD_VARIABLES, WORKER_MARKER, Fork, ZygoteConfig
from stoker.types import ErrorInfo, FunctionSpec

DEVICES_VARIABLE = "CUDA_VISIBLE_DEVICES"
log = logging.getLogger(__name__)
FORK_TRIES = 5  # a zygote may be killed while it loads, or between being found and being asked
Send = Callable[[Any], None]


@dataclass
class Attempt:
    """One start on its way, and what has to be undone if it fails."""

    order: StartWorker
    seconds: dict[str, float] = field(default_factory=dict)
    mark: float = field(default_factory=time.perf_counter)
    hold: Hold | None = None
    code: CodeHold | None = None
    group: Group | None = None
    called_off: str = ""
    wish: Wish = field(default_factory=Wish)

    def lap(self, name: str) -> None:
        """Note how long it took since the last note."""
        now = time.perf_counter()
        self.seconds[name] = round(now - self.mark, 6)
        self.mark = now


@dataclass(frozen=True)
class Stock:
    """What starts draw on."""

    config: AgentConfig
    home: Path
    builder: EnvironmentBuilder
    blobs: BlobStore
    capacity: CapacityLedger
    limits: Limits
    logs: LogTails
    workers: Workers
    zygotes: Zygotes


class Starter:
    """Runs starts side by side. ``send`` gets `Phase`, then one `WorkerStarted` or `StartFailed` for each order."""

    def __init__(self, stock: Stock, *, send: Send) -> None:
        self._stock = stock
        self._send = send
        self._attempts: dict[str, Attempt] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._zygotes_started = 0

    def __contains__(self, worker: str) -> bool:
        return worker in self._attempts

    @property
    def on_their_way(self) -> list[str]:
        return list(self._attempts)

    def start(self, order: StartWorker) -> None:
        attempt = self._attempts[order.worker] = Attempt(order)
        self._tasks[order.worker] = asyncio.create_task(self._run(attempt), name=f"start of {order.worker}")

    def call_off(self, worker: str, reason: str) -> None:
        """Stop a start, which then fails with this reason."""
        attempt = self._attempts.get(worker)
        if attempt is not None:
            attempt.called_off = reason or "it was called off"
            attempt.wish.withdraw()
            self._tasks[worker].cancel()

    async def call_off_all(self, reason: str) -> None:
        tasks = list(self._tasks.values())
        for worker in list(self._attempts):
            self.call_off(worker, reason)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, attempt: Attempt) -> None:
        order = attempt.order
        try:
            failure = await self._try(attempt)
        except asyncio.CancelledError:
            failure = StartFailed(order.worker, ErrorInfo("StartupError", f"Not started: {attempt.called_off}."))
        finally:
            del self._attempts[order.worker], self._tasks[order.worker]
        if failure is not None:
            self._undo(attempt)
            self._send(failure)
            if not failure.retry and not attempt.called_off:
                self._note(order.function, failure.error.message)

    def _note(self, function: FunctionSpec, message: str) -> None:
        try:
            self._stock.logs.note_failed_start(function.key, function.label, message)
        except OSError as error:  # a full disk may be why it has failed
            log.warning("the failed start of %s is not noted in its log: %s", function.label, error)

    async def _try(self, attempt: Attempt) -> StartFailed | None:
        order = attempt.order
        try:
            if not self._stock.capacity.reserve(order.worker, cpus=order.cpus, memory=order.memory):
                return _later(order, "other Stoker programs on this machine hold the capacity that it needs just now")
            await self._bring_up(attempt)
        except CapacityBusy as error:
            return _later(order, str(error))
        except StartRefusal as refusal:
            return StartFailed(order.worker, refusal.error)
        except StoreUnavailable as error:  # of its code: nothing is wrong with the function
            return StartFailed(order.worker, ErrorInfo(type(error).__name__, str(error)), retry=True)
        except StokerError as error:
            text, fields = str(error), error.fields
            if isinstance(error, ImageBuildError):
                text, fields = f"{order.function.label}: {text}", {**fields, "function": order.function.label}
            return StartFailed(order.worker, ErrorInfo(type(error).__name__, text, fields=fields))
        except OSError as error:
            why = error.strerror or type(error).__name__
            message = f"{order.function.label} could not be started on this machine: {why}. The details:\n{error}"
            return StartFailed(order.worker, ErrorInfo("StartupError", message))
        return None

    def _undo(self, attempt: Attempt) -> None:
        try:
            self._stock.capacity.release(attempt.order.worker)
        except CapacityBusy:
            pass  # the entry ends with this process, or with the next release of this run
        if attempt.group is not None:
            attempt.group.remove()
        for hold in (attempt.hold, attempt.code):
            if hold is not None:
                hold.release()
        self._stock.logs.finish(attempt.order.worker)

    async def _bring_up(self, attempt: Attempt) -> None:
        order, stock = attempt.order, self._stock
        launch = await self._prepare(attempt)
        header = Header(order.worker, order.function.key, order.function.label, time.time())
        log = stock.logs.add(header)
        attempt.group = group = stock.limits.open(order.worker, cpus=order.cpus, memory=order.memory)
        fork = Fork(
            worker=order.worker,
            token=order.token,
            log=str(log),
            cpus=order.cpus,
            cgroups=group.joins(),
            env={
                RUN_MARKER: stock.config.marker,
                WORKER_MARKER: order.worker,
                SCRATCH_VARIABLE: str(stock.config.scratch / order.worker),
                **_seen(order.devices),
            },
        )
        how, pid, parent = await self._make_process(attempt, launch, fork, log)
        attempt.lap("fork" if parent else "fresh")
        self._hand_over(attempt, pid, how, parent, header)

    async def _prepare(self, attempt: Attempt) -> Launch:
        """Have code and environment on the disk."""
        order, stock = attempt.order, self._stock
        loop = asyncio.get_running_loop()

        def progress(line: str) -> None:
            loop.call_soon_threadsafe(self._send, Phase(order.worker, "building", line))

        def prepare() -> tuple[str, str, Path]:
            root = stock.home / "bundles"
            attempt.code = CodeHold(root, names_of(order.function.code))
            directory, by_value = ensure_code(order.function.code, blobs=stock.blobs, root=root)
            attempt.lap("bundle")
            attempt.hold = stock.builder.hold(order.function.image, progress=progress, wish=attempt.wish)
            attempt.lap("environment")
            if attempt.wish.withdrawn:  # nobody is there any more to give them back
                attempt.hold.release()
                attempt.code.release()
            runner = stock.config.runner
            return directory, by_value, Path(runner) if runner else ensure_worker_path(stock.home)

        directory, by_value, worker_path = await asyncio.to_thread(prepare)
        assert attempt.hold is not None
        return self._launch(order, attempt.hold.environment, (directory, by_value), worker_path)

    def _launch(self, order: StartWorker, environment: Environment, code: tuple[str, str], worker_path: Path) -> Launch:
        function, options, config = order.function, order.function.options, self._stock.config
        zygote = ZygoteConfig(
            app=function.app,
            name=function.name,
            function=function.key,
            code=function.code,
            server_socket="" if config.is_remote else str(config.server_socket),
            server=config.server,
            fingerprint=config.fingerprint,
            segments=str(config.segments) if config.is_remote else "",
            payload_socket=str(config.payload_socket) if config.is_remote else "",
            run_id=function.run_id,
            kind=function.kind,
            is_async=function.is_async,
            concurrency=options.concurrency,
            timeout=options.timeout,
            recycle_after=options.recycle_after,
            startup_timeout=options.startup_timeout,
            sys_path=environment.sys_path if environment.is_local else [],
            bundle_dir=code[0],
            by_value_file=code[1],
            env={**environment.variables, **options.env},
            thread_env={name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
            workdir=options.workdir,
            cwd=function.cwd,
            grace=config.patience,
            methods=function.methods,
            parameters=function.parameters,
            web=function.web,
            batch=options.batch,
        )
        base = environment.process_env(clean_environ(os.environ))
        return Launch(environment.python, worker_path, zygote, base, config.marker, options.startup_timeout)

    async def _make_process(
        self, attempt: Attempt, launch: Launch, fork: Fork, log: Path
    ) -> tuple[str, int, RunnerProcess | None]:
        """Return (how, pid, the zygote that forked it)."""
        stock = self._stock
        killed: KilledWhileLoading | None = None
        for _ in range(FORK_TRIES):
            if reason := stock.zygotes.unforkable(launch.key):
                append_note(log, f"{launch.config.label} starts without a zygote: {reason}")
                return "fresh", await self._start_fresh(launch, fork, log), None
            zygote = stock.zygotes.find(launch.key) or self._start_zygote(attempt, launch)
            try:
                ready = await zygote.ready()
            except KilledWhileLoading as error:
                stock.zygotes.end(zygote)
                killed = error
                continue
            attempt.lap("zygote")
            if not ready.forkable:
                stock.zygotes.refuse(zygote, ready.reason or f"it has {ready.threads} threads")
                continue
            try:
                return "fork", await zygote.fork(fork), zygote
            except ConnectionResetError:
                stock.zygotes.end(zygote)
        raise killed or StartRefusal(
            ErrorInfo(
                "StartupError", f"{launch.config.label}: its zygote ended {FORK_TRIES} times before it could fork."
            )
        )

    async def _start_fresh(self, launch: Launch, fork: Fork, log: Path) -> int:
        process = RunnerProcess(launch, log=log, fresh=fork)
        try:
            await process.ready()
        except asyncio.CancelledError:
            process.kill()
            raise
        return process.pid

    def _start_zygote(self, attempt: Attempt, launch: Launch) -> RunnerProcess:
        stock, function = self._stock, attempt.order.function
        self._zygotes_started += 1
        standby = stock.zygotes.take_standby(launch)
        name = standby.log.stem if standby else f"zygote-{function.key[:8]}-{os.getpid()}-{self._zygotes_started}"
        log = stock.logs.add(Header(name, function.key, function.label, time.time()))
        assert attempt.hold is not None and attempt.code is not None
        hold, code = attempt.hold.environment.hold(), attempt.code.again()

        def gone() -> None:
            hold.release()
            code.release()
            stock.logs.finish(name)

        self._send(Phase(attempt.order.worker, "starting", f"importing {function.code.module or function.label}"))
        try:
            zygote = RunnerProcess(launch, log=log, on_gone=gone, standby=standby)
        except StartRefusal:
            gone()
            raise
        stock.zygotes.add(zygote)
        return zygote

    def _hand_over(self, attempt: Attempt, pid: int, how: str, parent: RunnerProcess | None, header: Header) -> None:
        """From here on the worker's own end is what ends it."""
        order, stock, group, hold, code = attempt.order, self._stock, attempt.group, attempt.hold, attempt.code
        assert group is not None and hold is not None and code is not None
        group.add(pid)
        entry = WorkerEntry(
            worker=order.worker,
            function=header.function,
            label=header.label,
            pid=pid,
            start=start_time(pid) or 0,
            cpus=order.cpus,
            memory=order.memory,
            began=header.began,
            environment=hold.environment.directory,
            code=names_of(order.function.code),
            grant=order.grant,
            is_exclusive=order.function.options.gang is not None or bool(order.devices),
        )

        def gone() -> None:
            hold.release()
            code.release()

        try:
            stock.capacity.hand_over(order.worker, pid)
        except CapacityBusy:
            pass  # it stays reserved in our own name
        stock.workers.add(Running(entry, group, Watch(pid), parent, on_gone=gone))
        self._send(WorkerStarted(order.worker, pid, how, attempt.seconds))


def _seen(devices: list[str]) -> dict[str, str]:
    """Return what has a worker see its own GPUs, and no others."""
    return {DEVICES_VARIABLE: ",".join(devices)} if devices else {}


def _later(order: StartWorker, why: str) -> StartFailed:
    message = f"{order.function.label}: {why}. It is started as soon as they give it back."
    return StartFailed(order.worker, ErrorInfo("Overloaded", message), retry=True)
