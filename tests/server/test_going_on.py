"""What a version that was replaced still answers: while the next one is not ready, and what it had let in before."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

import pytest

from stoker.core.trials import BARREN_MAX
from stoker.engine.base import Grant, NodeInfo, NodeJoined, RunningWorker, WorkerDown
from stoker.errors import InvalidRequest, NotFound
from stoker.protocol.web_calls import WebAnswer, encode_answer
from stoker.server.gateway.gateway import Gateway
from stoker.server.gateway.web_calls import PUBLIC, WebCall, WebCalls
from stoker.server.version_rows import FAILED_STARTS
from stoker.transport.sockets import connect_unix, greet
from stoker.types import FunctionSpec, MethodSpec, Outcome, WebSpec
from tests.waiting import wait_until

from .harness import PATIENCE_SECONDS, Peer, Running, ScriptedWorker, spec
from .test_versions import end_worker, functions, two_versions, version_of, versions_of, worker_of

NODE = NodeInfo("fake", 4.0, 4 << 30, 4.0, 4 << 30)


def worker_for(running: Running, name: str, *, version: int = 1) -> str:
    """Return a worker that was ordered for a function of a version; nothing where there is none."""
    orders = running.engine.specs.items()
    wanted = (name, version)
    return next((worker for worker, one in orders if (one.function.name, one.function.version) == wanted), "")


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


def asker(running: Running, worker: ScriptedWorker) -> Peer:
    """Connect as the client inside a worker."""
    peer = running._adopt(Peer(connect_unix(str(running.config.socket), timeout=PATIENCE_SECONDS)))
    greet(peer.frames, role="client", name=f"in {worker.id}", token=worker.token)
    return peer


def test_a_version_calls_its_own_functions_also_when_it_has_been_replaced(running: Running, client: Peer) -> None:
    client.ask("deploy", app="app", functions=functions("f", "helper"))
    key = client.ask("lookup", app="app", name="f")["key"]
    client.submit(key, ["c-1.0"])
    worker = worker_of(running, 1)
    attempts = worker.leased(1)
    inside = asker(running, worker)
    helper = inside.ask("lookup", app="app", name="helper")["key"]
    client.ask("deploy", app="app", functions=functions("helper", cpu=0.5), strategy="recreate")
    assert has_no_pool(running, helper)
    assert client.ask("lookup", app="app", name="helper")["spec"]["version"] == 2
    found = inside.ask("lookup", app="app", name="helper")
    assert (found["key"], found["spec"]["version"]) == (helper, 1)
    assert inside.ask("lookup", app="app", name="f")["key"] == key
    inside.submit(helper, ["w.1"], parent="c-1.0")
    inside.submit(helper, ["w.2"])
    client.submit(helper, ["c-1.1"])
    assert [version_of(running, x) for x in ("w.1", "w.2", "c-1.1") if versions_of(running, [x])] == [1, 1, 2]
    worker.finish(attempts)
    assert client.result_of("c-1.0")[0] == 0
    other = worker_of(running, 1)
    other.finish(other.leased(1))
    other.finish(other.leased(1))
    assert {inside.result_of(x)[0] for x in ("w.1", "w.2")} == {0}


def test_a_canary_that_was_aborted_calls_its_own_functions_until_it_has_finished(
    running: Running, client: Peer
) -> None:
    client.ask("deploy", app="app", functions=functions("f"))
    client.ask("deploy", app="app", functions=functions("f", "helper", cpu=0.5), beside="canary", percent=100)
    client.submit(client.ask("lookup", app="app", name="f")["key"], ["c-1.0"])
    worker = worker_of(running, 2)
    worker.leased(1)
    client.ask("abort", app="app")
    inside = asker(running, worker)
    found = inside.ask("lookup", app="app", name="helper")
    assert found["spec"]["version"] == 2
    inside.submit(found["key"], ["w.1"], parent="c-1.0")
    assert versions_of(running, ["w.1"]) == {2: 1}


def test_what_a_version_that_goes_on_calls_stays_until_the_next_one_is_ready(running: Running) -> None:
    client = running.client()
    client.ask("deploy", app="app", functions=functions("f", "idle", "old"))
    keys = {name: client.ask("lookup", app="app", name=name)["key"] for name in ("f", "idle", "old")}
    client.submit(keys["f"], ["c-1.0"])
    worker = worker_of(running, 1)
    worker.finish(worker.leased(1))
    assert client.result_of("c-1.0")[0] == 0
    with ThreadPoolExecutor(1) as pool:
        deploying = pool.submit(
            running.client("c-9").ask, "deploy", app="app", functions=functions("f", "idle", cpu=0.5)
        )
        wait_until(lambda: client.ask("history", app="app")[0]["state"] == "starting", message="the next one waits")
        inside = asker(running, worker)
        assert client.ask("lookup", app="app", name="old")["spec"]["version"] == 1, "the next one has none"
        inside.submit(keys["old"], ["w.1"])
        inside.submit(keys["idle"], ["w.2"])
        client.submit(keys["idle"], ["c-1.2"])
        assert [version_of(running, x) for x in ("w.1", "w.2", "c-1.2") if versions_of(running, [x])] == [1, 1, 2]
        pools = running.server.plane.state.pools
        assert not running.on_loop(lambda: pools[keys["old"]].retired or pools[keys["idle"]].retired)
        new = running.worker(worker_for(running, "f", version=2))
        assert "waits" not in deploying.result(20)
    wait_until(lambda: pools[keys["old"]].retired and pools[keys["idle"]].retired, message="they drain with it")
    with pytest.raises(NotFound, match="has no function 'old'"):
        client.ask("lookup", app="app", name="old")
    new.close()


@pytest.mark.parametrize("kind", ["canary", "shadow"])
def test_nothing_stands_beside_a_version_that_is_not_ready(running: Running, client: Peer, kind: str) -> None:
    key, _ = warm_then_broken(running, client)
    with pytest.raises(
        InvalidRequest,
        match=r"Version 2 of app, the current one, is not ready, and version 1 .* `stoker apps rollback app` calls ver",
    ):
        client.ask("deploy", app="app", functions=functions(cpu=0.25), beside=kind, percent=10)
    client.submit(key, ["c-1.1"])
    assert versions_of(running, ["c-1.1"]) == {1: 1}
    assert [row["version"] for row in client.ask("history", app="app")] == [2, 1]


def a_class(methods: dict[str, str], **options: Any) -> dict[str, Any]:
    webs = {name: MethodSpec(web=WebSpec([method], requires_token=False)) for name, method in methods.items()}
    return asdict(replace(spec("Model", run_id="", max_workers=1, **options), kind="class", methods=webs))


class Http:
    """The gateway, without connections: one request at a time, which the test reads the answer of."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._gateway = Gateway(running.server, is_local=True)

    def ask(self, method: str, path: str, **headers: str) -> Future[tuple[int, dict[str, str], bytes]]:
        return asyncio.run_coroutine_threadsafe(self._ask(method, path, headers), self._running.loop)

    async def _ask(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        pairs = [(name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()]
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"host", b"localhost"), *pairs],
            "client": ("127.0.0.1", 1),
            "stoker.connection": SimpleNamespace(on_lost=None, cycle=None),
        }
        said: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            said.append(message)

        await self._gateway(scope, receive, send)
        told = {name.decode(): value.decode() for name, value in said[0]["headers"]}
        return said[0]["status"], told, b"".join(one.get("body", b"") for one in said[1:])


def test_the_endpoints_are_those_of_the_version_that_answers(running: Running, client: Peer) -> None:
    http, answer = Http(running), encode_answer(WebAnswer(200, [], b"v1"))
    gone = asdict(replace(spec("gone", run_id="", max_workers=1), web=WebSpec(["GET"], requires_token=False)))
    client.ask("deploy", app="app", functions=[a_class({"ask": "GET", "old": "GET"}), gone])
    first = http.ask("GET", "/app/Model/ask")
    old = worker_of(running, 1)
    old.finish(old.leased(1), answer)
    assert first.result(10)[0] == 200
    newer = [a_class({"ask": "POST", "more": "GET"}, cpu=0.5)]
    with ThreadPoolExecutor(1) as pool:
        deploying = pool.submit(running.client("c-9").ask, "deploy", app="app", functions=newer)
        wait_until(lambda: client.ask("history", app="app")[0]["state"] == "starting", message="the next one waits")
        for path, headers in (("ask", {}), ("old", {}), ("ask", {"x_stoker_version": "1"})):
            asked = http.ask("GET", f"/app/Model/{path}", **headers)
            old.finish(old.leased(1), answer)
            status, told, body = asked.result(10)
            assert (status, told["x-stoker-version"], body) == (200, "1", b"v1"), path
        status, told, _ = http.ask("POST", "/app/Model/ask").result(10)
        assert (status, told["allow"]) == (405, "GET")
        status, _, body = http.ask("GET", "/app/Model/ask", x_stoker_version="3").result(10)
        assert status == 404 and b"Versions: 1, 2." in body
        asked = http.ask("GET", "/app/gone")
        lingering = running.worker(wait_until(lambda: worker_for(running, "gone"), message="its worker was ordered"))
        lingering.finish(lingering.leased(1), answer)
        assert asked.result(10)[0] == 200
        asked = http.ask("POST", "/app/Model/ask", x_stoker_version="2")  # by its number it is reached already
        new = worker_of(running, 2)
        new.finish(new.leased(1), answer)
        assert asked.result(10)[1]["x-stoker-version"] == "2"
        assert "waits" not in deploying.result(20)
    status, told, _ = http.ask("GET", "/app/Model/ask").result(10)
    assert (status, told["allow"]) == (405, "POST")
    assert http.ask("GET", "/app/Model/old").result(10)[0] == http.ask("GET", "/app/gone").result(10)[0] == 404


def test_a_call_inside_the_version_that_goes_on_hands_nothing_over(running: Running, client: Peer) -> None:
    key, old = warm_then_broken(running, client)
    asker(running, old).submit(key, ["w.1"])
    client.submit(key, ["c-1.7"])
    assert versions_of(running, ["c-1.7"]) == {1: 1}


def test_what_comes_late_with_recreate_does_not_run_beside_the_next_version(running: Running, client: Peer) -> None:
    client.ask("deploy", app="app", functions=functions())
    key = client.ask("lookup", app="app", name="f")["key"]
    client.ask("deploy", app="app", functions=functions(cpu=0.5), strategy="recreate")
    client.submit(client.ask("lookup", app="app", name="f")["key"], ["c-1.0"])
    worker_of(running, 2).leased(1)
    asked_late(running, key)
    workers = running.server.plane.state.workers
    assert running.on_loop(lambda: [worker.pool.spec.version for worker in workers.values()]) == [2], (
        "the old one starts once the new one has let it go"
    )
