"""What a version that was replaced still answers: while the next one is not ready, and what it had let in before."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from stoker.core.trials import BARREN_MAX
from stoker.engine.base import Grant, NodeInfo, NodeJoined, RunningWorker, WorkerDown
from stoker.server.gateway.web_calls import PUBLIC, WebCall, WebCalls
from stoker.server.version_rows import FAILED_STARTS
from stoker.types import FunctionSpec, Outcome
from tests.waiting import wait_until

from .harness import Peer, Running, ScriptedWorker
from .test_versions import end_worker, functions, two_versions, version_of, versions_of, worker_of

NODE = NodeInfo("fake", 4.0, 4 << 30, 4.0, 4 << 30)


def warm_then_broken(running: Running, client: Peer) -> tuple[str, ScriptedWorker]:
    """Deploy a version that has a worker, and one that does not start; return what is found by name, and the worker."""
    client.ask("deploy", app="app", functions=functions())
    key: str = client.ask("lookup", app="app", name="f")["key"]
    client.submit(key, ["c-1.0"])
    old = worker_of(running, 1)
    old.finish(old.leased(1))
    assert client.result_of("c-1.0")[0] == 0
    with ThreadPoolExecutor(1) as pool:
        deploying = pool.submit(running.client("c-9").ask, "deploy", app="app", functions=functions(cpu=0.5))
        seen: set[str] = set()
        for _ in range(FAILED_STARTS):
            seen.add(end_worker(running, 2, but=seen))
        assert "exit status 3" in deploying.result(20)["waits"]["f"]
    return key, old


def test_an_agent_that_comes_back_does_not_hand_over_to_what_is_not_ready(running: Running, client: Peer) -> None:
    key, old = warm_then_broken(running, client)
    joined = NodeJoined(NODE, [RunningWorker(old.id, key, 4242, Grant("g-old", "fake", 1.0))])
    running.on_loop(lambda: running.server.engine_event(joined))
    client.submit(key, ["c-1.1"])
    assert versions_of(running, ["c-1.1"]) == {1: 1}
    old.finish(old.leased(1))
    assert client.result_of("c-1.1")[0] == 0
    assert [(row["version"], row["state"]) for row in client.ask("history", app="app")] == [
        (2, "not ready"),
        (1, "answers"),
    ]


def spec_of(running: Running, key: str) -> FunctionSpec:
    return running.on_loop(lambda: running.server.functions.specs[key])


def asked_late(running: Running, key: str, **options: Any) -> WebCall:
    """Ask over HTTP for what a request was let in to before: its body came only now."""
    calls, spec = WebCalls(running.server), spec_of(running, key)
    call = running.on_loop(lambda: calls.submit(spec, key, b"body", holder=PUBLIC, deadline=None, **options))
    running.on_loop(lambda: None)  # what is asked for in one turn of the loop is decided after it
    return call


def has_no_pool(running: Running, key: str) -> bool:
    return running.on_loop(lambda: key not in running.server.plane.state.pools)


def test_a_request_whose_body_comes_after_the_next_version_is_answered_by_its_own(
    running: Running, client: Peer
) -> None:
    client.ask("deploy", app="app", functions=functions())
    key = client.ask("lookup", app="app", name="f")["key"]
    client.ask("deploy", app="app", functions=functions(cpu=0.5))
    assert has_no_pool(running, key)
    call, later = asked_late(running, key), asked_late(running, key, detached_as="h-1")
    assert (version_of(running, call.id), version_of(running, later.id)) == (1, 1)
    worker = worker_of(running, 1)
    worker.finish(worker.leased(1))
    worker.finish(worker.leased(1))
    wait_until(lambda: call.result is not None and later.result is not None, message="they are answered")
    assert call.result is not None and call.result.outcome is Outcome.VALUE
    client.submit(key, ["c-1.1"])
    assert versions_of(running, ["c-1.1"]) == {2: 1}, "what comes by name is the next version's"
    down = WorkerDown(worker.id, cause="stopped", detail="", calls=[], texts=[])
    worker.close()
    running.on_loop(lambda: running.server.engine_event(down))
    wait_until(lambda: has_no_pool(running, key), message="it is over again")


def test_a_late_request_for_a_canary_that_could_not_run_is_the_current_versions(running: Running, client: Peer) -> None:
    two_versions(client, 100)
    beside = running.on_loop(lambda: running.server.functions.beside["app"].deployment.functions[0].key)
    client.submit(beside, ["c-1.1"])
    seen: set[str] = set()
    for _ in range(BARREN_MAX):
        seen.add(end_worker(running, 2, but=seen))
    wait_until(lambda: has_no_pool(running, beside), message="it is stopped")
    assert version_of(running, asked_late(running, beside).id) == 1


def test_a_late_request_brings_nothing_back_of_an_app_that_was_stopped(running: Running, client: Peer) -> None:
    client.ask("deploy", app="app", functions=functions())
    key = client.ask("lookup", app="app", name="f")["key"]
    client.ask("undeploy", app="app")
    assert has_no_pool(running, key)
    call = asked_late(running, key)
    assert call.is_refused and call.result is not None and call.result.error is not None
    assert call.result.error.type_name == "NotFound" and has_no_pool(running, key)
