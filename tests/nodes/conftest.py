from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nodes.running import Nodes

_SET = ("STOKER_ENGINE", "STOKER_LISTEN", "STOKER_NODE_LEASE", "STOKER_TEST_NODES")


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory whose path leaves room for sockets below it."""
    for name in _SET:
        monkeypatch.setenv(name, "")
    path = Path(tempfile.mkdtemp(prefix="nd", dir=os.environ["STOKER_TEST_ROOT"]))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def nodes(root: Path, own_home: Path, runtime_dir: Path) -> Iterator[Nodes]:
    """Two nodes with two cores each, and a server."""
    found = Nodes(root, n1={"cpus": 2}, n2={"cpus": 2})
    found.start()
    yield found
    found.stop()
