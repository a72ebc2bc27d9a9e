"""What a worker was leased: given back before it was read, it never runs, however often that happens."""

from __future__ import annotations

from stoker.protocol.messages import Lease
from stoker.runner.attempts import Desk


def leased(desk: Desk) -> None:
    desk.put(Lease(["c-1"], [1], [0]), [memoryview(b"")], connection=0)


def test_of_leases_and_revocations_that_cross_as_many_run_as_were_not_given_back() -> None:
    desk = Desk()
    for _ in range(3):
        assert desk.revoke([("c-1", 1)], finished=set) == [("c-1", 1)]
    for _ in range(3):
        leased(desk)
        assert desk.take() is None
    leased(desk)
    assert desk.take() is not None and desk.take() is None
