"""The fair queue against a naive one: by priority, in turns between clients, first come first served within one."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stoker.core.calls import Call
from stoker.core.pools import Pool
from stoker.core.queues import FairQueue
from tests.core.world import spec

POOL = Pool("key", spec())
CLIENTS = ("a", "b", "c")


def call(name: str, client: str = "a", priority: int = 0) -> Call:
    return Call(name, POOL, client, b"", 0.0, priority=priority)


def drained(queue: FairQueue) -> list[str]:
    found = []
    while (one := queue.pop()) is not None:
        found.append(one.id)
    return found


@dataclass
class Naive:
    """What the queue is to do, said plainly: per priority a ring of clients, each with its calls in order."""

    rings: dict[int, list[tuple[str, list[str]]]] = field(default_factory=dict)

    def _lane(self, one: Call) -> list[str]:
        ring = self.rings.setdefault(one.priority, [])
        for client, lane in ring:
            if client == one.client:
                return lane
        ring.append((one.client, []))
        return ring[-1][1]

    def push(self, one: Call, *, front: bool) -> None:
        lane = self._lane(one)
        lane.insert(0 if front else len(lane), one.id)

    def ids(self) -> set[str]:
        return {call_id for ring in self.rings.values() for _, lane in ring for call_id in lane}


class Queues(RuleBasedStateMachine):
    """Does the same to both queues. What is popped must be a call that fairness allows next."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = FairQueue()
        self.calls: dict[str, Call] = {}
        self.order: list[str] = []  # ids that wait, in the order of their lanes
        self.out: list[Call] = []
        self.number = 0

    @rule(client=st.sampled_from(CLIENTS), priority=st.sampled_from((0, 0, 0, 5, -1)))
    def push(self, client: str, priority: int) -> None:
        self.number += 1
        made = self.calls[f"c{self.number}"] = call(f"c{self.number}", client, priority)
        self.queue.push(made)
        self.order.append(made.id)

    @precondition(lambda self: self.out)
    @rule(n=st.integers(0, 1000))
    def give_back(self, n: int) -> None:
        one = self.out.pop(n % len(self.out))
        self.queue.push_front(one)
        self.order.insert(0, one.id)

    @precondition(lambda self: self.out)
    @rule(n=st.integers(0, 1000))
    def retry(self, n: int) -> None:
        one = self.out.pop(n % len(self.out))
        self.queue.push(one)
        self.order.append(one.id)

    @precondition(lambda self: self.order)
    @rule(n=st.integers(0, 1000))
    def discard(self, n: int) -> None:
        one = self.calls[self.order.pop(n % len(self.order))]
        self.queue.discard(one)
        self.queue.discard(one)  # once more changes nothing
        self.out.append(one)

    @rule()
    def pop(self) -> None:
        one = self.queue.pop()
        if not self.order:
            assert one is None
            return
        assert one is not None
        waiting = [self.calls[call_id] for call_id in self.order]
        assert one.priority == max(other.priority for other in waiting), "by priority"
        assert not one.queued
        self.order.remove(one.id)
        self.out.append(one)

    @invariant()
    def the_same_calls_wait(self) -> None:
        by_client = [self.calls[call_id].client for call_id in self.order]
        assert [self.queue.waiting_of(client) for client in CLIENTS] == [by_client.count(client) for client in CLIENTS]
        assert len(self.queue) == len(self.order)
        assert sorted(one.id for one in self.queue.waiting()) == sorted(self.order)


TestQueues = Queues.TestCase
TestQueues.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


pushes = st.lists(st.tuples(st.sampled_from(CLIENTS), st.sampled_from((0, 1))), max_size=40)


@given(pushes)
def test_calls_come_out_in_turns_of_their_clients(pushed: list[tuple[str, int]]) -> None:
    queue, naive = FairQueue(), Naive()
    for n, (client, priority) in enumerate(pushed):
        one = call(f"c{n}", client, priority)
        queue.push(one)
        naive.push(one, front=False)
    expected = []
    for priority in sorted(naive.rings, reverse=True):
        ring = naive.rings[priority]
        while ring:
            client, lane = ring.pop(0)
            expected.append(lane.pop(0))
            if lane:
                ring.append((client, lane))
    assert drained(queue) == expected
    assert len(queue) == 0


@given(pushes)
def test_within_a_client_and_a_priority_first_come_is_first_served(pushed: list[tuple[str, int]]) -> None:
    queue = FairQueue()
    for n, (client, priority) in enumerate(pushed):
        queue.push(call(f"c{n}", client, priority))
    order = [int(name[1:]) for name in drained(queue)]
    for lane in {*pushed}:
        mine = [n for n in order if pushed[n] == lane]
        assert mine == sorted(mine)


def test_a_long_queue_delays_another_clients_call_by_one() -> None:
    queue = FairQueue()
    for n in range(1000):
        queue.push(call(f"a{n}", "a"))
    queue.push(call("b", "b"))
    first, second = queue.pop(), queue.pop()
    assert first is not None
    assert second is not None
    assert [first.id, second.id] == ["a0", "b"]


def test_what_is_put_back_comes_first_among_its_clients() -> None:
    queue = FairQueue()
    calls = [call(f"c{n}") for n in range(3)]
    for one in calls:
        queue.push(one)
    taken = [queue.pop(), queue.pop()]
    for back in reversed(taken):
        assert back is not None
        queue.push_front(back)
    assert drained(queue) == ["c0", "c1", "c2"]


def test_a_call_discarded_and_queued_again_comes_once() -> None:
    queue = FairQueue()
    one, other = call("one"), call("other")
    queue.push(one)
    queue.push(other)
    queue.discard(one)
    queue.push(one)
    assert [waiting.id for waiting in queue.waiting()].count("one") == 1
    assert len(queue) == 2
    assert sorted(drained(queue)) == ["one", "other"]
    assert len(queue) == 0


def test_the_memory_of_discarded_calls_is_given_back_when_they_come_up() -> None:
    queue = FairQueue()
    for n in range(100):
        one = call(f"c{n}")
        queue.push(one)
        queue.discard(one)
    assert queue.pop() is None
    assert not queue._levels
