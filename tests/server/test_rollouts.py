"""What is written of a version beside the current one, while the store waits, refuses, or is away."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from stoker.core.trials import BARREN_MAX
from stoker.errors import NotFound, StoreError
from stoker.server import deployments, restart
from stoker.server.version_rows import FAILED_STARTS
from stoker.store.base import Rollout, StoreUnavailable
from stoker.store.memory import MemoryBacking, MemoryStore
from tests.waiting import wait_until

from .harness import PATIENCE_SECONDS, Peer, Running
from .test_going_on import warm_then_broken
from .test_versions import end_worker, functions, two_versions, worker_of


class Rollouts(MemoryStore):
    """A store whose rollouts wait at a gate, are refused, or find it away."""

    def __init__(self, backing: MemoryBacking | None = None) -> None:
        super().__init__(backing)
        self.gate = threading.Event()
        self.gate.set()
        self.errors: list[StoreError] = []

    def put_rollout(self, epoch: int, rollout: Rollout, *others: Rollout, makes_current: bool = False) -> None:
        assert self.gate.wait(PATIENCE_SECONDS)
        if self.errors:
            raise self.errors.pop()
        super().put_rollout(epoch, rollout, *others, makes_current=makes_current)


def fail_canary(running: Running, client: Peer, key: str) -> None:
    client.submit(key, ["c-1.1", "c-1.2"], kind="map")
    seen: set[str] = set()
    for _ in range(BARREN_MAX):
        seen.add(end_worker(running, 2, but=seen))
    functions = running.server.functions
    wait_until(lambda: "app" not in functions.beside, message="it is stopped")


def test_a_share_that_is_changed_while_its_canary_fails_is_not_changed(start: Callable[..., Running]) -> None:
    store = Rollouts()
    running = start(store=store)
    client = running.client()
    key = two_versions(client, 50)
    store.gate.clear()
    changed = ThreadPoolExecutor(1).submit(running.client("c-2").ask, "share", app="app", percent=60)
    wait_until(lambda: running.server.verbs._changing.locked(), message="it is being changed")
    fail_canary(running, client, key)
    store.gate.set()
    with pytest.raises(NotFound, match="The last one, version 2, could not run"):
        changed.result(PATIENCE_SECONDS)
    (row,) = client.ask("apps")
    assert row["stopped"]["version"] == 2
    wait_until(lambda: client.ask("history", app="app")[0]["state"] == "failed", message="it is written")


def test_that_a_canary_failed_is_written_once_the_store_takes_it(
    start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployments, "RETRY_SECONDS", 0.01)
    store = Rollouts()
    running = start(store=store)
    client = running.client()
    key = two_versions(client, 50)
    store.errors = [StoreError("disk full"), StoreError("disk full")]
    fail_canary(running, client, key)
    wait_until(lambda: client.ask("history", app="app")[0]["state"] == "failed", message="it is written")
    assert store.errors == []


def test_a_canary_that_fails_while_it_is_promoted_is_the_current_version(start: Callable[..., Running]) -> None:
    store = Rollouts()
    running = start(store=store)
    client = running.client()
    key = two_versions(client, 50)
    store.gate.clear()
    promoted = ThreadPoolExecutor(1).submit(running.client("c-2").ask, "promote", app="app")
    wait_until(lambda: running.server.verbs._changing.locked(), message="it is being promoted")
    fail_canary(running, client, key)
    store.gate.set()
    assert promoted.result(PATIENCE_SECONDS) == {"version": 2, "was": "canary"}
    written = running.server.writer.result_of(lambda: store.rollouts())  # after all that was put in before
    rollouts = asyncio.run_coroutine_threadsafe(written, running.loop).result(PATIENCE_SECONDS)
    assert [(one.version, one.state) for one in rollouts] == [(2, "promoted")]


@pytest.mark.parametrize("verb", ["promote", "abort", "undeploy"])
def test_what_ends_a_canary_waits_for_a_store_that_is_away(verb: str, start: Callable[..., Running]) -> None:
    class Away(Rollouts):
        """It is lost once it has written, before it could say so."""

        def put_rollout(self, epoch: int, rollout: Rollout, *others: Rollout, makes_current: bool = False) -> None:
            MemoryStore.put_rollout(self, epoch, rollout, *others, makes_current=makes_current)
            if self.errors:
                raise self.errors.pop()

        def undeploy(self, epoch: int, app: str, *rollouts: Rollout) -> bool:
            there = super().undeploy(epoch, app, *rollouts)
            if self.errors:
                raise self.errors.pop()
            return there

    store = Away()
    client = start(store=store).client()
    two_versions(client, 50)
    store.errors = [StoreUnavailable("it is away"), StoreUnavailable("it is away")]
    client.ask(verb, app="app")
    assert store.errors == []
    state = {"promote": ["promoted"], "abort": ["aborted"], "undeploy": ["aborted"]}
    assert [one.state for one in store.rollouts()] == state[verb]


def test_a_version_is_made_once_by_a_store_that_was_away(start: Callable[..., Running]) -> None:
    class Away(MemoryStore):
        tries = 0

        def deploy(self, *arguments: object, **named: object) -> object:  # type: ignore[override]
            made = super().deploy(*arguments, **named)  # type: ignore[arg-type]
            self.tries += 1
            if self.tries == 1:
                raise StoreUnavailable("it is away")
            return made

    store = Away()
    client = start(store=store).client()
    assert client.ask("deploy", app="app", functions=functions())["version"] == 1
    assert [one.version for one in store.deployments()] == [1]


def test_the_version_that_answers_is_kept_however_many_come_after_it(
    running: Running, client: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restart, "OLD_VERSIONS_KEPT", 1)
    warm_then_broken(running, client)
    with ThreadPoolExecutor(1) as pool:
        deploying = pool.submit(running.client("c-9").ask, "deploy", app="app", functions=functions(cpu=0.25))
        seen: set[str] = set()
        for _ in range(FAILED_STARTS):
            seen.add(end_worker(running, 3, but=seen))
        deploying.result(PATIENCE_SECONDS)
    running.on_loop(lambda: restart.prune_functions(running.server))
    pruned = running.server.writer.result_of(lambda: None)
    asyncio.run_coroutine_threadsafe(pruned, running.loop).result(PATIENCE_SECONDS)
    rows = [(row["version"], row["state"]) for row in client.ask("history", app="app")]
    assert rows == [(3, "not ready"), (2, "never ready"), (1, "answers")]
    with ThreadPoolExecutor(1) as pool:
        rolling = pool.submit(client.ask, "rollback", app="app")
        worker_of(running, 4)
        assert rolling.result(PATIENCE_SECONDS)["same_as"] == 1
