"""Payload files whose writer was killed: deleted once nobody can ask for them, and never before."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stoker.protocol import messages as m
from stoker.server import orphans
from stoker.testing.seams import FakeEngine, MemoryStore
from tests.server.harness import GatedStore, Running, spec
from tests.waiting import wait_until


@pytest.mark.parametrize(
    ("name", "writer"),
    [
        ("c-0123.0000000a.a", ("client", "c-0123")),
        ("r-w1-7-12", ("worker", "w1-7")),
        ("+pool", ("", "")),
        ("something.else", ("", "")),
    ],
)
def test_files_say_who_wrote_them(name: str, writer: tuple[str, str]) -> None:
    assert orphans.writer_of(name) == writer


def old_file(directory: Path, name: str) -> Path:
    path = directory / name
    path.write_bytes(b"x")
    long_ago = time.time() - 3600
    os.utime(path, (long_ago, long_ago))
    return path


def test_only_what_nobody_can_ask_for_is_deleted(running: Running) -> None:
    client = running.client("c-here")
    key = running.register(client, spec())["f"]
    directory = running.server.files.segments
    wanted = old_file(directory, "c-gone.1.a")
    client.send(m.Submit(key, ["c-here.1"], [0], segments={"0": ["c-gone.1.a", 1]}))
    wait_until(lambda: running.on_loop(lambda: "c-here.1" in running.server.plane.state.calls))
    lost = [old_file(directory, "c-gone.2.a"), old_file(directory, "r-w9-9-1")]
    kept = [wanted, old_file(directory, "c-here.9.a"), old_file(directory, "unknown")]
    (directory / "c-gone.3.a").write_bytes(b"new")  # its writer may be about to say so
    kept.append(directory / "c-gone.3.a")
    looked = asyncio.run_coroutine_threadsafe(orphans.sweep_once(running.server), running.server.loop)
    assert looked.result(10) == sorted(path.name for path in lost)
    wait_until(lambda: not any(path.exists() for path in lost))
    assert all(path.exists() for path in kept)


def sweep_spill(running: Running) -> list[str]:
    return asyncio.run_coroutine_threadsafe(orphans.sweep_spill(running.server), running.server.loop).result(10)


def test_what_a_killed_server_had_copied_and_not_committed_is_deleted(start: Callable[..., Running]) -> None:
    store = MemoryStore()
    before = start(store=store, engine=FakeEngine(automatic=False))
    client = before.client("c-gone")
    key = before.register(client, spec())["f"]
    (before.config.segments / "c-gone.1.a").write_bytes(b"x")
    client.send(m.Submit(key, ["c-gone.1"], [0], detached=True, segments={"0": ["c-gone.1.a", 1]}))
    client.get(m.Accepted)
    running = start(store=MemoryStore(store.backing))
    spill = running.config.spill
    kept = [old_file(spill, name) for name in ("c-gone.1.a", "c-here.1.a", "unknown")]
    running.client("c-here")
    (spill / "c-gone.3.a").write_bytes(b"new")
    kept.append(spill / "c-gone.3.a")
    lost = [old_file(spill, name) for name in ("c-gone.2.a", "r-w1-9-1")]
    assert sorted(sweep_spill(running)) == sorted(path.name for path in lost)
    wait_until(lambda: not any(path.exists() for path in lost))
    assert all(path.exists() for path in kept)


def test_what_is_on_its_way_into_the_store_is_kept(running: Running, store: GatedStore) -> None:
    client = running.client("c-1")
    key = running.register(client, spec())["f"]
    store.gate.clear()
    path = old_file(running.config.spill, "c-gone.1.a")
    client.send(m.Submit(key, ["c-1.1"], [0], detached=True, segments={"0": ["c-gone.1.a", 1]}))
    wait_until(lambda: running.on_loop(lambda: "c-1.1" in running.server.plane.state.calls))
    assert sweep_spill(running) == []
    store.gate.set()
    client.get(m.Accepted)
    assert sweep_spill(running) == []
    assert path.exists()
