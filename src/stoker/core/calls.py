"""A call as the core sees it: opaque payloads, a state, and what happened to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from stoker.types import CallState, ErrorInfo, Outcome

if TYPE_CHECKING:
    from stoker.core.pools import Pool, Worker


class Segment(NamedTuple):
    """A payload outside the frames: a file in the server's segment or payload directory."""

    name: str
    size: int


Payload = bytes | memoryview | Segment

STREAMS = frozenset({"stream", "exchange"})  # the kinds of calls that yield items


class IllegalTransition(RuntimeError):
    """A bug in the core: a call was to do what its state does not allow. Carries the call's history."""


class Call:
    """One invocation. Slots, not a dataclass: a million of these are queued at once.

    A queued call of a settled state stays in its queue until it comes up; ``queued`` tells whether it counts.
    """

    __slots__ = (
        "attempt",
        "children",
        "client",
        "created",
        "deadline",
        "detached",
        "failures",
        "history",
        "id",
        "items",
        "kind",
        "leased_at",
        "losses",
        "method",
        "not_before",
        "parent",
        "payload",
        "pool",
        "priority",
        "queued",
        "seq",
        "state",
        "trace",
        "upto",
        "worker",
        "yielded",
    )

    def __init__(  # noqa: PLR0917 - the hot path: keywords cost a third more
        self,
        id: str,
        pool: Pool,
        client: str,
        payload: Payload,
        created: float,
        kind: str = "call",
        detached: bool = False,
        priority: int = 0,
        deadline: float | None = None,
        parent: str = "",
        method: str = "",
        trace: str = "",
    ) -> None:
        self.id = id
        self.pool = pool
        self.client = client
        self.payload = payload
        self.created = created
        self.kind = kind
        self.detached = detached
        self.priority = priority
        self.deadline = deadline
        self.parent = parent
        self.method = method  # of a class
        self.trace = trace  # the W3C traceparent that it belongs to
        self.state = CallState.QUEUED
        self.queued = False
        self.seq = 0
        self.attempt = 0  # the number of the last attempt begun
        self.failures = 0
        self.losses = 0
        self.not_before = 0.0
        self.leased_at = 0.0
        self.worker: Worker | None = None
        self.history: list[tuple[float, str, str]] | None = None
        self.items = 0  # stream items delivered
        self.yielded: tuple[int, int] | None = None  # the attempt whose items came last, and how many came of it
        self.upto = 0  # stream items the reader has room for
        self.children = 0  # attached calls that this one waits for

    @property
    def label(self) -> str:
        """What users read: ``digits.accuracy``, ``search.Embedder.embed``."""
        label = self.pool.spec.label
        return f"{label}.{self.method}" if self.method else label

    def note(self, at: float, event: str, detail: str = "") -> None:
        """Remember something worth telling: made lazily, as most calls are queued, run and done."""
        if self.history is None:
            self.history = []
        self.history.append((at, event, detail))

    def note_run(self) -> None:
        """Remember where the attempt ran that is over, before another one does."""
        if self.leased_at:
            self.note(self.leased_at, "running", self.worker.id if self.worker else "")

    def timeline(self, now: float) -> list[tuple[float, str, str]]:
        """Return what happened, in order: (monotonic seconds, event, detail). It may wait until ``now``."""
        told = list(self.history or ())
        if self.leased_at:
            told.append((self.leased_at, "running", self.worker.id if self.worker else ""))
        began = min((at for at, event, _ in told if event == "running"), default=now)
        told.insert(0, (self.created, "queued", self.pool.waits.told(self.created, began)))
        return sorted(told, key=lambda entry: entry[0])


class Result(NamedTuple):
    """How a call ended, or one attempt; ``printed`` tells that it has printed something."""

    outcome: Outcome
    payload: Payload = b""
    error: ErrorInfo | None = None
    seconds: float = 0.0
    printed: bool = False


class Delivery(NamedTuple):
    """A settled call on its way to a client; ``call`` is None for one that is told from the store."""

    id: str
    result: Result
    attempt: int
    call: Call | None = None


def stoker_error(name: str, message: str, fields: Mapping[str, Any] | None = None) -> ErrorInfo:
    """Return an error of Stoker's own making, as it goes to a client: a name without a dot."""
    return ErrorInfo(type_name=name, message=message, fields=dict(fields or {}))


class Settlement(NamedTuple):
    """A detached call's end, on its way to the store."""

    call: Call
    state: CallState
    result: Result
    finished: float
    timeline: list[tuple[float, str, str]]
