"""A version that is about to take over has a worker by then."""

from __future__ import annotations

from dataclasses import replace

from stoker.core import events as e
from stoker.core.warming import is_warm, is_worth_waiting_for
from tests.core.world import World, spec


def declared(world: World, number: int, **options: object) -> str:
    made = replace(spec("f", **options), version=number)
    world.step(e.FunctionDeclared(made, made.key))
    return made.key


def test_a_worker_starts_without_a_call_and_goes_when_nothing_comes() -> None:
    world = World(cpus=4)
    key = declared(world, 2, idle_timeout=5.0)
    pool = world.plane.state.pools[key]
    world.step(e.WarmUp(key, world.now + 30))
    assert [worker.key for worker in world.workers.values()] == [key]
    assert is_worth_waiting_for(pool) and not is_warm(pool)
    world.connect_all()
    assert is_warm(pool) and not is_worth_waiting_for(pool)
    world.step(e.WarmUp(key, 0.0))
    world.sleep(60)
    assert all(worker.state.value != "ready" for worker in pool.workers.values())


def test_one_that_has_no_room_is_not_waited_for() -> None:
    world = World(cpus=1)
    old = declared(world, 1)
    world.submit(["a"], key=old)
    world.connect_all()
    new = declared(world, 2)
    world.step(e.WarmUp(new, world.now + 30))
    assert not is_worth_waiting_for(world.plane.state.pools[new])
    assert {worker.key for worker in world.workers.values()} == {old}
