"""What apps' pages say is so: no request that they allow is refused, none that they forbid is a server's error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.running import Serving, serving
from tests.serving.schemas import check_page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

TYPES = (Path(__file__).parent / "app_of_types.py").read_text()
ENDPOINTS = (Path(__file__).parent / "app_of_endpoints.py").read_text()

# What no page can say: that lists are of one length, and that any text of a form is a file.
CONFIG = """
[[operations]]
include-operation-id = "Kept.array"
checks.positive_data_acceptance.enabled = false

[[operations]]
include-operation-id = ["Kept.file", "Kept.files"]
checks.negative_data_rejection.enabled = false
"""
# They raise, die, hang, or give as much as they are asked for: that is what they are there for.
ON_PURPOSE = ("fail", "reflects", "hangs", "dies_once", "slowly", "narrow", "big", "count", "count_async")


@pytest.fixture(scope="module")
def served() -> Iterator[Serving]:
    with serving(STOKER_NODE_CPUS="16") as found:  # each keeps its worker: none gives way to another's requests
        yield found


def test_endpoints_of_all_types(served: Serving, tmp_path: Path) -> None:
    served.deploy(TYPES, "all_types")
    assert "14 selected" in check_page(served, "types", tmp_path, config=CONFIG)


def test_the_endpoints_of_the_other_tests(served: Serving, tmp_path: Path) -> None:
    served.deploy(ENDPOINTS, "endpoints")
    check_page(served, "shop", tmp_path, but=ON_PURPOSE)
