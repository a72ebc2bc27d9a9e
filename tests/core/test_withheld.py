"""Leases of calls that must not run twice: nothing of them reaches a worker before it is written down."""

from __future__ import annotations

from stoker.core import commands as c
from stoker.core import events as e
from stoker.types import CallState

from .world import World, spec


class Once:
    """A worker of a function that must not run twice, with calls that are accepted and leased, and not written down."""

    def __init__(self, *ids: str, **options: object) -> None:
        self.world = world = World(cpus=1.0)
        self.key = world.declare(spec("f", **{"lost_retries": 0, **options}))
        world.submit(list(ids), key=self.key, detached=True)
        world.write()
        (self.worker,) = world.workers
        world.connect(self.worker)

    def leases(self) -> list[str]:
        return list(self.world.workers[self.worker].leases)

    def state_of(self, call_id: str) -> CallState:
        return self.world.plane.state.calls[call_id].state


def test_the_lease_goes_out_with_the_commit() -> None:
    once = Once("a")
    (write,) = once.world.unwritten
    assert isinstance(write, c.PersistProgress)
    assert once.leases() == []
    once.world.write()
    assert once.leases() == ["a"]
    assert not once.world.plane.state.withheld


def test_others_do_not_wait() -> None:
    world = World(cpus=1.0)
    world.submit(["a"], key=world.declare(spec(lost_retries=1)), detached=True)
    world.write()
    world.connect_all()
    assert not world.unwritten
    world = World(cpus=1.0)
    world.submit(["a"], key=world.declare(spec(lost_retries=0)))
    world.connect_all()
    assert not world.unwritten


def test_a_lease_that_cannot_be_written_is_tried_again() -> None:
    once = Once("a")
    once.world.write(fail=True)
    assert (once.leases(), once.state_of("a")) == ([], CallState.BACKOFF)
    once.world.sleep(1.5)
    once.world.write()
    assert once.leases() == ["a"]
    assert once.world.workers[once.worker].leases["a"] == 1


def test_a_worker_that_ends_meanwhile_has_not_begun_it() -> None:
    once = Once("a")
    once.world.kill(once.worker)
    assert once.state_of("a") is CallState.QUEUED
    once.world.settle_everything()
    assert once.world.results["a"][0][1].error is None


def test_a_worker_that_is_away_at_the_commit_is_not_sent_it() -> None:
    once = Once("a")
    once.world.step(e.WorkerDisconnected(once.worker))
    once.world.workers[once.worker].connected = False
    once.world.write()
    assert once.state_of("a") is CallState.QUEUED
    once.world.settle_everything()


def test_one_that_comes_back_before_the_commit_is_sent_it_once() -> None:
    once = Once("a")
    once.world.step(e.WorkerDisconnected(once.worker))
    once.world.connect(once.worker)
    once.world.write()
    assert once.leases() == ["a"]
    once.world.sleep(3.0)
    assert once.state_of("a") is CallState.LEASED


def test_a_cancelled_one_frees_its_place() -> None:
    once = Once("a")
    once.world.step(e.CancelAsked(["a"]))
    while once.world.unwritten:
        once.world.write()
    assert once.leases() == []
    assert not once.world.plane.state.workers[once.worker].leased
    once.world.sleep(11.0)
    assert not any(isinstance(x, c.StopWorker) for x in once.world.log)


def test_what_is_leased_behind_it_waits_with_it() -> None:
    once = Once("a", concurrency=2)
    once.world.submit(["b"], key=once.key)
    assert once.leases() == []
    assert once.world.plane.state.workers[once.worker].running == []
    while once.world.unwritten:
        once.world.write()
    assert once.leases() == ["a", "b"]


def test_a_drained_worker_gives_it_to_the_next() -> None:
    once = Once("a")
    once.world.step(e.FunctionRetired(once.key))
    once.world.step(e.FunctionDeclared(once.world.plane.state.pools[once.key].spec, once.key))
    once.world.settle_everything()
    assert once.world.results["a"][0][1].error is None
