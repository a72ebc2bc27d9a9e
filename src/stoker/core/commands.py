"""What the core wants done. The shell executes commands in order; none is lost between two of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from stoker.core.calls import Call, Delivery, Payload, Settlement
from stoker.core.placement import Capacity
from stoker.types import ErrorInfo, FunctionSpec, GangSeat


class LeaseCalls(NamedTuple):
    """Send these calls' current attempts to a worker."""

    worker: str
    calls: Sequence[Call]


class GatherRank(NamedTuple):
    """Have a worker look for the port of its rank in a call's next attempt; `RankGathered` follows."""

    worker: str
    id: str
    attempt: int


class LeaseRank(NamedTuple):
    """Send a gang's attempt to one of its workers."""

    worker: str
    call: Call
    seat: GangSeat


class RevokeLeases(NamedTuple):
    worker: str
    ids: Sequence[str]
    attempts: Sequence[int]


class CancelRunning(NamedTuple):
    worker: str
    ids: Sequence[str]
    attempts: Sequence[int]
    grace: float
    reason: str


class GrantStream(NamedTuple):
    worker: str
    id: str
    upto: int


class DeliverItems(NamedTuple):
    client: str
    id: str
    attempt: int
    first: int
    payloads: Sequence[Payload]


class Deliver(NamedTuple):
    """Settled calls for the client that made them. Detached ones go to all that watch them, after their commit."""

    client: str
    deliveries: Sequence[Delivery]
    detached: bool = False


class TellAccepted(NamedTuple):
    client: str
    ids: Sequence[str]


class TellRefused(NamedTuple):
    client: str
    ids: Sequence[str]
    error: ErrorInfo
    key: str = ""  # of the function


class PersistAccepted(NamedTuple):
    """Write these calls; `Persisted` or `PersistFailed` with the token follows."""

    token: int
    calls: Sequence[Call]


class PersistSettled(NamedTuple):
    """Write down how these calls ended. With ``beside`` they were part of that token's write, and are told apart."""

    token: int
    settlements: Sequence[Settlement]
    beside: int = 0


class PersistProgress(NamedTuple):
    """Write down attempts used. Without a token nobody waits for it."""

    calls: Sequence[Call]
    token: int = 0


class Discard(NamedTuple):
    """These payloads are nobody's any more: delete what they hold outside memory."""

    payloads: Sequence[Payload]


class StartWorker(NamedTuple):
    worker: str
    key: str
    spec: FunctionSpec
    node: str
    capacity: Capacity


class StartGang(NamedTuple):
    """Start all of these, or none."""

    workers: Sequence[StartWorker]


class DrainWorker(NamedTuple):
    worker: str
    reason: str


class StopWorker(NamedTuple):
    worker: str
    grace: float
    reason: str


class OpenChannel(NamedTuple):
    """Have a worker take calls from a client directly; `ChannelOpened` or `ChannelClosed` follows."""

    worker: str
    channel: str
    client: str


class CloseChannel(NamedTuple):
    worker: str
    channel: str


class TellChannel(NamedTuple):
    """Tell a client where it can call a function directly; without a ``channel``, that it cannot now."""

    client: str
    function: str
    channel: str = ""
    address: str = ""
    key: str = ""


class LendCpus(NamedTuple):
    """A worker's cores may be granted to others (``lent``), or are its own again."""

    worker: str
    lent: bool


class SetWindow(NamedTuple):
    """How many calls of a function a client's maps may have outstanding or unread."""

    client: str
    function: str
    size: int


class TellPhase(NamedTuple):
    """News of a pool for the clients that wait on it: ``building`` · ``starting`` · ``waiting`` · ``running``."""

    key: str
    phase: str
    detail: str


class TellTookOver(NamedTuple):
    """A pool waits no more to take the place of the version before."""

    key: str


class TellTrialFailed(NamedTuple):
    """A version that is tried beside the current one cannot run: the server stops it."""

    key: str
    why: str


Command = (
    LeaseCalls
    | GatherRank
    | LeaseRank
    | RevokeLeases
    | CancelRunning
    | GrantStream
    | DeliverItems
    | Deliver
    | TellAccepted
    | TellRefused
    | PersistAccepted
    | PersistSettled
    | PersistProgress
    | Discard
    | StartWorker
    | StartGang
    | DrainWorker
    | StopWorker
    | OpenChannel
    | CloseChannel
    | TellChannel
    | LendCpus
    | SetWindow
    | TellPhase
    | TellTookOver
    | TellTrialFailed
)
