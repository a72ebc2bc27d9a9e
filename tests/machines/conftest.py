"""A directory that a test's machines share with it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory whose path leaves room for sockets below it."""
    path = Path(tempfile.mkdtemp(prefix="mc", dir=os.environ["STOKER_TEST_ROOT"]))
    yield path
    shutil.rmtree(path, ignore_errors=True)
