"""What Prometheus reads: the tally, and how things are just now, as families of metrics.

`families` copies the numbers, on the loop, which takes a moment; they are written as text elsewhere. `docs/metrics.md`
says what each one means.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from stoker._version import __version__
from stoker.core.pools import Pool, WorkerState
from stoker.server.metrics.histograms import Buckets, Histogram
from stoker.server.metrics.tally import CallNumbers, Labels, OfVersion, RequestNumbers, VersionNumbers, WorkerNumbers

if TYPE_CHECKING:
    from stoker.server.server import Server

OF_A_FUNCTION = ("app", "function")
OF_A_METHOD = (*OF_A_FUNCTION, "method")
OF_A_VERSION = (*OF_A_METHOD, "version")
WORKER_STATES = ("starting", "idle", "busy", "away", "draining", "stopping")
MALFORMED = Labels("", "(malformed)")  # what came over HTTP and is no request

Samples: TypeAlias = Sequence[tuple[tuple[str, ...], float | Buckets]]


class Family(NamedTuple):
    """One metric: ``samples`` are label values with a number, or with a histogram."""

    kind: str  # counter · gauge · histogram
    name: str
    help: str
    labels: tuple[str, ...]
    samples: Samples


class Door(Protocol):
    """What the gateway's connections tell."""

    @property
    def refused(self) -> Mapping[int, int]:
        """Return how often what came was no request, by the status of the answer."""

    def __len__(self) -> int: ...

    @property
    def lag(self) -> float:
        """Return by how many seconds the loop was late, at most, in the last while."""


def families(server: Server, door: Door) -> list[Family]:
    """Return everything as it is now."""
    tally = server.tally
    tally.drop_versions()
    return [
        *_of_calls(tally.calls),
        *_of_versions(tally.versions),
        *_of_requests(tally.requests, door),
        *_of_pools(server.plane.state.pools.values(), server.now()),
        *_of_workers(tally.workers),
        *_of_server(server, door),
    ]


def _of_calls(calls: Mapping[Labels, CallNumbers]) -> Iterator[Family]:
    outcomes = [((*at, outcome), n) for at, one in calls.items() for outcome, n in one.outcomes.items()]
    yield Family("counter", "stoker_calls", "Calls that have ended.", (*OF_A_METHOD, "outcome"), outcomes)
    attempts = [(at, one.attempts) for at, one in calls.items() if one.attempts]
    yield Family("counter", "stoker_call_attempts", "Attempts of calls that have ended.", OF_A_METHOD, attempts)
    refusals = [((*at[:2], reason), n) for at, one in calls.items() for reason, n in one.refusals.items()]
    yield Family("counter", "stoker_calls_refused", "Calls not taken in.", (*OF_A_FUNCTION, "reason"), refusals)
    histograms: tuple[tuple[str, str, Callable[[CallNumbers], Histogram]], ...] = (
        ("stoker_call_duration_seconds", "From its arrival until a call has ended.", lambda one: one.duration),
        ("stoker_call_queue_seconds", "Until the last attempt was given to a worker.", lambda one: one.queue),
        ("stoker_call_execution_seconds", "What the last attempt took in its worker.", lambda one: one.execution),
        ("stoker_batch_size", "Calls that ran together.", lambda one: one.batches),
    )
    for name, said, of in histograms:
        yield _histograms(name, said, OF_A_METHOD, [(at, of(one)) for at, one in calls.items()])


def _of_versions(versions: Mapping[OfVersion, VersionNumbers]) -> Iterator[Family]:
    outcomes = [((*at, outcome), n) for at, one in versions.items() for outcome, n in one.outcomes.items()]
    said = "Calls that have ended, of versions that are there."
    yield Family("counter", "stoker_version_calls", said, (*OF_A_VERSION, "outcome"), outcomes)
    said = "From its arrival until a call has ended, of versions that are there."
    durations = [(at, one.duration) for at, one in versions.items()]
    statuses = [((*at, str(status)), n) for at, one in versions.items() for status, n in one.statuses.items()]
    asked = "Requests answered over HTTP, of apps that have a canary."
    yield Family("counter", "stoker_version_http_requests", asked, (*OF_A_VERSION, "status"), statuses)
    yield _histograms("stoker_version_call_duration_seconds", said, OF_A_VERSION, durations)


def _of_requests(requests: Mapping[Labels, RequestNumbers], door: Door) -> Iterator[Family]:
    statuses = [((*at, str(status)), n) for at, one in requests.items() for status, n in one.statuses.items()]
    statuses += [((*MALFORMED, str(status)), n) for status, n in door.refused.items()]
    said = "Requests answered over HTTP."
    yield Family("counter", "stoker_http_requests", said, (*OF_A_METHOD, "status"), statuses)
    said = "From the headers of a request to the end of its answer."
    durations = [(at, one.duration) for at, one in requests.items()]
    yield _histograms("stoker_http_request_duration_seconds", said, OF_A_METHOD, durations)
    yield _gauge("stoker_http_connections", "Open connections over HTTP.", len(door))


def _of_pools(pools: Iterable[Pool], now: float) -> Iterator[Family]:
    """Add up the pools of one name: versions, and parameters of a class."""
    queued: Counter[tuple[str, ...]] = Counter()
    running: Counter[tuple[str, ...]] = Counter()
    workers: Counter[tuple[str, ...]] = Counter()
    failing: Counter[tuple[str, ...]] = Counter()
    paused: dict[tuple[str, ...], float] = {}
    for pool in pools:
        at = (pool.spec.app, pool.spec.name)
        queued.update({(*at, "queued"): len(pool.queue), (*at, "backoff"): pool.backoff})
        queued[(*at, "accepting")] += pool.accepting
        running[at] += pool.running
        workers.update({(*at, state): count for state, count in _states(pool).items()})
        failing[at] += pool.bad_starts + pool.deaths
        paused[at] = max(paused.get(at, 0.0), pool.start_after - now)
    of_states = (*OF_A_FUNCTION, "state")
    yield Family("gauge", "stoker_queue_calls", "Calls that wait.", of_states, [*queued.items()])
    yield Family("gauge", "stoker_running_calls", "Calls that run.", OF_A_FUNCTION, [*running.items()])
    yield Family("gauge", "stoker_workers", "Workers, by what they do.", of_states, [*workers.items()])
    said = "Workers in a row that did not start, or ended in their calls."
    yield Family("gauge", "stoker_failing_starts", said, OF_A_FUNCTION, [*failing.items()])
    said = "For how long no worker is started because of that."
    yield Family("gauge", "stoker_start_pause_seconds", said, OF_A_FUNCTION, [*paused.items()])


def _of_workers(workers: Mapping[Labels, WorkerNumbers]) -> Iterator[Family]:
    said = "From the order to start a worker until it can run calls."
    starts = [((*at[:2], cause), taken) for at, one in workers.items() for cause, taken in one.starts.items()]
    yield _histograms("stoker_worker_start_seconds", said, (*OF_A_FUNCTION, "cause"), starts)
    failures = [(at[:2], one.failures) for at, one in workers.items() if one.failures]
    yield Family("counter", "stoker_worker_start_failures", "Starts that have failed.", OF_A_FUNCTION, failures)
    exits = [((*at[:2], cause), n) for at, one in workers.items() for cause, n in one.exits.items()]
    yield Family("counter", "stoker_worker_exits", "Workers that have ended.", (*OF_A_FUNCTION, "cause"), exits)


def _of_server(server: Server, door: Door) -> Iterator[Family]:
    about = [((__version__, server.engine.name), 1.0)]
    yield Family("gauge", "stoker_info", "What runs.", ("version", "engine"), about)
    yield _gauge("stoker_term", "Which start of its store this is.", server.epoch)
    yield _gauge("stoker_nodes", "Machines that are there.", len(server.plane.state.nodes))
    yield _gauge("stoker_connections", "Connections of programs, workers and agents.", len(server.links))
    tries = [((outcome,), n) for outcome, n in server.tally.callbacks.items()]
    yield Family("counter", "stoker_callbacks", "Tries to tell how a call has ended.", ("outcome",), tries)
    yield _gauge("stoker_open_callbacks", "Callbacks that are not over.", len(server.callbacks))
    left_out = server.spans.left_out if server.spans is not None else 0
    said = "Calls of a recorded trace without spans, as there were too many at once."
    yield Family("counter", "stoker_untraced_calls", said, (), [((), left_out)])
    yield _gauge("stoker_event_loop_lag_seconds", "How late the server's loop was, at most, lately.", door.lag)


def _histograms(
    name: str, said: str, labels: tuple[str, ...], found: Sequence[tuple[tuple[str, ...], Histogram]]
) -> Family:
    return Family("histogram", name, said, labels, [(at, one.read()) for at, one in found if one.count])


def _gauge(name: str, said: str, value: float) -> Family:
    return Family("gauge", name, said, (), [((), value)])


def _states(pool: Pool) -> dict[str, int]:
    states = dict.fromkeys(WORKER_STATES, 0)
    for worker in pool.workers.values():
        ready = worker.state is WorkerState.READY
        states[("idle" if worker.idle else "busy") if ready else worker.state.value] += 1
    return states
