"""The local engine, on the server's side: it keeps this machine's agent alive and speaks `Engine` for it.

The server owns the connection: it hands over the agent's link when one has said `Hello` (`attach`), every message that
comes on it (`deliver`), and its end (`detach`).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from stoker.engine.base import (
    AgentLink,
    Bundle,
    Event,
    Grant,
    Listener,
    NodeChanged,
    NodeInfo,
    NodeJoined,
    NodeLost,
    PhaseChanged,
    RunningWorker,
    StartRefused,
    UsageReported,
    WorkerDown,
    WorkerSpec,
    WorkerUp,
)
from stoker.engine.local.agent import fork_agent, take_run_lock
from stoker.engine.local.config import AgentConfig
from stoker.engine.local.ledger import Ledger
from stoker.engine.local.processes import Watch, start_time
from stoker.errors import ConnectionFailed, Fenced, InvalidRequest, from_wire
from stoker.protocol import messages as m
from stoker.types import ErrorInfo, ImageSpec

RESTART_FIRST_SECONDS = 0.1
RESTART_LAST_SECONDS = 10.0  # an agent that dies at once each time is not started in a tight loop
SHUT_DOWN_SLACK_SECONDS = 10.0  # past the grace of its workers: for what a busy machine needs to kill and clean up
EPSILON_CPUS = 1e-6
log = logging.getLogger("stoker.engine")


class LocalEngine:
    """See the module, and `stoker.engine.base.Engine`."""

    name = "local"

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._pid = 0
        self._attached_pid = 0
        self._listener: Listener = lambda event: None
        self._link: AgentLink | None = None
        self._term = 0
        self._state: m.NodeState | None = None
        self._grants: dict[str, Grant] = {}
        self._grant_of: dict[str, Grant] = {}  # by worker, from `start` or adoption until its end
        self._starting: set[str] = set()
        self._up: set[str] = set()
        self._lent: dict[str, float] = {}
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._keeper: asyncio.Task[None] | None = None
        self._adoptable = any(entry.alive for entry in Ledger(config.ledger).state.workers)

    def set_listener(self, listener: Listener) -> None:
        self._listener = listener

    def fork_agent(self) -> None:
        """Fork the agent off this process, before there is a loop or a thread; without it `start_up` runs a program.

        Raises:
            InvalidRequest: the agent of an earlier server still runs, and reads another blob store.
        """
        if not _runs_elsewhere(self._config):
            self._pid = fork_agent(self._config)
        elif _noted(self._config.blobs_note) != self._config.blobs_tag:
            raise InvalidRequest(
                "What an earlier server has started still runs, with blobs in another place than this server's. Start "
                "it with the same --blobs as before, or end it all with `stoker server stop` first."
            )

    async def start_up(self) -> None:
        self._keeper = asyncio.create_task(self._keep_agent(), name="agent keeper")

    async def shut_down(self, *, grace: float = 5.0) -> None:
        await self._stop_keeping()
        if self._link is not None:
            try:
                stopping = self.ask("stop", {"term": self._term, "grace": grace})
                await asyncio.wait_for(stopping, grace + SHUT_DOWN_SLACK_SECONDS)
            except (ConnectionFailed, Fenced, TimeoutError) as error:
                log.warning("the agent did not say that it has ended everything: %r", error)
        pid = self._attached_pid or self._pid
        if pid and start_time(pid) is not None:
            await _end_agent(pid, patience=SHUT_DOWN_SLACK_SECONDS if self._link is not None else 0.0)
        _collect(pid)

    async def abandon(self) -> None:
        if self._link is not None:
            await self.shut_down()
        else:
            await self._stop_keeping()

    async def _stop_keeping(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    def attach(self, link: AgentLink, hello: m.Hello, *, term: int) -> None:
        if self._link is not None:
            self.detach(self._link)
        self._link = link
        self._term = term
        if self._attached_pid not in (0, hello.pid):
            self._lose_starts("The node's agent ended while it was starting this worker.")
        self._attached_pid = hello.pid

    def detach(self, link: AgentLink) -> None:
        if self._link is not link:
            return
        self._link = None
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(ConnectionFailed("The node's agent went away before it answered."))
        self._answers.clear()
        if self._state is not None:
            self._state = None
            self._tell(NodeLost(self._config.node, "its agent went away"))

    def deliver(self, link: AgentLink, message: Any) -> bool:
        if self._link is not link:
            return True  # of a connection that another one has replaced
        match message:
            case m.NodeState():
                self._on_state(message)
            case m.WorkerStarted():
                self._on_started(message)
            case m.StartFailed():
                self._on_start_failed(message)
            case m.WorkerExited():
                self._on_exited(message)
            case m.Phase():
                self._tell(PhaseChanged(message.worker, message.phase, message.detail))
            case m.LogLines():
                self._tell(message)
            case m.Usage():
                self._tell(UsageReported(message.workers, message.cpu_seconds, message.memory))
            case m.Reply():
                self._on_reply(message)
            case m.LogsFlushed():
                self._on_reply(m.Reply(message.id))
            case _:
                return False
        return True

    def expected_nodes(self) -> list[str]:
        ended = not self._adoptable or self._state is not None
        return [] if ended else [self._config.node]

    def nodes(self) -> list[NodeInfo]:
        return [self._node()] if self._state is not None else []

    def reserve(self, bundles: list[Bundle]) -> list[Grant] | None:
        if self._state is None:
            return None
        node = self._node()
        cpus, memory = sum(b.cpus for b in bundles), sum(b.memory for b in bundles)
        wanted = {item for bundle in bundles for item in bundle.labels.items()}
        if cpus > node.cpus_free + EPSILON_CPUS or memory > node.memory_free or not wanted <= node.labels.items():
            return None
        grants = [Grant(f"g{next(self._numbers)}", node.node, b.cpus, b.memory) for b in bundles]
        self._grants.update((grant.id, grant) for grant in grants)
        return grants

    def release(self, grant: Grant) -> None:
        self._grants.pop(grant.id, None)

    def start(self, grant: Grant, spec: WorkerSpec) -> None:
        self._grant_of[spec.worker] = grant
        self._starting.add(spec.worker)
        if self._link is None:
            self._refuse_later(spec.worker, "The node's agent is away.")
            return
        order = m.StartWorker(self._term, spec.worker, spec.function, spec.token, grant.cpus, grant.memory)
        self._send(order)

    def stop(self, worker: str, *, grace: float, reason: str = "") -> None:
        if self._link is not None and worker in self._grant_of:
            self._send(m.StopWorker(self._term, worker, grace, reason))

    def lend(self, grant: Grant, *, lent: bool) -> None:
        worker = next((worker for worker, held in self._grant_of.items() if held.id == grant.id), "")
        if not worker or lent == (worker in self._lent):
            return
        if lent:
            self._lent[worker] = grant.cpus
        else:
            del self._lent[worker]
        # Before the start that borrows them, on the same connection, so that the agent's ledger has room for it.
        self._say_lend(worker, grant, lent=lent)

    def _say_lend(self, worker: str, grant: Grant, *, lent: bool) -> None:
        self._send(m.Request(next(self._numbers), "lend", {"worker": worker, "cpus": 0.0 if lent else grant.cpus}))

    async def flush_logs(self) -> None:
        await self._exchange(m.FlushLogs(next(self._numbers)))

    async def build(self, image: ImageSpec, *, worker: str = "") -> dict[str, Any]:
        result: dict[str, Any] = await self._exchange(m.BuildImage(self._term, next(self._numbers), image, worker))
        return result

    async def ask(self, verb: str, params: dict[str, Any] | None = None) -> Any:
        return await self._exchange(m.Request(next(self._numbers), verb, params or {}))

    async def _exchange(self, message: Any) -> Any:
        if self._link is None:
            raise ConnectionFailed("The node's agent is away; it is started again by itself: try again.")
        answer = self._answers[message.id] = asyncio.get_running_loop().create_future()
        try:
            self._send(message)
            return await answer
        finally:
            self._answers.pop(message.id, None)

    def _send(self, message: Any) -> None:
        if self._link is not None:
            self._link.send(message)
            self._link.flush()

    def _node(self) -> NodeInfo:
        assert self._state is not None
        state = self._state
        cpus = sum(grant.cpus for grant in self._grants.values())
        lent = sum(cpus for worker, cpus in self._lent.items() if self._grant_of[worker].id in self._grants)
        memory = sum(grant.memory for grant in self._grants.values())
        return NodeInfo(
            node=self._config.node,
            cpus=state.cpus,
            memory=state.memory,
            cpus_free=state.cpus_free - cpus + lent,
            memory_free=state.memory_free - memory,
            labels=state.labels,
        )

    def _tell(self, event: Event) -> None:
        self._listener(event)

    def _on_state(self, state: m.NodeState) -> None:
        joins = self._state is None
        self._state = state
        if not joins:
            self._tell(NodeChanged(self._node()))
            return
        workers = [self._adopted(*columns) for columns in self._columns(state)]
        gone = self._up - {one.worker for one in workers}
        self._up |= {one.worker for one in workers}
        self._starting -= self._up
        for worker in self._starting - set(state.starting):
            # The order, or the answer to it, was lost with the connection: it will not come, and its grant is free.
            self._on_start_failed(_refused(worker, "The order to start it was lost on its way to the node's agent."))
        self._tell(NodeJoined(self._node(), workers, list(state.starting)))
        for worker in gone:
            # What an agent had to report it has said before this, unless it was killed or the connection broke.
            if worker in self._up:
                self._end(worker, WorkerDown(worker, "unknown", "it was gone when its agent connected again"))
        self._say_lends()

    def _say_lends(self) -> None:
        """Tell an agent that has connected what is lent: it may be another one, or have missed the word."""
        for worker in self._up:
            self._say_lend(worker, self._grant_of[worker], lent=worker in self._lent)

    @staticmethod
    def _columns(state: m.NodeState) -> list[tuple[str, str, int, float, int]]:
        columns = (state.workers, state.functions, state.pids, state.cpus_held, state.memory_held)
        return list(zip(*columns, strict=True))

    def _adopted(self, worker: str, function: str, pid: int, cpus: float, memory: int) -> RunningWorker:
        grant = self._grant_of.get(worker)
        if grant is None:
            grant = Grant(f"g{next(self._numbers)}", self._config.node, cpus, memory)
            self._grants[grant.id] = self._grant_of[worker] = grant
        return RunningWorker(worker, function, pid, grant)

    def _on_started(self, message: m.WorkerStarted) -> None:
        if message.worker in self._starting:
            self._starting.discard(message.worker)
            self._up.add(message.worker)
            self._tell(WorkerUp(message.worker, message.pid, message.how, message.seconds))

    def _on_start_failed(self, message: m.StartFailed) -> None:
        if message.worker in self._starting:
            self._starting.discard(message.worker)
            self._forget(message.worker)
            self._tell(StartRefused(message.worker, message.error, message.retry))

    def _on_exited(self, message: m.WorkerExited) -> None:
        if message.worker in self._up:
            fields = vars(message)
            self._end(message.worker, WorkerDown(**fields))

    def _end(self, worker: str, event: WorkerDown) -> None:
        self._up.discard(worker)
        self._forget(worker)
        self._tell(event)

    def _forget(self, worker: str) -> None:
        self._grant_of.pop(worker, None)
        self._lent.pop(worker, None)

    def _on_reply(self, reply: m.Reply) -> None:
        answer = self._answers.pop(reply.id, None)
        if answer is None or answer.done():
            return
        if reply.error is not None:
            answer.set_exception(from_wire(reply.error.type_name, reply.error.message, reply.error.fields))
        else:
            answer.set_result(reply.result)

    def _lose_starts(self, why: str) -> None:
        for worker in list(self._starting):
            self._refuse_later(worker, why)

    def _refuse_later(self, worker: str, why: str) -> None:
        asyncio.get_running_loop().call_soon(self._on_start_failed, _refused(worker, why))

    async def _keep_agent(self) -> None:
        """Start the agent whenever there is none."""
        delay = RESTART_FIRST_SECONDS
        while True:
            if not self._pid and not self._attached_pid and _runs_elsewhere(self._config):
                await asyncio.sleep(delay)  # an earlier server's agent: it finds us by itself
                continue
            pid = self._attached_pid or self._pid
            began = asyncio.get_running_loop().time()
            try:
                if not pid or start_time(pid) is None:
                    pid = self._pid = self._spawn()
                await Watch(pid).wait()
            except OSError as error:  # no process, or no file descriptor, is to be had just now
                log.error("the agent could not be started or watched: %s", error)
                delay = min(RESTART_LAST_SECONDS, delay * 2)
                await asyncio.sleep(delay)
                continue
            _collect(pid)
            self._pid = 0
            if self._attached_pid == pid:
                self._attached_pid = 0
                self._lose_starts("The node's agent ended while it was starting this worker.")
            stayed = asyncio.get_running_loop().time() - began
            delay = RESTART_FIRST_SECONDS if stayed > RESTART_LAST_SECONDS else min(RESTART_LAST_SECONDS, delay * 2)
            await asyncio.sleep(delay)

    def _spawn(self) -> int:
        config = self._config
        arguments = {
            "run-dir": config.run_dir,
            "state-dir": config.state_dir,
            "server-socket": config.server_socket,
            "mode": config.mode,
            "grace": config.grace,
            "node": config.node,
            "limits": config.limits,
            "runner": config.runner,
        }
        words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "stoker.engine.local.agent", *words]
        return os.posix_spawn(sys.executable, command, os.environ, setsigmask=[])


def _refused(worker: str, why: str) -> m.StartFailed:
    return m.StartFailed(worker, ErrorInfo("StartupError", why), retry=True)


async def _end_agent(pid: int, *, patience: float) -> None:
    """Wait for an agent that was told to end, and terminate it when it does not."""
    watch = Watch(pid)
    try:
        await asyncio.wait_for(watch.wait(), patience)
    except TimeoutError:
        os.kill(pid, signal.SIGTERM)
        await watch.wait()


def _runs_elsewhere(config: AgentConfig) -> bool:
    """Tell whether an agent of this run lives that we did not start."""
    if not config.run_dir.is_dir():
        return False
    lock = take_run_lock(config.run_dir)
    if lock is None:
        return True
    os.close(lock)
    return False


def _noted(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def _collect(pid: int) -> None:
    """Collect our child, if it is one and has ended."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass  # an earlier server started it
