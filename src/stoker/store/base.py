"""The `Store` seam: rows that outlive the server, behind verbs of the domain.

A store is synchronous. One thread of the server writes; any may read meanwhile, and readers never hold it up. Every
write names the server's epoch; a lower one than the store has seen is refused with `Fenced`. `write` is one
transaction, durable when it returns: the server groups what arrived meanwhile into the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from stoker.errors import StoreError
from stoker.types import CallState, ErrorInfo, FunctionSpec


class RowsRefused(StoreError):
    """Something is wrong with the rows themselves: others can be written, and to try these again is of no use."""


class StoreUnavailable(StoreError):
    """The store cannot be reached just now. What was to be written may be there or not; to write it again is safe."""


@dataclass(frozen=True, slots=True)
class AcceptedRow:
    """A detached call as it is accepted. ``seq`` is given by the server, ascending, and orders the queue.

    ``payload`` holds small arguments; bigger ones are a payload file named ``payload_blob``. Times are Unix seconds.
    ``method`` is that of a class, ``trace`` the W3C ``traceparent`` that the call belongs to. Of a call that came over
    HTTP, ``request`` says its method and path; ``digest`` is that of a request with an Idempotency-Key.
    """

    seq: int
    id: str
    function: str  # the pool's key
    client: str  # who asked: fairness is between these
    priority: int
    created: float
    deadline: float | None = None
    payload: bytes = b""
    payload_blob: str = ""
    parent: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    method: str = ""
    trace: str = ""
    request: str = ""
    digest: str = ""


@dataclass(frozen=True, slots=True)
class SettledRow:
    """How a detached call ended. The first one written for a call wins; later ones change nothing.

    ``status`` is that of the answer of a call that came over HTTP; 0 for others.
    """

    seq: int
    id: str
    state: CallState
    finished: float
    attempts: int
    payload: bytes = b""
    payload_blob: str = ""
    error: ErrorInfo | None = None
    timeline: str = ""  # JSON
    status: int = 0


@dataclass(frozen=True, slots=True)
class ProgressRow:
    """Attempts used so far, so that a restart does not grant them again."""

    seq: int
    failures: int
    losses: int
    not_before: float = 0.0
    timeline: str = ""  # JSON: what has happened to them


@dataclass(frozen=True, slots=True)
class PendingRow:
    """A call to be queued again after a restart."""

    call: AcceptedRow
    failures: int = 0
    losses: int = 0
    not_before: float = 0.0
    timeline: str = ""


@dataclass(frozen=True, slots=True)
class CallRecord:
    """All that is kept of one detached call; ``settled`` is None while it is pending."""

    call: AcceptedRow
    failures: int
    losses: int
    settled: SettledRow | None = None
    expired: bool = False  # it was settled, and its result is gone: kept for the stated time


@dataclass(frozen=True, slots=True)
class Deployment:
    """One version of a deployed app. Exactly one version of each app is current."""

    app: str
    version: int
    created: float
    functions: tuple[FunctionSpec, ...]
    current: bool
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CallbackRow:
    """Where the end of a call is to be told, and how that goes. Times are Unix seconds.

    ``state``: waiting (for the call's end), due, delivered, failed. ``at``: when it is tried next, or was over.
    """

    call_id: str
    url: str
    holder: str  # the id of the token that asked for it, whose secret signs it
    created: float
    state: str = "waiting"
    attempts: int = 0
    at: float = 0.0
    said: str = ""  # what the latest try came to

    @property
    def is_over(self) -> bool:
        return self.state in {"delivered", "failed"}


@dataclass(frozen=True, slots=True)
class Rollout:
    """What a version is, or was, beside the current one, and how that ended: a version has one at most.

    ``kind``: ``canary`` · ``shadow``. ``parts`` of 10 000 calls go to it. ``state``: ``active`` · ``promoted`` ·
    ``aborted`` (somebody ended it) · ``failed`` (it could not run; ``why`` says how) · ``replaced`` (by another one).
    Of a version that was to take over and was replaced before it was ready, ``kind`` is empty, the state
    ``never ready``.
    """

    app: str
    version: int
    kind: str
    parts: int
    state: str
    changed: float
    why: str = ""


def no_others(version: int) -> Iterable[Rollout]:
    return ()


Write = AcceptedRow | SettledRow | ProgressRow


class Store(Protocol):
    """See the module. Every method may raise `StoreError`; writes may raise `Fenced`."""

    @property
    def proves_every(self) -> float:
        """Return after how many seconds without a write the server should `prove`; 0 where nobody else can come."""

    def identity(self) -> str:
        """Return what tells this store from others, wherever it is reached from; empty for one of its own directory."""

    def prove(self, epoch: int) -> None:
        """Make sure that this term may still write; raise `Fenced` where it may not."""

    def begin_term(self) -> int:
        """Start a new epoch, durable, and return it. All stores opened before are fenced from now on."""

    def write(self, epoch: int, rows: Sequence[Write]) -> None:
        """Write all rows or none, durable on return. An accepted row whose id is there already is left as it is.

        Of one batch, accepted rows count first, then progress, then settled ones. Progress and settled rows of calls
        that are settled, or have no row, change nothing. A seq that another id holds is `RowsRefused`; any other
        `StoreError` says that the store can write nothing just now.
        """

    def pending(self, *, after_seq: int, limit: int) -> list[PendingRow]:
        """Return unsettled calls with a greater seq, by seq."""

    def last_seq(self) -> int:
        """Return the greatest seq ever given, 0 for a new store."""

    def known(self, ids: Sequence[str]) -> set[str]:
        """Return those of the ids that have a row."""

    def named(self, payload_blobs: Collection[str]) -> set[str]:
        """Return those of these payload files that a row names, be it one that has expired."""

    def call(self, call_id: str) -> CallRecord | None:
        """Return what is kept of a call."""

    def calls(self, *, function: str = "", state: CallState | None = None, limit: int = 100) -> list[CallRecord]:
        """Return the newest calls first; without their payloads. Any state that is not settled means all pending."""

    def pending_count(self) -> int:
        """Return the number of unsettled calls."""

    def expire(self, epoch: int, *, finished_before: float, now: float | None = None) -> list[str]:
        """Drop the results of calls settled before then; return the payload blobs to delete.

        The row itself is kept (its id answers `ResultExpired`) for as long again, ``now - finished_before``, then
        forgotten, and its blobs named once more, in case the server ended before it deleted them. It works in bounded
        transactions, between which writes of other threads go on, so it is best called from a thread of its own.
        """

    def put_callback(self, epoch: int, row: CallbackRow) -> None:
        """Keep a callback, in place of what was kept of that call's before."""

    def drop_callback(self, epoch: int, call_id: str) -> None:
        """Forget a call's callback, if there is one."""

    def callback(self, call_id: str) -> CallbackRow | None:
        """Return a call's callback."""

    def callbacks(self, *, open_only: bool = False, limit: int) -> list[CallbackRow]:
        """Return callbacks, the newest first; with ``open_only`` those that are not over."""

    def expire_callbacks(self, epoch: int, *, over_before: float) -> None:
        """Forget those that were over before then."""

    def put_function(self, epoch: int, spec: FunctionSpec) -> None:
        """Keep a spec by its key, so that a restarted server knows the pools of what still runs."""

    def function(self, key: str) -> FunctionSpec | None:
        """Return a spec by its key."""

    def functions(self) -> list[FunctionSpec]:
        """Return every spec kept."""

    def deploy(
        self,
        epoch: int,
        app: str,
        functions: Sequence[FunctionSpec],
        *,
        now: float,
        tags: dict[str, str] | None = None,
        rollout: Rollout | None = None,
        others: Callable[[int], Iterable[Rollout]] = no_others,
    ) -> Deployment:
        """Make a new current version of an app; its functions, which are kept, carry ``version`` and no ``run_id``.

        With a ``rollout``, whose own version does not count, it stands beside the current one as that says. ``others``
        returns what older versions become by the new one, whose number it is given. All that is one transaction.
        """

    def undeploy(self, epoch: int, app: str, *rollouts: Rollout) -> bool:
        """Leave the app without a current version, and write down ``rollouts`` with that; say whether there was one."""

    def deployments(self, *, app: str = "") -> list[Deployment]:
        """Return all versions, newest first."""

    def put_rollout(self, epoch: int, rollout: Rollout, *others: Rollout, makes_current: bool = False) -> None:
        """Write down what a version is beside the current one, or that it ``makes_current``; with it what others are.

        All that is one transaction.
        """

    def rollouts(self, *, app: str = "") -> list[Rollout]:
        """Return all there are or were, of versions that are kept, the newest version of each app first."""

    def prune(
        self, epoch: int, *, in_use: Collection[str], old_versions: int, now: float, unused_for: float
    ) -> list[str]:
        """Drop old versions of apps but the newest so many, and functions that have not been needed for so long.

        A version stays while any of its functions is ``in_use``: it may answer for a newer one. A function is needed
        while its key is ``in_use``, its version is there, or any call of it has a row. Return the keys of those
        dropped. How long one was not needed is counted in these calls, over restarts of the server.
        """

    def close(self) -> None:
        """Release files and connections."""
