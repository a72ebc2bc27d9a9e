from __future__ import annotations

from dataclasses import replace

from stoker.core import commands as c
from stoker.core import events as e
from stoker.types import ErrorInfo

from .world import World, spec


def _starting(world: World, min_workers: int = 0) -> tuple[str, str]:
    """Return a pool with a queued call ``a`` and its worker, whose environment is being built."""
    key = world.declare(spec(min_workers=min_workers))
    world.submit(["a"], key=key)
    (worker,) = world.plane.state.workers
    world.step(e.WorkerProgress(worker, "building", "installing"))
    return key, worker


def _stopped(commands: list[c.Command]) -> list[str]:
    return [x.worker for x in commands if isinstance(x, c.StopWorker)]


def test_a_start_that_builds_for_nobody_any_more_is_called_off() -> None:
    world = World()
    key, worker = _starting(world)
    assert _stopped(world.step(e.CancelAsked(["a"], "user", False))) == [worker]
    world.submit(["b"], key=key)
    refused = ErrorInfo("StartupError", "Not started: nobody waits for it any more.")
    world.step(e.WorkerRefused(worker, refused, retry=False))
    assert "b" in world.plane.state.calls, "the end of a start that was called off is no failure of the next call"
    assert [w for w in world.plane.state.workers if w != worker]


def test_a_start_goes_on_while_another_call_waits() -> None:
    world = World()
    key, _ = _starting(world)
    world.submit(["b"], key=key)
    assert _stopped(world.step(e.CancelAsked(["a"], "user", False))) == []


def test_a_kept_worker_is_built_although_no_call_waits() -> None:
    world = World()
    _starting(world, min_workers=1)
    assert _stopped(world.step(e.CancelAsked(["a"], "user", False))) == []


def test_a_start_of_an_app_that_has_ended_is_called_off() -> None:
    world = World()
    key, worker = _starting(world)
    world.step(e.ClientLeft("c1", final=True))
    assert _stopped(world.step(e.FunctionRetired(key))) in ([], [worker])
    assert world.plane.state.workers[worker].stop_reason == "nobody waits for it any more"


def test_a_start_of_a_version_that_is_to_take_over_goes_on_although_no_call_waits_there() -> None:
    world = World()
    old = world.declare(replace(spec(), kind="class", version=1))
    world.submit(["a"], key=old)
    world.connect_all()
    world.finish(next(iter(world.workers)), "a")
    new = world.declare(replace(spec(), kind="class", version=2))
    world.step(e.FunctionReplaced(old, new))
    (worker,) = [x.worker for x in world.log if isinstance(x, c.StartWorker) and x.key == new]
    assert _stopped(world.step(e.WorkerProgress(worker, "building", "numpy"))) == []


def test_a_start_of_a_version_that_is_over_does_not_keep_the_next_one_waiting() -> None:
    world = World()
    old = world.declare(replace(spec(), kind="class", version=1))
    world.submit(["a"], key=old)
    (worker,) = world.plane.state.workers
    world.step(e.WorkerProgress(worker, "entering", "a hook that hangs"))
    assert _stopped(world.step(e.CancelAsked(["a"], "user", False))) == [], "the next call may be glad of it"
    new = world.declare(replace(spec(), kind="class", version=2))
    assert worker in _stopped(world.step(e.FunctionReplaced(old, new)))
