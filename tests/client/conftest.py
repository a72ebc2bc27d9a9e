"""A fake server that the client finds, and apps whose functions it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import stoker
from stoker import paths
from stoker.client import session as sessions
from tests.client.fake_server import FakeServer


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    """A persistent server, as far as the client can tell."""
    monkeypatch.setenv("STOKER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STOKER_RUNTIME_DIR", str(tmp_path / "run"))
    for name in ("STOKER_SERVER", "STOKER_TOKEN", "STOKER_APP", "STOKER_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    sessions.close()
    found = FakeServer(paths.server_runtime())
    yield found
    sessions.close()
    found.close()


@pytest.fixture
def app(server: FakeServer) -> Iterator[stoker.App]:
    yield stoker.App("test", include_source=False)


def until(reached: Callable[[], bool], *, seconds: float = 20.0) -> None:
    """Return once something has happened; fail when it does not."""
    give_up = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < give_up, "it did not happen in time"
        time.sleep(0.002)
