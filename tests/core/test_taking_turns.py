"""``strategy="recreate"``: one version's workers at a time, and no call fails for it."""

from __future__ import annotations

from dataclasses import replace

from stoker.core import events as e
from tests.core.world import World, spec


def version(world: World, number: int, *, name: str = "f", alone: bool = True, **options: object) -> str:
    made = replace(spec(name, **options), version=number)
    world.step(e.FunctionDeclared(made, made.key, is_alone=alone))
    return made.key


def keys(world: World) -> list[str]:
    return [worker.key for worker in world.workers.values()]


def test_new_workers_start_when_the_last_old_one_has_ended() -> None:
    world = World(cpus=4)
    old = version(world, 1)
    world.submit(["a", "b"], key=old)
    world.connect_all()
    new = version(world, 2)
    world.step(e.FunctionRetired(old))
    world.submit(["c"], key=new)
    assert set(keys(world)) == {old}
    assert "version 1 of app to end" in world.plane.state.pools[new].waiting
    first, second = list(world.workers)
    world.finish_first()
    world.kill(first, cause="exit")
    assert set(keys(world)) == {old}
    world.finish_first()
    assert set(keys(world)) == {old}, "it is told to end, and has not yet"
    world.kill(second, cause="exit")
    assert keys(world) == [new]
    world.settle_everything()
    assert set(world.results) == {"a", "b", "c"}


def test_what_the_old_version_has_accepted_it_runs_first() -> None:
    world = World(cpus=1)
    old = version(world, 1, max_workers=1)
    world.submit([f"a{n}" for n in range(5)], key=old)
    world.connect_all()
    new = version(world, 2, max_workers=1)
    world.step(e.FunctionRetired(old))
    world.submit(["b"], key=new)
    for _ in range(5):
        assert new not in keys(world)
        world.finish_first()
    world.settle_everything()
    assert len(world.results) == 6


def test_late_calls_of_the_old_version_have_the_new_one_step_aside() -> None:
    world = World(cpus=4)
    new = version(world, 2)
    world.submit(["b"], key=new)
    world.connect_all()
    old = version(world, 1, alone=False)
    world.asked.append("late")
    world.step(e.Submitted("c1", old, ["late"], [b"late"]), e.FunctionRetired(old))
    assert set(keys(world)) == {new}
    (worker,) = world.workers.values()
    assert worker.draining
    world.finish(worker.id, "b")
    world.kill(worker.id, cause="exit")
    assert keys(world) == [old]
    world.submit(["c"], key=new)
    world.settle_everything()
    assert set(world.results) == {"b", "late", "c"}


def test_all_functions_of_the_app_wait_and_those_of_others_do_not() -> None:
    world = World(cpus=4)
    old = version(world, 1)
    world.submit(["a"], key=old)
    new = version(world, 2, name="g")
    world.step(e.FunctionRetired(old))
    other = replace(spec("h"), app="other", version=2)
    world.step(e.FunctionDeclared(other, other.key, is_alone=True))
    world.submit(["b"], key=new)
    world.submit(["c"], key=other.key)
    assert sorted(keys(world)) == sorted([old, other.key])
    world.settle_everything()


def test_without_it_both_run_side_by_side() -> None:
    world = World(cpus=4)
    old = version(world, 1)
    world.submit(["a"], key=old)
    new = version(world, 2, alone=False)
    world.step(e.FunctionRetired(old))
    world.submit(["b"], key=new)
    assert keys(world) == [old, new]
    world.settle_everything()


def test_a_warm_minimum_waits_too_and_what_has_other_options_does_not_count() -> None:
    world = World(cpus=4)
    old = version(world, 1, min_workers=1)
    varied = version(world, 1, timeout=5.0)
    world.submit(["a"], key=varied)
    assert sorted(keys(world)) == sorted([old, varied])
    world.step(e.FunctionRetired(old))
    new = version(world, 2, min_workers=1)
    world.sleep(1.0)
    assert new not in keys(world)
    (worker,) = [w for w in world.workers.values() if w.key == old]
    assert worker.stopped, "nobody waits for its start"
    world.kill(worker.id, cause="exit")
    world.sleep(1.0)
    assert new in keys(world)
    world.submit(["b"], key=varied)
    world.settle_everything()
    assert set(world.results) == {"a", "b"}


def test_a_warm_minimum_starts_when_nothing_else_is_left_to_wake_anybody() -> None:
    world = World(cpus=4)
    old = version(world, 1, min_workers=1)
    (worker,) = world.workers
    world.connect_all()
    world.step(e.FunctionRetired(old))
    new = version(world, 2, min_workers=1)
    assert keys(world) == [old]
    world.kill(worker, cause="exit")
    assert keys(world) == [new]
