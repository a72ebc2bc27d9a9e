"""What a client is owed: each delivery until it is acknowledged, on whichever connection."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stoker.core.calls import Delivery, Result
from stoker.core.outbox import Outbox
from stoker.types import Outcome


def delivery(name: str) -> Delivery:
    return Delivery(name, Result(Outcome.VALUE), 1)


def test_what_is_acknowledged_is_forgotten_in_order() -> None:
    outbox = Outbox()
    assert outbox.add([delivery("a"), delivery("b")]) == 1
    assert outbox.add([delivery("c")]) == 2
    assert len(outbox) == 3
    assert [one.id for one in outbox.acknowledge(1)] == ["a", "b"]
    assert "a" not in outbox
    assert "c" in outbox
    assert outbox.acknowledge(1) == []
    assert [one.id for one in outbox.acknowledge(9)] == ["c"]


def test_after_a_reconnect_numbers_start_again() -> None:
    outbox = Outbox()
    outbox.add([delivery("a")])
    outbox.add([delivery("b")])
    again = outbox.reconnect()
    assert [one.id for one in again] == ["a", "b"]
    assert outbox.acknowledge(2) == [], "of the old connection"
    assert outbox.add(again) == 1
    assert [one.id for one in outbox.acknowledge(1)] == ["a", "b"]


def test_a_call_delivered_again_is_owed_until_its_last_frame_is_acknowledged_or_earlier() -> None:
    outbox = Outbox()
    outbox.add([delivery("a")])
    outbox.add([delivery("a")])
    assert [one.id for one in outbox.acknowledge(1)] == ["a"]
    assert outbox.acknowledge(2) == []
    assert len(outbox) == 0


def test_a_client_that_is_gone_is_owed_nothing() -> None:
    outbox = Outbox()
    outbox.add([delivery("a")])
    assert [one.id for one in outbox.clear()] == ["a"]
    assert len(outbox) == 0
    assert outbox.reconnect() == []


class Deliveries(RuleBasedStateMachine):
    """Nothing is forgotten that was not acknowledged on the connection that it was sent on."""

    def __init__(self) -> None:
        super().__init__()
        self.outbox = Outbox()
        self.sent: list[tuple[int, list[str]]] = []  # frames of this connection that are not acknowledged
        self.done: set[str] = set()
        self.all: list[str] = []

    @rule(count=st.integers(1, 3))
    def deliver(self, count: int) -> None:
        names = [f"c{len(self.all) + n}" for n in range(count)]
        self.all += names
        self.sent.append((self.outbox.add([delivery(name) for name in names]), names))

    @precondition(lambda self: self.sent)
    @rule(n=st.integers(0, 100))
    def acknowledge(self, n: int) -> None:
        upto = self.sent[n % len(self.sent)][0]
        expected = [name for seq, names in self.sent if seq <= upto for name in names]
        assert [one.id for one in self.outbox.acknowledge(upto)] == expected
        self.done.update(expected)
        self.sent = [frame for frame in self.sent if frame[0] > upto]

    @rule()
    def reconnect(self) -> None:
        again = self.outbox.reconnect()
        self.sent = [(self.outbox.add(again), [one.id for one in again])] if again else []
        assert not again or self.sent[0][0] == 1

    @invariant()
    def what_is_not_acknowledged_is_owed(self) -> None:
        assert len(self.outbox) == len(self.all) - len(self.done)
        assert all((name in self.outbox) is (name not in self.done) for name in self.all)


TestDeliveries = Deliveries.TestCase
TestDeliveries.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
