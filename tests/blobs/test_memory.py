"""The memory blob store."""

from __future__ import annotations

import pytest

from stoker.blobs.base import BlobStore
from stoker.testing.seams import MemoryBlobStore
from tests.blobs.contract import BlobStoreContract


class TestMemoryBlobStore(BlobStoreContract):
    @pytest.fixture
    def blobs(self) -> BlobStore:
        return MemoryBlobStore()
