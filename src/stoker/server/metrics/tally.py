"""What has happened, counted as it happens: calls, requests over HTTP, starts and ends of workers.

Most of it is on the hot path, so it is additions to plain numbers, which `stoker.server.metrics.families` reads out.
Labels are names of apps, functions and methods that there are, and words of this program's own: nothing that somebody
can send in makes another series. Past `FUNCTIONS_MAX` functions the rest is counted together. Only those versions
are counted apart that take calls, or did a moment ago: an app that is deployed every hour has no more series for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

from stoker.core.calls import Call, Delivery, Result
from stoker.core.commands import TellRefused
from stoker.core.pools import Pool, Worker, WorkerState
from stoker.engine import base as engine_base
from stoker.protocol.messages import ChannelUsed, Results
from stoker.server.metrics.histograms import SIZES, Histogram
from stoker.types import FunctionSpec, Outcome

if TYPE_CHECKING:
    from stoker.server.server import Server

FUNCTIONS_MAX = 1000  # of which each has series of its own
VERSIONS_MAX = 2000  # of functions and methods, with their versions
VERSION_KEPT_SECONDS = 300.0  # after a version's last pool has gone: for whoever scrapes seldom
POOLS_MAX = 10_000  # whose series are remembered; then they are looked up anew

_OUTCOMES = {
    Outcome.VALUE: "succeeded",
    Outcome.ERROR: "failed",
    Outcome.CANCELLED: "cancelled",
    Outcome.TIMEOUT: "timeout",
    Outcome.UNSENDABLE: "failed",
    Outcome.MEMORY: "out_of_memory",
}
_OWN_ERRORS = {
    "WorkerLost": "worker_lost",
    "DeadlineExceeded": "deadline",
    "StartupError": "not_started",
    "ImageBuildError": "not_started",
    "InterpreterNotFound": "not_started",
    "Unschedulable": "not_started",
    "StoreError": "store",
    "Overloaded": "refused",  # it had been taken in, and made room for others
}
"""How calls ended that failed for no fault of their code: by the name of Stoker's own error, which has no dot."""

_REFUSALS = {
    "NotFound": "unknown_function",
    "Unschedulable": "unschedulable",
    "StoreError": "store",
    "RateLimited": "rate_limit",
    "PermissionDenied": "token",
}


class Labels(NamedTuple):
    """Whose numbers they are; ``method`` is that of a class."""

    app: str
    function: str
    method: str = ""


class OfVersion(NamedTuple):
    """Whose numbers they are, and of which version."""

    app: str
    function: str
    method: str
    version: str


class Start(NamedTuple):
    """How a worker was started: when that was ordered, when it could run calls, and with what it had to begin."""

    ordered: float
    ready: float
    cause: str  # build · zygote · fork · fresh


ELSE = Labels("", "(others)")
UNKNOWN = Labels("", "(unknown)")  # paths that lead nowhere: one series, however many there are


class CallNumbers:
    """Of the calls of one function or method."""

    __slots__ = ("attempts", "batches", "duration", "execution", "outcomes", "queue", "refusals")

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.attempts = 0
        self.duration = Histogram()
        self.queue = Histogram()
        self.execution = Histogram()
        self.batches = Histogram(SIZES)


class VersionNumbers:
    """Of the calls of one version of a function or method; of its requests while a canary answers some of them."""

    __slots__ = ("duration", "gone_since", "outcomes", "statuses")

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.duration = Histogram()
        self.gone_since: float | None = None  # since when nothing runs it

    def ended(self, outcome: str, seconds: float) -> None:
        self.outcomes[outcome] += 1
        self.duration.observe(seconds)


class RequestNumbers:
    """Of the requests over HTTP that lead to one place."""

    __slots__ = ("duration", "statuses")

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.duration = Histogram()


class WorkerNumbers:
    """Of the workers of one function or class."""

    __slots__ = ("exits", "failures", "starts")

    def __init__(self) -> None:
        self.starts: dict[str, Histogram] = {}  # by cause
        self.failures = 0
        self.exits: Counter[str] = Counter()


class Tally:
    """See the module. Everything is called on the server's loop."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.calls: dict[Labels, CallNumbers] = {}
        self.requests: dict[Labels, RequestNumbers] = {}
        self.workers: dict[Labels, WorkerNumbers] = {}
        self.versions: dict[OfVersion, VersionNumbers] = {}
        self._of_pool: dict[tuple[str, str], CallNumbers] = {}
        self._of_versions: dict[tuple[str, str], VersionNumbers | None] = {}  # by pool and method
        self.callbacks: Counter[str] = Counter()  # tries, by what came of them
        self.starts: dict[str, Start] = {}  # of workers that there are
        self._building: set[str] = set()  # workers that wait, or have waited, for their environment to be built
        self._causes: dict[str, str] = {}  # of starts that are nearly done

    # Calls

    def delivered(self, deliveries: Sequence[Delivery], now: float) -> None:
        """Count calls that have ended, each once: one that is told again from the store has no call."""
        for delivery in deliveries:
            call, result = delivery.call, delivery.result
            if call is None:
                continue
            numbers = self._of_pool.get((call.pool.key, call.method)) or self._numbers(call.pool, call.method)
            outcome = outcome_of(result)
            numbers.outcomes[outcome] += 1
            numbers.attempts += call.attempt
            numbers.duration.observe(now - call.created)
            if (version := self._version(call.pool, call.method)) is not None:
                version.ended(outcome, now - call.created)
            if call.leased_at:
                numbers.queue.observe(call.leased_at - (call.created if call.history is None else _queued_at(call)))
            if result.seconds:
                numbers.execution.observe(result.seconds)

    def used(self, used: ChannelUsed, pool: Pool) -> None:
        """Count calls that a client made of a worker that it was lent: they wait in no queue."""
        for i, (outcome, seconds) in enumerate(zip(used.outcomes, used.seconds, strict=True)):
            method = used.methods[i] if used.methods and used.methods[i] in pool.spec.methods else ""
            numbers = self._of_pool.get((pool.key, method)) or self._numbers(pool, method)
            numbers.outcomes[_OUTCOMES[Outcome(outcome)]] += 1
            if (version := self._version(pool, method)) is not None:
                version.ended(_OUTCOMES[Outcome(outcome)], seconds)
            numbers.attempts += 1
            numbers.duration.observe(seconds)
            numbers.queue.observe(0.0)
            numbers.execution.observe(seconds)

    def batched(self, results: Results) -> None:
        """Count batches, of which each is named with the first of its calls; before those are settled."""
        calls = self._server.plane.state.calls
        for call_id, size in zip(results.ids, results.batches, strict=False):
            call = calls.get(call_id) if size > 0 else None
            if call is not None:
                self._numbers(call.pool, call.method).batches.observe(size)

    def refused(self, command: TellRefused) -> None:
        """Count calls that were not taken in."""
        error = command.error
        reason = str(error.fields.get("reason") or _REFUSALS.get(error.type_name, "other"))
        pool = self._server.plane.state.pools.get(command.key)
        numbers = self._of_labels(UNKNOWN) if pool is None else self._numbers(pool, "")
        numbers.refusals[reason] += len(command.ids)

    def shed(self, key: str) -> None:
        """Count a request that was refused before it became a call, as those before it were."""
        pool = self._server.plane.state.pools.get(key)
        if pool is not None:
            self._numbers(pool, "").refusals["deadline"] += 1

    def _numbers(self, pool: Pool, method: str) -> CallNumbers:
        if len(self._of_pool) >= POOLS_MAX:
            self._of_pool.clear()
        numbers = self._of_pool[pool.key, method] = self._of_labels(labels_of(pool.spec, method))
        return numbers

    def _of_labels(self, labels: Labels) -> CallNumbers:
        labels = _counted(labels, self.calls)
        numbers = self.calls.get(labels)
        if numbers is None:
            numbers = self.calls[labels] = CallNumbers()
        return numbers

    # Versions

    def _version(self, pool: Pool, method: str) -> VersionNumbers | None:
        """Return the numbers of a pool's version; None for that of a run, which has none."""
        at = (pool.key, method)
        if at in self._of_versions:
            return self._of_versions[at]
        if len(self._of_versions) >= POOLS_MAX:
            self._of_versions.clear()
        found = None
        if pool.spec.version:
            found = self._find_version(OfVersion(*labels_of(pool.spec, method), str(pool.spec.version)))
        self._of_versions[at] = found
        return found

    def _find_version(self, labels: OfVersion) -> VersionNumbers:
        if labels not in self.versions and len(self.versions) >= VERSIONS_MAX:
            self.drop_versions()
            if len(self.versions) >= VERSIONS_MAX:
                labels = OfVersion(*ELSE, "")
        return self.versions.setdefault(labels, VersionNumbers())

    def drop_versions(self) -> None:
        """Forget the numbers of versions that nothing has run for a while."""
        now = self._server.now()
        pools = self._server.plane.state.pools.values()
        there = {(pool.spec.app, pool.spec.name, str(pool.spec.version)) for pool in pools}
        over = []
        for at, numbers in self.versions.items():
            if (at.app, at.function, at.version) in there:
                numbers.gone_since = None
            elif numbers.gone_since is None:
                numbers.gone_since = now
            elif now - numbers.gone_since >= VERSION_KEPT_SECONDS:
                over.append(at)
        for at in over:
            del self.versions[at]
        if over:
            self._of_versions.clear()  # a version may come again

    # Requests

    def answered(self, labels: Labels, status: int, seconds: float) -> None:
        """Count a request over HTTP that is over."""
        labels = _counted(labels, self.requests)
        numbers = self.requests.get(labels)
        if numbers is None:
            numbers = self.requests[labels] = RequestNumbers()
        numbers.statuses[status] += 1
        numbers.duration.observe(seconds)

    def answered_by(self, version: OfVersion, status: int) -> None:
        """Count a request by the version that has answered it, too."""
        self._find_version(version).statuses[status] += 1

    # Workers

    def engine_event(self, event: engine_base.Event) -> None:
        """Count what befalls workers; before the core is told of it."""
        state = self._server.plane.state
        if isinstance(event, engine_base.PhaseChanged):
            if event.phase == "building":
                self._building.add(event.worker)
        elif isinstance(event, engine_base.WorkerUp):
            self._causes[event.worker] = self._cause(event, state.workers.get(event.worker))
        elif isinstance(event, engine_base.StartRefused):
            self._forget(event.worker)
            if not event.retry:
                self.start_failed(event.worker)
        elif isinstance(event, engine_base.WorkerDown):
            self._forget(event.worker)
            worker = state.workers.get(event.worker)
            if worker is not None:
                self._of_workers(worker.pool).exits["stopped" if _is_leaving(worker) else event.cause] += 1
        elif isinstance(event, engine_base.NodeGone):
            for worker in [worker for worker in state.workers.values() if worker.node == event.node]:
                self._forget(worker.id)
                self._of_workers(worker.pool).exits["node"] += 1

    def start_failed(self, worker_id: str) -> None:
        """Count a start that came to nothing, unless it was called off; before the core is told of it."""
        worker = self._server.plane.state.workers.get(worker_id)
        if worker is not None and not _is_leaving(worker):
            self._of_workers(worker.pool).failures += 1

    def connecting(self, worker_id: str) -> None:
        """Count a start whose worker can run calls now; one that comes back is none."""
        worker = self._server.plane.state.workers.get(worker_id)
        if worker is None or worker.state is not WorkerState.STARTING:
            return
        start = Start(worker.ordered, self._server.now(), self._causes.get(worker_id, "fresh"))
        self._forget(worker_id)
        self.starts[worker_id] = start
        numbers = self._of_workers(worker.pool).starts
        numbers.setdefault(start.cause, Histogram()).observe(start.ready - start.ordered)

    def _cause(self, event: engine_base.WorkerUp, worker: Worker | None) -> str:
        """Return what a start has to begin with: how far from ready everything was."""
        if event.worker in self._building:
            return "build"
        if event.how == "fork" and worker is not None and worker.phase == "starting":
            return "zygote"
        return "fork" if event.how == "fork" else "fresh"

    def _forget(self, worker_id: str) -> None:
        self._building.discard(worker_id)
        self._causes.pop(worker_id, None)
        self.starts.pop(worker_id, None)

    def _of_workers(self, pool: Pool) -> WorkerNumbers:
        labels = _counted(labels_of(pool.spec), self.workers)
        numbers = self.workers.get(labels)
        if numbers is None:
            numbers = self.workers[labels] = WorkerNumbers()
        return numbers


def _counted(labels: Labels, among: Collection[Labels]) -> Labels:
    """Return as whose numbers something is counted: once there are many, as the others'."""
    return labels if labels in among or len(among) < FUNCTIONS_MAX else ELSE


def labels_of(spec: FunctionSpec, method: str = "") -> Labels:
    return Labels(spec.app, spec.name, method)


def outcome_of(result: Result) -> str:
    """Return how a call has ended, in a word: one of the values of ``outcome``."""
    error = result.error
    if error is None or result.outcome is not Outcome.ERROR:
        return _OUTCOMES[result.outcome]
    return _OWN_ERRORS.get(error.type_name, "failed")


def _queued_at(call: Call) -> float:
    """Return since when a call has waited for its last attempt: its first, or until another one may begin."""
    before = [at for at, _, _ in call.history or () if at <= call.leased_at]
    return max(call.created, *before, call.not_before if call.not_before <= call.leased_at else 0.0)


def _is_leaving(worker: Worker) -> bool:
    return worker.state in {WorkerState.DRAINING, WorkerState.STOPPING}
