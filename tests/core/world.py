"""A small world around the core: clients, a store, nodes and workers, all in injected time.

It executes the core's commands the way the shell does, lets a test (or hypothesis) choose what happens next, and checks
the invariants after every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from stoker.core import commands as c
from stoker.core import events as e
from stoker.core.calls import Call, Result
from stoker.core.gang_attempts import is_open
from stoker.core.placement import Capacity
from stoker.core.plane import CallPlane
from stoker.core.pools import GangPhase, Pool, WorkerState
from stoker.core.state import Limits
from stoker.types import CodeRef, ErrorInfo, FunctionSpec, GangSeat, ImageSpec, OptionsSpec, Outcome

NODE = "n1"


def spec(name: str = "f", **options: object) -> FunctionSpec:
    return FunctionSpec(
        app="app",
        name=name,
        code=CodeRef(module="m", qualname=name),
        image=ImageSpec(python="3.11"),
        options=OptionsSpec(**options),  # type: ignore[arg-type]
    )


@dataclass
class FakeChannel:
    """Both ends of a channel: what its client waits for, and what its worker has read and not answered."""

    id: str
    worker: str
    client: str
    key: str
    opened: bool = False
    closed: bool = False
    sent: str = ""  # the call that the client waits for
    reads: bool = False  # the worker has read it
    answered: str = ""
    handed: bool = False  # the client has submitted it meanwhile


@dataclass
class FakeWorker:
    """What a worker process would know: its leases in order, and whether it is connected."""

    id: str
    key: str
    capacity: Capacity
    connected: bool = False
    draining: bool = False
    stopped: bool = False
    leases: dict[str, int] = field(default_factory=dict)
    gather: tuple[str, int] | None = None  # the attempt for which its rank is to name a port
    seat: GangSeat | None = None
    cancelled: set[str] = field(default_factory=set)


def command_rows(command: c.PersistAccepted | c.PersistSettled | c.PersistProgress) -> list[object]:
    if not isinstance(command, c.PersistSettled):
        return [call.id for call in command.calls]
    return [settlement.result.payload for settlement in command.settlements]


class World:
    """See the module."""

    def __init__(self, *, cpus: float = 2.0, memory: int = 1 << 30, limits: Limits | None = None) -> None:
        self.now = 100.0
        self.plane = CallPlane(limits=limits, now=self.now)
        self.size = Capacity(cpus, memory)
        self.workers: dict[str, FakeWorker] = {}
        self.results: dict[str, list[tuple[str, Result]]] = {}  # call → deliveries (client, result)
        self.refused: dict[str, ErrorInfo] = {}
        self.accepted: set[str] = set()
        self.rows: dict[str, Call] = {}  # committed detached calls
        self.settled_rows: dict[str, int] = {}  # how often each was settled in the store
        self.unwritten: list[c.PersistAccepted | c.PersistSettled | c.PersistProgress] = []
        self.asked: list[str] = []
        self.poisoned: set[str | bytes] = set()  # ids of calls to be accepted, payloads of those that ended
        self.items: dict[str, list[object]] = {}
        self.channels: dict[str, FakeChannel] = {}
        self.answered: set[str] = set()  # calls whose client has the answer from a channel
        self.log: list[object] = []
        self.step(e.NodeReported(NODE, self.size, self.size))

    # Time and events

    def step(self, *events: e.Event, after: float = 0.0) -> list[c.Command]:
        self.now += after
        commands = self.plane.handle(events, self.now)
        self._check_ranks(commands)
        if any(isinstance(command, (c.StartWorker, c.StartGang)) for command in commands):
            # Cores that were lent are taken back without asking, so this holds whenever a worker is placed, not always.
            assert self.plane.state.nodes[NODE].free().cpus >= -1e-6, "a node was over-committed"
        for command in commands:
            self.log.append(command)
            self._execute(command)
        self.check()
        return commands

    def sleep(self, seconds: float) -> None:
        """Let time pass as the shell does: woken whenever the core asked for it."""
        end = self.now + seconds
        while True:
            at = self.plane.next_wakeup()
            if at is None or at > end:
                break
            self.step(e.Tick(), after=max(0.0, at - self.now) + 1e-9)
        self.step(e.Tick(), after=max(0.0, end - self.now))

    # What the shell does

    def _execute(self, command: c.Command) -> None:
        if isinstance(command, c.StartWorker):
            assert command.worker not in self.workers
            self.workers[command.worker] = FakeWorker(command.worker, command.key, command.capacity)
        elif isinstance(command, c.StartGang):
            for order in command.workers:
                self._execute(order)
        elif isinstance(command, c.GatherRank):
            if command.worker in self.workers:
                self.workers[command.worker].gather = (command.id, command.attempt)
        elif isinstance(command, c.LeaseRank):
            worker = self.workers.get(command.worker)
            if worker is not None and worker.connected:  # else it was lost with its connection
                assert command.call.id not in worker.leases
                worker.leases[command.call.id] = command.call.attempt
                worker.seat = command.seat
        elif isinstance(command, c.LeaseCalls):
            self._lease(command)
        elif isinstance(command, c.OpenChannel):
            client = self.plane.state.channels[command.channel].client
            key = self.workers[command.worker].key
            self.channels[command.channel] = FakeChannel(command.channel, command.worker, client, key)
        elif isinstance(command, c.CloseChannel):
            if command.channel in self.channels:
                self.channels[command.channel].closed = True
        elif isinstance(command, c.TellChannel):
            if command.channel:
                self.channels[command.channel].opened = True
        elif isinstance(command, c.CancelRunning):
            worker = self.workers.get(command.worker)
            if worker is not None:
                worker.cancelled |= set(command.ids) & set(worker.leases)
        elif isinstance(command, c.DrainWorker):
            if command.worker in self.workers:
                self.workers[command.worker].draining = True
        elif isinstance(command, c.StopWorker):
            if command.worker in self.workers:
                self.workers[command.worker].stopped = True
        elif isinstance(command, c.Deliver):
            for delivery in command.deliveries:
                self.results.setdefault(delivery.id, []).append((command.client, delivery.result))
        elif isinstance(command, c.DeliverItems):
            self.items.setdefault(command.id, []).extend(command.payloads)
        elif isinstance(command, c.TellRefused):
            self.refused.update(dict.fromkeys(command.ids, command.error))
        elif isinstance(command, c.TellAccepted):
            self.accepted.update(command.ids)
        elif isinstance(command, (c.PersistAccepted, c.PersistSettled, c.PersistProgress)) and command.token:
            self.unwritten.append(command)

    @staticmethod
    def _check_ranks(commands: Sequence[c.Command]) -> None:
        """All ranks of an attempt are leased in one step, or none."""
        leased: dict[str, list[int]] = {}
        sizes: dict[str, int] = {}
        for command in commands:
            if isinstance(command, c.LeaseRank):
                leased.setdefault(command.seat.gang, []).append(command.seat.rank)
                sizes[command.seat.gang] = len(command.seat.addresses)
        for gang, ranks in leased.items():
            assert ranks == list(range(sizes[gang])), "a gang was half begun"

    def _lease(self, command: c.LeaseCalls) -> None:
        worker = self.workers[command.worker]
        assert worker.connected, "leased to a worker that is not connected"
        for call in command.calls:
            assert call.id not in worker.leases
            worker.leases[call.id] = call.attempt

    # What others do

    def submit(self, ids: Sequence[str], *, key: str, client: str = "c1", **more: object) -> None:
        self.asked.extend(ids)
        self.step(e.Submitted(client, key, list(ids), [i.encode() for i in ids], **more))  # type: ignore[arg-type]

    def declare(self, function: FunctionSpec) -> str:
        self.step(e.FunctionDeclared(function, function.key))
        return function.key

    def connect(self, worker_id: str) -> None:
        worker = self.workers[worker_id]
        worker.connected = True
        # Its channel was closed when its connection broke; what it runs of that it names like a lease.
        channels = [x for x in self.channels.values() if x.worker == worker_id]
        for channel in channels:
            del self.channels[channel.id]
            if channel.sent and channel.reads:
                worker.leases[channel.sent] = 1
        self.step(e.WorkerConnected(worker_id, list(worker.leases.items()), worker.seat))
        for channel in channels:
            if channel.sent and not channel.handed:
                self.hand_over(channel)

    def connect_all(self) -> None:
        for worker_id in [w.id for w in self.workers.values() if not w.connected]:
            self.connect(worker_id)

    def finish(self, worker_id: str, call_id: str, result: Result | None = None) -> None:
        attempt = self.workers[worker_id].leases.pop(call_id)
        self.step(e.AttemptsEnded(worker_id, [call_id], [attempt], [result or Result(Outcome.VALUE, b"v", None, 0.01)]))

    def finish_first(self, result: Result | None = None) -> bool:
        """Have some worker end the first attempt it holds."""
        for worker in list(self.workers.values()):
            if worker.leases and worker.connected:
                self.finish(worker.id, next(iter(worker.leases)), result)
                return True
        return False

    def answer_gather(self, worker: FakeWorker) -> None:
        """Have a worker name its rank's port."""
        if worker.gather is not None:
            (call_id, attempt), worker.gather = worker.gather, None
            self.step(e.RankGathered(worker.id, call_id, attempt, 40_000))

    def answer_gathers(self) -> None:
        for worker in [w for w in self.workers.values() if w.gather is not None]:
            self.answer_gather(worker)

    def kill(self, worker_id: str, cause: str = "signal") -> None:
        del self.workers[worker_id]
        self.step(e.WorkerGone(worker_id, cause, "killed by signal 9"))
        for channel in [x for x in self.channels.values() if x.worker == worker_id]:
            del self.channels[channel.id]
            if channel.sent and not channel.handed:
                self.hand_over(channel)

    # Channels

    def open_channel(self, channel: FakeChannel) -> None:
        self.step(e.ChannelOpened(channel.worker, channel.id, "address", "key"))

    def say_closed(self, channel: FakeChannel) -> None:
        """Have the worker's end closed: what it has read and not answered goes on as its lease."""
        del self.channels[channel.id]
        worker = self.workers.get(channel.worker)
        if worker is None:
            return
        runs = [channel.sent] if channel.sent and channel.reads else []
        for call_id in runs:
            worker.leases[call_id] = 1
        self.step(e.ChannelClosed(channel.worker, channel.id, runs, [1] * len(runs), channel.answered))
        if channel.sent and not channel.handed:
            self.hand_over(channel)

    def hand_over(self, channel: FakeChannel) -> None:
        """Have the client submit what it waits for."""
        channel.handed = True
        event = e.Submitted(channel.client, channel.key, [channel.sent], [b""], channel=channel.id)
        self.step(event)

    def write(self, *, fail: bool = False) -> None:
        """Let the store commit, or refuse, the oldest write. What is `poisoned` it always refuses."""
        command = self.unwritten.pop(0)
        if any(one in self.poisoned for one in command_rows(command)):
            self.step(e.PersistFailed([command.token], "it is poisoned", True))
            return
        if fail:
            self.step(e.PersistFailed([command.token], "disk full"))
            return
        if isinstance(command, c.PersistAccepted):
            self.rows.update({call.id: call for call in command.calls})
        elif isinstance(command, c.PersistSettled):
            for settlement in command.settlements:
                self.settled_rows[settlement.call.id] = self.settled_rows.get(settlement.call.id, 0) + 1
        self.step(e.Persisted([command.token]))

    def settle_everything(self, *, rounds: int = 3000) -> None:
        """Let a kind world run until nothing is left to do."""
        for _ in range(rounds):
            while self.unwritten:
                self.write()
            for channel in list(self.channels.values()):
                self.say_closed(channel)
            self.connect_all()
            self.answer_gathers()
            for worker in [w for w in self.workers.values() if w.stopped]:
                self.kill(worker.id, cause="stopped")
            for worker in list(self.workers.values()):
                if worker.draining and not worker.leases:
                    del self.workers[worker.id]
                    self.step(e.WorkerGone(worker.id, "exit", "exit status 0"))
            if not self.finish_first():
                if not self.plane.state.calls and not self.unwritten:
                    self._check_let_go()
                    return
                self.sleep(1.0)
        state = self.plane.state
        pools = [(p.spec.name, len(p.queue), p.waiting, p.wanted_since, p.start_after) for p in state.pools.values()]
        workers = [(w.id, w.pool.spec.name, w.state, list(w.leased)) for w in state.workers.values()]
        left = [(x.id, x.pool.spec.name, x.state, x.timeline(state.now)) for x in state.calls.values()]
        raise AssertionError(f"not settled at {self.now}: {left}; {pools}; {workers}; {state.nodes}")

    def _check_let_go(self) -> None:
        for pool in self.plane.state.pools.values():
            for gang in pool.gangs.values():
                assert gang.call is None or gang.phase is GangPhase.ENDING
                assert not gang.holders(), "a rank of an ended attempt is still leased"

    # What must always hold

    def check(self) -> None:
        state = self.plane.state
        for deliveries in self.results.values():
            assert len(deliveries) == 1, f"settled twice: {deliveries}"
        for count in self.settled_rows.values():
            assert count == 1, "settled twice in the store"
        for worker in state.workers.values():
            pool = worker.pool
            if pool.options.concurrency > 1:
                assert worker.load <= pool.per_worker
            if worker.state is WorkerState.STARTING:
                assert not worker.leased
        for node in state.nodes.values():
            assert sum(h.memory for h in node.held.values()) <= node.total.memory
        for pool in state.pools.values():
            waiting = pool.queue.waiting()
            assert len(waiting) == len(pool.queue)
            assert len({x.id for x in waiting}) == len(waiting), "queued twice"
            assert pool.backoff >= 0
            assert pool.accepting >= 0
            if pool.options.max_workers is not None:
                leaving = (WorkerState.DRAINING, WorkerState.STOPPING)
                live = [w for w in pool.workers.values() if w.state not in leaving and not w.outgoing]
                assert len(live) <= pool.options.max_workers
            self._check_gangs(pool)
        alone = [w for w in state.workers.values() if w.gang is None]
        running = [call_id for w in alone for call_id, x in w.leased.items() if not x.state.settled]
        assert len(running) == len(set(running)), "one attempt at two workers"

    @staticmethod
    def _check_gangs(pool: Pool) -> None:
        gangs = list(pool.gangs.values())
        ranks = [worker.id for gang in gangs for worker in gang.workers]
        assert len(ranks) == len(set(ranks))
        if pool.options.gang is not None:
            known = [w.id for w in pool.workers.values() if w.gang is not None or w.state is not WorkerState.AWAY]
            assert sorted(ranks) == sorted(known), "a worker without a gang, which is not of an earlier term"
        for gang in gangs:
            assert gang.workers, "an empty gang is kept"
            assert pool.options.gang is not None
            assert len(gang.workers) <= pool.options.gang.most
            held = {call_id for worker in gang.workers for call_id in worker.leased}
            assert held <= ({gang.call.id} if gang.call is not None else set())
            if gang.phase is GangPhase.GATHERING and is_open(gang):
                assert not held
        open_calls = [gang.call.id for gang in gangs if gang.call is not None and is_open(gang)]
        assert len(open_calls) == len(set(open_calls)), "one call at two gangs"
