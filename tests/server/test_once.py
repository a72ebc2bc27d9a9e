"""Requests said again after a reconnect, or to the next server: carried out once, answered each time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from stoker.errors import ConnectionFailed
from stoker.protocol import messages as m
from stoker.testing.seams import MemoryBacking, MemoryStore
from tests.waiting import wait_until

from .harness import GatedStore, Peer, Running, spec


def deploy(number: int = 7, **options: Any) -> m.Request:
    return m.Request(number, "deploy", {"app": "app", "functions": [asdict(spec(run_id="", **options))]})


def say(client: Peer, request: m.Request) -> m.Reply:
    client.send(request)
    return client.get(m.Reply)


def versions(client: Peer) -> list[int]:
    return [row["version"] for row in client.ask("history", app="app")]


def test_a_deployment_said_again_is_the_same_version(running: Running) -> None:
    first = say(running.client(), deploy())
    again = running.client()
    assert say(again, deploy()) == first
    assert versions(again) == [1]


def test_one_said_again_while_it_is_under_way_waits_for_it(running: Running, store: GatedStore) -> None:
    before = running.client()
    store.deploying.clear()
    before.send(deploy())
    again = running.client()
    again.send(deploy())
    assert again.nothing(m.Reply)
    store.deploying.set()
    assert again.get(m.Reply).result["version"] == 1
    assert versions(again) == [1]


def test_another_request_is_another_version(running: Running) -> None:
    client = running.client()
    for request in (deploy(7), deploy(8, cpu=0.25), deploy(8, cpu=0.5)):
        assert say(client, request).error is None
    assert versions(client) == [3, 2, 1]
    assert say(running.client("c-2"), deploy(7)).result["version"] == 4


def test_a_deployment_said_again_to_the_next_server_is_the_same_version(start: Callable[..., Running]) -> None:
    backing = MemoryBacking()
    first = say(start(store=MemoryStore(backing)).client(), deploy())
    client = start(store=MemoryStore(backing)).client()
    assert say(client, deploy()).result == first.result
    assert versions(client) == [1]


def test_a_deployment_that_waits_when_its_server_stops_is_answered_by_the_next(start: Callable[..., Running]) -> None:
    backing = MemoryBacking()
    running = start(store=MemoryStore(backing))
    client, other = running.client(), running.client("c-2")
    say(client, deploy(1, max_workers=1))
    client.submit(client.ask("lookup", app="app", name="f")["key"], ["c-1.1"])
    worker = running.worker()
    worker.finish(worker.leased(1))
    assert client.result_of("c-1.1")[0] == 0
    other.send(deploy(2, max_workers=1, cpu=0.5))  # waits until a worker of it is ready
    wait_until(lambda: running.server.functions.current["app"].version == 2, message="it is made")
    with ThreadPoolExecutor(1) as pool:
        said = pool.submit(said_until_closed, other)
        other = start(store=MemoryStore(backing)).client("c-2")
        assert not [message for message in said.result(10) if isinstance(message, m.Reply)]
    reply = say(other, deploy(2, max_workers=1, cpu=0.5))
    assert reply.error is None and reply.result["version"] == 2


def said_until_closed(peer: Peer) -> list[object]:
    """Return what the server says before it closes the connection."""
    said: list[object] = []
    try:
        while True:
            said.append(peer.frames.receive().message)
    except ConnectionFailed:
        return said


def test_taking_an_app_down_said_again_is_no_error(running: Running) -> None:
    say(running.client(), deploy())
    request = m.Request(9, "undeploy", {"app": "app"})
    assert say(running.client(), request).error is None
    assert say(running.client(), request).error is None
    reply = say(running.client(), m.Request(10, "undeploy", {"app": "app"}))
    assert reply.error is not None and reply.error.type_name == "NotFound"
