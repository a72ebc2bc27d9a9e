"""Random worlds: whatever happens in whatever order, no call is lost, none is settled twice, no node over-committed."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from stoker.core import events as e
from stoker.core.calls import Result
from stoker.types import ErrorInfo, GangSpec, HealthSpec, Outcome, RetrySpec
from tests.core.world import World, spec

T = TypeVar("T")
FAILURE = Result(Outcome.ERROR, b"e", ErrorInfo("builtins.ValueError", "bad", mro=["builtins.ValueError"]), 0.001)
# Shrinking a world of eighty moves takes minutes; the failing one is printed as it is, with its seed.
EXAMPLES = int(os.environ.get("EXAMPLES", "200"))
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
MOVES = (
    "submit",
    "submit",
    "spawn",
    "finish",
    "finish",
    "finish",
    "fail",
    "kill",
    "connect",
    "connect",
    "sleep",
    "cancel",
    "write",
    "write",
    "refuse_write",
    "drained",
    "disconnect",
    "refuse_worker",
    "revoke",
    "resubmit",
    "stale",
    "ask_channel",
    "ask_channel",
    "use_channel",
    "use_channel",
    "answer",
    "answer",
    "hand_over",
    "say_closed",
    "grow",
    "check",
    "check",
    "gather",
    "gather",
    "gather",
)


@st.composite
def functions(draw: st.DrawFn) -> list[dict[str, Any]]:
    one: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
        {
            "cpu": st.sampled_from([0.5, 1.0, 2.0]),
            "concurrency": st.sampled_from([1, 1, 4]),
            "max_workers": st.sampled_from([None, 1, 2]),
            "min_workers": st.sampled_from([0, 0, 1]),
            "retries": st.sampled_from([RetrySpec(), RetrySpec(max_retries=2, initial_delay=0.5)]),
            "lost_retries": st.sampled_from([0, 2]),
            "max_pending": st.sampled_from([5, 1000]),
            "recycle_after": st.sampled_from([None, 3, 12]),
            "recycle_memory": st.sampled_from([None, 1 << 20]),
            "gang": st.sampled_from([None, None, GangSpec(2, 2), GangSpec(1, 4), GangSpec(4, 4)]),
        }
    )
    return [_sensible(chosen) for chosen in draw(st.lists(one, min_size=1, max_size=3))]


def _sensible(chosen: dict[str, Any]) -> dict[str, Any]:
    """Return options as the client would let them through."""
    gang = chosen["gang"]
    if gang is None:
        return chosen
    most = chosen["max_workers"]
    return {
        **chosen,
        "concurrency": 1,
        "recycle_after": None,
        "recycle_memory": None,
        "max_workers": None if most is None else most * gang.most,
        "min_workers": chosen["min_workers"] * gang.most,
        "lost_retries": 2 if gang.is_elastic else chosen["lost_retries"],
    }


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=PHASES,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(functions(), st.lists(st.tuples(st.sampled_from(MOVES), st.integers(0, 1000)), max_size=80), st.booleans())
def test_no_call_is_lost_and_none_settled_twice(
    options: list[dict[str, Any]], moves: list[tuple[str, int]], quick: bool
) -> None:
    world = World(cpus=2.0)
    keys = [world.declare(replace(spec(f"f{i}", **one), health=_health_of(one))) for i, one in enumerate(options)]
    run = Moves(world, keys, seconds=0.0005 if quick else 0.01)
    for name, number in moves:
        getattr(run, name)(number)
    world.settle_everything()
    for call_id in world.asked:
        if call_id in world.answered:
            continue
        settled = len(world.results.get(call_id, ()))
        refused = call_id in world.refused
        assert settled + refused == 1 or (settled == 1 and refused and call_id in run.cancelled), call_id
    for call_id in world.rows:
        assert world.settled_rows[call_id] == 1


def _health_of(chosen: dict[str, Any]) -> HealthSpec | None:
    return HealthSpec(1.0, 1.0, 2) if chosen["gang"] is None and chosen["max_pending"] == 5 else None


class Moves:
    """What may happen next; each takes a number that picks whom it happens to."""

    def __init__(self, world: World, keys: list[str], *, seconds: float) -> None:
        self.value = Result(Outcome.VALUE, b"v", None, seconds)
        self.world = world
        self.keys = keys
        self.count = 0
        self.cancelled: set[str] = set()
        self.ended: list[tuple[str, str, int]] = []

    def _ids(self, number: int) -> list[str]:
        first = self.count
        self.count += number % 7 + 1
        return [f"c{i}" for i in range(first, self.count)]

    def submit(self, n: int) -> None:
        kind = "map" if n % 3 == 0 else "call"
        self.world.submit(self._ids(n), key=self.keys[n % len(self.keys)], client=f"c{n % 2}", kind=kind)

    def spawn(self, n: int) -> None:
        self.world.submit(self._ids(n), key=self.keys[n % len(self.keys)], detached=True, priority=n % 2)

    def grow(self, n: int) -> None:
        names = list(self.world.workers)
        self.world.step(e.WorkersMeasured(names, [(n % 3) << 20] * len(names)))

    def check(self, n: int) -> None:
        for worker in [w.id for w in self.world.workers.values() if w.connected]:
            self.world.step(e.WorkerChecked(worker, "unwell" if n % 4 else ""))

    def resubmit(self, n: int) -> None:
        call = self._pick(list(self.world.plane.state.calls.values()), n)
        if call is not None:
            event = e.Submitted(call.client, call.pool.key, [call.id], [b""], detached=call.detached)
            self.world.step(event)

    def finish(self, n: int) -> None:
        self._end(n, self.value)

    def fail(self, n: int) -> None:
        self._end(n, FAILURE)

    def _end(self, n: int, result: Result) -> None:
        worker = self._pick([w for w in self.world.workers.values() if w.leases and w.connected], n)
        if worker is not None:
            call_id = next(iter(worker.leases))
            self.ended.append((worker.id, call_id, worker.leases[call_id]))
            self.world.finish(worker.id, call_id, result)

    def stale(self, n: int) -> None:
        ended = self._pick(self.ended, n)
        if ended is not None:
            worker, call_id, attempt = ended
            held = self.world.workers.get(worker)
            if held is None or call_id not in held.leases:
                value = Result(Outcome.VALUE, b"stale", None, 0.001)
                self.world.step(e.AttemptsEnded(worker, [call_id], [attempt], [value]))

    def kill(self, n: int) -> None:
        worker = self._pick(list(self.world.workers.values()), n)
        if worker is not None:
            self.world.kill(worker.id, cause=("signal", "memory", "exit", "unknown")[n % 4])

    def connect(self, n: int) -> None:
        worker = self._pick([w for w in self.world.workers.values() if not w.connected], n)
        if worker is not None:
            self.world.connect(worker.id)

    def disconnect(self, n: int) -> None:
        worker = self._pick([w for w in self.world.workers.values() if w.connected], n)
        if worker is not None:
            worker.connected = False
            self.world.step(e.WorkerDisconnected(worker.id))

    def drained(self, n: int) -> None:
        worker = self._pick([w for w in self.world.workers.values() if w.draining and not w.leases], n)
        if worker is not None:
            self.world.kill(worker.id, cause="exit")

    def refuse_worker(self, n: int) -> None:
        worker = self._pick([w for w in self.world.workers.values() if not w.connected and not w.leases], n)
        if worker is not None:
            del self.world.workers[worker.id]
            self.world.step(e.WorkerRefused(worker.id, ErrorInfo("StartupError", "no"), retry=n % 2 == 0))

    def revoke(self, n: int) -> None:
        worker = self._pick([w for w in self.world.workers.values() if len(w.leases) > 1], n)
        if worker is not None:
            given = list(worker.leases.items())[1:]
            for call_id, _ in given:
                del worker.leases[call_id]
            event = e.LeasesRevoked(worker.id, [call_id for call_id, _ in given], [attempt for _, attempt in given])
            self.world.step(event)

    def gather(self, n: int) -> None:
        worker = self._pick([w for w in self.world.workers.values() if w.gather is not None and w.connected], n)
        if worker is not None:
            self.world.answer_gather(worker)

    def cancel(self, n: int) -> None:
        call_id = self._pick(self.world.asked, n)
        if call_id is not None:
            self.cancelled.add(call_id)
            self.world.step(e.CancelAsked([call_id], force=n % 5 == 0))

    def ask_channel(self, n: int) -> None:
        self.world.step(e.ChannelAsked(f"c{n % 2}", self.keys[n % len(self.keys)]))

    def use_channel(self, n: int) -> None:
        """Let a channel be opened; or a client send a call down it; or its worker read that."""
        channel = self._pick(list(self.world.channels.values()), n)
        if channel is None or channel.closed:
            return
        if not channel.opened:
            self.world.open_channel(channel)
        elif not channel.sent:
            channel.sent, channel.reads = f"{channel.client}.{self._ids(0)[0]}", n % 2 == 0
            self.world.asked.append(channel.sent)
        else:
            channel.reads = True

    def answer(self, n: int) -> None:
        channel = self._pick([x for x in self.world.channels.values() if x.sent and x.reads], n)
        if channel is not None:
            self.world.answered.add(channel.sent)
            channel.answered, channel.sent, channel.reads = channel.sent, "", False
            self.world.step(e.ChannelUsed(channel.worker, channel.id, [0], [0.0001]))

    def hand_over(self, n: int) -> None:
        channel = self._pick([x for x in self.world.channels.values() if x.sent and not x.handed], n)
        if channel is not None:
            self.world.hand_over(channel)

    def say_closed(self, n: int) -> None:
        channel = self._pick(list(self.world.channels.values()), n)
        if channel is not None:
            self.world.say_closed(channel)

    def write(self, n: int) -> None:
        if self.world.unwritten:
            self.world.write()

    def refuse_write(self, n: int) -> None:
        if self.world.unwritten:
            self.world.write(fail=True)

    def sleep(self, n: int) -> None:
        self.world.sleep(n / 100)

    @staticmethod
    def _pick(items: list[T], n: int) -> T | None:
        return items[n % len(items)] if items else None
