from __future__ import annotations

from stoker.core import commands as c
from stoker.core import crash_loops
from stoker.core import events as e
from stoker.core.crash_loops import BACKOFF_MAX_SECONDS, STEADY_SECONDS
from stoker.types import ErrorInfo

from .world import World, spec

ERROR = ErrorInfo("StartupError", "app.f: its enter() hook load() raised OSError: no model\nTraceback …", "Traceback …")


def _kept() -> tuple[World, str]:
    world = World()
    return world, world.declare(spec(min_workers=1))


def _starts(world: World) -> list[c.StartWorker]:
    return [x for x in world.log if isinstance(x, c.StartWorker)]


def test_workers_that_end_after_they_were_ready_and_before_they_did_anything_back_off() -> None:
    world, _ = _kept()
    began = world.now
    while len(_starts(world)) < 12:
        for worker in list(world.workers):
            world.connect(worker)
            world.kill(worker)
        world.sleep(0.5)
    assert world.now - began > 60.0


def test_the_pause_has_a_bound() -> None:
    world, key = _kept()
    pool = world.plane.state.pools[key]
    for _ in range(2000):
        crash_loops.failed(world.plane.state, pool, "it ended")
    assert crash_loops.pause(pool, world.now) == BACKOFF_MAX_SECONDS


def test_people_are_told_until_something_has_run() -> None:
    world, key = _kept()
    pool = world.plane.state.pools[key]
    assert crash_loops.told(pool, world.now) == ""
    for _ in range(2):
        world.step(e.WorkerRefused(next(iter(world.plane.state.workers)), ERROR))
        world.workers.clear()
    told = crash_loops.told(pool, world.now)
    assert told.startswith("its last 2 workers did not start or stay, the next one in 0.2 s: app.f: its enter() hook")
    assert "Traceback" not in told
    world.sleep(1.0)
    assert "another one starts" in crash_loops.told(pool, world.now)
    world.connect_all()
    assert "another one has just started" in crash_loops.told(pool, world.now)
    world.submit(["a"], key=key)
    world.finish_first()
    assert crash_loops.told(pool, world.now) == ""


def test_a_worker_that_stays_is_good_news_too() -> None:
    world, key = _kept()
    (worker,) = world.workers
    world.step(e.WorkerRefused(worker, ERROR))
    del world.workers[worker]
    world.connect_all()
    assert crash_loops.told(world.plane.state.pools[key], world.now)
    world.sleep(STEADY_SECONDS + 1.0)
    assert crash_loops.told(world.plane.state.pools[key], world.now) == ""


def test_a_request_is_refused_while_nothing_could_run_it() -> None:
    world, key = _kept()
    state = world.plane.state
    assert crash_loops.refusal(state, key, now=world.now) is None
    for expected in (False, True):
        world.step(e.WorkerRefused(next(iter(state.workers)), ERROR))
        world.workers.clear()
        assert (crash_loops.refusal(state, key, now=world.now) is not None) == expected
    refusal = crash_loops.refusal(state, key, now=world.now)
    assert refusal is not None and 0 < refusal.fields["retry_after"] <= 0.25
    assert crash_loops.refusal(state, key, now=world.now + 1.0) is None, "the next one is tried with it"


def test_calls_that_fail_with_a_start_are_told_when_the_next_is_tried() -> None:
    world = World()
    key = world.declare(spec())
    for i in range(4):
        world.submit([f"a{i}"], key=key)
        world.sleep(BACKOFF_MAX_SECONDS)
        world.step(e.WorkerRefused(next(iter(world.plane.state.workers)), ERROR))
        world.workers.clear()
    waits = [world.results[f"a{i}"][0][1].error.fields["retry_after"] for i in range(4)]  # type: ignore[union-attr]
    assert waits == [0.0, 0.25, 0.5, 1.0]
