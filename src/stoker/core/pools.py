"""Pools and their workers, as the core sees them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from stoker.core.admission import Load
from stoker.core.autoscaler import Demand
from stoker.core.calls import Call
from stoker.core.placement import Capacity, needs
from stoker.core.queues import FairQueue
from stoker.types import FunctionSpec, OptionsSpec

EWMA_WEIGHT = 0.2  # of a new sample: about the last ten calls decide


class WorkerState(str, Enum):
    STARTING = "starting"  # ordered; its environment may be building
    READY = "ready"  # its lease socket is open
    AWAY = "away"  # it runs, but its socket is not (yet, or not any more) connected
    DRAINING = "draining"  # gets no more leases; ends when it has none
    STOPPING = "stopping"  # told to end


class Channel:
    """A worker lent to one client; see `stoker.core.channels`."""

    __slots__ = ("answered", "client", "closed", "closing", "end", "handed", "id", "opened", "orphaned", "used")

    def __init__(self, id: str, client: str, *, now: float) -> None:
        self.id = id
        self.client = client
        self.used = now
        self.opened = False  # its client was told of it
        self.closing = False  # the worker was told to close it
        self.closed = False
        self.orphaned = False  # its client has gone: what runs is to be cancelled
        self.handed: dict[str, Call] = {}  # calls that the client gave up waiting for: the worker knows where they are
        self.answered = ""  # the last call that it was used for, known once it is closed
        self.end: tuple[str, str] | None = None  # how its worker ended: cause, detail


class Worker:
    """One process of a pool.

    ``leased`` keeps the order of the leases: the first one runs; in a concurrent pool all of them do.
    """

    __slots__ = (
        "asked",
        "began",
        "capacity",
        "channel",
        "condemned",
        "done",
        "head_since",
        "id",
        "idle_since",
        "leased",
        "node",
        "ordered",
        "patience",
        "phase",
        "pool",
        "revoking",
        "state",
        "stop_reason",
        "unknown",
        "withheld",
    )

    def __init__(self, id: str, pool: Pool, *, node: str, capacity: Capacity, now: float) -> None:
        self.id = id
        self.pool = pool
        self.node = node
        self.capacity = capacity
        self.state = WorkerState.STARTING
        self.phase = "placed"
        self.ordered = now
        self.began = now  # of the start proper, after its environment was built
        self.idle_since = now
        self.head_since = now
        self.leased: dict[str, Call] = {}
        self.unknown: dict[str, int] = {}  # attempts it holds whose calls this term does not know (yet)
        self.withheld: dict[str, int] = {}  # leased, and sent only after this write: see `stoker.core.withheld`
        self.channel: Channel | None = None  # set while it is lent to a client: it is leased nothing
        self.revoking = False
        self.done = 0
        self.stop_reason = ""
        self.asked: dict[str, float] = {}  # cancelled calls that it runs, until when they may clean up
        self.condemned = ""  # why it is ended although it may still run something: see `stoker.core.deaf`
        self.patience = 0.0  # until when that may end by itself

    @property
    def running(self) -> list[Call]:
        """Return the calls that are taken to have been started."""
        if self.withheld:
            sent = [call for call in self.leased.values() if call.id not in self.withheld]
            return sent if self.pool.options.concurrency > 1 else sent[:1]
        if self.pool.options.concurrency > 1:
            return list(self.leased.values())
        return [next(iter(self.leased.values()))] if self.leased else []

    @property
    def idle(self) -> bool:
        return self.state is WorkerState.READY and not self.leased and not self.unknown and self.channel is None


@dataclass(slots=True)
class Pool:
    """The workers of one function version, with its queue and what was measured of it."""

    key: str
    spec: FunctionSpec
    queue: FairQueue = field(default_factory=FairQueue)
    workers: dict[str, Worker] = field(default_factory=dict)
    seconds: float | None = None  # a call's measured time
    start_seconds: float | None = None  # a worker's measured start
    backoff: int = 0  # calls that wait for their next attempt
    accepting: int = 0  # detached calls on their way into the store
    clients: dict[str, int] = field(default_factory=dict)  # open attached calls by client: who maps here
    done: int = 0
    failed: int = 0
    bad_starts: int = 0  # in a row, without a call that ended
    start_after: float = 0.0
    waiting: str = ""  # why nothing of the queue runs, for people
    wanted_since: float = 0.0  # since when it has calls and cannot be given a worker
    last_steal: float = 0.0
    told_waiting: str = ""  # what its clients were told that it waits for
    retired: bool = False
    schedulable: bool = False  # some node there is could hold a worker; asked again when nodes change

    @property
    def options(self) -> OptionsSpec:
        return self.spec.options

    @property
    def needs(self) -> Capacity:
        return needs(self.spec.options)

    @property
    def slots(self) -> int:
        """Calls that run at once now."""
        ready = sum(1 for w in self.workers.values() if w.state is WorkerState.READY)
        return ready * self.options.concurrency

    @property
    def running(self) -> int:
        return sum(len(w.leased) for w in self.workers.values())

    def measure(self, seconds: float) -> None:
        """Take one call's time into the average."""
        self.seconds = seconds if self.seconds is None else self.seconds + EWMA_WEIGHT * (seconds - self.seconds)

    @property
    def waiting_calls(self) -> int:
        """Calls taken in and not leased."""
        return len(self.queue) + self.backoff + self.accepting

    @property
    def is_plain(self) -> bool:
        """Tell whether the pool needs no worker that its queue does not ask for."""
        options = self.spec.options
        return not (self.retired or options.min_workers or options.buffer_workers or options.recycle_after)

    def load(self) -> Load:
        return Load(waiting=self.waiting_calls, slots=self.slots, seconds=self.seconds)

    @property
    def away(self) -> int:
        """Workers that run somewhere and cannot be reached."""
        return sum(1 for worker in self.workers.values() if worker.state is WorkerState.AWAY)

    def demand(self, now: float) -> Demand:
        queued = len(self.queue)
        running = workers = starting = 0
        oldest = 0.0
        concurrency = self.options.concurrency
        for worker in self.workers.values():
            state = worker.state
            if state is WorkerState.DRAINING or state is WorkerState.STOPPING or state is WorkerState.AWAY:
                continue  # an absent one may be stopped for good: nothing is to wait behind what it holds
            if state is WorkerState.STARTING:
                starting += 1
                continue
            workers += 1
            if worker.channel is not None:
                running += 1
            if worker.leased:
                # What is leased beyond what runs is still work to be done by somebody.
                at_work = min(len(worker.leased), concurrency)
                running += at_work
                queued += len(worker.leased) - at_work
                oldest = max(oldest, now - worker.head_since)
        return Demand(queued, running, workers, starting, self.seconds, self.start_seconds, oldest)
