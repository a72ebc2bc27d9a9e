"""Versions beside the current one, as clients and workers meet them: who is sent what, and what survives a restart."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

import pytest

from stoker.core.trials import BARREN_MAX
from stoker.engine import base as engine_base
from stoker.errors import InvalidOption, InvalidRequest, NotFound
from stoker.protocol import messages as m
from stoker.server import shadows
from stoker.server.version_rows import FAILED_STARTS
from stoker.store.memory import MemoryBacking, MemoryStore
from stoker.testing.seams import FakeEngine
from stoker.types import MethodSpec, ParameterSpec
from tests.waiting import wait_until

from .harness import Peer, Running, ScriptedWorker, spec


def functions(*names: str, **options: Any) -> list[dict[str, Any]]:
    return [asdict(spec(name, run_id="", max_workers=1, **options)) for name in names or ("f",)]


def two_versions(client: Peer, percent: float = 10.0, *, kind: str = "canary") -> str:
    """Deploy a version, and one beside it; return what a client is given by the function's name."""
    client.ask("deploy", app="app", functions=functions())
    told = client.ask("deploy", app="app", functions=functions(cpu=0.5), beside=kind, percent=percent)
    assert told["beside"]["kind"] == kind and told["version"] == 2
    key: str = client.ask("lookup", app="app", name="f")["key"]
    return key


def version_of(running: Running, call_id: str) -> int:
    return running.on_loop(lambda: running.server.plane.state.calls[call_id].pool.spec.version)


def versions_of(running: Running, ids: list[str]) -> Counter[int]:
    calls = running.server.plane.state.calls
    wait_until(lambda: all(call_id in calls for call_id in ids), message="they are taken in")
    return Counter(version_of(running, call_id) for call_id in ids)


def worker_of(running: Running, version: int) -> ScriptedWorker:
    """Connect as the newest worker of a version."""

    def found() -> str:
        mine = [name for name, one in running.engine.specs.items() if one.function.version == version]
        return mine[-1] if mine else ""

    return running.worker(wait_until(found, message=f"a worker of version {version} was ordered"))


def end_worker(running: Running, version: int, *, but: set[str]) -> str:
    """Have the next worker of a version end as it starts; return its name."""

    def found() -> str:
        orders = running.engine.specs.items()
        return next((name for name, one in orders if one.function.version == version and name not in but), "")

    worker = wait_until(found, message="a worker of the canary was ordered")
    event = engine_base.WorkerDown(worker, cause="exit", detail="exit status 3", calls=[""], texts=["no weights"])
    running.on_loop(lambda: running.server.engine_event(event))
    return worker


def test_calls_by_name_are_divided_exactly_be_they_single_or_a_map(running: Running, client: Peer) -> None:
    key = two_versions(client)
    single = [f"c-1.{n}" for n in range(100)]
    for call_id in single:
        client.submit(key, [call_id])
    assert versions_of(running, single) == {1: 90, 2: 10}
    mapped = [f"c-1.m{n}" for n in range(1000)]
    client.submit(key, mapped, kind="map")
    assert versions_of(running, mapped) == {1: 900, 2: 100}
    client.ask("share", app="app", percent=50)
    more = [f"c-1.n{n}" for n in range(100)]
    client.submit(key, more, kind="map")
    assert versions_of(running, more) in ({1: 50, 2: 50}, {1: 49, 2: 51}, {1: 51, 2: 49})
    history = client.ask("history", app="app")
    assert [(row["version"], row["state"], row["percent"]) for row in history] == [
        (2, "canary", 50.0),
        (1, "current", 50.0),
    ]
    assert all(row["by"] for row in history)


def test_calls_sent_again_stay_where_they_are(running: Running, client: Peer) -> None:
    key = two_versions(client, 50)
    ids = [f"c-1.{n}" for n in range(20)]
    client.submit(key, ids, kind="map")
    before = versions_of(running, ids)
    client.submit(key, ids, kind="map")
    client.submit(key, ["c-1.more"])
    versions_of(running, ["c-1.more"])
    assert versions_of(running, ids) == before == {1: 10, 2: 10}


def test_a_version_calls_its_own_functions(running: Running, client: Peer) -> None:
    key = two_versions(client, 50)
    client.submit(key, ["c-1.a", "c-1.b"], kind="map")
    by_version = {version_of(running, x): x for x in ("c-1.a", "c-1.b") if versions_of(running, [x])}
    for version, parent in by_version.items():
        ids = [f"c-1.{version}{n}" for n in range(10)]
        client.submit(key, ids, parent=parent, kind="map")
        assert versions_of(running, ids) == {version: 10}


def test_a_promoted_version_answers_all_and_the_one_before_finishes(running: Running, client: Peer) -> None:
    key = two_versions(client)
    client.submit(key, ["c-1.1", "c-1.2"], kind="map")
    assert versions_of(running, ["c-1.1", "c-1.2"]) == {1: 1, 2: 1}
    assert client.ask("promote", app="app") == {"version": 2, "was": "canary"}
    client.submit(key, ["c-1.3"])
    assert versions_of(running, ["c-1.3"]) == {2: 1}
    assert [(r["version"], r["state"]) for r in client.ask("history", app="app")] == [(2, "current"), (1, "")]
    old, new = worker_of(running, 1), worker_of(running, 2)
    old.finish(old.leased(1))
    new.finish(new.leased(1))
    new.finish(new.leased(1))
    assert {client.result_of(f"c-1.{n}")[0] for n in (1, 2, 3)} == {0}
    with pytest.raises(
        NotFound, match=r"No version of app stands beside version 2. The last one, version 2, was promo"
    ):
        client.ask("promote", app="app")


def test_a_rollback_from_a_promoted_version_is_to_the_one_before(client: Peer) -> None:
    two_versions(client)
    client.ask("promote", app="app")
    assert client.ask("rollback", app="app")["same_as"] == 1


def test_a_rollback_while_a_canary_stands_ends_that_alone(running: Running, client: Peer) -> None:
    client.ask("deploy", app="app", functions=functions(cpu=0.25))
    client.ask("deploy", app="app", functions=functions())
    client.ask("deploy", app="app", functions=functions(cpu=0.5), beside="canary", percent=100)
    told = client.ask("rollback", app="app")
    assert (told["version"], told["same_as"], told["ended"]) == (2, 2, {"version": 3, "was": "canary"})
    key = client.ask("lookup", app="app", name="f")["key"]
    client.submit(key, ["c-1.1"])
    assert versions_of(running, ["c-1.1"]) == {2: 1}
    states = [(row["version"], row["state"]) for row in client.ask("history", app="app")]
    assert states == [(3, "aborted"), (2, "current"), (1, "")]
    assert client.ask("rollback", app="app")["same_as"] == 1, "once more, it is the version before"


@pytest.mark.parametrize(("verb", "state"), [("rollback", "aborted"), ("deploy", "replaced")])
def test_a_version_that_takes_over_says_what_it_has_ended(client: Peer, verb: str, state: str) -> None:
    two_versions(client)
    given = {"version": 1} if verb == "rollback" else {"functions": functions(cpu=0.75)}
    assert client.ask(verb, app="app", **given)["ended"] == {"version": 2, "was": "canary"}
    row = client.ask("history", app="app")[1]
    assert (row["version"], row["state"]) == (2, state) and row["why"].startswith("version 3 was ")
    with pytest.raises(NotFound, match=f"The last one, version 2, was {state} \\(version 3 was "):
        client.ask("abort", app="app")


def test_rollbacks_in_a_row_do_not_go_to_and_fro(client: Peer) -> None:
    for cpu in (0.25, 0.5, 0.75):
        client.ask("deploy", app="app", functions=functions(cpu=cpu))
    assert [client.ask("rollback", app="app")["same_as"] for _ in range(2)] == [2, 1]
    with pytest.raises(NotFound, match=r"no earlier version .* what version 5, the same as version 1, runs"):
        client.ask("rollback", app="app")
    assert client.ask("rollback", app="app", version=3)["version"] == 6
    assert client.ask("rollback", app="app")["same_as"] == 2, "as it was from the first version of this content"


def test_a_rollback_says_what_there_is_of_an_app_that_is_not_deployed(client: Peer) -> None:
    with pytest.raises(NotFound, match="No app 'nix' was ever deployed"):
        client.ask("rollback", app="nix")
    client.ask("deploy", app="app", functions=functions())
    client.ask("undeploy", app="app")
    with pytest.raises(NotFound, match="--to VERSION"):
        client.ask("rollback", app="app")
    assert client.ask("rollback", app="app", version=1)["version"] == 2


def awaited(running: Running, app: str) -> bool:
    """Tell whether a version of an app waits until it is ready."""
    pools = running.on_loop(lambda: [*running.server.plane.state.pools.values()])
    return any(pool.awaits and pool.spec.app == app for pool in pools)


def test_a_version_that_never_was_ready_takes_over_from_none_and_is_gone_back_to_by_nobody(running: Running) -> None:
    client, other = running.client("c-1"), running.client("c-2")
    client.ask("deploy", app="app", functions=functions())
    key = client.ask("lookup", app="app", name="f")["key"]
    client.submit(key, ["c-1.1"])
    good = worker_of(running, 1)
    good.finish(good.leased(1))
    assert client.result_of("c-1.1")[0] == 0
    with ThreadPoolExecutor(1) as pool:
        deploying = pool.submit(other.ask, "deploy", app="app", functions=functions(cpu=0.5))
        wait_until(lambda: awaited(running, "app"), message="the new version waits")
        rows = {row["version"]: row for row in client.ask("history", app="app")}
        assert (rows[2]["state"], rows[2]["percent"], rows[2]["answers"]) == ("starting", 0.0, [])
        assert (rows[1]["state"], rows[1]["percent"], rows[1]["answers"]) == ("answers", 100.0, ["f"])
        assert rows[1]["done"] == 1
        (row,) = client.ask("apps")
        assert row["awaits"] == {"version": 1, "state": "starting", "functions": ["f"]} and row["workers"] == 2
        seen: set[str] = set()
        for _ in range(FAILED_STARTS):
            seen.add(end_worker(running, 2, but=seen))
        assert "exit status 3" in deploying.result(30)["waits"]["f"]
        assert client.ask("history", app="app")[0]["state"] == "not ready"
        deploying = pool.submit(other.ask, "deploy", app="app", functions=functions(cpu=0.75))
        wait_until(lambda: client.ask("history", app="app")[0]["version"] == 3, message="the next one is there")
        new = worker_of(running, 3)
        assert "waits" not in deploying.result(30)
    good.close()
    row = client.ask("history", app="app")[1]
    assert (row["version"], row["state"]) == (2, "never ready") and "exit status 3" in row["why"]
    with ThreadPoolExecutor(1) as pool:
        rolling = pool.submit(other.ask, "rollback", app="app")
        wait_until(lambda: awaited(running, "app"), message="it is waited for")
        assert not rolling.done()
        worker_of(running, 4)
        told = rolling.result(30)
    assert (told["version"], told["same_as"]) == (4, 1) and "waits" not in told
    new.close()


def test_what_a_version_has_run_is_known_once_it_is_gone(running: Running, client: Peer) -> None:
    client.ask("deploy", app="app", functions=functions())
    key = client.ask("lookup", app="app", name="f")["key"]
    client.submit(key, ["c-1.1"])
    worker = worker_of(running, 1)
    worker.finish(worker.leased(1))
    assert client.result_of("c-1.1")[0] == 0
    client.ask("undeploy", app="app")
    down = engine_base.WorkerDown(next(iter(running.engine.specs)), cause="stopped", detail="", calls=[], texts=[])
    running.on_loop(lambda: running.server.engine_event(down))
    wait_until(lambda: not running.server.plane.state.pools, message="its pool is gone")
    (row,) = client.ask("history", app="app")
    assert (row["state"], row["done"], row["failed"]) == ("", 1, 0)


def test_whoever_deploys_is_told_what_has_taken_over_untried(running: Running, client: Peer) -> None:
    for cpu in (0.25, 0.5):
        told = client.ask("deploy", app="app", functions=functions(cpu=cpu))
        assert "untried" not in told, "nobody has seen that the version before starts"
    key = client.ask("lookup", app="app", name="f")["key"]
    client.submit(key, ["c-1.1"])
    good = worker_of(running, 2)
    good.finish(good.leased(1))
    assert client.result_of("c-1.1")[0] == 0
    for cpu in (0.75, 1.0):  # neither is ever ready
        told = client.ask("deploy", app="app", functions=functions(cpu=cpu), strategy="recreate")
        assert "strategy=recreate" in told["untried"]["f"]
    told = client.ask("deploy", app="app", functions=functions(cpu=1.0), strategy="recreate")
    assert "untried" not in told, "nothing new took over"
    assert client.ask("history", app="app")[1]["state"] == "never ready"
    assert client.ask("rollback", app="app")["same_as"] == 2, "what was never ready is passed over"


def test_from_zero_a_version_that_does_not_start_replaces_none_that_was_ready(start: Callable[..., Running]) -> None:
    """Also where the server has seen none of its workers, having been started since."""
    backing = MemoryBacking()
    running = start(store=MemoryStore(backing))
    running.client().ask("deploy", app="app", functions=functions())
    running = start(store=MemoryStore(backing))
    client, other = running.client("c-1"), running.client("c-2")
    with ThreadPoolExecutor(1) as pool:
        deploying = pool.submit(other.ask, "deploy", app="app", functions=functions(cpu=0.5))
        seen: set[str] = set()
        for _ in range(FAILED_STARTS):
            seen.add(end_worker(running, 2, but=seen))
        told = deploying.result(30)
        assert "exit status 3" in told["waits"]["f"] and told["goes_on"] == {"f": 1}
        new, before = client.ask("history", app="app")
        assert (new["state"], before["state"], before["percent"]) == ("not ready", "answers", 100.0)
        assert "exit status 3" in new["why"]
        rolling = pool.submit(other.ask, "rollback", app="app")
        worker_of(running, 3)
        told = rolling.result(30)
    assert (told["version"], told["same_as"]) == (3, 1) and "waits" not in told


def test_whoever_deploys_what_is_to_be_warm_waits_for_it(running: Running, client: Peer) -> None:
    with ThreadPoolExecutor(1) as pool:
        deploying = pool.submit(client.ask, "deploy", app="app", functions=functions(min_workers=1))
        seen: set[str] = set()
        for _ in range(FAILED_STARTS):
            seen.add(end_worker(running, 1, but=seen))
        told = deploying.result(30)
    assert "exit status 3" in told["waits"]["f"] and told["goes_on"] == {}
    (row,) = client.ask("history", app="app")
    assert (row["state"], row["percent"]) == ("not ready", 100.0) and "exit status 3" in row["why"]


def test_whoever_deploys_is_told_which_functions_are_gone(client: Peer) -> None:
    client.ask("deploy", app="app", functions=functions("f", "g", "h"))
    assert client.ask("deploy", app="app", functions=functions("g", "i"))["gone"] == ["f", "h"]
    assert "gone" not in client.ask("deploy", app="app", functions=functions("g", "i", "j"))


def test_a_canary_that_fails_as_it_is_aborted_leaves_no_call_behind(running: Running, client: Peer) -> None:
    key = two_versions(client, 100)
    client.submit(key, ["c-1.1"])
    assert versions_of(running, ["c-1.1"]) == {2: 1}
    pool = running.on_loop(lambda: running.server.plane.state.calls["c-1.1"].pool)
    client.ask("abort", app="app")
    telling = running.server.verbs.trial_failed(pool.key, "it died")
    asyncio.run_coroutine_threadsafe(telling, running.loop).result(10)
    assert versions_of(running, ["c-1.1"]) == {1: 1}


def test_an_aborted_version_gets_no_more_calls(running: Running, client: Peer) -> None:
    two_versions(client)
    other = client.ask("deploy", app="app", functions=functions("f", "g"), beside="canary", percent=100)
    assert other["version"] == 3
    (g,) = [client.ask("lookup", app="app", name="g")["key"]]  # which only the canary has
    client.submit(g, ["c-1.1"])
    assert versions_of(running, ["c-1.1"]) == {3: 1}
    assert client.ask("abort", app="app") == {"version": 3, "was": "canary", "current": 1}
    key = client.ask("lookup", app="app", name="f")["key"]
    client.submit(key, ["c-1.2"])
    assert versions_of(running, ["c-1.2"]) == {1: 1}
    with pytest.raises(NotFound, match="has no function 'g'"):
        client.ask("lookup", app="app", name="g")
    states = [(row["version"], row["state"], row["why"]) for row in client.ask("history", app="app")]
    assert states[0][:2] == (3, "aborted") and states[0][2].startswith("by ")
    assert states[1][:2] == (2, "replaced") and states[1][2].startswith("version 3 was deployed by ")
    assert states[2:] == [(1, "current", "")]
    client.ask("deploy", app="app", functions=functions(cpu=0.75))
    assert client.ask("rollback", app="app")["same_as"] == 1, "not a version that never answered by itself"


def test_the_same_functions_again_are_the_same_canary_with_another_share(running: Running, client: Peer) -> None:
    two_versions(client)
    told = client.ask("deploy", app="app", functions=functions(cpu=0.5), beside="canary", percent=30)
    assert (told["version"], told["unchanged"], told["beside"]["percent"]) == (2, True, 30.0)
    told = client.ask("deploy", app="app", functions=functions(), beside="canary", percent=30)
    assert (told["version"], told["unchanged"], "beside" in told) == (1, True, False)


def test_what_cannot_stand_beside_is_refused_with_the_reason(client: Peer) -> None:
    with pytest.raises(InvalidRequest, match="not deployed, so there is nothing for a canary to stand beside"):
        client.ask("deploy", app="app", functions=functions(), beside="canary", percent=10)
    client.ask("deploy", app="app", functions=functions(), strategy="recreate")
    with pytest.raises(InvalidRequest, match="one version runs at a time"):
        client.ask("deploy", app="app", functions=functions(cpu=0.5), beside="shadow")
    for percent in (-1, 100.5, 0.001):
        with pytest.raises(InvalidOption, match="no share in percent"):
            client.ask("deploy", app="app", functions=functions(cpu=0.5), beside="canary", percent=percent)
    with pytest.raises(InvalidRequest, match="a canary or a shadow"):
        client.ask("deploy", app="app", functions=functions(), beside="blue")
    with pytest.raises(InvalidOption, match="There are: rolling, recreate"):
        client.ask("deploy", app="app", functions=functions(), strategy="slow")
    with pytest.raises(InvalidOption, match="cannot be named by"):
        client.ask("deploy", app="app", functions=functions(), tags={"by": "me"})
    for verb in ("promote", "abort", "shadow"):
        with pytest.raises(NotFound, match="No version of app stands beside version 1"):
            client.ask(verb, app="app")
        with pytest.raises(NotFound, match="No app 'other' is deployed"):
            client.ask(verb, app="other")


def test_a_canary_that_cannot_run_is_stopped_and_costs_no_call(running: Running, client: Peer) -> None:
    key = two_versions(client, 50)
    ids = [f"c-1.{n}" for n in range(10)]
    client.submit(key, ids, kind="map")
    assert versions_of(running, ids) == {1: 5, 2: 5}
    seen: set[str] = set()
    for _ in range(BARREN_MAX):
        seen.add(end_worker(running, 2, but=seen))
    wait_until(lambda: client.ask("history", app="app")[0]["state"] == "failed", message="it is stopped")
    assert versions_of(running, ids) == {1: 10}
    (row,) = client.ask("apps")
    assert row["beside"] is None and row["stopped"]["version"] == 2
    assert "f: 3 workers in a row" in row["stopped"]["why"] and "no weights" in row["stopped"]["why"]
    stable = worker_of(running, 1)
    left = set(ids)
    while left:
        attempts = stable.leased(1)
        stable.finish(attempts)
        left -= attempts.keys()
    assert {client.result_of(call_id)[0] for call_id in ids} == {0}


def test_a_canary_survives_a_restart(start: Callable[..., Running]) -> None:
    backing = MemoryBacking()
    client = start(store=MemoryStore(backing)).client()
    two_versions(client, 25)
    running = start(store=MemoryStore(backing))
    client = running.client()
    key = client.ask("lookup", app="app", name="f")["key"]
    ids = [f"c-1.{n}" for n in range(100)]
    client.submit(key, ids, kind="map")
    assert versions_of(running, ids) == {1: 75, 2: 25}
    client.ask("promote", app="app")
    client = start(store=MemoryStore(backing)).client()
    assert [(r["version"], r["state"]) for r in client.ask("history", app="app")] == [(2, "current"), (1, "")]
    client.submit(key, ["c-1.x"])  # by a handle from before
    assert client.ask("lookup", app="app", name="f")["spec"]["version"] == 2


def test_an_instance_of_a_class_is_divided_where_the_new_class_takes_its_parameters(
    running: Running, client: Peer
) -> None:
    declared = {"size": ParameterSpec("str", default="small")}

    def a_class(**changes: Any) -> list[dict[str, Any]]:
        made = replace(spec("C", run_id="", max_workers=1), kind="class", methods={"m": MethodSpec()})
        return [asdict(replace(made, declared=declared, parameters={"size": "small"}, **changes))]

    client.ask("deploy", app="app", functions=a_class())
    client.ask("deploy", app="app", functions=a_class(is_async=True), beside="canary", percent=50)
    found = client.ask("lookup", app="app", name="C")["spec"]
    large = {**found, "parameters": {"size": "large"}}
    key = client.ask("register", app="app", run_id="", functions=[large])["keys"]["C"]
    ids = [f"c-1.{n}" for n in range(10)]
    client.submit(key, ids, kind="map")
    assert versions_of(running, ids) == {1: 5, 2: 5}
    specs = running.on_loop(lambda: {running.server.plane.state.calls[x].pool.spec.parameters["size"] for x in ids})
    assert specs == {"large"}
    client.ask("abort", app="app")
    client.submit(key, ["c-1.x"])
    assert versions_of(running, ["c-1.x"]) == {1: 1}


def test_what_was_made_with_other_options_stays_in_its_version(running: Running, client: Peer) -> None:
    two_versions(client, 50)
    found = client.ask("lookup", app="app", name="f")["spec"]
    varied = {**found, "options": {**found["options"], "timeout": 5.0}}
    key = client.ask("register", app="app", run_id="", functions=[varied])["keys"]["f"]
    ids = [f"c-1.{n}" for n in range(10)]
    client.submit(key, ids, kind="map")
    assert versions_of(running, ids) == {1: 10}


def test_recreate_holds_over_a_restart(start: Callable[..., Running]) -> None:
    backing = MemoryBacking()
    client = start(store=MemoryStore(backing)).client()
    client.ask("deploy", app="app", functions=functions(), strategy="recreate", tags={"team": "a"})
    client.ask("deploy", app="app", functions=functions(cpu=0.5), strategy="recreate")
    running = start(store=MemoryStore(backing))
    rows = running.client().ask("history", app="app")
    assert [row["strategy"] for row in rows] == ["recreate", "recreate"] and rows[1]["tags"] == {"team": "a"}
    pools = running.on_loop(lambda: [p.is_alone for p in running.server.plane.state.pools.values()])
    assert pools == [True]
    assert running.client("c-2").ask("rollback", app="app")["version"] == 3
    assert running.client("c-3").ask("history", app="app")[0]["strategy"] == "recreate"


def test_a_shadow_sees_what_the_current_version_answers(running: Running, client: Peer) -> None:
    key = two_versions(client, 100, kind="shadow")
    client.submit(key, ["c-1.1"])
    real, shadow = worker_of(running, 1), worker_of(running, 2)
    lease, parts = shadow.lease()
    assert (lease.ids, parts) == (["c-1.1.shadow"], [b"in c-1.1"])
    rows = {row["id"]: row for row in client.ask("calls")}
    assert (rows["c-1.1.shadow"]["shadow"], rows["c-1.1.shadow"]["version"]) == (True, 2)
    assert (rows["c-1.1"]["shadow"], rows["c-1.1"]["version"]) == (False, 1)
    real.finish(real.leased(1), b"value")
    assert client.result_of("c-1.1") == (0, b"value"), "whatever becomes of the shadow"
    shadow.finish({"c-1.1.shadow": 1}, b"value")
    wait_until(lambda: client.ask("shadow", app="app")["equal"] == 1, message="they are compared")
    client.submit(key, ["c-1.2"])
    shadow.finish(shadow.leased(1), b"other")
    real.finish(real.leased(1), b"value")
    wait_until(lambda: client.ask("shadow", app="app")["different"] == 1, message="they differ")
    client.submit(key, ["c-1.3"])
    error = {"type_name": "builtins.ValueError", "message": "bad"}
    shadow.finish(shadow.leased(1), b"pickled", outcomes=[1], errors={"0": error})
    real.finish(real.leased(1), b"value")
    wait_until(lambda: client.ask("shadow", app="app")["failed_in_shadow"] == 1, message="only the shadow fails")
    report = client.ask("shadow", app="app")
    assert (report["compared"], report["equal"], report["different"], report["open"]) == (3, 1, 1, 0)
    assert report["seconds"]["current"]["p50"] is not None and report["seconds"]["shadow"]["p99"] is not None
    assert [(one["call_id"], one["current"], one["shadow"]) for one in report["examples"]] == [
        ("c-1.2", "value: value", "value: other"),
        ("c-1.3", "value: value", "ValueError: bad"),
    ]
    assert [client.result_of(call_id)[0] for call_id in ("c-1.2", "c-1.3")] == [0, 0]
    assert client.nothing(m.Results), "the client is told nothing of the shadow's"


def test_a_shadow_is_left_out_where_calls_wait_and_ends_with_its_version(running: Running, client: Peer) -> None:
    key = two_versions(client, 100, kind="shadow")
    client.submit(key, [f"c-1.{n}" for n in range(20)], kind="map")
    client.submit(key, ["c-1.s"], kind="stream")
    wait_until(lambda: client.ask("shadow", app="app")["shed"].get("streams") == 1, message="streams are left out")
    assert client.ask("shadow", app="app")["shed"]["load"] >= 1
    client.ask("promote", app="app")
    mirrored = [row for row in client.ask("calls") if row["shadow"] and row["state"] in {"queued", "running"}]
    assert not mirrored
    with pytest.raises(NotFound, match="was promoted"):
        client.ask("shadow", app="app")


def test_a_shadow_without_room_says_so(start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch) -> None:
    running = start(engine=FakeEngine(cpus=1.0))
    client = running.client()
    key = two_versions(client, 100, kind="shadow")
    worker = None
    for number in range(6):
        client.submit(key, [f"c-1.{number}"])
        worker = worker or worker_of(running, 1)
        worker.finish(worker.leased(1))
        assert client.result_of(f"c-1.{number}")[0] == 0
    report = client.ask("shadow", app="app")
    assert (report["open"], report["shed"]) == (6, {}) and "free" in report["waiting"]
    monkeypatch.setattr(shadows, "PATIENCE_SECONDS", -1.0)  # the last one may have come in this very tick
    report = client.ask("shadow", app="app")
    assert (report["open"], report["shed"], report["compared"]) == (0, {"no room": 6}, 0)


def test_a_shadow_that_cannot_run_is_stopped_and_its_calls_are_nobodys(running: Running, client: Peer) -> None:
    key = two_versions(client, 100, kind="shadow")
    client.submit(key, ["c-1.1"])
    seen: set[str] = set()
    for _ in range(BARREN_MAX):
        seen.add(end_worker(running, 2, but=seen))
    wait_until(lambda: client.ask("history", app="app")[0]["state"] == "failed", message="it is stopped")
    assert running.on_loop(lambda: [*running.server.plane.state.calls]) == ["c-1.1"]
    stable = worker_of(running, 1)
    stable.finish(stable.leased(1))
    assert client.result_of("c-1.1")[0] == 0
    (row,) = client.ask("apps")
    assert row["stopped"]["kind"] == "shadow"


def test_a_version_with_a_warm_minimum_takes_turns_as_well(running: Running, client: Peer) -> None:
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.ask, "deploy", app="app", functions=functions(min_workers=1), strategy="recreate")
        worker_of(running, 1)
        first.result(30)
    client.ask("deploy", app="app", functions=functions(min_workers=1, cpu=0.5), strategy="recreate")
    assert {one.function.version for one in running.engine.specs.values()} == {1}
    (old,) = running.engine.specs
    running.on_loop(
        lambda: running.server.engine_event(engine_base.WorkerDown(old, cause="stopped", detail="", calls=[], texts=[]))
    )
    worker_of(running, 2)
