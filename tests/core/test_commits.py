"""Writes that the store refuses: a full disk is waited for, a row that can never be written holds nobody up."""

from __future__ import annotations

import pytest

from stoker.core import commands as c
from stoker.core import events as e
from stoker.core.calls import Call, Result
from stoker.types import CallState, Outcome

from .world import World, spec


@pytest.fixture
def world() -> World:
    return World(cpus=1.0)


def spawn(world: World, *ids: str) -> None:
    world.submit(list(ids), key=world.declare(spec(concurrency=16)), detached=True)


def run(world: World, *ids: str) -> str:
    """Spawn calls and have them leased; return their worker."""
    spawn(world, *ids)
    world.write()
    world.connect_all()
    (worker,) = world.workers
    return worker


def finish(world: World, worker: str, *ids: str) -> None:
    """Have calls end together, their ids their values."""
    attempts = [world.workers[worker].leases.pop(call_id) for call_id in ids]
    results = [Result(Outcome.VALUE, call_id.encode()) for call_id in ids]
    world.step(e.AttemptsEnded(worker, list(ids), attempts, results))


def settle(world: World) -> None:
    while world.unwritten:
        world.write()


def test_a_result_that_cannot_be_written_keeps_no_other_waiting(world: World) -> None:
    ids = [f"c{n}" for n in range(9)]
    worker = run(world, *ids)
    world.poisoned.add(b"c4")
    finish(world, worker, *ids)
    settle(world)
    assert set(world.results) == {*ids} - {"c4"}
    assert world.plane.state.calls["c4"].state is CallState.SUCCEEDED


def test_it_becomes_a_stated_failure_of_its_own_call(world: World) -> None:
    worker = run(world, "a", "b")
    world.poisoned.add(b"a")
    finish(world, worker, "a", "b")
    for _ in range(4):
        settle(world)
        world.sleep(4.0)
    ((_, result),) = world.results["a"]
    assert (result.outcome, result.error and result.error.type_name) == (Outcome.ERROR, "StoreError")
    assert result.error is not None and "it is poisoned" in result.error.message
    assert world.results["b"][0][1].outcome is Outcome.VALUE
    state = world.plane.state
    assert not (state.calls or state.settling or state.refusals)


def test_what_waits_for_the_whole_write_waits_for_each_part(world: World) -> None:
    ids = ("a", "b", "c")
    worker = run(world, *ids)
    world.poisoned.add(b"c")
    world.log.clear()
    finish(world, worker, *ids)
    settle(world)
    parts = [x for x in world.log if isinstance(x, c.PersistSettled)]
    first = parts[0].token
    known = {first}
    for part in parts[1:]:
        assert part.token in known or part.beside in known
        known.add(part.token)


def test_a_full_disk_is_waited_for_ever_longer_and_fails_nobody(world: World) -> None:
    worker = run(world, "a", "b")
    finish(world, worker, "a", "b")
    waits = []
    for _ in range(8):
        world.write(fail=True)
        began = world.now
        while not world.unwritten:
            world.sleep(0.5)
        waits.append(round(world.now - began))
        assert len(world.unwritten) == 1, "it is not taken apart"
    assert waits == sorted(waits) and waits[-1] == 10
    settle(world)
    assert [world.results[x][0][1].outcome for x in ("a", "b")] == [Outcome.VALUE] * 2


def test_a_call_that_cannot_be_accepted_refuses_no_other(world: World) -> None:
    ids = [f"c{n}" for n in range(5)]
    world.poisoned.add("c0")
    spawn(world, *ids)
    settle(world)
    assert set(world.refused) == {"c0"}
    assert world.accepted == {*ids} - {"c0"}


def test_a_call_cancelled_meanwhile_is_not_accepted_after_all(world: World) -> None:
    world.poisoned.add("a")
    spawn(world, "a", "b", "c")
    world.step(e.CancelAsked(["b"]))
    settle(world)
    calls: dict[str, Call] = world.rows
    assert set(calls) == {"c"}
    assert world.results["b"][0][1].outcome is Outcome.CANCELLED
    assert world.plane.state.pools[world.plane.state.calls["c"].pool.key].accepting == 0
