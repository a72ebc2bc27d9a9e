"""Blobs named by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import pytest

from stoker.blobs.addressed import addressed_key, get_checked, put_addressed
from stoker.blobs.base import BlobStore
from stoker.blobs.disk import DiskBlobStore
from stoker.errors import InvalidRequest, NotFound, StoreError
from stoker.testing.seams import MemoryBlobStore


@pytest.fixture(params=["memory", "disk"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    return MemoryBlobStore() if request.param == "memory" else DiskBlobStore(tmp_path)


def test_bytes_are_named_by_their_digest(blobs: BlobStore) -> None:
    digest = put_addressed(blobs, "bundle", b"source")
    assert digest == hashlib.sha256(b"source").hexdigest()
    assert blobs.keys("bundle") == [f"bundle/{digest}"]
    assert get_checked(blobs, "bundle", digest) == b"source"


def test_bytes_that_changed_are_told_by_name(blobs: BlobStore) -> None:
    digest = put_addressed(blobs, "bundle", b"source")
    blobs.put(f"bundle/{digest}", [b"s0urce"])
    with pytest.raises(StoreError, match=f"bundle/{digest} is corrupt"):
        get_checked(blobs, "bundle", digest)


def test_bytes_cut_short_are_put_again(blobs: BlobStore) -> None:
    digest = put_addressed(blobs, "bundle", b"source")
    blobs.put(f"bundle/{digest}", [b""])
    assert put_addressed(blobs, "bundle", memoryview(b"source")) == digest
    assert get_checked(blobs, "bundle", digest) == b"source"


def test_bytes_that_are_there_are_not_written_again() -> None:
    class Counting(MemoryBlobStore):
        puts = 0

        def put(self, key: str, parts: Iterable[bytes | memoryview]) -> int:
            self.puts += 1
            return super().put(key, parts)

    blobs = Counting()
    assert put_addressed(blobs, "bundle", b"x") == put_addressed(blobs, "bundle", b"x")
    assert blobs.puts == 1


def test_missing_bytes_are_not_found(blobs: BlobStore) -> None:
    with pytest.raises(NotFound):
        get_checked(blobs, "bundle", "0" * 64)


@pytest.mark.parametrize("digest", ["", "0" * 63, "G" * 64, "A" * 64, "../" + "0" * 61, "0" * 64 + "\n"])
def test_what_is_no_digest_is_refused(blobs: BlobStore, digest: str) -> None:
    with pytest.raises(InvalidRequest, match="SHA-256"):
        get_checked(blobs, "bundle", digest)
    with pytest.raises(InvalidRequest, match="SHA-256"):
        addressed_key("bundle", digest)
