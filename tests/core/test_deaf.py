"""Attempts that do not end when they should, in a worker that runs others beside them."""

from __future__ import annotations

from stoker.core import commands as c
from stoker.core import events as e
from stoker.core.calls import Result
from stoker.core.pools import WorkerState
from stoker.core.state import Limits
from stoker.types import CallState, Outcome, RetrySpec

from .world import World, spec

LIMITS = Limits(cancel_grace=10.0, stop_grace=10.0, timeout_grace=5.0)


class Beside:
    """One worker that runs ``deaf`` and two others at once."""

    def __init__(self, *, kind: str = "call", **options: object) -> None:
        self.world = world = World(cpus=1.0, limits=LIMITS)
        self.key = world.declare(spec("f", **{"concurrency": 3, "lost_retries": 1, **options}))
        world.submit(["deaf", "x", "y"], key=self.key, kind=kind)
        (self.worker,) = world.workers
        world.connect(self.worker)
        assert list(world.workers[self.worker].leases) == ["deaf", "x", "y"]

    def call(self, call_id: str) -> tuple[CallState, int]:
        call = self.world.plane.state.calls[call_id]
        return call.state, call.losses

    def stops(self) -> list[c.StopWorker]:
        return [command for command in self.world.log if isinstance(command, c.StopWorker)]


def test_what_runs_beside_a_deaf_attempt_gets_its_grace_and_is_run_again_uncounted() -> None:
    beside = Beside()
    world = beside.world
    world.step(e.CancelAsked(["deaf"]))
    world.sleep(10.1)
    assert not beside.stops()
    assert world.workers[beside.worker].draining
    world.submit(["later"], key=beside.key)
    world.finish(beside.worker, "x")
    assert "later" not in world.workers[beside.worker].leases
    world.sleep(9.0)
    assert not beside.stops()
    world.sleep(1.5)
    assert [(stop.worker, stop.grace) for stop in beside.stops()] == [(beside.worker, 0.0)]
    world.kill(beside.worker, cause="stopped")
    assert beside.call("y") == (CallState.QUEUED, 0)
    world.settle_everything()
    assert world.results["y"][0][1].outcome is Outcome.VALUE


def test_a_request_whose_client_has_hung_up_has_its_timeout_for_others_run_beside_it() -> None:
    beside = Beside(kind="exchange", timeout=100.0)
    world = beside.world
    world.step(e.CancelAsked(["deaf"]))
    world.sleep(50.0)
    world.finish(beside.worker, "x")
    world.finish(beside.worker, "y")
    world.submit(["later"], key=beside.key, kind="exchange")
    assert "later" in world.workers[beside.worker].leases
    world.finish(beside.worker, "later")
    world.sleep(54.0)
    assert not beside.stops()
    world.sleep(2.0)
    assert beside.stops()


def test_it_is_killed_as_soon_as_nothing_else_runs_there() -> None:
    beside = Beside()
    world = beside.world
    world.step(e.CancelAsked(["deaf"]))
    world.sleep(10.1)
    world.finish(beside.worker, "x")
    world.finish(beside.worker, "y")
    assert not beside.stops()
    world.sleep(0.6)
    assert beside.stops()


def test_another_cancelled_attempt_has_all_of_its_own_grace() -> None:
    beside = Beside(lost_retries=2)
    world = beside.world
    world.finish(beside.worker, "y")
    world.step(e.CancelAsked(["deaf"]))
    world.sleep(8.0)
    world.step(e.CancelAsked(["x"]))
    world.sleep(9.0)
    assert not beside.stops()
    world.sleep(1.6)
    assert beside.stops()


def test_a_forced_cancellation_kills_at_once_and_counts_against_nobody() -> None:
    beside = Beside()
    world = beside.world
    world.step(e.CancelAsked(["deaf"], force=True))
    assert beside.stops()
    world.kill(beside.worker, cause="stopped")
    assert beside.call("x") == beside.call("y") == (CallState.QUEUED, 0)


def test_calls_that_must_not_run_twice_are_left_to_end() -> None:
    beside = Beside(lost_retries=0, timeout=600.0)
    world = beside.world
    world.step(e.CancelAsked(["deaf"], force=True))
    world.sleep(300.0)
    assert not beside.stops()
    world.finish(beside.worker, "x")
    world.finish(beside.worker, "y")
    world.sleep(0.6)
    assert beside.stops()
    assert [world.results[call_id][0][1].outcome for call_id in ("x", "y")] == [Outcome.VALUE] * 2


def test_what_runs_beside_an_attempt_past_its_timeout_is_run_again_uncounted() -> None:
    world = World(cpus=1.0, limits=LIMITS)
    key = world.declare(spec(concurrency=2, lost_retries=1, timeout=20.0, retries=RetrySpec(max_retries=1)))
    world.submit(["deaf"], key=key)
    (worker,) = world.workers
    world.connect(worker)
    world.sleep(18.0)
    world.submit(["x"], key=key)
    assert "x" in world.workers[worker].leases
    world.sleep(8.0)
    assert world.plane.state.workers[worker].state is WorkerState.DRAINING
    world.sleep(10.1)
    assert world.plane.state.workers[worker].state is WorkerState.STOPPING
    world.kill(worker, cause="stopped")
    x, deaf = world.plane.state.calls["x"], world.plane.state.calls["deaf"]
    assert (x.state, x.losses, x.failures) == (CallState.QUEUED, 0, 0)
    assert (deaf.losses, deaf.failures) == (0, 1)


def test_a_condemned_worker_that_crashes_by_itself_is_a_lost_one() -> None:
    beside = Beside()
    world = beside.world
    world.step(e.CancelAsked(["deaf"]))
    world.sleep(10.1)
    world.kill(beside.worker, cause="signal")
    assert beside.call("x")[1] == beside.call("y")[1] == 1


def test_a_worker_that_ends_the_deaf_attempt_after_all_has_time_to_end_by_itself() -> None:
    beside = Beside()
    world = beside.world
    world.step(e.CancelAsked(["deaf"]))
    world.sleep(10.1)
    for call_id in ("deaf", "x", "y"):
        world.finish(beside.worker, call_id, Result(Outcome.VALUE, b"v"))
    world.sleep(5.0)
    assert not beside.stops()
    world.sleep(10.0)
    assert beside.stops(), "it did not end"
    del world.workers[beside.worker]
    world.step(e.WorkerGone(beside.worker, "exit", "exit status 0"))
    assert beside.worker not in world.plane.state.workers
