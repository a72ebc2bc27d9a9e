"""Pools and their workers, as the core sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from stoker.core.admission import Load
from stoker.core.autoscaler import Demand
from stoker.core.calls import Call, Result
from stoker.core.mixtures import Mixture, mixture_of
from stoker.core.pace import Pace
from stoker.core.placement import Capacity, needs
from stoker.core.queues import FairQueue
from stoker.core.wait_log import WaitLog
from stoker.types import FunctionSpec, OptionsSpec

EWMA_WEIGHT = 0.2  # of a new sample: about the last ten calls decide
QUICKEST_STEP = 1.25  # by which a slower call raises what the quickest take: a few in a row say little


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


class GangPhase(str, Enum):
    STARTING = "starting"  # not every rank's worker is connected (yet)
    IDLE = "idle"
    GATHERING = "gathering"  # has a call; its ranks look for the ports at which they will meet
    RUNNING = "running"
    ENDING = "ending"  # its ranks are told to let go of an attempt that is over, or is to begin anew


class Gang:
    """Workers that run one call together; see `stoker.core.gang_attempts`."""

    __slots__ = (
        "addresses",
        "attempt",
        "blame",
        "broken",
        "call",
        "changing",
        "claim",
        "ending_since",
        "id",
        "installed",
        "patience",
        "phase",
        "pool",
        "ports",
        "ranks",
        "size",
        "token",
        "value",
        "workers",
    )

    def __init__(self, id: str, pool: Pool) -> None:
        self.id = id
        self.pool = pool
        self.workers: list[Worker] = []  # in the order of the ranks that they have, or will have next
        self.phase = GangPhase.STARTING
        self.broken = ""  # why it gets no more calls
        self.call: Call | None = None
        self.attempt = 0
        self.ranks: dict[str, int] = {}  # by worker, of this attempt; those of workers that have ended stay
        self.size = 0  # of this attempt
        self.ports: dict[str, int] = {}  # by worker
        self.installed: dict[str, Sequence[str]] = {}  # by worker: what it told of its environment
        self.addresses: list[str] = []  # by rank, of this attempt, once it is leased
        self.token = 0  # of a write that must come before the leases
        self.value: Result | None = None  # what rank 0 has returned
        self.blame: Result | None = None  # what the first rank that failed has reported
        self.changing = False  # the call goes on, with the ranks that are left, once they have let go of this attempt
        self.ending_since = 0.0
        self.patience = 0.0  # until when its ranks may clean up
        self.claim: tuple[str, int, int] | None = None  # call, attempt and size of a gang of an earlier term

    @property
    def is_free(self) -> bool:
        """Tell whether it can be given a call now."""
        idle = self.phase is GangPhase.IDLE and not self.broken
        return idle and all(worker.state is WorkerState.READY for worker in self.workers)

    def holders(self) -> list[Worker]:
        """Return the workers that have not let go of the attempt."""
        call = self.call
        return [] if call is None else [worker for worker in self.workers if call.id in worker.leased]


class Worker:
    """One process of a pool.

    ``leased`` keeps the order of the leases: the first one runs; in a concurrent pool all of them do.
    """

    __slots__ = (
        "asked",
        "began",
        "capacity",
        "channel",
        "checked",
        "condemned",
        "done",
        "failed_checks",
        "gang",
        "head_since",
        "id",
        "idle_since",
        "ill",
        "is_remote",
        "leased",
        "node",
        "ordered",
        "outgoing",
        "outgoing_since",
        "over_since",
        "patience",
        "phase",
        "pool",
        "ready_since",
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
        self.is_remote = False  # only the server reaches it
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
        self.gang: Gang | None = None
        self.revoking = False
        self.done = 0
        self.stop_reason = ""
        self.asked: dict[str, float] = {}  # cancelled calls that it runs, until when they may clean up
        self.condemned = ""  # why it is ended although it may still run something: see `stoker.core.deaf`
        self.patience = 0.0  # until when that may end by itself
        self.ready_since = now  # once it is
        self.checked = now  # when its last check was reported, or noticed to be missing
        self.failed_checks = 0  # in a row
        self.ill = ""  # what the last of them said
        self.outgoing = ""  # why it is to be replaced; see `stoker.core.recycling`
        self.outgoing_since = 0.0
        self.over_since = 0.0  # when it was first seen to hold more than it may

    @property
    def running(self) -> list[Call]:
        """Return the calls that are taken to have been started."""
        if self.pool.mixture is not None:
            return self.pool.mixture.begun(call for call in self.leased.values() if call.id not in self.withheld)
        at_once = self.pool.per_worker
        if self.withheld:
            return [call for call in self.leased.values() if call.id not in self.withheld][:at_once]
        if at_once > 1:
            return list(self.leased.values())[:at_once]
        return [next(iter(self.leased.values()))] if self.leased else []

    @property
    def load(self) -> int:
        """What its calls take up of the pool's ``per_worker``."""
        mixture = self.pool.mixture
        return len(self.leased) if mixture is None else mixture.of(self.leased.values())

    @property
    def idle(self) -> bool:
        if self.gang is not None:
            return self.gang.is_free
        return self.state is WorkerState.READY and not self.leased and not self.unknown and self.channel is None


@dataclass(slots=True)
class Pool:
    """The workers of one function version, with its queue and what was measured of it."""

    key: str
    spec: FunctionSpec
    queue: FairQueue = field(default_factory=FairQueue)
    workers: dict[str, Worker] = field(default_factory=dict)
    gangs: dict[str, Gang] = field(default_factory=dict)
    seconds: float | None = None  # a call's measured time
    quickest: float | None = None  # that of the quickest lately
    pace: Pace = field(default_factory=Pace)
    start_seconds: float | None = None  # a worker's measured start
    backoff: int = 0  # calls that wait for their next attempt
    accepting: int = 0  # detached calls on their way into the store
    clients: dict[str, int] = field(default_factory=dict)  # open attached calls by client: who maps here
    done: int = 0
    failed: int = 0
    bad_starts: int = 0  # in a row, without a call that ended
    deaths: int = 0  # in a row, of workers in their calls: see `stoker.core.crash_loops`
    suspects: frozenset[str] = frozenset()  # calls that the last of these ran, and could each have been its reason
    trouble: str = ""  # why the last of them did, for people
    trouble_kind: str = "StartupError"  # the type of that error
    early_recycles: int = 0  # workers in a row that soon held too much again
    recycle_from: float = 0.0  # before which none goes for the memory that it holds
    refusal: str = ""  # why the latest start was put off, until one succeeds
    start_after: float = 0.0
    waiting: str = ""  # why nothing of the queue runs, for people
    waits: WaitLog = field(default_factory=WaitLog)  # and why it did not before
    wanted_since: float = 0.0  # since when it has calls and cannot be given a worker
    last_steal: float = 0.0
    told_waiting: str = ""  # what its clients were told that it waits for
    retired: bool = False
    awaits: str = ""  # the pool of the version before, which goes on until this one is ready
    goes_on_for: str = ""  # the other way about
    is_back: bool = False  # the version that goes on is the same as its own, so there is no haste to take over
    untried: str = ""  # why it has taken over from one that was ready before a worker of it was; until one is
    schedulable: bool = False  # some node there is could hold a worker; asked again when nodes change
    role: str = ""  # "canary" or "shadow" of a version on trial: see `stoker.core.trials`
    is_divided: bool = False  # its calls are divided between versions: none may go past the server
    is_alone: bool = False  # no other version's workers run beside its own: see `stoker.core.taking_turns`
    barren: int = 0  # workers on trial, in a row, that ended without having answered a call
    failed_trial: str = ""  # why no more are started
    replaced_by: str = ""  # the key of the pool that runs what this one cannot
    mixture: Mixture | None = field(init=False)  # where its calls do not all take up the same of a worker

    def __post_init__(self) -> None:
        self.mixture = mixture_of(self.spec)
        if self.mixture is not None:
            self.queue.by_method = {}

    @property
    def options(self) -> OptionsSpec:
        return self.spec.options

    @property
    def was_ready(self) -> bool:
        """Tell whether a worker of it has ever been, as far as this term knows."""
        return self.start_seconds is not None or bool(self.done)

    @property
    def needs(self) -> Capacity:
        return needs(self.spec.options)

    @property
    def per_worker(self) -> int:
        """Calls that one worker runs at once: so many batches of so many, where it has batches. See `Worker.load`."""
        options = self.spec.options
        return options.concurrency if options.batch is None else options.concurrency * options.batch.max_size

    @property
    def least(self) -> int:
        """Workers without which nothing runs: one, or those of the smallest gang."""
        gang = self.spec.options.gang
        return 1 if gang is None else gang.least

    @property
    def slots(self) -> int:
        """Calls that run at once now."""
        if self.options.gang is not None:
            return sum(1 for gang in self.gangs.values() if not gang.broken and gang.phase is not GangPhase.STARTING)
        ready = sum(1 for w in self.workers.values() if w.state is WorkerState.READY)
        return ready * self.per_worker

    @property
    def running(self) -> int:
        if self.options.gang is not None:
            return sum(1 for gang in self.gangs.values() if gang.call is not None)
        return sum(len(w.leased) for w in self.workers.values())

    def measure(self, seconds: float) -> None:
        """Take one call's time into the average, and into what the quickest take: that rises step by step only."""
        if self.seconds is None or self.quickest is None:
            self.seconds = self.quickest = seconds
            return
        self.seconds += EWMA_WEIGHT * (seconds - self.seconds)
        self.quickest = min(seconds, QUICKEST_STEP * self.quickest)

    @property
    def waiting_calls(self) -> int:
        """Calls taken in and not leased."""
        return len(self.queue) + self.backoff + self.accepting

    @property
    def waiting_units(self) -> int:
        """What the calls of the queue would take up of workers: see `Worker.load`."""
        mixture, by_method = self.mixture, self.queue.by_method
        return len(self.queue) if mixture is None or by_method is None else mixture.waiting(by_method)

    @property
    def is_plain(self) -> bool:
        """Tell whether the pool needs no worker that its queue does not ask for."""
        options = self.spec.options
        recycles = options.recycle_after or options.recycle_memory
        more = options.min_workers or options.buffer_workers or recycles
        return not (self.retired or self.awaits or more)

    def load(self) -> Load:
        return Load(self.waiting_calls, self.slots, self.seconds, self.pace.seconds, self.quickest)

    @property
    def away(self) -> int:
        """Workers that run somewhere and cannot be reached."""
        return sum(1 for worker in self.workers.values() if worker.state is WorkerState.AWAY)

    def demand(self, now: float) -> Demand:
        if self.options.gang is not None:
            return self._demand_in_gangs()
        mixture, queued = self.mixture, self.waiting_units
        running = workers = starting = 0
        oldest = 0.0
        concurrency = self.per_worker
        for worker in self.workers.values():
            state = worker.state
            if state is WorkerState.DRAINING or state is WorkerState.STOPPING or state is WorkerState.AWAY:
                continue  # an absent one may be stopped for good: nothing is to wait behind what it holds
            if state is WorkerState.STARTING:
                starting += 1
                continue
            workers += not worker.outgoing
            if worker.channel is not None:
                running += 1
            if worker.leased:
                # What is leased beyond what runs is still work to be done by somebody.
                load = len(worker.leased) if mixture is None else mixture.of(worker.leased.values())
                at_work = min(load, concurrency)
                running += at_work
                queued += load - at_work
                oldest = max(oldest, now - worker.head_since)
        return Demand(queued, running, workers, starting, self.seconds, self.start_seconds, oldest)

    def _demand_in_gangs(self) -> Demand:
        whole = [gang for gang in self.gangs.values() if not gang.broken and gang.claim is None]
        starting = sum(1 for gang in whole if gang.phase is GangPhase.STARTING)
        running = sum(1 for gang in whole if gang.call is not None)
        return Demand(len(self.queue), running, len(whole) - starting, starting)
