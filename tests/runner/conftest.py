from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runner.harness import INTERPRETERS, Stage, staged


@pytest.fixture
def stage() -> Iterator[Stage]:
    with staged(Path(sys.executable)) as found:
        yield found


@pytest.fixture(params=INTERPRETERS, ids=lambda path: path.parent.parent.name)
def every_python(request: pytest.FixtureRequest) -> Iterator[Stage]:
    with staged(request.param) as found:
        yield found
