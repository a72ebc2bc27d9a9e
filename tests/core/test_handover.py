from __future__ import annotations

from dataclasses import replace

from stoker.core import commands as c
from stoker.core import events as e
from stoker.core import handover
from stoker.core.pools import Pool, Worker
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


def test_one_that_nobody_has_ever_used_is_replaced_at_once() -> None:
    world = World()
    old, new = _deployed(world, 1), _deployed(world, 2)
    world.step(e.FunctionReplaced(old, new))
    pools = world.plane.state.pools
    assert not pools[new].awaits and old not in pools and not _started(world, new) and not pools[new].untried


def test_from_zero_a_version_is_tried_where_the_one_before_was_ready() -> None:
    world = World()
    old, worker = _used(world, idle_timeout=1.0)
    world.kill(worker, "exit")
    new = _deployed(world, 2, idle_timeout=1.0)
    world.step(e.FunctionReplaced(old, new))
    pools = world.plane.state.pools
    for _ in range(3):
        for starting in [x for x in _started(world, new) if x in world.workers]:
            world.kill(starting, "exit")
        world.sleep(10.0)
    assert pools[new].awaits == old and pools[new].bad_starts > 2, "the one before goes on, from zero"
    world.connect_all()
    assert not pools[new].awaits and not pools[new].untried and old not in pools
    world.sleep(3.0)
    assert all(world.workers[x].draining for x in _started(world, new) if x in world.workers), "it goes idle as ever"


def test_what_an_earlier_term_had_may_have_been_ready() -> None:
    world = World()
    old, new = _deployed(world, 1), _deployed(world, 2)
    world.step(e.FunctionReplaced(old, new, is_older=True))
    assert world.plane.state.pools[new].awaits == old and _started(world, new)


def test_an_idle_worker_of_another_function_ends_for_a_trial_one_in_use_does_not() -> None:
    for is_idle in (True, False):
        world = World()
        old, worker = _used(world)
        other = world.declare(spec("other"))
        world.submit(["b"], key=other)
        world.connect_all()
        (its,) = {*world.workers} - {worker}
        if is_idle:
            world.finish(its, "b")
        new = _deployed(world, 2)
        world.step(e.FunctionReplaced(old, new))
        pool = world.plane.state.pools[new]
        assert pool.awaits == (old if is_idle else "") and bool(pool.untried) is not is_idle
        assert world.workers[worker].draining is not is_idle
        if not is_idle:
            continue
        world.sleep(2.0)
        assert world.workers[its].draining and not world.workers[worker].draining
        world.kill(its, "exit")
        assert _started(world, new)
        world.connect_all()
        assert not pool.awaits and not pool.untried


def test_functions_of_one_app_are_tried_one_after_the_other_where_they_do_not_fit_together() -> None:
    world = World(cpus=1.0)
    before, after = [], []
    for name in "xyz":
        made = [replace(spec(name), kind="class", version=version) for version in (1, 2)]
        before.append(world.declare(made[0]))
        after.append(world.declare(made[1]))
    world.step(*(e.FunctionReplaced(*pair, is_older=True) for pair in zip(before, after, strict=True)))
    for _ in range(3):
        world.connect_all()
        world.sleep(2.0)
        for worker in [x for x, one in world.workers.items() if one.draining]:
            world.kill(worker, "exit")
    pools = world.plane.state.pools
    assert all(_started(world, key) and not pools[key].untried and not pools[key].awaits for key in after)


def test_one_of_two_idle_workers_makes_room_for_the_next_version() -> None:
    world = World()
    old = _deployed(world, 1)
    world.submit(["a", "b"], key=old)
    world.connect_all()
    first, second = world.workers
    world.finish(first, "a")
    world.finish(second, "b")
    new = _deployed(world, 2)
    world.step(e.FunctionReplaced(old, new))
    world.sleep(2.0)
    assert [world.workers[x].draining for x in (first, second)].count(True) == 1
    assert world.plane.state.pools[new].awaits == old


def test_going_back_to_the_version_that_goes_on_ends_none_of_its_workers() -> None:
    """What is called off held the room; and without any, what answers goes on as well."""
    world = World()
    old, worker = _used(world, min_workers=1)
    broken, back = _deployed(world, 2), _deployed(world, 3)
    world.step(e.FunctionReplaced(old, broken))
    (starting,) = _started(world, broken)
    world.step(e.FunctionReplaced(broken, back, same_as=1))
    pools = world.plane.state.pools
    assert world.workers[starting].stopped and pools[back].awaits == old and not pools[back].untried
    other = world.declare(spec("other"))
    world.submit(["b"], key=other)
    world.sleep(1.0)  # it has no worker yet, so it comes first
    world.kill(starting, "exit")
    world.connect_all()
    world.sleep(30.0)
    assert pools[back].awaits == old and not pools[old].retired and not world.workers[worker].draining
    (its,) = (x.worker for x in world.log if isinstance(x, c.StartWorker) and x.key == other)
    world.finish(its, "b")
    world.sleep(3.0)
    world.kill(its, "exit")
    world.connect_all()
    assert not pools[back].awaits and world.workers[worker].draining


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


def test_without_room_for_another_try_a_version_that_has_failed_takes_nothing_over() -> None:
    world = World()
    old, _ = _used(world)
    new = _deployed(world, 2)
    world.step(e.FunctionReplaced(old, new))
    for _ in range(2):
        world.kill(_started(world, new)[-1], "exit")
    other = world.declare(spec("other"))
    world.submit(["b"], key=other)
    world.connect_all()
    world.sleep(30.0)
    pool = world.plane.state.pools[new]
    assert pool.waiting and pool.awaits == old and not pool.untried


def test_it_is_waited_for_as_well_where_the_last_worker_before_it_ends_meanwhile() -> None:
    world = World()
    old, worker = _used(world, idle_timeout=1.0)
    new = _deployed(world, 2)
    world.step(e.FunctionReplaced(old, new))
    world.sleep(3.0)
    world.kill(worker, "exit")
    world.sleep(1.0)
    pools = world.plane.state.pools
    assert pools[new].awaits == old
    world.connect_all()
    assert not pools[new].awaits and not pools[new].untried and old not in pools


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
    world = World(cpus=1.0)
    old, worker = _used(world)
    second, third = _deployed(world, 2), _deployed(world, 3)
    world.step(e.FunctionReplaced(old, second))
    pools = world.plane.state.pools
    assert pools[second].untried == handover.NO_ROOM
    world.step(e.FunctionReplaced(second, third))
    pool = pools[third]
    assert pool.untried == handover.NO_ROOM and not pool.awaits, "the last that was ready has been replaced"
    world.kill(worker, "exit")
    world.submit(["b"], key=third)
    world.connect_all()
    assert not pool.untried


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


def test_whoever_deploys_waits_no_longer_for_room_after_a_failed_start_than_room_is_waited_for() -> None:
    pool = Pool("k", spec())
    now = 100.0
    assert not handover.has_no_room(pool, now), "it has not been put off"
    pool.wanted_since = now
    assert not handover.has_no_room(pool, now + handover.ROOM_SECONDS + 1), "it has not failed: its turn may come"
    pool.bad_starts = 1
    assert not handover.has_no_room(pool, now + handover.ROOM_SECONDS)
    assert handover.has_no_room(pool, now + handover.ROOM_SECONDS + 1)
    worker = Worker("w", pool, node="n", capacity=pool.needs, now=now)
    pool.workers["w"] = worker
    assert not handover.has_no_room(pool, now + handover.ROOM_SECONDS + 1), "it is being tried"
