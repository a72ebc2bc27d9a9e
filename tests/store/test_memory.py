"""The memory store, and that its handles can share rows."""

from __future__ import annotations

import pytest

from stoker.testing.seams import MemoryBacking, MemoryStore
from tests.store.contract import StoreContract, StoreOpener
from tests.store.rows import accepted


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def opened(self) -> StoreOpener:
        backing = MemoryBacking()
        return lambda: MemoryStore(backing)


def test_two_stores_share_nothing_unless_they_are_told_to() -> None:
    first, second = MemoryStore(), MemoryStore()
    first.write(first.begin_term(), [accepted(1)])
    assert second.last_seq() == 0
    assert MemoryStore(first.backing).last_seq() == 1
