from __future__ import annotations

from dataclasses import replace
from typing import Any

from stoker.core import commands as c
from stoker.core import events as e
from stoker.core.health import SLACK_SECONDS
from stoker.core.pools import WorkerState
from stoker.core.state import Limits
from stoker.types import HealthSpec

from .world import World, spec

HEALTH = HealthSpec(every=10.0, timeout=5.0, failures=3)
LAPSE = HEALTH.every + HEALTH.timeout + SLACK_SECONDS


def _ready(health: HealthSpec = HEALTH, **options: Any) -> tuple[World, str, str]:
    """Return a world with one worker that runs ``a``."""
    world = World(cpus=2.0)
    key = world.declare(replace(spec(max_workers=1, **options), kind="class", health=health))
    world.submit(["a"], key=key)
    world.connect_all()
    (worker,) = world.workers
    return world, key, worker


def _fail(world: World, worker: str, times: int = 1) -> list[c.Command]:
    return [one for _ in range(times) for one in world.step(e.WorkerChecked(worker, "ping() raised OSError: no route"))]


def test_an_idle_worker_whose_checks_fail_is_drained_and_so_ends_as_it_should() -> None:
    world, _, worker = _ready()
    world.finish(worker, "a")
    assert not [x for x in _fail(world, worker, 2) if isinstance(x, c.DrainWorker)]
    drains = [x for x in _fail(world, worker) if isinstance(x, c.DrainWorker)]
    assert [x.reason for x in drains] == ["its last 3 checks failed: ping() raised OSError: no route"]


def test_a_check_that_passes_forgets_those_before_it() -> None:
    world, _, worker = _ready()
    _fail(world, worker, 2)
    world.step(e.WorkerChecked(worker))
    _fail(world, worker, 2)
    assert world.plane.state.workers[worker].state is WorkerState.READY


def test_what_an_unhealthy_worker_runs_may_end_and_is_run_again_if_it_does_not() -> None:
    world, _, worker = _ready()
    _fail(world, worker, 3)
    assert not world.workers[worker].stopped
    world.sleep(Limits().stop_grace + 1.0)
    assert world.workers[worker].stopped
    world.kill(worker, "stopped")
    world.connect_all()
    (other,) = world.workers
    assert world.workers[other].leases == {"a": 2} and not world.results
    call = world.plane.state.calls["a"]
    assert (call.losses, call.failures) == (0, 0)


def test_what_it_finishes_within_its_grace_is_done() -> None:
    world, _, worker = _ready()
    _fail(world, worker, 3)
    world.finish(worker, "a")
    assert len(world.results["a"]) == 1


def test_one_that_says_nothing_is_killed_at_once_and_its_call_run_again() -> None:
    world, _, worker = _ready()
    world.sleep(HEALTH.failures * (LAPSE + 0.5) - 1.5)
    assert not world.workers[worker].stopped
    world.sleep(3.0)
    assert world.workers[worker].stopped
    world.kill(worker, "stopped")
    world.connect_all()
    (other,) = world.workers
    assert world.workers[other].leases == {"a": 2}


def test_a_worker_whose_connection_is_broken_is_not_judged() -> None:
    world, _, worker = _ready()
    world.step(e.WorkerDisconnected(worker))
    world.sleep(10 * LAPSE)
    assert world.plane.state.workers[worker].failed_checks == 0
    world.step(e.WorkerConnected(worker, [("a", 1)]))
    world.sleep(LAPSE - 1.0)
    assert world.plane.state.workers[worker].failed_checks == 0


def test_a_call_that_must_not_run_twice_is_left_to_end() -> None:
    world, _, worker = _ready(lost_retries=0)
    world.sleep(10 * LAPSE)
    assert not world.workers[worker].stopped and world.workers[worker].draining
    world.finish(worker, "a")
    assert len(world.results["a"]) == 1


def test_other_calls_wait_for_the_worker_in_its_place() -> None:
    world, key, worker = _ready()
    _fail(world, worker, 3)
    world.submit(["b"], key=key)
    assert "b" not in world.workers[worker].leases
    world.connect_all()
    (other,) = set(world.workers) - {worker}
    assert world.workers[other].leases == {"b": 1}
