from __future__ import annotations

from stoker.core import commands as c
from stoker.core import events as e
from stoker.core.plane import CallPlane
from stoker.types import CallState

from .world import World, spec


def _running(world: World, *, lost_retries: int) -> str:
    """Return the worker that runs a detached call ``a``; ``b`` waits behind it."""
    key = world.declare(spec(lost_retries=lost_retries, max_workers=1))
    world.submit(["a", "b"], key=key, detached=True)
    world.write()
    world.connect_all()
    while world.unwritten:
        world.write()
    (worker,) = world.plane.state.workers
    assert world.plane.state.calls["a"].state is CallState.LEASED
    return worker


def test_an_interrupted_attempt_is_written_down_and_is_no_loss() -> None:
    world = World()
    worker = _running(world, lost_retries=1)
    world.step(e.StopBegan())
    (written,) = [x for x in world.step(e.StopEnded([worker])) if isinstance(x, c.PersistProgress)]
    (call,) = written.calls
    assert (call.id, call.losses, call.failures) == ("a", 0, 0)
    history = call.history or []
    assert [(event, detail) for _, event, detail in history] == [
        ("running", worker),
        ("interrupted", "attempt 1: the server was stopped; it is run again"),
    ]
    later = CallPlane(prefix="w2-", now=500.0)
    function = spec(lost_retries=1, max_workers=1)
    restored = e.Restored("a", 1, function.key, "c1", b"", 0.0, 0, None, "", 0, 0, 0.0, history)
    later.handle([e.FunctionDeclared(function, function.key), restored], 500.0)
    again = later.state.calls["a"]
    assert (again.attempt, again.losses) == (1, 0)
    assert [event for _, event, _ in again.timeline(0.0)] == ["queued", "running", "interrupted"]


def test_a_call_that_may_not_run_twice_fails_with_the_reason() -> None:
    world = World()
    worker = _running(world, lost_retries=0)
    world.step(e.StopBegan())
    (written,) = [x for x in world.step(e.StopEnded([worker])) if isinstance(x, c.PersistSettled)]
    (settled,) = written.settlements
    error = settled.result.error
    assert error is not None
    assert (settled.state, error.type_name) == (CallState.FAILED, "WorkerLost")
    assert "the server was stopped while it ran" in error.message
    assert "os._exit" not in error.message


def test_a_stopping_server_leases_nothing_more() -> None:
    world = World()
    worker = _running(world, lost_retries=1)
    world.step(e.StopBegan())
    world.finish(worker, "a")
    while world.unwritten:
        world.write()
    assert world.plane.state.calls["b"].state is CallState.QUEUED


def test_what_ran_elsewhere_goes_on() -> None:
    world = World()
    _running(world, lost_retries=1)
    world.step(e.StopBegan())
    assert not [x for x in world.step(e.StopEnded([])) if isinstance(x, c.PersistProgress)]
