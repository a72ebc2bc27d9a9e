"""The `Engine` seam: where grants and workers come from. It knows nothing of calls.

Everything here is called on the server's event loop and returns at once, but the coroutines; what comes of an order
arrives later as an event, in the order in which it happened on its node. Events are delivered on the same loop, never
from inside the call that caused them.

What holds for every implementation (``tests/engine/contract.py`` runs on each):

- `reserve` gives all bundles a grant or none, and never promises more of a node than it has.
- After `start` there is exactly one `WorkerUp` or `StartRefused`; after `WorkerUp` exactly one `WorkerDown`, which
  comes when everything that the worker started is gone. A `stop` before `WorkerUp` ends in `StartRefused`.
- A grant outlives its worker: only `release` gives it back, so the server may start another worker on it.
- After `NodeLost` none of the node's workers has a further event until the node joins again. `NodeJoined` names those
  that run or start there still; the others, if they have not had it, have their `WorkerDown` or `StartRefused` then.
- After `NodeGone` nothing is granted there, and what ran there counts as lost. A node that was only cut off may join
  again, with the workers that it still runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from stoker.protocol.messages import Hello, LogLines
from stoker.transport.addresses import Address
from stoker.types import ErrorInfo, FunctionSpec, Growth, ImageSpec

SHORT_CHARACTERS = 12  # of an id: enough to tell nodes apart


@dataclass(frozen=True)
class Bundle:
    """What one worker needs. ``labels`` must all be among the node's. ``memory`` 0 asks for no bytes of its own.

    ``node`` is the one it has to be on, if that was decided. ``gpus`` are whole ones, or a fraction of one.
    """

    cpus: float = 1.0
    memory: int = 0
    labels: dict[str, str] = field(default_factory=dict)
    node: str = ""
    gpus: float = 0.0
    resources: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Grant:
    """A reserved slice of a node, held until `Engine.release`. ``devices`` are its GPUs, once they are known."""

    id: str
    node: str
    cpus: float
    memory: int = 0
    devices: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class NodeInfo:
    """A machine: what it has, what other programs leave of that, and what this server's grants leave of it in turn."""

    node: str
    cpus: float
    memory: int
    cpus_free: float
    memory_free: int
    labels: dict[str, str] = field(default_factory=dict)
    address: str = "127.0.0.1"  # at which workers of other nodes reach those here


def called(node: str, hosts: Mapping[str, str]) -> str:
    """Return what people call a node: its machine's name, of ``hosts`` by node, if no other has it; else its id."""
    host = hosts.get(node, "")
    return host if host and list(hosts.values()).count(host) == 1 else node[:SHORT_CHARACTERS]


@dataclass(frozen=True)
class Outage:
    """A machine that runs nothing now, and why. ``node`` and ``address`` are empty where it is the whole cluster."""

    node: str
    address: str
    reason: str


@dataclass(frozen=True)
class WorkerSpec:
    """A worker to be started. ``token`` is the one with which it will greet the server."""

    worker: str
    function: FunctionSpec
    token: str


@dataclass(frozen=True)
class RunningWorker:
    """A worker that a node already runs, from before this server; ``function`` is its `FunctionSpec.key`."""

    worker: str
    function: str
    pid: int
    grant: Grant
    began: float = 0.0  # Unix time of its start; 0 where it is not known


@dataclass(frozen=True)
class NodeJoined:
    """A node is there, for the first time or again, runs these workers, and still starts those that it was told to."""

    node: NodeInfo
    workers: list[RunningWorker] = field(default_factory=list)
    starting: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class NodeChanged:
    """A node's capacity is another now, because other programs took or gave back some."""

    node: NodeInfo


@dataclass(frozen=True)
class NodeLost:
    """A node went away; its workers may still run."""

    node: str
    reason: str


@dataclass(frozen=True)
class NodeGone:
    """A node is past its lease, or dead: its workers are lost, and nothing more is placed there."""

    node: str
    reason: str


@dataclass(frozen=True)
class NodeDraining:
    """A node will be taken away in so many seconds: its workers are to be let go, and none is placed there."""

    node: str
    seconds: float
    reason: str


@dataclass(frozen=True)
class GrowthChanged:
    """How more nodes may come is another now; it is never `NEVER` that changes, nor what it changes to."""

    growth: Growth


@dataclass(frozen=True)
class WorkerUp:
    """A worker process runs. ``how``: ``fork`` · ``fresh``. ``seconds``: how long each phase of its start took."""

    worker: str
    pid: int
    how: str
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class WorkerDown:
    """A worker and all that it started are gone. The fields are those of `WorkerExited`."""

    worker: str
    cause: str
    detail: str
    cpu_seconds: float = 0.0
    peak_memory: int = 0
    calls: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class StartRefused:
    """A worker did not come up. With ``retry`` it may later: the capacity is held by another program just now."""

    worker: str
    error: ErrorInfo
    retry: bool = False


@dataclass(frozen=True)
class PhaseChanged:
    """What a starting worker waits for: ``phase`` is ``building`` · ``starting``; ``detail`` is for people."""

    worker: str
    phase: str
    detail: str = ""


@dataclass(frozen=True)
class UsageReported:
    """What workers use now: seconds of CPU so far, bytes resident; parallel columns."""

    workers: list[str]
    cpu_seconds: list[float]
    memory: list[int]


Event: TypeAlias = (
    NodeJoined
    | NodeChanged
    | NodeLost
    | NodeGone
    | NodeDraining
    | GrowthChanged
    | WorkerUp
    | WorkerDown
    | StartRefused
    | PhaseChanged
    | LogLines
    | UsageReported
)
"""`LogLines` is the message itself: output is passed on, not copied."""

Listener: TypeAlias = Callable[[Event], None]


class AgentLink(Protocol):
    """The server's end of an agent's connection."""

    def send(self, message: Any) -> None:
        """Gather a message for the next `flush`; where the connection is gone it is dropped."""

    def flush(self) -> None:
        """Write what was sent."""

    def close(self) -> None:
        """Close the connection."""


class Engine(Protocol):
    """See the module."""

    name: str
    growth: Growth
    """How more nodes may come, as was told last. Where it is not `NEVER`, nodes are elsewhere; `demand` is called."""

    @property
    def place(self) -> str:
        """Where its nodes are, for people: a cluster's address; empty where that is this machine."""

    @property
    def trouble(self) -> str:
        """Why nothing can be reserved now, wherever it is; empty where that depends on what there is room for."""

    def set_listener(self, listener: Listener) -> None:
        """Deliver events to this callback from now on; set once, before `start_up`."""

    def open_to_agents(self, address: Address, fingerprint: str, token: Callable[[str], str]) -> None:
        """Say where agents on other machines reach this server, and make tokens for nodes; before `start_up`."""

    async def start_up(self) -> None:
        """Bring the nodes up; each joins with an event of its own."""

    async def shut_down(self, *, grace: float = 5.0) -> None:
        """End every worker and everything else that this engine started; returns when it is gone."""

    async def abandon(self) -> None:
        """End what still obeys this server, and leave the rest to another one, which has taken over."""

    def nodes(self) -> list[NodeInfo]:
        """Return the nodes that are there now."""

    def reserve(self, bundles: list[Bundle]) -> list[Grant] | None:
        """Return a grant for each bundle, in order, or None when they do not all fit now."""

    def release(self, grant: Grant) -> None:
        """Give a grant back; one that was given back already is no error."""

    def start(self, grant: Grant, spec: WorkerSpec) -> None:
        """Start a worker on a grant."""

    def stop(self, worker: str, *, grace: float, reason: str = "") -> None:
        """End a worker, or its start: terminate, and kill it and all it started after ``grace`` seconds.

        A worker that is not there is no error.
        """

    def lend(self, grant: Grant, *, lent: bool) -> None:
        """Let the cores of a grant be granted to others while its worker only waits for them, or give them back to it.

        Taking them back may over-commit the node's cores until those who borrowed them end. Memory is never lent.
        """

    def demand(self, bundles: list[Bundle]) -> None:
        """Say what waits for room that no node has, in place of what was said before."""

    def expected_nodes(self) -> list[str]:
        """Return the nodes that may run workers from before this server, and have not joined yet."""

    def outages(self) -> list[Outage]:
        """Return the machines that are known and run nothing now: they are on their way, silent, or cannot."""

    def attach(self, link: AgentLink, hello: Hello, *, term: int) -> None:
        """Take the connection of a node's agent that has greeted the server, whose term it is."""

    def deliver(self, link: AgentLink, message: Any) -> bool:
        """Take what came on an attached connection; False if it is nothing that an agent sends."""

    def detach(self, link: AgentLink) -> None:
        """An attached connection is gone."""

    async def flush_logs(self) -> None:
        """Return when all output written so far has been delivered as events."""

    async def build(self, image: ImageSpec, *, worker: str = "") -> dict[str, Any]:
        """Build an environment where workers will need it; progress comes as `PhaseChanged` of ``worker``.

        Raises:
            ImageBuildError: it cannot be built.
        """

    async def ask(self, verb: str, params: dict[str, Any] | None = None) -> Any:
        """Ask the nodes something beside capacity: ``images`` · ``image_lock`` · ``image_prune`` · ``logs`` ·
        ``inventory``. The answers of several nodes are merged by the verb's own rule.

        Raises:
            StokerError: what the node answered; `ConnectionFailed` when none is there.
        """
