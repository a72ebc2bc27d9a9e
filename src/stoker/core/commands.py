"""What the core wants done. The shell executes commands in order; none is lost between two of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stoker.core.calls import Call, Delivery, Payload, Settlement
from stoker.core.placement import Capacity
from stoker.types import ErrorInfo, FunctionSpec


@dataclass(frozen=True, slots=True)
class LeaseCalls:
    """Send these calls' current attempts to a worker."""

    worker: str
    calls: Sequence[Call]


@dataclass(frozen=True, slots=True)
class RevokeLeases:
    worker: str
    ids: Sequence[str]
    attempts: Sequence[int]


@dataclass(frozen=True, slots=True)
class CancelRunning:
    worker: str
    ids: Sequence[str]
    attempts: Sequence[int]
    grace: float
    reason: str


@dataclass(frozen=True, slots=True)
class GrantStream:
    worker: str
    id: str
    upto: int


@dataclass(frozen=True, slots=True)
class DeliverItems:
    client: str
    id: str
    attempt: int
    first: int
    payloads: Sequence[Payload]


@dataclass(frozen=True, slots=True)
class Deliver:
    """Settled calls for the client that made them. Detached ones go to all that watch them, after their commit."""

    client: str
    deliveries: Sequence[Delivery]
    detached: bool = False


@dataclass(frozen=True, slots=True)
class TellAccepted:
    client: str
    ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class TellRefused:
    client: str
    ids: Sequence[str]
    error: ErrorInfo


@dataclass(frozen=True, slots=True)
class PersistAccepted:
    """Write these calls; `Persisted` or `PersistFailed` with the token follows."""

    token: int
    calls: Sequence[Call]


@dataclass(frozen=True, slots=True)
class PersistSettled:
    token: int
    settlements: Sequence[Settlement]


@dataclass(frozen=True, slots=True)
class PersistProgress:
    """Write down attempts used; nobody waits for it."""

    calls: Sequence[Call]


@dataclass(frozen=True, slots=True)
class Discard:
    """These payloads are nobody's any more: delete what they hold outside memory."""

    payloads: Sequence[Payload]


@dataclass(frozen=True, slots=True)
class StartWorker:
    worker: str
    key: str
    spec: FunctionSpec
    node: str
    capacity: Capacity


@dataclass(frozen=True, slots=True)
class DrainWorker:
    worker: str
    reason: str


@dataclass(frozen=True, slots=True)
class StopWorker:
    worker: str
    grace: float
    reason: str


@dataclass(frozen=True, slots=True)
class LendCpus:
    """A worker's cores may be granted to others (``lent``), or are its own again."""

    worker: str
    lent: bool


@dataclass(frozen=True, slots=True)
class SetWindow:
    """How many calls of a function a client's maps may have outstanding or unread."""

    client: str
    function: str
    size: int


@dataclass(frozen=True, slots=True)
class TellPhase:
    """News of a pool for the clients that wait on it: ``building`` · ``starting`` · ``waiting`` · ``running``."""

    key: str
    phase: str
    detail: str


Command = (
    LeaseCalls
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
    | DrainWorker
    | StopWorker
    | LendCpus
    | SetWindow
    | TellPhase
)
