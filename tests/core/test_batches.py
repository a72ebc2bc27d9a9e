"""Pools whose workers run batches: how much each is leased, what can be taken back, and what counts as lost."""

from __future__ import annotations

from stoker.core import commands as c
from stoker.core.calls import Result
from stoker.types import BatchSpec, Outcome
from tests.core.world import World, spec

BATCH = BatchSpec(4, 0.005)
VALUE = Result(Outcome.VALUE, b"", None, 0.02)


def test_a_worker_alone_has_a_batch_that_runs_and_one_that_waits() -> None:
    world = World(cpus=1)
    key = world.declare(spec(batch=BATCH))
    world.submit([f"a{i}" for i in range(30)], key=key)
    world.connect_all()
    (worker,) = world.workers.values()
    assert len(worker.leases) == 8
    world.settle_everything()
    assert len(world.results) == 30


def test_workers_are_counted_by_batches() -> None:
    world = World(cpus=16)
    key = world.declare(spec(batch=BATCH))
    world.submit([f"a{i}" for i in range(12)], key=key)
    assert len(world.workers) == 3
    world.connect_all()
    assert [len(worker.leases) for worker in world.workers.values()] == [4, 4, 4]


def test_what_waits_beside_a_long_batch_goes_to_a_worker_that_is_free() -> None:
    world = World(cpus=2)
    key = world.declare(spec(batch=BATCH, min_workers=1))
    world.connect_all()
    (first,) = world.workers
    world.submit([f"a{i}" for i in range(8)], key=key)
    assert len(world.workers[first].leases) == 8
    world.sleep(0.05)
    assert not any(isinstance(x, c.RevokeLeases) for x in world.log), "there is nobody else for it"
    world.connect_all()
    assert len(world.workers) == 2
    world.sleep(0.1)
    revoke = next(x for x in world.log if isinstance(x, c.RevokeLeases) and x.worker == first)
    assert len(revoke.ids) == 4 and not {f"a{i}" for i in range(4)} & set(revoke.ids)


def test_of_a_worker_that_is_lost_the_batch_counts_and_what_waited_does_not() -> None:
    world = World(cpus=1)
    key = world.declare(spec(batch=BATCH))
    world.submit([f"a{i}" for i in range(8)], key=key)
    world.connect_all()
    (worker,) = world.workers
    world.kill(worker)
    calls = world.plane.state.calls
    assert [calls[f"a{i}"].losses for i in range(8)] == [1] * 4 + [0] * 4
    world.settle_everything()
    assert len(world.results) == 8


def test_no_worker_is_lent_to_one_caller() -> None:
    world = World(cpus=1)
    key = world.declare(spec(batch=BATCH))
    world.submit(["a"], key=key)
    world.connect_all()
    world.finish_first(VALUE)
    assert not world.plane.state.channels
