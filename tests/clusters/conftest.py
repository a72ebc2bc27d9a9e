"""Clusters run in real processes, on a machine of four processors; what their ranks put on disk must go with them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def four_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_NODE_CPUS", "4")


@pytest.fixture
def no_semaphores_left() -> Iterator[None]:
    """Those that Python's multiprocessing makes, for Dask's processes, are files; other tests may have some as well."""
    before = set(Path("/dev/shm").glob("sem.*"))
    yield
    made = set(Path("/dev/shm").glob("sem.*")) - before
    wait_until(lambda: not any(path.exists() for path in made), timeout=60, message="the semaphores are gone")


@pytest.fixture(autouse=True)
def no_files_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give what runs a directory for temporary files that must be empty afterwards; ``tmp_path`` is not in it."""
    with tempfile.TemporaryDirectory(prefix="cl", dir="/tmp") as name:  # short, for sockets
        place = Path(name)
        monkeypatch.setenv("TMPDIR", name)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield place
        wait_until(lambda: not any(place.iterdir()), timeout=20, message="its temporary files are gone")
    tempfile.tempdir = None
