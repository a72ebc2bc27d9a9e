from __future__ import annotations

from dataclasses import replace

from stoker.core import commands as c
from stoker.core import events as e
from stoker.core import handover
from stoker.types import ErrorInfo

from .world import World, spec


def _deployed(world: World, version: int, **options: object) -> str:
    made = spec(**options)  # type: ignore[arg-type]
    return world.declare(replace(made, kind="class", version=version))


def _used(world: World, **options: object) -> tuple[str, str]:
    """Return the pool of a class that has a worker, and that."""
    key = _deployed(world, 1, **options)
    world.submit(["a"], key=key)
    world.connect_all()
    (worker,) = world.workers
    world.finish(worker, "a")
    return key, worker


def _started(world: World, key: str) -> list[str]:
    return [x.worker for x in world.log if isinstance(x, c.StartWorker) and x.key == key]


def test_the_version_before_goes_on_until_the_new_one_is_ready() -> None:
    world = World()
    old, worker = _used(world)
    new = _deployed(world, 2)
    world.step(e.FunctionReplaced(old, new))
    pools = world.plane.state.pools
    assert pools[new].awaits == old and not pools[old].retired
    assert _started(world, new), "it is started without a call that waits for it"
    assert not world.workers[worker].draining
    world.connect_all()
    assert not pools[new].awaits and pools[old].retired and world.workers[worker].draining


def test_one_that_nobody_uses_is_replaced_at_once() -> None:
    world = World()
    old, new = _deployed(world, 1), _deployed(world, 2)
    world.step(e.FunctionReplaced(old, new))
    pools = world.plane.state.pools
    assert not pools[new].awaits and old not in pools and not _started(world, new)


def test_without_room_for_both_it_is_one_after_the_other() -> None:
    world = World(cpus=1.0)
    old, worker = _used(world)
    new = _deployed(world, 2)
    world.step(e.FunctionReplaced(old, new))
    assert not world.plane.state.pools[new].awaits and world.workers[worker].draining


def test_a_version_that_does_not_start_takes_over_from_none() -> None:
    world = World()
    old, worker = _used(world)
    new = _deployed(world, 2)
    world.step(e.FunctionReplaced(old, new))
    for _ in range(5):
        for starting in [x for x in _started(world, new) if x in world.workers]:
            del world.workers[starting]
            world.step(e.WorkerRefused(starting, ErrorInfo("StartupError", "no model")))
        world.sleep(10.0)
    pools = world.plane.state.pools
    assert pools[new].awaits == old and len(_started(world, new)) > 2 and pools[new].trouble == "no model"
    world.submit(["b"], key=old)
    world.finish(worker, "b")
    assert "b" in world.results
    world.connect_all()
    assert pools[old].retired


def test_what_is_unused_by_then_lets_go() -> None:
    world = World()
    old, worker = _used(world, idle_timeout=1.0)
    new = _deployed(world, 2)
    world.step(e.FunctionReplaced(old, new))
    world.sleep(3.0)
    world.kill(worker, "exit")
    world.sleep(1.0)
    pool = world.plane.state.pools[new]
    assert not pool.awaits and pool.untried == handover.ENDED
    world.connect_all()
    assert not pool.untried


def test_a_third_version_takes_over_from_the_first() -> None:
    world = World(cpus=4.0)
    old, worker = _used(world)
    second, third = _deployed(world, 2), _deployed(world, 3)
    world.step(e.FunctionReplaced(old, second))
    world.step(e.FunctionReplaced(second, third))
    pools = world.plane.state.pools
    assert pools[third].awaits == old and pools[second].retired and not pools[old].retired
    for starting in _started(world, third):
        world.connect(starting)
    assert pools[old].retired and world.workers[worker].draining


def test_an_app_that_ends_ends_both() -> None:
    world = World()
    old, _ = _used(world)
    new = _deployed(world, 2)
    world.step(e.FunctionReplaced(old, new))
    world.step(e.FunctionRetired(new))
    assert all(pool.retired for pool in world.plane.state.pools.values())


def test_what_takes_over_untried_is_known_until_a_worker_is_ready() -> None:
    world = World()
    old, new = _deployed(world, 1), _deployed(world, 2)
    world.step(e.FunctionReplaced(old, new))
    pool = world.plane.state.pools[new]
    assert pool.untried == handover.IDLE
    world.submit(["a"], key=new)
    world.connect_all()
    assert not pool.untried
    full = World(cpus=1.0)
    old, _ = _used(full)
    new = _deployed(full, 2)
    full.step(e.FunctionReplaced(old, new))
    assert full.plane.state.pools[new].untried == handover.NO_ROOM


def test_one_that_takes_turns_takes_over_untried_whether_or_not_the_one_before_is_gone() -> None:
    for is_used in (True, False):
        world = World()
        old = _used(world)[0] if is_used else _deployed(world, 1)
        world.step(e.FunctionRetired(old))
        assert (old in world.plane.state.pools) is is_used
        made = replace(spec(), kind="class", version=2)
        world.step(e.FunctionDeclared(made, made.key, is_alone=True))
        world.step(e.FunctionReplaced(old, made.key))
        assert world.plane.state.pools[made.key].untried == handover.RECREATE
