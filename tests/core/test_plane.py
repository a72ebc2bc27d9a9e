"""The hard interleavings, as plain lists of events in injected time."""

from __future__ import annotations

from stoker.core import commands as c
from stoker.core import events as e
from stoker.core.calls import Result
from stoker.core.placement import Capacity
from stoker.core.plane import CallPlane
from stoker.core.state import Limits
from stoker.types import CallState, ErrorInfo, Outcome, RetrySpec
from tests.core.world import NODE, World, spec

VALUE = Result(Outcome.VALUE, b"v", None, 0.01)
ERROR = Result(Outcome.ERROR, b"e", ErrorInfo("builtins.ValueError", "bad", mro=["builtins.ValueError"]), 0.01)


def test_a_call_is_queued_leased_and_delivered() -> None:
    world = World()
    key = world.declare(spec())
    world.submit(["a"], key=key)
    assert len(world.workers) == 1
    world.connect_all()
    assert world.finish_first()
    assert world.results["a"] == [("c1", VALUE)]
    assert not world.plane.state.calls


def test_no_more_workers_than_fit_the_node() -> None:
    world = World(cpus=2)
    key = world.declare(spec())
    world.submit([f"a{i}" for i in range(50)], key=key)
    assert len(world.workers) == 2
    world.settle_everything()
    assert len(world.results) == 50


def test_a_lost_worker_gives_its_running_call_back_and_the_waiting_ones_uncounted() -> None:
    world = World(cpus=1)
    key = world.declare(spec())
    world.submit(["warm"], key=key)
    world.connect_all()
    world.finish_first(Result(Outcome.VALUE, b"", None, 0.00001))
    world.submit([f"a{i}" for i in range(10)], key=key)
    (worker,) = world.workers.values()
    assert len(worker.leases) == 10  # runs are short: leased ahead
    world.kill(worker.id)
    calls = world.plane.state.calls
    assert calls["a0"].losses == 1
    assert all(calls[f"a{i}"].losses == 0 for i in range(1, 10))
    told = [(event, detail) for _, event, detail in calls["a0"].timeline(0.0)]
    assert ("running", worker.id) in told, "where the lost attempt ran is told as well"
    assert [event for event, _ in told].index("running") < [event for event, _ in told].index("lost")
    world.settle_everything()
    assert len(world.results) == 11


def test_losing_more_workers_than_allowed_fails_with_how_they_ended() -> None:
    world = World(cpus=1)
    key = world.declare(spec(lost_retries=1))
    world.submit(["a"], key=key)
    for _ in range(2):
        world.sleep(1.0)
        world.connect_all()
        (worker,) = world.workers
        world.kill(worker)
    ((_, result),) = world.results["a"]
    assert result.error is not None
    assert result.error.type_name == "WorkerLost"
    assert "signal 9" in result.error.message


def test_running_out_of_memory_is_a_failure_not_a_loss() -> None:
    world = World(cpus=1)
    key = world.declare(spec(lost_retries=5))
    world.submit(["a"], key=key)
    world.connect_all()
    world.kill(next(iter(world.workers)), cause="memory")
    ((_, result),) = world.results["a"]
    assert result.error is not None
    assert result.error.type_name == "OutOfMemory"


def test_retries_wait_longer_each_time_and_then_the_error_arrives() -> None:
    world = World()
    key = world.declare(spec(retries=RetrySpec(max_retries=2, initial_delay=1.0, backoff=2.0)))
    world.submit(["a"], key=key)
    world.connect_all()
    world.finish_first(ERROR)
    assert world.plane.state.calls["a"].state is CallState.BACKOFF
    world.sleep(0.9)
    assert world.plane.state.calls["a"].state is CallState.BACKOFF
    world.sleep(0.2)
    world.finish_first(ERROR)
    world.sleep(1.5)
    assert world.plane.state.calls["a"].state is CallState.BACKOFF
    world.sleep(0.6)
    world.finish_first(ERROR)
    assert world.results["a"][0][1] == ERROR


def test_retries_only_on_the_named_exceptions() -> None:
    world = World()
    key = world.declare(spec(retries=RetrySpec(max_retries=5, on=["KeyError"])))
    world.submit(["a"], key=key)
    world.connect_all()
    world.finish_first(ERROR)
    assert world.results["a"][0][1] == ERROR


def test_a_detached_call_is_not_leased_before_its_commit() -> None:
    world = World()
    key = world.declare(spec())
    world.submit(["a"], key=key, detached=True)
    assert not world.workers
    assert "a" not in world.accepted
    world.write()
    assert "a" in world.accepted
    world.connect_all()
    world.finish_first()
    assert "a" not in world.results  # its end is not written down yet
    world.write()
    assert world.results["a"][0][1] == VALUE


def test_a_failed_commit_is_a_refusal_with_its_reason() -> None:
    world = World()
    key = world.declare(spec())
    world.submit(["a"], key=key, detached=True)
    world.write(fail=True)
    assert world.refused["a"].type_name == "StoreError"
    assert "disk full" in world.refused["a"].message
    assert not world.plane.state.calls


def test_a_result_that_cannot_be_written_down_is_kept_and_written_later() -> None:
    world = World()
    key = world.declare(spec())
    world.submit(["a"], key=key, detached=True)
    world.write()
    world.connect_all()
    world.finish_first()
    world.write(fail=True)
    assert "a" not in world.results
    world.sleep(2.0)
    world.write()
    assert world.results["a"][0][1] == VALUE


def test_cancel_crosses_completion_and_settles_once() -> None:
    world = World()
    key = world.declare(spec())
    world.submit(["a"], key=key)
    world.connect_all()
    world.step(e.CancelAsked(["a"]))
    assert world.results["a"][0][1].outcome is Outcome.CANCELLED
    world.finish_first()  # the value that was on its way: dropped
    assert len(world.results["a"]) == 1


def test_a_worker_deaf_to_cancellation_is_stopped_and_its_place_is_kept_till_then() -> None:
    world = World(cpus=1)
    key = world.declare(spec())
    world.submit(["a"], key=key)
    world.connect_all()
    world.step(e.CancelAsked(["a"]))
    world.submit(["b"], key=key)
    assert "b" not in next(iter(world.workers.values())).leases
    world.sleep(11.0)
    assert any(isinstance(x, c.StopWorker) for x in world.log)
    world.kill(next(iter(world.workers)), cause="stopped")
    world.settle_everything()
    assert world.results["b"][0][1] == VALUE


def test_a_late_result_of_an_attempt_given_to_another_worker_is_dropped() -> None:
    world = World(cpus=2)
    key = world.declare(spec())
    world.submit(["a"], key=key)
    world.connect_all()
    first = next(iter(world.workers))
    lost = world.workers[first]
    world.kill(first)
    world.sleep(0.1)
    world.connect_all()
    world.step(e.AttemptsEnded(first, ["a"], [lost.leases["a"]], [VALUE]))
    assert "a" not in world.results
    world.settle_everything()
    assert len(world.results["a"]) == 1


def test_overload_refuses_at_once_with_the_wait() -> None:
    world = World(cpus=1)
    key = world.declare(spec(max_pending=5))
    world.submit([f"a{i}" for i in range(9)], key=key)
    assert len(world.refused) == 4
    assert world.refused["a8"].type_name == "Overloaded"
    assert world.refused["a8"].fields["retry_after"] > 0
    world.settle_everything()


def test_a_call_that_cannot_make_its_deadline_is_refused_and_a_queued_one_expires() -> None:
    world = World(cpus=1)
    key = world.declare(spec())
    world.submit(["a"], key=key)
    world.connect_all()
    world.finish_first(Result(Outcome.VALUE, b"", None, 10.0))
    world.submit(["late"], key=key, deadline=world.now + 5)
    assert world.refused["late"].type_name == "Overloaded"
    world.submit(["long"], key=key)
    world.submit(["queued"], key=key, deadline=world.now + 25)
    world.sleep(26.0)
    assert world.results["queued"][0][1].error is not None
    assert world.results["queued"][0][1].error.type_name == "DeadlineExceeded"
    world.settle_everything()


def test_unschedulable_says_what_would_fit() -> None:
    world = World(cpus=2)
    key = world.declare(spec(cpu=8.0))
    world.submit(["a"], key=key)
    assert world.refused["a"].type_name == "Unschedulable"
    assert "8 CPUs" in world.refused["a"].message
    assert "largest node has 2" in world.refused["a"].message


def test_idle_workers_of_one_pool_make_room_for_another() -> None:
    world = World(cpus=1)
    first, second = world.declare(spec("f")), world.declare(spec("g"))
    world.submit(["a"], key=first)
    world.connect_all()
    world.finish_first()
    world.submit(["b"], key=second)
    assert any(isinstance(x, c.DrainWorker) for x in world.log)
    world.settle_everything()
    assert set(world.results) == {"a", "b"}


def test_a_pool_without_workers_is_not_starved_by_a_long_queue() -> None:
    world = World(cpus=2)
    first, second = world.declare(spec("f")), world.declare(spec("g"))
    world.submit([f"a{i}" for i in range(1000)], key=first)
    world.connect_all()
    world.submit(["b"], key=second)
    for _ in range(50):
        world.sleep(0.1)
        for busy in [w for w in world.workers.values() if w.leases and w.connected]:
            world.finish(busy.id, next(iter(busy.leases)))
        world.connect_all()
        for worker in [w for w in world.workers.values() if w.draining and not w.leases]:
            del world.workers[worker.id]
            world.step(e.WorkerGone(worker.id, "exit", ""))
        if "b" in world.results:
            break
    assert "b" in world.results
    assert len(world.results) < 1000


def test_a_call_that_waits_for_another_lends_its_cores() -> None:
    world = World(cpus=1)
    outer, inner = world.declare(spec("outer")), world.declare(spec("inner"))
    world.submit(["parent"], key=outer)
    world.connect_all()
    world.submit(["child"], key=inner, client="worker-client", parent="parent")
    assert len(world.workers) == 2
    world.connect_all()
    child = next(w for w in world.workers.values() if "child" in w.leases)
    world.finish(child.id, "child")
    assert world.results["child"]
    assert not world.plane.state.nodes[NODE].lent


def test_clients_take_turns() -> None:
    world = World(cpus=1)
    key = world.declare(spec())
    world.submit([f"a{i}" for i in range(100)], key=key, client="greedy")
    world.connect_all()
    world.submit(["b"], key=key, client="modest")
    for _ in range(3):
        world.finish_first(Result(Outcome.VALUE, b"", None, 1.0))
    assert "b" in world.results


def test_what_is_stuck_behind_a_long_run_is_taken_back() -> None:
    world = World(cpus=2)
    key = world.declare(spec(max_workers=2))
    world.submit(["w"], key=key)
    world.connect_all()
    world.finish_first(Result(Outcome.VALUE, b"", None, 0.00001))
    world.submit([f"a{i}" for i in range(20)], key=key)
    worker = max(world.workers.values(), key=lambda w: len(w.leases))
    assert len(worker.leases) > 1
    world.sleep(0.1)
    revoke = next(x for x in world.log if isinstance(x, c.RevokeLeases) and x.worker == worker.id)
    assert "a0" not in revoke.ids
    for call_id in revoke.ids:
        del worker.leases[call_id]
    world.step(e.LeasesRevoked(worker.id, list(revoke.ids), list(revoke.attempts)))
    assert all(world.plane.state.calls[call_id].losses == 0 for call_id in revoke.ids)
    world.settle_everything()


def test_what_was_taken_back_is_not_leased_again_to_the_worker_whose_run_is_long() -> None:
    world = World(cpus=1)
    key = world.declare(spec(max_workers=1))
    world.submit(["w"], key=key)
    world.connect_all()
    world.finish_first(Result(Outcome.VALUE, b"", None, 0.001))
    world.submit(["a"], key=key)
    world.submit(["b"], key=key)
    (worker,) = world.workers.values()
    for _ in range(5):
        world.sleep(0.1)
        ahead = [call_id for call_id in worker.leases if call_id != "a"]
        for call_id in ahead:
            attempt = worker.leases.pop(call_id)
            world.step(e.LeasesRevoked(worker.id, [call_id], [attempt]))
    assert [*worker.leases] == ["a"]
    assert sum("b" in one.ids for one in world.log if isinstance(one, c.RevokeLeases)) <= 1
    world.settle_everything()
    assert set(world.results) == {"w", "a", "b"}


def test_idle_workers_go_after_the_timeout_but_the_minimum_stays() -> None:
    world = World(cpus=2)
    key = world.declare(spec(idle_timeout=5.0, min_workers=1))
    assert len(world.workers) == 1  # started before any call
    world.submit([f"a{i}" for i in range(10)], key=key)
    world.settle_everything()
    world.sleep(10.0)
    draining = [w for w in world.workers.values() if w.draining]
    assert len(world.workers) - len(draining) == 1


def test_a_worker_that_is_there_just_as_idle_ones_are_looked_for_gets_what_waits() -> None:
    world = World(cpus=1)
    key = world.declare(spec(idle_timeout=0.0, max_workers=1))
    world.submit(["a"], key=key)
    (worker,) = world.workers.values()
    world.now = world.plane.state.next_sweep  # the sweep is due in the step in which it connects
    world.connect(worker.id)
    assert [*worker.leases] == ["a"] and not worker.draining
    world.finish_first()
    world.sleep(1.0)
    assert worker.draining, "then it goes at once"


def test_a_build_that_fails_fails_what_waits_for_it() -> None:
    world = World()
    key = world.declare(spec())
    world.submit(["a", "b"], key=key)
    for worker in list(world.workers):
        del world.workers[worker]
        world.step(e.WorkerRefused(worker, ErrorInfo("ImageBuildError", "no such package")))
    assert world.results["a"][0][1].error is not None
    assert world.results["a"][0][1].error.type_name == "ImageBuildError"


def test_stream_items_seen_before_a_retry_are_not_seen_again() -> None:
    world = World(cpus=1)
    key = world.declare(spec())
    world.submit(["s"], key=key, kind="stream")
    world.connect_all()
    worker = next(iter(world.workers))
    world.step(e.ItemsCame(worker, "s", 1, 0, [b"0", b"1"]))
    world.kill(worker)
    world.sleep(1.0)
    world.connect_all()
    worker = next(iter(world.workers))
    attempt = world.workers[worker].leases["s"]
    world.step(e.ItemsCame(worker, "s", attempt, 0, [b"0", b"1", b"2"]))
    assert world.items["s"] == [b"0", b"1", b"2"]


def test_a_client_that_stays_away_past_the_grace_has_its_calls_cancelled() -> None:
    world = World(cpus=1)
    key = world.declare(spec())
    world.submit(["a", "b"], key=key)
    world.step(e.ClientLeft("c1"))
    world.sleep(59.0)
    assert world.plane.state.calls
    world.sleep(2.0)
    assert not world.plane.state.calls


def test_after_a_restart_nothing_is_leased_until_the_node_has_reported() -> None:
    plane = CallPlane(prefix="w2-", now=0.0)
    function = spec()
    key = function.key
    size = Capacity(2.0, 1 << 30)
    plane.handle([e.RecoveryBegan([NODE], 30.0), e.FunctionDeclared(function, key)], 0.0)
    plane.handle([e.Submitted("c1", key, ["a", "b"], [b"", b""])], 0.1)
    # The node runs a worker of the earlier term. It holds `a`, and has a result for `z`, whose client is not back yet.
    out = plane.handle([e.NodeReported(NODE, size, size, [("old", key, Capacity(1.0, 0))])], 0.2)
    assert not any(isinstance(x, (c.LeaseCalls, c.StartWorker)) for x in out)
    out = plane.handle([e.WorkerConnected("old", [("a", 3), ("y", 1)])], 0.3)
    leased = [call.id for x in out if isinstance(x, c.LeaseCalls) for call in x.calls]
    assert "a" not in leased
    out = plane.handle([e.AttemptsEnded("old", ["z"], [1], [VALUE])], 0.4)
    out = plane.handle([e.Submitted("c1", key, ["z"], [b""])], 0.5)
    delivered = [d.id for x in out if isinstance(x, c.Deliver) for d in x.deliveries]
    assert delivered == ["z"]
    out = plane.handle([e.AttemptsEnded("old", ["a", "y"], [3, 1], [VALUE, VALUE])], 0.6)
    assert [d.id for x in out if isinstance(x, c.Deliver) for d in x.deliveries] == ["a"]
    out = plane.handle([e.Submitted("c1", key, ["y"], [b""])], 0.7)
    assert [d.id for x in out if isinstance(x, c.Deliver) for d in x.deliveries] == ["y"]


def test_resubmitted_calls_are_taken_once() -> None:
    world = World(cpus=1)
    key = world.declare(spec())
    world.submit(["a", "b"], key=key)
    world.step(e.Submitted("c1", key, ["a", "b", "c"], [b"", b"", b""]))
    world.settle_everything()
    assert set(world.results) == {"a", "b", "c"}


def test_an_overdue_worker_is_stopped_and_its_call_times_out() -> None:
    world = World(cpus=1, limits=Limits(timeout_grace=1.0))
    key = world.declare(spec(timeout=2.0))
    world.submit(["a"], key=key)
    world.connect_all()
    world.sleep(4.0)
    assert any(isinstance(x, c.StopWorker) for x in world.log)
    world.kill(next(iter(world.workers)), cause="stopped")
    ((_, result),) = world.results["a"]
    assert result.outcome is Outcome.TIMEOUT
    assert result.error is not None
    assert result.error.type_name == "CallTimeout"


def test_a_call_does_not_wait_behind_a_worker_that_cannot_be_reached() -> None:
    world = World(cpus=2)
    key = world.declare(spec())
    world.submit(["a"], key=key)
    world.connect_all()
    silent = next(iter(world.workers.values()))
    silent.connected = False
    world.step(e.WorkerDisconnected(silent.id))
    world.submit(["b"], key=key)
    world.sleep(0.2)
    assert len(world.workers) == 2
    world.settle_everything()


def test_what_ran_on_meanwhile_has_run_since_it_began() -> None:
    plane = CallPlane(prefix="w2-", now=0.0)
    function, size = spec(), Capacity(2.0, 1 << 30)
    plane.handle([e.RecoveryBegan([NODE], 30.0), e.FunctionDeclared(function, function.key)], 100.0)
    plane.handle([_restored("known", function.key, losses=0)], 100.1)
    workers = [("old", function.key, Capacity(1.0, 0))]
    plane.handle([e.NodeReported(NODE, size, size, workers)], 100.2)
    held, ages = [("known", 1), ("attached", 1)], {"known": 40.0, "attached": 41.0}
    plane.handle([e.WorkerConnected("old", held, ages=ages)], 101.0)
    assert plane.state.calls["known"].leased_at == 61.0
    plane.handle([e.Submitted("c1", function.key, ["attached"], [b""])], 102.0)
    assert plane.state.calls["attached"].leased_at == 60.0


def _restored(call_id: str, key: str, *, losses: int) -> e.Restored:
    return e.Restored(call_id, 1, key, "c1", b"", 0.0, 0, None, "", 0, losses, 0.0)


def test_a_call_that_must_not_run_twice_is_its_workers_or_lost_after_a_restart() -> None:
    plane = CallPlane(prefix="w2-", now=0.0)
    function = spec(lost_retries=0)
    key = function.key
    size = Capacity(2.0, 1 << 30)
    plane.handle([e.RecoveryBegan([NODE], 30.0), e.FunctionDeclared(function, key)], 0.0)
    # All three were accepted; `queued` was never leased, `runs` and `gone` were (written down as a loss).
    calls = [_restored("queued", key, losses=0), _restored("runs", key, losses=1), _restored("gone", key, losses=1)]
    plane.handle(calls, 0.1)
    plane.handle([e.NodeReported(NODE, size, size, [("old", key, Capacity(1.0, 0))])], 0.2)
    out = plane.handle([e.WorkerConnected("old", [("runs", 1)])], 0.3)
    (persist,) = (x for x in out if isinstance(x, c.PersistSettled))
    (lost,) = persist.settlements
    assert lost.call.id == "gone"
    assert lost.result.error is not None
    assert lost.result.error.type_name == "WorkerLost"
    assert plane.state.calls["runs"].worker is not None
    out = plane.handle([e.AttemptsEnded("old", ["runs"], [1], [VALUE])], 0.4)
    assert any(isinstance(x, c.PersistSettled) for x in out)


def test_the_lease_of_a_call_that_must_not_run_twice_is_written_down() -> None:
    world = World(cpus=1)
    key = world.declare(spec(lost_retries=0))
    world.submit(["a"], key=key, detached=True)
    world.write()
    world.connect_all()
    assert any(isinstance(x, c.PersistProgress) and x.calls[0].id == "a" for x in world.log)


def test_only_a_pool_without_a_worker_says_that_it_waits_for_room() -> None:
    world = World(cpus=1)
    first, second = world.declare(spec("f")), world.declare(spec("g"))
    world.submit(["a", "b"], key=first)
    world.connect_all()
    world.submit(["c"], key=second)
    world.sleep(5.0)
    told = {x.key for x in world.log if isinstance(x, c.TellPhase) and x.phase == "waiting"}
    assert told == {second}


def test_a_pool_that_needs_the_whole_node_gets_it_from_one_with_a_long_queue() -> None:
    world = World(cpus=2)
    small, large = world.declare(spec("small", cpu=1)), world.declare(spec("large", cpu=2))
    world.submit([f"s{i}" for i in range(2000)], key=small)
    world.connect_all()
    world.submit(["whole"], key=large)
    for _ in range(400):
        world.sleep(0.05)
        world.connect_all()
        for worker in list(world.workers.values()):
            if worker.draining and not worker.leases:
                world.kill(worker.id, cause="exit")
            elif worker.leases:
                world.finish(worker.id, next(iter(worker.leases)))
        if "whole" in world.results:
            break
    assert "whole" in world.results
    assert len(world.results) < 100
    world.settle_everything()
    assert len(world.results) == 2001


def test_a_slow_first_call_does_not_have_all_later_ones_refused_for_good() -> None:
    world = World(cpus=1)
    key = world.declare(spec())
    world.submit(["a"], key=key)
    world.connect_all()
    world.finish_first(Result(Outcome.VALUE, b"", None, 10.0))
    world.submit(["at-once"], key=key, deadline=world.now + 5)
    assert world.refused["at-once"].type_name == "Overloaded"
    world.sleep(10.0)
    world.submit(["later"], key=key, deadline=world.now + 5)
    assert "later" not in world.refused
