from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .harness import GatedStore, Peer, Running, spec


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start servers, one after the other on the same directories; they are stopped after the test."""
    started: list[Running] = []

    def begin(**arguments: Any) -> Running:
        for one in started:
            one.stop()
        started.append(Running(tmp_path, **arguments))
        return started[-1]

    yield begin
    for one in started:
        one.stop()


@pytest.fixture
def store() -> GatedStore:
    return GatedStore()


@pytest.fixture
def running(start: Callable[..., Running], store: GatedStore) -> Running:
    return start(store=store)


@pytest.fixture
def client(running: Running) -> Peer:
    return running.client()


@pytest.fixture
def key(running: Running, client: Peer) -> str:
    """A function that one worker runs, one call at a time."""
    return running.register(client, spec(max_workers=1))["f"]
