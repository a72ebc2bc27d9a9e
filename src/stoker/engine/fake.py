"""An engine without processes, for tests of what stands on engines: workers are names, and start when they are told to.

By default a started worker comes up at the next turn of the loop. Tests end them with `fail`, or hold starts back with
``automatic=False`` and let them go with `bring_up` and `refuse`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

from stoker.engine.base import (
    AgentLink,
    Bundle,
    Event,
    Grant,
    Listener,
    NodeInfo,
    NodeJoined,
    NodeLost,
    Outage,
    StartRefused,
    WorkerDown,
    WorkerSpec,
    WorkerUp,
)
from stoker.errors import ConnectionFailed, InvalidRequest
from stoker.protocol.messages import Hello
from stoker.transport.addresses import Address
from stoker.types import ErrorInfo, Growth, ImageSpec

EPSILON_CPUS = 1e-6


class FakeEngine:
    """See the module, and `stoker.engine.base.Engine`."""

    name = "fake"
    growth = Growth.NEVER
    trouble = ""
    place = ""

    def __init__(self, *, cpus: float = 4.0, memory: int = 4 << 30, automatic: bool = True) -> None:
        self.specs: dict[str, WorkerSpec] = {}
        self.automatic = automatic
        self._size = NodeInfo("fake", cpus, memory, cpus, memory)
        self._there = False
        self._listener: Listener = lambda event: None
        self._grants: dict[str, Grant] = {}
        self._lent: set[str] = set()
        self._starting: set[str] = set()
        self._up: set[str] = set()
        self._numbers = itertools.count(1)

    def set_listener(self, listener: Listener) -> None:
        self._listener = listener

    def open_to_agents(self, address: Address, fingerprint: str, token: Callable[[str], str]) -> None:
        return  # there are none

    async def start_up(self) -> None:
        self._there = True
        self._tell_soon(NodeJoined(self._node(), starting=list(self._starting)))

    async def abandon(self) -> None:
        self._listener = lambda event: None

    async def shut_down(self, *, grace: float = 5.0) -> None:
        for worker in [*self._starting, *self._up]:
            self.stop(worker, grace=grace, reason="shutdown")
        await asyncio.sleep(0)
        self._there = False
        self._listener(NodeLost("fake", "shutdown"))

    def nodes(self) -> list[NodeInfo]:
        return [self._node()] if self._there else []

    def reserve(self, bundles: list[Bundle]) -> list[Grant] | None:
        node = self._node()
        cpus, memory = sum(b.cpus for b in bundles), sum(b.memory for b in bundles)
        fits = cpus <= node.cpus_free + EPSILON_CPUS and memory <= node.memory_free
        elsewhere = any(b.labels or b.gpus or b.resources or b.node not in {"", node.node} for b in bundles)
        if not self._there or not fits or elsewhere:
            return None
        grants = [Grant(f"g{next(self._numbers)}", "fake", b.cpus, b.memory) for b in bundles]
        self._grants.update((grant.id, grant) for grant in grants)
        return grants

    def release(self, grant: Grant) -> None:
        self._grants.pop(grant.id, None)
        self._lent.discard(grant.id)

    def start(self, grant: Grant, spec: WorkerSpec) -> None:
        self.specs[spec.worker] = spec
        self._starting.add(spec.worker)
        if self.automatic:
            asyncio.get_running_loop().call_soon(self.bring_up, spec.worker)

    def stop(self, worker: str, *, grace: float, reason: str = "") -> None:
        loop = asyncio.get_running_loop()
        if worker in self._starting:
            loop.call_soon(self.refuse, worker, reason)
        elif worker in self._up:
            loop.call_soon(self.fail, worker, "stopped", reason)

    def lend(self, grant: Grant, *, lent: bool) -> None:
        if lent:
            self._lent.add(grant.id)
        else:
            self._lent.discard(grant.id)

    def demand(self, bundles: list[Bundle]) -> None:
        return  # nothing can be added to a fake node

    def outages(self) -> list[Outage]:
        return []

    def expected_nodes(self) -> list[str]:
        return []

    def attach(self, link: AgentLink, hello: Hello, *, term: int) -> None:
        raise InvalidRequest("A fake engine has no agents.")

    def deliver(self, link: AgentLink, message: Any) -> bool:
        return False

    def detach(self, link: AgentLink) -> None:
        return

    async def flush_logs(self) -> None:
        return

    async def build(self, image: ImageSpec, *, worker: str = "") -> dict[str, Any]:
        return {"key": image.digest}

    async def ask(self, verb: str, params: dict[str, Any] | None = None) -> Any:
        if not self._there:
            raise ConnectionFailed("The fake node is not there.")
        return []

    # What tests decide

    def bring_up(self, worker: str) -> None:
        """Let a worker that is starting come up."""
        if worker in self._starting:
            self._starting.discard(worker)
            self._up.add(worker)
            self._listener(WorkerUp(worker, pid=0, how="fork"))

    def refuse(self, worker: str, why: str = "", retry: bool = False) -> None:
        """Let a start fail."""
        if worker in self._starting:
            self._starting.discard(worker)
            self._listener(StartRefused(worker, ErrorInfo("StartupError", why), retry))

    def fail(self, worker: str, cause: str = "signal", detail: str = "killed by signal 9 (killed)") -> None:
        """Let a worker end."""
        if worker in self._up:
            self._up.discard(worker)
            self._listener(WorkerDown(worker, cause, detail))

    def _node(self) -> NodeInfo:
        cpus = sum(grant.cpus for grant in self._grants.values() if grant.id not in self._lent)
        memory = sum(grant.memory for grant in self._grants.values())
        size = self._size
        return NodeInfo(size.node, size.cpus, size.memory, size.cpus - cpus, size.memory - memory)

    def _tell_soon(self, event: Event) -> None:
        asyncio.get_running_loop().call_soon(self._listener, event)
