"""Versions tried beside the current one: a canary that cannot run is stopped and costs no call; a shadow gives way."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from stoker.core import commands as c
from stoker.core import events as e
from stoker.core.calls import Result
from stoker.core.trials import BARREN_MAX, CANARY, SHADOW
from stoker.types import CallState, ErrorInfo, Outcome
from tests.core.world import World, spec


def version(world: World, number: int, role: str = "", **options: object) -> str:
    made = replace(spec("f", **options), version=number)
    world.step(e.FunctionDeclared(made, made.key, role=role))
    return made.key


def failed(world: World) -> list[c.TellTrialFailed]:
    return [command for command in world.log if isinstance(command, c.TellTrialFailed)]


def replace_by(world: World, canary: str, stable: str) -> None:
    """What the server does when it is told."""
    world.step(e.PoolReplaced(canary, stable), e.FunctionRetired(canary))


def crash(world: World, key: str, times: int) -> None:
    for _ in range(times):
        worker = next(w for w in world.workers.values() if w.key == key)
        if not worker.connected:
            world.connect(worker.id)
        world.kill(worker.id)
        world.sleep(2.0)


def test_a_canary_whose_workers_die_under_their_first_calls_costs_no_call() -> None:
    world = World(cpus=2)
    stable, canary = version(world, 1), version(world, 2, CANARY, max_workers=1)
    world.submit(["a"], key=canary)
    crash(world, canary, BARREN_MAX - 1)
    assert not failed(world)
    crash(world, canary, 1)
    ((key, why),) = failed(world)
    assert key == canary and f"{BARREN_MAX} workers in a row" in why and "killed by signal 9" in why
    assert not world.workers, "no more are started"
    replace_by(world, canary, stable)
    assert [w.key for w in world.workers.values()] == [stable]
    world.settle_everything()
    assert [r.outcome for _, r in world.results["a"]] == [Outcome.VALUE]
    assert list(world.plane.state.pools) == [stable]


def test_workers_that_never_come_up_count_as_well() -> None:
    world = World(cpus=1)
    stable, canary = version(world, 1), version(world, 2, CANARY)
    world.submit(["a"], key=canary)
    for _ in range(BARREN_MAX):
        (worker,) = world.workers
        world.kill(worker)
        world.sleep(2.0)
    assert len(failed(world)) == 1
    replace_by(world, canary, stable)
    world.settle_everything()
    assert world.results["a"][0][1].outcome is Outcome.VALUE


def test_an_environment_that_cannot_be_built_fails_the_canary_at_once_and_no_call() -> None:
    world = World()
    stable, canary = version(world, 1), version(world, 2, CANARY)
    world.submit(["a"], key=canary)
    (worker,) = world.workers
    del world.workers[worker]
    world.step(e.WorkerRefused(worker, ErrorInfo("ImageBuildError", "no such package")))
    ((_, why),) = failed(world)
    assert why == "no such package" and not world.results
    replace_by(world, canary, stable)
    world.settle_everything()
    assert world.results["a"][0][1].outcome is Outcome.VALUE


def test_a_worker_that_has_answered_clears_its_version() -> None:
    world = World(cpus=1)
    _, canary = version(world, 1), version(world, 2, CANARY)
    for number in range(2 * BARREN_MAX):
        world.submit([f"a{number}"], key=canary)
        world.connect_all()
        world.finish_first()
        crash(world, canary, 1)
    assert not failed(world)


def test_what_the_current_version_lacks_fails_with_the_reason() -> None:
    world = World(cpus=1)
    canary = version(world, 2, CANARY)
    world.submit(["a"], key=canary)
    crash(world, canary, BARREN_MAX)
    replace_by(world, canary, "")
    ((_, result),) = world.results["a"]
    assert result.error is not None and "3 workers in a row" in result.error.message


def test_what_is_still_being_written_or_waits_for_a_retry_is_moved_too() -> None:
    world = World(cpus=1)
    stable, canary = version(world, 1), version(world, 2, CANARY)
    state = world.plane.state
    world.submit(["d"], key=canary, detached=True)
    assert state.calls["d"].state is CallState.ACCEPTING
    replace_by(world, canary, stable)
    assert (state.pools[stable].accepting, canary in state.pools) == (1, False)
    world.settle_everything()
    assert world.results["d"][0][1].outcome is Outcome.VALUE


def test_a_call_that_a_failed_canary_loses_later_is_run_by_the_current_version() -> None:
    world = World(cpus=2)
    stable, canary = version(world, 1), version(world, 2, CANARY)
    world.submit(["a"], key=canary)
    world.connect_all()
    replace_by(world, canary, stable)
    (worker,) = [w.id for w in world.workers.values() if w.key == canary]
    world.kill(worker)
    world.settle_everything()
    assert world.results["a"][0][1] == Result(Outcome.VALUE, b"v", None, 0.01)
    assert state_of(world, stable) == 1


def state_of(world: World, key: str) -> int:
    return world.plane.state.pools[key].done


def test_no_worker_of_a_divided_function_is_lent_to_a_client() -> None:
    world = World()
    made = replace(spec("f"), version=1)
    world.step(e.FunctionDeclared(made, made.key))
    for number in range(3):
        world.submit([f"a{number}"], key=made.key)
        world.connect_all()
        while world.finish_first(Result(Outcome.VALUE, b"", None, 0.0001)):
            pass
    world.step(e.ChannelAsked("c1", made.key))
    (channel,) = world.channels.values()
    world.step(e.FunctionDeclared(made, made.key, is_divided=True))
    assert channel.closed
    world.say_closed(channel)
    world.step(e.ChannelAsked("c1", made.key))
    assert not world.channels
    world.step(e.FunctionDeclared(made, made.key))
    world.step(e.ChannelAsked("c1", made.key))
    assert world.channels


def test_a_shadow_gives_its_place_to_whoever_waits_for_one() -> None:
    world = World(cpus=2)
    stable, shadow = version(world, 1), version(world, 2, SHADOW)
    world.submit(["a"], key=stable)
    world.submit(["s"], key=shadow, client="shadow")
    world.connect_all()
    world.submit(["b"], key=stable)
    assert world.results["s"][0][1].outcome is Outcome.CANCELLED
    (theirs,) = [w for w in world.workers.values() if w.key == shadow]
    assert theirs.draining
    world.settle_everything()
    assert {world.results[call][0][1].outcome for call in ("a", "b")} == {Outcome.VALUE}


def test_a_shadow_takes_no_place_from_anybody() -> None:
    world = World(cpus=1)
    stable, shadow = version(world, 1), version(world, 2, SHADOW)
    world.submit(["a"], key=stable)
    world.connect_all()
    world.finish_first()
    world.submit(["s"], key=shadow, client="shadow")
    world.sleep(5.0)
    assert [w.key for w in world.workers.values() if not w.draining] == [stable], "an idle worker stays where it is"
    world.submit(["b"], key=stable)
    assert world.finish_first()
    assert world.results["b"][0][1].outcome is Outcome.VALUE


def test_a_version_that_is_promoted_as_it_fails_fails_openly_from_then_on() -> None:
    world = World(cpus=1)
    canary = version(world, 2, CANARY)
    world.submit(["a"], key=canary)
    crash(world, canary, BARREN_MAX)
    assert failed(world) and not world.workers
    version(world, 2)
    world.sleep(2.0)
    world.settle_everything()
    assert world.results["a"][0][1].outcome is Outcome.VALUE


STEPS = st.lists(st.sampled_from(["call", "trial", "spawn", "shadow", "up", "done", "fail", "kill", "refuse", "wait"]))


@given(steps=STEPS, data=st.data())
def test_whatever_happens_to_a_canary_each_call_ends_once(steps: list[str], data: st.DataObject) -> None:
    world = World(cpus=2)
    stable, canary, shadow = version(world, 1), version(world, 2, CANARY), version(world, 3, SHADOW)
    for number, step in enumerate(steps):
        on_trial = [w.id for w in world.workers.values() if w.key != stable]
        if step in {"call", "trial", "spawn", "shadow"}:
            key = {"call": stable, "shadow": shadow}.get(step, canary if not failed_of(world, canary) else stable)
            client = "shadow" if step == "shadow" else "c1"
            world.submit([f"{step}{number}"], key=key, client=client, detached=step == "spawn")
        elif step == "up":
            world.connect_all()
        elif step in {"done", "fail"}:
            error = ErrorInfo("builtins.ValueError", "no", mro=["builtins.ValueError"])
            world.finish_first(Result(Outcome.ERROR, b"", error, 0.01) if step == "fail" else None)
        elif step == "wait":
            world.sleep(1.0)
        elif on_trial:
            worker = data.draw(st.sampled_from(on_trial))
            if step == "kill":
                world.kill(worker)
            elif not world.workers[worker].connected:
                del world.workers[worker]
                world.step(e.WorkerRefused(worker, ErrorInfo("ImageBuildError", "no such package")))
        left = world.plane.state.pools.get(canary)
        if left is not None and left.failed_trial and not left.retired:
            replace_by(world, canary, stable)
    world.step(e.CancelAsked([call for call in world.plane.state.calls if call.startswith("shadow")]))
    world.settle_everything()
    assert set(world.results) == set(world.asked)
    for pool in world.plane.state.pools.values():
        assert (len(pool.queue), pool.backoff, pool.accepting, pool.clients) == (0, 0, 0, {})


def failed_of(world: World, key: str) -> bool:
    return any(command.key == key for command in failed(world))
