"""What the core knows, and what it has decided since it was last asked: shared by the policies beside it.

The policies (intake, leasing, settling, fleet, recovery) are functions over this state. They never return commands;
they emit them, and `CallPlane.handle` hands them on in order, what goes to the store before what goes to clients.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from stoker.core import commands as c
from stoker.core.calls import Call, Delivery, IllegalTransition, Payload, Result, Segment, Settlement
from stoker.core.placement import Node
from stoker.core.pools import Channel, Gang, Pool, Worker
from stoker.types import CallState, Growth

RAN_MAX = 1000  # versions of which it is kept what they ran: more than anybody lists


@dataclass(frozen=True, slots=True)
class Limits:
    """The contracts' figures, in seconds."""

    client_grace: float = 60.0  # an attached call whose client stays away longer is cancelled
    cancel_grace: float = 10.0  # for a cancelled attempt to clean up before its worker is killed
    stop_grace: float = 10.0  # for a worker to end before it is killed
    gang_grace: float = 5.0  # for the other ranks to clean up once one has failed, before they are killed
    timeout_grace: float = 5.0  # for a worker to report a timeout itself before it is stopped for it
    persist_retry: float = 1.0  # between the first tries to write down a settled call; it grows


@dataclass(slots=True)
class Held:
    """A result or a running attempt whose call this term has not heard of yet; kept for the client's grace."""

    worker: str
    attempt: int
    result: Result | None
    until: float
    items: list[tuple[int, Sequence[Payload]]] = field(default_factory=list)  # of a stream: number of the first, items
    client: str = ""  # who made the call, where that is known
    began: float = 0.0  # when it began to run, where that is known


@dataclass(slots=True)
class State:
    """See the module."""

    limits: Limits = field(default_factory=Limits)
    growth: Growth = Growth.NEVER
    now: float = 0.0
    calls: dict[str, Call] = field(default_factory=dict)
    pools: dict[str, Pool] = field(default_factory=dict)
    workers: dict[str, Worker] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    away: dict[str, float] = field(default_factory=dict)  # clients that left, until when they may come back
    by_client: dict[str, dict[str, Call]] = field(default_factory=dict)  # attached calls
    windows: dict[tuple[str, str], int] = field(default_factory=dict)
    held: dict[str, Held] = field(default_factory=dict)
    ran: dict[tuple[str, int], tuple[int, int]] = field(
        default_factory=dict
    )  # by version: calls of pools that are gone
    channels: dict[str, Channel] = field(default_factory=dict)  # open ones, and for a while those that were closed
    doubtful: list[Call] = field(default_factory=list)  # restored calls that may not be run again, and may have run
    recovering_nodes: set[str] = field(default_factory=set)
    recovering_until: float | None = None
    seq: int = 0
    worker_seq: int = 0
    prefix: str = "w"  # of worker ids: unique over terms
    started: float = 0.0

    next_sweep: float = 0.0
    dirty: dict[str, Pool] = field(default_factory=dict)
    out: list[c.Command] = field(default_factory=list)
    writes: list[c.Command] = field(default_factory=list)
    settlements: list[Settlement] = field(default_factory=list)
    deliveries: dict[str, list[Delivery]] = field(default_factory=dict)
    discards: list[Payload] = field(default_factory=list)
    tokens: int = 0
    accepting: dict[int, list[Call]] = field(default_factory=dict)
    withheld: dict[int, tuple[Worker, list[Call]]] = field(default_factory=dict)  # leases that wait for a write
    gangs_withheld: dict[int, Gang] = field(default_factory=dict)  # the same, for the leases of a gang
    settling: dict[int, list[Settlement]] = field(default_factory=dict)
    refusals: dict[int, int] = field(default_factory=dict)  # of writes in `settling`: how often they were refused
    timers: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    timer_seq: int = 0

    def emit(self, command: c.Command) -> None:
        self.out.append(command)

    def touch(self, pool: Pool) -> None:
        """Have this pool's leases and size reconsidered before the commands go out."""
        self.dirty[pool.key] = pool

    def drop(self, pool: Pool) -> None:
        """Let go of a pool; of a version it is kept how many calls it has run, and how many of these have failed."""
        self.pools.pop(pool.key, None)
        if pool.spec.version and not pool.spec.run_id:
            at = (pool.spec.app, pool.spec.version)
            done, failed = self.ran.pop(at, (0, 0))
            self.ran[at] = (done + pool.done, failed + pool.failed)
            if len(self.ran) > RAN_MAX:
                del self.ran[next(iter(self.ran))]

    def sweep_by(self, when: float) -> None:
        """Have workers and queues looked over by then, if not before."""
        self.next_sweep = min(self.next_sweep, when)

    def token(self) -> int:
        self.tokens += 1
        return self.tokens

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Run an action once the time has come. Actions check for themselves whether they still apply."""
        self.timer_seq += 1
        heapq.heappush(self.timers, (when, self.timer_seq, action))

    def fire_timers(self) -> None:
        while self.timers and self.timers[0][0] <= self.now:
            heapq.heappop(self.timers)[2]()

    def discard(self, payload: Payload) -> None:
        """Have a payload's file deleted; bytes need nothing."""
        if isinstance(payload, Segment):
            self.discards.append(payload)

    def move(self, call: Call, new: CallState) -> None:
        """Make a transition.

        Raises:
            IllegalTransition: the call is settled, and no transition leaves that.
        """
        if call.state.settled:
            raise IllegalTransition(f"{call.id}: {call.state.value} → {new.value}; {call.timeline(self.now)}")
        call.state = new

    def flush(self) -> list[c.Command]:
        """Return everything decided, in the order in which it must be done."""
        if self.settlements:
            token = self.token()
            self.settling[token] = self.settlements
            self.writes.append(c.PersistSettled(token, self.settlements))
            self.settlements = []
        out = self.writes + self.out
        for client, deliveries in self.deliveries.items():
            out.append(c.Deliver(client, deliveries))
        if self.discards:
            out.append(c.Discard(self.discards))
            self.discards = []
        self.writes, self.out, self.deliveries = [], [], {}
        return out
