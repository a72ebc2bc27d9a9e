from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stoker.images.builder import EnvironmentBuilder

from .dict_blobs import Collecting, DictBlobs


@pytest.fixture
def blobs() -> DictBlobs:
    return DictBlobs()


@pytest.fixture
def collect(blobs: DictBlobs) -> Collecting:
    return Collecting(blobs)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "home" / "environments"


@pytest.fixture
def builder(root: Path, blobs: DictBlobs) -> EnvironmentBuilder:
    return EnvironmentBuilder(root, blobs)


@pytest.fixture
def python() -> Callable[[str, str], str]:
    """Run a program on an interpreter; what it prints."""
    import subprocess

    def run(executable: str, program: str) -> str:
        done = subprocess.run([executable, "-I", "-c", program], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    return run
