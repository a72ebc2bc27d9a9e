"""One server for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.running import Serving, serving

APP = (Path(__file__).parent / "app_of_endpoints.py").read_text()


@pytest.fixture(scope="module")
def served() -> Iterator[Serving]:
    """Have the app of endpoints deployed."""
    with serving() as found:
        found.deploy(APP, "endpoints")
        yield found
