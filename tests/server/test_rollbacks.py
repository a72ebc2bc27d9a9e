"""Rollbacks that are sent twice, asked for by two, cut short, or followed by others: each goes back once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stoker.errors import StoreError
from stoker.protocol import messages as m
from stoker.store.base import Rollout
from stoker.store.memory import MemoryBacking, MemoryStore

from .harness import Peer, Running
from .test_versions import functions


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
    """Takes no rollout any more once it is full."""

    full = False

    def put_rollout(self, epoch: int, rollout: Rollout, *, makes_current: bool = False) -> None:
        if self.full:
            raise StoreError("disk full")
        super().put_rollout(epoch, rollout, makes_current=makes_current)


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


def test_a_rollback_that_was_cut_short_leaves_no_canary_that_comes_back(start: Callable[..., Running]) -> None:
    backing = MemoryBacking()
    store = FullStore(backing)
    client = start(store=store).client()
    deployed(client, 2)
    canary(client)
    store.full = True
    assert "disk full" in say(client, "rollback", app="app", version=1)
    client = start(store=MemoryStore(backing)).client()
    for _ in range(2):
        assert states(client) == {1: "", 2: "", 3: "replaced", 4: "current"}
        assert client.ask("apps")[0]["beside"] is None
        assert say(client, "rollback", app="app", version=1)["version"] == 4
        client = start(store=MemoryStore(backing)).client()


def test_a_tag_that_was_a_users_once_says_nothing_of_rollbacks(start: Callable[..., Running]) -> None:
    backing = MemoryBacking()
    client = start(store=MemoryStore(backing)).client()
    deployed(client, 2)
    for made in backing.deployments["app"]:
        made.tags["same_as"] = "prod"
    assert [row["same_as"] for row in client.ask("history", app="app")] == [0, 0]
    assert client.ask("rollback", app="app")["same_as"] == 1
