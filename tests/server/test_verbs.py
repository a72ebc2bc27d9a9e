"""Requests: what each answers, what each wants, and what a worker may ask."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import pytest

from stoker._version import __version__
from stoker.errors import InvalidRequest, NotFound, PermissionDenied, Unschedulable, from_wire
from stoker.protocol import messages as m
from stoker.server.verbs import WORKERS_MAY, Verbs
from tests.waiting import wait_until

from .harness import GatedStore, Peer, Running, spec

ALL = sorted(name.removeprefix("do_") for name in dir(Verbs) if name.startswith("do_"))


def deployed(*names: str, **options: Any) -> list[dict[str, Any]]:
    return [asdict(spec(name, run_id="", **options)) for name in names]


def test_status(running: Running, client: Peer, key: str) -> None:
    client.submit(key, ["c-1.1", "c-1.2"])
    running.worker().leased(1)
    told = client.ask("status")
    assert told.keys() >= {"pid", "uptime", "socket", "state_dir"}
    assert (told["version"], told["mode"], told["term"]) == (__version__, "persistent", 1)
    assert (told["calls"], told["workers"], told["apps"]) == (
        {"queued": 1, "running": 1, "running_once": 0, "running_http": 0},
        1,
        1,
    )
    (node,) = told["nodes"]
    assert (node["id"], node["cpus"], node["cpus_free"], node["workers"]) == ("fake", 4.0, 3.0, 1)


def test_functions_and_workers(running: Running, client: Peer, key: str) -> None:
    client.submit(key, ["c-1.1", "c-1.2"])
    worker = running.worker()
    worker.leased(1)
    (row,) = client.ask("functions")
    assert (row["app"], row["name"], row["run_id"], row["key"]) == ("app", "f", "r1", key)
    assert (row["queued"], row["running"], row["workers"], row["idle"]) == (1, 1, 1, 0)
    assert client.ask("functions", app="app") == [row]
    assert client.ask("functions", app="other") == []
    (row,) = client.ask("workers")
    assert (row["id"], row["function"], row["state"], row["node"]) == (worker.id, "app.f", "busy", "fake")
    assert (row["running"], row["cpus"], row["how"]) == (["c-1.1"], 1.0, "fork")
    worker.finish({"c-1.1": 1})
    worker.finish(worker.leased(1))
    wait_until(lambda: client.ask("workers")[0]["state"] == "idle", message="the worker is idle")
    assert client.ask("workers")[0]["calls_done"] == 2


def test_what_is_deployed_already_makes_no_version(client: Peer, key: str) -> None:
    first = client.ask("deploy", app="app", functions=deployed("a", "b"))
    assert first == {"version": 1, "functions": ["a", "b"], "urls": {}}
    again = client.ask("deploy", app="app", functions=deployed("b", "a"))
    assert again == {"version": 1, "functions": ["a", "b"], "unchanged": True, "urls": {}}
    assert client.ask("deploy", app="app", functions=deployed("a", "b", cpu=0.5))["version"] == 2
    assert client.ask("rollback", app="app", version=2)["version"] == 3, "asked for in so many words"


def test_a_call_is_known_by_how_its_id_alone_begins(client: Peer, key: str) -> None:
    client.submit(key, ["c-1.100", "c-1.101", "c-1.2"], detached=True)
    client.get(m.Accepted)
    assert client.ask("call", id="c-1.2")["id"] == "c-1.2"
    assert client.ask("call", id="c-1.101")["id"] == "c-1.101"
    with pytest.raises(InvalidRequest, match=r"2 calls have ids that begin with 'c-1.10': c-1.100, c-1.101."):
        client.ask("call", id="c-1.10")
    with pytest.raises(InvalidRequest, match=r"3 calls have ids that begin with 'c-'"):
        client.ask("call", id="c-")
    assert client.ask("cancel", ids=["c-1.2"], prefixes=True)["cancelled"] == ["c-1.2"]
    with pytest.raises(NotFound):
        client.ask("call", id="c-1.9")


def test_apps_history_and_rollback(client: Peer, key: str) -> None:
    for names in (("a",), ("a", "b")):
        answer = client.ask("deploy", app="app", functions=deployed(*names))
    assert answer == {"version": 2, "functions": ["a", "b"], "urls": {}}
    rows = client.ask("apps")
    assert [(row["app"], row["version"], row["run_id"], row["functions"]) for row in rows] == [
        ("app", 2, "", ["a", "b"]),
        ("app", 0, "r1", ["f"]),
    ]
    history = client.ask("history", app="app")
    assert [(row["version"], row["current"], row["functions"]) for row in history] == [
        (2, True, ["a", "b"]),
        (1, False, ["a"]),
    ]
    told = {"version": 3, "functions": ["a"], "urls": {}, "same_as": 1, "gone": ["b"]}
    assert client.ask("rollback", app="app", version=1) == told
    with pytest.raises(NotFound, match=r"no version 9. It has: 3, 2, 1"):
        client.ask("rollback", app="app", version=9)
    assert client.ask("undeploy", app="app") is None
    with pytest.raises(NotFound, match="No app 'app' is deployed"):
        client.ask("undeploy", app="app")
    assert client.ask("history", app="app")[0]["current"] is False
    assert client.ask("history", app="nothing") == []


def test_lookup_finds_runs_versions_and_current(client: Peer, key: str) -> None:
    client.ask("deploy", app="app", functions=deployed("f", cpu=0.5))
    client.ask("deploy", app="app", functions=deployed("f", cpu=0.25))
    found = client.ask("lookup", app="app", name="f", run_id="r1")
    assert (found["key"], found["spec"]["run_id"]) == (key, "r1")
    assert client.ask("lookup", app="app", name="f")["spec"]["options"]["cpu"] == 0.25
    assert client.ask("lookup", app="app", name="f", version=1)["spec"]["options"]["cpu"] == 0.5
    with pytest.raises(NotFound, match=r"has no function 'g'. It has: f"):
        client.ask("lookup", app="app", name="g")
    with pytest.raises(NotFound, match=r"no deployed app 'other'. Deployed or served apps: app"):
        client.ask("lookup", app="other", name="f")
    with pytest.raises(NotFound, match=r"no deployed app 'apq'. Did you mean 'app'\?"):
        client.ask("lookup", app="apq", name="f")
    with pytest.raises(NotFound, match=r"no deployed app 'pea'. Deployed"):
        client.ask("lookup", app="pea", name="f")
    with pytest.raises(NotFound, match=r"has no function 'ff'. It has: f. Did you mean 'f'\?"):
        client.ask("lookup", app="app", name="ff")
    with pytest.raises(NotFound, match="no deployed version 7"):
        client.ask("lookup", app="app", name="f", version=7)


def test_a_call_keeps_the_version_it_was_accepted_for(running: Running, client: Peer) -> None:
    client.ask("deploy", app="app", functions=deployed("f"))
    old = client.ask("lookup", app="app", name="f")["key"]
    client.submit(old, ["c-1.1"])
    worker = running.worker()
    worker.leased(1)
    with ThreadPoolExecutor(1) as pool:
        deploying = pool.submit(client.ask, "deploy", app="app", functions=deployed("f", cpu=0.5))
        orders = running.engine.specs
        running.worker(wait_until(lambda: next((name for name in orders if name != worker.id), "")))
        deploying.result()  # it takes over once it has a worker
    assert client.ask("lookup", app="app", name="f")["key"] != old
    worker.finish({"c-1.1": 1})
    assert client.result_of("c-1.1") == (0, b"out c-1.1")
    assert worker.control.get(m.Drain).reason


def test_register_and_end_run(running: Running, client: Peer, key: str) -> None:
    more = running.register(client, spec("f", cpu=0.5), spec("g"))
    assert more.keys() == {"f", "g"}
    assert client.ask("lookup", app="app", name="f", run_id="r1")["key"] == key, "the first of a name is the function"
    assert client.ask("end_run", app="app", run_id="r1") is None
    assert client.ask("functions") == []
    assert client.ask("apps") == []


def test_a_served_run_is_found_by_name_while_it_lasts(running: Running, client: Peer) -> None:
    def serve(run_id: str, **options: Any) -> str:
        functions = deployed("f", **options)
        for function in functions:
            function.update(app="shop", run_id=run_id)
        answer = client.ask("register", app="shop", run_id=run_id, functions=functions, served=True)
        return str(answer["keys"]["f"])

    first = serve("r1", cpu=0.25)
    assert client.ask("lookup", app="shop", name="f")["key"] == first
    with pytest.raises(NotFound, match=r"'shop', which is being served, has no function 'g'. It has: f"):
        client.ask("lookup", app="shop", name="g")
    second = serve("r2", cpu=0.5)
    assert client.ask("lookup", app="shop", name="f")["key"] == second, "the last one counts"
    client.ask("end_run", app="shop", run_id="r1")
    client.submit(first, ["c-1.1"])
    assert client.ask("call", id="c-1.1")["function"] == "shop.f"
    rows = {row["key"]: row["queued"] + row["running"] for row in client.ask("functions")}
    assert rows[second] == 1, "who holds an old key calls what replaced it"
    client.ask("deploy", app="shop", functions=[{**deployed("f")[0], "app": "shop"}])
    assert client.ask("lookup", app="shop", name="f")["key"] not in (first, second)
    assert client.ask("lookup", app="shop-dev", name="f")["key"] == second
    assert [row["served_as"] for row in client.ask("apps") if row["run_id"] == "r2"] == ["shop-dev"]
    client.ask("end_run", app="shop", run_id="r2")
    with pytest.raises(NotFound, match="no deployed app 'shop-dev'"):
        client.ask("lookup", app="shop-dev", name="f")


def test_who_holds_an_instance_of_a_served_class_calls_what_replaced_it(running: Running, client: Peer) -> None:
    def told(run_id: str, size: str, *, served: bool = True, **options: Any) -> str:
        (function,) = deployed("C", **options)
        function.update(app="shop", run_id=run_id, kind="class", methods={"m": {}}, parameters={"size": size})
        function["declared"] = {"size": {"type": "str", "default": "small"}}
        answer = client.ask("register", app="shop", run_id=run_id, functions=[function], served=served)
        return str(answer["keys"]["C"])

    told("r1", "small", cpu=0.25)
    large = told("r1", "large", served=False, cpu=0.25)
    other = told("r1", "large", served=False, cpu=0.125)  # with other options
    second = told("r2", "small", cpu=0.5)
    client.ask("end_run", app="shop", run_id="r1")
    client.submit(large, ["c-1.1"])
    client.submit(other, ["c-1.2"])
    rows = {row["key"]: row for row in client.ask("functions")}
    (new,) = rows.keys() - {second, other}
    assert rows[new]["parameters"] == {"size": "large"}
    assert [rows[key]["queued"] + rows[key]["running"] for key in (new, second)] == [1, 0]


def test_a_class_without_its_parameters_is_a_template_and_has_no_pool(running: Running, client: Peer) -> None:
    (function,) = deployed("C", min_workers=1)
    function.update(kind="class", methods={"m": {}}, declared={"size": {"type": "str", "required": True}})
    key = client.ask("register", app="app", run_id="r1", functions=[function])["keys"]["C"]
    assert client.ask("functions") == []
    assert client.ask("lookup", app="app", name="C", run_id="r1")["key"] == key


def test_whoever_changes_options_of_a_served_function_does_not_end_it(running: Running, client: Peer) -> None:
    running.register(client, spec("f"))
    other = running.client("c-2")
    running.register(other, spec("f", cpu=0.5))
    other.close()
    wait_until(lambda: "c-2" not in running.server.sessions or running.server.sessions["c-2"].link is None)
    session = running.server.sessions.get("c-2")
    assert session is None or session.runs == set()
    assert client.ask("lookup", app="app", name="f", run_id="r1")


def test_what_no_node_could_hold_is_refused_at_once(running: Running, client: Peer) -> None:
    wait_until(lambda: client.ask("status")["nodes"], message="the node joined")
    for verb in ("register", "deploy"):
        with pytest.raises(Unschedulable, match=r"64 CPUs .the largest node has 4"):
            client.ask(verb, app="app", run_id="r9", functions=deployed("f", cpu=64.0))
    assert client.ask("apps") == []


def test_calls_and_call(running: Running, client: Peer, key: str) -> None:
    client.submit(key, ["c-1.1", "c-1.2"])
    client.submit(key, ["c-1.3"], detached=True)
    client.get(m.Accepted)
    worker = running.worker()
    worker.finish(worker.leased(1))
    client.result_of("c-1.1")
    worker.leased(1)
    rows = {row["id"]: row for row in client.ask("calls")}
    assert {call_id: row["state"] for call_id, row in rows.items()} == {
        "c-1.1": "succeeded",
        "c-1.2": "running",
        "c-1.3": "queued",
    }
    assert rows["c-1.3"]["detached"] is True
    assert [row["id"] for row in client.ask("calls", state="running")] == ["c-1.2"]
    assert len(client.ask("calls", function="f", app="app", limit=1)) == 1
    assert client.ask("calls", limit=0) == []
    assert client.ask("calls", function="g") == client.ask("calls", app="ap") == []
    details = client.ask("call", id="c-1.2")
    assert [entry["event"] for entry in details["timeline"]] == ["queued", "running"]
    assert details["timeline"][1]["worker"] == worker.id
    assert "busy" in client.ask("call", id="c-1.3")["why"]
    settled = client.ask("call", id="c-1.1")
    assert settled["timeline"][-1]["event"] == "succeeded"
    with pytest.raises(NotFound, match=r"There is no call c-9"):
        client.ask("call", id="c-9")
    with pytest.raises(InvalidRequest, match=r"no state 'lost'. States are: .*running"):
        client.ask("calls", state="lost")


def test_calls_of_a_state_are_found_behind_newer_ones(
    running: Running, client: Peer, key: str, store: GatedStore
) -> None:
    ids = [f"c-1.{n}" for n in range(30)]
    client.submit(key, ids, detached=True)
    worker = running.worker()
    for call_id in ids:
        attempts = worker.leased(1)
        error = {"0": {"type_name": "builtins.ValueError", "message": "bad"}} if call_id == "c-1.0" else {}
        worker.finish(attempts, b"", outcomes=[1 if error else 0], errors=error)
    client.result_of("c-1.29")
    running.on_loop(running.server.records._kept.clear)
    assert [row["id"] for row in client.ask("calls", state="failed", limit=5)] == ["c-1.0"]
    assert client.ask("call", id="c-1.0")["error"] == "ValueError: bad"


def test_what_the_store_alone_knows_of_a_call_has_its_times(running: Running, client: Peer, key: str) -> None:
    client.submit(key, ["c-1.1"], detached=True)
    client.get(m.Accepted)
    worker = running.worker()
    worker.finish(worker.leased(1))
    client.result_of("c-1.1")
    running.on_loop(running.server.records._kept.clear)  # as after a restart
    running.on_loop(running.server.plane.state.calls.clear)
    (row,) = client.ask("calls")
    assert row["created"] <= row["started"]
    assert row["seconds"] >= 0
    shown = client.ask("call", id="c-1.1")
    assert [(entry["event"], entry["worker"]) for entry in shown["timeline"]] == [
        ("queued", ""),
        ("running", worker.id),
        ("succeeded", ""),
    ]


def test_cancel(running: Running, client: Peer, key: str) -> None:
    client.submit(key, ["c-1.1"])
    worker = running.worker()
    worker.leased(1)
    assert client.ask("cancel", ids=["c-1.1", "c-9.9"]) == {"cancelled": ["c-1.1"]}
    assert worker.control.get(m.CancelAttempts).ids == ["c-1.1"]
    assert client.ask("cancel", ids=["c-1.1"]) == {"cancelled": []}


def test_blobs(running: Running, client: Peer) -> None:
    data = b"a bundle"
    digest = hashlib.sha256(data).hexdigest()
    assert client.ask("blobs_missing", digests=[digest]) == [digest]
    client.send(m.PutBlob(7, digest), data)
    assert client.get(m.Reply) == m.Reply(7)
    assert client.ask("blobs_missing", digests=[digest]) == []


def test_a_blob_that_is_not_what_it_says(running: Running, client: Peer) -> None:
    digest = hashlib.sha256(b"one").hexdigest()
    client.send(m.PutBlob(7, digest), b"other")
    reply = client.get(m.Reply)
    assert reply.error is not None
    assert isinstance(from_wire(reply.error.type_name, ""), InvalidRequest)
    assert client.ask("blobs_missing", digests=[digest]) == [digest]
    with pytest.raises(InvalidRequest, match="no blob key"):
        client.ask("blobs_missing", digests=["../../etc/passwd"])


def test_what_the_engine_is_asked(running: Running, client: Peer) -> None:
    assert client.ask("logs") == {"lines": []}
    assert client.ask("images") == []
    assert client.ask("inventory") == []
    assert client.ask("image_prune") == []
    assert client.ask("image_lock", key="x") == {"lock": []}
    assert client.ask("flush") is None
    assert client.ask("follow", app="app") is None


def test_shutdown(running: Running, client: Peer) -> None:
    assert client.ask("shutdown") is None
    assert running.server.stopping.is_set()


@pytest.mark.parametrize(
    ("verb", "params"),
    [
        ("register", {}),
        ("register", {"app": "a", "run_id": "r", "functions": [{}]}),
        ("register", {"app": "a", "run_id": 1, "functions": []}),
        ("deploy", {"app": "a", "functions": "f"}),
        ("undeploy", {}),
        ("rollback", {"app": "a", "version": "1"}),
        ("lookup", {"app": "a"}),
        ("lookup", {"app": "a", "name": "f", "version": 1.5}),
        ("blobs_missing", {"digests": "abc"}),
        ("history", {"app": None}),
        ("functions", {"app": 1}),
        ("calls", {"limit": "many"}),
        ("calls", {"limit": -1}),
        ("calls", {"limit": 2**70}),
        ("call", {}),
        ("call", {"id": ["c"]}),
        ("cancel", {"ids": "c"}),
        ("cancel", {"ids": [], "force": "yes"}),
        ("logs", {"tail": "all"}),
        ("logs", {"tail": -1}),
        ("logs", {"app": 1}),
        ("follow", {"call": 1}),
        ("end_run", {"app": "a"}),
        ("no such verb", {}),
        ("_get", {}),
    ],
)
def test_bad_parameters_are_said_and_harm_nothing(client: Peer, verb: str, params: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        client.ask(verb, **params)
    assert client.ask("status")["workers"] == 0


@pytest.mark.parametrize("verb", ALL)
def test_a_worker_may_ask_for_what_calling_needs_and_no_more(running: Running, verb: str) -> None:
    nested = running.client("n-1", token=running.server.tokens.token("w1-1"))
    if verb in WORKERS_MAY:
        try:
            nested.ask(verb)
        except InvalidRequest:
            pass  # it is allowed, and wants parameters
    else:
        with pytest.raises(PermissionDenied, match=verb):
            nested.ask(verb)
        assert not running.server.stopping.is_set()


def test_what_workers_may_ask_is_there() -> None:
    assert set(ALL) >= WORKERS_MAY
