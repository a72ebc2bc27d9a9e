"""The contract of blob stores, in a bucket over HTTP."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stoker.blobs.base import BlobStore
from tests.blobs.contract import BlobStoreContract


class TestObjectBlobStore(BlobStoreContract):
    @pytest.fixture
    def blobs(self, s3_port: int, bucket: str, open_store: Callable[[str], BlobStore]) -> BlobStore:
        options = f"endpoint=http://127.0.0.1:{s3_port}&region=us-east-1&allow_http=true"
        return open_store(f"s3://{bucket}/some/prefix?{options}")


def test_at_the_top_of_a_bucket_too(s3_port: int, bucket: str, open_store: Callable[[str], BlobStore]) -> None:
    blobs = open_store(f"s3://{bucket}?endpoint=http://127.0.0.1:{s3_port}&allow_http=true")
    blobs.put("a/b", [b"x"])
    assert (blobs.keys("a"), blobs.keys()) == (["a/b"], [])
    below = open_store(f"s3://{bucket}/a?endpoint=http://127.0.0.1:{s3_port}&allow_http=true")
    assert below.get("b") == b"x"
