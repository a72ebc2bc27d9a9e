"""What happens to the core: each event is one fact, carrying many calls where there are many.

Times are seconds of one monotonic clock, given with `CallPlane.handle`; the core reads no clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from stoker.core.calls import Payload, Result
from stoker.core.placement import Capacity
from stoker.types import ErrorInfo, FunctionSpec, GangSeat, Growth


class FunctionDeclared(NamedTuple):
    """A function may be called from now on, or what it is besides has changed. ``key`` is its pool's.

    ``role``: ``canary`` or ``shadow`` of a version on trial. ``is_divided``: the server chooses a version for each of
    its calls. ``is_alone``: no worker of another version of its app may run beside its own.
    """

    spec: FunctionSpec
    key: str
    role: str = ""
    is_divided: bool = False
    is_alone: bool = False


class FunctionRetired(NamedTuple):
    """No new calls will come (an app ended, or a newer version is current): the pool drains and goes."""

    key: str


class PoolReplaced(NamedTuple):
    """A version has failed its trial: what waits in this pool goes to that ``by`` another key; to none where empty."""

    key: str
    by: str


class FunctionReplaced(NamedTuple):
    """A newer version is current: the pool drains and goes once a worker of the pool ``by`` that key is ready.

    ``same_as`` is the version that the newer one is the same as, all of it; 0 for none. ``is_older``: an earlier term
    of the server had the version before, so it may have been ready without this one having seen that.
    """

    key: str
    by: str
    same_as: int = 0
    is_older: bool = False


class Submitted(NamedTuple):
    """A client wants calls made. ``deadline`` is an absolute time. ``kind``: call · map · stream · exchange, which
    yields what no other attempt could go on with.

    ``again``: an earlier term has taken them in, so they are not refused for want of room. ``channel``: they were sent
    down it before, without an answer in time. ``method``: of a class. ``trace``: the W3C ``traceparent`` of who asks;
    ``traces``: that of each call, where they are of several.
    """

    client: str
    function: str
    ids: Sequence[str]
    payloads: Sequence[Payload]
    kind: str = "call"
    detached: bool = False
    deadline: float | None = None
    priority: int = 0
    parent: str = ""
    again: bool = False
    channel: str = ""
    method: str = ""
    trace: str = ""
    traces: Sequence[str] = ()


class Restored(NamedTuple):
    """A detached call of an earlier term."""

    id: str
    seq: int
    function: str
    client: str
    payload: Payload
    created: float
    priority: int
    deadline: float | None
    parent: str
    failures: int
    losses: int
    not_before: float
    history: Sequence[tuple[float, str, str]] = ()  # as in `Call.history`
    method: str = ""
    trace: str = ""


class Persisted(NamedTuple):
    """The writes of these tokens are durable."""

    tokens: Sequence[int]


class PersistFailed(NamedTuple):
    """The writes of these tokens were refused by the store; nothing of them is there.

    ``of_rows``: something is wrong with what was written; else the store can write nothing now (its disk is full, say).
    """

    tokens: Sequence[int]
    reason: str
    of_rows: bool = False


class CancelAsked(NamedTuple):
    ids: Sequence[str]
    reason: str = "user"
    force: bool = False


class ClientCame(NamedTuple):
    client: str


class ClientLeft(NamedTuple):
    """``final``: it said goodbye, or its process is known to be gone; otherwise it may come back within the grace."""

    client: str
    final: bool = False


class StreamRead(NamedTuple):
    """A stream's reader has room up to item ``upto``."""

    id: str
    upto: int


class ItemsCame(NamedTuple):
    """A worker's generator yielded ``payloads``, numbered from ``first``."""

    worker: str
    id: str
    attempt: int
    first: int
    payloads: Sequence[Payload]


class AttemptsEnded(NamedTuple):
    """A worker reports attempts, in the order in which they ended."""

    worker: str
    ids: Sequence[str]
    attempts: Sequence[int]
    results: Sequence[Result]


class LeasesRevoked(NamedTuple):
    """A worker gives back attempts that it had not started."""

    worker: str
    ids: Sequence[str]
    attempts: Sequence[int]


class ChannelAsked(NamedTuple):
    """A client makes single calls of a function, one after the other."""

    client: str
    function: str


class ChannelOpened(NamedTuple):
    """A worker can be connected to by the client that it was lent to."""

    worker: str
    channel: str
    address: str
    key: str


class ChannelClosed(NamedTuple):
    """A worker takes no more calls by its channel; these attempts, which came by it, still run."""

    worker: str
    channel: str
    ids: Sequence[str]
    attempts: Sequence[int]
    answered: str = ""


class ChannelUsed(NamedTuple):
    """Calls that a worker has answered by its channel."""

    worker: str
    channel: str
    outcomes: Sequence[int]
    seconds: Sequence[float]


class RankGathered(NamedTuple):
    """A worker has found a free port for its rank in a call's attempt; ``installed`` is what it has, of any package."""

    worker: str
    id: str
    attempt: int
    port: int
    installed: Sequence[str] = ()


class NodeReported(NamedTuple):
    """A node is there, with its capacity and the workers that run on it (worker id, pool key, capacity held).

    ``anew``: its agent has just connected, so that orders before that may have been lost. ``starting``: workers whose
    start was ordered and is on its way there.
    """

    node: str
    total: Capacity
    free_of_others: Capacity
    workers: Sequence[tuple[str, str, Capacity]] = ()
    anew: bool = True
    starting: Sequence[str] = ()
    address: str = "127.0.0.1"


class GrowthChanged(NamedTuple):
    """How more nodes may come is another now."""

    growth: Growth


class NodeDraining(NamedTuple):
    """A node will be taken away: its workers finish what they run, and none is placed there."""

    node: str
    reason: str


class NodeLost(NamedTuple):
    """A node's agent is past its lease, or gone: its workers are lost."""

    node: str
    reason: str


class WorkerConnected(NamedTuple):
    """A worker's lease socket is open. ``held`` are the attempts that it has and has not reported.

    ``seat`` is the place in a gang that it had last. ``is_remote``: only the server reaches it. ``ages``: for how long
    each of these has run, as far as it has.
    """

    worker: str
    held: Sequence[tuple[str, int]] = ()
    seat: GangSeat | None = None
    is_remote: bool = False
    ages: Mapping[str, float] = MappingProxyType({})


class WorkerDisconnected(NamedTuple):
    """A worker's lease socket closed: it has ended, which its agent will say, or it will connect again."""

    worker: str


class WorkerProgress(NamedTuple):
    """What a starting worker is doing: ``building`` · ``starting`` · ``started``."""

    worker: str
    phase: str
    detail: str = ""


class WorkerRefused(NamedTuple):
    """A worker could not be started. With ``retry``, only not now: capacity that others hold, a store away."""

    worker: str
    error: ErrorInfo
    retry: bool = False


class WorkerGone(NamedTuple):
    """A worker's process has ended. ``cause``: exit · signal · memory · stopped · unknown."""

    worker: str
    cause: str
    detail: str
    said: Sequence[tuple[str, str]] = ()  # its last lines, each with its call


class WorkerChecked(NamedTuple):
    """A worker has checked itself; ``error`` says what is wrong, and is empty if nothing is."""

    worker: str
    error: str = ""


class WorkersMeasured(NamedTuple):
    """What workers hold, in bytes resident, with all that they started; parallel columns."""

    workers: Sequence[str]
    memory: Sequence[int]


class RecoveryBegan(NamedTuple):
    """An earlier term's workers may be out there: lease nothing until these nodes have reported, or ``until``."""

    nodes: Sequence[str]
    until: float


class StopBegan(NamedTuple):
    """The server was told to stop: its workers are ended from now on."""


class StopEnded(NamedTuple):
    """These workers have ended because the server stops."""

    workers: Sequence[str]


class Tick(NamedTuple):
    """Time has passed; nothing else."""


Event = (
    FunctionDeclared
    | FunctionRetired
    | PoolReplaced
    | FunctionReplaced
    | Submitted
    | Restored
    | Persisted
    | PersistFailed
    | CancelAsked
    | ClientCame
    | ClientLeft
    | StreamRead
    | ItemsCame
    | AttemptsEnded
    | LeasesRevoked
    | ChannelAsked
    | ChannelOpened
    | ChannelClosed
    | ChannelUsed
    | RankGathered
    | NodeReported
    | GrowthChanged
    | NodeDraining
    | NodeLost
    | WorkerConnected
    | WorkerDisconnected
    | WorkerProgress
    | WorkerRefused
    | WorkerGone
    | WorkerChecked
    | WorkersMeasured
    | RecoveryBegan
    | StopBegan
    | StopEnded
    | Tick
)
