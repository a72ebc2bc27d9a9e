"""Rollbacks that are sent twice, asked for by two, cut short, or followed by others: each goes back once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from stoker.errors import InvalidRequest, NotFound, StoreError
from stoker.protocol import messages as m
from stoker.server import deployments
from stoker.server.version_rows import FAILED_STARTS
from stoker.store.base import Deployment, Rollout, no_others
from stoker.store.memory import MemoryBacking, MemoryStore
from tests.waiting import wait_until

from .harness import Peer, Running, ScriptedWorker
from .test_versions import end_worker, functions, worker_of


def say(client: Peer, verb: str, **params: Any) -> Any:
    """Send a request as the same one each time, as a client does that has lost its server; return what is answered."""
    client.send(m.Request(77, verb, params))
    reply = client.get(m.Reply)
    assert reply.id == 77
    return reply.result if reply.error is None else reply.error.message


def deployed(client: Peer, number: int) -> None:
    for cpu in range(1, number + 1):
        client.ask("deploy", app="app", functions=functions(cpu=cpu / 4))


def canary(client: Peer, *, percent: float = 50) -> None:
    client.ask("deploy", app="app", functions=functions(cpu=1.5), beside="canary", percent=percent)


def states(client: Peer) -> dict[int, str]:
    return {row["version"]: row["state"] for row in client.ask("history", app="app")}


class FullStore(MemoryStore):
    """Takes no version any more once it is full: in the midst of the transaction, when all others are known."""

    full = False

    def deploy(self, *args: Any, others: Callable[[int], Iterable[Rollout]] = no_others, **more: Any) -> Deployment:
        def until_full(version: int) -> list[Rollout]:
            rollouts = [*others(version)]
            if self.full:
                raise StoreError("disk full")
            return rollouts

        return super().deploy(*args, others=until_full, **more)


def test_a_rollback_that_is_said_again_to_a_server_of_a_later_term_goes_back_once(
    start: Callable[..., Running],
) -> None:
    backing = MemoryBacking()
    client = start(store=MemoryStore(backing)).client()
    deployed(client, 3)
    assert say(client, "rollback", app="app")["same_as"] == 2
    client = start(store=MemoryStore(backing)).client()
    canary(client)
    told = say(client, "rollback", app="app")
    assert (told["version"], told["same_as"]) == (4, 2)
    assert states(client) == {1: "", 2: "", 3: "", 4: "current", 5: "canary"}, "what came since stays as well"


def test_a_rollback_that_cannot_be_written_leaves_all_as_it_was(start: Callable[..., Running]) -> None:
    backing = MemoryBacking()
    store = FullStore(backing)
    client = start(store=store).client()
    deployed(client, 2)
    canary(client)
    store.full = True
    assert "disk full" in say(client, "rollback", app="app", version=1)
    for _ in range(2):  # the server that was told, and one that has read the store
        assert states(client) == {1: "", 2: "current", 3: "canary"}
        assert client.ask("apps")[0]["beside"]["version"] == 3
        running = start(store=MemoryStore(backing))
        client = running.client()
    with ThreadPoolExecutor(1) as pool:  # what an earlier term had may have been ready, so this one is to be
        rolling = pool.submit(say, client, "rollback", app="app", version=1)
        worker_of(running, 4)
        assert rolling.result(30)["version"] == 4
    for _ in range(2):
        assert states(client) == {1: "", 2: "", 3: "aborted", 4: "current"}
        client = start(store=MemoryStore(backing)).client()
        assert say(client, "rollback", app="app", version=1)["version"] == 4


def test_a_tag_that_was_a_users_once_says_nothing_of_rollbacks(start: Callable[..., Running]) -> None:
    backing = MemoryBacking()
    client = start(store=MemoryStore(backing)).client()
    deployed(client, 2)
    for made in backing.deployments["app"]:
        made.tags["same_as"] = "prod"
    assert [row["same_as"] for row in client.ask("history", app="app")] == [0, 0]
    assert client.ask("rollback", app="app")["same_as"] == 1


def seen(current: int, beside: int = 0) -> dict[str, int]:
    return {"current": current, "beside": beside}


def test_two_who_see_a_bad_canary_end_it_and_nothing_else(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    client, other = running.client("c-1"), running.client("c-2")
    deployed(client, 2)
    canary(client)
    told = client.ask("rollback", app="app", seen=seen(2, 3))
    assert (told["version"], told["ended"]) == (2, {"version": 3, "was": "canary"})
    told = other.ask("rollback", app="app", seen=seen(2, 3))
    assert (told["version"], told["same_as"]) == (2, 2) and told["ended"]["already"].startswith("was aborted (by ")
    with pytest.raises(InvalidRequest, match=r"Version 3 of app, a canary, was aborted .*version 2, .*--to VERSION"):
        other.ask("rollback", app="app", seen=seen(2))
    assert states(client) == {1: "", 2: "current", 3: "aborted"}
    monkeypatch.setattr(deployments, "MISTAKEN_SECONDS", 0.0)
    assert other.ask("rollback", app="app", seen=seen(2))["same_as"] == 1, "long after, it is the current one's turn"


def test_a_rollback_of_what_has_changed_meanwhile_is_refused(client: Peer) -> None:
    deployed(client, 3)
    assert client.ask("rollback", app="app", seen=seen(3))["same_as"] == 2
    with pytest.raises(InvalidRequest, match="changed just now: the current one is version 4"):
        client.ask("rollback", app="app", seen=seen(3))
    canary(client)
    with pytest.raises(InvalidRequest, match="version 4, with version 5 beside it"):
        client.ask("rollback", app="app", seen=seen(4))
    assert states(client)[5] == "canary"


def test_a_rollback_that_ended_a_canary_does_not_go_on_when_it_is_said_again(start: Callable[..., Running]) -> None:
    backing = MemoryBacking()
    client = start(store=MemoryStore(backing)).client()
    deployed(client, 2)
    canary(client)
    say(client, "rollback", app="app", seen=seen(2, 3))
    client = start(store=MemoryStore(backing)).client()
    told = say(client, "rollback", app="app", seen=seen(2, 3))
    assert (told["version"], told["ended"]["version"]) == (2, 3)
    assert states(client) == {1: "", 2: "current", 3: "aborted"}


def used(running: Running, client: Peer, version: int) -> ScriptedWorker:
    """Return a worker of the current version, which has answered a call."""
    client.submit(client.ask("lookup", app="app", name="f")["key"], ["c-1.1"])
    worker = worker_of(running, version)
    worker.finish(worker.leased(1))
    assert client.result_of("c-1.1")[0] == 0
    return worker


def waits_for(client: Peer, version: int) -> None:
    wait_until(lambda: states(client).get(version) == "starting", message=f"version {version} is waited for")


def test_a_rollback_that_does_not_start_is_called_off_by_another(running: Running) -> None:
    client, other = running.client("c-1"), running.client("c-2")
    deployed(client, 3)
    good = used(running, client, 3)
    with ThreadPoolExecutor(1) as pool:
        rolling = pool.submit(other.ask, "rollback", app="app")
        waits_for(client, 4)
        with pytest.raises(InvalidRequest, match=r"version 4, the same as version 2, is starting.*--to 3` calls that"):
            client.ask("rollback", app="app")
        ended: set[str] = set()
        for _ in range(FAILED_STARTS):
            ended.add(end_worker(running, 4, but=ended))
        assert [*rolling.result(30)["waits"]] == ["f"]
        rolling = pool.submit(other.ask, "rollback", app="app")
        waits_for(client, 5)
        new = worker_of(running, 5)
        assert rolling.result(30)["same_as"] == 3, "the one that answers"
    good.close()
    new.close()
    assert states(client)[4] == "never ready"


def test_whoever_deploys_is_told_that_another_one_came_before_it_was_ready(running: Running) -> None:
    client, first, second = (running.client(f"c-{n}") for n in (1, 2, 3))
    deployed(client, 1)
    old = used(running, client, 1)
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(first.ask, "deploy", app="app", functions=functions(cpu=0.5))
        waits_for(client, 2)
        two = pool.submit(second.ask, "deploy", app="app", functions=functions(cpu=0.75))
        assert one.result(30)["replaced_by"] == 3
        waits_for(client, 3)
        new = worker_of(running, 3)
        assert "replaced_by" not in two.result(30)
        assert "replaced_by" not in first.ask("deploy", app="app", functions=functions(), beside="canary", percent=1)
    old.close()
    new.close()


def starts_fail(running: Running, client: Peer, version: int) -> None:
    """Have a call wait for a version's workers, of which none starts any more."""
    client.submit(client.ask("lookup", app="app", name="f")["key"], ["c-1.1"])
    ended: set[str] = set()
    for _ in range(FAILED_STARTS):
        ended.add(end_worker(running, version, but=ended))


def test_a_version_that_served_an_earlier_term_was_ready(start: Callable[..., Running]) -> None:
    backing = MemoryBacking()
    deployed(start(store=MemoryStore(backing)).client(), 2)
    running = start(store=MemoryStore(backing))
    client = running.client("c-1")
    starts_fail(running, client, 2)
    client.ask("deploy", app="app", functions=functions(cpu=0.75))
    assert states(client) == {1: "", 2: "", 3: "current"}
    assert client.ask("rollback", app="app")["same_as"] == 2


def test_a_version_that_was_promoted_stays_one_that_was(running: Running, client: Peer) -> None:
    deployed(client, 1)
    canary(client)
    client.ask("promote", app="app")
    starts_fail(running, client, 2)
    client.ask("deploy", app="app", functions=functions(cpu=0.75))
    assert states(client) == {1: "", 2: "", 3: "current"}


@pytest.mark.parametrize(("verb", "ends_as"), [("promote", "current"), ("abort", "aborted")])
def test_what_ended_a_canary_does_not_end_the_next_one_when_it_is_said_again(
    verb: str, ends_as: str, start: Callable[..., Running]
) -> None:
    backing = MemoryBacking()
    client = start(store=MemoryStore(backing)).client()
    deployed(client, 1)
    canary(client)
    first = say(client, verb, app="app", seen=seen(1, 2))
    assert states(client)[2] == ends_as
    running = start(store=MemoryStore(backing))
    other, client = running.client("c-2"), running.client()
    other.ask("deploy", app="app", functions=functions(cpu=0.0625), beside="canary", percent=1)
    assert say(client, verb, app="app", seen=seen(1, 2)) == first
    assert states(client)[3] == "canary"
    with pytest.raises(InvalidRequest, match=r"changed just now: .* with version 3 beside it"):
        other.ask(verb, app="app", seen=seen(1))
    assert other.ask(verb, app="app")["version"] == 3, "as before, where nobody says what was seen"


def test_a_stop_said_again_does_not_stop_what_is_deployed_since(start: Callable[..., Running]) -> None:
    backing = MemoryBacking()
    client = start(store=MemoryStore(backing)).client()
    deployed(client, 1)
    assert say(client, "undeploy", app="app", seen=seen(1)) is None
    running = start(store=MemoryStore(backing))
    other, client = running.client("c-2"), running.client()
    assert say(client, "undeploy", app="app", seen=seen(1)) is None
    with pytest.raises(NotFound, match="No app 'app' is deployed"):
        other.ask("undeploy", app="app", seen=seen(0))
    other.ask("deploy", app="app", functions=functions(cpu=0.0625))
    with pytest.raises(InvalidRequest, match="changed just now: the current one is version 2"):
        other.ask("undeploy", app="app", seen=seen(1))
    canary(other)
    with pytest.raises(InvalidRequest, match="with version 3 beside it"):
        other.ask("undeploy", app="app", seen=seen(2))
    assert states(other)[2] == "current"
    other.ask("undeploy", app="app", seen=seen(2, 3))
    assert set(states(other).values()) == {"", "aborted"}
