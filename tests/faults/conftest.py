"""Faults are made in real processes: each test has a machine of four processors to itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.running import PersistentServer


@pytest.fixture(autouse=True)
def four_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_NODE_CPUS", "4")


@pytest.fixture
def server(own_home: Path, runtime_dir: Path) -> Iterator[PersistentServer]:
    """Return a persistent server that runs."""
    found = PersistentServer()
    answer = found.start()
    assert "error" not in answer, answer
    yield found
    found.stop()
