"""The local engine, on the server's side: it keeps this machine's agent alive and speaks `Engine` for it.

The server owns the connection: it hands over the agent's link when one has said `Hello` (`attach`), every message that
comes on it (`deliver`), and its end (`detach`).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import secrets
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stoker.engine.agent_node import EPSILON_CPUS, AgentNode
from stoker.engine.base import (
    AgentLink,
    Bundle,
    Event,
    Grant,
    Listener,
    NodeChanged,
    NodeInfo,
    Outage,
    WorkerSpec,
)
from stoker.engine.local.agent import fork_agent, take_run_lock
from stoker.engine.local.config import AgentConfig
from stoker.engine.local.ledger import Ledger
from stoker.engine.local.processes import Watch, start_time
from stoker.errors import ConnectionFailed, Fenced, InvalidRequest
from stoker.protocol import messages as m
from stoker.transport.addresses import Address
from stoker.types import Growth, ImageSpec

RESTART_FIRST_SECONDS = 0.1
RESTART_LAST_SECONDS = 10.0  # an agent that dies at once each time is not started in a tight loop
SHUT_DOWN_SLACK_SECONDS = 10.0  # past the grace of its workers: for what a busy machine needs to kill and clean up
AGENT_ENDED = "The node's agent ended while it was starting this worker."
log = logging.getLogger("stoker.engine")


class LocalEngine:
    """See the module, and `stoker.engine.base.Engine`."""

    name = "local"
    growth = Growth.NEVER
    trouble = ""
    place = ""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._pid = 0
        self._attached_pid = 0
        self._listener: Listener = lambda event: None
        self._node = AgentNode(config.node, tell=self._tell)
        self._new_grant = f"g{secrets.token_hex(3)}-"
        self._numbers = itertools.count(1)
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

    def open_to_agents(self, address: Address, fingerprint: str, token: Callable[[str], str]) -> None:
        return  # there are none

    async def start_up(self) -> None:
        self._keeper = asyncio.create_task(self._keep_agent(), name="agent keeper")

    async def shut_down(self, *, grace: float = 5.0) -> None:
        await self._stop_keeping()
        if self._node.link is not None:
            try:
                stopping = self.ask("stop", {"term": self._node.term, "grace": grace})
                await asyncio.wait_for(stopping, grace + SHUT_DOWN_SLACK_SECONDS)
            except (ConnectionFailed, Fenced, TimeoutError) as error:
                log.warning("the agent did not say that it has ended everything: %r", error)
        pid = self._attached_pid or self._pid
        if pid and start_time(pid) is not None:
            await _end_agent(pid, patience=SHUT_DOWN_SLACK_SECONDS if self._node.link is not None else 0.0)
        _collect(pid)

    async def abandon(self) -> None:
        if self._node.link is not None:
            await self.shut_down()
        else:
            await self._stop_keeping()

    async def _stop_keeping(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    def attach(self, link: AgentLink, hello: m.Hello, *, term: int) -> None:
        self._node.attach(link, term=term)
        if self._attached_pid not in (0, hello.pid):
            self._node.lose_starts(AGENT_ENDED)
        self._attached_pid = hello.pid

    def detach(self, link: AgentLink) -> None:
        self._node.detach(link)

    def deliver(self, link: AgentLink, message: Any) -> bool:
        if self._node.link is not link:
            return True  # of a connection that another one has replaced
        if isinstance(message, m.NodeState):
            self._on_state(message)
            return True
        return self._node.deliver(message)

    def _on_state(self, state: m.NodeState) -> None:
        if self._node.state is None:
            self._node.joined(state, self._info, new_grant=self._new_grant)
        else:
            self._node.state = state
            self._tell(NodeChanged(self._info()))

    def outages(self) -> list[Outage]:
        return []

    def expected_nodes(self) -> list[str]:
        ended = not self._adoptable or self._node.state is not None
        return [] if ended else [self._config.node]

    def nodes(self) -> list[NodeInfo]:
        return [self._info()] if self._node.state is not None else []

    def reserve(self, bundles: list[Bundle]) -> list[Grant] | None:
        if self._node.state is None:
            return None
        node = self._info()
        cpus, memory = sum(b.cpus for b in bundles), sum(b.memory for b in bundles)
        wanted = {item for bundle in bundles for item in bundle.labels.items()}
        if cpus > node.cpus_free + EPSILON_CPUS or memory > node.memory_free or not wanted <= node.labels.items():
            return None
        if any(b.gpus or b.resources or b.node not in {"", node.node} for b in bundles):
            return None
        grants = [Grant(f"{self._new_grant}{next(self._numbers)}", node.node, b.cpus, b.memory) for b in bundles]
        self._node.grants.update((grant.id, grant) for grant in grants)
        return grants

    def release(self, grant: Grant) -> None:
        self._node.grants.pop(grant.id, None)

    def start(self, grant: Grant, spec: WorkerSpec) -> None:
        order = self._node.start(grant, spec)
        if self._node.link is None:
            self._node.refuse_later(spec.worker, "The node's agent is away.")
        else:
            self._node.send(order)

    def stop(self, worker: str, *, grace: float, reason: str = "") -> None:
        self._node.stop(worker, grace=grace, reason=reason)

    def lend(self, grant: Grant, *, lent: bool) -> None:
        self._node.lend(grant, lent=lent)

    def demand(self, bundles: list[Bundle]) -> None:
        return  # this machine does not grow, as `growth` says

    async def flush_logs(self) -> None:
        await self._node.exchange(m.FlushLogs(self._node.number()))

    async def build(self, image: ImageSpec, *, worker: str = "") -> dict[str, Any]:
        order = m.BuildImage(self._node.term, self._node.number(), image, worker)
        result: dict[str, Any] = await self._node.exchange(order)
        return result

    async def ask(self, verb: str, params: dict[str, Any] | None = None) -> Any:
        return await self._node.ask(verb, params)

    def _info(self) -> NodeInfo:
        state, held = self._node.state, self._node.held()
        assert state is not None
        return NodeInfo(
            node=self._config.node,
            cpus=state.cpus,
            memory=state.memory,
            cpus_free=state.cpus_free - held.cpus,
            memory_free=state.memory_free - held.memory,
            labels=state.labels,
        )

    def _tell(self, event: Event) -> None:
        self._listener(event)

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
                self._node.lose_starts(AGENT_ENDED)
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
