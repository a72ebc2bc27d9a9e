from __future__ import annotations

from typing import Any

from stoker.core import commands as c
from stoker.core import events as e
from stoker.core.pools import WorkerState
from stoker.core.recycling import OUTGOING_SECONDS

from .world import World, spec

LIMIT = 100 << 20


def _busy(*, cpus: float = 2.0, **options: Any) -> tuple[World, str, str]:
    """Return a world whose one worker has run a call, and runs ``b``."""
    world = World(cpus=cpus)
    given: dict[str, Any] = {"recycle_memory": LIMIT, "max_workers": 1, **options}
    key = world.declare(spec(**given))
    world.submit(["a"], key=key)
    world.connect_all()
    (worker,) = world.workers
    world.finish(worker, "a")
    world.submit(["b"], key=key)
    return world, key, worker


def _grown(world: World, worker: str, memory: int = 2 * LIMIT) -> list[c.Command]:
    return world.step(e.WorkersMeasured([worker], [memory]))


def test_the_one_in_its_place_is_there_before_it_goes() -> None:
    world, key, worker = _busy()
    assert not [x for x in _grown(world, worker, LIMIT - 1) if isinstance(x, c.StartWorker)]
    assert [x for x in _grown(world, worker) if isinstance(x, c.StartWorker)]
    assert not world.workers[worker].draining
    world.finish(worker, "b")
    world.submit(["c"], key=key)
    assert "c" in world.workers[worker].leases, "it takes calls until the other one is there"
    world.connect_all()
    assert world.workers[worker].draining
    world.submit(["d"], key=key)
    (other,) = set(world.workers) - {worker}
    assert "d" in world.workers[other].leases
    world.finish(worker, "c")
    assert {"a", "b", "c"} <= world.results.keys()


def test_an_idle_one_is_replaced_as_well() -> None:
    world, _, worker = _busy()
    world.finish(worker, "b")
    _grown(world, worker)
    world.connect_all()
    assert world.workers[worker].draining and len(world.workers) == 2


def test_where_there_is_no_room_for_two_it_goes_first() -> None:
    world, key, worker = _busy(cpus=1.0)
    _grown(world, worker)
    assert world.workers[worker].draining
    world.submit(["c"], key=key)
    world.finish(worker, "b")
    world.kill(worker, "exit")
    world.connect_all()
    world.finish_first()
    assert world.results.keys() == {"a", "b", "c"}


def test_one_that_has_done_nothing_yet_has_not_grown() -> None:
    world = World()
    key = world.declare(spec(recycle_memory=LIMIT))
    world.submit(["a"], key=key)
    world.connect_all()
    (worker,) = world.workers
    _grown(world, worker)
    assert not world.plane.state.workers[worker].outgoing


def test_a_limit_below_what_every_worker_needs_is_no_endless_replacing() -> None:
    world, key, _ = _busy()
    world.finish_first()
    for i in range(1200):
        for worker in list(world.plane.state.workers.values()):
            if worker.state is WorkerState.READY and worker.done:
                _grown(world, worker.id)
            elif worker.state is WorkerState.DRAINING and not worker.leased:
                world.kill(worker.id, "exit")
        world.connect_all()
        world.submit([f"x{i}"], key=key)
        world.sleep(0.5)
        world.finish_first()
    assert len([x for x in world.log if isinstance(x, c.StartWorker)]) < 12


def test_all_of_a_busy_pool_are_replaced_one_after_the_other() -> None:
    world = World(cpus=8.0)
    key = world.declare(spec(recycle_memory=LIMIT, max_workers=3))
    world.submit([f"a{i}" for i in range(3)], key=key)
    world.connect_all()
    old = set(world.workers)
    assert len(old) == 3
    while world.finish_first():
        pass
    world.submit([f"b{i}" for i in range(30)], key=key)
    world.step(e.WorkersMeasured(list(old), [2 * LIMIT] * 3))
    assert not any(world.workers[worker].draining for worker in old)
    for _ in range(20):
        world.sleep(10.0)
        world.connect_all()
        for worker in [w for w in list(world.workers.values()) if w.draining and not w.leases]:
            world.kill(worker.id, "exit")
        assert (
            sum(1 for w in world.workers.values() if w.connected and not w.draining) >= 3 or old & world.workers.keys()
        )
        world.finish_first()
        ready = [w.id for w in world.plane.state.workers.values() if w.state is WorkerState.READY and w.done]
        world.step(e.WorkersMeasured([w for w in ready if w in old], [2 * LIMIT] * len([w for w in ready if w in old])))
    while world.finish_first():
        pass
    assert not old & {w.id for w in world.workers.values() if not w.draining}
    assert len(world.results) == 33


def test_a_worker_near_its_number_of_calls_has_another_started() -> None:
    world, key, worker = _busy(recycle_memory=None, recycle_after=20)
    world.finish(worker, "b")
    for i in range(16):
        world.submit([f"c{i}"], key=key)
        world.finish(worker, f"c{i}")
    assert len(world.workers) == 1
    world.submit(["last"], key=key)
    world.finish(worker, "last")
    assert len(world.workers) == 2 and not world.workers[worker].draining
    world.connect_all()
    assert world.workers[worker].draining
    assert len(world.results) == 19


def test_one_that_waits_for_others_in_vain_goes_in_the_end() -> None:
    world = World(cpus=2.0)
    key = world.declare(spec(recycle_memory=LIMIT))
    world.submit(["a", "b"], key=key)
    world.connect_all()
    one, two = world.workers
    world.finish(one, "a")
    world.submit(["c", "d", "e"], key=key)
    _grown(world, one)
    world.sleep(OUTGOING_SECONDS - 2)
    assert not world.workers[one].draining
    world.sleep(4)
    assert world.workers[one].draining and not world.workers[two].draining
