"""Gangs as lists of events: all ranks or none, the first failure ends all, each call settled once."""

from __future__ import annotations

from typing import Any

import pytest

from stoker.core import commands as c
from stoker.core import events as e
from stoker.core.calls import Result
from stoker.core.gang_attempts import BLAME_SECONDS, GATHER_SECONDS
from stoker.core.placement import Capacity, Node, place_gang
from stoker.core.plane import CallPlane
from stoker.core.pools import GangPhase
from stoker.core.state import Limits
from stoker.types import CallState, ErrorInfo, GangSpec, Outcome, RetrySpec
from tests.core.world import NODE, World, spec

VALUE = Result(Outcome.VALUE, b"v", None, 0.01)
ERROR = Result(Outcome.ERROR, b"e", ErrorInfo("builtins.ValueError", "bad", mro=["builtins.ValueError"]), 0.01)
ECHO = Result(Outcome.ERROR, b"x", ErrorInfo("builtins.RuntimeError", "connection closed by peer"), 0.01)
STOPPED = Result(Outcome.CANCELLED, b"", None, 0.0)


def begun(*, size: int = 4, least: int = 0, cpus: float = 2.0, **options: Any) -> tuple[World, str]:
    """Return a world in which call ``a`` runs in a gang."""
    world = World(cpus=cpus)
    key = world.declare(spec(cpu=0.5, gang=GangSpec(least or size, size), **options))
    world.submit(["a"], key=key)
    world.connect_all()
    world.answer_gathers()
    return world, key


def ranks(world: World) -> list[str]:
    """Return the workers that hold ``a``, by rank."""
    found = [w for w in world.workers.values() if "a" in w.leases and w.seat is not None]
    return [w.id for w in sorted(found, key=lambda w: w.seat.rank if w.seat else 0)]


def error_of(world: World, call_id: str = "a") -> ErrorInfo:
    ((_, result),) = world.results[call_id]
    assert result.error is not None
    return result.error


def commands_of(world: World, kind: type[object]) -> list[object]:
    return [command for command in world.log if isinstance(command, kind)]


def test_all_ranks_start_and_the_value_is_rank_zeros() -> None:
    world, _ = begun()
    workers = ranks(world)
    assert len(workers) == 4
    seats = [world.workers[w].seat for w in workers]
    assert [seat.rank for seat in seats if seat] == [0, 1, 2, 3]
    assert len({tuple(seat.addresses) for seat in seats if seat}) == 1
    for rank in (0, 2, 1):
        world.finish(workers[rank], "a", VALUE._replace(payload=str(rank).encode()))
    assert "a" not in world.results  # one of them still runs
    world.finish(workers[3], "a", VALUE._replace(payload=b"3"))
    assert world.results["a"][0][1].payload == b"0"


def test_the_next_call_finds_the_gang_warm() -> None:
    world, key = begun()
    for worker in ranks(world):
        world.finish(worker, "a")
    world.submit(["b"], key=key)
    assert len(world.workers) == 4
    world.answer_gathers()
    assert all("b" in worker.leases for worker in world.workers.values())


def test_no_lease_goes_out_before_every_rank_can_be_met() -> None:
    world = World()
    key = world.declare(spec(cpu=0.5, gang=GangSpec(4, 4)))
    world.submit(["a"], key=key)
    *most, last = world.workers
    for worker in most:
        world.connect(worker)
    assert not commands_of(world, c.GatherRank)
    world.connect(last)
    for worker in most:
        world.answer_gather(world.workers[worker])
    assert not commands_of(world, c.LeaseRank)
    world.answer_gather(world.workers[last])
    assert len(commands_of(world, c.LeaseRank)) == 4


def test_two_gangs_that_fit_one_at_a_time_run_one_after_the_other() -> None:
    world = World(cpus=2)
    keys = [world.declare(spec(f"f{i}", cpu=0.5, gang=GangSpec(3, 3))) for i in range(2)]
    for key, call_id in zip(keys, "ab", strict=True):
        world.submit([call_id], key=key)
    assert len(world.workers) == 3  # the second has none of its own, not one
    world.settle_everything()
    assert set(world.results) == {"a", "b"}


def test_room_is_made_for_a_whole_gang() -> None:
    world = World(cpus=2)
    plain = world.declare(spec("plain", cpu=1))
    world.submit(["p", "q"], key=plain)
    world.connect_all()
    while world.finish_first():
        pass
    key = world.declare(spec(cpu=0.5, gang=GangSpec(4, 4)))
    world.submit(["a"], key=key)
    assert all(worker.draining for worker in world.workers.values())
    world.settle_everything()
    assert "a" in world.results


def test_a_gang_larger_than_the_nodes_are_is_refused_at_once_and_says_what_fits() -> None:
    world = World(cpus=2)
    key = world.declare(spec(cpu=0.5, gang=GangSpec(5, 8)))
    world.submit(["a"], key=key)
    assert world.refused["a"].type_name == "Unschedulable"
    assert "5 ranks with 0.5 CPU each, of which 4 fit" in world.refused["a"].message


def test_the_first_failure_ends_all_ranks_and_says_whose_it_was() -> None:
    world, _ = begun()
    workers = ranks(world)
    world.finish(workers[2], "a", ERROR)
    assert all("a" in world.workers[w].cancelled for w in workers if w != workers[2])
    for rank in (0, 1, 3):
        world.finish(workers[rank], "a", STOPPED)
    error = error_of(world)
    assert (error.type_name, error.fields) == ("builtins.ValueError", {"rank": 2, "ranks": 4})


def test_the_caller_does_not_wait_for_a_rank_that_hangs_and_it_is_killed() -> None:
    world, _ = begun()
    workers = ranks(world)
    world.finish(workers[1], "a", ERROR)
    world.sleep(BLAME_SECONDS + 1)
    assert error_of(world).fields["rank"] == 1
    world.sleep(Limits().gang_grace)
    assert [w.id for w in world.workers.values() if w.stopped] == [w for w in workers if w != workers[1]]


def test_an_exception_that_is_the_echo_of_a_death_is_not_blamed() -> None:
    world, _ = begun(lost_retries=0)
    workers = ranks(world)
    world.finish(workers[0], "a", ECHO)
    assert "a" not in world.results
    world.kill(workers[3])
    error = error_of(world)
    assert error.type_name == "WorkerLost"
    assert "rank 3 of 4" in error.message


def test_a_lost_rank_counts_once_and_the_gang_is_started_again() -> None:
    world, _ = begun(lost_retries=1)
    workers = ranks(world)
    world.kill(workers[1])
    assert world.plane.state.calls["a"].losses == 1
    for rank in (0, 2, 3):
        world.finish(workers[rank], "a", STOPPED)
    world.settle_everything()
    assert world.results["a"][0][1].outcome is Outcome.VALUE
    assert not set(workers) & set(world.workers)


def test_a_retry_runs_on_the_same_gang_and_counts_once() -> None:
    world, _ = begun(retries=RetrySpec(max_retries=1, initial_delay=0.0))
    workers = ranks(world)
    for worker in workers:
        world.finish(worker, "a", ERROR)
    call = world.plane.state.calls["a"]
    assert call.failures == 1
    world.sleep(0.1)
    world.answer_gathers()
    assert ranks(world) == workers
    assert call.attempt == 2


def test_memory_and_timeouts_name_the_rank() -> None:
    world, _ = begun()
    world.kill(ranks(world)[3], cause="memory")
    assert error_of(world).type_name == "OutOfMemory"
    assert "rank 3 of 4" in error_of(world).message
    world, _ = begun(timeout=5.0)
    world.sleep(5 + Limits().timeout_grace + 1)
    stopped = [w.id for w in world.workers.values() if w.stopped]
    assert stopped
    world.kill(stopped[0], cause="stopped")
    assert error_of(world).type_name == "CallTimeout"
    assert "of 4" in error_of(world).message


@pytest.mark.parametrize("when", ["gathering", "running"])
def test_a_cancelled_call_frees_its_gang(when: str) -> None:
    world = World()
    key = world.declare(spec(cpu=0.5, gang=GangSpec(4, 4)))
    world.submit(["a"], key=key)
    world.connect_all()
    if when == "running":
        world.answer_gathers()
    world.step(e.CancelAsked(["a"]))
    assert error_of(world).type_name == "CallCancelled"
    world.answer_gathers()
    for worker in ranks(world):
        assert "a" in world.workers[worker].cancelled
        world.finish(worker, "a", STOPPED)
    world.submit(["b"], key=key)
    world.answer_gathers()
    assert all("b" in worker.leases for worker in world.workers.values())


def test_a_forced_cancel_kills_at_once() -> None:
    world, _ = begun()
    world.step(e.CancelAsked(["a"], force=True))
    assert all(worker.stopped for worker in world.workers.values())


def test_a_deadline_ends_all_ranks() -> None:
    world = World()
    key = world.declare(spec(cpu=0.5, gang=GangSpec(2, 2)))
    world.submit(["a"], key=key, deadline=world.now + 3)
    world.connect_all()
    world.answer_gathers()
    world.sleep(4)
    assert error_of(world).type_name == "DeadlineExceeded"
    assert all("a" in worker.cancelled for worker in world.workers.values())


def test_late_reports_are_dropped() -> None:
    world, _ = begun(retries=RetrySpec(max_retries=3, initial_delay=0.0))
    workers = ranks(world)
    for worker in workers:
        world.finish(worker, "a", ERROR)
    world.sleep(0.1)
    world.answer_gathers()
    world.step(e.AttemptsEnded(workers[0], ["a"], [1], [VALUE]))
    assert len(ranks(world)) == 4
    for worker in workers:
        world.finish(worker, "a")
    assert len(world.results["a"]) == 1


def test_a_rank_that_cannot_start_is_told_once_and_the_others_are_stopped() -> None:
    world = World()
    key = world.declare(spec(cpu=0.5, gang=GangSpec(4, 4)))
    world.submit(["a"], key=key)
    first, *others = list(world.workers)
    world.connect(others[0])
    del world.workers[first]
    world.step(e.WorkerRefused(first, ErrorInfo("ImageBuildError", "no such package")))
    assert error_of(world).type_name == "ImageBuildError"
    assert all(world.workers[w].stopped for w in others[1:])
    assert world.workers[others[0]].draining


def test_a_start_for_which_there_is_no_room_now_is_refused_whole_and_tried_again() -> None:
    world = World()
    key = world.declare(spec(cpu=0.5, gang=GangSpec(4, 4)))
    world.submit(["a"], key=key)
    refused, world.workers = list(world.workers), {}
    error = ErrorInfo("Overloaded", "held by other programs")
    world.step(*(e.WorkerRefused(worker, error, retry=True) for worker in refused))
    assert not world.plane.state.workers
    world.sleep(1.0)
    assert len(world.workers) == 4
    world.settle_everything()
    assert "a" in world.results


def test_a_worker_that_does_not_answer_is_stopped() -> None:
    world = World()
    key = world.declare(spec(cpu=0.5, gang=GangSpec(2, 2)))
    world.submit(["a"], key=key)
    world.connect_all()
    mute, other = world.workers.values()
    world.answer_gather(other)
    world.sleep(GATHER_SECONDS + 1)
    assert mute.stopped
    assert not other.stopped
    world.kill(mute.id, cause="stopped")
    call = world.plane.state.calls["a"]
    assert (call.losses, call.failures) == (0, 0)  # nothing had begun
    world.settle_everything()


def test_an_idle_gang_goes_whole() -> None:
    world, _ = begun(idle_timeout=10.0)
    for worker in ranks(world):
        world.finish(worker, "a")
    world.sleep(9)
    assert not any(worker.draining for worker in world.workers.values())
    world.sleep(2)
    assert all(worker.draining for worker in world.workers.values())


def test_warm_workers_are_kept_by_whole_gangs() -> None:
    world = World()
    world.declare(spec(cpu=0.5, gang=GangSpec(2, 2), min_workers=2, max_workers=4, idle_timeout=1.0))
    assert len(world.workers) == 2
    world.connect_all()
    world.sleep(5)
    assert not any(worker.draining for worker in world.workers.values())


# Elastic gangs


def test_an_elastic_gang_starts_with_what_fits() -> None:
    world, _ = begun(size=8, least=2, cpus=2)
    assert len(ranks(world)) == 4


def test_an_elastic_gang_goes_on_with_the_ranks_that_are_left() -> None:
    world, _ = begun(size=4, least=2)
    workers = ranks(world)
    world.kill(workers[0])
    told = [command for command in world.log if isinstance(command, c.CancelRunning)]
    assert {(x.worker, x.reason) for x in told} == {(w, "gang") for w in workers[1:]}
    for worker in workers[1:]:
        world.finish(worker, "a", STOPPED)
    world.answer_gathers()
    assert ranks(world) == workers[1:]
    assert world.plane.state.calls["a"].losses == 0
    for worker in workers[1:]:
        world.finish(worker, "a")
    assert world.results["a"][0][1].outcome is Outcome.VALUE


def test_ranks_that_fail_because_another_was_lost_go_on_too() -> None:
    world, _ = begun(size=4, least=2)
    workers = ranks(world)
    world.finish(workers[0], "a", ECHO)
    world.kill(workers[2])
    world.finish(workers[1], "a", ECHO)
    world.finish(workers[3], "a", STOPPED)
    world.answer_gathers()
    assert ranks(world) == [workers[0], workers[1], workers[3]]


def test_an_elastic_gang_below_its_least_is_lost() -> None:
    world, _ = begun(size=4, least=3, lost_retries=1)
    workers = ranks(world)
    for worker in workers[:2]:
        world.kill(worker)
    assert world.plane.state.calls["a"].losses == 1
    for worker in workers[2:]:
        world.finish(worker, "a", STOPPED)
    world.settle_everything()
    assert world.results["a"][0][1].outcome is Outcome.VALUE


def test_lost_ranks_are_replaced_when_the_next_call_begins() -> None:
    world, key = begun(size=4, least=2)
    workers = ranks(world)
    world.kill(workers[0])
    for worker in workers[1:]:
        world.finish(worker, "a", STOPPED)
    world.answer_gathers()
    for worker in workers[1:]:
        world.finish(worker, "a")
    world.submit(["b"], key=key)
    assert len(world.workers) == 4
    world.connect_all()
    world.answer_gathers()
    assert all("b" in worker.leases for worker in world.workers.values())


def test_an_exception_in_an_elastic_gang_is_a_failure() -> None:
    world, _ = begun(size=4, least=2)
    for worker in ranks(world):
        world.finish(worker, "a", ERROR)
    assert error_of(world).type_name == "builtins.ValueError"


# Connections and servers that break


def test_a_lease_that_was_lost_with_its_connection_begins_the_attempt_anew() -> None:
    world, _ = begun()
    workers = ranks(world)
    broken = world.workers[workers[1]]
    world.step(e.WorkerDisconnected(broken.id))
    broken.leases.clear()
    world.connect(broken.id)
    world.sleep(2)
    assert all("a" in world.workers[w].cancelled for w in workers if w != broken.id)
    for worker in workers:
        if worker != broken.id:
            world.finish(worker, "a", STOPPED)
    world.settle_everything()
    assert world.results["a"][0][1].outcome is Outcome.VALUE


def restarted(world: World, key: str) -> World:
    """Return the world of the next term, in which the workers of the last one still run."""
    spec_of = world.plane.state.pools[key].spec
    there = [(w.id, w.key, w.capacity) for w in world.workers.values()]
    world.plane = CallPlane(prefix="x", now=world.now)
    for worker in world.workers.values():
        worker.connected, worker.gather = False, None
    world.step(e.RecoveryBegan([NODE], world.now + 30))
    world.step(e.FunctionDeclared(spec_of, key))
    world.step(e.NodeReported(NODE, world.size, world.size, there))
    return world


@pytest.mark.parametrize("first", ["call", "workers"])
def test_after_a_restart_a_gang_that_is_whole_is_adopted(first: str) -> None:
    world, key = begun()
    workers = ranks(world)
    world = restarted(world, key)
    if first == "call":
        world.submit(["a"], key=key)
    world.connect_all()
    if first == "workers":
        world.submit(["a"], key=key)
    call = world.plane.state.calls["a"]
    assert (call.state, call.attempt) == (CallState.LEASED, 1)
    for worker in workers:
        world.finish(worker, "a", VALUE)
    assert len(world.results["a"]) == 1
    (gang,) = world.plane.state.pools[key].gangs.values()
    assert gang.phase is GangPhase.IDLE


@pytest.mark.parametrize("lack", ["died", "had ended"])
def test_after_a_restart_a_gang_that_is_not_whole_is_ended_whole_and_run_again(lack: str) -> None:
    world, key = begun()
    workers = ranks(world)
    if lack == "died":
        del world.workers[workers[1]]
    else:
        world.workers[workers[1]].leases.clear()
    world = restarted(world, key)
    world.submit(["a"], key=key)
    world.connect_all()
    world.sleep(31)
    for worker in workers:
        if worker in world.workers and world.workers[worker].leases:
            assert "a" in world.workers[worker].cancelled
    world.settle_everything()
    assert len(world.results["a"]) == 1
    assert not set(workers) & set(world.workers)


def test_after_a_restart_a_gang_whose_client_is_gone_ends() -> None:
    world, key = begun()
    world = restarted(world, key)
    world.connect_all()
    world.sleep(Limits().client_grace + 1)
    assert all("a" in worker.cancelled for worker in world.workers.values())
    world.settle_everything()
    world.sleep(Limits().gang_grace + 1)
    assert not world.plane.state.workers or all(w.stopped or w.draining for w in world.workers.values())


def test_a_call_that_must_not_run_twice_is_written_down_first() -> None:
    world = World()
    key = world.declare(spec(cpu=0.5, gang=GangSpec(2, 2), lost_retries=0))
    world.submit(["a"], key=key, detached=True)
    world.write()
    world.connect_all()
    world.answer_gathers()
    assert not commands_of(world, c.LeaseRank)
    world.write(fail=True)
    assert not commands_of(world, c.LeaseRank)
    world.sleep(Limits().persist_retry + 0.1)
    world.answer_gathers()
    world.write()
    assert len(commands_of(world, c.LeaseRank)) == 2


def test_a_stop_of_the_server_is_noted_once_for_a_gang() -> None:
    world = World()
    key = world.declare(spec(cpu=0.5, gang=GangSpec(4, 4)))
    world.submit(["a"], key=key, detached=True)
    world.write()
    world.connect_all()
    world.answer_gathers()
    call = world.plane.state.calls["a"]
    world.step(e.StopBegan())
    world.step(e.StopEnded(list(world.workers)))
    assert [event for _, event, _ in call.timeline(0.0)].count("interrupted") == 1


# Placement


def node(name: str, cpus: float) -> Node:
    return Node(name, Capacity(cpus, 1 << 30), Capacity(cpus, 1 << 30))


def test_a_gang_is_placed_on_as_few_nodes_as_can_be() -> None:
    nodes = [node("small", 2), node("large", 8), node("middle", 4)]
    one = Capacity(1.0, 0)
    assert [n.id for n in place_gang(nodes, one, least=4, most=4)] == ["middle"] * 4
    assert [n.id for n in place_gang(nodes, one, least=2, most=10)] == ["large"] * 8 + ["small"] * 2
    assert len(place_gang(nodes, one, least=2, most=20)) == 14
    assert place_gang(nodes, one, least=15, most=20) == []
    assert place_gang([], one, least=1, most=1) == []
