"""What a call waited for is known after it has run."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stoker.core import commands as c
from stoker.core import events as e
from stoker.core.wait_log import WORTH_TELLING_SECONDS, WaitLog

from .world import World, spec


def queued(world: World, call_id: str) -> str:
    """Return what the record of a settled call says of its wait."""
    calls = [d.call for command in world.log if isinstance(command, c.Deliver) for d in command.deliveries]
    (call,) = [call for call in calls if call is not None and call.id == call_id]
    at, event, detail = call.timeline(world.now)[0]
    assert (at, event) == (call.created, "queued")
    return detail


def test_a_call_tells_what_it_waited_for_in_order() -> None:
    world = World(cpus=1)
    first, second = world.declare(spec("first", cpu=1.0)), world.declare(spec("second", cpu=1.0))
    world.submit(["a"], key=first)
    world.connect_all()
    world.submit(["b"], key=second)
    world.sleep(16.0)
    world.finish("w1", "a")
    world.sleep(0.1)
    assert world.workers["w1"].draining, "its place is needed"
    del world.workers["w1"]
    world.step(e.WorkerGone("w1", "exit", "exit status 0"))
    world.sleep(0.2)
    world.step(e.WorkerProgress("w2", "building", "numpy"))
    world.sleep(5.0)
    world.connect("w2")
    world.finish("w2", "b")
    assert queued(world, "b") == (
        "it waited 16.1 s for 1 CPU to be free, 0.2 s for a worker to start, 5.0 s for its environment to be built"
    )
    assert queued(world, "a") == ""


def test_a_call_behind_others_waited_for_a_worker() -> None:
    world = World(cpus=1)
    key = world.declare(spec(max_workers=1))
    world.submit(["a"], key=key)
    world.connect_all()
    world.submit(["b"], key=key)
    world.sleep(3.0)
    world.finish("w1", "a")
    world.finish("w1", "b")
    assert queued(world, "b") == "it waited 3.0 s for a worker to be free"


def test_a_call_that_never_ran_tells_it_too() -> None:
    world = World(cpus=1)
    first, second = world.declare(spec("first", cpu=1.0)), world.declare(spec("second", cpu=1.0))
    world.submit(["a"], key=first)
    world.connect_all()
    world.submit(["b"], key=second, deadline=world.now + 2.0)
    world.sleep(2.5)
    assert queued(world, "b").endswith("to be free")


reasons = st.lists(st.tuples(st.floats(0, 100), st.sampled_from(["", "for a core", "for a worker"])), max_size=10).map(
    sorted
)


@given(reasons, st.floats(0, 100), st.floats(0, 100))
def test_no_more_is_told_than_was_waited(changes: list[tuple[float, str]], start: float, length: float) -> None:
    log = WaitLog()
    for at, reason in changes:
        log.note(at, reason)
    told = log.told(start, start + length)
    waits = [since for since, reason in changes if reason and since < start + length]
    assert not told or (length >= WORTH_TELLING_SECONDS and waits)
    assert told.count(" for a ") <= 2, "each reason once"
