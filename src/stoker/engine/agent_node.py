"""One node as an engine sees it from the server's side: its agent's connection, its grants, and its workers.

Both engines are made of these. What is free on a node, and how its agent is kept alive, is theirs to say.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stoker.engine.base import (
    AgentLink,
    Grant,
    Listener,
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
from stoker.errors import ConnectionFailed, from_wire
from stoker.protocol import messages as m
from stoker.types import ErrorInfo

EPSILON_CPUS = 1e-6  # sums of fractions of cores are floating point


@dataclass(frozen=True)
class Held:
    """What a node's grants hold, without the cores that are lent."""

    cpus: float
    memory: int


class AgentNode:
    """See the module. ``tell`` gets events; the owner tells of joining by `joined`, once it knows what is free."""

    def __init__(self, node: str, *, tell: Listener) -> None:
        self.node = node
        self.link: AgentLink | None = None
        self.state: m.NodeState | None = None
        self.term = 0
        self.grants: dict[str, Grant] = {}
        self.up: set[str] = set()
        self.starting: set[str] = set()
        self.lent: dict[str, float] = {}
        self.grant_of: dict[str, Grant] = {}  # by worker, from `start` or adoption until its end
        self._tell = tell
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}

    # The connection

    def attach(self, link: AgentLink, *, term: int) -> None:
        """Take the connection of the node's agent in place of the one before."""
        if self.link is not None:
            self.detach(self.link)
        self.link = link
        self.term = term

    def detach(self, link: AgentLink) -> bool:
        """Give a connection up; false if another has replaced it."""
        if self.link is not link:
            return False
        self.link = None
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(ConnectionFailed(f"The agent of node {self.node} went away before it answered."))
        self._answers.clear()
        if self.state is not None:
            self.state = None
            self._tell(NodeLost(self.node, "its agent went away"))
        return True

    def send(self, message: Any) -> None:
        """Send an order; without a connection it is dropped."""
        if self.link is not None:
            self.link.send(message)
            self.link.flush()

    async def exchange(self, message: Any) -> Any:
        """Send a message with an ``id`` and return what the agent replies.

        Raises:
            ConnectionFailed: there is no agent, or it went away.
            StokerError: what it replied.
        """
        if self.link is None:
            raise ConnectionFailed("The node's agent is away; it is started again by itself: try again.")
        answer = self._answers[message.id] = asyncio.get_running_loop().create_future()
        try:
            self.send(message)
            return await answer
        finally:
            self._answers.pop(message.id, None)

    async def ask(self, verb: str, params: dict[str, Any] | None = None) -> Any:
        """Ask the agent something; see `exchange`."""
        return await self.exchange(m.Request(self.number(), verb, params or {}))

    def number(self) -> int:
        """Return a number that no other request to this node has."""
        return next(self._numbers)

    def deliver(self, message: Any) -> bool:
        """Take what came on the connection, but for `NodeState`; false if it is nothing that an agent sends."""
        match message:
            case m.WorkerStarted():
                self._on_started(message)
            case m.StartFailed():
                self.on_start_failed(message)
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

    # Grants and workers

    def held(self) -> Held:
        """Return what the grants hold. Of those that are lent only the memory is held."""
        cpus = sum(grant.cpus for grant in self.grants.values())
        lent = sum(cpus for worker, cpus in self.lent.items() if self.grant_of[worker].id in self.grants)
        return Held(cpus - lent, sum(grant.memory for grant in self.grants.values()))

    def start(self, grant: Grant, spec: WorkerSpec) -> m.StartWorker:
        """Note a worker that is to start on a grant, and return the order for it."""
        self.grant_of[spec.worker] = grant
        self.starting.add(spec.worker)
        return m.StartWorker(
            self.term,
            spec.worker,
            spec.function,
            spec.token,
            grant.cpus,
            grant.memory,
            grant=grant.id,
            devices=grant.devices,
        )

    def stop(self, worker: str, *, grace: float, reason: str) -> None:
        if worker in self.grant_of:
            self.send(m.StopWorker(self.term, worker, grace, reason))

    def lend(self, grant: Grant, *, lent: bool) -> None:
        worker = next((worker for worker, held in self.grant_of.items() if held.id == grant.id), "")
        if not worker or lent == (worker in self.lent):
            return
        if lent:
            self.lent[worker] = grant.cpus
        else:
            del self.lent[worker]
        # Before the start that borrows them, on the same connection, so that the agent's ledger has room for it.
        self._say_lend(worker, grant, lent=lent)

    def _say_lend(self, worker: str, grant: Grant, *, lent: bool) -> None:
        self.send(m.Request(self.number(), "lend", {"worker": worker, "cpus": 0.0 if lent else grant.cpus}))

    def joined(self, state: m.NodeState, info: Callable[[], NodeInfo], *, new_grant: str) -> None:
        """Take the first state that an agent tells on a connection, and tell that the node has joined.

        ``info`` is asked for once the workers' grants are known; ``new_grant`` begins the names of those without one.
        """
        self.state = state
        workers = [self._adopted(state, index, new_grant) for index in range(len(state.workers))]
        gone = self.up - {one.worker for one in workers}
        self.up |= {one.worker for one in workers}
        self.starting -= self.up
        for worker in self.starting - set(state.starting):
            # The order, or the answer to it, was lost with the connection: it will not come, and its grant is free.
            self.on_start_failed(refused(worker, "The order to start it was lost on its way to the node's agent."))
        self._tell(NodeJoined(info(), workers, list(state.starting)))
        for worker in gone:
            # What an agent had to report it has said before this, unless it was killed or the connection broke.
            self.end(worker, "unknown", "it was gone when its agent connected again")
        for worker in self.up:  # what is lent: the agent may be another one, or have missed the word
            self._say_lend(worker, self.grant_of[worker], lent=worker in self.lent)

    def _adopted(self, state: m.NodeState, index: int, new_grant: str) -> RunningWorker:
        worker = state.workers[index]
        grant = self.grant_of.get(worker)
        if grant is None:
            name = state.grants[index] if index < len(state.grants) else ""
            name = name or f"{new_grant}{self.number()}"
            grant = Grant(name, self.node, state.cpus_held[index], state.memory_held[index])
            self.grants[grant.id] = self.grant_of[worker] = grant
        began = state.began[index] if index < len(state.began) else 0.0
        return RunningWorker(worker, state.functions[index], state.pids[index], grant, began)

    def end(self, worker: str, cause: str, detail: str) -> None:
        """Tell of the end of a worker that is up."""
        if worker in self.up:
            self._ended(WorkerDown(worker, cause, detail))

    def lose_starts(self, why: str) -> None:
        for worker in list(self.starting):
            self.refuse_later(worker, why)

    def refuse_later(self, worker: str, why: str) -> None:
        """Refuse a start that may be tried again, once the present event is dealt with."""
        asyncio.get_running_loop().call_soon(self.on_start_failed, refused(worker, why))

    def on_start_failed(self, message: m.StartFailed) -> None:
        if message.worker in self.starting:
            self.starting.discard(message.worker)
            self._forget(message.worker)
            self._tell(StartRefused(message.worker, message.error, message.retry))

    def _on_started(self, message: m.WorkerStarted) -> None:
        if message.worker in self.starting:
            self.starting.discard(message.worker)
            self.up.add(message.worker)
            self._tell(WorkerUp(message.worker, message.pid, message.how, message.seconds))

    def _on_exited(self, message: m.WorkerExited) -> None:
        if message.worker in self.up:
            self._ended(WorkerDown(**vars(message)))

    def _ended(self, event: WorkerDown) -> None:
        self.up.discard(event.worker)
        self._forget(event.worker)
        self._tell(event)

    def _forget(self, worker: str) -> None:
        self.grant_of.pop(worker, None)
        self.lent.pop(worker, None)

    def _on_reply(self, reply: m.Reply) -> None:
        answer = self._answers.pop(reply.id, None)
        if answer is None or answer.done():
            return
        if reply.error is not None:
            answer.set_exception(from_wire(reply.error.type_name, reply.error.message, reply.error.fields))
        else:
            answer.set_result(reply.result)


def refused(worker: str, why: str) -> m.StartFailed:
    """Return the word for a start that came to nothing for no fault of the function."""
    return m.StartFailed(worker, ErrorInfo("StartupError", why), retry=True)
